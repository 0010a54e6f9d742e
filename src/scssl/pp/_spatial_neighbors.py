"""Neighbours of cells in space: a graph of each section, in the layout of squidpy."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from scssl._checks import (
    check_adata,
    check_choice,
    check_destination,
    check_number,
    check_whole,
    likely_column,
)
from scssl._errors import warn
from scssl._places import coordinates_of, sample_codes
from scssl.data.graphs import SpatialLinks, checked_radius, sections_of, spatial_graph

if TYPE_CHECKING:
    from anndata import AnnData

_LOGGER = logging.getLogger("scssl")


def spatial_neighbors(
    adata: AnnData,
    *,
    spatial_key: str | Sequence[str] = "spatial",
    sample_key: str | None = None,
    method: SpatialLinks = "knn",
    n_neighbors: int = 6,
    radius: float | None = None,
    percentile: float | None = None,
    key_added: str = "spatial",
    copy: bool = False,
) -> AnnData | None:
    """Find the neighbours of every cell in space, section by section.

    What is written has the layout of squidpy :cite:p:`Palla2022`: its functions go on from it, and
    functions of scssl take graphs that squidpy made. Cells of two sections are never neighbours, and no
    cell is its own. How many neighbours cells have, and how far, is logged.

    Parameters
    ----------
    adata
        Cells with places.
    spatial_key
        Entry of `adata.obsm` with the place of each cell, ``(n_cells, 2)`` or ``(n_cells, 3)`` in any
        unit, or two columns of `adata.obs`, x and y. NaN where a cell has none: it has no neighbours.
    sample_key
        Column of `adata.obs` with the section of each cell. Without it all are of one section.
    method
        ``"knn"``: the `n_neighbors` nearest cells, which need not have the cell among theirs; ``"radius"``:
        all cells within `radius`; ``"delaunay"``: corners of the same triangles (in space, tetrahedra).
        Cells at one place share the corner.
    n_neighbors
        Number of nearest cells, for ``"knn"`` only; 6 as in squidpy, what a spot of Visium has.
    radius
        Largest distance of neighbours, in the unit of the places. Of the other methods, links that are
        longer are left out.
    percentile
        Links longer than this percentile of a section's are left out, such as 99 for the long sides that
        triangles have at the border.
    key_added
        First part of the names of the results.
    copy
        Leave `adata` as it is and return a copy with the results.

    Returns
    -------
    AnnData or None
        `None`, or a copy of `adata` when `copy` is true. Sets:

        ``adata.obsp[f"{key_added}_connectivities"]`` : :class:`scipy.sparse.csr_matrix` (float32)
            1 for each neighbour of the cell of the row.
        ``adata.obsp[f"{key_added}_distances"]`` : :class:`scipy.sparse.csr_matrix` (float64)
            Their distances, in the unit of the places. Those of cells at one place are stored zeros.
        ``adata.uns[f"{key_added}_neighbors"]`` : :class:`dict`
            The names of both as ``connectivities_key`` and ``distances_key``, and ``params``.

    Raises
    ------
    KeyError
        If there is no `spatial_key` or `sample_key`.
    ValueError
        If no cell has a place, places are infinite or not in two or three dimensions, the sample of a
        cell is not known, or `radius` is missing, out of range, or has far too many cells within it.

    Examples
    --------
    >>> import numpy as np, scssl
    >>> adata = scssl.datasets.pbmc68k_reduced()
    >>> adata.obsm["spatial"] = np.random.default_rng(0).random((adata.n_obs, 2))
    >>> adata.obs["section"] = np.resize(["a", "b"], adata.n_obs)
    >>> scssl.pp.spatial_neighbors(adata, sample_key="section")
    >>> adata.obsp["spatial_connectivities"].getnnz(axis=1).tolist() == [6] * 700
    True
    """
    check_adata(adata)
    check_destination(adata, key_added, copy=copy)
    check_choice("method", method, ("knn", "radius", "delaunay"))
    n_neighbors = check_whole("n_neighbors", n_neighbors)
    radius = check_number("radius", radius, "(0, inf)", none=True)
    percentile = check_number("percentile", percentile, "(0, 100]", none=True)
    places = coordinates_of(adata, spatial_key, planar=False, needed=True)
    samples = sample_codes(adata, sample_key)
    sections = sections_of(places, samples)
    _warn_of_shared_places(adata, places, sections, sample_key)
    if method == "radius":
        radius = checked_radius(radius, places, sections)

    connectivities, distances = spatial_graph(
        places, samples, method, n_neighbors, radius=radius, percentile=percentile
    )
    lengths = distances.data
    _tell(adata, connectivities, lengths, places, len(sections), spatial_key, radius)

    if copy:
        adata = adata.to_memory() if adata.isbacked else adata.copy()
    keys = {f"{what}_key": f"{key_added}_{what}" for what in ("connectivities", "distances")}
    adata.obsp[keys["connectivities_key"]] = connectivities
    adata.obsp[keys["distances_key"]] = distances
    params: dict[str, Any] = {
        "coord_type": "generic",
        "method": method,
        "n_neighbors": n_neighbors if method == "knn" else None,
        "radius": radius,
        "percentile": percentile,
        "spatial_key": spatial_key if isinstance(spatial_key, str) else list(spatial_key),
        "sample_key": sample_key,
    }
    # Files of older AnnData have no None.
    params = {name: value for name, value in params.items() if value is not None}
    adata.uns[f"{key_added}_neighbors"] = {**keys, "params": params}
    return adata if copy else None


def _warn_of_shared_places(
    adata: AnnData, places: np.ndarray, sections: Sequence[np.ndarray], sample_key: str | None
) -> None:
    """Cells at one place are as near as can be: often they are of two sections."""
    n_cells = sum(map(len, sections))
    n_shared = n_cells - sum(len(np.unique(places[rows], axis=0)) for rows in sections)
    if not n_shared:
        return
    column = likely_column(adata.obs, "section", "slice", "sample", "batch", "library")
    hint = ""
    if sample_key is None and column is not None:
        hint = f' If they are of different sections: `sample_key="{column}"`'
    warn(f"{n_shared:,} of {n_cells:,} cells are at the place of another cell.{hint}")


def _tell(
    adata: AnnData,
    graph: sparse.csr_matrix,
    lengths: np.ndarray,
    places: np.ndarray,
    n_sections: int,
    spatial_key: str | Sequence[str],
    radius: float | None,
) -> None:
    degrees = graph.getnnz(axis=1)
    without = int(np.isnan(places[:, 0]).sum())
    _LOGGER.info(
        "%d section%s: %g neighbours of a cell (median), at a distance of %.3g (median) in the unit of "
        "%r; %d cells have none%s.",
        n_sections,
        "" if n_sections == 1 else "s",
        np.median(degrees),
        np.median(lengths) if len(lengths) else np.nan,
        spatial_key,
        int((degrees == 0).sum()),
        f", {without} of them without a place" if without else "",
    )
