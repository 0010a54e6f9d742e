"""Figures, in the way of scanpy's ``pl``."""

from ._augmentations import augmentations
from ._calibration import calibration
from ._confusion_matrix import confusion_matrix
from ._embedding import embedding
from ._history import history
from ._metric_bars import metric_bars
from ._paired_scatter import paired_scatter
from ._per_class_f1 import per_class_f1

__all__ = [
    "augmentations",
    "calibration",
    "confusion_matrix",
    "embedding",
    "history",
    "metric_bars",
    "paired_scatter",
    "per_class_f1",
]
