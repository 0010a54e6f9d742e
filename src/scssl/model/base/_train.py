"""The part of a model that trains it."""

from __future__ import annotations

import logging
import time
from abc import abstractmethod
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from scssl._random import RNG, as_seed, derive_seed
from scssl._settings import settings
from scssl.data import GeneVocabulary, train_validation_split
from scssl.module import SSLModule
from scssl.train import FitOptions, fit

from ._setup import DataSetup, obs_column
from ._training import (
    append_history,
    check_distributed,
    check_training,
    is_distributed,
    resolve_output_genes,
)

if TYPE_CHECKING:
    from ._reader import CellReader

_LOGGER = logging.getLogger("scssl")
_SPLIT = "scssl_split"
_OF_A_RUN = ("lr", "weight_decay", "lr_schedule", "gradient_clip")


class TrainingMixin:
    """Train a model on the cells of its AnnData."""

    module: SSLModule
    setup: DataSetup
    genes: GeneVocabulary
    is_trained_: bool
    history_: dict[str, pd.DataFrame] | None
    training_: dict[str, Any]
    #: Whether training has every gene as a target, so that none may be absent from the data.
    _learns_all_genes = True

    if TYPE_CHECKING:

        def _read(self, adata: Any, *, min_overlap: float = 0.5) -> CellReader: ...

        def _config(self) -> dict[str, Any]: ...

    def _default_train_size(self, labels: pd.Series | None) -> float:
        """Share of the cells to train on where the user leaves it open."""
        return 0.9

    def _before_training(
        self, data: CellReader, rows: np.ndarray, chosen: Mapping[str, Any], *, resumed: bool
    ) -> dict[str, Any]:
        """Get ready to train on these cells; what it returns is part of the run's identity."""
        return {}

    def _training_data(self) -> CellReader:
        """The model's own cells, with what the loss needs besides expression."""
        return self._read(None).with_covariates()

    def _training_cells(self, data: CellReader) -> np.ndarray:
        """Row numbers of the cells to learn from or to validate on."""
        return np.arange(data.n_cells)

    def _split(
        self,
        data: CellReader,
        cells: np.ndarray,
        labels: pd.Series | None,
        train_size: float,
        seed: int,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Places in `cells` of those to learn from, and of those to validate on."""
        return train_validation_split(len(cells), train_size=train_size, labels=labels, seed=seed)

    @abstractmethod
    def _train_defaults(self, n_cells: int) -> dict[str, Any]:
        """Arguments of :meth:`train` where the user leaves them open."""

    def train(
        self,
        max_epochs: int | None = None,
        *,
        batch_size: int | None = None,
        lr: float | None = None,
        weight_decay: float | None = None,
        lr_schedule: Literal["constant", "cosine", "step"] | None = None,
        early_stopping: bool | None = None,
        patience: int | None = None,
        train_size: float | None = None,
        n_output_genes: int | Literal["auto"] | None = "auto",
        gradient_clip: float | Literal["auto"] | None = "auto",
        accelerator: str = "auto",
        devices: int | list[int] | str = "auto",
        strategy: str = "auto",
        precision: str | None = None,
        compile: bool = False,
        rng: RNG = 0,
        checkpoint_dir: str | Path | None = None,
        resume_from: str | Path | None = None,
        progress: bool | None = None,
        callbacks: Sequence[Any] = (),
    ) -> None:
        """Train on the cells of the model's AnnData.

        Ends with the weights of the epoch with the lowest validation loss. Ctrl-C ends training
        after the current step and keeps the best weights so far; pressed twice, it stops at once.
        Called again, it goes on from the present weights with a new optimiser. The split is written
        to ``adata.uns["scssl_split"]``.

        Parameters
        ----------
        max_epochs
            Passes over the training cells at most; by default from the number of cells.
        batch_size
            Cells per step; by default from the number of cells.
        lr, weight_decay
            Learning rate and weight decay of AdamW; defaults by model.
        lr_schedule
            ``"constant"``, ``"cosine"`` with linear warm-up over 5 % of the steps, or ``"step"``,
            times 0.9 every two epochs as in :cite:p:`Richter2025`.
        early_stopping
            Stop when the validation loss has not improved for `patience` epochs; by default yes,
            except for presets of runs that had none.
        patience
            Epochs without improvement before training stops.
        train_size
            Share of the cells to train on, 0.9 by default; the others are the validation set. With
            1 there is no validation set, no early stopping, and the last weights are kept.
        n_output_genes
            Genes that the decoder predicts per step: `None` for all, a number for an unbiased
            sample of them that is drawn anew each step, ``"auto"`` for 2,048 where training is on
            one CPU and the output layer has at least 6 million weights (below that, a step on all
            genes is cheap). Validation is always on all genes.
        gradient_clip
            Largest norm of the gradient; `None` for none. ``"auto"``: that of the preset, and none
            without one.
        accelerator
            ``"cpu"``, ``"gpu"``, or ``"auto"`` for a GPU where there is one.
        devices
            Number or list of devices; one by default.
        strategy
            Of Lightning's trainer, such as ``"ddp"``.
        precision
            `None` for float32, ``"bf16-mixed"`` for bfloat16 products.
        compile
            Whether to compile the hidden layers with :func:`torch.compile`.
        rng
            Seed of the split, the order of the cells, masks and dropout.
        checkpoint_dir
            Folder to which the state of training is written after each epoch, to resume from.
        resume_from
            Folder of an interrupted run. It goes on with the next epoch, exactly as it would have.
            With a cosine schedule `max_epochs` has to be that of the run.
        progress
            Whether to show progress; by default as in ``scssl.settings``.
        callbacks
            Further Lightning callbacks.

        Raises
        ------
        ValueError
            If an argument is out of range, the data have changed since they were set up, or
            `resume_from` belongs to another run.
        FloatingPointError
            If the loss stops being finite.
        """
        arguments = {name: value for name, value in locals().items() if name != "self"}
        with closing(self._rounds(arguments)) as rounds:
            for of_round in rounds:
                self._train_once(**{**arguments, **of_round})

    def _rounds(self, arguments: Mapping[str, Any]) -> Generator[dict[str, Any]]:
        """Arguments that are different in each round of training, of which most models have one.

        Parameters
        ----------
        arguments
            Of :meth:`train`.
        """
        yield {}

    def _train_once(
        self,
        *,
        max_epochs: int | None,
        batch_size: int | None,
        lr: float | None,
        weight_decay: float | None,
        lr_schedule: Literal["constant", "cosine", "step"] | None,
        early_stopping: bool | None,
        patience: int | None,
        train_size: float | None,
        n_output_genes: int | Literal["auto"] | None,
        gradient_clip: float | Literal["auto"] | None,
        accelerator: str,
        devices: int | list[int] | str,
        strategy: str,
        precision: str | None,
        compile: bool,
        rng: RNG,
        checkpoint_dir: str | Path | None,
        resume_from: str | Path | None,
        progress: bool | None,
        callbacks: Sequence[Any],
    ) -> None:
        data = self._training_data()
        cells = self._training_cells(data)
        if len(cells) < 3:
            raise ValueError(f"Training needs at least 3 cells, `adata` has {len(cells)}.")
        seed = as_seed(rng)
        if self._learns_all_genes and data.alignment is not None and data.alignment.n_missing:
            raise ValueError(
                f"{data.alignment.n_missing:,} genes of the model are not in `adata`, and would be "
                "learnt as zeros. Train on data that has them, or build a new model on this data. "
                f"{data.alignment.report()}"
            )
        if is_distributed(devices):
            check_distributed(strategy, n_output_genes, rng)
        key = self.setup.labels_key
        labels = None if key is None else obs_column(data.adata, key).iloc[cells]
        if train_size is None:
            train_size = self._default_train_size(labels)
        parts = self._split(data, cells, labels, train_size, derive_seed(seed, "split"))
        rows, held_out = (cells[part] for part in parts)
        given = {
            "max_epochs": max_epochs,
            "batch_size": batch_size,
            "lr": lr,
            "weight_decay": weight_decay,
            "lr_schedule": lr_schedule,
            "patience": patience,
            "early_stopping": early_stopping,
        }
        defaults = {
            "gradient_clip": None,
            "early_stopping": True,
            **self._train_defaults(len(rows)),
        }
        chosen = defaults | {k: v for k, v in given.items() if v is not None}
        if gradient_clip != "auto":
            chosen["gradient_clip"] = gradient_clip
        check_training(chosen)
        # Batches of equal size, or up to half of a small data set would be left out of each epoch.
        # Where others fill a batch it stays as large: of a few labelled cells it would have no others.
        if not data.fills_context or data.context is None:
            n_batches = -(-len(rows) // chosen["batch_size"])
            chosen["batch_size"] = -(-len(rows) // n_batches)
        n_output = resolve_output_genes(
            n_output_genes, len(self.genes), self.module.output_width, accelerator, devices
        )
        size = chosen.pop("batch_size")
        # Validation cells are no partners, or training would see them.
        data.restrict_partners(rows)
        training = data.loader(rows, size, role="training", seed=derive_seed(seed, "order"))
        validation = None
        if len(held_out):
            validation = data.loader(held_out, max(size, 512), role="validation")
        run = {
            "seed": seed,
            "batch_size": size,
            "data": data.fingerprint,
            "setup": self.setup.to_dict(),
            "genes": self.genes.hash,
            "train_size": train_size,
            "precision": precision,
            "devices": str(devices),
            "n_output_genes": n_output,
            "model": f"{type(self).__name__}({self._config()})",
            **{k: v for k, v in chosen.items() if k in _OF_A_RUN},
            **self._before_training(data, rows, chosen, resumed=resume_from is not None),
        }
        if chosen["lr_schedule"] == "cosine":
            run["max_epochs"] = chosen["max_epochs"]
        started, n_before = time.perf_counter(), self._n_epochs()
        result = fit(
            self.module,
            training,
            validation,
            FitOptions(
                **chosen,
                seed=seed,
                n_output_genes=n_output,
                accelerator=accelerator,
                devices=devices,
                strategy=strategy,
                precision=precision,
                compile=compile,
                fresh=not self.is_trained_,
                checkpoint_dir=_path(resume_from if checkpoint_dir is None else checkpoint_dir),
                resume_from=_path(resume_from),
                n_epochs_before=n_before,
                progress=settings.progress if progress is None else progress,
                run=run,
                callbacks=tuple(callbacks),
            ),
        )
        self.history_ = append_history(self.history_, result.n_epochs_before, result.history)
        self.is_trained_ = True
        self.train_indices_, self.validation_indices_ = rows, held_out
        data.adata.uns[_SPLIT] = {
            "train": rows,
            "validation": held_out,
            "train_size": train_size,
            "seed": seed,
        }
        self.training_ = {
            **chosen,
            "batch_size": size,
            "n_output_genes": n_output,
            "seed": seed,
            "train_size": train_size,
            "n_cells": len(cells),
            "epochs": self._n_epochs(),
            "best_epoch": result.best_epoch + result.n_epochs_before,
            "best_loss": result.best_loss,
            "stopped_by": result.stopped_by,
            "seconds": round(time.perf_counter() - started, 1),
        }
        if result.stopped_by == "interrupt":
            done = self.training_["epochs"]
            weights = "those that it had then"
            if len(held_out) and done and self.module.loss_ranks_epochs:
                weights = f"those of epoch {self.training_['best_epoch']}"
            _LOGGER.warning(
                "Training was interrupted after %d full epochs; the weights are %s.", done, weights
            )

    def _n_epochs(self) -> int:
        return len(next(iter(self.history_.values()))) if self.history_ else 0


def _path(path: str | Path | None) -> Path | None:
    return None if path is None else Path(path)
