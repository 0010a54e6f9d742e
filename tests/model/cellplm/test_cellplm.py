"""CellPLM on data: setup, contexts, imputation, transfer."""

from __future__ import annotations

import inspect
import re
import warnings

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from scipy import sparse

from scssl._errors import GeneMismatchError, ScsslWarning
from scssl.data import Datasets
from scssl.data.keys import PANEL
from scssl.hub import read_bundle
from scssl.model import CellPLM, CellTypeClassifier, MaskedAutoencoder

SMALL = {"n_hidden": 16, "n_layers": 1, "n_heads": 2, "n_latent": 6}
TRAIN = {"max_epochs": 1, "batch_size": 32, "progress": False}
TISSUE = {"sample_key": "slice", "spatial_key": "spatial"}


def make(n=90, n_genes=30, seed=0, n_samples=3):
    """Counts of three types of cells, in layers of the tissue of each slice."""
    rng = np.random.default_rng(seed)
    places = rng.uniform(0, 500, (n, 2))
    kind = np.minimum(places[:, 0] // 170, 2).astype(int)
    mean = np.random.default_rng(99).gamma(0.5, 4.0, (3, n_genes))
    counts = rng.poisson(mean[kind]).astype(np.float32)
    counts[np.arange(n), rng.integers(0, n_genes, n)] += 1
    obs = pd.DataFrame(
        {
            "slice": pd.Categorical([f"slice {i}" for i in rng.integers(0, n_samples, n)]),
            "type": pd.Categorical([f"type {k}" for k in kind]),
            "age": rng.normal(50, 10, n),
        },
        index=[f"cell{i}" for i in range(n)],
    )
    var = pd.DataFrame(index=[f"GENE{i}" for i in range(n_genes)])
    adata = anndata.AnnData(sparse.csr_matrix(counts), obs=obs, var=var)
    adata.obsm["spatial"] = places
    return adata


@pytest.fixture
def adata():
    return make()


def build(adata, setup=None, **kwargs):
    CellPLM.setup_anndata(adata, **(TISSUE if setup is None else setup))
    return CellPLM(adata, **{**SMALL, **kwargs})


def embed(model, *args, **kwargs):
    """Embeddings, of a model that may be untrained."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The model is not trained", ScsslWarning)
        return model.get_latent_representation(*args, **kwargs)


# --- setup ----------------------------------------------------------------------------------------


def test_samples_must_be_there_and_complete(adata):
    with pytest.raises(KeyError, match="section"):
        CellPLM.setup_anndata(adata, sample_key="section")
    adata.obs["slice"] = adata.obs["slice"].astype(object)
    adata.obs.iloc[7, adata.obs.columns.get_loc("slice")] = np.nan
    with pytest.raises(
        ValueError, match=r'adata.obs\["slice"\] has 1 missing .*\'cell7\'.*needs one'
    ):
        CellPLM.setup_anndata(adata, sample_key="slice")


def test_slices_that_were_only_named_as_batches_are_warned_of(adata):
    with pytest.warns(ScsslWarning, match=r'3 batches of adata.obs\["slice"\].*sample_key="slice"'):
        CellPLM.setup_anndata(adata, spatial_key="spatial", batch_key="slice")
    for told in ({**TISSUE, "batch_key": "slice"}, {"batch_key": "slice"}):
        CellPLM.setup_anndata(adata, **told)


def test_one_sample_for_each_cell_is_warned_of(adata):
    adata.obs["barcode"] = adata.obs_names
    with pytest.warns(ScsslWarning, match="90 samples for 90 cells"):
        CellPLM.setup_anndata(adata, sample_key="barcode")


def wide(places):
    return np.column_stack([places, places[:, 0]])


def infinite(places):
    places[3, 1] = np.inf
    return places


def half(places):
    places[4, 0] = np.nan
    return places


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (wide, r"found the shape \(90, 3\)\. Take two of them: .*\[:, :2\]"),
        (lambda p: p[:, :1], r"found the shape \(90, 1\)\.$"),
        (infinite, "infinite coordinates"),
        (half, "only one coordinate of 1 cells, such as 'cell4'"),
        (
            lambda p: pd.DataFrame(p, index=[f"cell{i}" for i in range(90)]).astype(str) + "?",
            "must be numbers",
        ),
    ],
)
def test_coordinates_are_checked(adata, change, message):
    adata.obsm["spatial"] = change(adata.obsm["spatial"].copy())
    with pytest.raises(ValueError, match=message):
        CellPLM.setup_anndata(adata, spatial_key="spatial")


def test_absent_coordinates_say_what_to_type(adata):
    with pytest.raises(KeyError, match="no adata.obsm.*xy.*there are: .*spatial.*np.full"):
        CellPLM.setup_anndata(adata, spatial_key="xy")


@pytest.mark.parametrize(
    ("setup", "arguments", "message"),
    [
        ({}, {"position": "sinusoidal"}, "no coordinates were set up. Say where .*spatial_key"),
        ({}, {"context": "tiles"}, "no coordinates were set up. Say where .*spatial_key"),
        ({}, {"spatial_share": 0.5}, "no coordinates were set up"),
        ({}, {"context": "tile"}, "`context` must be '.* or '"),
        ({}, {"attention": "linear"}, "`attention` must be '.* or '"),
        ({}, {"latent": "gm"}, "`latent` must be '.* or '"),
        ({}, {"loss": "poisson"}, "`loss` must be '.* or '"),
        ({}, {"objective": "ce"}, "`objective` must be '.* or '"),
        ({}, {"preset": "cellPLM"}, "`preset` must be"),
        ({}, {"n_heads": 3}, "`n_hidden` must be a multiple"),
        ({}, {"n_hidden": 18}, "`n_hidden` must be a multiple of 4"),
        ({}, {"kl_weight": -1.0}, "`kl_weight` must be a number in .0, inf., found -1.0"),
        ({}, {"mask_rate": 1.0}, "`mask_rate` must be a number"),
        ({}, {"objective": "kl", "latent": "ae"}, "needs a divergence"),
        ({}, {"objective": "supcon"}, "column: .*labels_key"),
    ],
)
def test_arguments_are_checked(adata, setup, arguments, message):
    with pytest.raises(ValueError, match=message):
        build(adata, setup, **arguments)


def test_counts_are_wanted_by_losses_of_counts(adata):
    adata.X = adata.X.log1p()
    CellPLM.setup_anndata(adata, input="lognorm")
    with pytest.raises(ValueError, match='loss="mse"'):
        CellPLM(adata, loss="nb", **SMALL)
    assert CellPLM(adata, **SMALL)._options.loss == "mse"


# --- what a cell is embedded from -----------------------------------------------------------------


def test_places_change_embeddings_where_they_are_told(adata):
    moved = adata.copy()
    moved.obsm["spatial"] = adata.obsm["spatial"][::-1].copy()
    told = build(adata)
    assert np.abs(embed(told) - embed(told, moved)).max() > 1e-3
    # Whatever the unit and the origin, sample by sample.
    moved.obsm["spatial"] = adata.obsm["spatial"] * 40 - 7
    np.testing.assert_allclose(embed(told, moved), embed(told), atol=1e-5)
    off = build(adata, position="off")
    moved.obsm["spatial"] = adata.obsm["spatial"][::-1].copy()
    np.testing.assert_array_equal(embed(off, moved), embed(off))
    assert "encoder.position.missing" not in off.module.state_dict()


@pytest.mark.parametrize("latent", ["vae", "gmvae", "ae"])
@pytest.mark.parametrize("attention", ["flow", "softmax"])
def test_the_order_of_cells_makes_no_difference(adata, latent, attention):
    model = build(adata, latent=latent, attention=attention)
    order = np.random.default_rng(1).permutation(90)
    found = embed(model, adata[order].copy())
    np.testing.assert_allclose(found, embed(model)[order], atol=1e-5)


@pytest.mark.parametrize("options", [{}, {"context": "tiles", "context_size": 12, "halo": 4}])
def test_samples_do_not_see_each_other(adata, options):
    model = build(adata, **options)
    whole = embed(model)
    first = (adata.obs["slice"] == "slice 0").to_numpy()
    changed = adata.copy()
    changed.X[~first] = changed.X[~first] * 3
    np.testing.assert_array_equal(embed(model, changed)[first], whole[first])
    np.testing.assert_array_equal(embed(model, adata[first].copy()), whole[first])
    # But cells of a sample do.
    changed = adata.copy()
    one = np.flatnonzero(first)[0]
    changed.X[one] = changed.X[one] * 9
    others = np.abs(embed(model, changed) - whole)[np.setdiff1d(np.flatnonzero(first), one)]
    assert others.max() > 1e-5


MODES = [
    {"context": "sample"},
    {"context": "tiles", "context_size": 12, "halo": 4},
    {"context": "random", "context_size": 12},
]


@pytest.mark.parametrize("options", MODES, ids=lambda o: o["context"])
def test_an_embedding_does_not_depend_on_what_is_asked_for(adata, options):
    model = build(adata, **options)
    whole = embed(model)
    rows = np.array([70, 3, 3, 41, 0, 89])
    np.testing.assert_array_equal(embed(model, None, rows), whole[rows])
    for i in (5, 60):
        np.testing.assert_array_equal(embed(model, None, [i], batch_size=1), whole[[i]])
    names = ["cell8", "cell2"]
    np.testing.assert_array_equal(embed(model, None, names), whole[[8, 2]])
    np.testing.assert_array_equal(embed(model, batch_size=7), whole)
    assert embed(model, None, []).shape == (0, 6)


def test_context_modes_differ(adata):
    found = [embed(build(adata, position="off", rng=3, **options)) for options in MODES]
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert np.abs(found[one] - found[other]).max() > 1e-5
    # With room for all, a tile or a part is the sample.
    for context in ("tiles", "random"):
        wide = build(adata, position="off", rng=3, context=context, context_size=90)
        np.testing.assert_array_equal(embed(wide), found[0])


@pytest.mark.parametrize("options", MODES, ids=lambda o: o["context"])
def test_all_modes_train(adata, options):
    model = build(adata, **options)
    before = embed(model)
    model.train(**TRAIN)
    assert np.isfinite(model.history["validation_loss"]).all().all()
    assert np.abs(model.get_latent_representation() - before).max() > 1e-4


def test_cells_read_from_a_file_are_the_same(adata, tmp_path):
    adata.write_h5ad(tmp_path / "cells.h5ad")
    found = []
    for backed in (None, "r"):
        data = anndata.read_h5ad(tmp_path / "cells.h5ad", backed=backed)
        model = build(data)
        model.train(**TRAIN)
        found.append(model.get_latent_representation())
    np.testing.assert_array_equal(*found)


# --- several data sets ----------------------------------------------------------------------------


@pytest.fixture
def datasets():
    """Dissociated cells of all genes, and a tissue in which every other was measured."""
    cells, tissue = make(60, seed=1, n_samples=1), make(80, seed=2, n_samples=2)[:, ::2].copy()
    del cells.obsm["spatial"], cells.obs["slice"]
    return Datasets({"cells": cells, "tissue": tissue}, genes="union", obs_keys=["type"])


def test_cells_and_tissues_are_learnt_from_together(datasets, tmp_path):
    CellPLM.setup_datasets(datasets, **TISSUE)
    model = CellPLM(datasets, spatial_share=0.5, **SMALL)
    model.train(**TRAIN)
    z = model.get_latent_representation()
    assert z.shape == (140, 6)
    assert np.isfinite(z).all()
    # Panels: what the tissue lacks is not measured, and not zero.
    reader = model._training_data()
    measured = model.module.measured.numpy()
    codes = reader.obs[PANEL]
    np.testing.assert_array_equal(codes, np.repeat([0, 1], [60, 80]))
    assert measured[0].all()
    np.testing.assert_array_equal(
        measured[1], [int(name[4:]) % 2 == 0 for name in model.genes.names]
    )
    assert reader.context.n_samples == 3
    np.testing.assert_array_equal(reader.context.is_spatial(), codes == 1)
    # The tissue alone is embedded as among the others.
    tissue = dict(datasets.items())["tissue"]
    np.testing.assert_allclose(model.get_latent_representation(tissue), z[60:], atol=1e-5)
    model.save(tmp_path / "model")
    loaded = CellPLM.load(tmp_path / "model")
    np.testing.assert_array_equal(loaded.get_latent_representation(datasets), z)
    loaded.attach(datasets)
    with pytest.warns(
        ScsslWarning, match="15 of the genes were not .* `as_batch`.*'cells', 'tissue'"
    ):
        own = model.get_imputed_expression(datasets)
    with pytest.warns(ScsslWarning, match="as_batch"):
        np.testing.assert_array_equal(loaded.get_imputed_expression(), own)
    # Nothing to say where the genes were measured, or the batch is one in which they were.
    model.get_imputed_expression(datasets, genes=["GENE0", "GENE2"])
    model.get_imputed_expression(datasets, as_batch="cells")


def test_the_loss_of_a_panel_is_that_of_its_genes(datasets):
    CellPLM.setup_datasets(datasets, **TISSUE)
    model = CellPLM(datasets, kl_weight=0.0, **SMALL)
    reader = model._training_data()
    (batch,) = reader.loader(np.arange(60, 140), 4096, role="training", seed=0)
    module, rng = model.module.eval(), torch.Generator()
    absent = torch.from_numpy(~model.module.measured[1].numpy())

    def loss():
        return float(module.loss(batch, rng=rng.manual_seed(0)).loss.detach())

    before = loss()
    with torch.no_grad():
        module.gene_decoder.bias[absent] += 5
    assert loss() == pytest.approx(before, rel=1e-6)
    with torch.no_grad():
        module.gene_decoder.bias[~absent] += torch.linspace(0, 5, int((~absent).sum()))
    assert loss() > before + 1


def test_what_no_data_set_has_is_missed_at_setup(datasets):
    with pytest.raises(KeyError, match="No data set has 'section' in obs"):
        CellPLM.setup_datasets(datasets, sample_key="section")
    with pytest.raises(KeyError, match="No data set has 'xy' in obsm"):
        CellPLM.setup_datasets(datasets, spatial_key="xy")


# --- imputation -----------------------------------------------------------------------------------


def test_imputed_expression(adata):
    CellPLM.setup_anndata(adata, **TISSUE, batch_key="slice", continuous_covariate_keys=["age"])
    model = CellPLM(adata, **SMALL)
    with pytest.raises(ValueError, match="not trained to impute"):
        model.get_imputed_expression()
    model.train(**TRAIN)
    found = model.get_imputed_expression()
    assert found.shape == (90, 30)
    assert found.index.equals(adata.obs_names)
    assert list(found.columns) == list(model.genes.names)
    assert (found.to_numpy() >= 0).all()
    assert found.dtypes.eq(np.float32).all()
    np.testing.assert_allclose(found.sum(axis=1), adata.X.sum(1).A1, rtol=1e-4)
    some = model.get_imputed_expression(indices=["cell5", "cell1"], genes=["GENE7", "GENE2"])
    np.testing.assert_allclose(some, found.loc[["cell5", "cell1"], ["GENE7", "GENE2"]], rtol=1e-5)
    with pytest.raises(KeyError, match="The model has no gene 'GENE99'; .*model.genes.names"):
        model.get_imputed_expression(genes=["GENE1", "GENE99"])
    # Told a batch, and the age of the cells.
    others = [model.get_imputed_expression(as_batch=f"slice {i}") for i in range(3)]
    for i, other in enumerate(others):
        own = (adata.obs["slice"] == f"slice {i}").to_numpy()
        np.testing.assert_allclose(other[own], found[own], rtol=1e-4, atol=1e-6)
        assert np.abs(other[~own] - found[~own]).to_numpy().max() > 1e-5
    older = adata.copy()
    older.obs["age"] += 30
    assert np.abs(model.get_imputed_expression(older) - found).to_numpy().max() > 1e-5
    with pytest.raises(ValueError, match="There is no batch 'slice 9'; the model knows 'slice 0'"):
        model.get_imputed_expression(as_batch="slice 9")


def test_batches_named_by_numbers_are_known_again(adata):
    adata.obs["batch"] = np.arange(90) % 3 + 1.0
    adata.obs["donor"] = np.arange(90) % 2 + 1.0
    keys = {"batch_key": "batch", "categorical_covariate_keys": ["donor"]}
    model = build(adata, keys)
    model.train(**TRAIN)
    found = model.get_imputed_expression()
    for batch in (1, 2, 3):
        own = (adata.obs["batch"] == batch).to_numpy()
        told = model.get_imputed_expression(as_batch=str(batch))
        np.testing.assert_allclose(found[own], told[own], rtol=1e-4, atol=1e-6)
        assert np.abs(found[~own] - told[~own]).to_numpy().max() > 1e-5
    # However the same numbers are written.
    for dtype in (int, str):
        other = adata.copy()
        other.obs["batch"] = other.obs["batch"].astype(int).astype(dtype)
        other.obs["donor"] = other.obs["donor"].astype(int).astype(dtype)
        pd.testing.assert_frame_equal(model.get_imputed_expression(other), found)
    # A cell without a batch, or of another, is decoded over the mean of them; the others as they were.
    gaps, ninth, without = adata.copy(), adata.copy(), adata.copy()
    gaps.obs.loc["cell4", "batch"] = np.nan
    ninth.obs.loc["cell4", "batch"] = 9.0
    del without.obs["batch"]
    expected = found.copy()
    expected.loc["cell4"] = model.get_imputed_expression(without).loc["cell4"]
    assert np.abs(expected.loc["cell4"] - found.loc["cell4"]).max() > 1e-5
    for changed in (gaps, ninth):
        got = model.get_imputed_expression(changed)
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-6)


def test_imputation_over_the_genes_of_a_panel(adata):
    model = build(adata, position="off")
    model.train(**TRAIN)
    panel = adata[:, 5:20].copy()
    found = model.get_imputed_expression(panel)
    assert found.shape == (90, 30)
    own = [f"GENE{i}" for i in range(5, 20)]
    np.testing.assert_allclose(found[own].sum(axis=1), panel.X.sum(1).A1, rtol=1e-4, atol=1e-4)
    assert (found.drop(columns=own).sum(axis=1)[panel.X.sum(1).A1 > 0] > 0).all()


def test_models_that_learnt_no_expression_impute_none(adata):
    model = build(adata, {"labels_key": "type"}, objective="cross_entropy")
    model.train(**TRAIN)
    with pytest.raises(ValueError, match="objective='cross_entropy', which leaves the decoder"):
        model.get_imputed_expression()
    bare = build(adata, decoder=False)
    bare.is_trained_ = True
    with pytest.raises(ValueError, match=r"no decoder.*Use get_latent_representation\(\)"):
        bare.get_imputed_expression()


@pytest.mark.slow
def test_genes_that_a_panel_lacks_are_predicted_better_than_by_their_mean():
    reference, query = make(600, 40, seed=1, n_samples=1), make(300, 40, seed=2, n_samples=1)
    held_out = np.arange(0, 40, 4)
    truth = np.log1p(query.X.toarray()[:, held_out])
    panel = query[:, np.setdiff1d(np.arange(40), held_out)].copy()
    names = [f"GENE{i}" for i in held_out]
    datasets = Datasets({"cells": reference, "tissue": panel}, genes="union")
    CellPLM.setup_datasets(datasets)
    model = CellPLM(datasets, n_hidden=32, n_layers=1, n_heads=2, n_latent=8, dropout=0.0)
    model.train(30, batch_size=128, lr=3e-3, progress=False)
    rows = np.arange(600, 900)
    found = model.get_imputed_expression(indices=rows, genes=names, as_batch="cells")
    found = np.log1p(found.to_numpy())
    mean = np.log1p(reference.X.toarray()[:, held_out]).mean(0)
    assert np.square(found - truth).mean() < 0.8 * np.square(mean - truth).mean()
    varied = truth.std(0) > 0.3
    assert varied.sum() >= 5
    correlation = [np.corrcoef(found[:, i], truth[:, i])[0, 1] for i in np.flatnonzero(varied)]
    assert np.median(correlation) > 0.5


# --- from another CellPLM -------------------------------------------------------------------------


@pytest.fixture
def trained(adata):
    model = build(adata)
    model.train(**TRAIN)
    return model


def test_the_same_genes_are_embedded_as_before(trained, adata):
    expected = trained.get_latent_representation()
    new = CellPLM.from_ssl_model(trained, adata.copy(), **TISSUE)
    with warnings.catch_warnings():
        # It is no random projection.
        warnings.simplefilter("error")
        np.testing.assert_array_equal(new.get_latent_representation(), expected)
    assert new.encoder_hash == trained.encoder_hash
    # The source stays as it is.
    new.train(**TRAIN)
    assert new.encoder_hash != trained.encoder_hash
    np.testing.assert_array_equal(trained.get_latent_representation(), expected)


def test_genes_are_taken_over_by_name(trained, adata):
    expected = trained.get_latent_representation()
    order = np.random.default_rng(0).permutation(30)
    turned = CellPLM.from_ssl_model(trained, adata[:, order].copy(), **TISSUE)
    np.testing.assert_allclose(turned.get_latent_representation(), expected, atol=1e-5)
    names = list(turned.genes.names)
    assert names == [f"GENE{i}" for i in order]
    for key in ("gene_encoder.weight", "gene_decoder.bias", "log_dispersion"):
        theirs, ours = trained.module.state_dict()[key], turned.module.state_dict()[key]
        torch.testing.assert_close(ours, theirs[torch.from_numpy(order)])
    # New genes say nothing at first.
    more = anndata.concat(
        [adata, anndata.AnnData(adata.X[:, :4].copy(), obs=adata.obs, var=pd.DataFrame(index=list("abcd")))],
        axis=1, merge="first",
    )  # fmt: skip
    more.obsm["spatial"] = adata.obsm["spatial"]
    new = CellPLM.from_ssl_model(trained, more, **TISSUE)
    np.testing.assert_allclose(new.get_latent_representation(), expected, atol=1e-5)
    assert not new.module.gene_encoder.weight[-4:].any()
    new.train(**TRAIN)
    assert new.module.gene_encoder.weight[-4:].any()
    with pytest.raises(GeneMismatchError, match="knows 0 of the 2 genes"):
        CellPLM.from_ssl_model(trained, more[:, ["a", "b"]].copy())


@pytest.mark.parametrize("objective", ["kl", "cross_entropy", "supcon"])
def test_other_objectives_go_on_from_it(trained, adata, objective):
    data = adata.copy()
    new = CellPLM.from_ssl_model(trained, data, objective=objective, labels_key="type", **TISSUE)
    np.testing.assert_array_equal(
        new.get_latent_representation(), trained.get_latent_representation()
    )
    # What was done of the warm-up stays done.
    assert int(new.module.warmup) == int(trained.module.warmup) > 0
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The embeddings have collapsed", ScsslWarning)
        new.train(**TRAIN)
    scores = new.history
    assert np.isfinite(scores["validation_objective"]).all().all()
    assert ("validation_accuracy" in scores) == (objective == "cross_entropy")


def test_only_a_cellplm_has_its_weights(adata):
    MaskedAutoencoder.setup_anndata(adata)
    other = MaskedAutoencoder(adata, hidden_dims=(8,), n_latent=4)
    other.train(1, progress=False)
    with pytest.raises(TypeError, match="of a MaskedAutoencoder, not of a CellPLM"):
        CellPLM.from_ssl_model(other, adata)


# --- classifier -----------------------------------------------------------------------------------


@pytest.mark.parametrize("freeze", ["none", "encoder", 2])
def test_a_classifier_on_tissues(trained, adata, freeze, tmp_path):
    data = adata.copy()
    few = np.full(90, None, dtype=object)
    few[:40] = data.obs["type"].astype(str)[:40]
    data.obs["few"] = few
    model = CellTypeClassifier.from_ssl_model(trained, data, "few", freeze=freeze)
    # Cells without a label are seen, and cells are as in the model.
    np.testing.assert_array_equal(
        model.get_latent_representation(), trained.get_latent_representation()
    )
    model.train(2, batch_size=32, progress=False)
    assert model.training_["n_cells"] == 40
    same = model.encoder_hash == trained.encoder_hash
    assert same == (freeze == "encoder")
    if freeze == 2:
        theirs, ours = trained.module.state_dict(), model.module.backbone.state_dict()
        for name in ours:
            kept = name.startswith(("gene_encoder", "encoder.input", "encoder.position"))
            assert torch.equal(ours[name], theirs[name]) == kept, name
        assert not model.module.train().backbone.encoder.input_dropout.training
        model.module.eval()
    found = model.predict(soft=True)
    assert list(found.columns) == ["type 0", "type 1", "type 2"]
    np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-5)
    model.save(tmp_path / "model")
    loaded = CellTypeClassifier.load(tmp_path / "model")
    assert loaded.classes == model.classes
    pd.testing.assert_frame_equal(loaded.predict(data, soft=True), found)
    assert set(loaded.predict(data)) <= {"type 0", "type 1", "type 2"}


def test_a_few_labels_are_learnt_among_all_cells(trained, adata):
    data = adata.copy()
    labels = data.obs["type"].astype(object)
    labels[np.arange(90) >= 9] = None
    data.obs["few"] = labels
    model = CellTypeClassifier.from_ssl_model(trained, data, "few")
    seen = []
    inner = type(model.module).loss

    def watched(self, tensors, *args, **kwargs):
        seen.append((tensors["indices"].clone(), tensors["target"].squeeze(1).clone()))
        return inner(self, tensors, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(model.module), "loss", watched)
        model.train(1, batch_size=128, progress=False)
    cells = torch.cat([rows for rows, _ in seen])
    target = torch.cat([target for _, target in seen])
    assert sorted(cells[target == 1].tolist()) == list(range(9))
    # Every slice with a label has room in a batch of 128: all of its cells are seen.
    with_label = data.obs["slice"].isin(data.obs["slice"].iloc[:9]).to_numpy()
    assert sorted(cells.tolist()) == np.flatnonzero(with_label).tolist()


# --- saving, collapse, processes ------------------------------------------------------------------


@pytest.mark.parametrize("latent", ["vae", "gmvae", "ae"])
def test_a_saved_model_is_the_same(adata, latent, tmp_path):
    model = build(adata, latent=latent, n_clusters=3, context="tiles", context_size=20, halo=5)
    model.train(**TRAIN)
    expected = model.get_latent_representation()
    np.testing.assert_array_equal(model.get_latent_representation(), expected)
    model.save(tmp_path / "model")
    loaded = CellPLM.load(tmp_path / "model", adata)
    np.testing.assert_array_equal(loaded.get_latent_representation(), expected)
    pd.testing.assert_frame_equal(loaded.get_imputed_expression(), model.get_imputed_expression())
    assert int(loaded.module.warmup) == int(model.module.warmup) == 3
    assert loaded.module.context == model.module.context


def test_arguments_are_listed_documented_and_saved(adata, tmp_path):
    listed = inspect.signature(CellPLM).parameters
    documented = re.findall(r"^(\w+(?:, \w+)*)$", inspect.getdoc(CellPLM), re.MULTILINE)
    assert [name for one in documented for name in one.split(", ")] == [
        "Parameters",
        *listed,
        "Examples",
    ]
    model = build(adata, {**TISSUE, "labels_key": "type"}, objective="supcon", temperature=0.07)
    model.save(tmp_path / "model")
    saved = read_bundle(tmp_path / "model").config["arguments"]
    # The last one is of published files alone.
    others = ("adata", "registry", "rng", "decoder_hidden")
    assert list(saved) == [name for name in listed if name not in others]
    # A folder of a version with another default keeps what it was trained with.
    assert CellPLM.load(tmp_path / "model")._options.temperature == 0.07
    with pytest.raises(TypeError, match="no argument 'hidden'. Did you mean `n_hidden=3`"):
        CellPLM(adata, hidden=3)


def test_the_latent_term_alone_collapses_and_the_monitor_says_so():
    adata = make(200)
    model = build(adata, {}, objective="kl", kl_weight=1.0, warmup_steps=0)
    with pytest.warns(ScsslWarning, match="The embeddings have collapsed"):
        model.train(60, batch_size=200, lr=2e-2, early_stopping=False, progress=False)
    history = model.history
    assert float(history["validation_divergence"].iloc[-1, 0]) < 0.1
    first, last = (float(history["latent_std"].iloc[i, 0]) for i in (0, -1))
    assert last < first


def test_a_second_training_goes_on(trained):
    steps = int(trained.module.warmup)
    trained.train(**TRAIN)
    assert int(trained.module.warmup) == 2 * steps
    assert len(trained.history["train_loss"]) == 2


def test_a_warm_start_survives_saving(trained, adata, tmp_path):
    new = CellPLM.from_ssl_model(trained, adata.copy(), **TISSUE)
    new.save(tmp_path / "model")
    loaded = CellPLM.load(tmp_path / "model", adata.copy())
    with warnings.catch_warnings():
        # It is no random projection, and a classifier on it does not start from scratch.
        warnings.simplefilter("error")
        np.testing.assert_array_equal(
            loaded.get_latent_representation(), trained.get_latent_representation()
        )
        CellTypeClassifier.from_ssl_model(loaded, adata.copy(), "type")
    for model in (new, loaded):
        model.train(**TRAIN)
    # Nothing of it started anew at the mean expression.
    for name, tensor in new.module.state_dict().items():
        assert torch.equal(loaded.module.state_dict()[name], tensor), name
    loaded.save(tmp_path / "trained")
    again = CellPLM.load(tmp_path / "trained", adata.copy())
    np.testing.assert_array_equal(
        again.get_latent_representation(), loaded.get_latent_representation()
    )


def test_reading_other_data_in_training_leaves_the_panels_as_they_are(datasets):
    other = make(20, seed=5)
    found = []
    for reads in (False, True):
        CellPLM.setup_datasets(datasets, **TISSUE)
        model = CellPLM(datasets, **SMALL)

        class Embeds(Callback):
            def on_train_epoch_start(self, trainer, module, reads=reads, model=model):
                if reads:
                    embed(model, other)

        model.train(**{**TRAIN, "max_epochs": 2}, callbacks=[Embeds()])
        found.append(model.module.state_dict())
    for name, tensor in found[0].items():
        assert torch.equal(found[1][name], tensor), name


def test_places_and_samples_are_part_of_what_must_not_change(adata, datasets, tmp_path):
    model = build(adata)
    model.train(**TRAIN, lr_schedule="constant", checkpoint_dir=tmp_path / "run")
    model.save(tmp_path / "model")
    # In another unit they are the same.
    adata.obsm["spatial"] = adata.obsm["spatial"] * 2
    embed(model)
    kept = adata.copy()
    for change in ("places", "samples"):
        other = kept.copy()
        if change == "places":
            other.obsm["spatial"] = other.obsm["spatial"][::-1].copy()
        else:
            other.obs["slice"] = other.obs["slice"].to_numpy()[::-1].copy()
        resumed = build(other)
        with pytest.raises(ValueError, match="another run.*samples and places"):
            resumed.train(2, batch_size=32, lr_schedule="constant", resume_from=tmp_path / "run")
    adata.obs["slice"] = "one"
    with pytest.raises(ValueError, match=r"changed since setup_anndata \(samples and places: "):
        model.get_latent_representation()
    # One saved before they were known.
    loaded = CellPLM.load(tmp_path / "model")
    loaded.attach(kept)
    del loaded.registry_["scssl_setup"]["fingerprint"]["samples and places"]
    np.testing.assert_array_equal(
        loaded.get_latent_representation(), model.get_latent_representation(kept)
    )
    CellPLM.setup_datasets(datasets, **TISSUE)
    several = CellPLM(datasets, **SMALL)
    embed(several)
    part = dict(datasets.items())["tissue"]
    part.obsm["spatial"] = part.obsm["spatial"][::-1].copy()
    with pytest.raises(ValueError, match="samples and places"):
        several.get_latent_representation()


def test_samples_that_a_single_data_set_lacks_say_what_to_type(datasets):
    CellPLM.setup_datasets(datasets, **TISSUE)
    model = CellPLM(datasets, **SMALL)
    whole = embed(model)
    cells = dict(datasets.items())["cells"].copy()
    with pytest.raises(KeyError, match=r'adata\.obsm\["spatial"\] = np\.full'):
        embed(model, cells)
    cells.obsm["spatial"] = np.full((cells.n_obs, 2), np.nan)
    with pytest.raises(KeyError, match=r'adata\.obs\["slice"\] = "one"'):
        embed(model, cells)
    cells.obs["slice"] = "one"
    np.testing.assert_allclose(embed(model, cells), whole[:60], atol=1e-5)


def test_which_cells_see_each_other_is_part_of_the_encoder(adata):
    tiles = {"context": "tiles", "context_size": 12, "halo": 4}
    every = [{}, tiles, {**tiles, "halo": 2}, {"context": "random", "context_size": 12}]
    found = [build(adata, **options).encoder_hash for options in every]
    assert len(set(found)) == 4
    assert build(adata, **tiles, cell_dropout=0.5).encoder_hash == found[1]


@pytest.mark.parametrize("batch_key", [None, "type"])
def test_the_mean_of_the_batches_stays_when_they_are_no_longer_told(adata, batch_key):
    model = build(adata, {**TISSUE, "batch_key": "slice"})
    model.train(**{**TRAIN, "max_epochs": 3})
    new = CellPLM.from_ssl_model(model, adata.copy(), batch_key=batch_key, **TISSUE)
    z = torch.from_numpy(model.get_latent_representation())
    theirs, ours = model.module.decoder.eval(), new.module.decoder.eval()

    def before_the_last(decoder, code):
        found = []
        hook = decoder.hidden.register_forward_hook(lambda *args: found.append(args[2]))
        with torch.no_grad():
            decoder(z, [code] * len(decoder.covariates))
        hook.remove()
        return found[0]

    # A category that is not known, the mean of the known ones.
    expected = torch.stack([before_the_last(theirs, torch.tensor([i])) for i in range(3)]).mean(0)
    torch.testing.assert_close(before_the_last(ours, None), expected, atol=1e-5, rtol=1e-4)
