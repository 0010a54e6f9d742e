"""Matrices, in memory or on disk, as rows: storage, reading, scanning, normalising."""

from __future__ import annotations

from ._blocks import (
    BlockNormalizer,
    FeatureBlock,
    Normalization,
    columns_of,
    inverse_document_frequency,
)
from ._input import InputDecision, find_counts, resolve_input
from ._joined import JoinedRows
from ._normalize import INPUT_KINDS, InputKind, normalize_rows
from ._pca import pca
from ._rows import csr_from_parts, remap_columns
from ._scan import MatrixStats, scan_matrix
from ._source import RowSource, open_rows
from ._stacked import SelectedRows, StackedRows
from ._statistics import GeneStatistics, gene_statistics
