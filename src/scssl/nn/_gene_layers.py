"""The two layers as wide as the transcriptome, at a cost that hardly grows with it."""

from __future__ import annotations

import math
from typing import Any

import torch
from scipy import sparse
from torch import Tensor, nn
from torch.nn import functional

from . import cpu
from ._sparse_rows import SparseRows


class _SparseProduct(torch.autograd.Function):
    """``X @ weight`` for sparse X on the CPU, in float32 also under autocast."""

    @staticmethod
    @torch.amp.custom_fwd(device_type="cpu", cast_inputs=torch.float32)
    def forward(
        ctx: Any, weight: Tensor, pointers: Tensor, columns: Tensor, values: Tensor
    ) -> Tensor:
        ctx.save_for_backward(pointers, columns, values)
        ctx.n_genes = len(weight)
        product: Tensor = functional.embedding_bag(
            columns,
            weight,
            pointers,
            mode="sum",
            per_sample_weights=values,
            include_last_offset=True,
        )
        return product

    @staticmethod
    @torch.amp.custom_bwd(device_type="cpu")
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        # Compressed by gene, each row of the gradient is written once while the batch of
        # gradients stays in cache; PyTorch's own backward takes about ten times as long.
        pointers, columns, values = (t.numpy() for t in ctx.saved_tensors)
        shape = (len(pointers) - 1, ctx.n_genes)
        by_gene = sparse.csr_matrix((values, columns, pointers), shape=shape).tocsc()
        if not cpu.enabled(grad, ctx.saved_tensors[2]):
            return torch.from_numpy(by_gene.T @ grad.numpy()), None, None, None
        from .cpu.rows import transposed_product

        out = grad.new_empty(ctx.n_genes, grad.shape[1])
        transposed_product(
            by_gene.indptr, by_gene.indices, by_gene.data, grad.contiguous().numpy(), out.numpy()
        )
        return out, None, None, None


class _TakeRows(torch.autograd.Function):
    """Some rows of a parameter, whose gradient is sparse and stays so."""

    @staticmethod
    def forward(ctx: Any, parameter: Tensor, rows: Tensor) -> Tensor:
        ctx.save_for_backward(rows)
        ctx.shape = parameter.shape
        return parameter.index_select(0, rows)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (rows,) = ctx.saved_tensors
        sparse_grad = torch.sparse_coo_tensor(
            rows.unsqueeze(0), grad, ctx.shape, is_coalesced=True, check_invariants=False
        )
        return sparse_grad, None


def take_rows(parameter: Tensor, rows: Tensor) -> Tensor:
    """Rows of a parameter, whose gradient is of these rows only, as ``RowAdamW`` takes it.

    Parameters
    ----------
    parameter
        Any number of dimensions.
    rows
        Row numbers, ascending, each once.
    """
    taken: Tensor = _TakeRows.apply(parameter, rows)
    return taken


class GeneEncoder(nn.Module):
    """First layer of an encoder: ``x @ weight + bias`` for a sparse batch of cells.

    On the CPU only the stored values are multiplied, forward and backward, which equals the dense
    layer to rounding. On other devices the batch is made dense there, where dense products are
    cheap.

    Parameters
    ----------
    n_genes
        Number of genes.
    n_out
        Width of the output.
    """

    def __init__(self, n_genes: int, n_out: int) -> None:
        super().__init__()
        # Stored by gene, so that the row of an expressed gene is one piece of memory.
        self.weight = nn.Parameter(torch.empty(n_genes, n_out))
        self.bias = nn.Parameter(torch.empty(n_out))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """PyTorch's default for a linear layer: uniform within ``1 / sqrt(n_genes)``."""
        bound = 1 / math.sqrt(self.weight.shape[0])
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, x: SparseRows) -> Tensor:
        if x.values.device.type == "cpu":
            product: Tensor = _SparseProduct.apply(self.weight, x.pointers, x.columns, x.values)
            return product + self.bias
        return self.dense(x.to_dense())

    def dense(self, x: Tensor) -> Tensor:
        """The same for a dense batch."""
        return x @ self.weight + self.bias


class GeneDecoder(nn.Linear):
    """Last layer of a decoder: all genes, or only some of them.

    Parameters
    ----------
    n_in
        Width of the input.
    n_genes
        Number of genes.
    """

    def __init__(self, n_in: int, n_genes: int) -> None:
        super().__init__(n_in, n_genes)

    @torch.no_grad()
    def start_at(self, mean: Tensor, scale: float, genes: Tensor | None = None) -> None:
        """Start from the mean expression of each gene.

        An output layer that starts at random spends its first epochs unlearning noise on every
        gene, which hurts most where a gene is decoded in few steps.

        Parameters
        ----------
        mean
            Mean of each gene, which becomes the bias.
        scale
            Factor on the initial weights.
        genes
            Genes to start; boolean, all by default.
        """
        where = torch.ones_like(mean, dtype=torch.bool) if genes is None else genes
        self.bias[where] = mean[where]
        self.weight[where] *= scale

    def forward(self, hidden: Tensor, genes: Tensor | None = None) -> Tensor:
        """Decode.

        Parameters
        ----------
        hidden
            Shape ``(n_cells, n_in)``.
        genes
            Genes to decode, ascending, all by default. The gradient of the weights is then sparse,
            rows of these genes only, as ``scssl.train.RowAdamW`` takes it.
        """
        if genes is None:
            return super().forward(hidden)
        return functional.linear(hidden, take_rows(self.weight, genes), take_rows(self.bias, genes))
