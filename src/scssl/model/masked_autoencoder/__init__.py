"""Masked autoencoders."""

from __future__ import annotations

from ._model import MaskedAutoencoder
