"""One batch out of those of all processes."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


def gather(z: Tensor) -> Tensor:
    """Embeddings of the cells of all processes, in the order of the processes, with a gradient.

    Every process evaluates the objective on the whole batch. Its gradient with respect to the
    embeddings is summed over the :math:`W` processes, so a process backpropagates :math:`W` times
    the gradient of its own cells; the mean over processes that
    :class:`torch.nn.parallel.DistributedDataParallel` takes of the parameters' gradients is then the
    gradient that one process would have found on the whole batch.

    All processes must have the same number of cells, and must call this equally often. In a single
    process it returns its argument.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return z
    # Not at the top: builds of PyTorch without processes do not have it.
    from torch.distributed.nn.functional import all_gather

    return torch.cat(all_gather(z))
