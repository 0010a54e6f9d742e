"""Votes of the nearest cells, for all that are decided by them."""

from __future__ import annotations

import numpy as np


def nearest(reference: np.ndarray, query: np.ndarray, n_neighbors: int) -> np.ndarray:
    """Rows of the cells of a reference that are nearest to each other cell, by exact search."""
    from sklearn.neighbors import NearestNeighbors

    index = NearestNeighbors(n_neighbors=n_neighbors).fit(reference)
    found: np.ndarray = index.kneighbors(query, return_distance=False)
    return found


def votes(labels: np.ndarray, n_labels: int, weights: np.ndarray | None = None) -> np.ndarray:
    """Sum of votes for each label, ``(n_cells, n_labels)``, from the labels of each cell's neighbours.

    The first of the largest wins: ties go to the label that sorts first.
    """
    n_cells = len(labels)
    flat = labels + n_labels * np.arange(n_cells)[:, None]
    tally = np.bincount(
        flat.ravel(), None if weights is None else weights.ravel(), minlength=n_cells * n_labels
    )
    return tally.reshape(n_cells, n_labels)
