"""Models that are trained on a store."""

from __future__ import annotations

import json
import shutil

import anndata
import numpy as np
import pytest
import torch

import scssl
from scssl._errors import BundleError
from scssl.data import Store, build_store, open_rows, read_embedding
from scssl.data.store import _build
from scssl.model.base import StoresMixin, _stores

from .conftest import MODELS, arguments_of, make_counts

pytest.importorskip("annbatch", reason="stores need annbatch, of the extra atlas")

WITH_STORES = [n for n in MODELS if issubclass(scssl.model.get_model_class(n), StoresMixin)]
TRAIN = {"max_epochs": 2, "batch_size": 50, "progress": False}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A store of two inputs in several shards."""
    out = tmp_path_factory.mktemp("store") / "atlas"
    inputs = {"one": make_counts(150), "two": make_counts(180, seed=1)}
    build_store(inputs, out, obs_keys=["cell_type", "batch", "age"])
    return out


@pytest.fixture
def store(folder):
    return Store(folder)


def trained(name, store, **setup):
    cls = scssl.model.get_model_class(name)
    cls.setup_store(store, **setup)
    model = cls(store, **arguments_of(cls))
    model.train(**TRAIN)
    return model


def same_weights(one, other):
    pairs = zip(one.module.state_dict().values(), other.module.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_who_can():
    assert {"MaskedAutoencoder", "SimCLR", "PseudoLabel"} <= set(WITH_STORES)


@pytest.mark.parametrize("name", ["MaskedAutoencoder", "BarlowTwins", "PseudoLabel"])
def test_training_from_disk_is_that_from_memory_in_the_same_order(name, store):
    """To the bit: it is the same order, the same values and the same network."""
    from_disk = trained(name, store, batch_key="dataset")
    in_memory = Store(store.path)
    in_memory.__dict__["rows"] = open_rows(store.rows.read(np.arange(store.n_cells)))
    other = trained(name, in_memory, batch_key="dataset")
    assert same_weights(from_disk, other)
    assert from_disk.history_["train_loss"].equals(other.history_["train_loss"])
    assert (len(from_disk.train_indices_), len(from_disk.validation_indices_)) == (297, 33)
    assert from_disk.training_["n_cells"] == 330


def test_covariates_and_resuming(store, tmp_path):
    columns = {"batch_key": "batch", "continuous_covariate_keys": ["age"]}
    model = trained("MaskedAutoencoder", store, **columns)
    assert model.setup.categories["batch"] == ["a", "b"]
    model.save(tmp_path / "model")
    loaded = scssl.model.MaskedAutoencoder.load(tmp_path / "model", store)
    z = loaded.get_latent_representation()
    assert z.shape == (330, 13)
    assert (z == model.get_latent_representation(store)).all()
    small = arguments_of(scssl.model.MaskedAutoencoder)
    again = scssl.model.MaskedAutoencoder(store, **small)
    part = {**TRAIN, "lr_schedule": "constant"}
    again.train(**{**part, "max_epochs": 1}, checkpoint_dir=tmp_path / "run")
    again = scssl.model.MaskedAutoencoder(store, **small)
    again.train(**part, resume_from=tmp_path / "run")
    straight = scssl.model.MaskedAutoencoder(store, **small)
    straight.train(**part)
    assert same_weights(again, straight)


def test_validation_is_capped(store, monkeypatch):
    monkeypatch.setattr(_stores, "_MOST_HELD_OUT", 10)
    model = trained("MaskedAutoencoder", store)
    assert (len(model.train_indices_), len(model.validation_indices_)) == (320, 10)


def test_embedding(store, tmp_path):
    model, out = trained("MaskedAutoencoder", store), tmp_path / "embedding"
    model.embed_store(store, out, part=(1, 2))
    with pytest.raises(BundleError, match="1 of 1 shards are not embedded yet.*`model.embed_store"):
        read_embedding(out)
    model.embed_store(store, out, part=(0, 2))
    adata = read_embedding(out)
    expected = make_counts(180, seed=1)
    two = read_embedding(out, input="two")
    assert two.obs_names.tolist() == expected.obs_names.tolist()
    assert two.obs["cell_type"].tolist() == expected.obs["cell_type"].tolist()
    assert (two.obsm["X_ssl"] == model.get_latent_representation(expected)).all()
    assert (adata[adata.obs["input"] == "two"].obsm["X_ssl"] == two.obsm["X_ssl"]).all()
    pieces = list(read_embedding(out, pieces=True))
    assert [one.n_obs for one in pieces] == [330]
    assert (pieces[0].obsm["X_ssl"] == model.get_latent_representation()).all()
    with pytest.raises(KeyError, match="no input 'three'"):
        read_embedding(out, input="three")


def test_embedding_goes_on_where_it_was(store, tmp_path, monkeypatch):
    model, out = trained("MaskedAutoencoder", store), tmp_path / "embedding"
    model.embed_store(store, out)
    file = out / "shard_0.h5ad"
    before = file.stat().st_mtime_ns
    model.embed_store(store, out)
    assert file.stat().st_mtime_ns == before
    whole = read_embedding(out).obsm["X_ssl"]
    file.unlink()
    monkeypatch.setattr(model, "_apply", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        model.embed_store(store, out)
    assert not file.exists()
    monkeypatch.undo()
    model.embed_store(store, out)
    assert (read_embedding(out).obsm["X_ssl"] == whole).all()
    with pytest.raises(ValueError, match="embedding of another model .*`out="):
        trained("MaskedAutoencoder", store, batch_key="batch").embed_store(store, out)


def test_what_is_refused(store, tmp_path):
    cls = scssl.model.MaskedAutoencoder
    with pytest.raises(TypeError, match="must be a scssl.data.Store.*`store = scssl.data.Store"):
        cls.setup_store(str(store.path))
    with pytest.raises(KeyError, match="no column 'kind'"):
        cls.setup_store(store, batch_key="kind")
    with pytest.raises(ValueError, match="'age' of the store holds numbers"):
        cls.setup_store(store, batch_key="age")
    with pytest.raises(ValueError, match=r"categorical_covariate_keys=\['batch'\]`"):
        cls.setup_store(store, continuous_covariate_keys=["batch"])
    with pytest.raises(ValueError, match=r"`scssl.model.MaskedAutoencoder.setup_store\(store\)`"):
        cls(Store(store.path))
    model = trained("MaskedAutoencoder", store)
    for part in ((2, 2), 3, (0, 0)):
        with pytest.raises(ValueError, match="`part"):
            model.embed_store(store, tmp_path / "embedding", part=part)
    with pytest.raises(BundleError, match="holds no embedding"):
        read_embedding(tmp_path)


def test_a_store_that_changed_is_refused(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "atlas")
    store = Store(tmp_path / "atlas")
    scssl.model.MaskedAutoencoder.setup_store(store)
    model = scssl.model.MaskedAutoencoder(store, hidden_dims=(8,), n_latent=4)
    build_store({"more": make_counts(30, seed=2)}, store.path, append=True)
    with pytest.raises(
        ValueError, match=r"`store` has changed since setup_store \(cells: 330 then, 360"
    ):
        model.train(**TRAIN)
    manifest = json.loads((store.path / "store.json").read_text())
    (store.path / next(iter(manifest["shards"][0]["files"]))).unlink()
    with pytest.raises(BundleError, match="is damaged"):
        model.train(**TRAIN)


@pytest.fixture(scope="module")
def by_sample(tmp_path_factory):
    """Two inputs, whose cells are next to others of their sample in three shards."""
    inputs = {name: make_counts(120 + 60 * i, seed=i) for i, name in enumerate(("one", "two"))}
    for i, adata in enumerate(inputs.values()):
        adata.obs["donor"] = np.random.default_rng(i).choice(["p", "q", "r"], adata.n_obs)
    out = tmp_path_factory.mktemp("store") / "atlas"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_build, "_SHARD_SHARE", 120)
        keys = {"obs_keys": ["batch", "donor", "cell_type"], "group_key": "donor"}
        build_store(inputs, out, **keys, memory="1MB")
    return out, anndata.concat(inputs, index_unique="-")


@pytest.mark.parametrize("options", [{}, {"context": "random", "context_size": 40}])
def test_cells_see_those_of_their_sample(by_sample, tmp_path, options):
    store, cls = Store(by_sample[0]), scssl.model.CellPLM
    in_memory = Store(store.path)
    in_memory.__dict__["rows"] = open_rows(store.rows.read(np.arange(store.n_cells)))
    models = []
    for one in (store, in_memory):
        cls.setup_store(one, sample_key="donor", batch_key="batch")
        model = cls(one, **arguments_of(cls), cell_dropout=0.2, **options)
        model.train(**TRAIN)
        models.append(model)
    assert same_weights(*models)
    assert models[0].history_["train_loss"].equals(models[1].history_["train_loss"])
    model, donor = models[0], store.column("donor")
    assert len(store.shards) > 2
    # Some cells of each sample are held out.
    held_out = np.asarray(model.validation_indices_)
    assert set(donor[held_out]) == set(donor)
    assert sorted([*held_out, *model.train_indices_]) == list(range(store.n_cells))
    model.embed_store(store, tmp_path)
    embedded = read_embedding(tmp_path)
    z = model.get_latent_representation()
    assert (model.get_latent_representation(indices=[5, 200, 17]) == z[[5, 200, 17]]).all()
    names = embedded.obs["input"].astype(str) + embedded.obs["row"].astype(str)
    order = np.argsort([f"{one}{row}" for one, row in store.obs(None, ["input", "row"]).to_numpy()])
    assert (embedded.obsm["X_ssl"][np.argsort(names)] == z[order]).all()
    if not options:
        # Whole samples, in whatever order: rounding.
        other = model.get_latent_representation(by_sample[1])
        np.testing.assert_allclose(embedded.obsm["X_ssl"], other, atol=1e-5)


def test_samples_are_held_out_and_training_resumes(by_sample, tmp_path):
    store, cls = Store(by_sample[0]), scssl.model.CellPLM
    cls.setup_store(store, sample_key="donor")
    given = {**TRAIN, "lr_schedule": "constant", "hold_out": {"donor": ["q"]}}
    straight, stopped, resumed = (cls(store, **arguments_of(cls)) for _ in range(3))
    straight.train(**given)
    names = store.obs(np.asarray(straight.validation_indices_), ["donor"])["donor"]
    assert set(names) == {"q"}
    stopped.train(**given, max_steps=5, checkpoint_dir=tmp_path, checkpoint_every=2)
    resumed.train(**given, resume_from=tmp_path)
    assert same_weights(straight, resumed)


def test_samples_that_lie_apart_are_refused(store, by_sample):
    cls = scssl.model.CellPLM
    with pytest.raises(ValueError, match=r"built by it alone.*group_key='batch'\)`"):
        cls.setup_store(store, sample_key="batch")
    with pytest.raises(TypeError, match="spatial_key"):
        cls.setup_store(store, spatial_key="place")
    # All cells are one sample, whatever their order is.
    cls.setup_store(store)
    model = cls(store, **arguments_of(cls))
    with pytest.raises(TypeError, match="imputed in cells of an AnnData"):
        model.is_trained_ = True
        model.get_imputed_expression()
    with pytest.raises(AttributeError, match="has no embed_dask. Cells see those"):
        model.embed_dask(make_counts())
    grouped = Store(by_sample[0])
    with pytest.warns(UserWarning, match="next to others of the same 'donor'.*`store = "):
        scssl.model.MaskedAutoencoder.setup_store(grouped)
    cls.setup_store(grouped, sample_key="donor", labels_key="cell_type")
    with pytest.raises(ValueError, match='Pass `objective="reconstruction"`'):
        cls(grouped, **{**arguments_of(cls), "objective": "supcon"})


def test_log_normalised_models_do_not_read_counts(store):
    adata = make_counts()
    adata.X = adata.X.log1p()
    scssl.model.MaskedAutoencoder.setup_anndata(adata, input="lognorm")
    model = scssl.model.MaskedAutoencoder(adata, hidden_dims=(8,), n_latent=4)
    with pytest.raises(ValueError, match="reads log-normalised values, and a store holds counts"):
        model.get_latent_representation(store)
