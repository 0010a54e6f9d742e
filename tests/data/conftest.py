from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable
from typing import Any

import anndata as ad
import h5py
import numpy as np
import pytest
from scipy import sparse


def _with_index_types(X, indices: type, indptr: type):
    # Assigned after construction: SciPy unifies the two in its constructor.
    X.indices, X.indptr = X.indices.astype(indices), X.indptr.astype(indptr)
    return X


def _float16(X):
    X.data = X.data.astype(np.float16)
    return X


def _unsorted_with_duplicates(dense: np.ndarray):
    """Every value split into two stored halves, in descending order of columns."""
    csr = sparse.csr_matrix(dense)
    doubled = sparse.csr_matrix(dense.shape, dtype=dense.dtype)
    pieces = [slice(a, b) for a, b in itertools.pairwise(csr.indptr)]
    doubled.data = np.concatenate([np.repeat(csr.data[p][::-1], 2) for p in pieces]) / 2
    doubled.indices = np.concatenate([np.repeat(csr.indices[p][::-1], 2) for p in pieces])
    doubled.indptr = 2 * csr.indptr
    return doubled


def _with_stored_zeros(dense: np.ndarray):
    csr = sparse.csr_matrix(dense + 1)
    csr.data -= 1
    return csr


def _matrix(dense: np.ndarray):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PendingDeprecationWarning)
        return np.matrix(dense)


def _view_of(X: Any):
    padded = sparse.vstack([X, X]).tocsr() if sparse.issparse(X) else np.vstack([X, X])
    return ad.AnnData(padded)[: X.shape[0]].X


IN_MEMORY: dict[str, Callable[[np.ndarray], Any]] = {
    "csr_matrix": sparse.csr_matrix,
    "csr_array": sparse.csr_array,
    "csc_matrix": sparse.csc_matrix,
    "csc_array": sparse.csc_array,
    "csr_int64_indices": lambda d: _with_index_types(sparse.csr_matrix(d), np.int64, np.int64),
    "csr_mixed_indices": lambda d: _with_index_types(sparse.csr_matrix(d), np.int32, np.int64),
    "csc_mixed_indices": lambda d: _with_index_types(sparse.csc_matrix(d), np.int32, np.int64),
    "csr_unsorted_duplicates": _unsorted_with_duplicates,
    "csr_stored_zeros": _with_stored_zeros,
    "csr_float16": lambda d: _float16(sparse.csr_matrix(d)),
    "csc_float16": lambda d: _float16(sparse.csc_matrix(d)),
    "csr_uint8": lambda d: sparse.csr_matrix(d.astype(np.uint8)),
    "csr_float64": lambda d: sparse.csr_matrix(d.astype(np.float64)),
    "csr_view": lambda d: _view_of(sparse.csr_matrix(d)),
    "dense_c": np.ascontiguousarray,
    "dense_fortran": np.asfortranarray,
    "dense_float16": lambda d: d.astype(np.float16),
    "dense_int64": lambda d: d.astype(np.int64),
    "dense_strided": lambda d: np.repeat(d, 2, axis=1)[:, ::2],
    "dense_view": _view_of,
    "np_matrix": _matrix,
}
BACKED = ["backed_csr", "backed_csr_gzip", "backed_csc", "backed_dense", "h5py_dataset", "zarr_csr"]
DASK = ["dask_dense", "dask_csr", "dask_columns"]


@pytest.fixture(scope="session")
def in_memory_kinds():
    return IN_MEMORY


@pytest.fixture
def counts() -> np.ndarray:
    """57 cells by 23 genes, small enough that every value is exact in every dtype; one empty cell."""
    dense = np.random.default_rng(0).poisson(0.4, (57, 23)).astype(np.float32)
    dense[3] = 0
    assert (dense.sum(axis=1) == 0).sum() == 1
    return dense


@pytest.fixture(params=[*IN_MEMORY, *BACKED, *DASK])
def stored(request, tmp_path, counts):
    """The counts, in every way that they can be stored."""
    kind = request.param
    if kind in IN_MEMORY:
        yield IN_MEMORY[kind](counts)
    elif kind in DASK:
        da = pytest.importorskip("dask.array")
        if kind == "dask_csr":
            yield da.from_array(counts, chunks=(10, -1)).map_blocks(sparse.csr_matrix)
        else:
            yield da.from_array(counts, chunks=(10, 7 if kind == "dask_columns" else -1))
    elif kind == "h5py_dataset":
        with h5py.File(tmp_path / "x.h5", "w") as file:
            yield file.create_dataset("X", data=counts, chunks=(5, 6), compression="gzip")
    elif kind == "zarr_csr":
        import zarr
        from anndata.io import sparse_dataset, write_elem

        group = zarr.open_group(tmp_path / "x.zarr", mode="w")
        write_elem(group, "X", sparse.csr_matrix(counts))
        yield sparse_dataset(group["X"])
    else:
        form = {"csc": sparse.csc_matrix, "dense": np.asarray}.get(kind[7:], sparse.csr_matrix)
        path = tmp_path / "x.h5ad"
        compression = "gzip" if kind.endswith("gzip") else None
        ad.AnnData(form(counts)).write_h5ad(path, compression=compression)
        adata = ad.read_h5ad(path, backed="r")
        yield adata.X
        adata.file.close()
