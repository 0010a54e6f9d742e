"""Batch normalisation that is quick for a few hundred cells."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from . import cpu

#: Entries up to which compiled kernels on one thread beat PyTorch's operations.
_SMALL = 2**17


class _Normalised(torch.autograd.Function):
    r"""Batch normalisation by the statistics of the batch.

    With :math:`\hat x = (x - \mu) / \sqrt{\sigma^2 + \epsilon}` and :math:`g` the gradient of
    :math:`w \hat x + b`,

    .. math:: \frac{\partial L}{\partial x} = \frac{w}{\sqrt{\sigma^2 + \epsilon}}
        \left(g - \bar g - \hat x \, \overline{g \hat x}\right)

    where the bar is the mean over the batch.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        if _has_kernel(x, weight):
            from .cpu.norm import normalise

            out, hat, mean, variance, inverse = normalise(x, weight, bias, eps)
            ctx.save_for_backward(hat, inverse, weight)
            ctx.mark_non_differentiable(mean, variance)
            return out, mean, variance
        mean = x.mean(0)
        centred = x - mean
        variance = centred.square().mean(0)
        inverse = (variance + eps).rsqrt_()
        hat = centred.mul_(inverse)
        ctx.save_for_backward(hat, inverse, weight)
        ctx.mark_non_differentiable(mean, variance)
        out = hat.clone() if weight is None or bias is None else torch.addcmul(bias, hat, weight)
        return out, mean, variance

    @staticmethod
    def backward(
        ctx: Any, grad: Tensor, *_: Tensor
    ) -> tuple[Tensor, Tensor | None, Tensor | None, None]:
        hat, inverse, weight = ctx.saved_tensors
        if _has_kernel(grad, weight):
            from .cpu.norm import normalise_backward

            of_x, *of_affine = normalise_backward(grad, hat, inverse, weight)
            return of_x, *(of_affine if weight is not None else (None, None)), None
        mean = grad.mean(0)
        along = (grad * hat).mean(0)
        of_x = (grad - mean).addcmul_(hat, along, value=-1)
        if weight is None:
            return of_x.mul_(inverse), None, None, None
        return of_x.mul_(weight * inverse), along * len(grad), mean * len(grad), None


def _has_kernel(x: Tensor, weight: Tensor | None) -> bool:
    return x.numel() <= _SMALL and cpu.enabled(x, weight)


class BatchNorm(nn.BatchNorm1d):
    """Batch normalisation :cite:p:`Ioffe2015`, as :class:`torch.nn.BatchNorm1d`.

    PyTorch's own takes three times as long in training on a matrix of a few hundred rows on the CPU.
    Elsewhere, and in evaluation, it is PyTorch's own.
    """

    def forward(self, x: Tensor) -> Tensor:
        ours = self.training and x.device.type == "cpu" and x.ndim == 2 and len(x) > 1
        if not ours or x.dtype != torch.float32 or self.momentum is None:
            return super().forward(x)
        out, mean, variance = _Normalised.apply(x, self.weight, self.bias, self.eps)
        if self.track_running_stats:
            n = len(x)
            with torch.no_grad():
                self.running_mean.lerp_(mean, self.momentum)  # type: ignore[union-attr]
                unbiased = variance * (n / (n - 1))
                self.running_var.lerp_(unbiased, self.momentum)  # type: ignore[union-attr]
                self.num_batches_tracked.add_(1)  # type: ignore[union-attr]
        y: Tensor = out
        return y
