"""Checks of numbers of units and layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from scssl._checks import is_number


def whole(name: str, value: Any) -> int:
    """A whole number of at least 1."""
    if not is_number(value) or value != value // 1 or value < 1:
        raise ValueError(f"`{name}` must be a whole number of at least 1, found {value!r}.")
    return int(value)


def layer_widths(name: str, dims: Any, *, none: bool = False) -> list[int]:
    """Widths of layers; at least one, unless there may be `none`."""
    if isinstance(dims, (str, bytes)) or not isinstance(dims, (Sequence, np.ndarray)):
        raise ValueError(
            f"`{name}` must be a list of widths, one per layer, such as (128,); found {dims!r}."
        )
    if not len(dims) and not none:
        raise ValueError(f"`{name}` must be the width of at least one layer, found {dims!r}.")
    return [whole(f"{name}[{i}]", width) for i, width in enumerate(dims)]
