"""Readers of checkpoints that other programs published, never unpickled by Python."""

from __future__ import annotations

from ._autoencoder import masked_autoencoder_from
from ._cellplm import cellplm_from, locate_cellplm
from ._classifier import classifier_from
