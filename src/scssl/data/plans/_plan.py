"""What the batches of an epoch are."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from copy import copy
from itertools import cycle, islice
from typing import Any, Self

import numpy as np

from scssl._checks import check_integers
from scssl._random import derive_generator

#: Rows of a batch, and what it has for each of them besides.
Planned = tuple[np.ndarray, Mapping[str, np.ndarray]]


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
        Cells of a batch of one process, as far as the plan keeps to a number.
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
    >>> plan = Windows(5, 3, varies=False).for_process(1, 2)
    >>> len(plan), [rows.tolist() for rows, _ in plan.batches(epoch=0)]
    (2, [[1, 2, 3], [0, 1, 2]])
    """

    rank, world_size = 0, 1

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
        self.rows = _row_numbers(rows)
        self.batch_size, self.seed, self.varies = int(batch_size), seed, varies
        self.drop_last = drop_last

    @property
    @abstractmethod
    def n_batches(self) -> int:
        """Number of batches of an epoch, of all processes together."""

    @abstractmethod
    def draw(self, epoch: int) -> Iterator[Planned]:
        """Rows of each batch, and arrays of one entry for each of them that it has besides.

        Batch ``i`` is for process ``i % world_size``.

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
        """The same plan with the batches of one process: as many for each, the first ones repeated.

        Parameters
        ----------
        rank, world_size
            Number of the process, from 0, and of all.

        Raises
        ------
        ValueError
            If there is no such process.
        """
        check_integers(world_size=(world_size, 1))
        if not 0 <= rank < world_size:
            raise ValueError(f"`rank` must be in [0, {world_size}), found {rank}.")
        own = copy(self)
        own.rank, own.world_size = rank, world_size
        return own

    def __len__(self) -> int:
        return -(-self.n_batches // self.world_size)

    def batches(self, epoch: int, first: int = 0) -> Iterator[Planned]:
        """Batches of this process.

        Parameters
        ----------
        epoch
            Number of the epoch.
        first
            Number of the first one, for a run that goes on within an epoch.
        """
        drawn = self.draw(epoch)
        # All processes draw all batches: of rows only, and nobody has to tell anybody.
        every = drawn if self.world_size == 1 else cycle(drawn)
        start, stop = (n * self.world_size + self.rank for n in (first, len(self)))
        return islice(every, start, stop, self.world_size)

    def generator(self, name: str, number: int, epoch: int) -> np.random.Generator:
        """Randomness of what is drawn for one batch, whatever was drawn for those before it.

        Parameters
        ----------
        name
            What it is for.
        number
            Number of the batch in its epoch, of this process.
        epoch
            Number of the epoch.
        """
        when = [epoch] if self.varies else []
        return derive_generator(self.seed, name, self.rank, number, *when)


def _row_numbers(rows: Any) -> np.ndarray:
    rows = np.asarray(rows)
    if rows.ndim > 1 or (rows.size and rows.dtype.kind not in "iu"):
        raise TypeError(
            f"`rows` must be row numbers, found {rows.dtype} of shape {rows.shape}. Of a mask: "
            "np.flatnonzero(mask)."
        )
    return np.arange(int(rows)) if rows.ndim == 0 else rows.astype(np.int64)
