"""From AnnData, in memory or on disk, to batches of sparse rows.

Everything here knows matrices, gene names and AnnData; nothing here knows a model. Importing the
namespace does not import torch: only :class:`CellLoader`, which yields tensors, does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scssl.data._alignment import GeneAlignment
from scssl.data._blocks import BlockNormalizer, FeatureBlock
from scssl.data._context import CellContext
from scssl.data._context_options import BatchPlan, ContextOptions
from scssl.data._datasets import Datasets
from scssl.data._input import InputDecision, find_counts, resolve_input
from scssl.data._joined import JoinedRows
from scssl.data._normalize import normalize_rows
from scssl.data._partners import NeighborTable, PartnerWalks, partner_key
from scssl.data._scan import MatrixStats, scan_matrix
from scssl.data._source import RowSource, open_rows
from scssl.data._split import train_validation_split
from scssl.data._stacked import SelectedRows, StackedRows
from scssl.data._vocabulary import GeneVocabulary

if TYPE_CHECKING:
    from scssl.data._loader import CellLoader

__all__ = [
    "BlockNormalizer",
    "CellLoader",
    "Datasets",
    "FeatureBlock",
    "GeneAlignment",
    "GeneVocabulary",
    "InputDecision",
    "JoinedRows",
    "MatrixStats",
    "NeighborTable",
    "PartnerWalks",
    "RowSource",
    "SelectedRows",
    "StackedRows",
    "find_counts",
    "normalize_rows",
    "open_rows",
    "partner_key",
    "resolve_input",
    "scan_matrix",
    "train_validation_split",
]


def __getattr__(name: str) -> Any:
    if name == "CellLoader":
        from scssl.data._loader import CellLoader

        return CellLoader
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)


def __dir__() -> list[str]:
    return sorted(__all__)
