"""Figures, in the way of scanpy's ``pl``."""

from ._augmentations import augmentations
from ._benchmark import ablation, benchmark, few_label_curve
from ._domains import domain_composition, n_domains
from ._embedding import embedding
from ._history import history
from ._impute import impute_curve
from ._label_transfer import label_transfer
from ._metric_bars import metric_bars
from ._mixing import batch_mixing
from ._modality import modality_scores
from ._paired_scatter import paired_scatter
from ._predictions import calibration, confusion_matrix, per_class_f1
from ._spatial import spatial

__all__ = [
    "ablation",
    "augmentations",
    "batch_mixing",
    "benchmark",
    "calibration",
    "confusion_matrix",
    "domain_composition",
    "embedding",
    "few_label_curve",
    "history",
    "impute_curve",
    "label_transfer",
    "metric_bars",
    "modality_scores",
    "n_domains",
    "paired_scatter",
    "per_class_f1",
    "spatial",
]
