"""Matrices, in memory or on disk, as rows: storage, reading, scanning, normalising."""

from __future__ import annotations

from ._blocks import (
    BlockNormalizer,
    FeatureBlock,
    Normalization,
    columns_of,
    inverse_document_frequency,
)
from ._input import (
    InputDecision,
    MatrixStats,
    check_scale,
    find_counts,
    refuse_features,
    resolve_input,
    sample_digest,
    scan_matrix,
)
from ._pca import fitted_pca, pca
from ._rows import (
    INPUT_KINDS,
    PANEL_GENES,
    InputKind,
    RowSource,
    canonical_csr,
    csr_from_parts,
    even_ranges,
    is_on_disk,
    normalize_rows,
    open_chunks,
    open_csr,
    open_rows,
    remap_columns,
    row_sums,
    rows_of,
    typical_sum,
    usual_target_sum,
)
from ._scale import Scale
from ._stacked import JoinedRows, SelectedRows, StackedRows
from ._statistics import GeneStatistics, gene_statistics
