"""Targets that follow an online network: BYOL :cite:p:`Grill2020`, MoCo :cite:p:`He2020`."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from scssl._checks import check_number, check_whole


@torch.no_grad()
def update_ema(target: nn.Module, online: nn.Module, momentum: float) -> None:
    r"""Move the parameters of a target towards those of the online network :cite:p:`Grill2020`.

    .. math:: \xi \leftarrow m\,\xi + (1 - m)\,\theta

    for the parameters :math:`\xi` of the target and :math:`\theta` of the online network. After :math:`k` updates towards the same :math:`\theta` the target is
    :math:`\theta + m^k (\xi_0 - \theta)`. Buffers, such as the statistics of batch norm, are copied.

    Parameters
    ----------
    target
        What is updated, in place; of the same layers as the online network.
    online
        What is trained.
    momentum
        Share :math:`m` of the old value.

    Raises
    ------
    ValueError
        If `momentum` is not within 0 and 1 or the two networks are not made alike.

    Examples
    --------
    >>> import copy, torch
    >>> from scssl.nn import update_ema
    >>> online = torch.nn.Linear(1, 1, bias=False)
    >>> target = copy.deepcopy(online).requires_grad_(False)
    >>> _ = torch.nn.init.ones_(online.weight), torch.nn.init.zeros_(target.weight)
    >>> update_ema(target, online, 0.9)
    >>> target.weight
    Parameter containing:
    tensor([[0.1000]])
    """
    check_number("momentum", momentum, "[0, 1]")
    _check_alike(dict(target.named_parameters()), dict(online.named_parameters()), "parameters")
    _check_alike(dict(target.named_buffers()), dict(online.named_buffers()), "buffers")
    slow: list[Tensor] = list(target.parameters())
    fast: list[Tensor] = list(online.parameters())
    if slow:
        torch._foreach_lerp_(slow, fast, 1 - momentum)
    for mine, its in zip(target.buffers(), online.buffers(), strict=True):
        mine.copy_(its)


def _check_alike(target: dict[str, Tensor], online: dict[str, Tensor], what: str) -> None:
    ours = {name: tuple(value.shape) for name, value in target.items()}
    theirs = {name: tuple(value.shape) for name, value in online.items()}
    if ours == theirs:
        return
    names = [*ours, *(name for name in theirs if name not in ours)]
    name = next(n for n in names if ours.get(n) != theirs.get(n))
    raise ValueError(
        f"The {what} of target and online network differ: {name!r} is {ours.get(name, 'missing')} in "
        f"the target and {theirs.get(name, 'missing')} in the online network. Make the target a copy: "
        "copy.deepcopy(online)."
    )


def momentum_schedule(step: int, n_steps: int, start: float, end: float = 1.0) -> float:
    r"""Momentum of an EMA target at a step of training :cite:p:`Grill2020`.

    .. math:: m_k = m_{end} - (m_{end} - m_{start})\,\frac{\cos(\pi k / (n - 1)) + 1}{2}

    Parameters
    ----------
    step
        Number :math:`k` of the optimiser step, from 0.
    n_steps
        Number :math:`n` of steps in all. The last one has, and any later one keeps, the value
        `end`.
    start, end
        Values at the first and at the last step; 0.996 and 1 in :cite:t:`Grill2020`.

    Raises
    ------
    ValueError
        If `step` or `n_steps` is negative.

    Examples
    --------
    >>> from scssl.nn import momentum_schedule
    >>> [round(momentum_schedule(step, 5, 0.9), 3) for step in range(6)]
    [0.9, 0.915, 0.95, 0.985, 1.0, 1.0]
    """
    check_whole("step", step, 0)
    check_whole("n_steps", n_steps, 0)
    if step >= n_steps - 1:
        return end
    return end - (end - start) * (math.cos(math.pi * step / (n_steps - 1)) + 1) / 2
