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
    one = np.float32(1 / n)
    mean[:] = 0
    variance[:] = 0
    for i in range(n):
        row = x[i]
        for j in range(width):
            mean[j] += row[j]
    for j in range(width):
        mean[j] *= one
    for i in range(n):
        row, centred = x[i], hat[i]
        for j in range(width):
            centred[j] = row[j] - mean[j]
            variance[j] += centred[j] * centred[j]
    for j in range(width):
        variance[j] *= one
        inverse[j] = np.float32(1) / np.sqrt(variance[j] + eps)
    for i in range(n):
        scaled, row = hat[i], out[i]
        for j in range(width):
            scaled[j] *= inverse[j]
            row[j] = scaled[j] * weight[j] + bias[j]


@numba.njit(fastmath=_FAST, nogil=True, cache=True)
def _normalise_backward(grad, hat, inverse, weight, of_x, of_weight, of_bias):  # pragma: no cover
    n, width = grad.shape
    one = np.float32(1 / n)
    of_weight[:] = 0
    of_bias[:] = 0
    for i in range(n):
        row, scaled = grad[i], hat[i]
        for j in range(width):
            of_bias[j] += row[j]
            of_weight[j] += row[j] * scaled[j]
    for i in range(n):
        row, scaled, new = grad[i], hat[i], of_x[i]
        for j in range(width):
            mean = one * (of_bias[j] + scaled[j] * of_weight[j])
            new[j] = (row[j] - mean) * weight[j] * inverse[j]


def normalise(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Batch normalisation by the statistics of the batch; float32 on the CPU.

    Parameters
    ----------
    x
        Shape ``(n_cells, width)``.
    weight, bias
        Scale and shift, shape ``(width,)``; 1 and 0 where `None`.
    eps
        Added to the variance.

    Returns
    -------
    Output, output before scale and shift, mean, variance and inverse of the standard deviation.
    """
    x = x.contiguous()
    out, hat = torch.empty_like(x), torch.empty_like(x)
    mean, variance, inverse = x.new_empty(3, x.shape[1]).unbind()
    weight = torch.ones_like(mean) if weight is None else weight
    bias = torch.zeros_like(mean) if bias is None else bias
    inputs = (t.detach().numpy() for t in (x, weight, bias))
    outputs = (t.numpy() for t in (hat, out, mean, variance, inverse))
    _normalise(*inputs, np.float32(eps), *outputs)
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
