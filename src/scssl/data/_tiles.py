"""Pieces of a tissue by the places of its cells."""

from __future__ import annotations

import numpy as np


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
