"""Compiled batch normalisation of small matrices, where PyTorch's time is that of calling it.

One thread each: what they do takes less time than to wake a second one.
"""

from __future__ import annotations

import numba
import numpy as np
import torch
from torch import Tensor

# Sums may be reordered and fused, but NaN stays NaN.
_FAST = {"reassoc", "contract", "arcp", "nsz"}


@numba.njit(fastmath=_FAST, nogil=True, cache=True)
def _normalise(x, weight, bias, eps, hat, out, mean, variance, inverse):  # pragma: no cover
    n, width = x.shape
    total = np.zeros(width)
    for i in range(n):
        row = x[i]
        for j in range(width):
            total[j] += row[j]
    for j in range(width):
        mean[j] = total[j] / n
        total[j] = 0
    for i in range(n):
        row, centred = x[i], hat[i]
        for j in range(width):
            centred[j] = row[j] - mean[j]
            total[j] += centred[j] * centred[j]
    for j in range(width):
        variance[j] = total[j] / n
        inverse[j] = 1 / np.sqrt(total[j] / n + eps)
    for i in range(n):
        scaled, row = hat[i], out[i]
        for j in range(width):
            scaled[j] *= inverse[j]
            row[j] = scaled[j] * weight[j] + bias[j]


@numba.njit(fastmath=_FAST, nogil=True, cache=True)
def _normalise_backward(grad, hat, inverse, weight, of_x, of_weight, of_bias):  # pragma: no cover
    n, width = grad.shape
    # Sums in double precision: a shift before this layer has a gradient of 0, and what is left of it
    # is rounding, which Adam would blow up to full steps.
    total, along = np.zeros(width), np.zeros(width)
    for i in range(n):
        row, scaled = grad[i], hat[i]
        for j in range(width):
            total[j] += row[j]
            along[j] += row[j] * scaled[j]
    for j in range(width):
        of_bias[j], of_weight[j] = total[j], along[j]
        total[j] /= n
        along[j] /= n
    for i in range(n):
        row, scaled, new = grad[i], hat[i], of_x[i]
        for j in range(width):
            new[j] = (row[j] - total[j] - scaled[j] * along[j]) * weight[j] * inverse[j]


def normalise(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Batch normalisation by the statistics of the batch; float32 on the CPU.

    Output, output before scale and shift, mean, variance and inverse of the standard deviation.

    Parameters
    ----------
    x
        Shape ``(n_cells, width)``.
    weight, bias
        Scale and shift, shape ``(width,)``; 1 and 0 where `None`.
    eps
        Added to the variance.
    """
    x = x.contiguous()
    out, hat = torch.empty_like(x), torch.empty_like(x)
    mean, variance, inverse = x.new_empty(3, x.shape[1]).unbind()
    weight = torch.ones_like(mean) if weight is None else weight
    bias = torch.zeros_like(mean) if bias is None else bias
    inputs = (t.detach().numpy() for t in (x, weight, bias))
    outputs = (t.numpy() for t in (hat, out, mean, variance, inverse))
    _normalise(*inputs, eps, *outputs)
    return out, hat, mean, variance, inverse


def normalise_backward(
    grad: Tensor, hat: Tensor, inverse: Tensor, weight: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of input, scale and shift of :func:`normalise`.

    Parameters
    ----------
    grad
        Of the output.
    hat, inverse
        What :func:`normalise` gave.
    weight
        What it was given.
    """
    grad = grad.contiguous()
    of_x = torch.empty_like(grad)
    of_weight, of_bias = grad.new_empty(2, grad.shape[1]).unbind()
    weight = torch.ones_like(inverse) if weight is None else weight
    arrays = (grad, hat, inverse, weight, of_x, of_weight, of_bias)
    _normalise_backward(*(t.detach().numpy() for t in arrays))
    return of_x, of_weight, of_bias
