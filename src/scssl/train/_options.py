"""Options of a training run: what each may be, what identifies a run, what several devices can do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, Self, get_args

import numpy as np
import pandas as pd
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger

from scssl._checks import check_choice, check_number, check_whole, is_number
from scssl._io import as_path, check_place
from scssl._random import RNG

from ._devices import check_devices, choose_accelerator, n_processes
from ._loggers import check_logger

Schedule = Literal["constant", "cosine", "step"]
_WHOLE = ("max_epochs", "max_steps", "batch_size", "patience")
_AUTO_OUTPUT_GENES = 2048
# Below this many weights of the output layer a step on all genes is cheap anyway.
_AUTO_OUTPUT_WEIGHTS = 6_000_000


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """What a user may leave open and a model or preset then decides.

    See :meth:`scssl.model.SSLModel.train` for what each means.
    """

    max_epochs: int
    batch_size: int
    lr: float
    weight_decay: float = 1e-2
    lr_schedule: Schedule = "cosine"
    patience: int = 20
    early_stopping: bool = True
    gradient_clip: float | None = None
    max_steps: int | None = None

    def __post_init__(self) -> None:
        _check_numbers(vars(self))
        for name in _WHOLE:
            # The dataclass is frozen for all but this; 3.0 was given for 3.
            if getattr(self, name) is not None:
                object.__setattr__(self, name, int(getattr(self, name)))

    @classmethod
    def chosen(cls, defaults: Mapping[str, Any], given: Mapping[str, Any]) -> Self:
        """Those that a user gave among the arguments of ``train``, and the defaults of a model."""
        own = {one.name: given[one.name] for one in fields(cls) if given[one.name] is not None}
        # No clipping can be asked for, where a preset has some.
        clip = given["gradient_clip"]
        own |= {} if clip is not None else {"gradient_clip": None}
        if clip == "auto":
            del own["gradient_clip"]
        if "max_steps" in own:
            # Every epoch has a step: no number of epochs that nobody asked for is in its way.
            own.setdefault("max_epochs", own["max_steps"])
        return cls(**{**defaults, **own})

    def identity(self) -> dict[str, Any]:
        """What a run must have in common with one that it goes on with."""
        names = ["batch_size", "lr", "weight_decay", "lr_schedule", "gradient_clip"]
        # Of a cosine the length decides the course; other runs are the start of longer ones.
        names += ["max_epochs", "max_steps"] if self.lr_schedule == "cosine" else []
        return {name: getattr(self, name) for name in names}


def _check_numbers(given: Mapping[str, Any]) -> None:
    """Refuse options that are not what they can be; what is `None` is left open."""
    found = {name: value for name, value in given.items() if value is not None}
    for name in _WHOLE:
        if name in found:
            check_whole(name, found[name])
    for name, bounds in {
        "lr": "(0, inf)",
        "weight_decay": "[0, inf)",
        "train_size": "(0, 1]",
    }.items():
        if name in found:
            check_number(name, found[name], bounds)
    clip = found.get("gradient_clip", "auto")
    if clip != "auto" and not (is_number(clip) and 0 < clip < float("inf")):
        raise ValueError(
            f'`gradient_clip` must be a positive number, None or "auto", found {clip!r}.'
        )
    if "lr_schedule" in found:
        check_choice("lr_schedule", found["lr_schedule"], get_args(Schedule))


def check_arguments(given: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of ``train`` as they are used, or an error before any work."""
    _check_numbers(given)
    for name in ("early_stopping", "progress"):
        check_choice(name, given[name], (True, False, None))
    check_choice("compile", given["compile"], (True, False))
    callbacks = given["callbacks"]
    callbacks = callbacks if isinstance(callbacks, (list, tuple)) else (callbacks,)
    wrong = [one for one in callbacks if not isinstance(one, Callback)]
    if wrong:
        raise TypeError(
            f"`callbacks` must be a list of lightning.pytorch.callbacks.Callback, found {wrong[0]!r}. "
            "Without any: `callbacks=()`."
        )
    accelerator = choose_accelerator(given["accelerator"])
    check_devices(given["devices"], accelerator, given["num_nodes"])
    folder, resume = given["checkpoint_dir"], given["resume_from"]
    every = _check_interval("checkpoint_every", given["checkpoint_every"])
    if every is not None and folder is None and resume is None:
        raise ValueError(
            f"`checkpoint_every` is {given['checkpoint_every']!r}, and there is no folder to write to. Give one: "
            '`checkpoint_dir="checkpoints"`.'
        )
    if given["balance_key"] is not None and given["separate_key"] is not None:
        raise ValueError(
            "A batch has as many cells of each category, or all of one: give `balance_key` or `separate_key`, "
            f"found {given['balance_key']!r} and {given['separate_key']!r}."
        )
    return {
        **given,
        "balance_weights": _check_weights(given["balance_weights"], given["balance_key"]),
        "hold_out": _check_hold_out(given["hold_out"], given["train_size"]),
        "checkpoint_every": every,
        "logger": check_logger(given["logger"]),
        "callbacks": tuple(callbacks),
        "checkpoint_dir": None
        if folder is None
        else check_place(folder, "checkpoint_dir", folder=True),
        "resume_from": None if resume is None else as_path(resume, "resume_from"),
    }


def _check_weights(given: Any, balance_key: str | None) -> dict[str, float] | None:
    """Numbers by category, or an error unless it is such."""
    if given is None:
        return None
    if not isinstance(given, Mapping):
        raise TypeError(
            f'`balance_weights` must be numbers by category, such as {{"lung": 2.0}}, found {given!r}.'
        )
    if balance_key is None:
        raise ValueError(
            f"`balance_weights` {dict(given)!r} are of categories of a column, and none is named. Name it in "
            "`balance_key`."
        )
    return {
        str(name): check_number(f"balance_weights[{name!r}]", weight, "(0, inf)")
        for name, weight in given.items()
    }


def _check_hold_out(given: Any, train_size: Any) -> dict[str, list[str]] | None:
    """Lists of categories by column, or an error unless it is such."""
    if given is None:
        return None
    if not isinstance(given, Mapping) or not given:
        raise TypeError(
            f'`hold_out` must be categories by column, such as {{"dataset": ["lung"]}}, found {given!r}.'
        )
    if train_size is not None:
        raise ValueError(
            f"`hold_out` says which cells are validated on, and so does train_size={train_size!r}. Leave that "
            "out: `train_size=None`"
        )
    return {
        str(key): [str(name) for name in ([names] if np.ndim(names) == 0 else names)]
        for key, names in given.items()
    }


def _check_interval(name: str, given: Any) -> int | timedelta | None:
    """Steps or a time between two events, or an error unless it is one of these."""
    if not isinstance(given, (str, timedelta)):
        every: int | None = check_whole(name, given, none=True)
        return every
    try:
        time = pd.Timedelta(given)
    except ValueError:
        time = pd.NaT
    # pandas takes a number alone for nanoseconds.
    number = isinstance(given, str) and given.strip().isdecimal()
    if number or not time > timedelta():
        line = f"{name}={int(str(given))}" if number and int(str(given)) else f'{name}="10min"'
        raise ValueError(
            f'`{name}` must be a number of steps, or a time such as "10min" or "2h"; found {given!r}. Pass '
            f"`{line}`."
        )
    return time.to_pytimedelta()


@dataclass(frozen=True, kw_only=True)
class FitOptions(TrainOptions):
    """How to train: also on what, from where, and what is told of it."""

    seed: int
    accelerator: str = "auto"
    devices: Any = "auto"
    num_nodes: int = 1
    strategy: str = "auto"
    precision: Any = None
    n_output_genes: int | None = None
    compile: bool = False
    fresh: bool = True
    checkpoint_dir: Path | None = None
    checkpoint_every: int | timedelta | None = None
    resume_from: Path | None = None
    #: What a user resumes from, where it is not `checkpoint_dir`.
    run_dir: Path | None = None
    logger: str | Logger | None = None
    #: What is told to the logger of the model and its training.
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    n_epochs_before: int = 0
    progress: bool = True
    run: Mapping[str, Any] = field(default_factory=dict)
    callbacks: tuple[Callback, ...] = ()


def check_distributed(devices: Any, num_nodes: int, strategy: str, rng: RNG) -> None:
    """Refuse what several processes cannot do, if there are several."""
    if n_processes(devices, num_nodes) < 2:
        return
    if strategy not in ("auto", "ddp", "ddp_find_unused_parameters_true"):
        raise ValueError(
            f'With several devices `strategy` must be "ddp", found {strategy!r}: processes that are '
            "forked or spawned from this one do not give the trained weights back."
        )
    if isinstance(rng, np.random.Generator) or rng is None:
        raise ValueError("With several devices `rng` must be a number: all processes split alike.")


def resolve_output_genes(asked: Any, n_genes: int, width: int, accelerator: str) -> int | None:
    """Number of genes to decode per step, `None` for all; `width` is that of the last layer."""
    if asked is None:
        return None
    if isinstance(asked, str) and asked == "auto":
        on_cpu = accelerator == "cpu" or (accelerator == "auto" and not torch.cuda.is_available())
        worth = n_genes >= 2 * _AUTO_OUTPUT_GENES and n_genes * width >= _AUTO_OUTPUT_WEIGHTS
        return _AUTO_OUTPUT_GENES if on_cpu and worth else None
    if not width:
        raise ValueError(
            f"This model predicts no genes, found n_output_genes={asked!r}. Leave it out: "
            "`n_output_genes=None`."
        )
    whole = isinstance(asked, (int, np.integer)) and not isinstance(asked, bool)
    if not whole or not 1 <= asked <= n_genes:
        raise ValueError(
            f'`n_output_genes` must be "auto", None or 1 to {n_genes:,}, found {asked!r}.'
        )
    return None if asked == n_genes else int(asked)
