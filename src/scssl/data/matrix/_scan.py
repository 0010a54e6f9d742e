"""One pass over the stored values of a matrix, to know what it holds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ._rows import row_sums
from ._source import _open
from ._storage import (
    Chunked,
    Compressed,
    Dense,
    Storage,
    even_ranges,
    major_ranges,
    open_storage,
)

# In memory a block should stay in the cache through several passes; on disk, be worth a call.
_BLOCK_VALUES = 2**17
_STORED_BLOCK_VALUES = 2**22
_CONSTANT = 1e-3  # relative spread of row sums below which they count as one value


class Entry(NamedTuple):
    """One value of a matrix and its place."""

    row: int
    column: int
    value: float


@dataclass(frozen=True, eq=False)
class MatrixStats:
    """What :func:`scan_matrix` found. Statistics of sums are over cells that are not empty.

    Parameters
    ----------
    where
        Name of the matrix in messages.
    n_obs, n_vars
        Number of cells and genes.
    n_stored
        Number of values looked at: the stored ones of a sparse matrix, all of a dense one.
    min, max
        Smallest and largest finite value; zeros of a sparse matrix are counted as values.
    all_integer
        Whether every value is a whole number.
    n_nonfinite, n_negative
        Number of NaN or infinite, and of negative values.
    first_nonfinite, first_negative, first_fraction
        The first such value (lowest row, then column), ``None`` where there is none. The fraction
        is any one of them, since most values of most data are fractions.
    empty_cells
        Row numbers of the cells without any non-zero value.
    median_sum, min_sum, max_sum
        Sums of the values of a cell.
    constant_sum
        Whether all cells have the same sum, as after scaling to a common library size.
    constant_expm1_sum
        Whether all cells have the same sum of ``expm1``, as after log-normalisation of all genes;
        looked at for some cells, and only where the values can be logarithms.
    """

    where: str
    n_obs: int
    n_vars: int
    n_stored: int
    min: float
    max: float
    all_integer: bool
    n_nonfinite: int
    n_negative: int
    first_nonfinite: Entry | None
    first_negative: Entry | None
    first_fraction: Entry | None
    empty_cells: np.ndarray
    median_sum: float
    min_sum: float
    max_sum: float
    constant_sum: bool
    constant_expm1_sum: bool

    @property
    def finite(self) -> bool:
        """Whether there is neither NaN nor infinity."""
        return self.n_nonfinite == 0

    @property
    def n_empty_cells(self) -> int:
        """Number of cells without any non-zero value."""
        return len(self.empty_cells)


def scan_matrix(X: Any, *, where: str = "adata.X") -> MatrixStats:
    """Look once at every stored value, a few million at a time.

    Parameters
    ----------
    X
        Any matrix :func:`open_rows` opens.
    where
        How messages call the matrix.

    Returns
    -------
    MatrixStats
        What :func:`resolve_input` decides on.

    Raises
    ------
    TypeError
        If the type of `X` or of its values is not supported.
    ValueError
        If `X` is not two-dimensional.

    Examples
    --------
    >>> import numpy as np
    >>> from scssl.data import scan_matrix
    >>> stats = scan_matrix(np.array([[1, 0, 2], [0, 0, 0]]))
    >>> stats.all_integer, stats.max, stats.empty_cells.tolist()
    (True, 2.0, [1])
    """
    storage = open_storage(X, where=where)
    scan = _Scan(storage.shape)
    for block in _blocks(storage):
        scan.add(block)
    return scan.finish(where, storage)


class _Block(NamedTuple):
    """Values of a rectangle: `values` in row segments (`indptr`) or with their rows spelled out."""

    values: np.ndarray
    first_row: int
    n_rows: int
    indptr: np.ndarray | None
    rows: np.ndarray | None
    locate: Any


class _Scan:
    def __init__(self, shape: tuple[int, int]) -> None:
        self.n_obs, self.n_vars = shape
        self.n_stored = 0
        self.lowest, self.highest = np.inf, -np.inf
        self.n_nonfinite = self.n_negative = 0
        self.nonfinite: Entry | None = None
        self.negative: Entry | None = None
        self.fraction: Entry | None = None
        self.sums = np.zeros(self.n_obs)
        self.filled = np.zeros(self.n_obs, dtype=bool)

    # Infinities and huge values are reported, not warned about.
    @np.errstate(invalid="ignore", over="ignore")
    def add(self, block: _Block) -> None:
        values = block.values
        if not values.size:
            return
        self.n_stored += values.size
        low, high = values.min(), values.max()
        summed = values
        if not (np.isfinite(low) and np.isfinite(high)):
            finite = np.isfinite(values)
            self.n_nonfinite += int(values.size - np.count_nonzero(finite))
            self.nonfinite = _first(self.nonfinite, block, ~finite)
            low = values.min(initial=np.inf, where=finite)
            high = values.max(initial=-np.inf, where=finite)
            summed = np.where(finite, values, 0)
        if low < 0:
            negative = summed < 0
            self.n_negative += int(np.count_nonzero(negative))
            self.negative = _first(self.negative, block, negative)
        if self.fraction is None and values.dtype.kind == "f":
            fraction = np.rint(summed) != summed
            if fraction.any():
                self.fraction = _first(None, block, fraction)
        self.lowest, self.highest = min(self.lowest, float(low)), max(self.highest, float(high))
        rows = slice(block.first_row, block.first_row + block.n_rows)
        sums = _block_sums(block, summed)
        self.sums[rows] += sums
        # Sums of non-negative values vanish only for empty rows; others may cancel.
        certain = low >= 0 and summed is values
        self.filled[rows] |= (sums if certain else _block_sums(block, values != 0)) != 0

    @np.errstate(invalid="ignore", over="ignore")
    def finish(self, where: str, storage: Storage) -> MatrixStats:
        if self.n_stored < self.n_obs * self.n_vars or not self.n_stored:
            self.lowest, self.highest = min(self.lowest, 0.0), max(self.highest, 0.0)
        if not np.isfinite(self.lowest):
            self.lowest = self.highest = np.nan
        sums = self.sums[self.filled] if self.filled.any() else np.zeros(1)
        usable = self.nonfinite is None and self.negative is None
        can_be_log = usable and self.fraction is not None and self.highest < 25
        return MatrixStats(
            where=where,
            n_obs=self.n_obs,
            n_vars=self.n_vars,
            n_stored=self.n_stored,
            min=self.lowest,
            max=self.highest,
            all_integer=self.fraction is None and self.nonfinite is None,
            n_nonfinite=self.n_nonfinite,
            n_negative=self.n_negative,
            first_nonfinite=self.nonfinite,
            first_negative=self.negative,
            first_fraction=self.fraction,
            empty_cells=np.flatnonzero(~self.filled),
            median_sum=float(np.median(sums)),
            min_sum=float(sums.min()),
            max_sum=float(sums.max()),
            constant_sum=usable and _is_constant(sums),
            constant_expm1_sum=can_be_log and _is_constant(_expm1_sums(storage)),
        )


def _block_sums(block: _Block, values: np.ndarray) -> np.ndarray:
    """Sum of `values` per row of the block, in float64."""
    if block.rows is not None:
        return np.bincount(block.rows, weights=values, minlength=block.n_rows)
    sums = np.zeros(block.n_rows)
    assert block.indptr is not None
    filled = np.flatnonzero(np.diff(block.indptr))
    if filled.size:
        sums[filled] = np.add.reduceat(values, block.indptr[filled], dtype=np.float64)
    return sums


def _blocks(storage: Storage, first_row: int = 0, first_column: int = 0) -> Iterator[_Block]:
    if isinstance(storage, Chunked):
        for i in range(len(storage.rows) - 1):
            for j in range(len(storage.columns) - 1):
                yield from _blocks(
                    storage.compute(i, j), int(storage.rows[i]), int(storage.columns[j])
                )
    elif isinstance(storage, Dense):
        yield from _dense_blocks(storage, first_row, first_column)
    else:
        yield from _compressed_blocks(storage, first_row, first_column)


def _compressed_blocks(storage: Compressed, row0: int, column0: int) -> Iterator[_Block]:
    for first, last in major_ranges(storage.indptr, _limit(storage)):
        start, stop = int(storage.indptr[first]), int(storage.indptr[last])
        values, minor = storage.data[start:stop], storage.indices[start:stop]
        indptr = storage.indptr[first : last + 1] - start
        lengths = np.diff(indptr)

        def locate(found: np.ndarray, minor=minor, lengths=lengths, first=first):
            major = np.repeat(np.arange(first, first + len(lengths)), lengths)[found]
            rows, columns = (major, minor[found]) if storage.is_csr else (minor[found], major)
            return rows + row0, columns + column0

        if storage.is_csr:
            yield _Block(values, row0 + first, last - first, indptr, None, locate)
        else:
            yield _Block(values, row0, storage.shape[0], None, minor, locate)


def _dense_blocks(storage: Dense, row0: int, column0: int) -> Iterator[_Block]:
    n_rows, n_columns = storage.shape
    if not n_columns:
        return
    by_column = not storage.on_disk and storage.array.flags.f_contiguous
    step = _limit(storage) // max(1, n_rows if by_column else n_columns)
    for first, last in even_ranges(n_columns if by_column else n_rows, step):
        part = storage.array[:, first:last] if by_column else storage.array[first:last]
        r0, c0 = (row0, column0 + first) if by_column else (row0 + first, column0)
        shape = part.shape

        def locate(found: np.ndarray, shape=shape, r0=r0, c0=c0):
            rows, columns = np.unravel_index(found, shape)
            return rows + r0, columns + c0

        indptr = np.arange(shape[0] + 1) * shape[1]
        yield _Block(np.ascontiguousarray(part).ravel(), r0, shape[0], indptr, None, locate)


def _limit(storage: Compressed | Dense) -> int:
    return _STORED_BLOCK_VALUES if storage.on_disk else _BLOCK_VALUES


def _first(known: Entry | None, block: _Block, hit: np.ndarray) -> Entry:
    """Lowest of the known entry and those `hit` marks, by row and column."""
    if known is not None and known.row < block.first_row:
        return known
    found = np.flatnonzero(hit)
    rows, columns = block.locate(found)
    in_row = np.flatnonzero(rows == rows.min())
    best = in_row[np.argmin(columns[in_row])]
    entry = Entry(int(rows[best]), int(columns[best]), float(block.values[found[best]]))
    return entry if known is None else min(known, entry, key=lambda place: place[:2])


def _is_constant(sums: np.ndarray) -> bool:
    return len(sums) >= 3 and float(np.ptp(sums)) <= _CONSTANT * float(np.median(sums))


def _expm1_sums(storage: Storage, n_runs: int = 4, run: int = 64) -> np.ndarray:
    """Sums of expm1 for a few runs of neighbouring cells (cheap to read from any storage)."""
    starts = np.linspace(0, max(0, storage.shape[0] - run), n_runs).astype(np.int64)
    rows = np.unique(starts[:, None] + np.arange(run))
    block = _open(storage).read(rows[rows < storage.shape[0]])
    np.expm1(block.data, out=block.data)
    sums = row_sums(block)
    return sums[sums > 0]
