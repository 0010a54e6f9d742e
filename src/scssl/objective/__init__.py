"""Objectives: pure functions, tensors in, scalar out. One file per loss.

All refuse with a `ValueError` what they cannot work with: shapes that do not fit, fewer cells than are
compared, a temperature that is not positive, partitions of one cluster, labels that are NaN.
"""

from __future__ import annotations

from ._barlow_twins import barlow_twins
from ._clip import clip_loss
from ._dcl import dcl
from ._dino import dino
from ._info_nce import info_nce
from ._masked_bce import sparse_masked_bce
from ._masked_mse import masked_mse, sparse_masked_mse
from ._masked_nb import nb_nll, sparse_masked_nb
from ._negative_cosine import negative_cosine
from ._nt_xent import nt_xent
from ._partition_cross_entropy import partition_cross_entropy
from ._supcon import SUPCON_TEMPERATURE, supcon
from ._vicreg import vicreg

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
