"""Modules: a batch in, a loss or embeddings out. One per family of methods."""

from __future__ import annotations

from ._base import SSLModule
from ._cellplm import CellPLMModule
from ._classifier import CellTypeClassifierModule
from ._finetune import FineTunedModule
from ._joint_embedding import JointEmbeddingModule
from ._joint_methods import (
    BarlowTwinsModule,
    BYOLModule,
    DINOModule,
    MoCoModule,
    NNCLRModule,
    SimCLRModule,
    SimSiamModule,
    VICRegModule,
)
from ._masked_autoencoder import MaskedAutoencoderModule
from ._protein import ProteinPredictorModule
from ._pseudo_label import PseudoLabelModule

__all__ = [
    "BYOLModule",
    "BarlowTwinsModule",
    "CellPLMModule",
    "CellTypeClassifierModule",
    "DINOModule",
    "FineTunedModule",
    "JointEmbeddingModule",
    "MaskedAutoencoderModule",
    "MoCoModule",
    "NNCLRModule",
    "ProteinPredictorModule",
    "PseudoLabelModule",
    "SSLModule",
    "SimCLRModule",
    "SimSiamModule",
    "VICRegModule",
]
