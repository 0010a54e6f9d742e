"""The cells of a benchmark: what is known of them, which are learned from and which are held out."""

from __future__ import annotations

import hashlib
import logging
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from scssl._checks import check_adata, get_column, get_matrix, some, whole_numbers
from scssl._errors import MissingKeyError, ScsslWarning
from scssl._random import derive_generator
from scssl.data import find_counts, open_rows, refuse_features, resolve_input, scan_matrix
from scssl.tl._protocol import Protocol, make_protocol

from ._declared import Declared

if TYPE_CHECKING:
    from anndata import AnnData

_LOGGER = logging.getLogger("scssl")
_HASHED_ROWS = 4096
# Blocks along each axis of a section, of which one in so many is held out.
_BLOCKS, _HELD_OUT_BLOCKS = 5, 5
# Neighbours of a cell, none of which is learned from where it is held out.
_N_NEAR = 6


@dataclass
class Cells:
    """A data set, checked once, with its labels, batches and hash."""

    adata: AnnData
    name: str
    label_key: str | None
    batch_key: str | None
    layer: str | None
    modality_key: str | None
    spatial_key: str
    split_key: str | None
    min_cells: int
    declared: Declared = field(default_factory=Declared)
    kind: str = field(init=False)
    labels: Any = field(init=False, default=None)
    """Names of the labels as a column; missing for cells that are not scored."""
    hash: str = field(init=False)
    _hashes: dict[str, str] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        adata = self.adata
        check_adata(adata, matrix=True)
        refuse_features(adata)
        matrix, where = get_matrix(adata, self.layer)
        decision = resolve_input(
            scan_matrix(matrix, where=where),
            raw_hint=find_counts(adata, layer=self.layer),
            obs_names=adata.obs_names,
            var_names=adata.var_names,
        )
        self.kind = decision.kind
        if not adata.obs_names.is_unique:
            raise ValueError("Cell names are not unique: `adata.obs_names_make_unique()`.")
        if self.label_key is not None:
            labels = whole_numbers(get_column(adata, self.label_key, "label_key"))
            known = labels[labels.notna()].astype(str)
            sizes = known.value_counts()
            kept = known[known.isin(sizes.index[sizes >= self.min_cells])]
            if kept.nunique() < 2:
                raise ValueError(
                    f"adata.obs[{self.label_key!r}] has {kept.nunique()} labels of {self.min_cells} "
                    "cells or more, and two are needed. Is it a column of cell types?"
                )
            self.labels = kept.reindex(adata.obs_names).astype(object)
        if self.label_key is not None and self.label_key in (self.batch_key, self.split_key):
            raise ValueError(
                f"{self.label_key!r} is given as labels and as batches, which methods are told: give two columns."
            )
        for key, argument in ((self.batch_key, "batch_key"), (self.split_key, "split_key")):
            if key is not None:
                column = get_column(adata, key, argument)
                if column.isna().any():
                    raise ValueError(
                        f"adata.obs[{key!r}] is missing for {int(column.isna().sum()):,} cells. Take the "
                        f"others: `adata = adata[adata.obs[{key!r}].notna()].copy()`."
                    )
        if self.modality_key is not None and self.modality_key not in adata.obsm:
            raise MissingKeyError(
                f"adata.obsm has no {self.modality_key!r}; it has {list(adata.obsm) or 'nothing'}."
            )
        self.hash = self._hash(matrix, where)
        self.declared.check_data(self)

    def _hash(self, matrix: Any, where: str) -> str:
        """The same for the same values, genes and columns, in any storage."""
        found, rows = hashlib.sha256(), open_rows(matrix, where=where)
        for start in range(0, self.adata.n_obs, _HASHED_ROWS):
            part = rows.read(np.arange(start, min(start + _HASHED_ROWS, self.adata.n_obs)))
            part.sort_indices()
            for array in (part.data, part.indices.astype(np.int64), part.indptr.astype(np.int64)):
                found.update(np.ascontiguousarray(array).data)
        texts = [self.adata.var_names, self.adata.obs_names]
        keys = dict.fromkeys([self.label_key, self.batch_key, self.split_key])
        texts += [self.adata.obs[key].astype(str) for key in keys if key is not None]
        for names in texts:
            found.update("\n".join(map(str, names)).encode())
        return found.hexdigest()[:16]

    def hash_of(self, keys: Iterable[str]) -> str:
        """The same for the same values of columns and entries of the data that have these names."""
        return "".join(self._hash_of(key) for key in sorted(set(keys)))

    def _hash_of(self, key: str) -> str:
        # Once for all fits: a graph of an atlas is large.
        if key not in self._hashes:
            found = hashlib.sha256()
            for place in ("obs", "obsm", "obsp"):
                held = getattr(self.adata, place)
                if key in held:
                    found.update(f"{place}[{key}]".encode())
                    _update(found, held[key])
            self._hashes[key] = found.hexdigest()[:16]
        return self._hashes[key]

    @property
    def groups(self) -> np.ndarray:
        """Name of the group of each cell that is held out as a whole."""
        key = self.split_key or self.batch_key
        if key is None:
            raise ValueError("Groups to hold out are needed: `batch_key` or `split_key`.")
        return np.asarray(self.adata.obs[key].astype(str))

    @property
    def batch_names(self) -> np.ndarray | None:
        """Name of the batch of each cell."""
        return (
            None
            if self.batch_key is None
            else np.asarray(self.adata.obs[self.batch_key].astype(str))
        )


def _update(found: Any, values: Any) -> None:
    from scipy import sparse

    if sparse.issparse(values):
        values = values.tocsr()
        for array in (values.data, values.indices, values.indptr):
            found.update(np.ascontiguousarray(array).data)
        return
    array = np.asarray(values)
    if array.dtype.kind in "OUSTb":
        found.update("\n".join(map(str, array.ravel())).encode())
    else:
        found.update(np.ascontiguousarray(array).data)


@dataclass(frozen=True)
class Split:
    """Cells to learn from and cells to test on."""

    kind: str
    """``"cell"``, ``"group"``, ``"block"`` or ``"none"``: nothing is held out."""
    fold: str
    seed: int
    train: np.ndarray
    """Rows to fit to, labelled or not."""
    test: np.ndarray
    """Rows to test on."""
    unseen: str = ""
    """Label of which no cell is learned from, and some are in the test part."""

    @property
    def hash(self) -> str:
        """The same for the same cells."""
        found = hashlib.sha256()
        for rows in (self.train, self.test):
            found.update(np.ascontiguousarray(rows, dtype=np.int64).data)
        return found.hexdigest()[:12]


def cell_splits(cells: Cells, seeds: Sequence[int], test_size: float) -> Iterator[Split]:
    """Random cells, stratified by label; the parts of :func:`scssl.tl.linear_probe` with the same seed."""
    rows = np.arange(cells.adata.n_obs)
    for seed in seeds:
        if cells.labels is None:
            order = derive_generator(seed, "split").permutation(len(rows))
            test = np.sort(order[: max(1, round(test_size * len(rows)))])
        else:
            test = np.sort(_protocol(cells, None, test_size, None, seed).test)
        yield Split("cell", "", seed, np.setdiff1d(rows, test), test)


def group_splits(cells: Cells, seeds: Sequence[int], folds: int | None) -> Iterator[Split]:
    """Each group in turn, or so many of them, drawn once for all seeds."""
    groups = cells.groups
    names = np.unique(groups)
    n_groups = len(names)
    if cells.labels is not None:
        names = np.array([one for one in names if _can_be_scored(cells, groups == one)])
        if len(names) < n_groups:
            _LOGGER.warning(
                "%d of %d groups have no labelled cell, or leave fewer than two labels to learn from: "
                "they are not left out.",
                n_groups - len(names),
                n_groups,
            )
    if n_groups < 2 or not len(names):
        key = cells.split_key or cells.batch_key
        raise ValueError(
            f"adata.obs[{key!r}] has {n_groups} groups, {some(np.unique(groups))}, of which none can be "
            "held out: others with labelled cells are needed to learn from."
        )
    if folds is not None and folds < len(names):
        names = np.sort(derive_generator(0, "folds").choice(names, folds, replace=False))
    for seed in seeds:
        for name in names:
            inside = groups == name
            test = inside if cells.labels is None else inside & cells.labels.notna().to_numpy()
            yield Split("group", str(name), seed, np.flatnonzero(~inside), np.flatnonzero(test))


def _can_be_scored(cells: Cells, inside: np.ndarray) -> bool:
    labels = cells.labels
    known = set(labels[~inside].dropna())
    return len(known) > 1 and bool(labels[inside].isin(known).any())


def block_splits(cells: Cells, seeds: Sequence[int]) -> Iterator[Split]:
    """Blocks of tissue: a fifth of a grid of 5 x 5 a section; no cell is learned from near one that is held out.

    The margin is twice the median distance of a cell to its sixth neighbour, and where cells are sparse all that
    are among the six neighbours of one that is held out, or have it among theirs.
    """
    from scipy.spatial import cKDTree

    adata = cells.adata
    if cells.spatial_key not in adata.obsm:
        raise MissingKeyError(f"adata.obsm has no {cells.spatial_key!r}: give `spatial_key`.")
    places = np.asarray(adata.obsm[cells.spatial_key], dtype=np.float64)[:, :2]
    if not np.isfinite(places).all():
        raise ValueError(
            f"adata.obsm[{cells.spatial_key!r}] is not finite for all cells, and blocks of tissue are held out."
        )
    known = cells.split_key is not None or cells.batch_key is not None
    sections = cells.groups if known else np.zeros(len(places), dtype=int)
    for seed in seeds:
        is_test = np.zeros(len(places), dtype=bool)
        is_near = np.zeros(len(places), dtype=bool)
        for section in np.unique(sections):
            rows = np.flatnonzero(sections == section)
            here = places[rows]
            # A grid of equal numbers of cells: first in columns, then each column in rows.
            column = _ranks(here[:, 0]) * _BLOCKS // len(rows)
            block = np.empty(len(rows), dtype=np.intp)
            for one in range(_BLOCKS):
                inside = np.flatnonzero(column == one)
                if len(inside):
                    block[inside] = one * _BLOCKS + _ranks(here[inside, 1]) * _BLOCKS // len(inside)
            order = derive_generator(seed, "blocks", str(section)).permutation(_BLOCKS**2)
            held_out = np.isin(block, order[: _BLOCKS**2 // _HELD_OUT_BLOCKS])
            is_test[rows] = held_out
            if not held_out.any():
                continue
            nearest = np.arange(1, min(_N_NEAR + 1, len(rows)) + 1)
            distance, near = cKDTree(here).query(here, k=nearest)
            margin = 2 * float(np.median(distance[:, -1]))
            across = cKDTree(here[held_out]).query(here)[0] <= margin
            across |= held_out[near].any(axis=1)
            across[near[held_out]] = True
            is_near[rows] = across & ~held_out
        test = is_test if cells.labels is None else is_test & cells.labels.notna().to_numpy()
        train = ~is_test & ~is_near
        if not (train.any() and test.any()):
            raise ValueError(
                f"Of {len(places):,} cells blocks of tissue and the margin around them leave {train.sum():,} to "
                f'learn from and {test.sum():,} to test on. Hold out cells or groups: `split="cell"`.'
            )
        yield Split("block", "", seed, np.flatnonzero(train), np.flatnonzero(test))


def _ranks(values: np.ndarray) -> np.ndarray:
    ranks = np.empty(len(values), dtype=np.intp)
    ranks[np.argsort(values, kind="stable")] = np.arange(len(values))
    return ranks


def without_a_type(cells: Cells, split: Split, min_cells: int) -> Split | None:
    """The split, with one label removed from what is learned; `None` if none can be.

    Drawn among the labels with so many cells on both sides.
    """
    labels = np.asarray(cells.labels, dtype=object)
    train, test = labels[split.train], labels[split.test]
    names = sorted(
        name
        for name in set(test[[one is not None and one == one for one in test]])
        if min((train == name).sum(), (test == name).sum()) >= min_cells
    )
    others = [name for name in names if len(names) > 2]
    if not others:
        return None
    draw = derive_generator(split.seed, "unseen", split.fold)
    unseen = str(draw.choice(np.asarray(others, dtype=object)))
    return Split(
        split.kind, split.fold, split.seed, split.train[train != unseen], split.test, unseen
    )


def protocol_of(cells: Cells, split: Split, n_labels: int | None) -> Protocol:
    """Labels to learn from and to test on, the draw being that of the probes with the same seed."""
    known = cells.labels.notna().to_numpy()
    parts = (split.train[known[split.train]], split.test)
    return _protocol(cells, parts, 0.0, n_labels, split.seed)


def _protocol(
    cells: Cells, split: Any, test_size: float, n_labels: int | None, seed: int
) -> Protocol:
    with warnings.catch_warnings():
        # What is in one part only is left out for all methods alike.
        warnings.simplefilter("ignore", ScsslWarning)
        return make_protocol(
            cells.adata,
            cells.labels,
            label_key=str(cells.label_key),
            split=split,
            test_size=test_size,
            n_labels_per_class=n_labels,
            seed=seed,
        )
