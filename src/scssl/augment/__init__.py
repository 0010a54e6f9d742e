"""Masks and views of a batch of cells: batched, seeded, on the device of the batch."""

from __future__ import annotations

from ._by_name import mask_needs, masking, masking_from_config
from ._mask import Hidden, Masking, RandomMask
from ._program_masks import GeneProgramMask, GPToGPMask, GPToTFMask
from ._programs import GenePrograms

__all__ = [
    "GPToGPMask",
    "GPToTFMask",
    "GeneProgramMask",
    "GenePrograms",
    "Hidden",
    "Masking",
    "RandomMask",
    "mask_needs",
    "masking",
    "masking_from_config",
]
