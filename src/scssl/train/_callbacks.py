"""What happens beside the steps: history, best weights, collapse monitor, progress, interrupts."""

from __future__ import annotations

import importlib.util
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import lightning.pytorch as lightning
import torch
from lightning.pytorch.callbacks import Callback

from scssl._errors import warn
from scssl.data.keys import PLACES
from scssl.nn import effective_rank, gather, sharing, to_device

_MONITORED_CELLS = 2048
_FEW_CELLS = 100
# Lines of a run where there is no bar.
_N_LINES = 10
#: What a low value of a measure of projections says.
_MEANING = {
    "projection_spread": "one direction for all cells",
    "projection_std": "one point for all cells",
    "projection_dimensions": "a line, on which two kinds of cells at most are told apart",
}


class Monitor(Callback):
    """Record the history of a run: losses, speed, learning rate, and whether embeddings collapse.

    The effective rank and the standard deviation are those of the embeddings of the first 2,048
    validation cells, or of training cells where there are fewer than 100 validation cells. Where an
    objective compares projections, those of the same cells are measured too: an encoder can keep
    its rank while all that is compared is one point.
    """

    def __init__(self, n_epochs_before: int = 0) -> None:
        self.n_epochs_before = n_epochs_before
        self.history: dict[str, list[float]] = {}
        self.last: dict[str, float] = {}
        self._n_latent = 0
        self._start = 0.0
        self._cells = 0
        self._seconds = self._lr = 0.0

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        # A run may go on within an epoch.
        self._start, self._cells = time.perf_counter(), 0

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        self._start, self._cells = time.perf_counter(), 0

    def on_train_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        # After the last step it is that of the next epoch already.
        self._lr = trainer.optimizers[0].param_groups[0]["lr"]

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._cells += len(batch["indices"])
        if trainer.should_stop or is_whole(trainer):
            # Before validation starts, which is not training.
            self._seconds = time.perf_counter() - self._start

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        if _interrupted(trainer):
            return
        z = _monitored_embeddings(trainer, pl_module)
        self._n_latent = z.shape[1]
        self.last = {"train_loss": float(pl_module.take_mean_loss("train"))}
        for name, value in trainer.callback_metrics.items():
            if name.startswith("validation_"):
                self.last[name] = float(value)
        projected = _projected(pl_module.module, z)
        if projected is not None:
            self.last |= projection_measures(projected)
        self.last |= {
            "effective_rank": effective_rank(z),
            "latent_std": float(z.std(0, correction=0).mean()),
            "lr": self._lr,
            "cells_per_second": self._cells * trainer.world_size / max(self._seconds, 1e-9),
        }
        for name, value in self.last.items():
            self.history.setdefault(name, []).append(value)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        rank, spread = self.history.get("effective_rank"), self.history.get("latent_std")
        if not rank or not spread or not pl_module.module.collapse_is_failure:
            return
        if not trainer.is_global_zero:
            return
        narrow = self._n_latent > 2 and rank[-1] < 1.5
        if narrow or spread[-1] < pl_module.module.least_spread:
            warn(
                f"The embeddings have collapsed: effective rank {rank[-1]:.2f}, standard deviation "
                f"{spread[-1]:.2g}. Downstream results will be poor; try a smaller learning rate, "
                "less weight decay or another activation, and look at scssl.pl.history."
            )
            return
        for name, least in pl_module.module.least_projected.items():
            if name in self.history and self.history[name][-1] < least:
                warn(
                    f"The projections have collapsed, although the embeddings have not: {name} "
                    f"{self.history[name][-1]:.2g}, where less than {least:g} is {_MEANING[name]}. The "
                    "loss has nothing to teach any more; try other weights or another temperature of "
                    f"the loss, stronger views or a smaller learning rate, and look at {name!r} with "
                    "scssl.pl.history."
                )
                return

    def state_dict(self) -> dict[str, Any]:
        return {"history": self.history, "n_epochs_before": self.n_epochs_before}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.history = {name: list(values) for name, values in state_dict["history"].items()}
        self.n_epochs_before = state_dict["n_epochs_before"]


def projection_measures(projected: torch.Tensor) -> dict[str, float]:
    r"""How far projections :math:`p` of cells are from one point or one line.

    ``projection_spread``: standard deviation of :math:`p / \lVert p \rVert` along a dimension times the
    root of the number of dimensions :cite:p:`Chen2021`, 1 when spread evenly, 0 for one direction.
    ``projection_std``: that of :math:`p`. ``projection_dimensions``: the square of the sum of the
    eigenvalues of its covariance by the sum of their squares, 1 on a line, 0 for a point.
    """
    p = projected.cpu().double()
    unit = torch.nn.functional.normalize(p, dim=1)
    centred = p - p.mean(0)
    covariance = centred.T @ centred / len(p)
    total = covariance.trace()
    # Equal projections leave only rounding errors, whose spectrum is noise.
    point = total <= 1e-12 * p.square().sum(1).mean()
    return {
        "projection_spread": float(unit.std(0, correction=0).mean() * p.shape[1] ** 0.5),
        "projection_std": float(p.std(0, correction=0).mean()),
        "projection_dimensions": 0.0 if point else float((total / covariance.norm()) ** 2),
    }


@torch.no_grad()
def _projected(module: Any, z: torch.Tensor) -> torch.Tensor | None:
    training = module.training
    module.eval()
    projected: torch.Tensor | None = module.projected(z)
    module.train(training)
    return projected


@torch.no_grad()
def _monitored_embeddings(trainer: Any, plan: Any) -> torch.Tensor:
    loader = trainer.val_dataloaders
    if not loader or loader.n_cells < _FEW_CELLS:
        loader = trainer.train_dataloader
    training = plan.module.training
    plan.module.eval()
    parts: list[torch.Tensor] = []
    for batch in loader:
        moved = {name: to_device(value, plan.device) for name, value in batch.items()}
        with sharing(moved.get(PLACES)):
            parts.append(gather(plan.module.learnt(moved)))
        if sum(map(len, parts)) >= _MONITORED_CELLS:
            break
    plan.module.train(training)
    return torch.cat(parts)[:_MONITORED_CELLS]


class BestWeights(Callback):
    """Keep a copy of the weights of the epoch with the lowest validation loss."""

    def __init__(self) -> None:
        self.loss = float("inf")
        self.epoch = -1
        self.weights: dict[str, torch.Tensor] = {}

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        if _interrupted(trainer) and self.weights:
            # Lightning validates once more; half an epoch is no epoch.
            return
        loss = float(trainer.callback_metrics["validation_loss"])
        if loss < self.loss:
            state = pl_module.module.state_dict()
            weights = {name: value.detach().cpu().clone() for name, value in state.items()}
            # At once: who presses Ctrl-C twice gets weights of one epoch.
            self.loss, self.epoch, self.weights = loss, trainer.current_epoch, weights

    def state_dict(self) -> dict[str, Any]:
        return {"loss": self.loss, "epoch": self.epoch, "weights": self.weights}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.loss, self.epoch = state_dict["loss"], state_dict["epoch"]
        self.weights = dict(state_dict["weights"])


class EpochOrder(Callback):
    """Tell the loader the epoch, on which the order of the cells depends, and which batches are left of it."""

    def __init__(self) -> None:
        #: Batches of an epoch that is not at its end.
        self.n_done = 0

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        if self.n_done:
            # Of an epoch within which a run goes on, no start is told.
            trainer.train_dataloader.set_epoch(trainer.current_epoch, self.n_done)

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        trainer.train_dataloader.set_epoch(trainer.current_epoch)

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.n_done = batch_idx + 1

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        if not _interrupted(trainer):
            self.n_done = 0

    def state_dict(self) -> dict[str, Any]:
        return {"n_done": self.n_done}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.n_done = state_dict["n_done"]


class StepLimit(Callback):
    """End training after so many steps, within an epoch too, of which there is then a part."""

    def __init__(self, max_steps: int) -> None:
        self.max_steps = max_steps

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        trainer.should_stop = trainer.should_stop or self.is_reached(trainer)

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        trainer.should_stop = trainer.should_stop or self.is_reached(trainer)

    def is_reached(self, trainer: lightning.Trainer) -> bool:
        """Whether there have been as many."""
        return trainer.global_step >= self.max_steps


class Interrupt(Callback):
    """Ctrl-C or SIGTERM ends training after the current step, with a usable model; twice, at once.

    SIGUSR1, of a run that is written to a folder, is a wish for a checkpoint.
    """

    def __init__(self, *, writes: bool = False) -> None:
        #: The signal; SIGTERM where both came.
        self.received = 0
        self.twice = False
        #: Whether a checkpoint is to be written after the current step: the signal, or 1 where it is time.
        self.asked = 0
        self._ends = [signal.SIGINT, signal.SIGTERM]
        # Not on Windows.
        self._asks = [signal.SIGUSR1] if writes and hasattr(signal, "SIGUSR1") else []
        self._previous: dict[int, Any] = {}

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take the signals from whom they belong to, and give them back."""
        if threading.current_thread() is threading.main_thread():
            for number in (*self._ends, *self._asks):
                previous = signal.getsignal(number)
                # Whoever ignores a signal goes on ignoring it.
                if previous not in (None, signal.SIG_IGN):
                    self._previous[number] = previous
        try:
            self._listen()
            yield
        finally:
            for one, old in self._previous.items():
                signal.signal(one, old)

    def _listen(self) -> None:
        for number in self._previous:
            signal.signal(number, self._handle)

    def _handle(self, number: int, frame: Any) -> None:
        if number in self._asks:
            self.asked = number
            return
        self.twice = bool(self.received)
        self.received = max(self.received, number)
        if self.twice:
            raise KeyboardInterrupt

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        # Lightning has a handler of its own for SIGTERM, that ends without a model.
        self._listen()
        self._heed(trainer)

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._heed(trainer)

    def _heed(self, trainer: lightning.Trainer) -> None:
        """Stop where a signal has come; between steps nothing would be written of the last one."""
        if trainer.world_size > 1:
            # All processes have to stop, or to write, after the same step and for the same reason.
            mine = torch.tensor([self.received, self.asked], device=trainer.strategy.root_device)
            self.received, self.asked = trainer.strategy.reduce(mine, reduce_op="max").tolist()
        trainer.should_stop = trainer.should_stop or bool(self.received)

    @property
    def left_to_do(self) -> int:
        """The signal that is to do what it does, once the model is in order; 0 for a Ctrl-C that did."""
        return self.received if self.twice or self.received == signal.SIGTERM else 0


def pass_on(number: int) -> None:
    """Do what a signal that was held back does: end the process, unless it is caught."""
    handler = signal.getsignal(number)
    if callable(handler):
        handler(number, None)
    else:
        raise SystemExit(128 + number)


def is_whole(trainer: lightning.Trainer) -> bool:
    """Whether all batches of the epoch have been."""
    return trainer.fit_loop.batch_idx + 1 >= trainer.num_training_batches


def _interrupted(trainer: lightning.Trainer) -> bool:
    """Whether a signal ends the run within an epoch."""
    received = any(isinstance(c, Interrupt) and c.received for c in trainer.callbacks)  # type: ignore[attr-defined]
    return received and not is_whole(trainer)


class Progress(Callback):
    """A bar over the epochs: losses, cells per second, time left.

    Where what is written is kept and not drawn over, as in a file, a line now and then instead.
    """

    def __init__(self, monitor: Monitor) -> None:
        self._monitor = monitor
        self._bar: Any = None
        self._shown = 0.0

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        if not trainer.is_global_zero:
            return
        self._bar = _bar_class()(
            total=trainer.max_epochs,
            initial=trainer.current_epoch,
            desc="Training",
            unit="epoch",
            bar_format="{desc}: {n:.1f}/{total} epochs |{bar:20}| {elapsed} < {remaining}{postfix}",
        )
        self._shown = float(trainer.current_epoch)
        self._start, self._cells = time.perf_counter(), 0
        self._post: dict[str, str] = {}

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._bar is None:
            return
        self._cells += len(batch["indices"])
        now = time.perf_counter()
        if now - self._start > 0.5:
            rate = self._cells * trainer.world_size / (now - self._start)
            self._post["cells/s"] = f"{rate:,.0f}"
            self._start, self._cells = now, 0
            # The last step ends the epoch, whose losses are not known yet.
            if batch_idx + 1 < trainer.num_training_batches:
                done = (batch_idx + 1) / trainer.num_training_batches
                self._advance(trainer.current_epoch + done)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        if self._bar is None:
            return
        for name, shown in (("train_loss", "loss"), ("validation_loss", "validation")):
            if name in self._monitor.last:
                self._post[shown] = f"{self._monitor.last[name]:.4g}"
        self._advance(trainer.current_epoch + 1)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self.close()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        self.close()

    def close(self) -> None:
        """Leave the bar as it is."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _advance(self, epoch: float) -> None:
        self._bar.set_postfix(self._post, refresh=False)
        self._bar.update(epoch - self._shown)
        self._shown = epoch


class _Lines:
    """What tqdm does, in lines: about ten of a run, each at the end of an epoch."""

    def __init__(self, total: int, initial: int, desc: str, **style: Any) -> None:
        self.total, self.n, self.desc = total, float(initial), desc
        self._post: dict[str, str] = {}

    def set_postfix(self, values: dict[str, str], refresh: bool = False) -> None:
        self._post = values

    def update(self, n: float) -> None:
        self.n += n
        epoch = round(self.n)
        at_end = abs(self.n - epoch) < 1e-6
        if at_end and (epoch == 1 or epoch % max(1, self.total // _N_LINES) == 0):
            said = "".join(f", {name} {value}" for name, value in self._post.items())
            print(
                f"{self.desc}: epoch {epoch} of {self.total}{said}",
                file=sys.stderr,
                flush=True,
            )

    def close(self) -> None:
        pass


def _bar_class() -> Any:
    """What shows progress: a bar in a terminal or a notebook, whatever draws it, else lines."""
    from tqdm.std import tqdm

    in_notebook = "ipykernel" in sys.modules and "IPython" in sys.modules
    if not in_notebook:
        return tqdm if sys.stderr.isatty() else _Lines
    if importlib.util.find_spec("ipywidgets") is None:
        # tqdm.auto would warn of it; a bar of text needs none.
        return tqdm
    from tqdm.notebook import tqdm as widget

    return widget
