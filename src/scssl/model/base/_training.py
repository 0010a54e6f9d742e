"""Arguments and history of training runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch

from scssl._random import RNG
from scssl.train import n_processes

_AUTO_OUTPUT_GENES = 2048
# Below this many weights of the output layer a step on all genes is cheap anyway.
_AUTO_OUTPUT_WEIGHTS = 6_000_000


def check_training(chosen: Mapping[str, Any]) -> None:
    """Refuse arguments that are out of range."""
    for name in ("max_epochs", "batch_size", "patience"):
        value = chosen[name]
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
            raise ValueError(f"`{name}` must be a whole number of at least 1, found {value!r}.")
    if not 0 < chosen["lr"] < np.inf or not 0 <= chosen["weight_decay"] < np.inf:
        raise ValueError(
            f"`lr` must be positive and `weight_decay` not negative, found {chosen['lr']} and "
            f"{chosen['weight_decay']}."
        )
    clip = chosen["gradient_clip"]
    if clip is not None and (isinstance(clip, (bool, str)) or not 0 < clip < np.inf):
        raise ValueError(f'`gradient_clip` must be positive, None or "auto", found {clip!r}.')
    if chosen["lr_schedule"] not in ("constant", "cosine", "step"):
        raise ValueError(
            "`lr_schedule` must be 'constant', 'cosine' or 'step', found "
            f"{chosen['lr_schedule']!r}."
        )


def is_distributed(devices: Any) -> bool:
    """Whether more than one process trains."""
    return n_processes(devices) > 1


def check_distributed(strategy: str, n_output_genes: Any, rng: RNG) -> None:
    """Refuse what several processes cannot do."""
    if strategy not in ("auto", "ddp", "ddp_find_unused_parameters_true"):
        raise ValueError(
            f'With several devices `strategy` must be "ddp", found {strategy!r}: processes that are '
            "forked or spawned from this one do not give the trained weights back."
        )
    if isinstance(rng, np.random.Generator) or rng is None:
        raise ValueError(
            "With several devices pass a number as `rng`, so that all processes split alike."
        )
    if n_output_genes not in ("auto", None):
        raise ValueError("`n_output_genes` is for one device. With several, pass None.")


def resolve_output_genes(
    asked: Any, n_genes: int, width: int, accelerator: str, devices: Any
) -> int | None:
    """Number of genes to decode per step, `None` for all; `width` is that of the last layer."""
    if asked is None:
        return None
    if isinstance(asked, str) and asked == "auto":
        on_cpu = accelerator == "cpu" or (accelerator == "auto" and not torch.cuda.is_available())
        worth = n_genes >= 2 * _AUTO_OUTPUT_GENES and n_genes * width >= _AUTO_OUTPUT_WEIGHTS
        return _AUTO_OUTPUT_GENES if on_cpu and worth and not is_distributed(devices) else None
    if isinstance(asked, bool) or not isinstance(asked, (int, np.integer)):
        raise ValueError(
            f'`n_output_genes` must be "auto", None or 1 to {n_genes:,}, found {asked!r}.'
        )
    if not width:
        raise ValueError(
            f"This model predicts no genes: leave `n_output_genes` out, found {asked!r}."
        )
    if not 1 <= asked <= n_genes:
        raise ValueError(
            f'`n_output_genes` must be "auto", None or 1 to {n_genes:,}, found {asked}.'
        )
    return None if asked == n_genes else int(asked)


def history_lists(history: Mapping[str, pd.DataFrame] | None) -> dict[str, list[float]]:
    """Values per epoch by name, as they are saved."""
    return {name: frame.iloc[:, 0].tolist() for name, frame in (history or {}).items()}


def history_frames(lists: Mapping[str, Sequence[float]]) -> dict[str, pd.DataFrame] | None:
    """The history of a model from what :func:`history_lists` gave; `None` if there is none."""
    return {
        name: pd.DataFrame({name: values}).rename_axis("epoch") for name, values in lists.items()
    } or None


def append_history(
    before: Mapping[str, pd.DataFrame] | None, n_before: int, new: Mapping[str, list[float]]
) -> dict[str, pd.DataFrame]:
    """History of a run after the first epochs of those before it.

    Epochs are numbered through; what was not recorded in an epoch is NaN.
    """
    earlier = pd.DataFrame({name: f.iloc[:, 0] for name, f in (before or {}).items()})
    both = pd.concat([earlier.iloc[:n_before], pd.DataFrame(new)], ignore_index=True)
    both.index.name = "epoch"
    return {str(name): both[[name]] for name in both}
