"""Pieces of a tissue by the places of its cells."""

from __future__ import annotations

import numpy as np


def split_tiles(xy: np.ndarray, size: int) -> list[np.ndarray]:
    """Cut places into tiles of nearly the same number of cells, by halving along the wider side.

    Positions of the cells of each tile, ascending.

    It depends on the places alone, not on the order of the cells, unless several are at the same place.

    Parameters
    ----------
    xy
        Shape ``(n_cells, 2)``.
    size
        Cells of a tile at most.
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
    """Places of a tissue, to find what is nearest to a piece of it.

    Parameters
    ----------
    xy
        Places within the unit square, shape ``(n_cells, 2)``.
    """

    def __init__(self, xy: np.ndarray) -> None:
        self.xy = xy
        self._order = np.argsort(xy[:, 0], kind="stable")
        self._x = xy[self._order, 0].astype(np.float64)

    def nearest(self, tile: np.ndarray, n: int) -> np.ndarray:
        """Positions of the cells that are nearest to the rectangle around a tile and not in it.

        On a grid many are as near: of these first the ones before the middle of a side, whatever the order of
        the cells is.

        Parameters
        ----------
        tile
            Positions of the cells of the tile, ascending.
        n
            Number of cells.
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
