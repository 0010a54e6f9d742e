"""Models: AnnData in, embeddings out."""

from __future__ import annotations

from scssl.model.base import SSLModel, get_model_class, list_models
from scssl.model.cellplm import CellPLM
from scssl.model.finetune import CellTypeClassifier, ProteinPredictor
from scssl.model.joint_embedding import (
    BYOL,
    DINO,
    NNCLR,
    BarlowTwins,
    JointEmbedding,
    MoCo,
    SimCLR,
    SimSiam,
    VICReg,
)
from scssl.model.masked_autoencoder import MaskedAutoencoder
from scssl.model.pseudo_label import PseudoLabel

__all__ = [
    "BYOL",
    "DINO",
    "NNCLR",
    "BarlowTwins",
    "CellPLM",
    "CellTypeClassifier",
    "JointEmbedding",
    "MaskedAutoencoder",
    "MoCo",
    "ProteinPredictor",
    "PseudoLabel",
    "SSLModel",
    "SimCLR",
    "SimSiam",
    "VICReg",
    "get_model_class",
    "list_models",
]
