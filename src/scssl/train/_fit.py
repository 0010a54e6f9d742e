"""Run a training plan on a loader of cells."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as lightning
import torch
from lightning.fabric.plugins.environments import LightningEnvironment
from lightning.pytorch.callbacks import Callback, EarlyStopping

from scssl._errors import BundleError
from scssl._io import recover
from scssl.data import BatchPlan, CellLoader
from scssl.data.matrix import gene_statistics
from scssl.module import SSLModule
from scssl.nn import to_device

from ._callbacks import (
    BestWeights,
    EpochOrder,
    Interrupt,
    Monitor,
    Progress,
    StepLimit,
    pass_on,
)
from ._checkpoint_io import SafeCheckpointIO
from ._checkpoints import CHECKPOINT_NAME, Checkpoints
from ._devices import (
    check_precision,
    choose_accelerator,
    launched,
    layout,
    matrix_products,
    n_processes,
    strategy_for,
)
from ._loggers import Reports, make_logger
from ._options import FitOptions
from ._peers import Peers
from ._plan import SSLTrainingPlan

_LOGGER = logging.getLogger("scssl")


@dataclass(frozen=True)
class FitResult:
    """What a run left behind beside the trained weights.

    Parameters
    ----------
    history
        Values per epoch, by name.
    best_epoch
        Epoch whose weights the module has; the last one where there is no validation set.
    stopped_by
        ``"max_epochs"``, ``"max_steps"``, ``"early_stopping"`` or ``"interrupt"``.
    best_loss
        Its validation loss, or training loss where there is no validation set.
    n_epochs_before
        Epochs that the model had been trained for when this run was first started.
    n_steps
        Steps of all epochs.
    n_steps_within
        Those of an epoch within which the run was interrupted.
    signal
        What is left to do when the result is kept: a signal for :func:`pass_on`, or 0.
    """

    history: dict[str, list[float]]
    best_epoch: int
    best_loss: float
    stopped_by: str
    n_epochs_before: int
    n_steps: int
    n_steps_within: int
    signal: int = 0


class _EarlyStopping(EarlyStopping):
    """Early stopping whose patience is that of this run, also when it is resumed."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict({**state_dict, "patience": self.patience, "stopped_epoch": 0})

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        if self.wait_count >= self.patience:
            # The run to resume had stopped already.
            self.stopped_epoch = trainer.current_epoch
            trainer.should_stop = True


class _Loaders(lightning.LightningDataModule):
    def __init__(
        self, training: CellLoader, validation: CellLoader | None, max_steps: int | None
    ) -> None:
        super().__init__()
        self.training, self.validation, self.max_steps = training, validation, max_steps

    def setup(self, stage: str | None = None) -> None:
        """Divide the cells, before anything is counted in steps."""
        assert self.trainer is not None
        assert self.trainer.max_epochs is not None
        for loader in (self.training, self.validation):
            if loader is not None:
                rank, world_size = self.trainer.global_rank, self.trainer.world_size
                loader.plan = loader.plan.for_process(rank, world_size)
        plan = self.trainer.lightning_module
        assert isinstance(plan, SSLTrainingPlan)
        self.training.plan.drop_last = has_lone_cell(plan.module, self.training.plan)
        plan.n_steps = self.trainer.max_epochs * len(self.training)
        if self.max_steps is not None and self.max_steps < plan.n_steps:
            plan.n_steps = self.max_steps
            self.trainer.fit_loop.max_epochs = -(-self.max_steps // len(self.training))

    def transfer_batch_to_device(
        self, batch: dict[str, torch.Tensor], device: torch.device, dataloader_idx: int
    ) -> dict[str, Any]:
        """Copy a batch to where a step is computed."""
        return {name: to_device(value, device) for name, value in batch.items()}

    @staticmethod
    def _not_empty(loader: CellLoader) -> CellLoader:
        if len(loader) == 0:
            raise ValueError(
                f"{loader.n_cells} cells are less than a batch of {loader.plan.batch_size}. Pass a smaller "
                "batch_size."
            )
        return loader

    def train_dataloader(self) -> CellLoader:
        return self._not_empty(self.training)

    def val_dataloader(self) -> Any:
        return () if self.validation is None else self._not_empty(self.validation)


def fit(
    module: SSLModule,
    training: CellLoader,
    validation: CellLoader | None,
    options: FitOptions,
) -> FitResult:
    """Train a module; it ends with the best weights, in evaluation mode, on its device.

    Parameters
    ----------
    module
        Trained in place.
    training, validation
        Batches of cells; without validation there is no early stopping and the last weights stay.
        They also stay where the module says that its loss does not rank epochs.
    options
        How.
    """
    n = n_processes(options.devices, options.num_nodes)
    # Refused where it cannot be divided, before there are other processes.
    training.plan.for_process(0, n)
    if validation is not None and validation.n_cells < 2 and module.compares_cells:
        # The loss of one cell says nothing, and would make any epoch the best one.
        _LOGGER.warning(
            "There is no validation: the loss compares cells, and one is held out. To hold out more, pass "
            "a smaller train_size."
        )
        validation = None
    if options.checkpoint_dir is not None and options.resume_from is None:
        _refuse_other_checkpoint(options.checkpoint_dir)
    started = time.perf_counter()
    folder = options.checkpoint_dir
    order, interrupt = EpochOrder(), Interrupt(writes=folder is not None)
    monitor, best = Monitor(options.n_epochs_before), BestWeights()
    peers = Peers(options.run_dir or folder)
    limit = None if options.max_steps is None else StepLimit(options.max_steps)
    callbacks: list[Callback] = [peers, order, *([] if limit is None else [limit]), monitor]
    # After those of the user, in which a signal may come.
    callbacks += [*options.callbacks, interrupt]
    if options.logger is not None:
        callbacks.append(Reports(monitor, options.hyperparameters))
    if options.progress:
        callbacks.append(Progress(monitor))
    stopper = None
    if validation is not None:
        if module.loss_ranks_epochs:
            callbacks.append(best)
        if options.early_stopping:
            stopper = _EarlyStopping("validation_loss", patience=options.patience)
            callbacks.append(stopper)
    if folder is not None:
        callbacks.append(Checkpoints(folder, interrupt, options))

    precision: Any = options.precision or "32-true"
    accelerator = choose_accelerator(options.accelerator)
    check_precision(precision, accelerator)
    if module.wants_statistics:
        module.begin_training(
            gene_statistics(training), fresh=options.fresh, n_output_genes=options.n_output_genes
        )
    plan = SSLTrainingPlan(module, options)
    compiled = module.compilable() if options.compile else ()
    for part in compiled:
        part.compile()
    # Embedding leaves it in evaluation mode, in which Lightning would train it.
    module.train()
    with (
        _quiet(),
        matrix_products(options.precision, accelerator),
        torch.random.fork_rng(
            devices=[torch.cuda.current_device()] if accelerator == "gpu" else []
        ),
    ):
        devices, num_nodes = layout(options.devices, options.num_nodes)
        environment = launched() or LightningEnvironment()
        trainer = lightning.Trainer(
            max_epochs=options.max_epochs,
            accelerator=accelerator,
            devices=devices,
            num_nodes=num_nodes,
            strategy=strategy_for(options.strategy, n, environment),
            precision=precision,
            callbacks=callbacks,
            plugins=[SafeCheckpointIO(), environment] if n < 2 else [SafeCheckpointIO()],
            gradient_clip_val=options.gradient_clip,
            logger=options.logger is not None and make_logger(options.logger, folder),
            # Otherwise Lightning adds a checkpoint of its own, in the working directory.
            enable_checkpointing=folder is not None,
            enable_model_summary=False,
            enable_progress_bar=False,
            num_sanity_val_steps=0,
            limit_val_batches=0 if validation is None else 1.0,
            use_distributed_sampler=False,
            # Convolutions only; leave the process-wide switch alone.
            benchmark=None,
        )
        try:
            with interrupt.listening(), peers.named():
                trainer.fit(
                    plan,
                    datamodule=_Loaders(training, validation, options.max_steps),
                    ckpt_path=options.resume_from and _checkpoint_path(options.resume_from),
                )
        except SystemExit as error:
            if not interrupt.received:
                # What Lightning makes of a KeyboardInterrupt that a callback raises.
                was = error.__context__
                raise (was if isinstance(was, KeyboardInterrupt) else error) from None
    if interrupt.received and not trainer.global_step:
        pass_on(interrupt.received)
        raise KeyboardInterrupt
    # Lightning has moved the module to the CPU.
    device = trainer.strategy.root_device
    if best.weights:
        module.load_state_dict(best.weights)
    module.to(device).eval()
    for part in compiled:
        # Embeddings come from the same kernels as those of the model once loaded.
        part._compiled_call_impl = None
    for parameter in module.parameters():
        parameter.grad = None
    n_epochs = len(monitor.history.get("train_loss", []))
    if interrupt.received:
        stopped_by = "interrupt"
    elif stopper is not None and stopper.stopped_epoch:
        stopped_by = "early_stopping"
    elif limit is not None and limit.is_reached(trainer):
        stopped_by = "max_steps"
    else:
        stopped_by = "max_epochs"
    train_loss = monitor.history.get("train_loss", [float("nan")])
    result = FitResult(
        monitor.history,
        best_epoch=best.epoch if best.weights else n_epochs - 1,
        best_loss=best.loss if best.weights else train_loss[-1],
        stopped_by=stopped_by,
        n_epochs_before=monitor.n_epochs_before,
        n_steps=trainer.global_step,
        n_steps_within=order.n_done if interrupt.received else 0,
        signal=interrupt.left_to_do,
    )
    if options.progress and trainer.is_global_zero:
        _LOGGER.info(_summary(result, options, time.perf_counter() - started, bool(best.weights)))
    return result


def _summary(result: FitResult, options: FitOptions, seconds: float, best: bool) -> str:
    """How a run ended, in one line; epochs are counted as in the history."""
    n_epochs = len(result.history.get("train_loss", []))
    why = {
        "max_epochs": "all that were asked for",
        "max_steps": f"after the {result.n_steps:,} steps that were asked for",
        "early_stopping": f"stopped as the validation loss was not lower for {options.patience} epochs running",
        "interrupt": "stopped by you",
    }[result.stopped_by]
    kept = "best" if best else "last"
    loss = f"{'validation' if best else 'training'} loss {result.best_loss:.4g}"
    return (
        f"Trained {n_epochs} epochs in {seconds:.1f} s, {why}. The weights are those of the {kept} epoch, "
        f"{result.best_epoch + result.n_epochs_before} ({loss})."
    )


def has_lone_cell(module: SSLModule, plan: BatchPlan) -> bool:
    """Whether a batch is one cell, where a loss is about several; refused if every batch is."""
    if not _needs_several(module):
        return False
    if plan.batch_size < 2:
        raise ValueError(
            "The loss or batch normalisation is of several cells: at least 2 are needed per step, found "
            "batch_size=1."
        )
    return plan.has_lone_cell


def _needs_several(module: SSLModule) -> bool:
    normalises = any(isinstance(part, torch.nn.BatchNorm1d) for part in module.modules())
    return module.compares_cells or normalises


def _refuse_other_checkpoint(folder: Path) -> None:
    recover(folder / CHECKPOINT_NAME)
    if (folder / CHECKPOINT_NAME).exists():
        raise ValueError(
            f"{folder} holds the checkpoint of another run. To go on with that run pass "
            f"`resume_from={str(folder)!r}`; for a new one, another folder: "
            f"`checkpoint_dir={str(folder) + '_2'!r}`."
        )


def _checkpoint_path(path: Path) -> Path:
    path = Path(path)
    inside = path / CHECKPOINT_NAME
    recover(path if path.name == CHECKPOINT_NAME else inside)
    if path.name != CHECKPOINT_NAME and not inside.exists():
        found = sorted(p.name for p in path.iterdir())[:5] if path.is_dir() else "no such folder"
        raise BundleError(
            f"There is no {CHECKPOINT_NAME} in {path} ({found}). Pass the checkpoint_dir of the run."
        )
    return inside if inside.exists() else path


@contextmanager
def _quiet() -> Iterator[None]:
    """Lightning says which devices it found and gives tips; a bar and a history say more."""
    loggers = [logging.getLogger(f"lightning.{n}") for n in ("pytorch", "fabric")]
    loggers.append(logging.getLogger("lightning.pytorch.utilities.rank_zero"))
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            for message in (
                ".*does not have many workers",
                ".*GPU available but not used",
                "No `.*_dataloader` ",
                ".*you defined a `validation_step` but have no `val_dataloader`",
                "Detected call of `lr_scheduler.step",
                ".*isinstance.treespec, LeafSpec",
                "Found .* in eval mode at the start of training",  # what is frozen
                ".*number of training batches .* is smaller than the logging interval",
                # The loader is told where to go on.
                "You're resuming from a checkpoint that ended before the epoch ended",
            ):
                warnings.filterwarnings("ignore", message=message)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
