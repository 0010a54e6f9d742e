"""Models: AnnData in, embeddings out."""

from __future__ import annotations

from ._base import SSLModel
from ._classifier import CellTypeClassifier
from ._masked_autoencoder import MaskedAutoencoder
from ._protein import ProteinPredictor
from ._registry import get_model_class, list_models

__all__ = [
    "CellTypeClassifier",
    "MaskedAutoencoder",
    "ProteinPredictor",
    "SSLModel",
    "get_model_class",
    "list_models",
]
