"""Objectives: pure functions, tensors in, scalar out. One file per loss."""

from __future__ import annotations

from ._masked_bce import sparse_masked_bce
from ._masked_mse import masked_mse, sparse_masked_mse
from ._masked_nb import nb_nll, sparse_masked_nb
from ._supcon import supcon

__all__ = [
    "masked_mse",
    "nb_nll",
    "sparse_masked_bce",
    "sparse_masked_mse",
    "sparse_masked_nb",
    "supcon",
]
