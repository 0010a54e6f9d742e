"""Whether two data sets vary in the same ways, as those that share cell types do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from scssl._random import derive_generator
from scssl.data import normalize_rows, open_rows
from scssl.data.matrix import row_sums, typical_sum, usual_target_sum

if TYPE_CHECKING:
    from scssl.data.matrix import InputKind

# Share below which two data sets hardly have a type in common. Of eight pairs of data sets of other
# technologies, 500 cells each, those with common types had .53 to .88, those without .20 to .33; single types
# of kang_ifnb against its other batches .53 and more.
FEW_COMMON = 0.43
_N_CELLS, _N_GENES, _N_AXES, _N_DRAWS = 500, 1500, 10, 3
# Cells below which the axes of a data set are mostly noise.
_LEAST = 40


def common_axes(x: Any, input_kind: InputKind, is_query: np.ndarray, seed: int) -> float:
    """Variance of a query along the leading axes of a reference, relative to that along its own; about 0 to 1.

    Both are centred, so that what sets the batches apart does not count. Axes are the ten leading principal
    ones, of as many cells of either, and are asked about other cells of the query: axes of noise explain
    as little as those of a stranger. Of 500 cells of each, and the 1,500 genes that vary most in these. NaN
    where either has fewer than 40 cells.
    """
    generator = derive_generator(seed, "axes")
    sides = [np.flatnonzero(is_query == side) for side in (False, True)]
    if min(map(len, sides)) < _LEAST:
        return float("nan")
    drawn = [generator.permutation(rows)[:_N_CELLS] for rows in sides]
    source = open_rows(x)
    parts = [source.read(rows) for rows in drawn]
    sums = np.concatenate([row_sums(part) for part in parts])
    scale = usual_target_sum(source.shape[1], typical_sum(sums))
    parts = [normalize_rows(one, input_kind=input_kind, target_sum=scale)[0] for one in parts]
    spread = sum(_variances(part) for part in parts)
    genes = np.sort(np.argsort(-spread, kind="stable")[:_N_GENES])
    reference, query = (part[:, genes].toarray().astype(np.float64) for part in parts)
    n = min(len(query) // 2, len(reference))
    # Of few genes, ten axes would be much of all that there is.
    n_axes = max(1, min(_N_AXES, len(genes) // 10))
    found = []
    for _ in range(_N_DRAWS):
        order = generator.permutation(len(query))
        asked, own = query[order[n:]], query[order[:n]]
        others = reference[generator.permutation(len(reference))[:n]]
        asked = asked - asked.mean(axis=0)
        along = [float(((asked @ _axes(cells, n_axes)) ** 2).sum()) for cells in (others, own)]
        found.append(along[0] / max(along[1], np.finfo(np.float64).tiny))
    return float(np.mean(found))


def _variances(x: Any) -> np.ndarray:
    mean = np.asarray(x.mean(axis=0)).ravel()
    variances: np.ndarray = np.asarray(x.multiply(x).mean(axis=0)).ravel() - mean**2
    return variances


def _axes(cells: np.ndarray, n_axes: int) -> np.ndarray:
    """Leading principal axes, one a column."""
    axes: np.ndarray = np.linalg.svd(cells - cells.mean(axis=0), full_matrices=False)[2]
    return axes[:n_axes].T
