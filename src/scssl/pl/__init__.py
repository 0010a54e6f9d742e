"""Figures, in the way of scanpy's ``pl``."""

from scssl.pl._augmentations import augmentations
from scssl.pl._calibration import calibration
from scssl.pl._confusion_matrix import confusion_matrix
from scssl.pl._embedding import embedding
from scssl.pl._history import history

__all__ = ["augmentations", "calibration", "confusion_matrix", "embedding", "history"]
