"""Models that learn by comparing two views of a cell."""

from __future__ import annotations

from scssl.model.base import Share, Widths

from . import _methods
from ._methods import *  # noqa: F403
from ._model import JointEmbedding
from ._network import JointEmbeddingModule, MomentumModule

# The methods, as they are listed where they are defined.
__all__ = ["JointEmbedding", *_methods.__all__]
