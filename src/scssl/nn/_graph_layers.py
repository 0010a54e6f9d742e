"""Sums over the neighbours of cells, whose cost goes with the number of links."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

# Links of which the products are in memory at a time: few enough to stay in the cache.
_BLOCK = 2**10


@dataclass(frozen=True)
class Links:
    """Links of a graph in which each is there in both directions.

    Parameters
    ----------
    cells, others
        Cell and neighbour of each link, ascending by cell and then by neighbour; int64.
    n_cells
        Number of cells.
    """

    cells: Tensor
    others: Tensor
    n_cells: int

    @cached_property
    def pointers(self) -> Tensor:
        """Start of the links of each cell, ``(n_cells + 1,)``."""
        counts = torch.bincount(self.cells, minlength=self.n_cells)
        return functional.pad(counts.cumsum(0), (1, 0))

    @cached_property
    def back(self) -> Tensor:
        """Position of each link in the other direction."""
        return torch.argsort(self.others * self.n_cells + self.cells)

    def sum(self, weights: Tensor, values: Tensor) -> Tensor:
        """Weighted sum over the neighbours of each cell, in float32.

        Parameters
        ----------
        weights
            Of each link.
        values
            Of the cells, ``(n_cells, width)``.
        """
        found: Tensor = _NeighborSum.apply(weights.float(), values.float(), self)
        return found

    def softmax(self, scores: Tensor) -> Tensor:
        """Weights of the links that sum to 1 for each cell; each cell has a link.

        Parameters
        ----------
        scores
            Of each link; bounded, as nothing is subtracted from them.
        """
        raised = scores.float().exp()
        total = raised.new_zeros(self.n_cells).index_add(0, self.cells, raised)
        return raised / total[self.cells]


class _NeighborSum(torch.autograd.Function):
    """Nothing as long as the links and as wide as the values is ever in memory, forward or backward."""

    @staticmethod
    def forward(ctx: Any, weights: Tensor, values: Tensor, links: Links) -> Tensor:
        ctx.save_for_backward(weights, values)
        ctx.links = links
        return _summed(links, weights, values)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        (weights, values), links = ctx.saved_tensors, ctx.links
        of_weights = of_values = None
        if ctx.needs_input_grad[0]:
            of_weights = torch.cat(
                [
                    grad.index_select(0, cells).mul_(values.index_select(0, others)).sum(dim=1)
                    for cells, others in zip(
                        links.cells.split(_BLOCK), links.others.split(_BLOCK), strict=True
                    )
                ]
            )
        if ctx.needs_input_grad[1]:
            of_values = _summed(links, weights[links.back], grad)
        return of_weights, of_values, None


def _summed(links: Links, weights: Tensor, values: Tensor) -> Tensor:
    found: Tensor = functional.embedding_bag(
        links.others,
        values.contiguous(),
        links.pointers,
        mode="sum",
        per_sample_weights=weights,
        include_last_offset=True,
    )
    return found
