"""Orders of cells in which every group comes as often as any other."""

from __future__ import annotations

import numpy as np


def balanced_order(
    rows: np.ndarray, groups: np.ndarray, rng: np.random.Generator, *, n: int | None = None
) -> np.ndarray:
    """Rows in random order, with all groups present at the same rate throughout.

    Any stretch of as many rows as there are groups, from a multiple of that number on, has one of each.
    Rows of small groups come several times, each once more only when all have come; of large groups
    some do not come, others in the next epoch.

    Parameters
    ----------
    rows
        Row numbers to draw from.
    groups
        Group of each of them; integers of the same shape.
    rng
        Generator.
    n
        How many to draw, as many as there are by default.
    """
    n = len(rows) if n is None else n
    _, codes = np.unique(groups, return_inverse=True)
    n_groups = int(codes.max(initial=-1)) + 1
    if n_groups < 2:
        return np.resize(rng.permutation(rows), n)
    n_cycles = -(-n // n_groups)
    # The order of the groups is drawn for each cycle, so that every k-th row too is of all groups.
    turns = rng.permuted(np.tile(np.arange(n_groups), (n_cycles, 1)), axis=1).ravel()[:n]
    order = np.empty(n, dtype=rows.dtype)
    for group in range(n_groups):
        own, where = rows[codes == group], np.flatnonzero(turns == group)
        passes = -(-len(where) // len(own))
        drawn = [rng.permutation(own) for _ in range(passes)]
        order[where] = np.concatenate(drawn)[: len(where)]
    return order
