"""What the batches of an epoch are, and which cells see each other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

ContextMode = Literal["sample", "tiles", "random"]
CONTEXT_MODES: tuple[ContextMode, ...] = ("sample", "tiles", "random")


class BatchPlan(Protocol):
    """What the batches of an epoch are, where they are not just so many cells."""

    def __len__(self) -> int:
        """Number of batches of an epoch."""

    def draw(self, epoch: int) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
        """Rows of each batch, and what it has for each of them besides.

        Parameters
        ----------
        epoch
            Number of the epoch.
        """


@dataclass(frozen=True)
class ContextOptions:
    """Which cells see each other.

    Parameters
    ----------
    mode
        ``"sample"``: all cells of a sample. ``"tiles"``: pieces of a tissue that are next to each other.
        ``"random"``: cells of a sample at random.
    size
        Cells of a tile, or of a random part, at most.
    halo
        Cells around a tile that are seen by those in it.
    cell_dropout
        Share of the cells that is left out of each step of training.
    spatial_share
        Share of the cells of an epoch that have coordinates, where only some samples do; `None`: as
        they come.
    """

    mode: ContextMode = "sample"
    size: int = 2000
    halo: int = 200
    cell_dropout: float = 0.0
    spatial_share: float | None = None

    def __post_init__(self) -> None:
        if self.mode not in CONTEXT_MODES:
            known = ", ".join(map(repr, CONTEXT_MODES))
            raise ValueError(f"`context` must be one of {known}; found {self.mode!r}.")
        if self.size < 2 or self.halo < 0:
            raise ValueError(
                "`context_size` must be at least 2 and `halo` not negative, found "
                f"context_size={self.size}, halo={self.halo}."
            )
        if not 0 <= self.cell_dropout < 1:
            raise ValueError(f"`cell_dropout` must be in [0, 1), found {self.cell_dropout}.")
        if self.spatial_share is not None and not 0 < self.spatial_share < 1:
            raise ValueError(
                f"`spatial_share` must be in (0, 1) or None, found {self.spatial_share}."
            )
