"""Which cells of a tissue are seen together, and batches made of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol

import numpy as np

from scssl._random import derive_generator

ContextMode = Literal["sample", "tiles", "random"]
CONTEXT_MODES: tuple[ContextMode, ...] = ("sample", "tiles", "random")

#: Keys in a batch: number of the sequence of each cell, ascending from 0; 1 where a cell was asked for
#: and 0 where it is only seen by others; its place in its sample, NaN where it has none.
SEQUENCE, TARGET, POSITION = "sequence", "target", "position"


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
            msg = f"`context` must be one of {known}; found {self.mode!r}."
            raise ValueError(msg)
        if self.size < 2 or self.halo < 0:
            msg = (
                "`context_size` must be at least 2 and `halo` not negative, found "
                f"context_size={self.size}, halo={self.halo}."
            )
            raise ValueError(msg)
        if not 0 <= self.cell_dropout < 1:
            msg = f"`cell_dropout` must be in [0, 1), found {self.cell_dropout}."
            raise ValueError(msg)
        if self.spatial_share is not None and not 0 < self.spatial_share < 1:
            msg = f"`spatial_share` must be in (0, 1) or None, found {self.spatial_share}."
            raise ValueError(msg)

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


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
        return _Whole(self, rows)

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
            Cells of a part at most. Batches have as many targets on average, or half as many where there
            is `fill`.
        seed
            Of the parts and their order.
        fill
            Cells that may be seen besides, no targets. They are added to a part until it has `batch_size`
            cells; of a sample with many targets, half of each part are these.
        labels
            Label of each cell, whole numbers. Targets of a part are then drawn so that labels of few cells come
            as often as others, as far as there are cells; not every cell comes in every epoch. Not with tiles,
            whose cells are next to each other.
        """
        return _Parts(self, rows, batch_size, seed=seed, fill=fill, epoch=None, labels=labels)

    def validation(
        self, rows: np.ndarray, batch_size: int, *, seed: int, fill: np.ndarray
    ) -> BatchPlan:
        """Batches to validate on, the same in every epoch.

        Parameters
        ----------
        rows, batch_size, seed, fill
            As in :meth:`training`.
        """
        return _Parts(self, rows, batch_size, seed=seed, fill=fill, epoch=0)

    def sequences(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """All sequences: their cells, and which of these they are there for; the others are halo."""
        for number, cells in enumerate(self._cells):
            n_parts = -(-len(cells) // self.options.size)
            if self.options.mode == "sample" or n_parts == 1:
                yield cells, np.ones(len(cells), dtype=bool)
                continue
            placed = self.is_spatial()[cells]
            if self.options.mode == "tiles" and placed.any():
                assert self.positions is not None
                xy = self.positions[cells[placed]]
                for tile in split_tiles(xy, self.options.size):
                    yield self._with_halo(cells[placed], xy, tile)
                cells = cells[~placed]
                n_parts = -(-len(cells) // self.options.size)
            if len(cells):
                rng = derive_generator(0, "context", number)
                for part in np.array_split(rng.permutation(cells), n_parts):
                    yield np.sort(part), np.ones(len(part), dtype=bool)

    def _with_halo(
        self, cells: np.ndarray, xy: np.ndarray, tile: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        inside = np.zeros(len(cells), dtype=bool)
        inside[tile] = True
        distance = _distance(xy, xy[tile])
        distance[inside] = np.inf
        n = min(self.options.halo, len(cells) - len(tile))
        # On a grid many are as near: of these first the ones before the middle of a side, whatever the order
        # of the cells is.
        middle = (xy[tile].min(axis=0) + xy[tile].max(axis=0)) / 2
        aside = np.square(xy - middle).sum(axis=1)
        seen = inside.copy()
        seen[np.lexsort((xy[:, 1], xy[:, 0], aside, distance))[:n]] = True
        return cells[seen], inside[seen]


class _Whole:
    """Whole sequences, those in which there is a cell that is asked for."""

    def __init__(self, context: CellContext, rows: np.ndarray) -> None:
        self.context = context
        self.asked = np.zeros(len(context.samples), dtype=bool)
        self.asked[rows] = True

    def __len__(self) -> int:
        return sum(1 for _ in self.draw(0))

    def draw(self, epoch: int) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
        for cells, inside in self.context.sequences():
            target = inside & self.asked[cells]
            if target.any():
                zeros = np.zeros(len(cells), dtype=np.int64)
                yield cells, {SEQUENCE: zeros, TARGET: target.astype(np.int64)}


@dataclass(frozen=True)
class _Part:
    targets: np.ndarray
    others: np.ndarray

    def __len__(self) -> int:
        return len(self.targets) + len(self.others)


class _Parts:
    """Parts of samples, several small ones in a batch."""

    def __init__(
        self,
        context: CellContext,
        rows: np.ndarray,
        batch_size: int,
        *,
        seed: int,
        fill: np.ndarray | None,
        epoch: int | None,
        labels: np.ndarray | None = None,
    ) -> None:
        self.context, self.seed, self.epoch = context, seed, epoch
        self.labels = labels
        # No more cells see each other than do when they are embedded.
        whole = context.options.mode == "sample"
        self.size = batch_size if whole else min(batch_size, context.options.size)
        self.rows = context.by_sample(rows)
        self.fill: dict[int, np.ndarray] = {}
        if fill is not None:
            others = context.by_sample(np.setdiff1d(fill, rows))
            self.fill = {code: others[code] for code in self.rows if code in others}
        self.dropout = context.options.cell_dropout if epoch is None else 0.0
        self._spatial = context.is_spatial()
        n_targets = -(-batch_size // 2) if self.fill else batch_size
        self._n_batches = -(-sum(map(len, self.rows.values())) // n_targets)
        self._n_batches = min(self._n_batches, sum(self._n_parts(c) for c in self.rows))

    def _n_parts(self, code: int) -> int:
        n = len(self.rows[code])
        others = len(self.fill.get(code, ()))
        # As few parts as hold all targets, with others in up to half of each.
        return -(-n // max(self.size - others, -(-self.size // 2)))

    def __len__(self) -> int:
        return self._n_batches

    def draw(self, epoch: int) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
        rng = derive_generator(self.seed, "parts", epoch if self.epoch is None else self.epoch)
        parts = [part for code in self.rows for part in self._parts(code, rng)]
        if not parts:
            return
        parts = self._mixed(parts, rng)
        parts = [parts[i] for i in rng.permutation(len(parts))]
        ends = np.cumsum([len(part) for part in parts])
        n = self._n_batches
        first = 0
        for number in range(n):
            last = int(np.searchsorted(ends, ends[-1] * (number + 1) / n, side="left")) + 1
            # Every batch has a part.
            last = min(max(last, first + 1), len(parts) - (n - number - 1))
            yield _joined(parts[first:last])
            first = last

    def _parts(self, code: int, rng: np.random.Generator) -> Iterator[_Part]:
        rows, n_parts = self.rows[code], self._n_parts(code)
        fill, places = self.fill.get(code, np.zeros(0, dtype=np.int64)), self.context.positions
        in_tiles = self.context.options.mode == "tiles" and bool(self._spatial[rows].all())
        if in_tiles and n_parts > 1:
            assert places is not None
            xy = _turned(places[rows], rng)
            groups = [rows[tile] for tile in _split(xy, n_parts)]
        else:
            groups = np.array_split(rng.permutation(rows), n_parts)
            if self.labels is not None:
                groups = self._balanced(rows, [len(group) for group in groups], rng)
        for targets in groups:
            n = min(len(fill), max(self.size - len(targets), 0))
            if in_tiles and n:
                assert places is not None
                others = rng.permutation(fill)
                away = _distance(places[others], places[targets])
                others = others[np.argsort(away, kind="stable")[:n]]
            else:
                others = rng.choice(fill, n, replace=False) if n else fill[:0]
            if self.dropout and len(targets) > 2:
                n = max(2, round((1 - self.dropout) * len(targets)))
                targets = rng.choice(targets, n, replace=False)
            yield _Part(np.sort(targets), np.sort(others))

    def _balanced(
        self, rows: np.ndarray, sizes: list[int], rng: np.random.Generator
    ) -> list[np.ndarray]:
        """Cells of each part, those of rare labels in more of the parts."""
        assert self.labels is not None
        _, codes, counts = np.unique(self.labels[rows], return_inverse=True, return_counts=True)
        weight = 1 / counts[codes]
        return [rng.choice(rows, n, replace=False, p=weight / weight.sum()) for n in sizes]

    def _mixed(self, parts: list[_Part], rng: np.random.Generator) -> list[_Part]:
        """As many cells with and without a place as were asked for; few come several times."""
        share = self.context.options.spatial_share
        if share is None or self.epoch is not None:
            return parts
        kinds = [bool(self._spatial[part.targets].any()) for part in parts]
        if all(kinds) or not any(kinds):
            return parts
        n_cells, mixed = sum(map(len, parts)), []
        for kind, wanted in ((True, share * n_cells), (False, (1 - share) * n_cells)):
            own = [part for part, of in zip(parts, kinds, strict=True) if of == kind]
            n = 0
            while n < wanted:
                for i in rng.permutation(len(own)):
                    if n >= wanted:
                        break
                    mixed.append(own[i])
                    n += len(own[i])
        # Batches are counted before the draw.
        while len(mixed) < self._n_batches:
            mixed.append(parts[int(rng.integers(len(parts)))])
        return mixed


def split_tiles(xy: np.ndarray, size: int) -> list[np.ndarray]:
    """Cut places into tiles of nearly the same number of cells, by halving along the wider side.

    It depends on the places alone, not on the order of the cells.

    Parameters
    ----------
    xy
        Shape ``(n_cells, 2)``.
    size
        Cells of a tile at most.

    Returns
    -------
    Positions of the cells of each tile, ascending.
    """
    return _split(xy, -(-len(xy) // size))


def _split(xy: np.ndarray, n_tiles: int) -> list[np.ndarray]:
    done: list[np.ndarray] = []
    left = [(np.arange(len(xy)), n_tiles)]
    while left:
        cells, n_own = left.pop()
        if n_own <= 1:
            done.append(np.sort(cells))
            continue
        own = xy[cells]
        axis = int(np.argmax(own.max(axis=0) - own.min(axis=0)))
        order = cells[np.lexsort((own[:, 1 - axis], own[:, axis]))]
        first = n_own // 2
        cut = len(cells) * first // n_own
        left += [(order[cut:], n_own - first), (order[:cut], first)]
    return done


def _distance(xy: np.ndarray, tile: np.ndarray) -> np.ndarray:
    """Square of the distance of places to the smallest rectangle around others; 0 in it."""
    away = np.maximum(np.maximum(tile.min(axis=0) - xy, xy - tile.max(axis=0)), 0)
    distance: np.ndarray = np.square(away).sum(axis=1)
    return distance


def _turned(xy: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Turned by a random angle, so that tiles are others in each epoch."""
    angle = rng.uniform(0, 2 * np.pi)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    turned: np.ndarray = np.asarray(xy, dtype=np.float64) @ turn
    return turned


def _joined(parts: list[_Part]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    rows = np.concatenate([np.concatenate([part.targets, part.others]) for part in parts])
    target = np.concatenate(
        [np.repeat([1, 0], [len(part.targets), len(part.others)]) for part in parts]
    )
    sequence = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    return rows, {SEQUENCE: sequence.astype(np.int64), TARGET: target.astype(np.int64)}
