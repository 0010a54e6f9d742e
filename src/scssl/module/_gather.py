"""One batch out of those of all processes."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor) -> Tensor:
        ctx.n_rows = len(z)
        z = z.contiguous()
        parts = [torch.empty_like(z) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, z)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        # A copy: the sum is written in place, and the gradient may have other readers.
        total = grad.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total.narrow(0, dist.get_rank() * ctx.n_rows, ctx.n_rows)


def gather(z: Tensor) -> Tensor:
    r"""Embeddings of the cells of all processes, in the order of the processes, with a gradient.

    Every process evaluates the objective on the whole batch. Its gradient with respect to the
    embeddings is summed over the :math:`W` processes, so a process backpropagates :math:`W` times
    the gradient of its own cells; the mean over processes that
    :class:`torch.nn.parallel.DistributedDataParallel` takes of the parameters' gradients is then the
    gradient that one process would have found on the whole batch.

    All processes must have the same number of cells, and must call this equally often. In a single
    process it returns its argument.

    Parameters
    ----------
    z
        Shape ``(n_cells, n_dimensions)``.

    Returns
    -------
    Shape ``(n_processes * n_cells, n_dimensions)``.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return z
    whole: Tensor = _Gather.apply(z)
    return whole
