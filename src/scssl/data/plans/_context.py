"""Which cells of a tissue are seen together."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np

from scssl._random import derive_generator

from ._contexts import Parts, Whole
from ._options import BatchPlan, ContextOptions
from ._tiles import Surroundings, split_tiles


class CellContext:
    """Cells by sample and place, and which of them see each other.

    Parameters
    ----------
    samples
        Code of the sample of each cell; int64, shape ``(n_cells,)``.
    coordinates
        Place of each cell, shape ``(n_cells, 2)``, in any unit; NaN where a cell has none. `None`: no
        cell has.
    options
        Which cells see each other.

    Examples
    --------
    >>> import numpy as np
    >>> from scssl.data import CellContext, ContextOptions
    >>> context = CellContext(np.repeat([0, 1], 3), None, ContextOptions())
    >>> [rows.tolist() for rows, _ in context.embedding(np.array([1, 4])).draw(0)]
    [[0, 1, 2], [3, 4, 5]]
    """

    def __init__(
        self, samples: np.ndarray, coordinates: np.ndarray | None, options: ContextOptions
    ) -> None:
        self.samples = np.unique(samples, return_inverse=True)[1].astype(np.int64)
        self.options = options
        self._cells = list(self.by_sample(np.arange(len(self.samples))).values())
        self.positions: np.ndarray | None = None
        if coordinates is not None:
            self.positions = self._scaled(np.asarray(coordinates, dtype=np.float64))

    def _scaled(self, coordinates: np.ndarray) -> np.ndarray:
        """Coordinates from 0 to 1 in each sample; both axes by the same factor."""
        scaled = np.full(coordinates.shape, np.nan, dtype=np.float32)
        for cells in self._cells:
            own = coordinates[cells]
            there = np.isfinite(own).all(axis=1)
            if there.any():
                low, high = own[there].min(axis=0), own[there].max(axis=0)
                width = float((high - low).max())
                scaled[cells[there]] = (own[there] - low) / (width if width > 0 else 1.0)
        return scaled

    def by_sample(self, rows: np.ndarray) -> dict[int, np.ndarray]:
        """Cells of each sample that has any of these; ascending.

        Parameters
        ----------
        rows
            Cells.
        """
        rows = np.unique(rows)
        rows = rows[np.argsort(self.samples[rows], kind="stable")]
        codes, starts = np.unique(self.samples[rows], return_index=True)
        return {
            int(code): cells for code, cells in zip(codes, np.split(rows, starts[1:]), strict=False)
        }

    @property
    def n_samples(self) -> int:
        """Number of samples."""
        return len(self._cells)

    def digest(self) -> str:
        """Digest of the samples and the places of the cells, whatever the unit and the origin of these."""
        digest = hashlib.sha256(self.samples.tobytes())
        if self.positions is not None:
            digest.update(self.positions.tobytes())
        return digest.hexdigest()[:16]

    def is_spatial(self) -> np.ndarray:
        """Whether each cell has a place; boolean."""
        if self.positions is None:
            return np.zeros(len(self.samples), dtype=bool)
        return np.isfinite(self.positions).all(axis=1)

    def embedding(self, rows: np.ndarray) -> BatchPlan:
        """Batches to embed cells: one whole sequence each, whatever cells of it are asked for.

        Parameters
        ----------
        rows
            Cells that are asked for; ascending, each once.
        """
        return Whole(self, rows)

    def training(
        self,
        rows: np.ndarray,
        batch_size: int,
        *,
        seed: int,
        fill: np.ndarray | None = None,
        labels: np.ndarray | None = None,
    ) -> BatchPlan:
        """Batches to learn from: parts of samples, drawn anew in each epoch.

        Parameters
        ----------
        rows
            Cells to learn from.
        batch_size
            Cells of a part at most, and of a batch on average.
        seed
            Of the parts and their order.
        fill
            Cells that may be seen besides, no targets. They are added to a part until it has `batch_size`
            cells; of a sample with many targets, the share of these is that of the sample, up to half.
        labels
            Label of each cell, whole numbers. Targets of a part are then drawn so that labels of few cells come
            as often as others, as far as there are cells; not every cell comes in every epoch. Not with tiles,
            whose cells are next to each other.
        """
        return Parts(self, rows, batch_size, seed=seed, fill=fill, epoch=None, labels=labels)

    def validation(
        self, rows: np.ndarray, batch_size: int, *, seed: int, fill: np.ndarray
    ) -> BatchPlan:
        """Batches to validate on, the same in every epoch.

        Parameters
        ----------
        rows, batch_size, seed, fill
            As in :meth:`training`.
        """
        return Parts(self, rows, batch_size, seed=seed, fill=fill, epoch=0)

    def sequences(self, asked: np.ndarray | None = None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Sequences: their cells, and which of these they are there for; the others are halo.

        Parameters
        ----------
        asked
            Whether each cell is asked for; boolean. Sequences that are there for none of these are left out.
            By default all.
        """
        for own, others, around in self._pieces(asked):
            if around is None:
                yield own, np.ones(len(own), dtype=bool)
                continue
            halo = around.nearest(own, self.options.halo)
            cells = np.concatenate([own, halo])
            order = np.argsort(cells)
            yield others[cells[order]], order < len(own)

    def n_sequences(self, asked: np.ndarray | None = None) -> int:
        """Number of sequences, see :meth:`sequences`."""
        return sum(1 for _ in self._pieces(asked))

    def _pieces(
        self, asked: np.ndarray | None
    ) -> Iterator[tuple[np.ndarray, np.ndarray, Surroundings | None]]:
        """Cells of each piece; of a tile, as positions among those that can be its halo."""

        def wanted(cells: np.ndarray) -> bool:
            return asked is None or bool(asked[cells].any())

        for number, cells in enumerate(self._cells):
            if not wanted(cells):
                continue
            n_parts = -(-len(cells) // self.options.size)
            if self.options.mode == "sample" or n_parts == 1:
                yield cells, cells, None
                continue
            placed = self.is_spatial()[cells]
            if self.options.mode == "tiles" and placed.any():
                assert self.positions is not None
                there = cells[placed]
                around = Surroundings(self.positions[there])
                for tile in split_tiles(around.xy, self.options.size):
                    if wanted(there[tile]):
                        yield tile, there, around
                cells = cells[~placed]
                n_parts = -(-len(cells) // self.options.size)
            if len(cells):
                rng = derive_generator(0, "context", number)
                for part in np.array_split(rng.permutation(cells), n_parts):
                    if wanted(part):
                        yield np.sort(part), cells, None
