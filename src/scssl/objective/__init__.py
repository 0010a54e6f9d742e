"""Objectives: pure functions, tensors in, scalar out. One file per kind of loss.

All refuse with a `ValueError` what they cannot work with: shapes that do not fit, fewer cells than are
compared, a temperature that is not positive, partitions of one cluster, labels that are NaN.
"""

from __future__ import annotations

from ._contrastive import SUPCON_TEMPERATURE, clip_loss, dcl, info_nce, nt_xent, supcon
from ._decorrelation import barlow_twins, vicreg
from ._distillation import dino, negative_cosine
from ._masked import masked_mse, nb_nll, sparse_masked_bce, sparse_masked_mse, sparse_masked_nb
from ._partition_cross_entropy import partition_cross_entropy

__all__ = [
    "barlow_twins",
    "clip_loss",
    "dcl",
    "dino",
    "info_nce",
    "masked_mse",
    "nb_nll",
    "negative_cosine",
    "nt_xent",
    "partition_cross_entropy",
    "sparse_masked_bce",
    "sparse_masked_mse",
    "sparse_masked_nb",
    "supcon",
    "vicreg",
]
