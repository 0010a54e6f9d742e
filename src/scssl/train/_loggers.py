"""Where the course of a run is followed from outside: a table, TensorBoard, Weights & Biases, MLflow."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import lightning.pytorch as lightning
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import (
    CSVLogger,
    Logger,
    MLFlowLogger,
    TensorBoardLogger,
    WandbLogger,
)

from scssl._checks import some

from ._callbacks import Monitor, _interrupted

# Packages and extras have the names of the loggers.
_NAMES = ("csv", "tensorboard", "wandb", "mlflow")
_FOLDER = "scssl_logs"


def check_logger(logger: Any) -> Any:
    """What was given as `logger`, or an error unless it is one, by name where its package is installed."""
    if logger is None or isinstance(logger, Logger):
        return logger
    if not isinstance(logger, str) or logger not in _NAMES:
        raise ValueError(
            f"`logger` must be {some(_NAMES)}, a lightning.pytorch.loggers.Logger or None, found "
            f'{logger!r}. For a table of values: `logger="csv"`.'
        )
    if logger != "csv" and find_spec(logger) is None:
        raise ImportError(f'logger="{logger}" needs {logger}: `pip install "scssl[{logger}]"`')
    return logger


def make_logger(logger: str | Logger, folder: Path | None) -> Logger:
    """A logger by name, whose files are in the folder, by default the working directory."""
    if isinstance(logger, Logger):
        return logger
    place = Path() if folder is None else folder
    if logger == "csv":
        return CSVLogger(place, name=_FOLDER)
    if logger == "tensorboard":
        return TensorBoardLogger(place, name=_FOLDER, default_hp_metric=False)
    if logger == "wandb":
        return WandbLogger(project="scssl", save_dir=place)
    server = os.environ.get("MLFLOW_TRACKING_URI")
    if server is None:
        # Plain files are refused by newer versions.
        place.mkdir(parents=True, exist_ok=True)
        server = f"sqlite:///{place.resolve() / 'mlflow.db'}"
    return MLFlowLogger("scssl", tracking_uri=server)


class Reports(Callback):
    """Tell the loggers of a run its hyper-parameters, its history and, now and then, the loss of a step."""

    def __init__(self, monitor: Monitor, hyperparameters: Mapping[str, Any]) -> None:
        self._monitor, self._hyperparameters = monitor, dict(hyperparameters)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        for logger in trainer.loggers:
            logger.log_hyperparams(self._hyperparameters)

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        # Of every step it would have to be waited for.
        if trainer.global_step % trainer.log_every_n_steps == 0:
            # That of the batch is the mean over processes.
            loss = trainer.strategy.reduce(outputs["loss"].detach(), reduce_op="mean")
            self._tell(trainer, {"train_loss_step": float(loss)})

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        if not _interrupted(trainer):
            self._tell(trainer, self._monitor.last)

    def _tell(self, trainer: lightning.Trainer, values: Mapping[str, float]) -> None:
        for logger in trainer.loggers:
            logger.log_metrics({**values, "epoch": trainer.current_epoch}, step=trainer.global_step)
