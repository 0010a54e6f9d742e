"""Which cells an evaluation learns from and which it is tested on."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from scssl._checks import get_column, some
from scssl._errors import warn
from scssl._linear import rank_in_class
from scssl._random import derive_generator, derive_seed

from ._common import get_rows

if TYPE_CHECKING:
    from anndata import AnnData


@dataclass
class Protocol:
    """Cells and labels of one evaluation, the same for every representation."""

    names: np.ndarray
    """Names of the labels that can be learned, sorted."""
    pool: np.ndarray
    """Rows of the training part, on all of which features are scaled."""
    train: np.ndarray
    """Rows of the training part whose label is used."""
    test: np.ndarray
    codes: np.ndarray
    """Label of every cell, a position in `names`; -1 for one that is left out."""
    left_out: dict[str, int] = field(default_factory=dict)
    """Labels that cannot be tested, and their cells."""
    fold: np.ndarray | None = None
    """In cross-validation, fold of every tested cell: it is tested on what the others taught."""

    def parts(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Rows to learn from and rows to test on: one pair, or one for each fold."""
        if self.fold is None:
            return [(self.train, self.test)]
        folds = (self.fold == i for i in range(self.fold.max() + 1))
        return [(self.train[~inside], self.test[inside]) for inside in folds]


def make_protocol(
    adata: AnnData,
    labels: Any,
    *,
    label_key: str,
    split: Any,
    test_size: float,
    n_labels_per_class: int | None,
    seed: int,
) -> Protocol:
    """Split the cells, draw the labels to learn from, and leave out what cannot be tested.

    Cells whose label is missing are in no part. With a `test_size` of 0 all others are trained on.
    """
    rows = np.flatnonzero(labels.notna())
    if not len(rows):
        raise ValueError(f"adata.obs[{label_key!r}] is missing for all {adata.n_obs:,} cells.")
    names, known = np.unique(np.asarray(labels.iloc[rows].astype(str)), return_inverse=True)
    codes = np.full(adata.n_obs, -1)
    codes[rows] = known
    if split is None:
        is_test = _stratified(known, test_size, seed)
        pool, test = rows[~is_test], rows[is_test]
    else:
        pool, test = _given(adata, split, codes >= 0, label_key)
    in_pool = np.bincount(codes[pool], minlength=len(names))
    in_test = np.bincount(codes[test], minlength=len(names))
    left_out = {
        str(name): int(cells)
        for name, trained, cells in zip(names, in_pool, in_test, strict=True)
        if cells and not trained
    }
    _tell_left_out(left_out, "test cells", len(names), label_key, "no training cell")
    learned = np.flatnonzero(in_pool)
    _check_two(names[learned], "training cells", len(names), label_key)
    test = test[in_pool[codes[test]] > 0]
    if not len(test) and (split is not None or test_size):
        raise ValueError(
            "No test cell has a label that training cells have: nothing can be scored."
        )
    # One code more than there are labels: that of cells that have none, -1, stays what it is.
    new = np.full(len(names) + 1, -1)
    new[learned] = np.arange(len(learned))
    protocol = Protocol(names[learned], pool, pool, test, new[codes], left_out)
    if n_labels_per_class is not None:
        # The first of each class in a random order: of one seed, fewer are part of more.
        generator = derive_generator(seed, "few labels")
        protocol.train = pool[rank_in_class(protocol.codes[pool], generator) < n_labels_per_class]
    return protocol


def make_folds(labels: Any, *, label_key: str, n_splits: int, seed: int) -> Protocol:
    """Stratified cross-validation of the cells whose label is in every fold."""
    import pandas as pd
    from sklearn.model_selection import StratifiedKFold

    codes, names = pd.factorize(labels, sort=True)
    sizes = np.bincount(codes, minlength=len(names))
    is_kept = sizes >= n_splits
    left_out = {
        str(name): int(size) for name, size in zip(names, sizes, strict=True) if size < n_splits
    }
    _check_two(names[is_kept], f"{n_splits} cells or more", len(names), label_key)
    few = f"fewer than {n_splits} cells, one for each fold"
    _tell_left_out(left_out, "cells", len(names), label_key, few)
    codes = np.where(is_kept, np.cumsum(is_kept) - 1, -1)[codes]
    rows = np.flatnonzero(codes >= 0)
    fold = np.empty(len(rows), dtype=np.intp)
    folds = StratifiedKFold(n_splits, shuffle=True, random_state=derive_seed(seed, "folds") % 2**32)
    for i, (_, inside) in enumerate(folds.split(rows, codes[rows])):
        fold[inside] = i
    return Protocol(np.asarray(names)[is_kept], rows, rows, rows, codes, left_out, fold)


def params_of_split(split: Any, test_size: float, n_labels_per_class: int | None) -> dict[str, Any]:
    """How the cells were split, as it is written with the results."""
    given = "given" if isinstance(split, (tuple, list)) else "seeded"
    if split is not None and not isinstance(split, (tuple, list)):
        given = split if isinstance(split, str) else f"{split} folds"
    return {
        "split": given,
        "test_size": float(test_size) if split is None else "given",
        "n_labels_per_class": "all" if n_labels_per_class is None else int(n_labels_per_class),
    }


def _tell_left_out(
    left_out: dict[str, int], what: str, n_labels: int, label_key: str, why: str
) -> None:
    if left_out:
        sizes = ", ".join(f"{name!r} ({n})" for name, n in list(left_out.items())[:5])
        warn(
            f"{sum(left_out.values()):,} {what} are left out: {len(left_out)} of {n_labels} labels in "
            f"adata.obs[{label_key!r}] have {why}: {sizes}."
        )


def _check_two(names: Any, what: str, n_labels: int, label_key: str) -> None:
    if len(names) < 2:
        raise ValueError(
            f"Needs at least two labels with {what}; adata.obs[{label_key!r}] has {len(names)} among "
            f"{n_labels:,} labels: {some(names)}. Is it a column of cell types?"
        )


def _stratified(codes: np.ndarray, test_size: float, seed: int) -> np.ndarray:
    """Mask of the share of each class to test on, rounded, but one or more of each in each part.

    A class of one cell can only be trained on.
    """
    sizes = np.bincount(codes)
    n_test = np.clip(np.rint(test_size * sizes).astype(np.intp), 1, np.maximum(sizes - 1, 0))
    n_test[sizes < 2] = 0
    if test_size == 0:
        n_test[:] = 0
    is_test: np.ndarray = rank_in_class(codes, derive_generator(seed, "split")) < n_test[codes]
    return is_test


def _given(
    adata: AnnData, split: Any, labelled: np.ndarray, label_key: str
) -> tuple[np.ndarray, np.ndarray]:
    """Labelled cells of both parts of a split that the user made."""
    if isinstance(split, str):
        column = get_column(adata, split, "split")
        values = column.astype(object).where(column.notna(), None).to_numpy()
        train, test = (np.flatnonzero((values == part) & labelled) for part in ("train", "test"))
        if not (len(train) and len(test)):
            found = ", ".join(sorted({repr(value) for value in values[labelled]})[:10])
            must = "must say 'train' for some cells and 'test' for others"
            raise ValueError(f"adata.obs[{split!r}] {must}; found {found}.")
        return train, test
    if not isinstance(split, (tuple, list)) or len(split) != 2:
        raise TypeError(
            "`split` must be a column of adata.obs with 'train' and 'test', or a pair of row numbers, "
            f"masks or names, (training cells, test cells); found {type(split).__name__}."
        )
    parts = []
    for cells, part in zip(split, ("training", "test"), strict=True):
        where = f"the {part} part of `split`"
        rows = np.sort(get_rows(adata, cells, where))
        parts.append(rows[labelled[rows]])
        if not len(parts[-1]):
            raise ValueError(f"{where} has no cell with a label in adata.obs[{label_key!r}].")
    train, test = parts
    both = np.intersect1d(train, test)
    if len(both):
        raise ValueError(
            f"{len(both):,} cells are in both parts of `split` (first: {adata.obs_names[both[0]]!r}). A "
            "cell must not be tested on what was learned from it."
        )
    return train, test
