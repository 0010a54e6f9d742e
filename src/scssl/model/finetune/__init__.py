"""Models that start from a trained one and learn from labels or proteins."""

from __future__ import annotations

from ._classifier import CellTypeClassifier
from ._protein import ProteinPredictor
