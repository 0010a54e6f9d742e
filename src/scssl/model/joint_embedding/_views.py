"""What makes the views of a model, and the graphs that they draw other cells from."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from scipy import sparse

from scssl._checks import BATCHES, either, likely_column, some
from scssl._errors import MissingKeyError, warn
from scssl.augment import Augmentation, Mask, augmentation_from_config
from scssl.augment import augmentation as make_augmentation
from scssl.data import NeighborTable
from scssl.data.graphs import (
    GRAPH_KEYS,
    batch_codes,
    batch_graphs,
    batch_keys,
    check_edges,
    check_graph_cells,
)
from scssl.model.base import DataSetup

_LOGGER = logging.getLogger("scssl")
# Below this share of the training cells a graph hardly makes views.
_FEW = 0.5

Views = Augmentation | dict[str, Augmentation]


# What gives the line that sets data up with another argument, for messages.
SetupAgain = Callable[[str], str]


def default_views(kind: str) -> Augmentation:
    """What makes the views of a modality where the user leaves it open.

    Half of the values of proteins are hidden too, few as there are. Less (a fifth, in half of the views)
    was worse on both data sets with proteins: the two views of the proteins are then so alike that the
    encoder of RNA has little to learn.
    """
    if kind == "protein":
        return Mask(0.5, p=1.0)
    return make_augmentation("default")


def choose_views(augmentation: Any, setup: DataSetup, again: SetupAgain) -> Views:
    """Views as the user wants them, of each modality where there are several.

    `again` gives the line that sets the data up with other arguments, for messages.
    """
    if not setup.modalities:
        if isinstance(augmentation, Mapping):
            one = augmentation.get("rna", "default")
            give = f": `augmentation={one!r}`" if isinstance(one, str) else ""
            raise ValueError(
                f"`augmentation` names modalities, which an AnnData has not. Give that of one{give}."
            )
        views: Augmentation = make_augmentation(augmentation)
        _check_counts(views, setup.input_kind, setup.where, again)
        _check_batch(views, setup, again)
        return views
    kinds = [one.kind for one in setup.modalities]
    asked = dict(augmentation) if isinstance(augmentation, Mapping) else {kinds[0]: augmentation}
    unknown = [kind for kind in asked if kind not in kinds]
    if unknown:
        raise ValueError(f"`augmentation` is for {some(unknown)}; there are {some(kinds)}.")
    chosen = {}
    for one in setup.modalities:
        views = make_augmentation(asked[one.kind]) if one.kind in asked else default_views(one.kind)
        if one.kind != "rna" and (views.needs_counts or views.walks(0) or views.walks(1)):
            what = "resamples counts" if views.needs_counts else "draws neighbours from a graph"
            other = {**asked, one.kind: "mask"}
            plain = all(isinstance(value, str) for value in other.values())
            take = f"`augmentation={other}`" if plain else f"{one.kind!r}: 'mask'"
            raise ValueError(
                f"The augmentation {views!r} {what}, which is for RNA only. Pass another one for "
                f"{one.kind}, such as {take}."
            )
        _check_counts(views, one.normalization, one.where, again)
        _check_batch(views, setup, again)
        chosen[one.kind] = views
    return chosen


def _check_counts(views: Augmentation, kind: str, where: str, again: SetupAgain) -> None:
    if views.needs_counts and kind != "counts":
        raise ValueError(
            f"The augmentation {views!r} needs counts, but {where} was set up as log-normalised. Set up "
            f'a layer with counts, {again("layer")}, or take another one: `augmentation="mask"`.'
        )


def _check_batch(views: Augmentation, setup: DataSetup, again: SetupAgain) -> None:
    if views.needs_batch and setup.batch_key is None:
        raise ValueError(
            f"The augmentation {views!r} needs a batch of each cell: {again('batch_key')}."
        )


def views_from_config(config: Any) -> Views:
    """Views from what was saved of them."""
    if isinstance(config, Augmentation):
        return config
    if "name" in config:
        return augmentation_from_config(config)
    return {
        kind: one if isinstance(one, Augmentation) else augmentation_from_config(one)
        for kind, one in config.items()
    }


def config_of(views: Views) -> dict[str, Any]:
    """What is saved of them."""
    if isinstance(views, Augmentation):
        return views.config()
    return {kind: one.config() for kind, one in views.items()}


class _Place(NamedTuple):
    """Data that may hold a graph: what they are called, and the row of each cell in the whole."""

    data: Any
    name: str
    rows: np.ndarray


def graph_tables(
    adata: Any, views: Augmentation, setup: DataSetup, made: dict[str, Any]
) -> dict[str, NeighborTable]:
    """Neighbours in each graph of the views; of a MuData in its own graph or that of its RNA.

    What `adata` lacks and can be made by defaults is, and kept in `made` for the next time.
    """
    places = [_Place(adata, "mdata" if setup.modalities else "adata", np.arange(adata.n_obs))]
    rna = next((one for one in setup.modalities if one.kind == "rna"), None)
    if rna is not None:
        own = adata.mod[rna.name]
        places.append(_Place(own, rna.mod, adata.obs_names.get_indexer(own.obs_names)))
    tables = {}
    for name in views.graphs():
        # What is to be typed is for the data with the genes, and knows the batches if we do.
        batches = setup.batch_key or likely_column(places[-1].data.obs, *BATCHES) or "batch"
        how = views.recipe(name, places[-1].name, batches)
        place = next((one for one in places if name in one.data.obsp), None)
        if place is None and (name in made or _make(views, name, places[-1], setup, made)):
            place, graph = places[-1], made[name]
        elif place is not None:
            check_graph_cells(place.data, name, place.name)
            graph = place.data.obsp[name]
        else:
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
            raise MissingKeyError(msg)
        if place.data is not adata and sparse.issparse(graph):
            # Through pairs and not as a matrix product: zeros that are stored are entries too.
            graph = sparse.coo_matrix(graph)
            moved = (graph.data, (place.rows[graph.row], place.rows[graph.col]))
            graph = sparse.coo_matrix(moved, shape=(adata.n_obs, adata.n_obs))
        table = NeighborTable.from_graph(graph, name, adata.n_obs, how=f" Make it: {how}.")
        _check_edges(table, name, views, places, place, setup, how)
        tables[name] = table if rna is None else table.restrict(places[-1].rows)
    return tables


def _make(
    views: Augmentation, name: str, place: _Place, setup: DataSetup, made: dict[str, Any]
) -> bool:
    """Make the graph that :func:`scssl.pp.cross_batch_neighbors` would, if its batches are known."""
    method = next((m for m, key in GRAPH_KEYS.items() if name in (key, f"{key}_within")), None)
    key = setup.batch_key
    if method is None or key is None or key not in place.data.obs:
        return False
    together = [one for one in views.graphs() if one.removesuffix("_within") == GRAPH_KEYS[method]]
    if any(one in place.data.obsp for one in together):
        # A part of what is made together is there, which the other parts have to fit.
        return False
    rna = next((one for one in setup.modalities if one.kind == "rna"), None)
    layer = setup.layer if rna is None else rna.layer
    options: Any = {"method": method, "layer": layer, "input": setup.input_kind or "auto"}
    of_layer = "" if layer is None else f", layer={layer!r}"
    _LOGGER.info(
        f"{place.name}.obsp has no {GRAPH_KEYS[method]!r}, which is made for this model, as by "
        f"`scssl.pp.cross_batch_neighbors({place.name}, {key!r}{of_layer}, method={method!r})`."
    )
    found = batch_graphs(place.data, key, GRAPH_KEYS[method], **options)
    made.update(found.graphs)
    return name in made


def report_coverage(tables: Mapping[str, NeighborTable], rows: np.ndarray) -> None:
    """Say how many of the training cells have another one in each graph, and warn if few do in any."""
    reached = np.zeros(len(rows), dtype=bool)
    n = max(len(rows), 1)
    told = "{:.1f} % of the {:,} cells to train on have a neighbour to train on in the graph {}"
    for name, table in tables.items():
        has = table.counts[rows] > 0
        reached |= has
        _LOGGER.info(f"{told}.".format(100 * has.sum() / n, len(rows), repr(name)))
    # What has no partner of another batch has one of its own, in the graphs that are made together.
    if reached.sum() / n < _FEW:
        found = told.format(100 * reached.sum() / n, len(rows), either(tables))
        warn(
            f"Only {found}: the others are not changed by an augmentation that draws from it. Take more "
            "neighbours (`n_neighbors`), or add a step that changes every cell, such as 'mask', to the "
            "augmentation."
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
    # Batches that it was made with, where that is written down, come before those of the setup.
    keys = (*batch_keys(place.data.uns, name, views.graphs()), setup.batch_key)
    for key in keys:
        for one in (place, *places):
            if key is None or key not in one.data.obs:
                continue
            codes = np.full(table.n_cells, -1)  # of cells whose batch is not known
            codes[one.rows] = batch_codes(one.data.obs[key])
            who, where = f"The augmentation {views!r}", f"{place.name}.obsp[{name!r}]"
            check_edges(table, codes, wanted, who=who, where=where, batch_key=key, how=how)
            return


def say_of_batches(setup: DataSetup) -> None:
    """The default views have the batch in common, so that it is learnt."""
    key = setup.batch_key
    if key is None or len(setup.categories[key]) < 2:
        return
    _LOGGER.info(
        "Batches stay apart with the default views. To bring them together: "
        "`augmentation='integration'`."
    )
