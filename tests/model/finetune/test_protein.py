"""Protein predictor: what the contract of all models does not say."""

from __future__ import annotations

from functools import partial

import anndata
import mudata
import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.decomposition import PCA
from sklearn.linear_model import RidgeCV

import scssl
from scssl._errors import BundleError, GeneMismatchError, ScsslWarning
from scssl.hub import read_bundle, write_bundle
from scssl.model.finetune._protein import _PENALTIES

from ..conftest import TRAIN, arguments_of, make_counts, make_proteins

SMALL = {"hidden_dims": (32, 16), "n_latent": 8}
MODEL = scssl.model.ProteinPredictor
FIT = {"progress": False, "max_epochs": 10}
NAMES = ["CD3", "CD4", "CD8", "CD19"]


def add_proteins(adata):
    """Proteins as an array, with their names beside it."""
    adata.obsm["protein"] = make_proteins(adata).to_numpy()
    adata.uns["protein_names"] = NAMES
    return adata


@pytest.fixture(scope="module")
def source():
    adata = make_counts(n_cells=300)
    scssl.model.MaskedAutoencoder.setup_anndata(adata)
    model = scssl.model.MaskedAutoencoder(adata, **SMALL)
    model.train(max_epochs=20, batch_size=32, progress=False)
    return model


@pytest.fixture
def adata():
    return add_proteins(make_counts())


def finetuned(source, adata, train=FIT, **kwargs):
    model = MODEL.from_ssl_model(source, adata, **kwargs)
    model.train(**train)
    return model


def mean_pearson(predicted, measured):
    return np.mean([np.corrcoef(predicted[:, j], measured[:, j])[0, 1] for j in range(4)])


@pytest.mark.parametrize(
    "kwargs",
    [{}, {"head": "linear"}, {"n_components": 0}, {"freeze": "encoder"}, {"transform": "clr"}],
)
def test_learns_proteins(source, adata, kwargs):
    test = np.arange(150) % 10 < 3
    hidden = adata.copy()
    hidden.obsm["protein"] = np.where(test[:, None], np.nan, hidden.obsm["protein"])
    model = finetuned(source, hidden, **kwargs)
    assert "on 105 cells" in repr(model)
    predicted = model.predict(indices=test)
    assert predicted.columns.tolist() == NAMES
    assert predicted.index.equals(adata.obs_names[test])
    measured = model.get_proteins(adata)[test]
    assert mean_pearson(predicted.to_numpy(), measured.to_numpy()) > 0.75
    # In the units of the transformed values.
    assert np.abs(predicted.mean() - measured.mean()).max() < 0.3
    assert model.history["validation_pearson"].iloc[-1, 0] > 0.5


def test_transforms(adata):
    counts = adata.obsm["protein"].astype(float)
    counts[3, 1] = np.nan
    logs = np.log1p(counts)
    for transform, expected in (
        ("auto", logs),
        ("log1p", logs),
        ("clr", logs - np.nanmean(logs, axis=1, keepdims=True)),
        (None, counts),
    ):
        adata.obsm["protein"] = counts
        MODEL.setup_anndata(adata)
        model = MODEL(adata, transform=transform, **arguments_of(MODEL))
        np.testing.assert_allclose(model.get_proteins(), expected)
    adata.obsm["protein"] = counts - 0.5
    MODEL.setup_anndata(adata)
    assert MODEL(adata, **arguments_of(MODEL))._config()["transform"] is None
    for transform in ("log1p", "clr"):
        with pytest.raises(ValueError, match="has negative values such as -0.5.*transform=None"):
            MODEL(adata, transform=transform, **arguments_of(MODEL))


def test_starts_as_the_ridge_regression(source, adata):
    adata.obsm["protein"] = adata.obsm["protein"].astype(float)
    adata.obsm["protein"][:60, 2] = np.nan
    model = MODEL.from_ssl_model(source, adata, n_components=5)
    model.train(max_epochs=1, lr=1e-12, train_size=1.0, progress=False)
    counts = adata.X.toarray().astype(float)
    x = np.log1p(counts / counts.sum(1, keepdims=True) * model.setup.target_sum)
    parts = (
        source.get_latent_representation(adata),
        PCA(5, svd_solver="full").fit_transform(x),
    )
    z = np.hstack([(p - p.mean(0)) / np.sqrt(p.var(0).sum()) for p in parts])
    z /= np.sqrt(np.square(z).mean(1, keepdims=True))
    y = np.log1p(adata.obsm["protein"])
    predicted = model.predict().to_numpy()
    for j in range(4):
        cells = np.isfinite(y[:, j])
        # Penalties are those of standardised targets.
        target = (y[cells, j] - y[cells, j].mean()) / y[cells, j].std()
        expected = RidgeCV(_PENALTIES).fit(z[cells], target).predict(z)
        expected = expected * y[cells, j].std() + y[cells, j].mean()
        np.testing.assert_allclose(predicted[:, j], expected, atol=2e-3)


def test_missing_entries_are_not_learnt_from(source, adata):
    """Whatever stands beside a missing entry, and in cells without any, changes nothing."""
    values = adata.obsm["protein"].astype(float)
    values[np.random.default_rng(0).random(values.shape) < 0.3] = np.nan
    values[::7] = np.nan
    adata.obsm["protein"] = values
    model = finetuned(source, adata)
    measured = np.flatnonzero(np.isfinite(values).any(1))
    used = np.concatenate([model.train_indices_, model.validation_indices_])
    assert sorted(used) == measured.tolist()
    assert np.isfinite(model.predict()).all().all()
    only = finetuned(source, adata[measured].copy())
    np.testing.assert_array_equal(model.predict().iloc[measured], only.predict())


def test_starts_from_the_source_and_leaves_it_alone(source, adata):
    weights = {name: value.clone() for name, value in source.module.state_dict().items()}
    z = source.get_latent_representation(adata)
    model = MODEL.from_ssl_model(source, adata)
    np.testing.assert_array_equal(model.get_latent_representation(), z)
    components = model.module.components.weight
    model.train(max_epochs=1, progress=False)
    start = components.clone()
    model.train(max_epochs=1, weight_decay=10.0, progress=False)
    assert torch.equal(components, start)
    for name, value in source.module.state_dict().items():
        assert torch.equal(value, weights[name]), name


def test_from_a_classifier(source, adata):
    classifier = scssl.model.CellTypeClassifier.from_ssl_model(source, adata, "cell_type")
    classifier.train(**TRAIN)
    model = MODEL.from_ssl_model(classifier, adata)
    np.testing.assert_array_equal(
        model.get_latent_representation(), classifier.get_latent_representation()
    )


@pytest.mark.parametrize(("after", "kept"), [((0.2, 0.9), True), ((0.2, 0.7), False)])
def test_fine_tuning_is_kept_where_held_out_cells_say_so(
    source, adata, monkeypatch, caplog, after, kept
):
    judgements = iter([after, (0.3, 0.8)])
    monkeypatch.setattr(MODEL, "_judged", lambda *_: next(judgements))
    with caplog.at_level("INFO", logger="scssl"):
        model = finetuned(source, adata, train=TRAIN)
    assert (model.encoder_hash != source.encoder_hash) == kept
    assert ("the head is the ridge regression of 150 cells" in caplog.text) != kept
    assert model.training_["head"] == ("fine-tuned" if kept else "ridge regression")


def test_held_out_cells_judge_a_predictor(source, adata):
    values = adata.obsm["protein"].astype(float)
    values[::3, 0] = np.nan
    adata.obsm["protein"] = values
    model = finetuned(source, adata, train={**FIT, "lr": 10.0})
    assert model.training_["head"] == "ridge regression"
    rows = model.validation_indices_
    loss, r = model._judged(model._training_data(), rows)
    predicted, measured = model.predict().iloc[rows], model.get_proteins().iloc[rows]
    error = (predicted - measured) / model.module.target_scale.numpy()
    assert loss == pytest.approx(np.nanmean(error.to_numpy() ** 2), rel=1e-4)
    assert r == pytest.approx(predicted.corrwith(measured).mean(), rel=1e-4)


def test_few_cells_leave_the_encoder_alone(source, adata):
    values = adata.obsm["protein"].astype(float)
    values[60:] = np.nan
    adata.obsm["protein"] = values
    model = finetuned(source, adata, train={"progress": False})
    assert model.encoder_hash == source.encoder_hash
    assert model.training_["head"] == "ridge regression"
    assert finetuned(source, adata, train=TRAIN).encoder_hash != source.encoder_hash


def test_folder_of_an_earlier_version(source, adata, tmp_path):
    model = finetuned(source, adata, unit_length=False, train=TRAIN)
    model.save(tmp_path / "model")
    bundle = read_bundle(tmp_path / "model")
    del bundle.config["arguments"]["unit_length"]
    write_bundle(tmp_path / "old", tensors=bundle.tensors, config=bundle.config, genes=bundle.genes)
    np.testing.assert_array_equal(MODEL.load(tmp_path / "old").predict(adata), model.predict())


def test_save_and_load(source, adata, tmp_path):
    for i, kwargs in enumerate(({"transform": "clr"}, {"head": "linear", "n_components": 0})):
        model = finetuned(source, adata, **kwargs)
        model.save(tmp_path / f"model{i}")
        loaded = MODEL.load(tmp_path / f"model{i}")
        assert loaded.proteins == NAMES
        assert repr(loaded) == repr(model)
        np.testing.assert_array_equal(loaded.predict(adata), model.predict())
        pd.testing.assert_frame_equal(loaded.get_proteins(adata), model.get_proteins())
        with pytest.raises(ValueError, match="loaded without an AnnData"):
            loaded.get_proteins()
        loaded.attach(adata)
        loaded.train(**TRAIN)
        assert mean_pearson(loaded.predict().to_numpy(), loaded.get_proteins().to_numpy()) > 0.75


@pytest.mark.parametrize(
    "spoil",
    [
        lambda c: c["arguments"]["proteins"].reverse(),
        lambda c: c["arguments"].update(n_components=9),
        lambda c: c["arguments"].update(head="deep"),
    ],
)
def test_nonsense_in_a_folder(source, adata, tmp_path, spoil):
    finetuned(source, adata, train=TRAIN).save(tmp_path / "model")
    bundle = read_bundle(tmp_path / "model")
    config = dict(bundle.config)
    spoil(config)
    write_bundle(tmp_path / "bad", tensors=bundle.tensors, config=config, genes=bundle.genes)
    with pytest.raises(BundleError, match="does not fit"):
        MODEL.load(tmp_path / "bad")


def test_prediction_needs_expression_only(source, adata):
    model = finetuned(source, adata)
    expected = model.predict()
    for batch_size in (1, 7, 1000):
        np.testing.assert_array_equal(model.predict(batch_size=batch_size), expected)
    bare = make_counts()
    np.testing.assert_array_equal(model.predict(bare[:, ::-1].copy()), expected)
    assert model.predict(bare, []).shape == (0, 4)
    with pytest.raises(GeneMismatchError):
        model.predict(bare[:, :10].copy())
    with pytest.raises(KeyError, match=r'no adata.obsm\["protein"\]'):
        model.get_proteins(bare)


def test_untrained_refuses_to_predict(source, adata):
    with pytest.raises(ValueError, match="not trained"):
        MODEL.from_ssl_model(source, adata).predict()


def test_proteins_are_matched_by_name(source, adata):
    model = finetuned(source, adata)
    frame = pd.DataFrame(adata.obsm["protein"], adata.obs_names, NAMES)
    other = adata.copy()
    other.obsm["protein"] = frame[["CD19", "CD8", "CD3"]].assign(CD45=1.0)
    found = model.get_proteins(other)
    assert found.columns.tolist() == NAMES
    assert found["CD4"].isna().all()
    np.testing.assert_allclose(found["CD8"], np.log1p(frame["CD8"]))
    other.obsm["protein"] = frame[["CD3"]].rename(columns={"CD3": "x"})
    with pytest.raises(ValueError, match="none match"):
        model.get_proteins(other)


def test_proteins_without_names_are_not_matched_by_position(source, adata, tmp_path):
    names = adata.uns.pop("protein_names")
    model = finetuned(source, adata, protein_names=names)
    own = model.get_proteins()
    other = adata.copy()
    other.obsm["protein"] = other.obsm["protein"][:, ::-1]
    model.save(tmp_path / "model")
    loaded = MODEL.load(tmp_path / "model", other)
    for run in (partial(model.get_proteins, other), loaded.get_proteins, partial(loaded.train, 1)):
        with pytest.raises(
            ValueError, match=r'no names.*`adata.uns\["protein_names"\] = model.proteins`'
        ):
            run()
    other.uns["protein_names"] = names[::-1]
    pd.testing.assert_frame_equal(model.get_proteins(other), own)
    pd.testing.assert_frame_equal(loaded.get_proteins(), own)


def test_transforms_of_what_is_transformed_already(source, adata, recwarn):
    logs = adata.copy()
    logs.obsm["protein"] = np.log1p(logs.obsm["protein"])
    for transform in ("log1p", "clr"):
        with pytest.warns(
            ScsslWarning, match=f"transform='{transform}' is for counts, but .* fractions"
        ):
            MODEL.from_ssl_model(source, logs.copy(), transform=transform)
    model = finetuned(source, adata)
    recwarn.clear()
    model.get_proteins()
    assert not recwarn
    # Once for every data set, not again in training.
    with pytest.warns(ScsslWarning, match="of 600 values .* are fractions"):
        model.get_proteins(logs)
    recwarn.clear()
    MODEL.from_ssl_model(source, logs.copy()).train(**TRAIN)
    assert not [one for one in recwarn if issubclass(one.category, ScsslWarning)]


def test_frames_and_names(source, adata):
    by_array = finetuned(source, adata.copy()).predict()
    frame = pd.DataFrame(adata.obsm["protein"], adata.obs_names, NAMES)
    del adata.uns["protein_names"]
    named = finetuned(source, adata, protein_names=list("abcd"))
    np.testing.assert_array_equal(named.predict(), by_array)
    assert named.proteins == list("abcd")
    adata.obsm["adt"] = frame
    np.testing.assert_array_equal(finetuned(source, adata, protein_obsm="adt").predict(), by_array)
    some = finetuned(source, adata, protein_obsm="adt", protein_names=["CD8", "CD3"])
    assert some.predict().columns.tolist() == ["CD8", "CD3"]


@pytest.mark.filterwarnings("ignore:The inplace keyword in DataFrame:DeprecationWarning")
def test_mudata(source, adata):
    expected = finetuned(source, adata.copy()).predict()
    proteins = anndata.AnnData(
        adata.obsm["protein"], obs=adata.obs[[]], var=pd.DataFrame(index=NAMES)
    )
    rna = make_counts()
    data = mudata.MuData({"rna": rna, "prot": proteins[::-1].copy()})
    model = finetuned(source, data)
    np.testing.assert_array_equal(model.predict(), expected)
    assert "protein" not in rna.obsm
    assert "_scvi_uuid" not in rna.uns
    # Cells that only one of them has.
    data = mudata.MuData({"gex": make_counts(), "adt": proteins[30:].copy()})
    model = finetuned(source, data, rna_modality="gex", protein_modality="adt")
    used = np.concatenate([model.train_indices_, model.validation_indices_])
    assert sorted(used) == list(range(30, 150))
    with pytest.raises(KeyError, match="no modality 'rna'; there are: 'gex', 'adt'"):
        MODEL.from_ssl_model(source, data)
    proteins.obs_names = [f"x{name}" for name in proteins.obs_names]
    with pytest.raises(ValueError, match="their names differ"):
        MODEL.from_ssl_model(source, mudata.MuData({"rna": make_counts(), "prot": proteins}))


@pytest.mark.filterwarnings("ignore:The inplace keyword in DataFrame:DeprecationWarning")
def test_a_model_of_a_mudata_takes_a_mudata(source, adata, tmp_path):
    frame = pd.DataFrame(adata.obsm["protein"], adata.obs_names, NAMES)
    proteins = anndata.AnnData(frame.iloc[::-1][NAMES[::-1]].astype(np.float32))
    data = mudata.MuData({"gex": make_counts(), "adt": proteins[:120].copy()})
    model = MODEL.from_ssl_model(source, data, rna_modality="gex", protein_modality="adt")
    model.train(**FIT)
    expected, measured = model.predict(), model.get_proteins()
    np.testing.assert_allclose(measured[30:], np.log1p(frame)[30:][NAMES[::-1]], rtol=1e-6)
    assert measured[:30].isna().all().all()
    model.save(tmp_path / "model")
    loaded = MODEL.load(tmp_path / "model")
    for one in (model, loaded):
        pd.testing.assert_frame_equal(one.predict(data), expected)
        pd.testing.assert_frame_equal(one.predict(data, ["cell7"]), expected.loc[["cell7"]])
        pd.testing.assert_frame_equal(one.predict(data["gex"]), expected)
        pd.testing.assert_frame_equal(one.get_proteins(data), measured)
        np.testing.assert_array_equal(
            one.get_latent_representation(data), model.get_latent_representation()
        )
        assert one.align(data).n_matched == 60
    with pytest.raises(KeyError, match="no modality 'adt'; there are: 'gex'.*mudata.MuData"):
        loaded.get_proteins(mudata.MuData({"gex": make_counts()}))
    loaded.attach(data)
    pd.testing.assert_frame_equal(loaded.get_proteins(), measured)
    loaded.train(**TRAIN)


@pytest.mark.filterwarnings("ignore:The inplace keyword in DataFrame:DeprecationWarning")
def test_a_model_of_an_anndata_says_how_to_pass_a_mudata(source, adata):
    model = finetuned(source, adata, train=TRAIN)
    data = mudata.MuData({"rna": make_counts()})
    for method in (model.predict, model.get_latent_representation, model.get_proteins):
        with pytest.raises(TypeError, match=r"of an AnnData.*adata=mdata\['rna'\]"):
            method(data)


@pytest.mark.filterwarnings("ignore:The inplace keyword in DataFrame:DeprecationWarning")
def test_cells_of_a_mudata_are_not_embedded_out_of_order(source, adata):
    """A MuData has cells that its RNA has not, or in another order: no place for its embedding."""
    frame = pd.DataFrame(adata.obsm["protein"], adata.obs_names, NAMES)
    proteins = anndata.AnnData(frame.iloc[::-1].astype(np.float32))
    data = mudata.MuData({"prot": proteins, "rna": make_counts()})
    model = finetuned(source, data, train=TRAIN)
    with pytest.raises(TypeError, match=r"scssl.tl.embed\(mdata\['rna'\], model\)"):
        scssl.tl.embed(data, model)
    scssl.tl.embed(data["rna"], model)
    assert data["rna"].obsm["X_ssl"].shape == (150, model.n_latent)


def test_resumed_run_is_the_straight_run(source, tmp_path):
    def start():
        return MODEL.from_ssl_model(source, add_proteins(make_counts()))

    straight, first, second = start(), start(), start()
    fit = {"batch_size": 32, "progress": False}
    straight.train(4, **fit)
    first.train(2, **fit, checkpoint_dir=tmp_path)
    second.train(4, **fit, resume_from=tmp_path)
    np.testing.assert_array_equal(second.predict(), straight.predict())


def test_proteins_that_cannot_be_learnt(adata):
    values = adata.obsm["protein"].astype(float)
    del adata.uns["protein_names"]
    with pytest.raises(ValueError, match=r"have no names.*`adata.uns\[.protein_names.\] = "):
        MODEL.setup_anndata(adata)
    with pytest.raises(ValueError, match=r"has shape \(150, 4\), but there are 2 protein names"):
        MODEL.setup_anndata(adata, protein_names=["a", "b"])
    with pytest.raises(ValueError, match="must be unique; 'a'"):
        MODEL.setup_anndata(adata, protein_names=["a", "b", "a", "c"])
    with pytest.raises(KeyError, match=r"no adata.obsm\[.adt.\]; there are: .*protein"):
        MODEL.setup_anndata(adata, protein_obsm="adt")
    broken = values.copy()
    broken[4, 1] = np.inf
    adata.obsm["protein"] = broken
    with pytest.raises(ValueError, match="infinite values, the first in cell 'cell4', protein 'b'"):
        MODEL.setup_anndata(adata, protein_names=list("abcd"))
    broken = values.copy()
    broken[1:, 2] = np.nan
    adata.obsm["protein"] = broken
    with pytest.raises(ValueError, match="fewer than 2 cells .* such as 'c'"):
        MODEL.setup_anndata(adata, protein_names=list("abcd"))


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"head": "deep"}, "`head` must be 'linear' or 'mlp'"),
        ({"transform": "sqrt"}, "`transform` must be 'auto', 'log1p', 'clr' or None"),
        ({"n_components": -1}, "`n_components` must be"),
        ({"n_components": 2.5}, "`n_components` must be"),
        ({"freeze": 9}, "`freeze` must be"),
        ({"head_start": "lasso"}, "`head_start` must be"),
    ],
)
def test_bad_arguments(adata, kwargs, message):
    MODEL.setup_anndata(adata)
    with pytest.raises(ValueError, match=message):
        MODEL(adata, **kwargs)


@pytest.mark.realdata
@pytest.mark.slow
@pytest.mark.parametrize(("name", "ridge"), [("cbmc_cite", 0.773), ("pbmc_cite_2batch_400", 0.617)])
def test_at_least_ridge_on_pca(data_file, name, ridge):
    """Held-out cells, mean Pearson per protein; the ridge value is that of the manifest."""
    adata = anndata.read_h5ad(data_file(f"{name}.h5ad"))
    if "cell_type" in adata.obs:
        adata = adata[~adata.obs["cell_type"].isin(["Mouse", "Unknown"])].copy()
    adata.obsm["protein"] = np.asarray(adata.obsm["protein"], dtype=float)
    measured = adata.copy()
    test = np.arange(adata.n_obs) % 5 == 0
    adata.obsm["protein"][test] = np.nan
    scssl.model.MaskedAutoencoder.setup_anndata(adata)
    source = scssl.model.MaskedAutoencoder(adata)
    source.train(progress=False)
    model = MODEL.from_ssl_model(source, adata)
    model.train(progress=False)
    measured.obsm["predicted"] = model.predict()
    measured.obsm["measured"] = model.get_proteins(measured)
    scores = scssl.tl.modality_scores(measured, "measured", "predicted", indices=test)
    assert scores.loc[0, "pearson_per_feature"] > ridge
