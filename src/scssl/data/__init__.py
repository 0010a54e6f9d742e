"""From AnnData, in memory or on disk, to batches of sparse rows.

Everything here knows matrices, gene names and AnnData; nothing here knows a model. Importing the
namespace does not import torch: only :class:`CellLoader`, which yields tensors, does.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from scssl.data.genes import GeneAlignment, GeneVocabulary
from scssl.data.graphs import NeighborTable, PartnerWalks
from scssl.data.keys import partner_key
from scssl.data.matrix import (
    BlockNormalizer,
    FeatureBlock,
    InputDecision,
    JoinedRows,
    MatrixStats,
    RowSource,
    Scale,
    SelectedRows,
    StackedRows,
    check_scale,
    find_counts,
    normalize_rows,
    open_rows,
    refuse_features,
    resolve_input,
    scan_matrix,
)
from scssl.data.plans import (
    BalancedChunkPlan,
    BalancedPlan,
    BatchPlan,
    CellContext,
    ChunkPlan,
    ContextOptions,
    GraphContext,
    OneGroupChunkPlan,
    OneGroupPlan,
    RowSpans,
    RunContext,
    SequentialPlan,
    ShuffledPlan,
    hold_out,
    train_validation_split,
)

from ._datasets import Datasets
from ._datasets import check_datasets as check_datasets

if TYPE_CHECKING:
    from ._loader import CellLoader
    from .store import Store, build_store, read_embedding

__all__ = [
    "BalancedChunkPlan",
    "BalancedPlan",
    "BatchPlan",
    "BlockNormalizer",
    "CellContext",
    "CellLoader",
    "ChunkPlan",
    "ContextOptions",
    "Datasets",
    "FeatureBlock",
    "GeneAlignment",
    "GeneVocabulary",
    "GraphContext",
    "InputDecision",
    "JoinedRows",
    "MatrixStats",
    "NeighborTable",
    "OneGroupChunkPlan",
    "OneGroupPlan",
    "PartnerWalks",
    "RowSource",
    "RowSpans",
    "RunContext",
    "Scale",
    "SelectedRows",
    "SequentialPlan",
    "ShuffledPlan",
    "StackedRows",
    "Store",
    "build_store",
    "check_scale",
    "find_counts",
    "normalize_rows",
    "open_rows",
    "partner_key",
    "read_embedding",
    "refuse_features",
    "resolve_input",
    "scan_matrix",
    "train_validation_split",
]

_LAZY = {
    "CellLoader": "._loader",
    "Store": ".store",
    "build_store": ".store",
    "read_embedding": ".store",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
