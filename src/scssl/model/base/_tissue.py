"""Samples and places of cells, for models whose cells see each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from scssl._errors import MissingKeyError, warn
from scssl._places import coordinates_of, graph_of, sample_codes
from scssl.data import CellContext, ContextOptions, Datasets, GeneVocabulary, GraphContext
from scssl.data.graphs import checked_radius, sections_of, spatial_graph
from scssl.data.store import Store

from ._setup import CellReader, DataSetup
from ._setup_method import SetupArgument
from ._stores import samples_of

if TYPE_CHECKING:
    from anndata import AnnData


#: Arguments of ``setup_anndata`` of models that see tissues, or are made of one that does.
TISSUE = {
    "sample_key": SetupArgument(
        "Column of ``adata.obs`` with the sample of each cell, such as the slice. Cells see those of "
        "their sample; without it all cells are one sample, whatever else they differ in.",
        str | None,
    ),
    "spatial_key": SetupArgument(
        "Entry of ``adata.obsm`` with the place of each cell, ``(n_cells, 2)`` in any unit, or two "
        "columns of ``adata.obs``, x and y; NaN where a cell has none. Places are scaled to the unit "
        "square sample by sample.",
        str | Sequence[str] | None,
    ),
}

#: The same of models that see the neighbours of a cell in a graph.
GRAPH = {
    **TISSUE,
    "connectivity_key": SetupArgument(
        "Entry of ``adata.obsp`` with the neighbours of each cell, as :func:`scssl.pp.spatial_neighbors` or "
        "squidpy writes it; weights are not used. Without it neighbours are found by place.",
        str | None,
    ),
}


def record_tissue(
    data: AnnData | Datasets | Store, setup: DataSetup, *, neighbors: bool = False
) -> dict[str, Any]:
    """Refuse a sample column, coordinates or a graph that cannot be used; warn of samples that look wrong.

    `neighbors` says that cells must have neighbours. Returns what would be different if cells had been told to
    be elsewhere.
    """
    neighbors |= setup.connectivity_key is not None
    if setup.sample_key is None and setup.spatial_key is None and not neighbors:
        return {}
    context = context_of(data, setup, ContextOptions(n_hops=int(neighbors)))
    if isinstance(data, Datasets | Store) or setup.sample_key is None:
        return _fingerprint(context, setup)
    if data.n_obs > 20 and context.n_samples > data.n_obs / 2:
        warn(
            f'adata.obs["{setup.sample_key}"] has {context.n_samples:,} samples for {data.n_obs:,} cells. Is '
            "it the column you meant? Cells see those of their sample only."
        )
    return _fingerprint(context, setup)


def tell_tissue(
    reader: CellReader, data: AnnData | Datasets | Store, options: ContextOptions
) -> None:
    """Tell a reader of cells which of them see each other."""
    reader.context = context_of(data, reader.setup, options)
    reader.fingerprint |= _fingerprint(reader.context, reader.setup)


def context_of(
    data: AnnData | Datasets | Store, setup: DataSetup, options: ContextOptions
) -> CellContext:
    """Which cells see each other; never those of two data sets."""
    if isinstance(data, Store):
        return samples_of(data, setup.sample_key, options)
    if not isinstance(data, Datasets):
        by_place = options.n_hops > 0 and setup.connectivity_key is None
        xy = None
        if setup.spatial_key is not None:
            xy = coordinates_of(data, setup.spatial_key, needed=by_place)
        own = sample_codes(data, setup.sample_key)
        if not options.n_hops:
            return CellContext(own, xy, options)
        if by_place:
            graph = _graph_by_place(xy, own, options)
        else:
            key = str(setup.connectivity_key)
            graph = graph_of(data, key, setup.sample_key, own)
        return GraphContext(own, xy, options, graph)
    found = data.items()
    place = setup.spatial_key
    if setup.sample_key is not None and not any(setup.sample_key in a.obs for _, a in found):
        raise MissingKeyError(f"No data set has {setup.sample_key!r} in obs.")
    if place is not None and not any(_has_places(adata, place) for _, adata in found):
        raise MissingKeyError(
            f"No data set has {place!r} in {'obsm' if isinstance(place, str) else 'obs'}."
        )
    samples, places, n_samples = [], [], 0
    for _, adata in found:
        has = setup.sample_key is not None and setup.sample_key in adata.obs
        codes = sample_codes(adata, setup.sample_key if has else None) + n_samples
        n_samples = int(codes.max()) + 1
        samples.append(codes)
        if place is not None and _has_places(adata, place):
            places.append(coordinates_of(adata, place))
        else:
            places.append(np.full((adata.n_obs, 2), np.nan))
    coordinates = None if place is None else np.concatenate(places)
    return CellContext(np.concatenate(samples), coordinates, options)


def _graph_by_place(xy: np.ndarray | None, samples: np.ndarray, options: ContextOptions) -> Any:
    if xy is None:
        raise ValueError("The encoder sees neighbours: say where cells are, in `spatial_key`.")
    if options.radius is None:
        return spatial_graph(xy, samples, "knn", options.n_neighbors)[0]
    radius = checked_radius(options.radius, xy, sections_of(xy, samples))
    return spatial_graph(xy, samples, "radius", 0, radius=radius)[0]


def _has_places(adata: AnnData, key: str | Sequence[str]) -> bool:
    return key in adata.obsm if isinstance(key, str) else set(key) <= set(adata.obs.columns)


def _fingerprint(context: CellContext, setup: DataSetup) -> dict[str, Any]:
    if setup.sample_key is None and setup.spatial_key is None and setup.connectivity_key is None:
        return {}
    found = {"samples and places": context.digest()}
    if setup.connectivity_key is not None and isinstance(context, GraphContext):
        found["neighbours"] = context.graph_digest()
    return found


def panels(
    reader: CellReader, data: AnnData | Datasets | Store, genes: GeneVocabulary
) -> tuple[np.ndarray, np.ndarray | None]:
    """Panel of each cell, and the genes that each panel has; `None` where all have all.

    Each of several data sets has a panel of its own.
    """
    codes = np.zeros(reader.n_cells, dtype=np.int64)
    if not isinstance(data, Datasets):
        present = None if reader.alignment is None else reader.alignment.present[None]
    else:
        found = data.items()
        codes = np.repeat(np.arange(len(found)), [adata.n_obs for _, adata in found])
        present = np.stack(
            [genes.align(adata.var_names, min_overlap=0).present for _, adata in found]
        )
    if present is None or present.all():
        return codes, None
    return codes, np.asarray(present, dtype=bool)
