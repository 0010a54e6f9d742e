"""Prediction of another modality against formulas written out."""

from __future__ import annotations

import tracemalloc

import anndata
import mudata
import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import Ridge, RidgeCV

import scssl

PREDICT = scssl.tl.predict_modality
NAMES = ["CD3", "CD4", "CD8"]


def make(n, seed, prefix):
    rng = np.random.default_rng(seed)
    adata = anndata.AnnData(np.ones((n, 2), dtype=np.float32))
    adata.obs_names = [f"{prefix}{i}" for i in range(n)]
    z = rng.normal(size=(n, 4)).astype(np.float32)
    adata.obsm["X_ssl"] = z * rng.uniform(0.5, 3.0, (n, 1)).astype(np.float32)
    protein = z @ np.array([[1, 0, 2], [0, 3, 1], [1, 1, 0], [0, 0, 1]]) + 0.1 * rng.normal(
        size=(n, 3)
    )
    adata.obsm["protein"] = pd.DataFrame(protein, index=adata.obs_names, columns=NAMES)
    return adata


@pytest.fixture
def reference():
    return make(80, 0, "reference")


@pytest.fixture
def query():
    return make(30, 1, "query")


def nearest(reference, query, cell, rows, k):
    """The most similar cells among some, one query cell at a time."""
    z, one = reference.obsm["X_ssl"][rows], query.obsm["X_ssl"][cell]
    cosine = [float(a @ one / np.linalg.norm(a) / np.linalg.norm(one)) for a in z]
    return rows[np.argsort(cosine)[::-1][:k]]


def test_mean_of_the_nearest_by_cosine(reference, query):
    assert PREDICT(reference, query) is None
    found = query.obsm["predicted_protein"]
    assert found.columns.tolist() == NAMES
    assert found.index.equals(query.obs_names)
    everything = np.arange(80)
    expected = [
        reference.obsm["protein"].to_numpy()[nearest(reference, query, i, everything, 5)].mean(0)
        for i in range(30)
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert query.uns["predicted_protein"]["n_reference"].tolist() == [80, 80, 80]
    assert query.uns["predicted_protein"]["params"]["n_neighbors"] == 5


def test_features_that_few_cells_have(reference, query):
    table = reference.obsm["protein"]
    table.iloc[:40, 1] = np.nan
    table.iloc[70:] = np.nan
    PREDICT(reference, query, n_neighbors=3)
    found = query.obsm["predicted_protein"].to_numpy()
    for column, rows in ((0, np.arange(70)), (1, np.arange(40, 70)), (2, np.arange(70))):
        expected = [
            table.to_numpy()[nearest(reference, query, i, rows, 3), column].mean()
            for i in range(30)
        ]
        np.testing.assert_allclose(found[:, column], expected, rtol=1e-5, atol=1e-6)
    assert query.uns["predicted_protein"]["n_reference"].tolist() == [70, 30, 70]


def test_ridge_regression(reference, query):
    reference.obsm["protein"].iloc[:20, 2] = np.nan
    PREDICT(reference, query, method="head", key_added="head")
    found = query.obsm["head"]
    for name in NAMES:
        y = reference.obsm["protein"][name].to_numpy()
        rows = np.isfinite(y)
        z = reference.obsm["X_ssl"][rows].astype(float)
        mean, spread = z.mean(0), np.sqrt(z.var(0).mean())
        penalty = RidgeCV(np.logspace(-2, 5, 15)).fit((z - mean) / spread, y[rows]).alpha_
        # The closed form of ridge regression with that penalty.
        x = (z - mean) / spread
        centred = y[rows] - y[rows].mean()
        weight = np.linalg.solve(x.T @ x + penalty * np.eye(4), x.T @ centred)
        new = (query.obsm["X_ssl"] - mean) / spread
        np.testing.assert_allclose(found[name], new @ weight + y[rows].mean(), rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(Ridge(alpha=penalty).fit(x, y[rows]).coef_, weight, rtol=1e-6)


@pytest.mark.parametrize("method", ["neighbors", "head"])
def test_it_predicts(reference, query, method):
    PREDICT(reference, query, method=method)
    scores = scssl.tl.modality_scores(query, "protein", "predicted_protein")
    assert scores.loc[0, "pearson_per_feature"] > 0.7


def test_arrays_have_no_names(reference, query):
    reference.obsm["protein"] = reference.obsm["protein"].to_numpy()
    PREDICT(reference, query)
    assert query.obsm["predicted_protein"].columns.tolist() == ["0", "1", "2"]


@pytest.mark.parametrize("known", ["everywhere", "in some"])
def test_memory_is_that_of_the_result(known):
    rng = np.random.default_rng(0)
    reference, query = make(100, 0, "reference"), make(2500, 1, "query")
    features = rng.random((100, 2000), dtype=np.float32)
    if known == "in some":
        features[:20] = np.nan
    reference.obsm["rna"] = features
    PREDICT(reference, query, "rna", key_added="first")
    tracemalloc.start()
    PREDICT(reference, query, "rna")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    found = query.obsm["predicted_rna"]
    assert (found.dtypes == np.float32).all()
    # The result, 20 MB, and beside it parts of it and copies of the reference. All five neighbours
    # of all cells at once would be 200 MB.
    assert peak < 2 * found.to_numpy().nbytes
    rows = np.arange(20 if known == "in some" else 0, 100)
    for cell in (0, 1023, 1024, 2499):
        near = nearest(reference, query, cell, rows, 5)
        np.testing.assert_allclose(found.iloc[cell], features[near].mean(0), rtol=1e-5)


def test_approximate_search_on_request(reference, query, all_pairs):
    PREDICT(reference, query, exact=True, key_added="exact")
    assert not all_pairs
    PREDICT(reference, query, exact=False, key_added="fast")
    assert all_pairs == [len(reference)]
    np.testing.assert_allclose(query.obsm["fast"], query.obsm["exact"])


@pytest.mark.slow
def test_approximate_search_finds_nearly_the_same(reference, query):
    PREDICT(reference, query, exact=False, key_added="fast")
    PREDICT(reference, query, exact=True, key_added="exact")
    same = np.isclose(query.obsm["fast"], query.obsm["exact"]).mean()
    assert same > 0.9


def test_cells_in_both(reference, query):
    both = anndata.concat([query, reference[:3]])
    with pytest.raises(
        ValueError, match=r"3 of 33 cells of `query` are in `reference` too.*'reference0'"
    ):
        PREDICT(reference, both)
    # Not where they have nothing to give.
    reference.obsm["protein"].iloc[:3] = np.nan
    PREDICT(reference, both)
    assert both.obsm["predicted_protein"].notna().all(axis=None)


def followed(message, reference, query):
    """What `query` is after the line of a message."""
    names = {"reference": reference, "query": query, "np": np}
    exec(message.split("`")[-2], names)
    return names["query"]


@pytest.mark.parametrize("store", ["frame", "array"])
def test_only_cells_with_features_are_to_be_left_out(reference, store):
    reference.obsm["protein"].iloc[:30] = np.nan
    if store == "array":
        reference.obsm["protein"] = reference.obsm["protein"].to_numpy()
    with pytest.raises(ValueError, match="50 of 80 cells of `query`") as refused:
        PREDICT(reference, reference)
    left = followed(str(refused.value), reference, reference)
    assert left.obs_names.tolist() == [f"reference{i}" for i in range(30)]
    PREDICT(reference, left)
    assert left.obsm["predicted_protein"].notna().all(axis=None)


def test_all_cells_have_features_already(reference):
    with pytest.raises(ValueError, match=r"80 of 80 .* would find themselves\.$"):
        PREDICT(reference, reference)


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"method": "mean"}, ValueError, "'neighbors' or 'head', found 'mean'"),
        ({"n_neighbors": 0}, ValueError, "at least 1"),
        ({"n_neighbors": 81}, ValueError, "n_neighbors=81 is more than the 80"),
        ({"modality": "adt"}, KeyError, "reference.obsm has no 'adt'"),
        ({"use_rep": "X_pca"}, KeyError, "reference.obsm has no 'X_pca'"),
    ],
)
def test_bad_arguments(reference, query, options, error, match):
    with pytest.raises(error, match=match):
        PREDICT(reference, query, **options)


def test_nothing_known(reference, query):
    reference.obsm["protein"].iloc[:] = np.nan
    with pytest.raises(ValueError, match="No value of 'protein' is known"):
        PREDICT(reference, query)


def test_other_embeddings(reference, query):
    query.obsm["X_ssl"] = query.obsm["X_ssl"][:, :3]
    with pytest.raises(ValueError, match="embed both with the same model"):
        PREDICT(reference, query)


# --- with a model of several modalities -----------------------------------------------------------


def cells(n, seed, prefix):
    rng = np.random.default_rng(seed)
    mean = np.random.default_rng(5).gamma(0.5, 2.0, (3, 40))
    kind = rng.integers(0, 3, n)
    obs = pd.DataFrame(index=[f"{prefix}{i}" for i in range(n)])
    rna = anndata.AnnData(rng.poisson(mean[kind]).astype(np.float32), obs=obs)
    rna.var_names = [f"GENE{i}" for i in range(40)]
    rate = np.array([[20, 5, 1], [3, 30, 2], [1, 6, 25]])
    protein = anndata.AnnData(rng.poisson(rate[kind]).astype(np.float32), obs=obs)
    protein.var_names = NAMES
    return mudata.MuData({"rna": rna, "prot": protein})


@pytest.fixture(scope="module")
def model():
    mdata = cells(150, 0, "cell")
    scssl.model.SimCLR.setup_mudata(mdata)
    model = scssl.model.SimCLR(mdata, hidden_dims=(16,), n_latent=8)
    model.train(max_epochs=30, batch_size=32, progress=False)
    return model


@pytest.mark.parametrize("method", ["neighbors", "head"])
def test_with_a_model(model, method):
    query = cells(40, 1, "new")
    measured = model.get_modality(query)
    alone = query["rna"].copy()
    PREDICT(model.adata, alone, model=model, method=method)
    found = alone.obsm["predicted_protein"]
    assert found.columns.tolist() == NAMES
    alone.obsm["measured"] = measured
    scores = scssl.tl.modality_scores(alone, "measured", "predicted_protein")
    assert scores.loc[0, "pearson_per_feature"] > 0.7
    # A MuData is written to in the same way; the cells may lack RNA.
    without = mudata.MuData({"rna": query["rna"][:-3].copy(), "prot": query["prot"].copy()})
    PREDICT(model.adata, without, model=model, method=method)
    predicted = without.obsm["predicted_protein"]
    np.testing.assert_allclose(predicted.iloc[:37], found.iloc[:37], rtol=1e-5)
    assert predicted.iloc[37:].isna().all(axis=None)


def test_cells_of_a_mosaic(model):
    """The cells of a data set that lack proteins, from those of it that have them."""
    whole = cells(60, 2, "new")
    mosaic = mudata.MuData({"rna": whole["rna"].copy(), "prot": whole["prot"][25:].copy()})
    with pytest.raises(ValueError, match="35 of 60 cells of `query`") as refused:
        PREDICT(mosaic, mosaic, model=model)
    left = followed(str(refused.value), mosaic, mosaic)
    assert left.obs_names.tolist() == [f"new{i}" for i in range(25)]
    assert left["prot"].n_obs == 0
    PREDICT(mosaic, left, model=model)
    alone = whole["rna"][:25].copy()
    PREDICT(mosaic, alone, model=model)
    found = left.obsm["predicted_protein"]
    assert found.notna().all(axis=None)
    np.testing.assert_allclose(found, alone.obsm["predicted_protein"], rtol=1e-6)


def test_genes_from_proteins(model):
    query = cells(40, 1, "new")
    PREDICT(model.adata, query, "rna", model=model, source="protein")
    assert query.obsm["predicted_rna"].shape == (40, 40)


def test_with_a_model_of_one_modality(model):
    query = cells(40, 1, "new")
    with pytest.raises(ValueError, match="both 'rna'"):
        PREDICT(model.adata, query, "rna", model=model)
    scssl.model.SimCLR.setup_anndata(query["rna"])
    single = scssl.model.SimCLR(query["rna"], hidden_dims=(16,), n_latent=8)
    with pytest.raises(ValueError, match="must be a model of several modalities"):
        PREDICT(query["rna"], query["rna"], model=single)
    with pytest.raises(ValueError, match="cells of `query` are in `reference` too"):
        PREDICT(model.adata, model.adata["rna"], model=model)


def test_names_that_columns_of_a_file_cannot_have(tmp_path):
    rng = np.random.default_rng(0)
    cells = [
        anndata.AnnData(np.ones((20, 1)), obsm={"X_ssl": rng.normal(size=(20, 3))})
        for _ in range(2)
    ]
    reference, query = cells
    query.obs_names = [f"new{i}" for i in range(20)]
    table = pd.DataFrame({"CD3/CD4": rng.normal(size=20)}, index=reference.obs_names)
    reference.obsm["protein"] = table
    scssl.tl.predict_modality(reference, query, n_neighbors=2)
    assert list(query.obsm["predicted_protein"]) == ["CD3|CD4"]
    query.write_h5ad(tmp_path / "query.h5ad")
    query.obsm["protein"] = table.set_index(query.obs_names)
    scores = scssl.tl.modality_scores(query, "protein", "predicted_protein")
    assert scores.loc[0, "n_features"] == 1
