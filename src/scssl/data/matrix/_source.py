"""Random access to the rows of any matrix an AnnData can hold."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from ._rows import canonical_csr, csr_from_parts, dense_to_csr, gatherable
from ._storage import (
    Chunked,
    Compressed,
    Dense,
    even_ranges,
    major_ranges,
    open_storage,
)

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

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
            indices = storage.indices[start:stop]
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
            positions, indptr = _positions(starts[first:last] - low, ends[first:last] - low)
            if indptr[-1] != high - low:
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
