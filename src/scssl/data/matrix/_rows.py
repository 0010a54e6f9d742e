"""Rows of a matrix in any storage that an AnnData can hold: read in any order, normalised."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from scipy import sparse

from scssl._checks import check_choice

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

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


def is_on_disk(X: Any) -> bool:
    """Whether values of a matrix are read, or computed, each time that they are asked for."""
    storage = X if isinstance(X, Storage) else open_storage(X)
    return isinstance(storage, Chunked) or storage.on_disk


def open_chunks(X: Any, *, where: str = "X") -> Chunked | None:
    """The chunks of a dask array; `None` of any other matrix."""
    storage = open_storage(X, where=where)
    return storage if isinstance(storage, Chunked) else None


def open_storage(X: Any, *, where: str = "X") -> Storage:
    """Recognise a matrix of an AnnData without copying or reading its values, or refuse it."""
    if X is None:
        raise TypeError(f"{where} is None: there is no matrix there. Is the data in a layer?")
    storage = _recognise(X, where)
    if storage is None:
        convert = f" Convert it: `{where} = {where}.tocsr()`" if sparse.issparse(X) else ""
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
    indices, indptr = signed(X.indices), signed(X.indptr)
    # SciPy unifies mixed index types by copying all indices, at every access: do it here, where
    # only the short pointer array needs another type.
    if indptr.dtype != indices.dtype and indptr[-1] <= np.iinfo(indices.dtype).max:
        indptr = indptr.astype(indices.dtype)
    return Compressed(
        shape=_shape(X, where),
        is_csr=X.format == "csr",
        data=X.data,
        indices=indices,
        indptr=indptr,
        on_disk=False,
    )


def signed(indices: np.ndarray) -> np.ndarray:
    """Indices as int32 or int64; SciPy's kernels read beyond arrays of any other type."""
    if indices.dtype in (np.int32, np.int64):
        return indices
    return indices.astype(np.int64 if indices.dtype.itemsize > 3 else np.int32)


def _dense(X: Any, where: str, *, on_disk: bool) -> Dense:
    _check_dtype(X.dtype, where)
    return Dense(shape=_shape(X, where), array=X, on_disk=on_disk)


def _dask(X: Any, where: str) -> Chunked:
    _check_dtype(X.dtype, where)
    if any(np.isnan(size) for sizes in X.chunks for size in sizes):
        raise ValueError(
            f"{where} is a dask array of unknown chunk sizes. Compute them: "
            f"`{where}.compute_chunk_sizes()`"
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
            f"{where} has a non-native byte order. Convert it: `{where} = {where}.astype('f4')`"
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


InputKind = Literal["counts", "lognorm"]
INPUT_KINDS: tuple[InputKind, ...] = ("counts", "lognorm")
# Genes of a panel at most.
PANEL_GENES = 1000

# Sorting and selecting this many values at a time stays in the second-level cache: twice as fast.
_CACHE_VALUES = 2**15


def csr_from_parts(
    data: np.ndarray, indices: np.ndarray, indptr: np.ndarray, shape: tuple[int, int]
) -> sparse.csr_matrix:
    """CSR matrix on exactly these arrays, without SciPy's checks and copies."""
    csr = sparse.csr_matrix(shape, dtype=data.dtype)
    csr.data, csr.indices, csr.indptr = data, indices, indptr
    return csr


def remap_columns(
    csr: sparse.csr_matrix, columns: np.ndarray, n_columns: int, *, drops: bool, sorts: bool
) -> sparse.csr_matrix:
    """Move each column of a canonical CSR matrix to `columns` (int32, negative: dropped), and sort.

    `drops` and `sorts` say whether any column is dropped, and whether the order of the others changes.
    """
    data, indices = np.empty_like(csr.data), np.empty_like(csr.indices, dtype=np.int32)
    indptr = np.zeros_like(csr.indptr)
    end = 0
    for first, last in major_ranges(csr.indptr, _CACHE_VALUES):
        part = slice(csr.indptr[first], csr.indptr[last])
        pointers = csr.indptr[first : last + 1] - csr.indptr[first]
        # "clip" skips the bounds check, which the shape of the matrix already guarantees.
        moved, values = np.take(columns, csr.indices[part], mode="clip"), csr.data[part]
        if drops:
            kept = np.flatnonzero(moved >= 0)
            moved, values = moved[kept], values[kept]
            pointers = np.searchsorted(kept, pointers)
        if sorts:
            moved, values = _sort_rows(pointers, moved, values)
        start, end = end, end + len(moved)
        indices[start:end], data[start:end] = moved, values
        indptr[first + 1 : last + 1] = start + pointers[1:]
    return csr_from_parts(data[:end], indices[:end], indptr, (csr.shape[0], n_columns))


def _sort_rows(
    indptr: np.ndarray, indices: np.ndarray, data: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Sort the entries of every row by index.

    Row, index and the bits of the value are packed into one integer each, because NumPy sorts plain
    integers several times faster than SciPy sorts pairs.
    """
    if not indices.size:
        return indices, data
    width = int(indices.max()) + 1
    row_offset = np.arange(len(indptr) - 1, dtype=np.uint64) * np.uint64(width)
    offset = np.repeat(row_offset, np.diff(indptr))
    keys = offset + indices.astype(np.uint64)
    if data.dtype != np.float32 or width * (len(indptr) - 1) > 2**32:
        order = np.argsort(keys, kind="stable")
        return indices[order], data[order]
    keys <<= np.uint64(32)
    keys |= data.view(np.uint32)
    keys.sort()
    values = keys.astype(np.uint32).view(np.float32)
    keys >>= np.uint64(32)
    keys -= offset
    return keys.astype(np.int32), values


def canonical_csr(
    data: np.ndarray,
    indices: np.ndarray,
    indptr: np.ndarray,
    shape: tuple[int, int],
    *,
    is_canonical: bool = False,
) -> sparse.csr_matrix:
    """Float32 CSR matrix with int32 indices, sorted, without duplicates or stored zeros.

    The arrays may be changed in place. `is_canonical`: nothing needs to be sorted, summed or dropped.
    """
    index_type = np.int32 if len(data) <= np.iinfo(np.int32).max else np.int64
    # To float32 before duplicates are summed: small integer types would overflow.
    csr = csr_from_parts(
        data.astype(np.float32, copy=False),
        indices.astype(index_type, copy=False),
        indptr.astype(index_type, copy=False),
        shape,
    )
    if is_canonical:
        return csr
    csr.sum_duplicates()
    if np.count_nonzero(csr.data) != len(csr.data):
        csr.eliminate_zeros()
    return csr


def dense_to_csr(block: np.ndarray) -> sparse.csr_matrix:
    """Non-zeros of a dense block as float32 CSR."""
    block = np.ascontiguousarray(block)
    n_rows, n_columns = block.shape
    stored = block != 0
    flat = np.flatnonzero(stored)
    indptr = np.concatenate(([0], np.cumsum(np.count_nonzero(stored, axis=1))))
    row_starts = np.repeat(np.arange(n_rows) * n_columns, np.diff(indptr))
    return canonical_csr(
        block.ravel()[flat], flat - row_starts, indptr, block.shape, is_canonical=True
    )


def gatherable(data: np.ndarray) -> tuple[np.ndarray, Callable[[np.ndarray], np.ndarray]]:
    """View of `data` that SciPy's kernels can move, and the way back.

    SciPy has no float16 kernels; to move values, their bits are enough.
    """
    if data.dtype == np.float16:
        return data.view(np.uint16), lambda moved: moved.view(np.float16)
    return data, lambda moved: moved


def row_sums(csr: sparse.csr_matrix, dtype: Any = None) -> np.ndarray:
    """Sum of the stored values of every row, by default in the dtype of the values.

    NumPy sums each segment pairwise and by itself, so the bits of a row do not depend on the rows
    around it; counts in float32 are exact up to 2**24.
    """
    sums = np.zeros(csr.shape[0], dtype=csr.data.dtype if dtype is None else dtype)
    filled = np.flatnonzero(np.diff(csr.indptr))
    if filled.size:
        sums[filled] = np.add.reduceat(csr.data, csr.indptr[filled], dtype=dtype)
    return sums


def typical_sum(sums: np.ndarray) -> float:
    """Median of the sums of the cells that are not empty, 0 where all are."""
    filled = sums[sums > 0]
    return float(np.median(filled)) if len(filled) else 0.0


def usual_target_sum(n_genes: int, typical: float) -> float:
    """Sum of a cell before the logarithm where the user leaves it open: 10,000, for panels what is `typical`.

    Sums of a panel are far below 10,000; scaled up to it, a count of one weighs almost as much as ten. Macro-F1
    on a masked autoencoder beside 50 components, by 15 nearest neighbours and by logistic regression with 5
    labels a class, for 1e4 and for the median: osmfish_ss_cortex (33 genes) .271 .283 and .426 .495, starmap_mpfc
    (166) .540 .501 and .561 .529, primate_neuro (300) .642 .575 and .643 .657, visium_mouse_cortex (648) .486 .507
    and .509 .555. Of eleven whole transcriptomes, on components alone: labels are told as well on the mean (.778 and
    .778 with 5 labels, .869 and .874 with all), by neighbours .748 and .774, better in five and worse in five; 1e4 is
    published.

    Parameters
    ----------
    n_genes
        Number of genes.
    typical
        Median of the sums of the cells, see :func:`typical_sum`.
    """
    if n_genes > PANEL_GENES or not typical > 0:
        return 1e4
    return float(f"{typical:.6g}")


def rows_of(csr: sparse.csr_matrix, start: int, stop: int) -> sparse.csr_matrix:
    """Rows of a block, on its memory."""
    low, high = csr.indptr[start], csr.indptr[stop]
    return csr_from_parts(
        csr.data[low:high],
        csr.indices[low:high],
        csr.indptr[start : stop + 1] - low,
        (stop - start, csr.shape[1]),
    )


def normalize_rows(
    csr: sparse.csr_matrix,
    *,
    input_kind: InputKind,
    target_sum: float | None = 1e4,
    library: np.ndarray | None = None,
) -> tuple[sparse.csr_matrix, np.ndarray]:
    """Normalise the rows of a sparse block in place.

    Counts are scaled to a common sum per cell and log-transformed, on the stored values only; cells
    without counts stay zero. Log-normalised values are passed through. Every path of the package
    (training, embedding, tools) goes through this function.

    Parameters
    ----------
    csr
        Block of cells with float32 values. **Its values are overwritten**; it shares no memory with
        the user's matrix when it comes from :meth:`RowSource.read`.
    input_kind
        ``"counts"`` or ``"lognorm"``.
    target_sum
        Sum of every cell before the logarithm (counts only); `None`: counts as they are.
    library
        What is scaled to that sum, shape ``(n_rows,)``; by default the sum of each row.

    Returns
    -------
    csr
        The same object, normalised.
    library
        What was scaled to `target_sum`, float32 of shape ``(n_rows, 1)``.

    Raises
    ------
    TypeError
        If the values are not float32.
    ValueError
        If `input_kind` is unknown.

    Examples
    --------
    >>> import numpy as np
    >>> from scipy import sparse
    >>> from scssl.data import normalize_rows
    >>> counts = sparse.csr_matrix(np.array([[1, 0, 3], [0, 0, 0]], dtype=np.float32))
    >>> normalised, library = normalize_rows(counts, input_kind="counts", target_sum=4)
    >>> np.expm1(normalised.toarray()).round(3).tolist()
    [[1.0, 0.0, 3.0], [0.0, 0.0, 0.0]]
    >>> library.ravel().tolist()
    [4.0, 0.0]
    """
    check_choice("input_kind", input_kind, INPUT_KINDS)
    if csr.data.dtype != np.float32:
        raise TypeError(f"normalize_rows works in place on float32 values, found {csr.data.dtype}.")
    library = row_sums(csr) if library is None else library
    if input_kind == "counts":
        if target_sum is not None:
            scale = np.zeros_like(library)
            np.divide(np.float32(target_sum), library, out=scale, where=library > 0)
            csr.data *= np.repeat(scale, np.diff(csr.indptr))
        np.log1p(csr.data, out=csr.data)
    return csr, library[:, None]


# Values in flight while reading: 2**22 float32 are 16 MiB, small beside any batch of a large model.
_BLOCK_VALUES = 2**22
# Values of one grouped read, for sources where reading rows one batch at a time is wasteful.
_GROUP_VALUES = 2**24
# Reading over a gap of this many stored values is cheaper than a second call into HDF5.
_GAP_VALUES = 2**14


class RowSource(ABC):
    """Cells of a matrix, readable in any order. Made by :func:`open_rows`.

    Subclass it and implement :meth:`_gather` to read from somewhere else.

    Parameters
    ----------
    shape
        Number of cells and genes.
    rows_per_read
        How many rows to ask for at once where single batches are expensive; ``None`` where any
        number is fine.
    """

    def __init__(self, shape: tuple[int, int], *, rows_per_read: int | None = None) -> None:
        self.shape = shape
        self.rows_per_read = rows_per_read

    @property
    def cheap_random_access(self) -> bool:
        """Whether reading a few random rows costs no more than their share of all rows."""
        return self.rows_per_read is None

    @property
    def reads_ahead(self) -> bool:
        """Whether rows are worth reading, in another thread, while those before are worked on."""
        return False

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.shape[0]:,} cells × {self.shape[1]:,} genes)"

    def read(self, rows: ArrayLike) -> sparse.csr_matrix:
        """Read rows, in the order asked for.

        Parameters
        ----------
        rows
            Row numbers, in ``[0, n_cells)``; any order, repeats allowed.

        Returns
        -------
        scipy.sparse.csr_matrix
            A block of its own memory, float32, indices sorted, no duplicates, no stored zeros.

        Raises
        ------
        TypeError
            If `rows` are not whole numbers.
        ValueError
            If a row number is out of range.

        Examples
        --------
        >>> import numpy as np
        >>> from scssl.data import open_rows
        >>> source = open_rows(np.array([[0, 1], [2, 3], [4, 0]], dtype=np.int16))
        >>> source.read([2, 0, 2]).toarray().tolist()
        [[4.0, 0.0], [0.0, 1.0], [4.0, 0.0]]
        """
        rows = np.asarray(rows)
        if rows.ndim != 1 or (rows.size and rows.dtype.kind not in "iu"):
            raise TypeError(
                f"`rows` must be a 1-D array of integers, found {rows.ndim}-D {rows.dtype}."
            )
        rows = rows.astype(np.int64, copy=False)
        if not rows.size:
            return sparse.csr_matrix((0, self.shape[1]), dtype=np.float32)
        if rows.min() < 0 or rows.max() >= self.shape[0]:
            raise ValueError(
                f"Row numbers must be in [0, {self.shape[0]:,}), "
                f"found {rows.min():,} to {rows.max():,}."
            )
        return self._gather(rows)

    @abstractmethod
    def _gather(self, rows: np.ndarray) -> sparse.csr_matrix:
        """Canonical float32 block of valid int64 `rows`."""


class _SortedRowSource(RowSource):
    """Sources that read ascending rows only: sort, read each row once, put back in order."""

    def _gather(self, rows: np.ndarray) -> sparse.csr_matrix:
        ascending, inverse = np.unique(rows, return_inverse=True)
        block = self._gather_ascending(ascending)
        if len(ascending) == len(rows) and bool((np.diff(rows) > 0).all()):
            return block
        return block[inverse]

    @abstractmethod
    def _gather_ascending(self, rows: np.ndarray) -> sparse.csr_matrix: ...


class _CsrRows(RowSource):
    def __init__(self, storage: Compressed) -> None:
        super().__init__(storage.shape)
        self._storage = storage
        self._data, self._from_bits = gatherable(storage.data)

    @cached_property
    def _is_canonical(self) -> bool:
        """Checked once for the whole matrix, so that batches need not be."""
        storage = self._storage
        whole = csr_from_parts(self._data, storage.indices, storage.indptr, self.shape)
        return (
            storage.indptr.dtype == storage.indices.dtype
            and np.count_nonzero(storage.data) == len(storage.data)
            and bool(whole.has_canonical_format)
        )

    def _gather(self, rows: np.ndarray) -> sparse.csr_matrix:
        indptr, indices = self._storage.indptr, self._storage.indices
        if indptr.dtype == indices.dtype:
            block = csr_from_parts(self._data, indices, indptr, self.shape)[rows]
            data, indices, indptr = block.data, block.indices, block.indptr
        else:
            positions, indptr = _positions(indptr[rows], indptr[rows + 1])
            data, indices = self._data[positions], indices[positions]
        shape = (len(rows), self.shape[1])
        return canonical_csr(
            self._from_bits(data), indices, indptr, shape, is_canonical=self._is_canonical
        )


class _CscRows(RowSource):
    """Rows of column-compressed data: one pass over all stored values per read."""

    def __init__(self, storage: Compressed) -> None:
        per_row = max(1, storage.nnz // max(1, storage.shape[0]))
        super().__init__(storage.shape, rows_per_read=max(1, _GROUP_VALUES // per_row))
        self._storage = storage

    def _gather(self, rows: np.ndarray) -> sparse.csr_matrix:
        storage = self._storage
        limit = _BLOCK_VALUES if storage.on_disk else 2**31 - 1
        pieces = []
        for first, last in major_ranges(storage.indptr, limit):
            start, stop = int(storage.indptr[first]), int(storage.indptr[last])
            data, from_bits = gatherable(storage.data[start:stop])
            indices = signed(storage.indices[start:stop])
            indptr = (storage.indptr[first : last + 1] - start).astype(indices.dtype, copy=False)
            columns = sparse.csc_matrix((self.shape[0], last - first), dtype=data.dtype)
            columns.data, columns.indices, columns.indptr = data, indices, indptr
            block = columns[rows].tocsr()
            pieces.append(
                canonical_csr(from_bits(block.data), block.indices, block.indptr, block.shape)
            )
        if not pieces:
            return sparse.csr_matrix((len(rows), self.shape[1]), dtype=np.float32)
        return pieces[0] if len(pieces) == 1 else sparse.hstack(pieces, format="csr")


class _DenseRows(RowSource):
    def __init__(self, storage: Dense) -> None:
        super().__init__(storage.shape)
        self._array = storage.array

    def _gather(self, rows: np.ndarray) -> sparse.csr_matrix:
        step = _BLOCK_VALUES // max(1, self.shape[1])
        # Not np.take: it copies a whole array that is not C-contiguous.
        return _stack(
            dense_to_csr(self._array[rows[start:stop]])
            for start, stop in even_ranges(len(rows), step)
        )


class _StoredCsrRows(_SortedRowSource):
    def __init__(self, storage: Compressed) -> None:
        per_row = max(1, storage.nnz // max(1, storage.shape[0]))
        super().__init__(storage.shape, rows_per_read=max(1, _GROUP_VALUES // per_row))
        self._storage = storage

    def _gather_ascending(self, rows: np.ndarray) -> sparse.csr_matrix:
        storage = self._storage
        starts, ends = storage.indptr[rows], storage.indptr[rows + 1]
        data, indices = [], []
        for first, last in _runs(starts, ends, gap=_GAP_VALUES, limit=_BLOCK_VALUES):
            low, high = int(starts[first]), int(ends[last - 1])
            values, columns = storage.data[low:high], storage.indices[low:high]
            lengths = ends[first:last] - starts[first:last]
            # Of neighbours there is nothing in between.
            if lengths.sum() != high - low:
                positions, _ = _positions(starts[first:last] - low, ends[first:last] - low)
                values, columns = values[positions], columns[positions]
            data.append(values)
            indices.append(columns)
        indptr = np.concatenate(([0], np.cumsum(ends - starts)))
        shape = (len(rows), self.shape[1])
        return canonical_csr(np.concatenate(data), np.concatenate(indices), indptr, shape)


class _StoredDenseRows(_SortedRowSource):
    def __init__(self, storage: Dense) -> None:
        n_genes = max(1, storage.shape[1])
        super().__init__(storage.shape, rows_per_read=max(1, 2 * _GROUP_VALUES // n_genes))
        self._array = storage.array

    def _gather_ascending(self, rows: np.ndarray) -> sparse.csr_matrix:
        n_genes = self.shape[1]
        runs = _runs(rows * n_genes, (rows + 1) * n_genes, gap=_GAP_VALUES, limit=_BLOCK_VALUES)
        return _stack(self._read_run(rows[first:last]) for first, last in runs)

    def _read_run(self, rows: np.ndarray) -> sparse.csr_matrix:
        block = self._array[int(rows[0]) : int(rows[-1]) + 1]
        if len(block) != len(rows):
            block = block[rows - rows[0]]
        return dense_to_csr(block)


class _ChunkedRows(_SortedRowSource):
    """Rows of a dask array: every chunk that holds one of the rows is computed once per read."""

    def __init__(self, storage: Chunked) -> None:
        longest = int(np.diff(storage.rows).max(initial=1))
        n_genes = max(1, storage.shape[1])
        rows_per_read = max(2 * longest, 2 * _GROUP_VALUES // n_genes)
        super().__init__(storage.shape, rows_per_read=rows_per_read)
        self._storage = storage

    def _gather_ascending(self, rows: np.ndarray) -> sparse.csr_matrix:
        storage = self._storage
        chunk_of_row = np.searchsorted(storage.rows, rows, side="right") - 1
        pieces = []
        for i in np.unique(chunk_of_row):
            local = rows[chunk_of_row == i] - storage.rows[i]
            across = [
                _open(storage.compute(int(i), j)).read(local)
                for j in range(len(storage.columns) - 1)
            ]
            pieces.append(across[0] if len(across) == 1 else sparse.hstack(across, format="csr"))
        return _stack(pieces)


def open_rows(X: Any, *, where: str = "X") -> RowSource:
    """Open a matrix for reading rows in any order.

    Parameters
    ----------
    X
        CSR or CSC (matrix or array), dense, backed (HDF5 or Zarr; sparse or dense) or dask matrix
        of any real dtype, as found in ``adata.X``. It is neither copied nor changed.
    where
        How messages call it, for instance ``'adata.layers["counts"]'``.

    Returns
    -------
    RowSource
        Reads float32 CSR blocks in the order of the rows asked for.

    Raises
    ------
    TypeError
        If the type of `X` or of its values is not supported.
    ValueError
        If `X` is not two-dimensional.

    Examples
    --------
    >>> from scipy import sparse
    >>> from scssl.data import open_rows
    >>> source = open_rows(sparse.random(100, 20, density=0.1, format="csc"))
    >>> source.shape, source.cheap_random_access
    ((100, 20), False)
    >>> source.read([5, 3]).shape
    (2, 20)
    """
    return _open(open_storage(X, where=where))


def open_csr(data: Any, indices: Any, indptr: Any, shape: tuple[int, int]) -> RowSource:
    """Rows of CSR arrays in a file, of a layout that AnnData does not know."""
    _check_dtype(data.dtype, "X")
    return _open(Compressed(shape, True, data, indices, np.asarray(indptr[...], np.int64), True))


def _open(storage: Compressed | Dense | Chunked) -> RowSource:
    if isinstance(storage, Chunked):
        return _ChunkedRows(storage)
    if isinstance(storage, Dense):
        return _StoredDenseRows(storage) if storage.on_disk else _DenseRows(storage)
    if not storage.is_csr:
        return _CscRows(storage)
    return _StoredCsrRows(storage) if storage.on_disk else _CsrRows(storage)


def _stack(blocks: Any) -> sparse.csr_matrix:
    blocks = list(blocks)
    return blocks[0] if len(blocks) == 1 else sparse.vstack(blocks, format="csr")


def _positions(starts: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Concatenated ``range(start, end)`` of all rows, and the row pointers of the result."""
    lengths = ends - starts
    indptr = np.concatenate(([0], np.cumsum(lengths, dtype=np.int64)))
    return np.repeat(starts - indptr[:-1], lengths) + np.arange(indptr[-1]), indptr


def _runs(
    starts: np.ndarray, ends: np.ndarray, *, gap: int, limit: int
) -> Iterator[tuple[int, int]]:
    """Group ascending extents into runs worth reading in one call, of at most `limit` values."""
    first = 0
    for stop in [*(np.flatnonzero(starts[1:] - ends[:-1] > gap) + 1).tolist(), len(starts)]:
        while first < stop:
            last = int(np.searchsorted(ends, starts[first] + limit, side="right"))
            last = min(max(last, first + 1), stop)
            yield first, last
            first = last
