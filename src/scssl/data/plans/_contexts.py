"""Batches of whole samples to embed, and of parts of samples to learn from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from scssl._random import derive_generator
from scssl.data.keys import SEQUENCE, TARGET

from ._tiles import split_into, square_distance

if TYPE_CHECKING:
    from ._context import CellContext


class Whole:
    """Whole sequences, those in which there is a cell that is asked for."""

    def __init__(self, context: CellContext, rows: np.ndarray) -> None:
        self.context = context
        self.asked = np.zeros(len(context.samples), dtype=bool)
        self.asked[rows] = True

    def __len__(self) -> int:
        return self.context.n_sequences(self.asked)

    def draw(self, epoch: int) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
        for cells, inside in self.context.sequences(self.asked):
            target = (inside & self.asked[cells]).astype(np.int64)
            yield cells, {SEQUENCE: np.zeros(len(cells), dtype=np.int64), TARGET: target}


@dataclass(frozen=True)
class _Part:
    targets: np.ndarray
    others: np.ndarray

    def __len__(self) -> int:
        return len(self.targets) + len(self.others)


class Parts:
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
        self.dropout = context.options.cell_dropout if epoch is None else 0.0
        self._spatial = context.is_spatial()
        others = {} if fill is None else context.by_sample(np.setdiff1d(fill, rows))
        samples = [
            _Part(own, others.get(code, rows[:0])) for code, own in context.by_sample(rows).items()
        ]
        self.samples = [part for sample in samples for part in self._by_place(sample)]
        self._n_batches = -(-sum(self._n_cells(sample) for sample in self.samples) // batch_size)
        self._n_batches = min(self._n_batches, sum(map(self._n_parts, self.samples)))

    def _by_place(self, sample: _Part) -> list[_Part]:
        """Cells that have a place and those that have none, of a sample that is cut into tiles."""
        placed = self._spatial[sample.targets]
        if self.context.options.mode != "tiles" or placed.all() or not placed.any():
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

    def __len__(self) -> int:
        return self._n_batches

    def draw(self, epoch: int) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
        rng = derive_generator(self.seed, "parts", epoch if self.epoch is None else self.epoch)
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
