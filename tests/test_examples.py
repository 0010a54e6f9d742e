"""The examples of the documentation work on files in the layouts of others."""

from __future__ import annotations

import runpy
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

EXAMPLES = Path(__file__).parents[1] / "docs" / "examples"
TRAIN = {"max_epochs": 2, "progress": False}


def counts(n_cells=150, seed=0):
    """Cells of three types in two batches, in the layout of Open Problems: no X, but layers."""
    rng = np.random.default_rng(seed)
    kind, batch = np.arange(n_cells) % 3, np.arange(n_cells) // 3 % 2
    rate = np.where(np.arange(60) % 3 == kind[:, None], 6.0, 1.0) * (1 + 0.3 * batch[:, None])
    values = sparse.csr_matrix(rng.poisson(rate).astype(np.float32))
    obs = pd.DataFrame(
        {"label": pd.Categorical.from_codes(kind, list("abc")), "batch": batch.astype(str)},
        index=[f"cell{seed}_{i}" for i in range(n_cells)],
    )
    names = [f"ENSG{i:011}" for i in range(60)]
    var = pd.DataFrame({"feature_name": [f"GENE{i}" for i in range(60)], "hvg": True}, index=names)
    uns = {
        "dataset_id": "few_cells",
        "normalization_id": "log_cp10k",
        "dataset_organism": "homo_sapiens",
    }
    layers = {"counts": values, "normalized": values.log1p()}
    return ad.AnnData(obs=obs, var=var, layers=layers, uns=uns)


@pytest.fixture(scope="module")
def openproblems():
    return runpy.run_path(str(EXAMPLES / "openproblems.py"))


def test_batches_are_integrated_in_the_layout_of_open_problems(openproblems, tmp_path):
    adata = counts()
    del adata.obs["label"]
    adata.write_h5ad(tmp_path / "dataset.h5ad")
    openproblems["integrate"](tmp_path / "dataset.h5ad", tmp_path / "integrated.h5ad", **TRAIN)
    found = ad.read_h5ad(tmp_path / "integrated.h5ad")
    assert found.obsm["X_emb"].shape[0] == adata.n_obs
    assert np.isfinite(found.obsm["X_emb"]).all()
    assert found.uns == {
        **{"dataset_id": "few_cells", "normalization_id": "log_cp10k", "method_id": "scssl_simclr"}
    }
    pd.testing.assert_index_equal(found.obs_names, adata.obs_names)
    pd.testing.assert_index_equal(found.var_names, adata.var_names)
    assert (found.X, list(found.obs), list(found.layers)) == (None, [], [])


def test_labels_are_projected_in_the_layout_of_open_problems(openproblems, tmp_path):
    train, test = counts(), counts(90, seed=1)
    solution = test.obs.pop("label")
    train.write_h5ad(tmp_path / "train.h5ad")
    test.write_h5ad(tmp_path / "test.h5ad")
    files = [tmp_path / f"{name}.h5ad" for name in ("train", "test", "prediction")]
    openproblems["annotate"](*files, max_epochs=10, progress=False)
    found = ad.read_h5ad(files[-1])
    assert (found.obs["label_pred"].astype(str) == solution.astype(str)).mean() > 0.9
    assert list(found.obs) == ["label_pred"]
    assert found.uns["method_id"] == "scssl_maskedautoencoder"
    pd.testing.assert_index_equal(found.obs_names, test.obs_names)


def test_a_method_without_views_integrates_too(openproblems, tmp_path):
    counts(60).write_h5ad(tmp_path / "dataset.h5ad")
    files = tmp_path / "dataset.h5ad", tmp_path / "integrated.h5ad"
    openproblems["integrate"](*files, "MaskedAutoencoder", **TRAIN)
    assert "X_emb" in ad.read_h5ad(files[1]).obsm


@pytest.fixture(scope="module")
def cz_benchmarks():
    return runpy.run_path(str(EXAMPLES / "cz_benchmarks.py"))


def test_embedding_for_cz_benchmarks(cz_benchmarks, tmp_path):
    adata = counts(60)
    adata.X = adata.layers["counts"]
    values = cz_benchmarks["embedding"](adata, **TRAIN)
    assert values.shape[0] == 60
    assert not adata.obsm, "the cells are left as they are"


@pytest.mark.slow
def test_cz_benchmarks_scores_it(cz_benchmarks):
    """With the package itself, where it is installed."""
    pytest.importorskip("czbenchmarks")
    adata = counts()
    adata.X = adata.layers["counts"]
    values = cz_benchmarks["embedding"](adata, max_epochs=5, progress=False)
    scores = cz_benchmarks["judge"](adata, "label", "batch", values)
    assert len(scores) > 4
    assert all(np.isfinite(score.value) for score in scores)
