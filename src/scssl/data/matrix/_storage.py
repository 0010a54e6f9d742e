"""What a matrix is stored as: the one place that knows the types an AnnData can hold."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse

SUPPORTED = (
    "SciPy CSR and CSC (matrix or array), NumPy arrays, AnnData's backed CSR, CSC and dense "
    "matrices (HDF5, Zarr), and dask arrays of these"
)

# Bytes that HDF5 keeps of an array at least.
_LEAST_CACHE = 2**18


@dataclass(frozen=True, eq=False)
class Compressed:
    """CSR or CSC arrays, in memory or on disk; on disk they are read by contiguous slices only."""

    shape: tuple[int, int]
    is_csr: bool
    data: Any
    indices: Any
    indptr: np.ndarray
    on_disk: bool

    @property
    def nnz(self) -> int:
        """Number of stored values."""
        return int(self.indptr[-1])


@dataclass(frozen=True, eq=False)
class Dense:
    """A dense 2-D array, in memory or on disk."""

    shape: tuple[int, int]
    array: Any
    on_disk: bool


@dataclass(frozen=True, eq=False)
class Chunked:
    """A dask array; `rows` and `columns` are the bounds of its chunks."""

    shape: tuple[int, int]
    array: Any
    rows: np.ndarray
    columns: np.ndarray

    def compute(self, i: int, j: int) -> Storage:
        """Load one chunk."""
        return open_storage(self.array.blocks[i, j].compute(), where="a chunk of the dask array")


Storage = Compressed | Dense | Chunked


def open_storage(X: Any, *, where: str = "X") -> Storage:
    """Recognise `X` without copying or reading its values.

    Parameters
    ----------
    X
        A matrix as found in ``adata.X``, ``adata.layers`` or ``adata.raw.X``.
    where
        How messages call it.

    Raises
    ------
    TypeError
        If the type, or the dtype of the values, is not supported.
    ValueError
        If `X` is not two-dimensional, or a dask array of unknown chunk sizes.
    """
    if X is None:
        raise TypeError(
            f"{where} is None: there is no matrix there. Is the data in a layer (`layer=...`)?"
        )
    storage = _recognise(X, where)
    if storage is None:
        convert = f" Convert it: {where} = {where}.tocsr()" if sparse.issparse(X) else ""
        name = f"{type(X).__module__}.{type(X).__qualname__}"
        raise TypeError(
            f"{where} is a {name}, which is not supported. Supported: {SUPPORTED}.{convert}"
        )
    return storage


def _recognise(X: Any, where: str) -> Storage | None:
    if sparse.issparse(X):
        return _in_memory_sparse(X, where) if getattr(X, "format", None) in {"csr", "csc"} else None
    if isinstance(X, np.ndarray) and not isinstance(X, np.ma.MaskedArray):
        # Subclasses (np.matrix, AnnData's views) have their own indexing; the base array has not.
        return _dense(np.asarray(X), where, on_disk=False)
    if _is_instance(X, "dask.array", "Array"):
        return _dask(X, where)
    if _is_instance(X, "anndata.abc", "CSRDataset", "CSCDataset"):
        group = X.group
        # Not X.dtype, for which AnnData would open the array itself and leave it open.
        data = _stored(group, "data")
        _check_dtype(data.dtype, where)
        return Compressed(
            shape=_shape(X, where),
            is_csr=X.format == "csr",
            data=data,
            indices=_stored(group, "indices"),
            indptr=np.asarray(group["indptr"][...], dtype=np.int64),
            on_disk=True,
        )
    if _is_instance(X, "h5py", "Dataset") or _is_instance(X, "zarr", "Array"):
        return _dense(X, where, on_disk=True)
    return None


def _stored(group: Any, name: str) -> Any:
    """An array of a file, of which HDF5 keeps little in memory.

    By default it keeps 8 MB of every array that is open, which of many data sets is more than all that is
    read of them at a time. Rows are read in ascending order: two chunks are enough.
    """
    array = group[name]
    if not _is_instance(array, "h5py", "Dataset") or array.chunks is None:
        return array
    import h5py

    size = 2 * int(np.prod(array.chunks)) * array.dtype.itemsize
    # Closed first: an array that is open keeps the cache that it was opened with.
    del array
    access = h5py.h5p.create(h5py.h5p.DATASET_ACCESS)
    access.set_chunk_cache(521, max(size, _LEAST_CACHE), 0.75)
    return h5py.Dataset(h5py.h5d.open(group.id, name.encode(), access))


def _is_instance(X: Any, module: str, *names: str) -> bool:
    """Whether `X` is of an optional library's class; if so, that library is loaded already."""
    loaded = sys.modules.get(module)
    return loaded is not None and isinstance(X, tuple(getattr(loaded, name) for name in names))


def _in_memory_sparse(X: Any, where: str) -> Compressed:
    _check_dtype(X.dtype, where)
    indptr = X.indptr
    # SciPy unifies mixed index types by copying all indices, at every access: do it here, where
    # only the short pointer array needs another type.
    if indptr.dtype != X.indices.dtype and indptr[-1] <= np.iinfo(X.indices.dtype).max:
        indptr = indptr.astype(X.indices.dtype)
    return Compressed(
        shape=_shape(X, where),
        is_csr=X.format == "csr",
        data=X.data,
        indices=X.indices,
        indptr=indptr,
        on_disk=False,
    )


def _dense(X: Any, where: str, *, on_disk: bool) -> Dense:
    _check_dtype(X.dtype, where)
    return Dense(shape=_shape(X, where), array=X, on_disk=on_disk)


def _dask(X: Any, where: str) -> Chunked:
    _check_dtype(X.dtype, where)
    if any(np.isnan(size) for sizes in X.chunks for size in sizes):
        raise ValueError(
            f"{where} is a dask array of unknown chunk sizes; first run {where}.compute_chunk_sizes()"
        )
    shape = _shape(X, where)
    rows, columns = (np.concatenate(([0], np.cumsum(sizes))) for sizes in X.chunks)
    return Chunked(shape=shape, array=X, rows=rows, columns=columns)


def _shape(X: Any, where: str) -> tuple[int, int]:
    if len(X.shape) != 2:
        raise ValueError(
            f"{where} must be two-dimensional (cells by genes), found shape {tuple(X.shape)}."
        )
    return int(X.shape[0]), int(X.shape[1])


def _check_dtype(dtype: np.dtype, where: str) -> None:
    if dtype.kind not in "biuf":
        raise TypeError(f"{where} must hold real numbers, found dtype {dtype}.")
    if not dtype.isnative:
        raise TypeError(
            f"{where} has a non-native byte order; convert it: {where} = {where}.astype('f4')"
        )


def major_ranges(indptr: np.ndarray, limit: int) -> Iterator[tuple[int, int]]:
    """Cut the major axis into consecutive ranges of at most `limit` stored values each."""
    start, n_major = 0, len(indptr) - 1
    while start < n_major:
        stop = int(np.searchsorted(indptr, indptr[start] + limit, side="right")) - 1
        stop = min(max(stop, start + 1), n_major)
        yield start, stop
        start = stop


def even_ranges(n: int, width: int) -> Iterator[tuple[int, int]]:
    """Cut ``range(n)`` into consecutive ranges of at most `width`."""
    width = max(1, width)
    for start in range(0, n, width):
        yield start, min(n, start + width)
