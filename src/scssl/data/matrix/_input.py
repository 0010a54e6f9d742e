"""What a matrix holds: raw counts, log-normalised values, or something no model takes."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from scipy import sparse

from scssl._checks import check_choice, number
from scssl._errors import warn

from ._rows import (
    Chunked,
    Compressed,
    Dense,
    InputKind,
    Storage,
    _open,
    even_ranges,
    major_ranges,
    open_rows,
    open_storage,
)
from ._scale import (
    LOG_MAX,
    LOGARITHM,
    Scale,
    differs,
    into_memory,
    is_constant,
    is_sparse,
    recognise,
    steps,
)

if TYPE_CHECKING:
    from anndata import AnnData

# In memory a block should stay in the cache through several passes; on disk, be worth a call.
_BLOCK_VALUES = 2**17
_STORED_BLOCK_VALUES = 2**22
_SCANNED_ROWS = 4096


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
    scale
        What was done to counts to get these values, as far as some of the cells tell; `None` where
        values are missing or negative.
    n_nonfinite_cells, n_nonfinite_vars
        Number of cells and of genes with a value that is NaN or infinite.
    storage
        The matrix as it is stored.
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
    scale: Scale | None
    n_nonfinite_cells: int
    n_nonfinite_vars: int
    storage: Any = field(repr=False)

    @property
    def finite(self) -> bool:
        """Whether there is neither NaN nor infinity."""
        return self.n_nonfinite == 0

    @property
    def constant_expm1_sum(self) -> bool:
        """Whether all cells have the same sum of ``expm1``, as after log-normalisation of all genes."""
        return self.scale is not None and self.scale.form == "ln" and bool(self.scale.target_sum)

    @property
    def n_empty_cells(self) -> int:
        """Number of cells without any non-zero value."""
        return len(self.empty_cells)


def scan_matrix(
    X: Any,
    *,
    where: str = "adata.X",
    used: np.ndarray | None = None,
    rows: np.ndarray | None = None,
) -> MatrixStats:
    """Look once at every stored value, a few million at a time.

    Parameters
    ----------
    X
        Any matrix :func:`open_rows` opens.
    where
        How messages call the matrix.
    used
        Genes that a model reads, boolean, for the level in ``MatrixStats.scale``; all by default.
    rows
        Row numbers of the cells to look at, all by default. Nothing else is read, and statistics are of
        these cells; places of values are those in `X`.

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
    if rows is None:
        scan = _Scan(storage.shape)
        for block in _blocks(storage):
            scan.add(block)
        return scan.finish(where, storage, used)
    rows = np.unique(rows)
    source, scan = _open(storage), _Scan((len(rows), storage.shape[1]))
    for first, last in even_ranges(len(rows), source.rows_per_read or _SCANNED_ROWS):
        scan.add(_rows_block(source.read(rows[first:last]), first))
    return scan.finish(where, storage, used, rows)


def sample_digest(X: Any) -> str:
    """Digest of some cells of a matrix, by which it is known again without reading all of it."""
    storage = open_storage(X)
    block = _some_cells(storage, None, n_runs=16)
    digest = hashlib.sha256(repr(storage.shape).encode())
    for part in (block.data, block.indices.astype(np.int32), block.indptr.astype(np.int64)):
        digest.update(np.ascontiguousarray(part).data)
    return digest.hexdigest()


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
        self.broken = np.zeros(self.n_obs, dtype=bool), np.zeros(self.n_vars, dtype=bool)

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
            for broken, places in zip(
                self.broken, block.locate(np.flatnonzero(~finite)), strict=True
            ):
                broken[places] = True
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
    def finish(
        self,
        where: str,
        storage: Storage,
        used: np.ndarray | None,
        rows: np.ndarray | None = None,
    ) -> MatrixStats:
        if self.n_stored < self.n_obs * self.n_vars or not self.n_stored:
            self.lowest, self.highest = min(self.lowest, 0.0), max(self.highest, 0.0)
        if not np.isfinite(self.lowest):
            self.lowest = self.highest = np.nan
        sums = self.sums[self.filled] if self.filled.any() else np.zeros(1)
        usable = self.nonfinite is None and self.negative is None
        scale = None
        if usable and self.fraction is not None:
            scale = recognise(_some_cells(storage, rows), used)
        elif usable:
            scale = Scale("binary" if self.highest == 1 else "counts", self.n_stored >= 1000)

        def place(entry: Entry | None) -> Entry | None:
            return (
                entry if entry is None or rows is None else entry._replace(row=int(rows[entry.row]))
            )

        empty = np.flatnonzero(~self.filled)
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
            first_nonfinite=place(self.nonfinite),
            first_negative=place(self.negative),
            first_fraction=place(self.fraction),
            empty_cells=empty if rows is None else rows[empty],
            median_sum=float(np.median(sums)),
            min_sum=float(sums.min()),
            max_sum=float(sums.max()),
            constant_sum=usable and is_constant(sums),
            scale=scale,
            n_nonfinite_cells=int(self.broken[0].sum()),
            n_nonfinite_vars=int(self.broken[1].sum()),
            storage=storage,
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


def _rows_block(csr: sparse.csr_matrix, first: int) -> _Block:
    """Rows that were read, of which the first is number `first` of those to look at."""

    def locate(found: np.ndarray):
        rows = np.searchsorted(csr.indptr, found, side="right") - 1
        return rows + first, csr.indices[found]

    return _Block(csr.data, first, csr.shape[0], csr.indptr, None, locate)


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


def _some_cells(
    storage: Storage, rows: np.ndarray | None, n_runs: int = 4, run: int = 64
) -> sparse.csr_matrix:
    """A few runs of neighbouring cells (cheap to read from any storage), of all or of `rows`."""
    n_cells = storage.shape[0] if rows is None else len(rows)
    starts = np.linspace(0, max(0, n_cells - run), n_runs).astype(np.int64)
    places = np.unique(starts[:, None] + np.arange(run))
    places = places[places < n_cells]
    return _open(storage).read(places if rows is None else rows[places])


@dataclass(frozen=True)
class InputDecision:
    """How a matrix is treated, and why.

    Parameters
    ----------
    kind
        ``"counts"`` (normalised when read) or ``"lognorm"`` (used as it is).
    reason
        One sentence for the user.
    scale
        What was done to counts to get the values, as far as they tell.
    """

    kind: InputKind
    reason: str
    scale: Scale


def resolve_input(
    stats: MatrixStats,
    input: str = "auto",
    *,
    where: str | None = None,
    raw_hint: str = "",
    obs_names: Sequence[str] | None = None,
    var_names: Sequence[str] | None = None,
    by_model: bool = False,
    expected: Scale | None = None,
    name: str = "adata",
    input_name: str | None = "input",
) -> InputDecision:
    """Decide whether a matrix holds counts or log-normalised values, or refuse it.

    Parameters
    ----------
    stats
        Result of :func:`scan_matrix`.
    input
        ``"counts"`` or ``"lognorm"`` to state what the values are, which is checked, or ``"auto"``.
    where
        How messages call the matrix; by default the name it was scanned under.
    raw_hint
        Where counts are instead, see :func:`find_counts`; added to messages that need it.
    obs_names, var_names
        Names of cells and genes for messages; without them their numbers are given.
    by_model
        Whether `input` is what a model reads, so that it is the values that have to change.
    expected
        What was recognised in the data a model was trained with, which these have to be like.
    name, input_name
        How messages call the data, and the argument that says what the values are, `None` where there
        is none.

    Returns
    -------
    InputDecision
        The kind and the reason.

    Raises
    ------
    ValueError
        If there are no cells, no genes or only zeros; if there are values that are not finite or
        negative; or if the values are not what `input` says, or neither of the two kinds. The
        message says what was found, where, and what to type. Or if they are certainly not made as
        those that a model was trained with.

    Warns
    -----
    ScsslWarning
        If ``"auto"`` has to take for log-normalised what cannot be confirmed to be, or is of another
        base or of raw counts; or if it cannot be confirmed that the values are made as `expected`.

    Examples
    --------
    >>> import numpy as np
    >>> from scssl.data import resolve_input, scan_matrix
    >>> counts = np.array([[0, 3, 120], [1, 0, 40]])
    >>> resolve_input(scan_matrix(counts)).kind
    'counts'
    >>> resolve_input(scan_matrix(np.log1p(counts))).kind
    'lognorm'
    >>> resolve_input(scan_matrix(np.log1p(counts)), "counts")
    Traceback (most recent call last):
        ...
    ValueError: adata.X looks log-normalised (...), but input="counts" was given. ...
    """
    check_choice("input", input, ("auto", "counts", "lognorm"))
    where = stats.where if where is None else where
    hint = f" {raw_hint}" if raw_hint else ""

    def name_of(entry: Entry | None) -> str:
        assert entry is not None
        cell = repr(str(obs_names[entry.row])) if obs_names is not None else f"row {entry.row}"
        gene = (
            repr(str(var_names[entry.column]))
            if var_names is not None
            else (f"column {entry.column}")
        )
        return f"{number(entry.value)} in cell {cell}, gene {gene}"

    called = _Called(stats, where, name, input_name)
    _refuse_unusable(called, hint, name_of)
    scale = stats.scale
    assert scale is not None
    if stats.all_integer:
        decision = _resolve_integers(called, input, by_model, expected)
    else:
        _refuse_unlogged(called, input, by_model, expected, hint, name_of)
        if input == "counts":
            mend = 'Pass `input="lognorm"` to use it as it is.'
            if by_model:
                mend = hint.lstrip() or _to_counts(called)
            elif hint:
                mend += hint
            raise ValueError(
                f"{where} looks log-normalised ({name_of(stats.first_fraction)}, largest value "
                f"{stats.max:.3g}){_asked(input, by_model)}. {mend}"
            )
        known = f": {scale}" if scale.form != "unknown" else ""
        decision = InputDecision(
            "lognorm",
            f"{where} has fractions and no value above {stats.max:.3g}{known}; log-normalised, used "
            "as it is",
            scale,
        )
        if input == "auto":
            _doubt(called, name_of, hint)
    if expected is not None:
        check_scale(scale, expected, stats.storage, where=where, hint=hint, name=name)
    return decision


class _Called(NamedTuple):
    """A matrix, and what messages call it."""

    stats: MatrixStats
    where: str
    name: str
    input_name: str | None

    @property
    def layer(self) -> str:
        return _layer(self.where)

    @property
    def into_memory(self) -> str:
        """What comes before a line that changes the values."""
        return into_memory(self.stats.storage, self.name)

    def steps(self, found: Scale, wanted: Scale) -> str:
        """Lines that make the values what is wanted, if any can."""
        named = {"name": self.name, "layer": self.layer}
        return steps(found, wanted, self.where, storage=self.stats.storage, **named)

    def logged(self, expected: Scale | None, *, counts: bool = False) -> str:
        """The line that takes the logarithm of values that are normalised, or of counts that it normalises."""
        found = replace(self.stats.scale or LOGARITHM, form="linear")
        if counts:
            found = Scale("linear", certain=True, scaled=False)
        if expected is not None and (line := self.steps(found, expected)):
            return line
        total = f"sc.pp.normalize_total({self.name}, target_sum=1e4{self.layer}); "
        if self.by_size:
            # One factor for all cells: to scale each to a sum would undo what was done with its size.
            total = f"{self.where} = {self.where} * {1e4 / self.stats.median_sum:.3g}; "
        # The logarithm of one and of less is a straight line.
        total = total if counts or self.stats.max < 10 else ""
        return f"{self.into_memory}{total}sc.pp.log1p({self.name}{self.layer})"

    @property
    def by_size(self) -> bool:
        """Whether cells were divided by something that is no sum of theirs, such as the volume."""
        scale = self.stats.scale
        linear = scale is not None and scale.form == "linear"
        return linear and not self.stats.all_integer and not self.stats.constant_sum


def _refuse_unusable(called: _Called, hint: str, name_of: Any) -> None:
    stats, where, name = called.stats, called.where, called.name
    if not stats.n_obs or not stats.n_vars:
        what = "cells" if not stats.n_obs else "genes"
        raise ValueError(f"{where} has no {what} (shape {stats.n_obs} × {stats.n_vars}).")
    if stats.n_nonfinite:
        raise ValueError(
            f"{where} has {stats.n_nonfinite:,} values that are NaN or infinite; the first is "
            f"{name_of(stats.first_nonfinite)}. {_without_nan(called)}"
        )
    if stats.n_negative:
        raise ValueError(
            f"{where} has {stats.n_negative:,} negative values; the first is "
            f"{name_of(stats.first_negative)}. This looks like scaled or residual data "
            "(`sc.pp.scale`, Pearson residuals, `regress_out`), but a model needs raw counts or "
            f"log-normalised values, those from before that step.{hint}"
        )
    if stats.n_empty_cells == stats.n_obs:
        raise ValueError(
            f"{where} is all zero: none of its {stats.n_obs:,} cells has a value.{hint}"
        )
    if max(stats.max, stats.max_sum) > float(np.finfo(np.float32).max):
        what = "values" if stats.max > float(np.finfo(np.float32).max) else "sums of a cell"
        large = stats.max if what == "values" else stats.max_sum
        # A large value is 1e30 in one of a million genes; a sum of counts is 1e9 at most.
        raise ValueError(
            f"{where} has {what} up to {large:.3g}, too large for float32 and for counts. To drop "
            f"these cells: `{called.into_memory}{name} = {name}[np.ravel({where}.sum(axis=1, "
            f'dtype="float64")) < 1e12].copy()`'
        )


def _without_nan(called: _Called) -> str:
    """What to do about values that are NaN or infinite, and leaves something."""
    stats, where, name = called.stats, called.where, called.name
    into = called.into_memory
    found = f"in {stats.n_nonfinite_cells:,} of {stats.n_obs:,} cells and {stats.n_nonfinite_vars:,} of {stats.n_vars:,} genes"
    cells = f"`{into}{name} = {name}[np.isfinite(np.ravel({where}.sum(axis=1)))].copy()`"
    genes = f"`{into}{name} = {name}[:, np.isfinite(np.ravel({where}.sum(axis=0)))].copy()`"
    part = f"{where}.data" if is_sparse(stats.storage) else where
    # To fill a view is to fill a copy of it.
    fill = f"`{into}{part} = np.nan_to_num({part}, posinf=0, neginf=0)`"
    if stats.n_nonfinite_cells <= stats.n_obs // 2:
        return f"They are {found}. Find out where they come from; to drop the cells: {cells}"
    which = "Data sets of other genes, put together, leave this"
    if stats.n_nonfinite_vars < stats.n_vars:
        return f"They are {found}. {which}. To keep the genes that all cells have: {genes}; to take the others as zero: {fill}"
    return f"They are {found}. {which}. To take them as zero: {fill}"


def _asked(input: str, by_model: bool) -> str:
    """Part of a message on what the values should be."""
    if input == "auto":
        return ""
    if not by_model:
        return f', but input="{input}" was given'
    kind = "raw counts" if input == "counts" else "log-normalised values"
    return f", but the model was set up with {kind} and reads these"


def _to_counts(called: _Called) -> str:
    """What to do about logarithms where a model reads counts."""
    scale, where = called.stats.scale, called.where
    assert scale is not None
    if not scale.scaled:
        line = called.steps(scale, LOGARITHM)
        logs = f"{line}; " if line else called.into_memory
        return f"They are {scale}: `{logs}{where} = np.rint(np.expm1({where}))`"
    return f"Put the counts that these values were made of into {where}."


def _resolve_integers(
    called: _Called, input: str, by_model: bool, expected: Scale | None
) -> InputDecision:
    stats, where = called.stats, called.where
    assert stats.scale is not None
    if input == "lognorm" and stats.max > 1:
        how = "normalise them first"
        if by_model:
            how = "Normalise them as those of the model were, for instance"
        else:
            how = f'Pass `input="counts"` to have them normalised, or {how}'
        raise ValueError(
            f"{where} holds counts (all values are whole numbers, up to {stats.max:g})"
            f"{_asked(input, by_model)}. {how}: `{called.logged(expected, counts=True)}`"
        )
    if input == "lognorm":
        reason = f"{where} holds only 0 and 1, used as it is as asked"
        return InputDecision("lognorm", reason, stats.scale)
    return InputDecision(
        "counts",
        f"all values of {where} are whole numbers from 0 to {stats.max:g}, median sum of a cell "
        f"{stats.median_sum:,.0f}: counts, normalised when read",
        stats.scale,
    )


def _refuse_unlogged(
    called: _Called, input: str, by_model: bool, expected: Scale | None, hint: str, name_of: Any
) -> None:
    """Refuse what is neither counts nor logarithms, or roots that nobody asked for."""
    stats, where = called.stats, called.where
    scale = stats.scale
    assert scale is not None
    found = f"{name_of(stats.first_fraction)}, largest value {stats.max:.4g}"
    linear = scale.form == "linear" or (scale.form == "unknown" and stats.constant_sum)
    if scale.form == "near counts":
        what = f"neither counts (not all whole numbers) nor logarithms ({found})"
        mend = (
            "Most are near to whole numbers, as corrected or estimated counts are. Round them: "
            f"`{called.into_memory}{where} = np.rint({where})`"
        )
    elif linear:
        sums = f"all cells sum to {stats.median_sum:.4g}; " if stats.constant_sum else ""
        by = " by something of each cell, such as its volume," if called.by_size else ""
        what = f"normalised{by} but not log-transformed ({sums}{found})"
        mend = f"Take the logarithm: `{called.logged(expected)}`"
    elif scale.form == "twice" or (scale.form == "sqrt" and input != "lognorm"):
        what = f"like {scale} ({found})"
        mend = f"Make natural logarithms of them: `{called.steps(scale, expected or LOGARITHM)}`"
        if scale.form == "sqrt" and called.input_name:
            mend += f'; to use them as they are: `{called.input_name}="lognorm"`'
    elif stats.max >= LOG_MAX and scale.form != "sqrt":
        what = f"neither counts (not all whole numbers) nor logarithms ({found})"
        mend = (
            "If they are normalised, by volume for instance, take the logarithm: "
            f"`{called.logged(expected)}`"
        )
    else:
        return
    raise ValueError(f"{where} looks {what}{_asked(input, by_model)}. {mend}.{hint}")


def _doubt(called: _Called, name_of: Any, hint: str) -> None:
    """Warn of values that are used as logarithms and may be none, or not those they are taken for."""
    scale, where, as_is = called.stats.scale, called.where, ""
    assert scale is not None
    if called.input_name:
        as_is = f'`{called.input_name}="lognorm"`'
    if scale.form == "unknown" and scale.certain and as_is:
        warn(
            f"{where} has fractions ({name_of(called.stats.first_fraction)}, largest value "
            f"{called.stats.max:.4g}), and is taken for log-normalised. That could not be confirmed: "
            "without a logarithm of base e, 2 or 10 its values are not multiples of one step in each "
            "cell, as those made of counts are, and cells do not sum to the same. If they are "
            f"logarithms that were corrected, imputed or of which genes were left out: {as_is}.{hint}"
        )
    elif scale.form in ("log2", "log10"):
        how = f"; to have others that are the same without a warning: {as_is}" if as_is else ""
        warn(
            f"{where} holds {scale}. It is used as it is, and a model is then for such values only. "
            f"For natural logarithms, as of most data: `{called.steps(scale, LOGARITHM)}`{how}."
        )
    elif scale.form == "ln" and not scale.scaled:
        how = f"; to use it as it is: {as_is}" if as_is else ""
        warn(
            f"{where} holds {scale}: cells are not scaled, and how deeply they were sequenced stays in "
            f"the embedding. For counts, which are normalised when read: `{called.into_memory}{where} = "
            f"np.rint(np.expm1({where}))`{how}."
        )


def check_scale(
    found: Scale,
    expected: Scale,
    X: Any,
    *,
    where: str = "adata.X",
    hint: str = "",
    whose: str = "The model was trained with",
    name: str = "adata",
) -> None:
    """Refuse values that are not made as those a model was trained with; warn of what may not be.

    Parameters
    ----------
    found, expected
        What was recognised here and there, as in ``MatrixStats.scale``.
    X
        The matrix, whose storage a line to type depends on.
    where, name
        How messages call the matrix and the data.
    hint
        What is added to messages.
    whose
        Whose values are expected: how a message begins.

    Raises
    ------
    ValueError
        If the values are certainly made otherwise; the message has the line that mends it.

    Warns
    -----
    ScsslWarning
        If they cannot be told to be the same, or have other sums in the same genes.
    """
    trained = f"{whose} {expected}"
    if other := differs(expected, found):
        storage = X if isinstance(X, Storage) else open_storage(X)
        layer = _layer(where)
        line = steps(found, expected, where, name=name, layer=layer, storage=storage)
        mend = f" Make them the same: `{line}`." if line else ""
        message = f"{trained}, but {where} holds {other}.{mend}{hint}"
        # Of genes that are hardly found, counts may well be 0 and 1.
        if {expected.form, found.form} == {"counts", "binary"}:
            warn(message)
            return
        raise ValueError(message)
    if expected.form in ("counts", "unknown", "binary") or not expected.certain:
        return
    if found.form == "unknown" and found.certain:
        warn(
            f"{trained}. That {where} holds the same could not be confirmed: its values are no "
            "logarithms of scaled counts that were left as they were. Embeddings of values that were "
            "made otherwise are wrong."
        )
    elif expected.level and found.level and not 1 / 30 < found.level / expected.level < 10:
        warn(
            f"{trained}, with a median sum of {expected.level:.4g} in a cell without the logarithm. "
            f"{where} has one of {found.level:.4g} in the same genes: were both normalised to the "
            "same sum? Embeddings of values normalised otherwise are wrong."
        )


def _layer(where: str) -> str:
    """The argument of a scanpy function that names the layer, if the matrix is one."""
    layer = where.partition(".layers[")[2].removesuffix("]")
    return f", layer={layer}" if layer else ""


_GENES = re.compile(r"(?i)gene|gex|rna")


def refuse_features(adata: AnnData, *, by_model: bool = False, name: str = "adata") -> None:
    """Refuse genes and other features, as of 10x, in one matrix.

    Parameters
    ----------
    adata
        Annotated data; kinds of features are in ``adata.var["feature_types"]``.
    by_model
        Whether a model reads only the features that it knows.
    name
        How the message calls the data.

    Raises
    ------
    ValueError
        If there are several kinds; the message has the lines that keep the genes, or make a MuData.
    """
    column = f'{name}.var["feature_types"]'
    if by_model or "feature_types" not in adata.var:
        return
    found = adata.var["feature_types"].dropna().astype(str).value_counts()
    genes = next((kind for kind in found.index if _GENES.search(kind)), None)
    if len(found) < 2 or genes is None:
        return
    kinds = ", ".join(f"{n:,} {kind!r}" for kind, n in found.items())
    only = f'{{}} = {name}[:, {column} == "{{}}"].copy()'
    parts = {"rna": genes}
    for part, word in (("protein", "(?i)antibody|adt"), ("atac", "(?i)peak|atac")):
        kind = next((kind for kind in found.index if re.search(word, kind)), None)
        parts |= {} if kind is None else {part: kind}
    both = ", ".join(
        f'"{part}": {name}[:, {column} == "{kind}"].copy()' for part, kind in parts.items()
    )
    several = f"; to learn from several: `import mudata; mdata = mudata.MuData({{{both}}})`"
    raise ValueError(
        f"{column} has several kinds of features ({kinds}), and they would be normalised together, as if "
        f"all were genes. To keep the genes: `{only.format(name, genes)}`"
        f"{several if len(parts) > 1 else ''}"
    )


def find_counts(
    adata: AnnData,
    *,
    layer: str | None = None,
    by_model: bool = False,
    logarithms: bool = False,
    name: str = "adata",
    layer_name: str = "layer",
) -> str:
    """Look for counts in the other matrices of an AnnData.

    Parameters
    ----------
    adata
        Annotated data.
    layer
        The layer that is used already; ``None`` for ``adata.X``.
    by_model
        Whether a model reads the data, for which the layer cannot be another: counts are then to be
        put where it looks for them.
    logarithms
        Whether to look for log-normalised values as well, for a matrix that is neither.
    name, layer_name
        How the message calls the data, and the argument that names a layer of it.

    Returns
    -------
    str
        Where they were found and what to type, for `raw_hint` of :func:`resolve_input`;
        empty where there are none. Judged by a sample of cells.

    Examples
    --------
    >>> import anndata, numpy as np
    >>> from scssl.data import find_counts
    >>> adata = anndata.AnnData(np.log1p(np.ones((3, 2))), layers={"counts": np.full((3, 2), 5)})
    >>> find_counts(adata)
    'Counts were found in adata.layers["counts"]: pass `layer="counts"`.'
    """
    kinds: dict[str, list[str]] = {"Counts": []}
    if logarithms:
        kinds["Log-normalised values"] = []
    here = f"{name}.X" if layer is None else f'{name}.layers["{layer}"]'
    # X is the layer None, as newer AnnData lists it; the one that is used already is not looked at.
    others: dict[str | None, Any] = {None: adata.X, **adata.layers, layer: None}
    for other, values in others.items():
        if (kind := _kind_of(values)) in kinds:
            there = f"{name}.X" if other is None else f'{name}.layers["{other}"]'
            wanted = None if other is None else f'"{other}"'
            mend = f"`{here} = {there}`" if by_model else f"pass `{layer_name}={wanted}`"
            kinds[kind].append(f"{there}: {mend}")
    raw = getattr(adata, "raw", None)
    if raw is not None and (kind := _kind_of(raw.X)) in kinds:
        more = "" if layer is None or not by_model else f"; {here} = {name}.X"
        kinds[kind].append(f"{name}.raw: use `{name} = {name}.raw.to_adata(){more}`")
    found = [
        f"{kind} were found in {'; in '.join(hints)}." for kind, hints in kinds.items() if hints
    ]
    return " ".join(found)


def _kind_of(X: Any, n_cells: int = 256) -> str:
    """What a matrix could be used as, empty if nothing."""
    if X is None:
        return ""
    try:
        source = open_rows(X)
    except (TypeError, ValueError):
        return ""
    stats = scan_matrix(source.read(np.arange(min(n_cells, source.shape[0]))))
    if stats.n_nonfinite or stats.n_negative or not stats.max:
        return ""
    if stats.all_integer:
        return "Counts" if stats.max > 1 else ""
    return "Log-normalised values" if stats.max < LOG_MAX else ""
