"""Seeded split of cells into training and validation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from scssl._checks import check_number
from scssl._errors import warn
from scssl._linear import rank_in_class
from scssl._random import derive_generator

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


def train_validation_split(
    n_cells: int, *, train_size: float = 0.9, labels: ArrayLike | None = None, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Split cells into training and validation rows.

    Parameters
    ----------
    n_cells
        Number of cells.
    train_size
        Share of the cells to train on, in (0, 1]. With 1 the validation set is empty; below, and
        from two cells on, both sets have at least one cell.
    labels
        One label per cell to stratify by. Every class keeps at least one cell for training, so a
        class of one cell is never validated on; missing labels (NaN, None) are a class of their own.
    seed
        The split is a function of the seed and the other arguments.

    Returns
    -------
    train_rows, validation_rows
        Sorted row numbers (int64), disjoint, together ``0 … n_cells - 1``.

    Raises
    ------
    ValueError
        If there is no cell, `train_size` is outside (0, 1], or `labels` has another length.

    Examples
    --------
    >>> from scssl.data import train_validation_split
    >>> train, validation = train_validation_split(20, labels=["B", "T"] * 10, seed=0)
    >>> len(train), len(validation)
    (18, 2)
    >>> sorted("BT"[row % 2] for row in validation)
    ['B', 'T']
    """
    n_cells = int(n_cells)
    if n_cells < 1:
        raise ValueError(f"There are no cells to split (n_cells={n_cells}).")
    check_number("train_size", train_size, "(0, 1]")
    codes = np.zeros(n_cells, dtype=np.int64) if labels is None else _class_codes(labels, n_cells)

    n_validation = round(n_cells * (1 - train_size))
    if train_size < 1 and n_cells > 1:
        n_validation = min(max(n_validation, 1), n_cells - 1)
    if n_validation and np.bincount(codes).max() == 1 < n_cells:
        warn(
            f"All {n_cells:,} labels are different, so the validation cells are drawn at random "
            "instead of by label. Does `labels_key` name a column of cell types?"
        )
        codes = np.zeros(n_cells, dtype=np.int64)

    quota = _quotas(np.bincount(codes), n_validation)
    is_validation = rank_in_class(codes, derive_generator(seed, "split")) < quota[codes]
    return np.flatnonzero(~is_validation), np.flatnonzero(is_validation)


def _class_codes(labels: Any, n_cells: int) -> np.ndarray:
    series = pd.Series(labels)
    if len(series) != n_cells:
        raise ValueError(f"`labels` has {len(series):,} entries for {n_cells:,} cells.")
    codes, _ = pd.factorize(series, use_na_sentinel=True)
    codes = np.where(codes < 0, codes.max() + 1, codes)
    return codes.astype(np.int64)


def _quotas(sizes: np.ndarray, n_validation: int) -> np.ndarray:
    """Validation cells per class: proportional, largest remainders first, one cell left to train."""
    capacity = np.maximum(sizes - 1, 0)
    ideal = sizes * (n_validation / sizes.sum())
    quota = np.minimum(np.floor(ideal).astype(np.int64), capacity)
    while (missing := min(n_validation, capacity.sum()) - quota.sum()) > 0:
        shortfall = np.where(quota < capacity, ideal - quota, -np.inf)
        best = np.argsort(-shortfall, kind="stable")[:missing]
        quota[best] += quota[best] < capacity[best]
    return quota
