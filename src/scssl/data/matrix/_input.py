"""What a matrix holds: raw counts, log-normalised values, or something no model takes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from scssl._checks import check_choice

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
    row_sums,
)

if TYPE_CHECKING:
    from anndata import AnnData

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


# log1p of a million is 13.8, log2 of it 20: no logarithm of expression reaches this.
_LOG_MAX = 25.0


@dataclass(frozen=True)
class InputDecision:
    """How a matrix is treated, and why.

    Parameters
    ----------
    kind
        ``"counts"`` (normalised when read) or ``"lognorm"`` (used as it is).
    reason
        One sentence for the user.
    """

    kind: InputKind
    reason: str


def resolve_input(
    stats: MatrixStats,
    input: str = "auto",
    *,
    where: str | None = None,
    raw_hint: str = "",
    obs_names: Sequence[str] | None = None,
    var_names: Sequence[str] | None = None,
    by_model: bool = False,
    name: str = "adata",
    layer_name: str = "layer",
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
    name, layer_name
        How messages call the data, and the argument that names a layer of it.

    Returns
    -------
    InputDecision
        The kind and the reason.

    Raises
    ------
    ValueError
        If there are no cells, no genes or only zeros; if there are values that are not finite or
        negative; or if the values are not what `input` says, or neither of the two kinds. The
        message says what was found, where, and what to type.

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
        return f"{entry.value:g} in cell {cell}, gene {gene}"

    _refuse_unusable(stats, where, hint, name_of, name, layer_name)
    if stats.all_integer:
        return _resolve_integers(stats, input, where, by_model, name)
    if stats.max >= _LOG_MAX or (stats.constant_sum and not stats.constant_expm1_sum):
        _refuse_unlogged(stats, _asked(input, by_model), where, hint, name_of, name)
    if input == "counts":
        mend = 'Pass input="lognorm" to use it as it is.'
        if by_model:
            mend = f"Put the counts there that these values were made of: {where} = ..."
        raise ValueError(
            f"{where} looks log-normalised ({name_of(stats.first_fraction)}, largest value "
            f"{stats.max:.3g}){_asked(input, by_model)}. {hint.lstrip() if by_model and hint else mend + hint}"
        )
    evidence = "; expm1 of all cells sums to the same" if stats.constant_expm1_sum else ""
    return InputDecision(
        "lognorm",
        f"{where} has fractions and no value above {stats.max:.3g}{evidence}: log-normalised, "
        "used as it is",
    )


def _refuse_unusable(
    stats: MatrixStats, where: str, hint: str, name_of: Any, name: str, layer_name: str
) -> None:
    if not stats.n_obs or not stats.n_vars:
        what = "cells" if not stats.n_obs else "genes"
        raise ValueError(f"{where} has no {what} (shape {stats.n_obs} × {stats.n_vars}).")
    if stats.n_nonfinite:
        raise ValueError(
            f"{where} has {stats.n_nonfinite:,} values that are NaN or infinite; the first is "
            f"{name_of(stats.first_nonfinite)}. Find out where they come from; to drop the cells: "
            f"{name} = {name}[np.isfinite(np.ravel({where}.sum(axis=1)))].copy()"
        )
    if stats.n_negative:
        raise ValueError(
            f"{where} has {stats.n_negative:,} negative values; the first is "
            f"{name_of(stats.first_negative)}. This looks like scaled or residual data "
            "(sc.pp.scale, Pearson residuals, regress_out), but a model needs raw counts or "
            f"log-normalised values. Use those from before that step: a layer ({layer_name}=...), or "
            f"{name}.raw ({name} = {name}.raw.to_adata()).{hint}"
        )
    if stats.n_empty_cells == stats.n_obs:
        raise ValueError(
            f"{where} is all zero: none of its {stats.n_obs:,} cells has a value.{hint}"
        )
    if stats.max > float(np.finfo(np.float32).max):
        raise ValueError(f"{where} has values up to {stats.max:.3g}, too large for float32.")


def _asked(input: str, by_model: bool) -> str:
    """Part of a message on what the values should be."""
    if input == "auto":
        return ""
    if not by_model:
        return f', but input="{input}" was given'
    kind = "raw counts" if input == "counts" else "log-normalised values"
    return f", but the model was set up with {kind} and reads these"


def _resolve_integers(
    stats: MatrixStats, input: str, where: str, by_model: bool, name: str
) -> InputDecision:
    if input == "lognorm" and stats.max > 1:
        how = "normalise them first"
        if by_model:
            how = "Normalise them as those of the model were, for instance"
        else:
            how = f'Pass input="counts" to have them normalised, or {how}'
        layer = where.partition(".layers[")[2].removesuffix("]")
        layer = f", layer={layer}" if layer else ""
        raise ValueError(
            f"{where} holds counts (all values are whole numbers, up to {stats.max:g})"
            f"{_asked(input, by_model)}. {how}: sc.pp.normalize_total({name}, target_sum=1e4{layer}); "
            f"sc.pp.log1p({name}{layer})"
        )
    if input == "lognorm":
        return InputDecision("lognorm", f"{where} holds only 0 and 1, used as it is as asked")
    return InputDecision(
        "counts",
        f"all values of {where} are whole numbers from 0 to {stats.max:g}, median sum of a cell "
        f"{stats.median_sum:,.0f}: counts, normalised when read",
    )


def _refuse_unlogged(
    stats: MatrixStats, asked: str, where: str, hint: str, name_of: Any, name: str
) -> None:
    found = f"{name_of(stats.first_fraction)}, largest value {stats.max:.4g}"
    if stats.constant_sum:
        what = (
            f"normalised but not log-transformed (all cells sum to {stats.median_sum:.4g}; {found})"
        )
        mend = f"Take the logarithm: sc.pp.log1p({name})"
    else:
        what = f"neither counts (not all whole numbers) nor logarithms ({found})"
        mend = (
            f"If these are estimated or corrected counts, round them: {where} = {where}.rint() where "
            f"sparse, np.rint({where}) where dense; if they are normalised, take the logarithm: "
            f"sc.pp.log1p({name})"
        )
    raise ValueError(f"{where} looks {what}{asked}. {mend}.{hint}")


def find_counts(
    adata: AnnData,
    *,
    layer: str | None = None,
    by_model: bool = False,
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
    name, layer_name
        How the message calls the data, and the argument that names a layer of it.

    Returns
    -------
    str
        Where counts were found and what to type, for `raw_hint` of :func:`resolve_input`;
        empty where there are none. Judged by a sample of cells.

    Examples
    --------
    >>> import anndata, numpy as np
    >>> from scssl.data import find_counts
    >>> adata = anndata.AnnData(np.log1p(np.ones((3, 2))), layers={"counts": np.full((3, 2), 5)})
    >>> find_counts(adata)
    'Counts were found in adata.layers["counts"]: pass layer="counts".'
    """
    hints = []
    here = f"{name}.X" if layer is None else f'{name}.layers["{layer}"]'
    # X is the layer None, as newer AnnData lists it; the one that is used already is not looked at.
    others: dict[str | None, Any] = {None: adata.X, **adata.layers, layer: None}
    for other, values in others.items():
        if _holds_counts(values):
            there = f"{name}.X" if other is None else f'{name}.layers["{other}"]'
            wanted = None if other is None else f'"{other}"'
            mend = f"{here} = {there}" if by_model else f"pass {layer_name}={wanted}"
            hints.append(f"{there}: {mend}")
    raw = getattr(adata, "raw", None)
    if raw is not None and _holds_counts(raw.X):
        more = "" if layer is None or not by_model else f"; {here} = {name}.X"
        hints.append(f"{name}.raw: use {name} = {name}.raw.to_adata(){more}")
    return f"Counts were found in {'; in '.join(hints)}." if hints else ""


def _holds_counts(X: Any, n_cells: int = 256) -> bool:
    if X is None:
        return False
    try:
        source = open_rows(X)
    except (TypeError, ValueError):
        return False
    stats = scan_matrix(source.read(np.arange(min(n_cells, source.shape[0]))))
    return stats.all_integer and stats.n_negative == 0 and stats.max > 1
