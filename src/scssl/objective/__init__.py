"""Objectives: pure functions, tensors in, scalar out. One file per loss."""

from __future__ import annotations

from ._masked_mse import masked_mse, sparse_masked_mse

__all__ = ["masked_mse", "sparse_masked_mse"]
