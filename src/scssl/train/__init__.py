"""Training: plan, optimiser, callbacks, checkpoints, progress."""

from __future__ import annotations

from ._checkpoint_io import SafeCheckpointIO
from ._fit import CHECKPOINT_NAME, FitOptions, FitResult, fit
from ._optim import RowAdamW
from ._plan import SSLTrainingPlan

__all__ = [
    "CHECKPOINT_NAME",
    "FitOptions",
    "FitResult",
    "RowAdamW",
    "SSLTrainingPlan",
    "SafeCheckpointIO",
    "fit",
]
