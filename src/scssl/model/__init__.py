"""Models: AnnData in, embeddings out."""

from __future__ import annotations

from scssl.model import joint_embedding
from scssl.model.base import SSLModel, get_model_class, list_models, register_model
from scssl.model.cellplm import CellPLM
from scssl.model.finetune import CellTypeClassifier, ProteinPredictor
from scssl.model.joint_embedding import *  # noqa: F403
from scssl.model.masked_autoencoder import MaskedAutoencoder
from scssl.model.pseudo_label import PseudoLabel
from scssl.model.spatial import STAGATE, GraphST

__all__ = [
    "STAGATE",
    "CellPLM",
    "CellTypeClassifier",
    "GraphST",
    "MaskedAutoencoder",
    "ProteinPredictor",
    "PseudoLabel",
    "SSLModel",
    "get_model_class",
    "list_models",
    "register_model",
    *joint_embedding.__all__,
]
