"""Training: plan, optimiser, callbacks, checkpoints, progress."""

from __future__ import annotations

from ._callbacks import pass_on
from ._checkpoint_io import SafeCheckpointIO
from ._devices import first_process_has, is_first_process, n_processes
from ._fit import CHECKPOINT_NAME, FitResult, fit
from ._history import append_history, history_frames, history_lists
from ._optim import RowAdamW
from ._options import (
    FitOptions,
    TrainOptions,
    check_arguments,
    check_distributed,
    resolve_output_genes,
)
from ._plan import SSLTrainingPlan, check_same_run

__all__ = [
    "CHECKPOINT_NAME",
    "FitOptions",
    "FitResult",
    "RowAdamW",
    "SSLTrainingPlan",
    "SafeCheckpointIO",
    "TrainOptions",
    "fit",
]
