"""Layers: tensors in, tensors out. Nothing here knows of AnnData."""

from __future__ import annotations

from ._activation import SELU, activation
from ._dropout import Dropout
from ._gene_layers import GeneDecoder, GeneEncoder, take_rows
from ._gene_sampler import GeneSampler
from ._head import Head
from ._mlp import MLP
from ._sparse_rows import SparseRows

__all__ = [
    "MLP",
    "SELU",
    "Dropout",
    "GeneDecoder",
    "GeneEncoder",
    "GeneSampler",
    "Head",
    "SparseRows",
    "activation",
    "take_rows",
]
