"""What holds for every model."""

from __future__ import annotations

import copy
import pickle
import shutil
import sys
import weakref
from pathlib import Path

import anndata
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from scipy import sparse

import scssl
from scssl._errors import BundleError, GeneMismatchError, ScsslWarning

from .conftest import HISTORY, TRAIN, make_counts


def test_embedding(trained, adata):
    z = trained.get_latent_representation()
    assert z.shape == (adata.n_obs, trained.n_latent)
    assert z.dtype == np.float32
    assert np.isfinite(z).all()
    assert z.std(0).min() > 0


@pytest.mark.parametrize("name", ["MaskedAutoencoder", "SimCLR"])
def test_way_of_an_embedding_is_short(name):
    model_class = scssl.model.get_model_class(name)
    adata = make_counts()
    model_class.setup_anndata(adata)
    model = model_class(adata, n_latent=4)
    model.is_trained_ = True
    house, passed = str(Path(scssl.__file__).parent), set()

    def see(frame, event, argument):
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(house) and code.co_name[0] != "<":
            passed.add(code.co_filename)

    before = sys.getprofile()
    sys.setprofile(see)
    try:
        model.get_latent_representation()
    finally:
        sys.setprofile(before)
    assert 8 < len(passed) <= 14


def test_deterministic_embedding(trained):
    z = trained.get_latent_representation()
    torch.manual_seed(5)
    np.testing.assert_array_equal(trained.get_latent_representation(), z)


def test_same_seed_same_bits(build):
    def run(seed):
        model = build(make_counts(), rng=seed)
        model.train(**TRAIN, rng=seed)
        return model.get_latent_representation(), model.history["validation_loss"].to_numpy()

    (z, loss), (again, loss_again), (other, _) = run(3), run(3), run(4)
    np.testing.assert_array_equal(z, again)
    np.testing.assert_array_equal(loss, loss_again)
    assert not np.array_equal(z, other)


def test_initial_weights_are_of_the_seed(build):
    first, again, other = (build(make_counts(), rng=seed).encoder_hash for seed in (3, 3, 4))
    assert first == again
    assert first != other


def test_training_leaves_the_users_random_state(build, adata):
    model = build(adata)
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002
    expected = torch.rand(3)
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    torch.manual_seed(1)
    model.train(**TRAIN)
    assert torch.equal(torch.rand(3), expected)
    np.testing.assert_array_equal(np.random.get_state()[1], state)  # noqa: NPY002


@pytest.mark.parametrize("batch_size", [1, 7, 64, 1000])
def test_embedding_does_not_depend_on_the_batch_size(trained, batch_size):
    z = trained.get_latent_representation()
    np.testing.assert_array_equal(trained.get_latent_representation(batch_size=batch_size), z)


def test_indices(trained, adata):
    z = trained.get_latent_representation()
    mask = np.zeros(adata.n_obs, dtype=bool)
    mask[[2, 9]] = True
    for indices, rows in (
        ([9, 2, 2], [9, 2, 2]),
        ([-1], [adata.n_obs - 1]),
        (mask, [2, 9]),
        (["cell9", "cell2"], [9, 2]),
        ([], []),
    ):
        np.testing.assert_array_equal(trained.get_latent_representation(indices=indices), z[rows])
    with pytest.raises(IndexError, match="has 150, but `adata` has 150 cells"):
        trained.get_latent_representation(indices=[150])
    with pytest.raises(KeyError, match="nobody"):
        trained.get_latent_representation(indices=["nobody"])
    with pytest.raises(ValueError, match=r"mask has 150 values here"):
        trained.get_latent_representation(indices=mask[:3])
    with pytest.raises(ValueError, match=r"a list of cells, found shape \(1, 2\)"):
        trained.get_latent_representation(indices=[[0, 1]])


def test_gene_order_makes_no_difference(trained, adata):
    z = trained.get_latent_representation()
    order = np.random.default_rng(0).permutation(adata.n_vars)
    np.testing.assert_array_equal(trained.get_latent_representation(adata[:, order].copy()), z)


def test_extra_genes_make_no_difference(trained, adata):
    more = make_counts(n_genes=80, seed=1)
    more.X = sparse.hstack([adata.X, more.X[:, 60:]]).tocsr()
    np.testing.assert_array_equal(
        trained.get_latent_representation(more), trained.get_latent_representation()
    )


def test_missing_genes_are_zero(trained, adata):
    fewer = adata[:, 5:].copy()
    zeroed = adata.copy()
    zeroed.X.data[zeroed.X.indices < 5] = 0
    np.testing.assert_array_equal(
        trained.get_latent_representation(fewer), trained.get_latent_representation(zeroed)
    )


def test_missing_genes_are_reported(trained, adata, caplog):
    with caplog.at_level("INFO", logger="scssl"):
        trained.get_latent_representation(adata[:, 5:].copy())
    assert "5" in caplog.text
    assert "GENE0" in caplog.text


def test_foreign_genes_are_refused(trained, adata):
    adata.var_names = [f"ENSG{i:011d}" for i in range(adata.n_vars)]
    with pytest.raises(GeneMismatchError, match=r"(?s)GENE0.*ENSG00000000000|ENSG.*GENE"):
        trained.get_latent_representation(adata.copy())


@pytest.mark.parametrize(
    "store",
    [
        sparse.csr_array,
        sparse.csc_matrix,
        lambda x: x.toarray(),
        lambda x: np.asfortranarray(x.toarray()),
        lambda x: x.astype(np.int32),
        lambda x: x.toarray().astype(np.float16),
    ],
    ids=["csr_array", "csc", "dense", "fortran", "int32", "float16"],
)
def test_storage_makes_no_difference(trained, adata, store):
    other = anndata.AnnData(store(adata.X), obs=adata.obs, var=adata.var, obsm=adata.obsm)
    np.testing.assert_array_equal(
        trained.get_latent_representation(other), trained.get_latent_representation()
    )


def as_int64_indices(x):
    x = x.copy()
    x.indices, x.indptr = x.indices.astype(np.int64), x.indptr.astype(np.int64)
    return x


def as_dask(x):
    return pytest.importorskip("dask.array").from_array(x.toarray(), chunks=(40, 30))


@pytest.mark.parametrize(
    "store",
    [
        lambda x: x.toarray(),
        sparse.csc_matrix,
        as_int64_indices,
        lambda x: x.toarray().astype(np.float16),
        as_dask,
    ],
    ids=["dense", "csc", "int64", "float16", "dask"],
)
def test_training_on_other_storage_gives_the_same_bits(build, store):
    def run(x):
        like = make_counts()
        model = build(anndata.AnnData(x, obs=like.obs, obsm=like.obsm))
        model.train(**TRAIN)
        return model.get_latent_representation()

    x = make_counts().X
    np.testing.assert_array_equal(run(x), run(store(x)))


def test_backed(trained, adata, tmp_path):
    adata.write_h5ad(tmp_path / "cells.h5ad")
    backed = anndata.read_h5ad(tmp_path / "cells.h5ad", backed="r")
    z = trained.get_latent_representation()
    np.testing.assert_array_equal(trained.get_latent_representation(backed), z)
    rows = [5, 3, 1]
    np.testing.assert_array_equal(trained.get_latent_representation(backed, indices=rows), z[rows])
    backed.file.close()


def test_training_on_a_file(build, tmp_path):
    make_counts().write_h5ad(tmp_path / "cells.h5ad")
    backed = anndata.read_h5ad(tmp_path / "cells.h5ad", backed="r")
    on_disk, in_memory = build(backed), build(make_counts())
    for model in (on_disk, in_memory):
        model.train(**TRAIN)
    np.testing.assert_array_equal(
        on_disk.get_latent_representation(), in_memory.get_latent_representation()
    )
    backed.file.close()


def test_views_are_read_without_becoming_copies(trained, adata):
    z = trained.get_latent_representation()
    view = adata[10:20]
    expected = z[10:20]
    if trained.module.context is not None:
        # Cells that see each other see fewer of them.
        expected = trained.get_latent_representation(adata[10:20].copy())
    np.testing.assert_array_equal(trained.get_latent_representation(view), expected)
    assert view.is_view


def test_user_data_stay_as_they_are(build, adata):
    before = adata.copy()
    model = build(adata, setup={"labels_key": "cell_type", "batch_key": "batch", "layer": None})
    model.train(**TRAIN)
    model.get_latent_representation()
    assert (adata.X != before.X).nnz == 0
    assert adata.X.dtype == before.X.dtype
    assert set(adata.obs) - set(before.obs) == {"_scvi_batch", "_scvi_labels"}
    assert set(adata.obsm) == set(before.obsm)
    assert set(adata.var) == set(before.var)
    assert set(adata.uns) == {"_scvi_uuid", "_scvi_manager_uuid", "scssl_split"}
    for column in before.obs:
        assert (adata.obs[column] == before.obs[column]).all()


def test_fortran_order_is_not_rewritten(build, adata):
    dense = anndata.AnnData(
        np.asfortranarray(adata.X.toarray()), obs=adata.obs, var=adata.var, obsm=adata.obsm
    )
    build(dense)
    assert dense.X.flags.f_contiguous


def test_split(trained, adata):
    split = adata.uns["scssl_split"]
    train, validation = split["train"], split["validation"]
    assert sorted([*train, *validation]) == list(range(adata.n_obs))
    assert len(validation) == 15
    assert adata.obs["cell_type"].iloc[validation].value_counts().tolist() == [5, 5, 5]
    np.testing.assert_array_equal(trained.validation_indices_, validation)


def test_history(trained):
    history = trained.history
    expected = {
        "train_loss",
        "validation_loss",
        "effective_rank",
        "latent_std",
        "lr",
        "cells_per_second",
    }
    assert set(history) == expected | HISTORY.get(type(trained).__name__, set())
    for name, frame in history.items():
        assert frame.columns.tolist() == [name]
        assert frame.index.tolist() == [0, 1]
        assert frame.index.name == "epoch"
        assert np.isfinite(frame.to_numpy()).all()
    assert (history["cells_per_second"] > 0).all().all()


def test_training_improves_the_loss(build):
    model = build(make_counts(n_cells=300))
    if not model.module.loss_ranks_epochs:
        pytest.skip("the target of its loss moves; tests/model/joint_embedding has its own")
    model.train(max_epochs=15, batch_size=32, progress=False)
    loss = model.history["validation_loss"]["validation_loss"]
    assert loss.min() < 0.9 * loss.iloc[0]


def test_training_again_goes_on(trained):
    z = trained.get_latent_representation()
    trained.train(**TRAIN)
    assert trained.history["train_loss"].index.tolist() == [0, 1, 2, 3]
    assert not np.array_equal(trained.get_latent_representation(), z)


def test_without_validation(build, adata):
    model = build(adata)
    model.train(**TRAIN, train_size=1.0)
    assert "validation_loss" not in model.history
    assert len(adata.uns["scssl_split"]["validation"]) == 0
    assert model.get_latent_representation().shape[0] == adata.n_obs


def test_repr(build, adata):
    model = build(adata)
    name = type(model).__name__
    assert name in repr(model)
    assert "60" in repr(model)
    assert "input counts" in repr(model)
    assert "not trained" in repr(model)
    model.train(**TRAIN)
    assert "trained: 2 epochs on 150 cells" in repr(model)


def test_untrained_warns(build, adata):
    model = build(adata)
    with pytest.warns(ScsslWarning, match="not trained"):
        model.get_latent_representation()


def test_untrained_has_new_weights(trained, adata):
    new = trained.untrained(1)
    assert not new.is_trained_ and new.genes == trained.genes and new.setup == trained.setup
    assert new.n_trainable == trained.n_trainable > 0
    assert new.encoder_hash == trained.untrained(1).encoder_hash
    assert len({model.encoder_hash for model in (new, trained, trained.untrained(2))}) == 3
    with pytest.warns(ScsslWarning, match="not trained"):
        z = new.get_latent_representation(adata)
    assert z.shape == (adata.n_obs, trained.n_latent)


def test_save_and_load(trained, adata, tmp_path):
    trained.save(tmp_path / "model")
    assert sorted(p.name for p in (tmp_path / "model").iterdir()) == [
        "config.json",
        "genes.json",
        "model.safetensors",
    ]
    z = trained.get_latent_representation()
    loaded = type(trained).load(tmp_path / "model")
    np.testing.assert_array_equal(loaded.get_latent_representation(adata), z)
    assert repr(loaded) == repr(trained)
    assert loaded.genes == trained.genes
    for name, frame in trained.history.items():
        np.testing.assert_array_equal(loaded.history[name], frame)
    # What is saved again is the same.
    loaded.save(tmp_path / "again")
    again = scssl.model.SSLModel.load(tmp_path / "again")
    assert type(again) is type(trained)
    np.testing.assert_array_equal(again.get_latent_representation(adata), z)


def test_hash_of_the_encoder(trained, adata, tmp_path):
    """It changes with every tensor that changes embeddings, and with no other."""
    told = trained.encoder_hash
    trained.save(tmp_path / "model")
    assert type(trained).load(tmp_path / "model").encoder_hash == told
    z = trained.get_latent_representation()
    for name, value in trained.module.state_dict().items():
        before = value.clone()
        value.add_(1).mul_(2)
        moved = not np.array_equal(trained.get_latent_representation(), z)
        assert (trained.encoder_hash != told) == moved, name
        value.copy_(before)
    assert trained.encoder_hash == told


def test_load_with_data(trained, adata, tmp_path):
    trained.save(tmp_path / "model", save_anndata=True)
    other = anndata.read_h5ad(tmp_path / "model" / "adata.h5ad")
    loaded = type(trained).load(tmp_path / "model", other)
    z = loaded.get_latent_representation()
    np.testing.assert_array_equal(z, trained.get_latent_representation())
    loaded.train(**TRAIN)
    assert loaded.history["train_loss"].index.tolist() == [0, 1, 2, 3]


class Fails(Callback):
    """Training fails after a step of some epoch."""

    def __init__(self, epoch):
        self.epoch = epoch

    def on_train_batch_end(self, trainer, *_):
        if trainer.current_epoch == self.epoch:
            raise RuntimeError("something else went wrong")


def state_of(model):
    left = {name: value for name, value in vars(model).items() if name not in ("module", "_adata")}
    tensors = {name: value.clone() for name, value in model.module.state_dict().items()}
    frozen = [one.requires_grad for one in model.module.parameters()]
    return left, tensors, frozen, model.module.training, model.adata.uns.get("scssl_split")


def assert_as_before(model, before):
    left, tensors, *others = state_of(model)
    assert all(left[name] is value for name, value in before[0].items())
    assert tensors.keys() == before[1].keys()
    assert all(torch.equal(value, before[1][name]) for name, value in tensors.items())
    assert others[:2] == list(before[2:4])
    assert others[2] is before[4]
    assert all(one.grad is None for one in model.module.parameters())


def test_training_that_fails_is_undone(build, trained):
    model = build(make_counts(), setup={"labels_key": "cell_type"})
    before = state_of(model)
    with pytest.raises(RuntimeError, match="something else"):
        model.train(**TRAIN, callbacks=[Fails(1)])
    assert_as_before(model, before)
    model.train(**TRAIN)
    for name, value in model.module.state_dict().items():
        assert torch.equal(value, trained.module.state_dict()[name]), name
    before = state_of(trained)
    with pytest.raises(RuntimeError, match="something else"):
        trained.train(**TRAIN, callbacks=[Fails(0)])
    assert_as_before(trained, before)


def test_saving_with_data_is_done_as_a_whole(trained, tmp_path, monkeypatch):
    path = tmp_path / "model"

    def fill_disk(self, file, **_):
        file.write_bytes(b"half of")
        raise OSError("No space left on device")

    def fails():
        with monkeypatch.context() as patch:
            patch.setattr(anndata.AnnData, "write_h5ad", fill_disk)
            with pytest.raises(OSError, match="No space left"):
                trained.save(path, overwrite=True, save_anndata=True)

    fails()
    assert not list(tmp_path.iterdir())
    trained.save(path, save_anndata=True)
    (path / "notes.txt").write_text("mine")
    before = {file.name: file.read_bytes() for file in path.iterdir()}
    trained.is_trained_ = False
    fails()
    assert {file.name: file.read_bytes() for file in path.iterdir()} == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"]
    trained.adata.uns["unwritable"] = object()
    with pytest.raises(Exception, match="unwritable"):
        trained.save(path, overwrite=True, save_anndata=True)
    del trained.adata.uns["unwritable"]
    trained.save(path, overwrite=True, save_anndata=True)
    assert not type(trained).load(path, anndata.read_h5ad(path / "adata.h5ad")).is_trained_
    assert (path / "notes.txt").read_text() == "mine"


def test_data_and_models_are_not_held_in_memory(build, model_class, tmp_path):
    def in_a_loop(i):
        adata = make_counts(n_cells=40, seed=i)
        model = build(adata)
        with pytest.warns(ScsslWarning, match="not trained"):
            scssl.tl.embed(adata, model)
        model.save(tmp_path / f"{i}")
        loaded = model_class.load(tmp_path / f"{i}", adata.copy())
        return [weakref.ref(one) for one in (adata, model, loaded, loaded.adata)]

    stores = (model_class._setup_adata_manager_store, model_class._per_instance_manager_store)
    known = [set(store) for store in stores]
    n_rounds = 30 if model_class is scssl.model.MaskedAutoencoder else 2
    left = [one for i in range(n_rounds) for one in in_a_loop(i)]
    assert not any(one() is not None for one in left)
    assert not any(set(store) - old for store, old in zip(stores, known, strict=True))


def test_a_copy_of_a_model_knows_its_own_data(trained):
    for made in (copy.deepcopy(trained), pickle.loads(pickle.dumps(trained))):
        assert made.adata is not trained.adata
        assert made.adata_manager.adata is made.adata
    assert trained.adata_manager.adata is trained.adata


def test_loaded_without_data(trained, tmp_path):
    trained.save(tmp_path / "model")
    loaded = type(trained).load(tmp_path / "model")
    with pytest.raises(ValueError, match=r"loaded without an AnnData.*`model.attach\(adata\)`"):
        loaded.get_latent_representation()
    with pytest.raises(ValueError, match=r"loaded without an AnnData.*`model.attach\(adata\)`"):
        loaded.train()


def test_existing_folder_is_kept(trained, tmp_path):
    trained.save(tmp_path / "model")
    with pytest.raises(ValueError, match="overwrite=True"):
        trained.save(tmp_path / "model")
    trained.save(tmp_path / "model", overwrite=True)


def test_another_class_is_refused(trained, tmp_path):
    trained.save(tmp_path / "model")
    other = type("OtherModel", (scssl.model.SSLModel,), {"_train_defaults": None})
    with pytest.raises(BundleError, match=f"holds a {type(trained).__name__}, not a OtherModel"):
        other.load(tmp_path / "model")


def test_foreign_folder_is_refused(trained, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.pt").write_bytes(b"pickle")
    with pytest.raises(BundleError, match=r"model\.pt"):
        type(trained).load(tmp_path / "model")
    with pytest.raises(BundleError):
        type(trained).load(tmp_path / "nothing")


def test_architecture_that_does_not_fit_is_refused(trained, tmp_path):
    from scssl.hub import read_bundle, write_bundle

    trained.save(tmp_path / "model")
    bundle = read_bundle(tmp_path / "model")
    tensors = {name: t for i, (name, t) in enumerate(bundle.tensors.items()) if i}
    write_bundle(tmp_path / "cut", tensors=tensors, config=bundle.config, genes=bundle.genes)
    with pytest.raises(BundleError, match="does not fit the model it says it holds"):
        type(trained).load(tmp_path / "cut")


def test_scvi_tools_surface(trained, adata):
    assert trained.is_trained
    assert trained.adata is adata
    assert trained.registry["model_name"] == type(trained).__name__
    assert trained.summary_stats["n_vars"] == adata.n_vars
    trained.to_device("cpu")
    assert str(trained.device) == "cpu"


class _Crash(Callback):
    """The machine goes down in the third epoch; what was written at the end of the second is kept."""

    def __init__(self, folder, kept):
        self.folder, self.kept = folder, kept

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.current_epoch == 2 and batch_idx == 0:
            shutil.copytree(self.folder, self.kept)
        if trainer.current_epoch == 2 and batch_idx == 1:
            raise RuntimeError("the machine went down")


def test_resumed_run_equals_the_straight_one(build, tmp_path):
    """From the end of an epoch, and from the middle of one."""
    options = {**TRAIN, "max_epochs": 4}
    straight, stopped = build(make_counts()), build(make_counts())
    straight.train(**options)
    within, at_end = tmp_path / "within", tmp_path / "at_end"
    crash = _Crash(within, at_end)
    with pytest.raises(RuntimeError, match="went down"):
        stopped.train(**options, checkpoint_dir=within, checkpoint_every=1, callbacks=[crash])
    for folder in (at_end, within):
        resumed = build(make_counts())
        resumed.train(**options, resume_from=folder)
        assert straight.history.keys() == resumed.history.keys()
        for name, values in straight.history.items():
            assert name == "cells_per_second" or values.equals(resumed.history[name]), name
        for name, value in straight.module.state_dict().items():
            assert torch.equal(value, resumed.module.state_dict()[name]), name
