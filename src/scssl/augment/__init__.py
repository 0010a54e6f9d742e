"""Masks and views of a batch of cells: batched, seeded, on the device of the batch."""

from __future__ import annotations

from ._mask import Hidden, Masking, RandomMask, masking, masking_from_config

__all__ = ["Hidden", "Masking", "RandomMask", "masking", "masking_from_config"]
