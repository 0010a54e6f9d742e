"""Which cells of a tissue are seen together, and batches of such cells."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from scipy import sparse

from scssl._checks import check_choice, check_number, check_whole
from scssl._random import derive_generator
from scssl.data.keys import DEGREE, LINKS, SEQUENCE, TARGET

from ._plan import BatchPlan, Planned, RowSpans

# Neighbours of a source on disk that are read at once.
_RUN = 128


def split_tiles(xy: np.ndarray, size: int) -> list[np.ndarray]:
    """Cut places into tiles of nearly the same number of cells, by halving along the wider side.

    Positions of the at most `size` cells of each tile, ascending. It depends on the places alone, not on
    the order of the cells, unless several are at the same place.
    """
    return split_into(xy, -(-len(xy) // size))


def split_into(xy: np.ndarray, n_tiles: int) -> list[np.ndarray]:
    """Cut places into so many tiles, see :func:`split_tiles`."""
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


def square_distance(xy: np.ndarray, tile: np.ndarray) -> np.ndarray:
    """Square of the distance of places to the smallest rectangle around others; 0 in it."""
    away = np.maximum(np.maximum(tile.min(axis=0) - xy, xy - tile.max(axis=0)), 0)
    square: np.ndarray = np.square(away).sum(axis=1)
    return square


class Surroundings:
    """Places of a tissue within the unit square, to find what is nearest to a piece of it."""

    def __init__(self, xy: np.ndarray) -> None:
        self.xy = xy
        self._order = np.argsort(xy[:, 0], kind="stable")
        self._x = xy[self._order, 0].astype(np.float64)

    def nearest(self, tile: np.ndarray, n: int) -> np.ndarray:
        """Positions of the `n` cells that are nearest to the rectangle around a tile and not in it.

        On a grid many are as near: of these first the ones before the middle of a side, whatever the order of
        the cells is.
        """
        own = self.xy[tile]
        n = min(n, len(self.xy) - len(tile))
        if not n:
            return tile[:0]
        low, high = own.min(axis=0), own.max(axis=0)
        # About a ring with so many cells; wider until there are enough.
        reach = max(float((high - low).max()) * n / len(tile), 1e-3)
        while True:
            cells = self._within(low, high, reach)
            cells = np.setdiff1d(cells, tile, assume_unique=True)
            xy = self.xy[cells]
            distance = square_distance(xy, own)
            # As near as that, all are among them.
            if reach > 2 or np.count_nonzero(distance <= reach**2) >= n:
                break
            reach *= 2
        aside = np.square(xy - (low + high) / 2).sum(axis=1)
        nearest: np.ndarray = cells[np.lexsort((xy[:, 1], xy[:, 0], aside, distance))[:n]]
        return nearest

    def _within(self, low: np.ndarray, high: np.ndarray, reach: float) -> np.ndarray:
        """Cells within a rectangle that is wider by so much on each side; ascending."""
        # A little more, for rounding.
        reach = reach * (1 + 1e-5) + 1e-5
        first = np.searchsorted(self._x, float(low[0]) - reach, side="left")
        last = np.searchsorted(self._x, float(high[0]) + reach, side="right")
        cells = self._order[first:last]
        y = self.xy[cells, 1]
        return np.sort(cells[(y >= float(low[1]) - reach) & (y <= float(high[1]) + reach)])


ContextMode = Literal["sample", "tiles", "random"]
CONTEXT_MODES: tuple[ContextMode, ...] = ("sample", "tiles", "random")


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
    n_hops
        Steps in a graph of neighbours up to which cells see each other, instead of a halo; 0: there is no graph.
    n_neighbors, radius
        The graph where none is given: so many nearest cells, or all within the radius.
    """

    mode: ContextMode = "sample"
    size: int = 2000
    halo: int = 200
    cell_dropout: float = 0.0
    spatial_share: float | None = None
    n_hops: int = 0
    n_neighbors: int = 6
    radius: float | None = None

    def __post_init__(self) -> None:
        check_choice("context", self.mode, CONTEXT_MODES)
        check_whole("context_size", self.size, 2)
        check_whole("halo", self.halo, 0)
        check_number("cell_dropout", self.cell_dropout, "[0, 1)")
        check_number("spatial_share", self.spatial_share, "(0, 1)", none=True)
        check_whole("n_neighbors", self.n_neighbors)
        check_number("radius", self.radius, "(0, inf)", none=True)


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

    def learning(self, rows: Any, fill: Any) -> list[_Part]:
        """Of each sample, which of these cells it has, and which of `fill` besides."""
        others = {} if fill is None else self.by_sample(np.setdiff1d(fill, rows))
        return [
            _Part(own, others.get(code, rows[:0])) for code, own in self.by_sample(rows).items()
        ]

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
        fill: Any = None,
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
        return _Parts(self, rows, batch_size, seed=seed, fill=fill, labels=labels)

    def validation(self, rows: np.ndarray, batch_size: int, *, seed: int, fill: Any) -> BatchPlan:
        """Batches to validate on, the same in every epoch.

        Parameters
        ----------
        rows, batch_size, seed, fill
            As in :meth:`training`.
        """
        return _Parts(self, rows, batch_size, seed=seed, fill=fill, varies=False)

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


class _Whole(BatchPlan):
    """Whole sequences, those in which there is a cell that is asked for."""

    divisible = False

    def __init__(self, context: CellContext, rows: np.ndarray) -> None:
        super().__init__(rows, 1, varies=False)
        self.context = context
        self.asked = np.zeros(len(context.samples), dtype=bool)
        self.asked[rows] = True

    @property
    def n_batches(self) -> int:
        return self.context.n_sequences(self.asked)

    def draw(self, epoch: int) -> Iterator[Planned]:
        for cells, inside in self.context.sequences(self.asked):
            target = (inside & self.asked[cells]).astype(np.int64)
            yield cells, {SEQUENCE: np.zeros(len(cells), dtype=np.int64), TARGET: target}


@dataclass(frozen=True)
class _Part:
    targets: Any
    others: Any

    def __len__(self) -> int:
        return len(self.targets) + len(self.others)


class _Parts(BatchPlan):
    """Parts of samples, several small ones in a batch."""

    divisible = False

    def __init__(
        self,
        context: CellContext,
        rows: np.ndarray,
        batch_size: int,
        *,
        seed: int,
        fill: np.ndarray | None,
        labels: np.ndarray | None = None,
        varies: bool = True,
    ) -> None:
        super().__init__(rows, batch_size, seed=seed, varies=varies)
        self.context, self.labels = context, labels
        # No more cells see each other than do when they are embedded.
        whole = context.options.mode == "sample"
        self.size = batch_size if whole else min(batch_size, context.options.size)
        self.dropout = context.options.cell_dropout if varies else 0.0
        self._spatial = context.is_spatial()
        self.samples = [
            part for sample in context.learning(rows, fill) for part in self._by_place(sample)
        ]
        self._n_batches = -(-sum(self._n_cells(sample) for sample in self.samples) // batch_size)
        self._n_batches = min(self._n_batches, sum(map(self._n_parts, self.samples)))

    def _by_place(self, sample: _Part) -> list[_Part]:
        """Cells that have a place and those that have none, of a sample that is cut into tiles."""
        if self.context.options.mode != "tiles":
            return [sample]
        placed = self._spatial[sample.targets]
        if placed.all() or not placed.any():
            return [sample]
        if self._n_parts(sample) == 1:
            return [sample]
        around = self._spatial[sample.others]
        return [
            _Part(sample.targets[placed], sample.others[around]),
            _Part(sample.targets[~placed], sample.others[~around]),
        ]

    def _n_parts(self, sample: _Part) -> int:
        n, others = len(sample.targets), len(sample.others)
        # As few parts as hold all targets, with others in each as in the sample, up to half of it.
        room = min(self.size // 2, self.size * others // (n + others))
        return -(-n // (self.size - room))

    def _n_cells(self, sample: _Part) -> int:
        """Cells of all parts of a sample, targets and others."""
        n, n_parts = len(sample.targets), self._n_parts(sample)
        room = max(n_parts * self.size - n, 0)
        return n + min(room, n_parts * len(sample.others))

    @property
    def n_batches(self) -> int:
        return self._n_batches

    def draw(self, epoch: int) -> Iterator[Planned]:
        rng = derive_generator(self.seed, "parts", epoch if self.varies else 0)
        parts = [part for sample in self.samples for part in self._parts(sample, rng)]
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

    def _parts(self, sample: _Part, rng: np.random.Generator) -> Iterator[_Part]:
        rows, fill, n_parts = sample.targets, sample.others, self._n_parts(sample)
        places = self.context.positions
        in_tiles = self.context.options.mode == "tiles" and bool(self._spatial[rows].all())
        if in_tiles and n_parts > 1:
            assert places is not None
            xy = _turned(places[rows], rng)
            groups = [rows[tile] for tile in split_into(xy, n_parts)]
        else:
            groups = np.array_split(rng.permutation(rows), n_parts)
            if self.labels is not None:
                groups = self._balanced(rows, [len(group) for group in groups], rng)
        for targets in groups:
            n = min(len(fill), max(self.size - len(targets), 0))
            if in_tiles and n:
                assert places is not None
                others = rng.permutation(fill)
                away = square_distance(places[others], places[targets])
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
        if share is None or not self.varies:
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


def _turned(xy: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Turned by a random angle, so that tiles are others in each epoch."""
    angle = rng.uniform(0, 2 * np.pi)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    turned: np.ndarray = np.asarray(xy, dtype=np.float64) @ turn
    return turned


def _joined(parts: list[_Part]) -> Planned:
    rows = np.concatenate([np.concatenate([part.targets, part.others]) for part in parts])
    target = np.concatenate(
        [np.repeat([1, 0], [len(part.targets), len(part.others)]) for part in parts]
    )
    sequence = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    return rows, {SEQUENCE: sequence.astype(np.int64), TARGET: target.astype(np.int64)}


class RunContext(CellContext):
    """Samples whose cells are next to one another and in random order, as in a store that is laid out by sample.

    Parts of a sample are runs of neighbours, which are read at once, and nothing is kept for each cell. In other
    respects it is a :class:`CellContext` without places.

    Parameters
    ----------
    runs
        First and last row of runs that are of one sample each, the last not included; whole numbers of shape
        ``(n_runs, 2)``, ascending, together all rows.
    samples
        Code of the sample of each run; shape ``(n_runs,)``.
    options
        Which cells see each other, without tiles.

    Examples
    --------
    >>> import numpy as np
    >>> from scssl.data import ContextOptions, RunContext
    >>> context = RunContext([[0, 3], [3, 6]], [0, 1], ContextOptions())
    >>> [rows.tolist() for rows, _ in context.embedding(np.array([1, 4])).draw(0)]
    [[0, 1, 2], [3, 4, 5]]
    """

    positions = None

    def __init__(self, runs: Any, samples: Any, options: ContextOptions) -> None:
        self.runs, self.samples = RowSpans(runs), np.asarray(samples)
        self.options = options

    def by_sample(self, rows: Any) -> dict[int, Any]:
        spans, run = _common(_ascending(rows), self.runs)
        order = np.argsort(self.samples[run], kind="stable")
        codes, starts = np.unique(self.samples[run][order], return_index=True)
        own = np.split(spans[order], starts[1:])
        return {int(code): RowSpans(one) for code, one in zip(codes, own, strict=False)}

    @property
    def n_samples(self) -> int:
        return len(np.unique(self.samples))

    def digest(self) -> str:
        found = np.column_stack([self.runs.spans, self.samples]).astype(np.int64)
        return hashlib.sha256(found.tobytes()).hexdigest()[:16]

    def is_spatial(self) -> np.ndarray:
        return np.zeros(0, dtype=bool)

    def learning(self, rows: Any, fill: Any) -> list[_Part]:
        others = {}
        if fill is not None:
            rest = RowSpans([0, *_ascending(rows).spans.ravel(), self.runs.max() + 1])
            others = self.by_sample(RowSpans(_common(rest, _ascending(fill))[0]))
        own = self.by_sample(rows)
        return [_Part(one, others.get(code, RowSpans([]))) for code, one in own.items()]

    def embedding(self, rows: np.ndarray) -> BatchPlan:
        return _WholeRuns(self, rows)

    def training(
        self,
        rows: Any,
        batch_size: int,
        *,
        seed: int,
        fill: Any = None,
        labels: np.ndarray | None = None,
    ) -> BatchPlan:
        return _RunParts(self, rows, batch_size, seed=seed, fill=fill)

    def validation(self, rows: Any, batch_size: int, *, seed: int, fill: Any) -> BatchPlan:
        return _RunParts(self, rows, batch_size, seed=seed, fill=fill, varies=False)

    def pieces(self, rows: np.ndarray) -> list[RowSpans]:
        """The sequences that there are for these cells."""
        numbers = np.searchsorted(self.runs.spans[:, 0], rows, side="right") - 1
        found = []
        for code in np.unique(self.samples[numbers]):
            whole = RowSpans(self.runs.spans[self.samples == code])
            n_parts = 1 if self.options.mode == "sample" else -(-len(whole) // self.options.size)
            for part in _even_parts(whole, n_parts):
                low, high = np.searchsorted(rows, part.spans).T
                found += [part] if (high > low).any() else []
        return found


def _ascending(rows: Any) -> RowSpans:
    return rows if isinstance(rows, RowSpans) else RowSpans.of(np.unique(rows))


def _common(one: RowSpans, other: RowSpans) -> tuple[np.ndarray, np.ndarray]:
    """Runs that are in both, which are ascending, and the number of the run of the other that each is in."""
    edges = np.unique(np.concatenate([one.spans.ravel(), other.spans.ravel()]))
    starts, there = edges[:-1], np.ones(max(len(edges) - 1, 0), dtype=bool)
    for spans in (one.spans, other.spans):
        begun, ended = (np.searchsorted(ends, starts, side="right") for ends in spans.T)
        there &= begun > ended
    # That of `other` came last.
    return np.column_stack([starts, edges[1:]])[there], begun[there] - 1


def _even_parts(rows: RowSpans, n_parts: int) -> Iterator[RowSpans]:
    """Cut rows into so many parts, which differ by one row at most."""
    ends = len(rows) * np.arange(n_parts + 1) // n_parts
    return (rows.part(first, last) for first, last in pairwise(ends.tolist()))


class _WholeRuns(BatchPlan):
    """Whole sequences of cells that are next to one another."""

    divisible = False

    def __init__(self, context: RunContext, rows: np.ndarray) -> None:
        super().__init__(rows, 1, varies=False)
        self._pieces = context.pieces(self.rows)

    @property
    def n_batches(self) -> int:
        return len(self._pieces)

    def draw(self, epoch: int) -> Iterator[Planned]:
        for piece in self._pieces:
            cells = np.asarray(piece)
            target = np.isin(cells, self.rows, assume_unique=True).astype(np.int64)
            yield cells, {SEQUENCE: np.zeros(len(cells), dtype=np.int64), TARGET: target}


class _RunParts(_Parts):
    """Parts of samples that are runs of neighbours, which come together with others in each epoch."""

    def _parts(self, sample: _Part, rng: np.random.Generator) -> Iterator[_Part]:
        own, others = (self._shuffled(rows, rng) for rows in (sample.targets, sample.others))
        for targets in _even_parts(own, self._n_parts(sample)):
            n = min(len(others), max(self.size - len(targets), 0))
            first = int(rng.integers(len(others) - n, endpoint=True))
            if self.dropout and len(targets) > 2:
                targets = targets.part(0, max(2, round((1 - self.dropout) * len(targets))))
            yield _Part(targets, others.part(first, first + n))

    @staticmethod
    def _shuffled(rows: RowSpans, rng: np.random.Generator) -> RowSpans:
        spans = rows.cut(_RUN).spans
        return RowSpans(spans[rng.permutation(len(spans))])


class GraphContext(CellContext):
    """Cells that see their neighbours in a graph, and those of these, up to `n_hops` steps.

    A batch has the cells that it is about and all that they see, with ``scssl.data.keys.LINKS``, so that it
    makes no difference how a tissue is cut. A cell is a neighbour of whom it has as a neighbour, and of itself.

    Parameters
    ----------
    samples, coordinates, options
        As of :class:`CellContext`.
    graph
        Neighbours of the cells, sparse, ``(n_cells, n_cells)``; none of another sample.

    Examples
    --------
    >>> import numpy as np
    >>> from scipy import sparse
    >>> from scssl.data import ContextOptions, GraphContext
    >>> chain = sparse.diags([np.ones(5)], [1], shape=(6, 6))
    >>> context = GraphContext(np.zeros(6), None, ContextOptions("tiles", n_hops=1), chain)
    >>> rows, more = context.around(np.array([0, 1]))
    >>> rows.tolist(), more["links"].tolist()
    ([0, 1, 2], [[0, 0], [0, 1], [1, 0], [1, 1], [1, 2], [2, 1], [2, 2]])
    """

    def __init__(
        self,
        samples: np.ndarray,
        coordinates: np.ndarray | None,
        options: ContextOptions,
        graph: Any,
    ) -> None:
        super().__init__(samples, coordinates, options)
        both = graph + graph.T + sparse.identity(len(samples))
        self.graph = sparse.csr_matrix(both, dtype=np.float32)
        self.graph.sort_indices()

    def graph_digest(self) -> str:
        """Digest of who are neighbours."""
        digest = hashlib.sha256()
        for part in (self.graph.indptr, self.graph.indices):
            digest.update(part.astype(np.int64).tobytes())
        return digest.hexdigest()[:16]

    def around(self, cells: np.ndarray) -> Planned:
        """Cells and all that they see, ascending, as a batch that is about them.

        Parameters
        ----------
        cells
            Cells, each once.
        """
        target = np.zeros(len(self.samples), dtype=np.int64)
        target[cells] = 1
        seen = target > 0
        reached = np.asarray(cells)
        for _ in range(self.options.n_hops):
            found = np.unique(self.graph[reached].indices)
            reached = found[~seen[found]]
            seen[reached] = True
        rows = np.flatnonzero(seen)
        links = self.graph[rows][:, rows].tocoo()
        sequence = np.unique(self.samples[rows], return_inverse=True)[1].astype(np.int64)
        pairs = np.stack([links.row, links.col], axis=1).astype(np.int64)
        degree = np.diff(self.graph.indptr)[rows].astype(np.int64)
        return rows, {SEQUENCE: sequence, TARGET: target[rows], DEGREE: degree, LINKS: pairs}

    def embedding(self, rows: np.ndarray) -> BatchPlan:
        return _WholeSubgraphs(self, rows)

    def training(
        self,
        rows: np.ndarray,
        batch_size: int,
        *,
        seed: int,
        fill: Any = None,
        labels: np.ndarray | None = None,
    ) -> BatchPlan:
        return _Subgraphs(self, rows, batch_size, seed=seed, fill=None, labels=labels)

    def validation(self, rows: np.ndarray, batch_size: int, *, seed: int, fill: Any) -> BatchPlan:
        return _Subgraphs(self, rows, batch_size, seed=seed, fill=None, varies=False)


class _Subgraphs(_Parts):
    """Parts of samples with all that their cells see."""

    context: GraphContext

    def draw(self, epoch: int) -> Iterator[Planned]:
        for rows, _ in super().draw(epoch):
            yield self.context.around(rows)


class _WholeSubgraphs(_Whole):
    """Whole samples or tiles of them, those in which there is a cell that is asked for."""

    context: GraphContext

    def draw(self, epoch: int) -> Iterator[Planned]:
        for rows, more in super().draw(epoch):
            # The halo that there would be without a graph is empty: a piece is its own cells.
            seen, told = self.context.around(rows)
            asked = np.isin(seen, rows[more[TARGET] > 0])
            yield seen, {**told, TARGET: asked.astype(np.int64)}
