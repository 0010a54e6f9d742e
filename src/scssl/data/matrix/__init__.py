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
from ._pca import pca
from ._rows import INPUT_KINDS, InputKind, csr_from_parts, normalize_rows, remap_columns
from ._scan import MatrixStats, scan_matrix
from ._source import RowSource, open_rows
from ._stacked import JoinedRows, SelectedRows, StackedRows
from ._statistics import GeneStatistics, gene_statistics
