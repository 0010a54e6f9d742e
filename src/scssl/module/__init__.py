"""Modules: a batch in, a loss or embeddings out. One per family of methods."""

from __future__ import annotations

from ._base import SSLModule
from ._classifier import CellTypeClassifierModule
from ._finetune import FineTunedModule
from ._masked_autoencoder import MaskedAutoencoderModule
from ._protein import ProteinPredictorModule

__all__ = [
    "CellTypeClassifierModule",
    "FineTunedModule",
    "MaskedAutoencoderModule",
    "ProteinPredictorModule",
    "SSLModule",
]
