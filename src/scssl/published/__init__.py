"""Readers of checkpoints that other programs published, never unpickled by Python."""

from __future__ import annotations

from ._cellplm import cellplm_from, locate_cellplm
from ._ssl_in_scg import classifier_from, masked_autoencoder_from
