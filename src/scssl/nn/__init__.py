"""Layers: tensors in, tensors out. Nothing here knows of AnnData."""

from __future__ import annotations

from ._cell_transformer import (
    ATTENTIONS,
    LATENTS,
    N_GROUPS,
    Attention,
    CellDecoder,
    CellTransformer,
    LatentKind,
    Posterior,
    SinusoidalPosition2d,
    Variational,
)
from ._encoder import BatchNormEncoder, ProjectionHead
from ._flow_attention import FlowAttention, SoftmaxAttention
from ._gene_layers import (
    GeneDecoder,
    GeneEncoder,
    GeneSampler,
    LinearPath,
    SparseRows,
    take_rows,
    to_device,
)
from ._graph_layers import Links
from ._mlp import MLP, SELU, Activation, Dropout, Head, activation, effective_rank
from ._momentum import MemoryBank, momentum_schedule, update_ema
from ._multi_encoder import Fusion, ModalityRows, MultiEncoder, MultiView
from ._processes import (
    drawn,
    drawn_from_values,
    drawn_in_rows,
    first_entries,
    gather,
    gather_sparse,
    is_shared,
    mean_of_all,
    n_of_all,
    of_first,
    only,
    places,
    sharing,
    weighed,
)

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
    "Links",
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
