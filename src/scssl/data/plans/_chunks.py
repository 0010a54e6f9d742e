"""Shuffled batches of a source that is read in runs of neighbours, as a store on disk is."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from math import gcd
from typing import Any

import numpy as np

from scssl._checks import check_integers
from scssl._random import derive_generator

from ._plan import Planned, RowSpans, _Order

# Processes of which each reads runs of its own, where their number divides it.
_LANES = 16


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
        Rows of a run, 256 by default.
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
        chunk_size: int = 256,
        n_chunks: int = 32,
    ) -> None:
        super().__init__(rows, batch_size, seed=seed, drop_last=drop_last)
        check_integers(chunk_size=(chunk_size, 1), n_chunks=(n_chunks, 1))
        self.chunk_size, self.n_chunks = chunk_size, n_chunks
        spans = self.rows if isinstance(self.rows, RowSpans) else RowSpans.of(self.rows)
        starts = [np.arange(first, last, chunk_size) for first, last in spans.spans]
        stops = [
            np.minimum(one + chunk_size, last)
            for one, last in zip(starts, spans.spans[:, 1], strict=True)
        ]
        self._chunks = np.column_stack([np.concatenate(one) for one in (starts, stops)])

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

    def _windows(self, epoch: int) -> Iterator[np.ndarray]:
        """Rows in the order of the epoch, as many at a time as are shuffled together: whole batches."""
        size = self.batch_size * self._batches_per_window
        order = derive_generator(self.seed, "chunks", epoch).permutation(len(self._chunks))
        starts, stops = self._chunks[order].T
        ends = np.cumsum(stops - starts)
        for number, low in enumerate(range(0, len(self.rows), size)):
            high = min(low + size, len(self.rows))
            first, last = np.searchsorted(ends, [low, high - 1], side="right")
            runs = [np.arange(starts[i], stops[i]) for i in range(first, last + 1)]
            skipped = low - (int(ends[first]) - len(runs[0]))
            rows = np.concatenate(runs)[skipped : skipped + high - low]
            rng = derive_generator(self.seed, "cells", epoch, number)
            # Neighbours stay in one lane, and every so many-th row is of the same.
            lanes = rows.reshape(gcd(len(rows), _LANES), -1)
            yield rng.permuted(lanes, axis=1).T.ravel()
