"""What objectives on two views of a batch have in common."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.functional import normalize


def _promoted(value: Any) -> Any:
    if isinstance(value, Tensor) and value.is_floating_point():
        return value.to(torch.promote_types(value.dtype, torch.float32))
    return value


def full_precision[Objective: Callable[..., Tensor]](objective: Objective) -> Objective:
    """Evaluate an objective in single precision at least, also under autocast.

    Exponentials of similarities that a temperature has blown up, and covariances that should
    vanish, have no digits left in half precision.
    """

    @wraps(objective)
    def evaluate(*args: Any, **kwargs: Any) -> Tensor:
        device = next(a.device.type for a in (*args, *kwargs.values()) if isinstance(a, Tensor))
        args = tuple(_promoted(a) for a in args)
        kwargs = {name: _promoted(a) for name, a in kwargs.items()}
        if not torch.amp.is_autocast_available(device):
            return objective(*args, **kwargs)
        with torch.autocast(device, enabled=False):
            return objective(*args, **kwargs)

    return cast(Objective, evaluate)


def check_pairs(at_least: int, **views: Tensor) -> None:
    """Check that two matrices have the same shape, one row for each cell, and enough rows."""
    (name1, first), (name2, second) = views.items()
    if first.ndim != 2 or first.shape != second.shape:
        raise ValueError(
            f"`{name1}` and `{name2}` must both be of shape (n_cells, n_dimensions); found "
            f"{tuple(first.shape)} and {tuple(second.shape)}."
        )
    if len(first) < at_least:
        raise ValueError(
            f"This objective compares the cells of a batch and needs at least {at_least}; `{name1}` "
            f"has {len(first)}. Drop the last batch if it is that small (`drop_last`)."
        )


def check_groups(z: Tensor, groups: Tensor | None) -> None:
    """Check that there is a group of every cell."""
    if groups is not None and groups.shape != z.shape[:1]:
        raise ValueError(
            f"`groups` must be of shape (n_cells,), here ({len(z)},); found {tuple(groups.shape)}."
        )


def apart(groups: Tensor) -> Tensor:
    """Which two of all views of a batch are of cells of different groups."""
    of_view = groups.repeat(2)
    return of_view[:, None] != of_view


def pair_logits(
    z1: Tensor, z2: Tensor, temperature: float, groups: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Similarities among all views of a batch, and the number of the other view of each one's cell.

    Second views come after first ones; the similarity of a view with itself, and with those of other
    groups, is negative infinity.
    """
    z = normalize(torch.cat([z1, z2]), dim=1)
    logits = z @ z.T / temperature
    left_out = torch.eye(len(z), dtype=torch.bool, device=z.device)
    if groups is not None:
        left_out |= apart(groups)
    logits = logits.masked_fill(left_out, -torch.inf)
    return logits, torch.arange(len(z), device=z.device).roll(len(z1))


def off_diagonal_squares(matrix: Tensor) -> Tensor:
    """Sum of the squares of a square matrix without its diagonal.

    The diagonal is left out and not subtracted: where it is all that there is, the difference of
    two equal sums would be rounding errors.
    """
    diagonal = torch.eye(len(matrix), dtype=torch.bool, device=matrix.device)
    return matrix.masked_fill(diagonal, 0).square().sum()
