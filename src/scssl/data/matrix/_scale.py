"""What was done to counts before they came here, told from the values of some cells."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from ._rows import Chunked, Compressed, Storage, is_on_disk

_CONSTANT = 1e-3  # relative spread of row sums below which they count as one value
_NEAR = 0.05  # distance from a whole number below which a value is near it: 10 % are by chance
_EXACT = 1e-3  # mean distance of multiples of one step, where nothing was rounded
_FITS = 0.9  # share of near values above which they are multiples of one step
_ENOUGH = 30  # values it takes to tell
# log1p of a million is 13.8, log2 of it 20: no logarithm of expression reaches this.
LOG_MAX = 25.0

#: What values are called in messages.
FORMS = {
    "counts": "counts",
    "binary": "only 0 and 1",
    "near counts": "counts with small fractions",
    "linear": "normalised values without a logarithm",
    "ln": "natural logarithms",
    "log2": "logarithms of base 2",
    "log10": "logarithms of base 10",
    "sqrt": "square roots",
    "twice": "logarithms of logarithms",
    "unknown": "values of an unknown kind",
}
# Back to what is proportional to counts. Where nothing else tells, the first that fits.
_UNDO: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "ln": np.expm1,
    "linear": np.asarray,
    "log2": lambda x: np.exp2(x) - 1,
    "log10": lambda x: np.power(10.0, x) - 1,
    "sqrt": np.square,
    "twice": lambda x: np.expm1(np.expm1(x)),
}


@dataclass(frozen=True)
class Scale:
    """How values came from counts. JSON only, so that it is part of a saved model.

    Parameters
    ----------
    form
        What values are: ``"counts"``, ``"binary"``, ``"near counts"``, ``"linear"``, ``"ln"``, ``"log2"``,
        ``"log10"``, ``"sqrt"``, ``"twice"`` (logged) or ``"unknown"``.
    certain
        Whether the values can be nothing else; of an unknown form, whether there were enough to tell.
    target_sum
        What every cell sums to without the logarithm; `None` where cells differ.
    scaled
        Whether cells were divided by something; without the logarithm raw counts are whole.
    level
        Median sum of a cell over the genes that are used, without the logarithm.
    """

    form: str
    certain: bool
    target_sum: float | None = None
    scaled: bool = True
    level: float = 0.0

    def undo(self, values: np.ndarray) -> np.ndarray:
        """Logarithms or roots back to what is proportional to counts; of an unknown form, natural logarithms."""
        return _UNDO.get(self.form, _UNDO["ln"])(values)

    def __str__(self) -> str:
        if self.form in ("counts", "binary", "near counts", "unknown"):
            return FORMS[self.form]
        of = "" if self.form == "linear" else " of normalised values"
        if not self.scaled:
            return f"{FORMS[self.form]} of raw counts"
        sums = "" if self.target_sum is None else f" that sum to {self.target_sum:.6g} in each cell"
        return f"{FORMS[self.form]}{of}{sums}"


#: What a model reads where nothing else is known.
LOGARITHM = Scale("ln", certain=True)


def is_constant(sums: np.ndarray) -> bool:
    """Whether cells have the same sum."""
    # Too large to be written, they are not the same.
    known = len(sums) >= 3 and bool(np.isfinite(sums).all())
    return known and float(np.ptp(sums)) <= _CONSTANT * float(np.median(sums))


@np.errstate(over="ignore", invalid="ignore")
def recognise(block: sparse.csr_matrix, used: np.ndarray | None = None) -> Scale:
    """Tell what was done to the counts of some cells, which have fractions and nothing negative.

    Values of a cell that come from counts are multiples of one step, without the logarithm: that tells
    the logarithm, also of cells that are scaled by sizes of their own, or of which some genes are left.
    Where counts were never whole (TPM), equal sums tell.

    Parameters
    ----------
    block
        Some cells, without stored zeros.
    used
        Genes of which the level is taken, boolean; all by default.

    Returns
    -------
    Scale
        What was found.
    """
    if not block.nnz:
        return Scale("unknown", False)
    rows, distinct, n_stored, n_used = _distinct(block, used)
    starts = np.flatnonzero(np.r_[True, np.diff(rows) != 0])
    high = float(distinct.max()) >= LOG_MAX
    undone = {
        name: undo(distinct)
        for name, undo in _UNDO.items()
        if not high or name in ("linear", "sqrt")
    }
    sums = {name: np.add.reduceat(n_stored * one, starts) for name, one in undone.items()}
    constant = [name for name, one in sums.items() if is_constant(one)]
    cells = np.repeat(np.arange(len(starts)), np.diff(np.r_[starts, len(rows)]))
    fits = {name: _fit(cells, starts, one) for name, one in undone.items()}
    whole = [name for name, (n, near, _) in fits.items() if n >= _ENOUGH and near >= _FITS]
    if any(_all_near(distinct * 10**digits) for digits in (1, 2, 3)):
        # Of numbers that were rounded all are multiples of what they were rounded to.
        whole = [name for name in whole if name not in ("linear", "sqrt")]
    if "linear" in whole:
        # Squares of whole numbers are whole as well.
        form = "linear"
    elif whole:
        # Of small values several fit: the one that fits best, to the precision of the values.
        form = min(whole, key=lambda name: fits[name][2])
    else:
        # Identical cells have equal sums in any form.
        form = constant[0] if constant else "unknown"
    large = distinct[distinct > 1.5]
    near = np.abs(large - np.rint(large)) < _NEAR
    exact = form in fits and form not in ("linear", "sqrt") and fits[form][2] < _EXACT
    if not exact and len(large) >= _ENOUGH and near.mean() > 0.6:
        return Scale("near counts", True)
    counts = _UNDO["ln"](distinct) if form == "unknown" else undone[form]
    small = counts[counts < 20]
    raw = bool(whole) and bool(
        len(small) and ((np.abs(small - np.rint(small)) < _NEAR) & (small > 0.5)).mean() >= _FITS
    )
    level = np.bincount(rows, np.where(n_used > 0, counts * n_used, 0), block.shape[0])
    enough = max(n for n, _, _ in fits.values()) >= _ENOUGH
    return Scale(
        form,
        certain=enough if form == "unknown" else True,
        target_sum=float(f"{np.median(sums[form]):.6g}") if form in constant else None,
        scaled=not raw,
        level=float(f"{np.median(level):.6g}"),
    )


def _all_near(values: np.ndarray) -> bool:
    return bool((np.abs(values - np.rint(values)) < 0.01).all())


def _distinct(block: sparse.csr_matrix, used: np.ndarray | None) -> tuple[np.ndarray, ...]:
    """Row and value of what is stored, each value of a cell once and in ascending order.

    And how many genes of the cell have it, and how many that are `used`.
    """
    # The bits of positive numbers have the order of the numbers, and one sort of whole numbers, of row,
    # value and use, takes a sixth of the time of one by row and value.
    rows = np.repeat(np.arange(block.shape[0], dtype=np.uint64), np.diff(block.indptr))
    packed = block.data.astype(np.float32, copy=False).view(np.uint32).astype(np.uint64)
    packed |= rows << np.uint64(32)
    packed <<= np.uint64(1)
    packed |= np.uint64(1) if used is None else used[block.indices].astype(np.uint64)
    packed.sort()
    named = packed >> np.uint64(1)
    starts = np.flatnonzero(np.r_[True, named[1:] != named[:-1]])
    n_stored = np.diff(np.r_[starts, len(packed)])
    n_used = np.add.reduceat(packed & np.uint64(1), starts).astype(np.int64)
    named = named[starts]
    values = named.astype(np.uint32).view(np.float32).astype(np.float64)
    return (named >> np.uint64(32)).astype(np.int64), values, n_stored, n_used


def _fit(cells: np.ndarray, starts: np.ndarray, values: np.ndarray) -> tuple[int, float, float]:
    """How near to multiples of one step the values of a cell are: number, share near, mean distance."""
    ratios = values / values[starts][cells]
    # Multiples of many steps are near to whole numbers whatever the step.
    told = (ratios > 1.02) & (ratios < 20)
    cells, ratios = cells[told], ratios[told]
    n = np.bincount(cells, minlength=len(starts))
    best, distance = np.full(len(n), np.inf), np.ones(len(ratios))
    # Without some genes the smallest value of a cell may be that of two or three counts.
    for count in (1, 2, 3):
        apart = np.abs(ratios * count - np.rint(ratios * count))
        mean = np.bincount(cells, apart, len(n)) / np.maximum(n, 1)
        better = mean < (best if count == 1 else best / 4)
        best, distance = np.where(better, mean, best), np.where(better[cells], apart, distance)
    distance = distance[n[cells] > 1]
    # Cells that are not scaled all have the same few values, which are near to whole ones by chance.
    overall = float(distance.mean()) if len(distance) else 1.0
    if not len(distance) or (overall > _EXACT and len(np.unique(ratios.round(2))) < 4):
        return 0, 0.0, 1.0
    return len(distance), float((distance < _NEAR).mean()), overall


def is_sparse(storage: Storage) -> bool:
    """Whether the matrix is sparse; of one that is computed when read, its first part."""
    return isinstance(
        storage.compute(0, 0) if isinstance(storage, Chunked) else storage, Compressed
    )


def into_memory(storage: Storage, name: str) -> str:
    """What comes before a line that changes values: nothing changes those of a file."""
    return f"{name} = {name}.to_memory(); " if is_on_disk(storage) else ""


def steps(
    found: Scale,
    wanted: Scale,
    where: str,
    *,
    name: str,
    layer: str,
    storage: Storage,
) -> str:
    """Lines that make the values in `where` what is wanted; empty where no line can.

    `layer` is the argument that names it, with a comma before it.
    """
    into = into_memory(storage, name)
    if wanted.form == "binary":
        return f'{into}{where} = ({where} > 0).astype("float32")'
    if found.form in ("binary", "near counts", "unknown", "counts"):
        return ""
    if wanted.form not in _UNDO or (found.scaled and not wanted.scaled):
        return ""
    square = f"{where}.power(2)" if is_sparse(storage) else f"np.square({where})"
    logs = {
        "ln": where,
        "log2": f"{where} * np.log(2)",
        "log10": f"{where} * np.log(10)",
        "sqrt": f"np.log1p({square})",
        "twice": f"np.expm1({where})",
        "linear": f"np.log1p({where})",
    }[found.form]
    total = wanted.target_sum or (wanted.level if not found.scaled else None)
    if wanted.scaled and total and total != found.target_sum:
        linear = {"linear": where, "sqrt": square}.get(found.form, f"np.expm1({logs})")
        if found.target_sum is not None:
            logs = f"np.log1p({linear} * {total / found.target_sum:.6g})"
        elif not found.scaled:
            move = "" if linear == where else f"{where} = {linear}; "
            into += f"{move}sc.pp.normalize_total({name}, target_sum={total:g}{layer}); "
            logs = f"np.log1p({where})"
    made = {
        "log2": f"{logs} / np.log(2)",
        "log10": f"{logs} / np.log(10)",
        "sqrt": f"np.sqrt(np.expm1({logs}))",
    }.get(wanted.form, logs)
    return f"{into}{where} = {made}" if made != where else into.removesuffix("; ")


def differs(expected: Scale, found: Scale) -> str:
    """In what the values of new data are not those a model has read; empty where they may be the same."""
    if expected.form == "unknown" or not (expected.certain and found.certain):
        return ""
    if found.form == "unknown":
        return ""
    if (expected.form, expected.scaled) != (found.form, found.scaled):
        return f"{found}"
    then, now = expected.target_sum, found.target_sum
    if then and now and max(then / now, now / then) > 1.25:
        return f"{found}"
    # Cells of which genes were left out sum to less, never to more.
    if then and not now and found.level > 1.25 * then:
        return f"{found}, up to {found.level:.4g} in a cell"
    return ""
