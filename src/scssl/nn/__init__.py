"""Layers: tensors in, tensors out. Nothing here knows of AnnData."""

from __future__ import annotations

from ._batch_norm_encoder import BatchNormEncoder
from ._cell_decoder import CellDecoder
from ._cell_transformer import ATTENTIONS, N_GROUPS, Attention, CellTransformer
from ._ema import momentum_schedule, update_ema
from ._flow_attention import FlowAttention, SoftmaxAttention
from ._gene_layers import GeneDecoder, GeneEncoder, take_rows
from ._gene_sampler import GeneSampler
from ._latent import LATENTS, LatentKind, Posterior, Variational
from ._memory_bank import MemoryBank
from ._mlp import MLP, SELU, Activation, Dropout, Head, activation, effective_rank
from ._multi_encoder import Fusion, ModalityRows, MultiEncoder, MultiView
from ._position import SinusoidalPosition2d
from ._projection import ProjectionHead
from ._sparse_rows import SparseRows

__all__ = [
    "MLP",
    "SELU",
    "BatchNormEncoder",
    "Dropout",
    "FlowAttention",
    "Fusion",
    "GeneDecoder",
    "GeneEncoder",
    "GeneSampler",
    "Head",
    "MemoryBank",
    "ModalityRows",
    "MultiEncoder",
    "MultiView",
    "ProjectionHead",
    "SinusoidalPosition2d",
    "SoftmaxAttention",
    "SparseRows",
    "activation",
    "momentum_schedule",
    "take_rows",
    "update_ema",
]
