"""Graphs of cells: which other cells a batch has beside its own."""

from __future__ import annotations

from ._cross_batch import (
    GRAPH_KEYS,
    BatchGraphs,
    BatchSearch,
    Method,
    Metric,
    batch_graphs,
    batch_pairs,
    batches_of,
    mutual,
)
from ._partners import (
    NeighborTable,
    PartnerWalks,
    batch_codes,
    batch_keys,
    check_edges,
    check_graph_cells,
    describe_cells,
)
from ._spatial import SpatialLinks, checked_radius, sections_of, spatial_graph
