"""The contract that every network fulfils: a batch in, a loss or embeddings out."""

from __future__ import annotations

from ._base import (
    BLOCK,
    SSLModule,
    asked_for,
    blockwise,
    embedded,
    first_layer,
    undecayed_vectors,
)

__all__ = ["SSLModule"]
