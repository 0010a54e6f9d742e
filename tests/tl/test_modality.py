from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse, stats
from scipy.spatial.distance import cosine
from sklearn.metrics import mean_squared_error

import scssl

SCORE = scssl.tl.modality_scores


@pytest.fixture
def adata():
    rng = np.random.default_rng(0)
    adata = anndata.AnnData(np.ones((40, 2), dtype=np.float32))
    adata.obs_names = [f"cell{i}" for i in range(40)]
    true = rng.gamma(2.0, 1.0, (40, 5)) * np.arange(1, 6)
    adata.obsm["true"] = true
    adata.obsm["found"] = true + rng.normal(size=true.shape)
    return adata


def test_against_scipy(adata):
    adata.obsm["true"][rng_mask := np.random.default_rng(1).random((40, 5)) < 0.2] = np.nan
    assert rng_mask.any()
    scores = SCORE(adata, "true", "found")
    true, found = adata.obsm["true"], adata.obsm["found"]
    pairs = [(true[ok, j], found[ok, j]) for j in range(5) for ok in [np.isfinite(true[:, j])]]
    cells = [(true[i, ok], found[i, ok]) for i in range(40) for ok in [np.isfinite(true[i])]]
    expected = {
        "pearson_per_feature": np.mean([stats.pearsonr(*pair).statistic for pair in pairs]),
        "spearman_per_feature": np.mean([stats.spearmanr(*pair).statistic for pair in pairs]),
        "pearson_per_cell": np.mean(
            [stats.pearsonr(*cell).statistic for cell in cells if len(cell[0]) >= 3]
        ),
        "mse": np.nanmean((true - found) ** 2),
        "cosine_per_feature": np.mean([1 - cosine(*pair) for pair in pairs]),
        "rmse_per_feature": np.mean([mean_squared_error(*pair) ** 0.5 for pair in pairs]),
    }
    for name, value in expected.items():
        assert scores.loc[0, name] == pytest.approx(value), name
    per_feature = adata.uns["modality_scores"]["per_feature"]
    assert per_feature["n_cells"].tolist() == np.isfinite(true).sum(0).tolist()
    np.testing.assert_allclose(
        per_feature["pearson"], [stats.pearsonr(*pair).statistic for pair in pairs]
    )
    assert scores.attrs["per_feature"]["feature"] == list("01234")


def test_frames_are_matched_by_name(adata):
    names = list("abcde")
    plain = SCORE(adata, "true", "found")
    adata.obsm["frame"] = pd.DataFrame(adata.obsm["true"], adata.obs_names, names)
    found = pd.DataFrame(adata.obsm["found"], adata.obs_names, names).assign(extra=0.0)
    adata.obsm["other"] = found[["extra", "e", "c", "a", "b", "d"]]
    scores = SCORE(adata, "frame", "other")
    pd.testing.assert_series_equal(scores.iloc[0, 2:], plain.iloc[0, 2:])
    adata.obsm["other"] = found[["a", "b"]]
    with pytest.raises(KeyError, match=r"adata.obsm\['other'\] has no column 'c'"):
        SCORE(adata, "frame", "other")


def test_some_cells(adata):
    rows = np.arange(10, 30)
    adata.obsm["sparse"] = sparse.csr_matrix(adata.obsm["found"])
    scores = SCORE(adata, "true", "sparse", indices=rows)
    assert scores.loc[0, "n_cells"] == 20
    pd.testing.assert_series_equal(
        scores.iloc[0, 2:], SCORE(adata[rows].copy(), "true", "found").iloc[0, 2:]
    )


def test_what_has_no_correlation_is_left_out(adata):
    adata.obsm["true"][:, 0] = 3.3
    adata.obsm["found"][:, 1] = 0.1
    adata.obsm["true"][2:, 2] = np.nan
    scores = SCORE(adata, "true", "found")
    per_feature = adata.uns["modality_scores"]["per_feature"]
    assert per_feature["pearson"].isna().tolist() == [True, True, True, False, False]
    assert scores.loc[0, "pearson_per_feature"] == per_feature["pearson"][3:].mean()
    assert np.isfinite(per_feature["mse"]).all()
    adata.obsm["true"][:, 2] = np.nan
    assert SCORE(adata, "true", "found").loc[0, "n_features"] == 4


def test_bad_input(adata):
    with pytest.raises(KeyError, match="adata.obsm has no 'protein'; it has 'true', 'found'"):
        SCORE(adata, "protein", "found")
    adata.obsm["narrow"] = adata.obsm["found"][:, :3]
    with pytest.raises(ValueError, match="has 5 features.*has 3"):
        SCORE(adata, "true", "narrow")
    adata.obsm["words"] = np.full((40, 5), "x")
    with pytest.raises(ValueError, match="does not hold numbers"):
        SCORE(adata, "true", "words")
    adata.obsm["found"][3, 2] = np.nan
    with pytest.raises(ValueError, match="not finite in cell 'cell3', feature 2"):
        SCORE(adata, "true", "found")
    adata.obsm["true"][:] = np.nan
    with pytest.raises(ValueError, match="No value .* is measured"):
        SCORE(adata, "true", "found")


def test_a_feature_that_is_all_zero_has_no_cosine(adata):
    adata.obsm["true"][:, 2] = 0
    scores = SCORE(adata, "true", "found")
    assert np.isnan(scores.attrs["per_feature"]["cosine"]).tolist() == [j == 2 for j in range(5)]
    assert np.isfinite(scores.loc[0, "cosine_per_feature"])
