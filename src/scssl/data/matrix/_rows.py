"""Blocks of rows: CSR handling that SciPy has not, or only with an extra pass, and normalisation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
from scipy import sparse

from scssl._checks import check_choice

from ._storage import major_ranges

InputKind = Literal["counts", "lognorm"]
INPUT_KINDS: tuple[InputKind, ...] = ("counts", "lognorm")

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
    """Move the columns of a CSR matrix without duplicates; the indices come out sorted.

    Parameters
    ----------
    csr
        Matrix with sorted indices.
    columns
        New column of every old one, int32; negative ones are dropped.
    n_columns
        Number of new columns.
    drops, sorts
        Whether any column is dropped, and whether the order of the others changes.
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

    Parameters
    ----------
    data, indices, indptr
        CSR arrays that nobody else uses: they may be changed in place.
    shape
        Number of rows and columns.
    is_canonical
        The caller knows that nothing needs to be sorted, summed or dropped.
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


def row_sums(csr: sparse.csr_matrix) -> np.ndarray:
    """Sum of the stored values of every row, in the dtype of the values.

    NumPy sums each segment pairwise and by itself, so the bits of a row do not depend on the rows
    around it; counts in float32 are exact up to 2**24.
    """
    sums = np.zeros(csr.shape[0], dtype=csr.data.dtype)
    filled = np.flatnonzero(np.diff(csr.indptr))
    if filled.size:
        sums[filled] = np.add.reduceat(csr.data, csr.indptr[filled])
    return sums


def normalize_rows(
    csr: sparse.csr_matrix, *, input_kind: InputKind, target_sum: float | None = 1e4
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

    Returns
    -------
    csr
        The same object, normalised.
    library
        Sum of each row before the normalisation, float32 of shape ``(n_rows, 1)``.

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
    library = row_sums(csr)
    if input_kind == "counts":
        if target_sum is not None:
            scale = np.zeros_like(library)
            np.divide(np.float32(target_sum), library, out=scale, where=library > 0)
            csr.data *= np.repeat(scale, np.diff(csr.indptr))
        np.log1p(csr.data, out=csr.data)
    return csr, library[:, None]
