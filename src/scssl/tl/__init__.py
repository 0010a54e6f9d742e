"""Embed cells and measure embeddings, in the way of scanpy's ``tl``."""

from scssl.tl._embed import embed
from scssl.tl._knn_score import knn_score

__all__ = ["embed", "knn_score"]
