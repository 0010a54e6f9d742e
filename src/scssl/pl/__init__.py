"""Figures, in the way of scanpy's ``pl``."""

from scssl.pl._augmentations import augmentations
from scssl.pl._calibration import calibration
from scssl.pl._confusion_matrix import confusion_matrix
from scssl.pl._embedding import embedding
from scssl.pl._history import history
from scssl.pl._metric_bars import metric_bars
from scssl.pl._paired_scatter import paired_scatter
from scssl.pl._per_class_f1 import per_class_f1

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
