"""Objectives: pure functions, tensors in, scalar out. One file per kind of loss.

All refuse with a `ValueError` what they cannot work with: shapes that do not fit, fewer cells than are
compared, a temperature that is not positive, partitions of one cluster, labels that are NaN.
"""

from __future__ import annotations

from . import (
    _contrastive,
    _decorrelation,
    _distillation,
    _masked,
    _partition_cross_entropy,
)
from ._contrastive import *  # noqa: F403
from ._contrastive import SUPCON_TEMPERATURE
from ._decorrelation import *  # noqa: F403
from ._distillation import *  # noqa: F403
from ._masked import *  # noqa: F403
from ._partition_cross_entropy import *  # noqa: F403

# The losses, as they are listed where they are defined.
__all__ = [
    *_contrastive.__all__,
    *_decorrelation.__all__,
    *_distillation.__all__,
    *_masked.__all__,
    *_partition_cross_entropy.__all__,
]
