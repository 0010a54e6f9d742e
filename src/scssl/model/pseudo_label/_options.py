"""Hyper-parameters of pretraining on clusters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal

import numpy as np

from scssl._checks import check_whole, check_widths
from scssl.model.base import Options, Rate, option
from scssl.nn import Activation

from ._kmeans import Engine


def _sizes(name: str, per: Any) -> list[int]:
    if isinstance(per, (str, bytes)) or not isinstance(per, (Sequence, np.ndarray)) or not len(per):
        raise ValueError(
            f"`{name}` must be a list of cells per cluster, one for each partition, such as (200, 100, 50) or "
            f"(50,); found {per!r}."
        )
    return [check_whole(f"{name}[{i}]", one, 2) for i, one in enumerate(per)]


@dataclass
class PseudoLabelOptions(Options):
    """Each with its default and, where it has another, its value in :cite:p:`Zhang2022`."""

    hidden_dims: Annotated[Sequence[int], partial(check_widths, empty=True)] = option((128,), ())
    n_latent: int = option(64, 200)
    dropout: Rate = 0.0
    activation: Activation = "relu"
    batch_norm: bool = False
    head_activation: Literal["auto", "sigmoid", "relu"] | None = option(
        None, "sigmoid", left_open="auto"
    )
    mask_rate: Rate = option(0.8, 0.0)
    cells_per_cluster: Annotated[Sequence[int], _sizes] = (200, 100, 50)
    n_rounds: int = 5
    weighted: bool = option(True, False)
    # Whether it is installed matters when cells are clustered: a loaded model embeds without.
    kmeans: Engine = "auto"
    preset: Literal["scpretrain"] | None = None
