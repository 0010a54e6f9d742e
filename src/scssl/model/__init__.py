"""Models: AnnData in, embeddings out."""

from __future__ import annotations

from ._base import SSLModel
from ._cellplm import CellPLM
from ._classifier import CellTypeClassifier
from ._contrastive_methods import NNCLR, MoCo, SimCLR
from ._joint_embedding import JointEmbedding
from ._joint_methods import BYOL, DINO, BarlowTwins, SimSiam, VICReg
from ._masked_autoencoder import MaskedAutoencoder
from ._protein import ProteinPredictor
from ._pseudo_label import PseudoLabel
from ._registry import get_model_class, list_models

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
