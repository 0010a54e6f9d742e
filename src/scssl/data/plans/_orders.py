"""Plans of cells one after the other: in order, shuffled, balanced by group, each batch of one group."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import Any

import numpy as np

from scssl._random import derive_generator

from ._plan import BatchPlan, Planned


class _Order(BatchPlan):
    """Cells in an order of the epoch, cut into batches.

    Processes take turns with the cells and not with the batches, so that theirs are of the same sizes.
    """

    @abstractmethod
    def order(self, epoch: int) -> np.ndarray:
        """Rows in the order of an epoch."""

    @property
    def _n_own(self) -> int:
        """Cells of each process."""
        n, n_processes = len(self.rows), self.world_size
        return n // n_processes if self.drop_last else -(-n // n_processes)

    @property
    def n_batches(self) -> int:
        n, size = self._n_own, self.batch_size
        return self.world_size * (n // size if self.drop_last else -(-n // size))

    @property
    def has_lone_cell(self) -> bool:
        return -(-len(self.rows) // self.world_size) % self.batch_size == 1

    def draw(self, epoch: int) -> Iterator[Planned]:
        n_processes = self.world_size
        # The first cells are repeated where they do not divide.
        order = np.resize(self.order(epoch), self._n_own * n_processes)
        step = self.batch_size * n_processes
        for number in range(self.n_batches // n_processes):
            cells = order[number * step : (number + 1) * step]
            for rank in range(n_processes):
                yield cells[rank::n_processes], {}


class SequentialPlan(_Order):
    """Cells in the order in which they are given, the same in every epoch.

    Parameters
    ----------
    rows, batch_size, seed, drop_last
        As of :class:`BatchPlan`.

    Examples
    --------
    >>> from scssl.data import SequentialPlan
    >>> [rows.tolist() for rows, _ in SequentialPlan([7, 5, 6], 2).batches(epoch=0)]
    [[7, 5], [6]]
    """

    def __init__(
        self, rows: Any, batch_size: int, *, seed: int = 0, drop_last: bool = False
    ) -> None:
        super().__init__(rows, batch_size, seed=seed, varies=False, drop_last=drop_last)

    def order(self, epoch: int) -> np.ndarray:
        return self.rows


class ShuffledPlan(_Order):
    """Cells in an order that is drawn anew for each epoch.

    Parameters
    ----------
    rows, batch_size, seed, drop_last
        As of :class:`BatchPlan`.

    Examples
    --------
    >>> from scssl.data import ShuffledPlan
    >>> plan = ShuffledPlan(4, 2)
    >>> sorted(int(row) for rows, _ in plan.batches(epoch=3) for row in rows)
    [0, 1, 2, 3]
    """

    def order(self, epoch: int) -> np.ndarray:
        rng = derive_generator(self.seed, "cells", epoch)
        return self.rows[rng.permutation(len(self.rows))]


class _Grouped(BatchPlan):
    """Plans that know the group of each cell of the source."""

    def __init__(
        self,
        rows: Any,
        batch_size: int,
        groups: np.ndarray,
        *,
        seed: int = 0,
        drop_last: bool = False,
    ) -> None:
        super().__init__(rows, batch_size, seed=seed, drop_last=drop_last)
        groups = np.asarray(groups)
        if len(self.rows) and (groups.ndim != 1 or len(groups) <= self.rows.max()):
            raise ValueError(
                f"`groups` must be the group of each cell of the source, found shape {groups.shape}, "
                f"and `rows` up to {self.rows.max():,}."
            )
        #: Group of each of `rows`.
        self.groups = groups[self.rows]


class BalancedPlan(_Grouped, _Order):
    """Shuffled cells, of each group as many in every batch: of the data sets of a collection, say.

    Any stretch of as many rows as there are groups, from a multiple of that number on, has one of each.
    Cells of small groups come several times in an epoch, each once more only when all have come; of large
    groups some do not come, others in the next epoch.

    Parameters
    ----------
    rows, batch_size, seed, drop_last
        As of :class:`BatchPlan`.
    groups
        Group of each cell of the source, whole numbers.

    Examples
    --------
    >>> from scssl.data import BalancedPlan
    >>> groups = [0, 0, 0, 0, 0, 1]
    >>> plan = BalancedPlan(6, 2, groups)
    >>> [sorted(groups[row] for row in rows) for rows, _ in plan.batches(epoch=0)]
    [[0, 1], [0, 1], [0, 1]]
    """

    def order(self, epoch: int) -> np.ndarray:
        rng, rows, n = derive_generator(self.seed, "cells", epoch), self.rows, len(self.rows)
        _, codes = np.unique(self.groups, return_inverse=True)
        n_groups = int(codes.max(initial=-1)) + 1
        if n_groups < 2:
            return rng.permutation(rows)
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


class OneGroupPlan(_Grouped):
    """Shuffled batches, all cells of each from one group: of one data set, or of one donor.

    Every cell comes once in an epoch. The last batch of a group has what is left of it, or with
    `drop_last` is left out.

    Parameters
    ----------
    rows, batch_size, seed, drop_last
        As of :class:`BatchPlan`.
    groups
        Group of each cell of the source, whole numbers.

    Examples
    --------
    >>> from scssl.data import OneGroupPlan
    >>> groups = [0, 1, 0, 1, 0]
    >>> plan = OneGroupPlan(5, 2, groups)
    >>> sorted([groups[row] for row in rows] for rows, _ in plan.batches(epoch=0))
    [[0], [0, 0], [1, 1]]
    """

    @property
    def _sizes(self) -> np.ndarray:
        return np.unique(self.groups, return_counts=True)[1]

    @property
    def n_batches(self) -> int:
        sizes = self._sizes if self.drop_last else self._sizes + self.batch_size - 1
        return int((sizes // self.batch_size).sum())

    @property
    def has_lone_cell(self) -> bool:
        return bool((self._sizes % self.batch_size == 1).any())

    def draw(self, epoch: int) -> Iterator[Planned]:
        rng = derive_generator(self.seed, "cells", epoch)
        shuffled, size = rng.permutation(len(self.rows)), self.batch_size
        batches = []
        for group in np.unique(self.groups):
            own = self.rows[shuffled[self.groups[shuffled] == group]]
            n = len(own) // size * size if self.drop_last else len(own)
            batches += [own[first : first + size] for first in range(0, n, size)]
        for number in rng.permutation(len(batches)):
            yield batches[number], {}
