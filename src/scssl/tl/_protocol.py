"""Which cells a probe is trained on and which it is tested on."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from scssl._errors import warn
from scssl._random import derive_generator

from ._checks import get_column, get_rows

if TYPE_CHECKING:
    from anndata import AnnData


@dataclass
class Protocol:
    """Cells and labels of one evaluation, the same for every representation.

    Parameters
    ----------
    names
        Names of the labels that can be learned, sorted.
    pool
        Rows of the training part. Features are standardised on all of them.
    train
        Rows of the training part whose label is used.
    test
        Rows of the test part.
    codes
        Label of every cell, a position in `names`; -1 for one that is left out.
    left_out
        Labels that cannot be tested, and their cells.
    """

    names: np.ndarray
    pool: np.ndarray
    train: np.ndarray
    test: np.ndarray
    codes: np.ndarray
    left_out: dict[str, int] = field(default_factory=dict)


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
    """Split the cells, draw the labels to learn from, and leave out what cannot be tested."""
    names, codes = np.unique(np.asarray(labels.astype(str)), return_inverse=True)
    if split is None:
        pool, test = _stratified(codes, test_size, seed)
    else:
        pool, test = _given(adata, split)
    in_pool = np.bincount(codes[pool], minlength=len(names))
    in_test = np.bincount(codes[test], minlength=len(names))
    left_out = {
        str(name): int(cells)
        for name, trained, cells in zip(names, in_pool, in_test, strict=True)
        if cells and not trained
    }
    if left_out:
        shown = ", ".join(f"{name!r} ({n})" for name, n in list(left_out.items())[:5])
        warn(
            f"{sum(left_out.values()):,} test cells are left out: {len(left_out)} of "
            f"{len(names)} labels in adata.obs[{label_key!r}] have no training cell: {shown}."
        )
    test = test[in_pool[codes[test]] > 0]
    known = np.flatnonzero(in_pool)
    if len(known) < 2:
        raise ValueError(
            f"Needs at least two labels with training cells; adata.obs[{label_key!r}] has "
            f"{len(known)} among {len(names):,} labels. Is it a column of cell types?"
        )
    if not len(test):
        raise ValueError(
            "No test cell has a label that is among the training cells: nothing can be scored."
        )
    new = np.full(len(names), -1)
    new[known] = np.arange(len(known))
    protocol = Protocol(names[known], pool, pool, test, new[codes], left_out)
    if n_labels_per_class is not None:
        protocol.train = draw_few(protocol, n_labels_per_class, seed)
    return protocol


def rank_in_class(codes: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Place of each cell in a random order of the cells of its class."""
    order = generator.permutation(len(codes))
    order = order[np.argsort(codes[order], kind="stable")]
    sizes = np.bincount(codes)
    starts = np.cumsum(sizes) - sizes
    rank = np.empty(len(codes), dtype=np.intp)
    rank[order] = np.arange(len(codes)) - starts[codes[order]]
    return rank


def _stratified(codes: np.ndarray, test_size: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The share of each class to test on, rounded, but one cell or more of each class in each part.

    A class of one cell can only be trained on.
    """
    sizes = np.bincount(codes)
    n_test = np.clip(np.rint(test_size * sizes).astype(np.intp), 1, np.maximum(sizes - 1, 0))
    n_test[sizes < 2] = 0
    is_test = rank_in_class(codes, derive_generator(seed, "split")) < n_test[codes]
    return np.flatnonzero(~is_test), np.flatnonzero(is_test)


def draw_few(protocol: Protocol, n: int, seed: int) -> np.ndarray:
    """The first `n` cells of each class in a random order: of one seed, fewer are part of more."""
    codes = protocol.codes[protocol.pool]
    return protocol.pool[rank_in_class(codes, derive_generator(seed, "few labels")) < n]


def _given(adata: AnnData, split: Any) -> tuple[np.ndarray, np.ndarray]:
    if isinstance(split, str):
        column = get_column(adata, split, "split")
        values = column.astype(object).where(column.notna(), None).to_numpy()
        parts = [np.flatnonzero(values == part) for part in ("train", "test")]
        if not (len(parts[0]) and len(parts[1])):
            found = ", ".join(sorted({repr(value) for value in values})[:10])
            raise ValueError(
                f"adata.obs[{split!r}] must say 'train' for some cells and 'test' for others "
                f"(cells with other values are not used); found {found}."
            )
        return parts[0], parts[1]
    if not isinstance(split, (tuple, list)) or len(split) != 2:
        raise TypeError(
            "`split` must be a column of adata.obs with 'train' and 'test', or a pair (training "
            f"cells, test cells) of row numbers, masks or names; found {type(split).__name__}."
        )
    train, test = (
        np.sort(get_rows(adata, cells, f"the {part} part of `split`"))
        for cells, part in zip(split, ("training", "test"), strict=True)
    )
    both = np.intersect1d(train, test)
    if len(both):
        raise ValueError(
            f"{len(both):,} cells are both in the training and in the test part of `split` (first: "
            f"{adata.obs_names[both[0]]!r}). A cell must not be tested on what was learned from it."
        )
    return train, test
