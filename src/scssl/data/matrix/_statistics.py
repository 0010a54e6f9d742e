"""What the genes of a data set look like, in one pass over a loader."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class GeneStatistics:
    """Each gene over the cells of a data set.

    Parameters
    ----------
    mean, spread
        Mean and standard deviation of the normalised values.
    share
        Mean share of a cell's counts, the values taken as log1p of counts.
    detected
        Share of the cells with a value.
    """

    mean: np.ndarray
    spread: np.ndarray
    share: np.ndarray
    detected: np.ndarray


def gene_statistics(loader: Any, *, max_cells: int = 20_000) -> GeneStatistics:
    """Statistics of each gene over the first `max_cells` cells of a loader in random order."""
    total, square, natural, stored = np.zeros((4, loader.n_genes))
    n = 0
    for batch in loader:
        x = batch["X"]
        columns, values = x.col_indices().numpy(), x.values().numpy().astype(np.float64)
        for sums, weights in (
            (total, values),
            (square, values * values),
            (natural, np.expm1(values)),
            (stored, values > 0),
        ):
            sums += np.bincount(columns, weights, loader.n_genes)
        n += len(batch["indices"])
        if n >= max_cells:
            break
    n = max(n, 1)
    mean = total / n
    return GeneStatistics(
        mean,
        np.sqrt(np.maximum(square / n - mean**2, 0)),
        natural / max(natural.sum(), np.finfo(float).tiny),
        stored / n,
    )
