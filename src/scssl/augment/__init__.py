"""Masks and views of a batch of cells: batched, seeded, on the device of the batch."""

from __future__ import annotations

from ._by_name import (
    augmentation,
    augmentation_from_config,
    is_own_mask,
    mask_needs,
    masking,
    masking_from_config,
    remade,
)
from ._mask import (
    CellMask,
    GeneProgramMask,
    GPToGPMask,
    GPToTFMask,
    Hidden,
    Masking,
    PanelMask,
    RandomMask,
)
from ._programs import GenePrograms
from ._view import Augmentation, Batch, Compose, RandomApply, ViewContext, Walk, two_views
from ._view_mixes import CrossOver, GeneSwap, MutualNeighborMix, NeighborMix
from ._view_rows import choose_cells, take
from ._view_values import (
    BinomialThinning,
    Dropout,
    GaussianNoise,
    Mask,
    NegativeBinomialNoise,
    PoissonResample,
)

__all__ = [
    "Augmentation",
    "Batch",
    "BinomialThinning",
    "CellMask",
    "Compose",
    "CrossOver",
    "Dropout",
    "GPToGPMask",
    "GPToTFMask",
    "GaussianNoise",
    "GeneProgramMask",
    "GenePrograms",
    "GeneSwap",
    "Hidden",
    "Mask",
    "Masking",
    "MutualNeighborMix",
    "NegativeBinomialNoise",
    "NeighborMix",
    "PanelMask",
    "PoissonResample",
    "RandomApply",
    "RandomMask",
    "ViewContext",
    "augmentation",
    "augmentation_from_config",
    "mask_needs",
    "masking",
    "masking_from_config",
    "two_views",
]
