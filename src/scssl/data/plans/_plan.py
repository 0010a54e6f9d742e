"""What the batches of an epoch are: in order, shuffled, balanced by group, each of one group."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from copy import copy
from itertools import islice
from typing import Any, Self

import numpy as np

from scssl._checks import check_integers, check_number
from scssl._random import derive_generator
from scssl.data.keys import PLACES

#: Rows of a batch, and what it has for each of them besides, or of the links between them.
Planned = tuple[np.ndarray, Mapping[str, np.ndarray]]


class RowSpans:
    """Row numbers as runs of neighbours, of which nothing is kept for each row.

    Parameters
    ----------
    spans
        First and last row of each run, the last not included; whole numbers of shape ``(n_runs, 2)``.

    Examples
    --------
    >>> from scssl.data import RowSpans
    >>> rows = RowSpans([[3, 5], [8, 9]])
    >>> len(rows), list(rows)
    (3, [3, 4, 8])
    """

    def __init__(self, spans: Any) -> None:
        spans = np.asarray(spans, dtype=np.int64).reshape(-1, 2)
        self.spans = spans[spans[:, 1] > spans[:, 0]]
        self._ends = np.cumsum(self.spans[:, 1] - self.spans[:, 0])

    @classmethod
    def of(cls, rows: np.ndarray) -> Self:
        """Rows that are given one by one, in their order."""
        breaks = np.flatnonzero(np.diff(rows) != 1) + 1
        starts, ends = np.concatenate(([0], breaks)), np.concatenate((breaks, [len(rows)]))
        return cls(np.column_stack([rows[starts], rows[ends - 1] + 1]) if len(rows) else [])

    def between(self, first: int, last: int) -> np.ndarray:
        """Rows number `first` to `last` of all, the last not included."""
        return np.asarray(self.part(first, last))

    def part(self, first: int, last: int) -> RowSpans:
        """The same, as runs."""
        if first >= last:
            return RowSpans([])
        i, j = np.searchsorted(self._ends, [first, last - 1], side="right")
        spans = self.spans[i : j + 1].copy()
        spans[0, 0] = spans[0, 1] - (self._ends[i] - first)
        spans[-1, 1] -= self._ends[j] - last
        return RowSpans(spans)

    def cut(self, size: int) -> RowSpans:
        """The same rows in runs of at most `size`."""
        n_parts = -(-(self.spans[:, 1] - self.spans[:, 0]) // size)
        number = np.arange(n_parts.sum()) - np.repeat(np.cumsum(n_parts) - n_parts, n_parts)
        starts = np.repeat(self.spans[:, 0], n_parts) + number * size
        return RowSpans(
            np.stack([starts, np.minimum(starts + size, np.repeat(self.spans[:, 1], n_parts))], 1)
        )

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    @property
    def size(self) -> int:
        """Number of rows."""
        return len(self)

    def min(self) -> int:
        """Least row."""
        return int(self.spans[:, 0].min())

    def max(self) -> int:
        """Largest row."""
        return int(self.spans[:, 1].max()) - 1

    def __iter__(self) -> Iterator[int]:
        return (row for first, last in self.spans.tolist() for row in range(first, last))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        # Each row is one more than the one before, but where a run begins.
        rows = np.ones(len(self), dtype=np.int64)
        if len(rows):
            rows[0] = self.spans[0, 0]
            rows[self._ends[:-1]] = self.spans[1:, 0] - self.spans[:-1, 1] + 1
        rows = np.cumsum(rows)
        return rows if dtype is None else rows.astype(dtype)


class BatchPlan(ABC):
    """What the batches of an epoch are: which cells, in which order, and who gets them.

    A subclass says in :meth:`draw` what the batches are and in :attr:`n_batches` how many. Of both
    nothing may depend on anything but the plan and the number of the epoch, so that every process draws
    the same and a run that resumes goes on as it would have. :class:`CellLoader` reads the cells.

    Parameters
    ----------
    rows
        Row numbers of the cells that an epoch is about, or their number, for the first so many.
    batch_size
        Cells of a batch, as far as the plan keeps to a number; of all processes together.
    seed
        Seed of what is drawn.
    varies
        Whether an epoch has other batches than the one before.

    Attributes
    ----------
    rank, world_size
        Number of the process that the batches are for, and of all; see :meth:`for_process`.
    drop_last
        Whether to leave out batches of fewer than `batch_size` cells, of plans that have such because
        their cells do not divide.

    Raises
    ------
    TypeError
        If `rows` are no row numbers.
    ValueError
        If `batch_size` is not positive.

    Examples
    --------
    Every cell next to the cells before and after it, as in a sequence:

    >>> import numpy as np
    >>> from scssl.data import BatchPlan
    >>> class Windows(BatchPlan):
    ...     @property
    ...     def n_batches(self):
    ...         return len(self.rows) - self.batch_size + 1
    ...
    ...     def draw(self, epoch):
    ...         for first in range(self.n_batches):
    ...             yield self.rows[first : first + self.batch_size], {}
    >>> plan = Windows(5, 3, varies=False)
    >>> len(plan), [rows.tolist() for rows, _ in plan.batches(epoch=0)]
    (3, [[0, 1, 2], [1, 2, 3], [2, 3, 4]])
    >>> [rows.tolist() for rows, _ in plan.for_process(0, 2).batches(epoch=0)]
    [[0, 2], [1, 3], [2, 4]]
    """

    rank, world_size = 0, 1
    #: Whether the cells of a batch can be divided among processes, which they cannot where some see others.
    divisible = True

    def __init__(
        self,
        rows: Any,
        batch_size: int,
        *,
        seed: int = 0,
        varies: bool = True,
        drop_last: bool = False,
    ) -> None:
        check_integers(batch_size=(batch_size, 1))
        self.rows: Any = rows if isinstance(rows, RowSpans) else _row_numbers(rows)
        self.batch_size, self.seed, self.varies = int(batch_size), seed, varies
        self.drop_last = drop_last

    @property
    @abstractmethod
    def n_batches(self) -> int:
        """Number of batches of an epoch, the same for all processes."""

    @abstractmethod
    def draw(self, epoch: int) -> Iterator[Planned]:
        """Rows of each batch, and arrays of one entry for each of them that it has besides.

        Of all processes together.

        Parameters
        ----------
        epoch
            Number of the epoch.
        """

    @property
    def has_lone_cell(self) -> bool:
        """Whether a batch is one cell because cells do not divide, where `drop_last` does not forbid it."""
        return False

    def for_process(self, rank: int, world_size: int) -> Self:
        """The same plan with the part that one process has of each batch.

        The parts of a batch differ by one cell at most. That of the last batch may have no cell, where there are
        more processes than cells.

        Parameters
        ----------
        rank, world_size
            Number of the process, from 0, and of all.

        Raises
        ------
        ValueError
            If there is no such process, or the cells of a batch cannot be divided.
        """
        check_integers(world_size=(world_size, 1))
        if not 0 <= rank < world_size:
            raise ValueError(f"`rank` must be in [0, {world_size}), found {rank}.")
        if world_size > 1 and not self.divisible:
            raise ValueError(
                "Cells of a batch see each other, so that it cannot be divided among processes; found "
                f"{world_size}. Train in one: `devices=1`."
            )
        own = copy(self)
        own.rank, own.world_size = rank, world_size
        return own

    def __len__(self) -> int:
        return self.n_batches

    def part(self, number: int, n_rows: int) -> np.ndarray:
        """Places of the rows of this process among those of a batch, ascending.

        Parameters
        ----------
        number
            Number of the batch in its epoch.
        n_rows
            Rows of all processes.
        """
        return np.arange(self.rank, n_rows, self.world_size)

    def batches(self, epoch: int, first: int = 0) -> Iterator[Planned]:
        """Batches of this process, of several with ``scssl.data.keys.PLACES``.

        Parameters
        ----------
        epoch
            Number of the epoch.
        first
            Number of the first one, for a run that goes on within an epoch.
        """
        # All processes draw all batches: of rows only, and nobody has to tell anybody.
        for number, (rows, extra) in enumerate(islice(self.draw(epoch), first, None), first):
            if self.world_size == 1:
                yield rows, extra
                continue
            own = self.part(number, len(rows))
            yield rows[own], {**{name: of[own] for name, of in extra.items()}, PLACES: own}

    def generator(self, name: str, number: int, epoch: int) -> np.random.Generator:
        """Randomness of what is drawn for one batch, whatever was drawn for those before it.

        Parameters
        ----------
        name
            What it is for.
        number
            Number of the batch in its epoch.
        epoch
            Number of the epoch.
        """
        when = [epoch] if self.varies else []
        return derive_generator(self.seed, name, 0, number, *when)


def _row_numbers(rows: Any) -> np.ndarray:
    rows = np.asarray(rows)
    if rows.ndim > 1 or (rows.size and rows.dtype.kind not in "iu"):
        mask = " Of a mask: `rows = np.flatnonzero(rows)`." if rows.dtype.kind == "b" else ""
        raise TypeError(
            f"`rows` must be row numbers, found {rows.dtype} of shape {rows.shape}.{mask}"
        )
    return np.arange(int(rows)) if rows.ndim == 0 else rows.astype(np.int64)


class _Order(BatchPlan):
    """Cells in an order of the epoch, cut into batches."""

    @abstractmethod
    def order(self, epoch: int) -> np.ndarray:
        """Rows in the order of an epoch."""

    @property
    def n_batches(self) -> int:
        n, size = len(self.rows), self.batch_size
        return n // size if self.drop_last else -(-n // size)

    @property
    def has_lone_cell(self) -> bool:
        return len(self.rows) % self.batch_size == 1

    def draw(self, epoch: int) -> Iterator[Planned]:
        order, size = self.order(epoch), self.batch_size
        for first in range(0, self.n_batches * size, size):
            yield order[first : first + size], {}


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
        return np.asarray(self.rows)


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


def check_groups(groups: Any, rows: Any) -> np.ndarray:
    """Group of each cell of the source, memory-mapped where it is, or an error unless all rows have one."""
    groups = np.asanyarray(groups)
    if len(rows) and (groups.ndim != 1 or len(groups) <= rows.max()):
        raise ValueError(
            f"`groups` must be the group of each cell of the source, found shape {groups.shape}, "
            f"and `rows` up to {rows.max():,}."
        )
    return groups


def weights_of(groups: Any, weights: Mapping[int, float] | None) -> np.ndarray | None:
    """Weight of each of these groups; `None` where all weigh the same."""
    if not weights:
        return None
    for group, weight in weights.items():
        check_number(f"weights[{group}]", weight, "(0, inf)")
    return np.array([float(weights.get(int(group), 1.0)) for group in groups])


def group_turns(
    n_rows: int, n_groups: int, weights: np.ndarray | None, rng: np.random.Generator
) -> np.ndarray:
    """Which group the next row is of, for so many rows: each throughout, as often as it weighs."""
    if weights is None:
        # The order of the groups is drawn for each cycle, so that every k-th row too is of all groups.
        cycles = np.tile(np.arange(n_groups), (-(-n_rows // n_groups), 1))
        return rng.permuted(cycles, axis=1).ravel()[:n_rows]
    share = weights / weights.sum()
    n_of_each = np.ceil(n_rows * share).astype(np.int64) + 1
    # A group is due once in each interval as long as its share is small, at a time that is drawn.
    due = [(np.arange(n) + rng.random(n)) / p for n, p in zip(n_of_each, share, strict=True)]
    order = np.argsort(np.concatenate(due), kind="stable")[:n_rows]
    return np.repeat(np.arange(n_groups), n_of_each)[order]


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
        #: Group of each of `rows`.
        self.groups = check_groups(groups, self.rows)[self.rows]


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
    weights
        Weight of groups, 1 of those that are not named: a group of weight 2 has twice as many rows.

    Examples
    --------
    >>> from scssl.data import BalancedPlan
    >>> groups = [0, 0, 0, 0, 0, 1]
    >>> plan = BalancedPlan(6, 2, groups)
    >>> [sorted(groups[row] for row in rows) for rows, _ in plan.batches(epoch=0)]
    [[0, 1], [0, 1], [0, 1]]
    """

    def __init__(
        self,
        rows: Any,
        batch_size: int,
        groups: np.ndarray,
        *,
        weights: Mapping[int, float] | None = None,
        seed: int = 0,
        drop_last: bool = False,
    ) -> None:
        super().__init__(rows, batch_size, groups, seed=seed, drop_last=drop_last)
        there, self._codes = np.unique(self.groups, return_inverse=True)
        self._n_groups, self._weights = len(there), weights_of(there, weights)

    def order(self, epoch: int) -> np.ndarray:
        rng, rows, n = derive_generator(self.seed, "cells", epoch), self.rows, len(self.rows)
        codes, n_groups = self._codes, self._n_groups
        if n_groups < 2:
            return rng.permutation(rows)
        turns = group_turns(n, n_groups, self._weights, rng)
        order = np.empty(n, dtype=rows.dtype)
        for group in range(n_groups):
            own, where = rows[codes == group], np.flatnonzero(turns == group)
            passes = -(-len(where) // len(own))
            drawn = [rng.permutation(own) for _ in range(passes)]
            order[where] = np.concatenate(drawn)[: len(where)]
        return order


class OneGroupPlan(_Grouped):
    """Shuffled batches, all cells of each from one group: of one data set, or of one donor.

    Every cell comes once in an epoch. The last batch of a group has what is left of it; with `drop_last` one cell
    that is left alone is left out, and not more, or small groups would never be seen.

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
        whole, rest = np.divmod(self._sizes, self.batch_size)
        return int((whole + (rest > self.drop_last)).sum())

    @property
    def has_lone_cell(self) -> bool:
        return bool((self._sizes % self.batch_size == 1).any())

    def draw(self, epoch: int) -> Iterator[Planned]:
        rng = derive_generator(self.seed, "cells", epoch)
        shuffled, size = rng.permutation(len(self.rows)), self.batch_size
        batches = []
        for group in np.unique(self.groups):
            own = self.rows[shuffled[self.groups[shuffled] == group]]
            n = len(own) - (self.drop_last and len(own) % size == 1)
            batches += [own[first : first + size] for first in range(0, n, size)]
        for number in rng.permutation(len(batches)):
            yield batches[number], {}
