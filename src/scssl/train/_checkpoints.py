"""When the state of a run is written: after each epoch, in between as often as asked, and when a signal comes."""

from __future__ import annotations

import logging
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning.pytorch as lightning
from lightning.pytorch.callbacks import Checkpoint

from ._callbacks import Interrupt, _interrupted, is_whole
from ._options import FitOptions

CHECKPOINT_NAME = "last.ckpt"
_LOGGER = logging.getLogger("scssl")


class Checkpoints(Checkpoint):
    """Write the state of a run to one place, of which the last replaces that before.

    It is the state after a full epoch, or after a step of one that is not at its end, before anything is
    validated. A run that `max_steps` ends within an epoch has the state before its last step: from there it ends
    as it did, and a longer one goes on.
    """

    def __init__(self, folder: Path, interrupt: Interrupt, options: FitOptions) -> None:
        self.folder, self.path = options.run_dir or folder, Path(folder) / CHECKPOINT_NAME
        self._interrupt, self._every, self._last = (
            interrupt,
            options.checkpoint_every,
            options.max_steps,
        )
        self._written = 0.0

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self._written = time.monotonic()

    def on_train_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        if isinstance(self._every, timedelta) and not self._interrupt.asked:
            passed = time.monotonic() - self._written
            self._interrupt.asked = int(passed >= self._every.total_seconds())

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        # Of the last step of an epoch, when that is over.
        if not is_whole(trainer) and self._is_time(trainer):
            self._write(trainer, f"{batch_idx + 1:,} steps of epoch {trainer.current_epoch}")

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        if is_whole(trainer):
            self._write(trainer, f"epoch {trainer.current_epoch}")

    def _is_time(self, trainer: lightning.Trainer) -> bool:
        step, every = trainer.global_step, self._every
        due = isinstance(every, int) and step % every == 0
        is_last = self._last is not None and step == self._last - 1
        return due or is_last or bool(self._interrupt.asked) or _interrupted(trainer)

    def _write(self, trainer: lightning.Trainer, after: str) -> None:
        trainer.save_checkpoint(self.path)
        asked, self._interrupt.asked = self._interrupt.asked, 0
        self._written = time.monotonic()
        if asked > 1 and trainer.is_global_zero:
            _LOGGER.info(
                f"Written as a signal asked for it: the state after {after}, in {self.path}. To go on from there: "
                f"`resume_from={str(self.folder)!r}`"
            )
