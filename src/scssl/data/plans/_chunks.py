"""Shuffled batches of a source that is read in runs of neighbours, as a store on disk is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import count, islice
from math import gcd
from typing import Any

import numpy as np

from scssl._checks import check_integers
from scssl._random import derive_generator

from ._plan import BatchPlan, Planned, RowSpans, _Order, check_groups, group_turns, weights_of

# Processes of which each reads runs of its own, where their number divides it.
_LANES = 16
# Times in an epoch that all runs may be looked through for the cells of a group.
_OFTEN = 4


def hold_out(
    parts: np.ndarray, *, train_size: float, most: int, seed: int
) -> tuple[RowSpans, RowSpans]:
    """Rows to learn from, and a run of neighbours of every part to validate on.

    Parameters
    ----------
    parts
        First and last row of parts of shuffled cells, the last not included; int64 ``(n_parts, 2)``.
    train_size
        Share to learn from, in (0, 1].
    most
        Cells to validate on at most; the others are learnt from.
    seed
        Decides where in each part the run is.
    """
    sizes = np.diff(parts, axis=1).ravel()
    n_cells = int(sizes.sum())
    wanted = min(round(n_cells * (1 - train_size)), most)
    wanted = max(wanted, 1) if train_size < 1 else 0
    # Rounded in total, not in each part.
    ends = np.round(np.cumsum(sizes) * (wanted / n_cells)).astype(np.int64)
    lengths = np.minimum(np.diff(ends, prepend=0), sizes)
    first = derive_generator(seed, "split").integers(0, sizes - lengths, endpoint=True)
    starts = parts[:, 0] + first
    held_out = np.column_stack([starts, starts + lengths])
    rest = np.stack([parts[:, 0], starts, starts + lengths, parts[:, 1]], axis=1).reshape(-1, 2)
    return RowSpans(rest), RowSpans(held_out)


def _spans(rows: Any) -> RowSpans:
    return rows if isinstance(rows, RowSpans) else RowSpans.of(rows)


class ChunkPlan(_Order):
    """Shuffled cells of a source whose rows are in random order already, read in runs of neighbours.

    Runs of `chunk_size` rows come in an order that is drawn for each epoch. So many of them as `n_chunks` are
    read at a time, and their rows shuffled: of a shuffled source such batches are as random as those of a
    :class:`ShuffledPlan`. What is drawn is a function of the seed, the epoch and the number of the window.
    Processes read runs of their own.

    Parameters
    ----------
    rows, batch_size, seed, drop_last
        As of :class:`BatchPlan`; `rows` may be :class:`RowSpans`, and nothing is then kept for each row.
    chunk_size
        Rows of a run, 128 by default.
    n_chunks
        Runs that are shuffled together, 32 by default.

    Examples
    --------
    >>> from scssl.data import ChunkPlan
    >>> plan = ChunkPlan(20, 4, chunk_size=2, n_chunks=4)
    >>> sorted(int(row) for rows, _ in plan.batches(epoch=0) for row in rows) == list(range(20))
    True
    """

    def __init__(
        self,
        rows: Any,
        batch_size: int,
        *,
        seed: int = 0,
        drop_last: bool = False,
        chunk_size: int = 128,
        n_chunks: int = 32,
    ) -> None:
        super().__init__(rows, batch_size, seed=seed, drop_last=drop_last)
        check_integers(chunk_size=(chunk_size, 1), n_chunks=(n_chunks, 1))
        self.chunk_size, self.n_chunks = chunk_size, n_chunks
        self._spans = _spans(self.rows)

    def order(self, epoch: int) -> np.ndarray:
        return np.concatenate(list(self._windows(epoch)))

    def draw(self, epoch: int) -> Iterator[Planned]:
        return islice(self._batches(epoch), self.n_batches)

    def _batches(self, epoch: int) -> Iterator[Planned]:
        size = self.batch_size
        for window in self._windows(epoch):
            for start in range(0, len(window), size):
                yield window[start : start + size], {}

    def part(self, number: int, n_rows: int) -> np.ndarray:
        # Counted from the start of the window, by which the same runs are always of the same process.
        start = number % self._batches_per_window * self.batch_size
        return np.arange((self.rank - start) % self.world_size, n_rows, self.world_size)

    @property
    def _batches_per_window(self) -> int:
        return max(1, self.chunk_size * self.n_chunks // self.batch_size)

    @property
    def _window(self) -> int:
        """Rows that are shuffled together: those of whole batches."""
        return self.batch_size * self._batches_per_window

    def _windows(self, epoch: int) -> Iterator[np.ndarray]:
        """Rows in the order of the epoch, as many at a time as are shuffled together."""
        size, n = self._window, len(self.rows)
        order = derive_generator(self.seed, "chunks", epoch).permutation(-(-n // self.chunk_size))
        starts = order * self.chunk_size
        stops = np.minimum(starts + self.chunk_size, n)
        ends = np.cumsum(stops - starts)
        for number, low in enumerate(range(0, n, size)):
            high = min(low + size, n)
            first, last = np.searchsorted(ends, [low, high - 1], side="right")
            runs = [self._spans.between(starts[i], stops[i]) for i in range(first, last + 1)]
            skipped = low - (int(ends[first]) - len(runs[0]))
            rows = np.concatenate(runs)[skipped : skipped + high - low]
            rng = derive_generator(self.seed, "cells", epoch, number)
            # Neighbours stay in one lane, and every so many-th row is of the same.
            lanes = rows.reshape(gcd(len(rows), _LANES), -1)
            yield rng.permuted(lanes, axis=1).T.ravel()


class _RowsByGroup:
    """Rows of each group of a source on disk, a run after another.

    They are looked for when they are asked for, in runs that come in another order each time; kept are those of
    groups that are so small that all runs would be looked through time and again.
    """

    def __init__(self, groups: Any, rows: Any, chunk_size: int, seed: int) -> None:
        self._groups, self._rows = check_groups(groups, rows), _spans(rows)
        self._chunk_size, self._seed = chunk_size, seed
        sizes: Counter[int] = Counter()
        for part in self._parts():
            found = np.unique(self._groups[part], return_counts=True)
            sizes.update(dict(zip(*(one.tolist() for one in found), strict=True)))
        #: Cells of each group.
        self.sizes = dict(sorted(sizes.items()))
        limit = len(rows) / (_OFTEN * max(1, len(sizes)))
        small = [group for group, n in self.sizes.items() if n < limit]
        self._kept: dict[int, np.ndarray] = {}
        if small:
            parts = [part[np.isin(self._groups[part], small)] for part in self._parts()]
            kept = np.concatenate(parts)
            codes = self._groups[kept]
            self._kept = {group: kept[codes == group] for group in small}

    def _parts(self, size: int = 2**20) -> Iterator[np.ndarray]:
        """All rows, a million at a time."""
        n = len(self._rows)
        return (self._rows.between(i, min(i + size, n)) for i in range(0, n, size))

    def streams(self, epoch: int) -> dict[int, _Stream]:
        """Rows of each group in an order of the epoch, without end: all of them before one comes again."""
        return {group: _Stream(self._pieces(group, epoch)) for group in self.sizes}

    def _pieces(self, group: int, epoch: int) -> Iterator[np.ndarray]:
        for turn in count():
            rng = derive_generator(self._seed, "runs", epoch, group, turn)
            if group in self._kept:
                yield rng.permutation(self._kept[group])
                continue
            n, size = len(self._rows), self._chunk_size
            for number in rng.permutation(-(-n // size)).tolist():
                rows = self._rows.between(number * size, min((number + 1) * size, n))
                yield rows[self._groups[rows] == group]


class _Stream:
    """Rows that come in pieces, as many at a time as are asked for."""

    def __init__(self, pieces: Iterator[np.ndarray]) -> None:
        self._pieces, self._rest = pieces, np.zeros(0, dtype=np.int64)

    def take(self, n: int) -> np.ndarray:
        """The next rows."""
        parts, missing = [self._rest[:n]], n - len(self._rest)
        self._rest = self._rest[n:]
        while missing > 0:
            piece = next(self._pieces)
            parts.append(piece[:missing])
            self._rest, missing = piece[missing:], missing - len(piece)
        return np.concatenate(parts)


class BalancedChunkPlan(ChunkPlan):
    """Cells of a source that is read in runs, of each group as many in every batch, as of a :class:`scssl.data.BalancedPlan`.

    Any stretch of as many rows as there are groups has one of each, from the beginning of what is shuffled
    together on. Rows of a group come from runs of neighbours, of large groups each once before one comes again.

    Parameters
    ----------
    rows, batch_size, seed, drop_last, chunk_size, n_chunks
        As of :class:`ChunkPlan`.
    groups
        Group of each cell of the source, whole numbers; may be memory-mapped.
    weights
        As of :class:`scssl.data.BalancedPlan`.

    Examples
    --------
    >>> from scssl.data import BalancedChunkPlan
    >>> groups = [0, 0, 0, 0, 0, 1]
    >>> plan = BalancedChunkPlan(6, 2, groups)
    >>> [sorted(groups[row] for row in rows) for rows, _ in plan.batches(epoch=0)]
    [[0, 1], [0, 1], [0, 1]]
    """

    def __init__(
        self,
        rows: Any,
        batch_size: int,
        groups: Any,
        *,
        weights: Mapping[int, float] | None = None,
        seed: int = 0,
        drop_last: bool = False,
        chunk_size: int = 128,
        n_chunks: int = 32,
    ) -> None:
        super().__init__(
            rows,
            batch_size,
            seed=seed,
            drop_last=drop_last,
            chunk_size=chunk_size,
            n_chunks=n_chunks,
        )
        self._by_group = _RowsByGroup(groups, self.rows, chunk_size, seed)
        self._weights = weights_of(self._by_group.sizes, weights)

    def _windows(self, epoch: int) -> Iterator[np.ndarray]:
        streams, size, n = self._by_group.streams(epoch), self._window, len(self.rows)
        groups = np.array(list(streams))
        for number, low in enumerate(range(0, n, size)):
            rng = derive_generator(self.seed, "cells", epoch, number)
            length = min(size, n - low)
            turns = groups[group_turns(length, len(groups), self._weights, rng)]
            rows = np.empty(length, dtype=np.int64)
            for group in np.unique(turns).tolist():
                where = np.flatnonzero(turns == group)
                # Neighbours stay in one lane, and every so many-th row is of the same.
                where = where[np.lexsort((rng.random(len(where)), where % _LANES))]
                rows[where] = streams[group].take(len(where))
            yield rows


class OneGroupChunkPlan(BatchPlan):
    """Shuffled batches of a source that is read in runs, all cells of each from one group, as of a :class:`scssl.data.OneGroupPlan`.

    Every cell comes once in an epoch. The last batch of a group has what is left of it; with `drop_last` one cell
    that is left alone is left out, and not more, or small groups would never be seen.

    Parameters
    ----------
    rows, batch_size, groups, seed, drop_last, chunk_size, n_chunks
        As of :class:`BalancedChunkPlan`.

    Examples
    --------
    >>> from scssl.data import OneGroupChunkPlan
    >>> groups = [0, 1, 0, 1, 0]
    >>> plan = OneGroupChunkPlan(5, 2, groups)
    >>> sorted([groups[row] for row in rows] for rows, _ in plan.batches(epoch=0))
    [[0], [0, 0], [1, 1]]
    """

    def __init__(
        self,
        rows: Any,
        batch_size: int,
        groups: Any,
        *,
        seed: int = 0,
        drop_last: bool = False,
        chunk_size: int = 128,
        n_chunks: int = 32,
    ) -> None:
        super().__init__(rows, batch_size, seed=seed, drop_last=drop_last)
        check_integers(chunk_size=(chunk_size, 1), n_chunks=(n_chunks, 1))
        self._n_rows = chunk_size * n_chunks
        self._by_group = _RowsByGroup(groups, self.rows, chunk_size, seed)

    def _sizes(self) -> np.ndarray:
        """Group and number of cells of each batch."""
        found = []
        for group, n in self._by_group.sizes.items():
            whole, rest = divmod(n, self.batch_size)
            sizes = [self.batch_size] * whole + ([rest] if rest > self.drop_last else [])
            found += [(group, size) for size in sizes]
        return np.array(found, dtype=np.int64).reshape(-1, 2)

    @property
    def n_batches(self) -> int:
        return len(self._sizes())

    @property
    def has_lone_cell(self) -> bool:
        return any(n % self.batch_size == 1 for n in self._by_group.sizes.values())

    def draw(self, epoch: int) -> Iterator[Planned]:
        streams, rng = self._by_group.streams(epoch), derive_generator(self.seed, "cells", epoch)
        batches = rng.permutation(self._sizes())
        n_together = max(1, self._n_rows // self.batch_size)
        for first in range(0, len(batches), n_together):
            groups, sizes = batches[first : first + n_together].T
            parts: list[Any] = [None] * len(groups)
            for group in np.unique(groups).tolist():
                where = np.flatnonzero(groups == group)
                rows = rng.permutation(streams[group].take(int(sizes[where].sum())))
                for i, part in zip(
                    where, np.split(rows, np.cumsum(sizes[where])[:-1]), strict=True
                ):
                    parts[i] = part
            yield from ((part, {}) for part in parts)
