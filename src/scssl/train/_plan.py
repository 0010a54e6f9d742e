"""One training step, for every module of the package."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import lightning.pytorch as lightning
import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from scssl._random import derive_seed
from scssl.data.keys import PLACES
from scssl.module import SSLModule
from scssl.nn import sharing

from ._optim import RowAdamW
from ._options import FitOptions


def check_same_run(before: Mapping[str, Any], run: Mapping[str, Any]) -> None:
    """Refuse to go on with a run (`before`) that differs from this one in what identifies it."""
    for key, value in run.items():
        if before.get(key) != value:
            raise ValueError(
                f"`resume_from` is a checkpoint of another run: its {key} is {before.get(key)!r}, of this one "
                f"{value!r}. Pass the same data and arguments, or start anew without `resume_from`."
            )


class SSLTrainingPlan(lightning.LightningModule):
    """Optimisation of a module's loss.

    All randomness of a step is a function of the seed, the epoch and the number of the step, so
    that a run that was stopped and resumed draws what the straight run would have drawn. All
    processes draw the same.

    Parameters
    ----------
    module
        What is trained.
    options
        Seed of masks, views and dropout; learning rate and weight decay of AdamW. Of the schedules
        ``"cosine"`` is a linear warm-up over the first 5 % of the steps, then half a cosine down to 1 %
        of the rate, ``"step"`` is times 0.9 every two epochs. What identifies the run is stored in
        checkpoints and compared when one is resumed.
    """

    def __init__(self, module: SSLModule, options: FitOptions) -> None:
        super().__init__()
        self.module = module
        self.seed, self.lr, self.weight_decay = options.seed, options.lr, options.weight_decay
        self.lr_schedule, self.run = options.lr_schedule, dict(options.run)
        # Counted once it is known among how many processes the cells are divided.
        self.n_steps = 0
        self._sums: dict[str, list[Tensor]] = {"train": [], "validation": []}
        self._weights: dict[str, list[int]] = {"train": [], "validation": []}
        self._tally: dict[str, Tensor] = {}

    def configure_optimizers(self) -> Any:
        groups = [
            {
                "params": group["params"],
                "lr": self.lr * group.get("lr_factor", 1.0),
                "weight_decay": group.get("weight_decay", self.weight_decay),
            }
            for group in self.module.parameter_groups()
            if group["params"]
        ]
        optimizer = RowAdamW(groups, lr=self.lr, weight_decay=self.weight_decay)
        if self.lr_schedule == "constant":
            return optimizer
        if self.lr_schedule == "step":
            steps = torch.optim.lr_scheduler.StepLR(optimizer, step_size=2, gamma=0.9)
            return {
                "optimizer": optimizer,
                "lr_scheduler": {"scheduler": steps, "interval": "epoch"},
            }
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self._factor)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def _factor(self, step: int) -> float:
        warmup = max(1, round(0.05 * self.n_steps))
        if step < warmup:
            return (step + 1) / warmup
        done = min(1.0, (step - warmup) / max(1, self.n_steps - warmup))
        return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done))

    def on_train_epoch_start(self) -> None:
        self._sums["train"], self._weights["train"] = [], []

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        rng = self._generator("train", self.current_epoch, batch_idx, 0)
        # Dropout draws from the global generators; fit() gives the user's state of them back.
        now = (self.current_epoch, batch_idx, 0)
        torch.manual_seed(derive_seed(self.seed, "dropout", *now))
        with sharing(batch.get(PLACES)):
            output = self.module.loss(batch, rng=rng, full=False)
        self._collect("train", output.loss, output.n_obs_minibatch)
        loss: Tensor = output.loss
        return loss

    def configure_model(self) -> None:
        if self.trainer.world_size > 1:
            # It averages whole gradients only.
            names = [f"module.{name}" for name in self.module.decoded_in_part()]
            DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(self, names)

    def on_train_start(self) -> None:
        # Of a checkpoint they are on the CPU.
        self._sums["train"] = [loss.to(self.device) for loss in self._sums["train"]]
        for parameter in self._decoded_in_part():
            torch.distributed.broadcast(parameter.detach(), src=0)

    def on_after_backward(self) -> None:
        for parameter in self._decoded_in_part():
            gradient = parameter.grad
            if gradient is None:
                continue
            # All processes decode the same genes.
            values = gradient._values() if gradient.is_sparse else gradient
            total = values.contiguous()
            torch.distributed.all_reduce(total)
            values.copy_(total.div_(self.trainer.world_size))

    def _decoded_in_part(self) -> list[torch.nn.Parameter]:
        if self.trainer.world_size == 1:
            return []
        return [self.module.get_parameter(name) for name in self.module.decoded_in_part()]

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        # Before what callbacks do at the end of a step, which is to write checkpoints.
        self.module.after_step(self.global_step, self.n_steps)

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        # The masks of a validation batch are the same in every epoch, or the loss would be noisy.
        rng = self._generator("validation", batch_idx, 0)
        with sharing(batch.get(PLACES)):
            output = self.module.loss(batch, rng=rng, full=True)
        self._collect("validation", output.loss, output.n_obs_minibatch)
        for name, value in output.extra_metrics.items():
            self._tally[name] = self._tally[name] + value if name in self._tally else value

    def on_validation_epoch_end(self) -> None:
        mean = self.take_mean_loss("validation")
        tally, self._tally = self._tally, {}
        reduce = self.trainer.strategy.reduce
        tally = {name: reduce(value, reduce_op="sum") for name, value in tally.items()}
        scores: dict[str, Tensor | float] = {"loss": mean}
        scores.update(self.module.validation_scores(tally))
        for name, score in scores.items():
            # Loggers are told of all of the history at once.
            self.log(f"validation_{name}", score, logger=False)

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        if not gradient_clip_val:
            return
        # Sparse gradients have no place in torch's own clipping.
        found = [p.grad for p in self.module.parameters() if p.grad is not None]
        parts = [g.coalesce().values() if g.is_sparse else g for g in found]
        norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(g) for g in parts]))
        factor = (gradient_clip_val / (norm + 1e-6)).clamp(max=1.0)
        for gradient in found:
            gradient.mul_(factor)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["scssl_run"] = self.run
        if self._sums["train"]:
            # Within an epoch: of all processes, by however many it goes on.
            losses = torch.stack(self._sums["train"])
            mine: Any = self.all_gather(
                torch.stack([losses, losses.new_tensor(self._weights["train"])])
            )
            of_all = mine.view(self.trainer.world_size, 2, -1)
            losses, n = of_all[:, 0].mean(0), of_all[:, 1].sum(0)
            self._refuse_divergence("train", losses.sum())
            checkpoint["scssl_losses"] = {"losses": losses, "n": n}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        check_same_run(checkpoint.get("scssl_run", {}), self.run)
        if "scssl_losses" in checkpoint:
            found = checkpoint["scssl_losses"]
            self._sums["train"] = list(found["losses"])
            self._weights["train"] = [int(n) * (self.global_rank == 0) for n in found["n"]]

    def _generator(self, *names: int | str) -> torch.Generator:
        return torch.Generator(self.device).manual_seed(derive_seed(self.seed, *names))

    def _collect(self, kind: str, loss: Tensor, n: int) -> None:
        self._sums[kind].append(loss.detach())
        self._weights[kind].append(n)

    def take_mean_loss(self, kind: Literal["train", "validation"]) -> Tensor:
        """Mean over the cells since it was last taken, of all processes.

        Raises
        ------
        FloatingPointError
            If it is not finite.
        """
        reduce = self.trainer.strategy.reduce
        losses = torch.stack(self._sums[kind])
        # The mean over the processes is the loss of the cells of all.
        n_cells = reduce(losses.new_tensor(self._weights[kind]), reduce_op="sum")
        # On the CPU: some devices have no float64.
        total = (losses * n_cells).cpu().double().sum() / n_cells.cpu().double().sum()
        mean = reduce(total.float().to(self.device), reduce_op="mean")
        self._sums[kind], self._weights[kind] = [], []
        self._refuse_divergence(kind, mean)
        return mean

    def _refuse_divergence(self, kind: str, loss: Tensor) -> None:
        if not torch.isfinite(loss):
            raise FloatingPointError(
                f"The {kind} loss is {loss.item()} in epoch {self.current_epoch}: training "
                f"diverged. Try a smaller learning rate than {self.lr!r}, or `gradient_clip`."
            )
