from __future__ import annotations

from scipy import sparse

import scssl


def test_pbmc68k_reduced_is_what_scanpy_keeps_in_raw():
    adata = scssl.datasets.pbmc68k_reduced()
    assert adata.shape == (700, 765)
    assert sparse.issparse(adata.X)
    assert adata.X.min() == 0
    assert adata.obs["bulk_labels"].nunique() == 10
    assert not len(adata.obsm)
    assert not len(adata.obsp)
    assert adata.raw is None
    assert set(adata.uns) == {"bulk_labels_colors", "louvain_colors"}


def test_every_call_gives_data_of_its_own():
    first = scssl.datasets.pbmc68k_reduced()
    first.X.data[:] = 0
    assert scssl.datasets.pbmc68k_reduced().X.max() > 5
