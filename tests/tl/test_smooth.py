"""Smoothed embeddings: the mean of the neighbours, those of a reference, and what cannot be smoothed."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pytest
from scipy.spatial.distance import cdist

import scssl


def cells(n_cells=40, seed=0):
    adata = ad.AnnData(shape=(n_cells, 0))
    adata.obs_names = [f"cell{seed}_{i}" for i in range(n_cells)]
    adata.obsm["X_ssl"] = np.random.default_rng(seed).normal(size=(n_cells, 3)).astype(np.float32)
    return adata


@pytest.mark.parametrize("exact", [True, False])
def test_a_cell_is_averaged_with_its_nearest(exact, monkeypatch):
    if not exact:
        monkeypatch.setattr("scssl.tl._smooth.EXACT_PAIRS", 0)
    adata = cells(200)
    before = adata.obsm["X_ssl"].copy()
    assert scssl.tl.smooth(adata, n_neighbors=4, weight=0.25) is None
    distance = cdist(before, before)
    np.fill_diagonal(distance, np.inf)
    near = np.argsort(distance, axis=1)[:, :4]
    expected = 0.75 * before + 0.25 * before[near].mean(axis=1)
    same = np.isclose(adata.obsm["X_smooth"], expected, atol=1e-5).all(axis=1)
    assert same.mean() >= (1 if exact else 0.95)
    assert adata.obsm["X_smooth"].dtype == np.float32
    np.testing.assert_array_equal(adata.obsm["X_ssl"], before)
    params = {"use_rep": "X_ssl", "n_neighbors": 4, "weight": 0.25}
    assert adata.uns["X_smooth"]["params"] == params


def test_cells_of_a_query_know_nothing_of_each_other():
    reference, query = cells(), cells(9, seed=1)
    scssl.tl.smooth(query, reference=reference, n_neighbors=5, weight=1, key_added="all")
    known, new = reference.obsm["X_ssl"], query.obsm["X_ssl"]
    near = np.argsort(cdist(new, known), axis=1)[:, :5]
    np.testing.assert_allclose(query.obsm["all"], known[near].mean(axis=1), atol=1e-5)
    alone = scssl.tl.smooth(
        query[:1].copy(), reference=reference, n_neighbors=5, weight=1, key_added="one", copy=True
    )
    np.testing.assert_array_equal(alone.obsm["one"], query.obsm["all"][:1])


def test_without_weight_nothing_moves():
    adata = scssl.tl.smooth(cells(), weight=0, copy=True)
    np.testing.assert_array_equal(adata.obsm["X_smooth"], adata.obsm["X_ssl"])


def test_few_labels_are_worth_more():
    """Types that overlap: a labelled cell is nearer to its type when both are smoothed."""
    rng = np.random.default_rng(0)
    adata, types = cells(400), np.repeat(list("abcd"), 100)
    adata.obs["cell_type"] = types
    centres = 4 * np.eye(4, 20)
    adata.obsm["X_ssl"] = centres[np.repeat(range(4), 100)] + rng.normal(size=(400, 20))
    scssl.tl.smooth(adata)
    rows = [
        scssl.tl.linear_probe(
            adata, "cell_type", use_rep=["X_ssl", "X_smooth"], n_labels_per_class=1, rng=seed
        ).set_index("use_rep")["macro_f1"]
        for seed in range(5)
    ]
    mean = sum(rows) / 5
    assert mean["X_smooth"] > mean["X_ssl"] + 0.05


def test_what_cannot_be_smoothed_is_refused():
    with pytest.raises(ValueError, match=r"15 is more than the 8 other cells .* `n_neighbors=8`"):
        scssl.tl.smooth(cells(9))
    with pytest.raises(KeyError, match="X_pca"):
        scssl.tl.smooth(cells(), "X_pca")
    other = cells()
    other.obsm["X_ssl"] = other.obsm["X_ssl"][:, :2]
    with pytest.raises(ValueError, match="2 dimensions in `reference` and 3 in `query`"):
        scssl.tl.smooth(cells(), reference=other)
    with pytest.raises(ValueError, match="weight"):
        scssl.tl.smooth(cells(), weight=2)
