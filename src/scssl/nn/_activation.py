"""Activations, by the names that models accept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


class _SELU(torch.autograd.Function):
    alpha = 1.6732632423543772848170429916717
    scale = 1.0507009873554804934193349852946

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        negative = x.clamp(max=0).exp_().sub_(1).mul_(_SELU.alpha * _SELU.scale)
        y = negative.add_(x.clamp(min=0), alpha=_SELU.scale)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (y,) = ctx.saved_tensors
        # From the result: the slope is y + alpha * scale where y < 0, and scale elsewhere.
        slope: Tensor = torch.ops.aten.elu_backward(grad, _SELU.alpha, _SELU.scale, 1.0, True, y)
        return slope


class SELU(nn.Module):
    """Scaled exponential linear unit :cite:p:`Klambauer2017`.

    The same function as :class:`torch.nn.SELU`, through ``exp`` instead of ``expm1``: the vectorised
    ``expm1`` of CPU builds can be 20 times slower for minutes at a time on some machines, and near
    zero the difference is a rounding error of 1e-7.
    """

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype in (torch.bfloat16, torch.float16):
            # exp(x) - 1 would lose the digits that half precision has near zero.
            return nn.functional.selu(x)
        y: Tensor = _SELU.apply(x)
        return y


_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "selu": SELU,
    "gelu": nn.GELU,
    "relu": nn.ReLU,
    "silu": nn.SiLU,
    "leaky_relu": nn.LeakyReLU,
}


def activation(name: str) -> nn.Module:
    """New activation layer called ``name``.

    Raises
    ------
    ValueError
        If there is no such activation.
    """
    if name not in _ACTIVATIONS:
        raise ValueError(f"`activation` must be one of {', '.join(_ACTIVATIONS)}; found {name!r}.")
    return _ACTIVATIONS[name]()
