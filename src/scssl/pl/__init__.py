"""Figures, in the way of scanpy's ``pl``."""

from scssl.pl._embedding import embedding
from scssl.pl._history import history

__all__ = ["embedding", "history"]
