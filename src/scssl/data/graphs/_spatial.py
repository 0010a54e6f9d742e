"""Neighbours of cells in space, section by section."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from scipy import sparse
from scipy.spatial import Delaunay, cKDTree

SpatialLinks = Literal["knn", "radius", "delaunay"]
type Links = tuple[np.ndarray, np.ndarray]
# Neighbours of a cell, in the mean, from which a radius is taken for one in another unit.
_TOO_MANY = 1000
# Distances between nearest cells that a radius spans which is proposed: of cells in a plane, 12 are so near.
_SPAN = 2


def sections_of(places: np.ndarray, samples: np.ndarray) -> list[np.ndarray]:
    """Cells with a place of each section that has such, ascending."""
    placed = ~np.isnan(places[:, 0])
    found = [np.flatnonzero((samples == one) & placed) for one in np.unique(samples)]
    return [rows for rows in found if len(rows)]


def spatial_graph(
    places: np.ndarray,
    samples: np.ndarray,
    method: SpatialLinks,
    n_neighbors: int,
    *,
    radius: float | None = None,
    percentile: float | None = None,
) -> tuple[sparse.csr_matrix, sparse.csr_matrix]:
    """Which cells are neighbours, float32 ones, and their distances, float64 with zeros that are stored.

    Arguments are those of :func:`scssl.pp.spatial_neighbors`; cells without a place have no neighbours.
    """
    found = [(np.zeros(0, np.intp), np.zeros(0, np.intp), np.zeros(0))]
    for rows in sections_of(places, samples):
        of = _LINKS[method](places[rows], n_neighbors, radius)
        lengths = np.linalg.norm(places[rows[of[0]]] - places[rows[of[1]]], axis=1)
        kept = np.ones(len(lengths), dtype=bool) if radius is None else lengths <= radius
        if percentile is not None and len(lengths):
            kept &= lengths <= np.percentile(lengths, percentile)
        found.append((rows[of[0]][kept], rows[of[1]][kept], lengths[kept]))
    cells, others, lengths = (np.concatenate(parts) for parts in zip(*found, strict=True))
    shape = (len(samples), len(samples))
    ones = np.ones(len(cells), dtype=np.float32)
    return (
        sparse.csr_matrix((ones, (cells, others)), shape=shape),
        sparse.csr_matrix((lengths, (cells, others)), shape=shape),
    )


def _nearest(places: np.ndarray, n_neighbors: int, radius: float | None) -> Links:
    k = min(n_neighbors, len(places) - 1)
    _, found = cKDTree(places).query(places, k + 1)
    found = found.reshape(len(places), k + 1)
    is_self = found == np.arange(len(places))[:, None]
    # Where more cells are at one place than are asked for, one may not have found itself.
    is_self[~is_self.any(axis=1), -1] = True
    return np.repeat(np.arange(len(places)), k), found[~is_self]


def _within(places: np.ndarray, n_neighbors: int, radius: float | None) -> Links:
    pairs = cKDTree(places).query_pairs(radius, output_type="ndarray")
    return np.concatenate([pairs[:, 0], pairs[:, 1]]), np.concatenate([pairs[:, 1], pairs[:, 0]])


def _corners(places: np.ndarray, n_neighbors: int, radius: float | None) -> Links:
    corners, at = np.unique(places, axis=0, return_inverse=True)
    n_corners = len(corners)
    # Cells on a line, or in a plane of space, are triangulated within it.
    centered = corners - corners.mean(axis=0)
    _, sizes, axes = np.linalg.svd(centered, full_matrices=False)
    rank = int((sizes > 1e-9 * max(sizes[0], np.finfo(np.float64).tiny)).sum())
    if rank < 2:
        order = np.argsort(centered @ axes[0])
        first, second = order[:-1], order[1:]
    else:
        mesh = Delaunay(centered @ axes[:rank].T)
        indptr, second = mesh.vertex_neighbor_vertices
        first = np.repeat(np.arange(n_corners), np.diff(indptr))
        # What lies too close to a corner to be one, beside which it is put.
        first = np.concatenate([first, mesh.coplanar[:, 0]])
        second = np.concatenate([second, mesh.coplanar[:, 2]])
    ones = np.ones(len(first), dtype=bool)
    joined = sparse.csr_matrix((ones, (first, second)), shape=(n_corners, n_corners))
    joined = joined + joined.T + sparse.identity(n_corners, dtype=bool)
    is_at = sparse.csr_matrix((np.ones(len(at), dtype=bool), (np.arange(len(at)), at.ravel())))
    cells, others = (is_at @ joined @ is_at.T).nonzero()
    return cells[cells != others], others[cells != others]


_LINKS = {"knn": _nearest, "radius": _within, "delaunay": _corners}


def checked_radius(
    radius: float | None, places: np.ndarray, sections: Sequence[np.ndarray]
) -> float:
    """The radius, or an error with another one where there is none or it cannot be meant."""
    trees = [cKDTree(places[rows]) for rows in sections]
    nearest = [tree.query(tree.data, 2)[0][:, 1] for tree in trees if tree.n > 1]
    apart = np.concatenate([part[part > 0] for part in nearest]) if nearest else np.zeros(0)
    usual = float(np.median(apart)) if len(apart) else 1.0
    meant = f"`radius={_SPAN * usual:.3g}`"
    far = f"nearest cells are {usual:.3g} apart (median)"
    if radius is None:
        raise ValueError(f'method="radius" needs a `radius`; {far}. Pass {meant}')
    n_cells = sum(tree.n for tree in trees)
    n_links = sum(int(tree.count_neighbors(tree, radius)) for tree in trees) - n_cells
    if n_links > _TOO_MANY * n_cells:
        raise ValueError(
            f"Within radius={radius:g} are {n_links / n_cells:,.0f} cells of each, in the mean; {far}. "
            f"Is it in the unit of the places? Pass {meant}"
        )
    if n_links == 0 and len(apart):
        raise ValueError(f"No cell has another within radius={radius:g}; {far}. Pass {meant}")
    return radius
