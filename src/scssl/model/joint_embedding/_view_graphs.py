"""Graphs that views draw other cells from: where they are, and what is wrong with them."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from scipy import sparse

from scssl._errors import warn
from scssl.augment import Augmentation
from scssl.data import NeighborTable
from scssl.data.graphs import batch_codes, batch_keys, check_edges, check_graph_cells
from scssl.model.base import DataSetup

_LOGGER = logging.getLogger("scssl")
# Below this share of the training cells a graph hardly makes views.
_FEW = 0.5


class _Place(NamedTuple):
    """Data that may hold a graph: what they are called, and the row of each cell in the whole."""

    data: Any
    name: str
    rows: np.ndarray


def graph_tables(adata: Any, views: Augmentation, setup: DataSetup) -> dict[str, NeighborTable]:
    """Neighbours in each graph of the views; of a MuData in its own graph or that of its RNA.

    Raises
    ------
    KeyError
        If there is no such graph.
    ValueError
        If it is of other cells, has no edges, or edges that the views cannot have.
    """
    places = [_Place(adata, "mdata" if setup.modalities else "adata", np.arange(adata.n_obs))]
    rna = next((one for one in setup.modalities if one.kind == "rna"), None)
    if rna is not None:
        own = adata.mod[rna.name]
        places.append(_Place(own, rna.mod, adata.obs_names.get_indexer(own.obs_names)))
    tables = {}
    for name in views.graphs():
        # What is to be typed is for the data with the genes, and knows the batches if we do.
        how = views.recipe(name, places[-1].name)
        if setup.batch_key is not None:
            how = how.replace("batch_key=...", f"batch_key={setup.batch_key!r}")
        place = next((one for one in places if name in one.data.obsp), None)
        if place is None:
            wheres = " or ".join(f"{one.name}.obsp[{name!r}]" for one in places)
            there = ", ".join(repr(key) for one in places for key in one.data.obsp) or "none"
            msg = (
                f"The augmentation {views!r} draws other cells from {wheres}, which does not exist; "
                f"there are: {there}. Make it: {how}. Or name another graph."
            )
            described = [one.data.uns.get(name) for one in places]
            keys = [one.get("connectivities_key") for one in described if isinstance(one, Mapping)]
            if any(keys):
                # What scanpy calls its neighbours in `uns` is not what it calls the graph.
                msg += f" That of uns[{name!r}] is {next(filter(None, keys))!r}."
            raise KeyError(msg)
        check_graph_cells(place.data, name, place.name)
        graph = place.data.obsp[name]
        if place.data is not adata and sparse.issparse(graph):
            # Through pairs and not as a matrix product: zeros that are stored are entries too.
            graph = sparse.coo_matrix(graph)
            moved = (graph.data, (place.rows[graph.row], place.rows[graph.col]))
            graph = sparse.coo_matrix(moved, shape=(adata.n_obs, adata.n_obs))
        table = NeighborTable.from_graph(graph, name, adata.n_obs, how=f" Make it: {how}.")
        _check_edges(table, name, views, places, place, setup, how)
        tables[name] = table if rna is None else table.restrict(places[-1].rows)
    return tables


def report_coverage(tables: Mapping[str, NeighborTable], rows: np.ndarray) -> None:
    """Say how many of the training cells have another one in each graph, and warn if they are few."""
    for name, table in tables.items():
        share = float((table.counts[rows] > 0).mean()) if len(rows) else 0.0
        found = f"{100 * share:.1f} % of the {len(rows):,} cells to train on have a neighbour to train on"
        _LOGGER.info("%s in the graph %r.", found, name)
        if share < _FEW:
            warn(
                f"Only {found} in the graph {name!r}: the others are not changed by an augmentation that "
                "draws from it. Take more neighbours (n_neighbors=...), or add a step that changes "
                'every cell, such as augmentation=[..., "mask"].'
            )


def _check_edges(
    table: NeighborTable,
    name: str,
    views: Augmentation,
    places: list[_Place],
    place: _Place,
    setup: DataSetup,
    how: str,
) -> None:
    """Refuse edges within batches, or across them, where the views are for the other kind."""
    wanted = views.edges().get(name)
    if wanted is None:
        return
    key, codes = _batches(table.n_cells, name, views, places, place, setup)
    if codes is None or key is None:
        return
    check_edges(
        table,
        codes,
        wanted,
        who=f"The augmentation {views!r}",
        where=f"{place.name}.obsp[{name!r}]",
        batch_key=key,
        how=how,
    )


def _batches(
    n_cells: int,
    name: str,
    views: Augmentation,
    places: list[_Place],
    place: _Place,
    setup: DataSetup,
) -> tuple[str | None, np.ndarray | None]:
    """Key and codes of the batches that a graph is for, -1 for cells of which it is not known.

    Those that it was made with, where that is written down, come before those of the setup.
    """
    keys = batch_keys(place.data.uns, name, views.graphs())
    for key in (*keys, setup.batch_key):
        for one in (place, *places):
            if key is not None and key in one.data.obs:
                codes = np.full(n_cells, -1)
                codes[one.rows] = batch_codes(one.data.obs[key])
                return key, codes
    return None, None
