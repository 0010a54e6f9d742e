"""Modules: a batch in, a loss or embeddings out. One per family of methods."""

from __future__ import annotations

from ._base import SSLModule
from ._masked_autoencoder import MaskedAutoencoderModule

__all__ = ["MaskedAutoencoderModule", "SSLModule"]
