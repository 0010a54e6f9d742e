"""Graphs of cells: which other cells a batch has beside its own."""

from __future__ import annotations

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
