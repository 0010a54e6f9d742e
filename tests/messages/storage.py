"""How matrices are stored."""

from __future__ import annotations

import numpy as np
import scanpy as sc
from scipy import sparse

from . import case
from ._data import cells

CHAPTER = "Values and genes"
SETUP = "scssl.model.MaskedAutoencoder.setup_anndata(adata)"


@case(CHAPTER, "A sparse matrix is neither CSR nor CSC")
def neither_csr_nor_csc():
    return {"X": sparse.lil_matrix(cells().X)}, 'scssl.data.scan_matrix(X, where="X")'


@case(CHAPTER, "A dask array does not know how large it is")
def dask_of_unknown_size():
    import dask.array

    counts = dask.array.from_array(cells().X, chunks=(20, 30))
    X = counts[counts.sum(axis=1) > 5]
    return {"X": X}, 'scssl.data.scan_matrix(X, where="X")'


@case(CHAPTER, "Values were written by a machine with another byte order")
def another_byte_order():
    adata = cells()
    adata.X = adata.X.astype(">f4")
    return {"adata": adata}, SETUP


@case(CHAPTER, "Values were scaled, and the logarithms are in adata.raw")
def scaled_values():
    adata = cells(120, 60)
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    adata.raw = adata.copy()
    sc.pp.scale(adata)
    adata.X = np.asarray(adata.X, dtype=np.float32)
    return {"adata": adata}, SETUP
