"""Embeddings side by side: equal variance, the factors of a reference, and what cannot be fused."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pytest
from scipy.spatial.distance import pdist

import scssl


def cells(n_cells=40, seed=0):
    rng = np.random.default_rng(seed)
    adata = ad.AnnData(shape=(n_cells, 0))
    adata.obs_names = [f"cell{seed}_{i}" for i in range(n_cells)]
    adata.obsm["X_pca"] = 30 * rng.normal(5, 1, (n_cells, 7))
    adata.obsm["X_ssl"] = rng.normal(0, 0.01, (n_cells, 3)).astype(np.float32)
    return adata


def test_parts_have_the_same_share_of_the_distances_of_cells():
    adata = cells()
    assert scssl.tl.fuse(adata, ["X_pca", "X_ssl"]) is None
    fused = adata.obsm["X_fused"]
    assert (fused.shape, fused.dtype) == ((40, 10), np.float32)
    for part, before in ((fused[:, :7], "X_pca"), (fused[:, 7:], "X_ssl")):
        assert part.astype(float).var(axis=0).sum() == pytest.approx(1, rel=1e-5)
        # One factor for all dimensions of a part.
        ratio = pdist(part) / pdist(adata.obsm[before])
        np.testing.assert_allclose(ratio, ratio[0], rtol=1e-3)
    squared = [np.mean(pdist(part) ** 2) for part in (fused[:, :7], fused[:, 7:])]
    assert squared[0] == pytest.approx(squared[1], rel=1e-4)


def test_a_query_is_scaled_as_its_reference_is(tmp_path):
    reference, query = cells(), cells(9, seed=1)
    query.obsm["X_pca"] *= 10
    scssl.tl.fuse(reference, ["X_pca", "X_ssl"], key_added="both")
    reference.write_h5ad(tmp_path / "reference.h5ad")
    reference = ad.read_h5ad(tmp_path / "reference.h5ad")
    scssl.tl.fuse(query, ["X_pca", "X_ssl"], reference=reference, key_added="both")
    scales = reference.uns["both"]["scales"]
    expected = np.hstack([query.obsm["X_pca"] / scales[0], query.obsm["X_ssl"] / scales[1]])
    np.testing.assert_allclose(query.obsm["both"], expected, rtol=1e-5)
    np.testing.assert_array_equal(query.uns["both"]["scales"], scales)
    with pytest.raises(ValueError, match=r"fused of 'X_pca' \(7\), 'X_ssl' \(3\), and `adata` has"):
        scssl.tl.fuse(query, ["X_ssl", "X_pca"], reference=reference, key_added="both")
    with pytest.raises(KeyError, match="reference.uns has no 'X_fused'"):
        scssl.tl.fuse(query, ["X_pca", "X_ssl"], reference=reference)


def test_what_cannot_be_fused_is_refused():
    adata = cells()
    with pytest.raises(ValueError, match=r"'X_pca' alone: `embeddings=\['X_pca', 'X_ssl'\]`"):
        scssl.tl.fuse(adata, "X_pca")
    with pytest.raises(ValueError, match="each once"):
        scssl.tl.fuse(adata, ["X_pca", "X_pca"])
    adata.obsm["X_flat"] = np.ones((40, 2))
    with pytest.raises(ValueError, match=r"adata.obsm\['X_flat'\] is the same in all cells"):
        scssl.tl.fuse(adata, ["X_pca", "X_flat", "X_ssl"])
    assert "X_fused" not in adata.obsm
