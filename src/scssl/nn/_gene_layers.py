"""Cells as sparse rows, and the layers as wide as the transcriptome, whose cost hardly grows with it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from scipy import sparse
from torch import Tensor, nn
from torch.nn import functional

from scssl._checks import check_whole

from . import cpu

#: What a probability of 1 is in the draws of genes.
_TICKS = 2**32


@dataclass(frozen=True)
class SparseRows:
    """Expression of a batch of cells, stored values only.

    Parameters
    ----------
    pointers
        Start of each row in ``columns`` and ``values``; shape ``(n_cells + 1,)``.
    columns
        Gene of each stored value.
    values
        Stored values.
    n_genes
        Number of genes, stored or not.
    """

    pointers: Tensor
    columns: Tensor
    values: Tensor
    n_genes: int

    @classmethod
    def from_tensor(cls, x: Tensor | SparseRows) -> SparseRows:
        """Rows of a sparse CSR tensor, without a copy, or of a dense matrix; rows are what they are."""
        if isinstance(x, SparseRows):
            return x
        if x.layout != torch.sparse_csr:
            rows, columns = x.nonzero(as_tuple=True)
            counts = torch.bincount(rows, minlength=x.shape[0])
            pointers = torch.nn.functional.pad(counts.cumsum(0), (1, 0))
            return cls(pointers, columns, x[rows, columns], x.shape[1])
        return cls(x.crow_indices(), x.col_indices(), x.values(), x.shape[1])

    @property
    def n_cells(self) -> int:
        return len(self.pointers) - 1

    @property
    def n_stored(self) -> int:
        return len(self.values)

    @cached_property
    def rows(self) -> Tensor:
        """Cell of each stored value; int64, shape ``(n_stored,)``."""
        cells = torch.arange(self.n_cells, device=self.pointers.device)
        return cells.repeat_interleave(self.pointers.diff().long(), output_size=self.n_stored)

    def keep(self, kept: Tensor, values: Tensor | None = None) -> SparseRows:
        """The same cells with only the stored values where ``kept`` is true.

        Parameters
        ----------
        kept
            Boolean, shape ``(n_stored,)``.
        values
            Values to use instead of the stored ones; shape ``(n_stored,)``.
        """
        values = self.values if values is None else values
        if cpu.enabled(values) and not values.requires_grad:
            from .cpu.rows import compress

            # One pass over the entries, where PyTorch takes one for each of seven operations.
            arrays = (self.pointers, self.columns, values.contiguous(), kept.contiguous())
            pointers, columns, found = map(torch.from_numpy, compress(*(t.numpy() for t in arrays)))
            return SparseRows(pointers, columns, found, self.n_genes)
        before = torch.nn.functional.pad(kept.cumsum(0, dtype=self.pointers.dtype), (1, 0))
        where = kept.nonzero().squeeze(1)
        return SparseRows(
            before.index_select(0, self.pointers.long()),
            self.columns.index_select(0, where),
            values.index_select(0, where),
            self.n_genes,
        )

    def hide(self, visible: Tensor, values: Tensor | None = None) -> SparseRows:
        """The same cells for :class:`GeneEncoder`, with the stored values where ``visible`` is true and zeros elsewhere.

        On the CPU it is :meth:`keep`. Elsewhere hidden values stay stored, as zeros: how many are kept is
        not known before the device is done with all that it was told, and waiting for that costs more.

        Parameters
        ----------
        visible
            Boolean, shape ``(n_stored,)``.
        values
            Values to use instead of the stored ones; shape ``(n_stored,)``.
        """
        if self.values.device.type == "cpu":
            return self.keep(visible, values)
        values = self.values if values is None else values
        return SparseRows(self.pointers, self.columns, values * visible, self.n_genes)

    def to(self, device: torch.device) -> SparseRows:
        """The same on a device, see ``scssl.nn.to_device``."""
        pointers, columns, values = (
            to_device(part, device) for part in (self.pointers, self.columns, self.values)
        )
        return SparseRows(pointers, columns, values, self.n_genes)

    @classmethod
    def stack(cls, parts: Sequence[SparseRows]) -> SparseRows:
        """Cells of several batches of the same genes, one below the other.

        Parameters
        ----------
        parts
            The batches.
        """
        starts, pointers = 0, [parts[0].pointers[:1]]
        for part in parts:
            pointers.append(part.pointers[1:] + starts)
            starts += part.n_stored
        return cls(
            torch.cat(pointers),
            torch.cat([part.columns for part in parts]),
            torch.cat([part.values for part in parts]),
            parts[0].n_genes,
        )

    def slice(self, start: int, stop: int) -> SparseRows:
        """Cells ``start`` to ``stop`` as views of the same storage."""
        stop = min(stop, self.n_cells)
        first, last = int(self.pointers[start]), int(self.pointers[stop])
        return SparseRows(
            self.pointers[start : stop + 1] - first,
            self.columns[first:last],
            self.values[first:last],
            self.n_genes,
        )

    def to_dense(self) -> Tensor:
        """Dense matrix ``(n_cells, n_genes)`` on the device of the rows."""
        dense = self.values.new_zeros(self.n_cells * self.n_genes)
        dense.index_copy_(0, self.rows * self.n_genes + self.columns, self.values)
        return dense.view(self.n_cells, self.n_genes)


def to_device(value: Tensor, device: torch.device) -> Any:
    """A tensor of a batch on a device; a sparse one arrives as :class:`SparseRows`.

    To a GPU of NVIDIA it is copied from pinned memory, which nothing has to wait for. Arrays of a sparse tensor
    are copied one by one: as a whole it cannot be pinned, and Apple's GPUs do not have it.

    Parameters
    ----------
    value
        The tensor, on the CPU or there already.
    device
        Where to put it.
    """
    if device.type == "cpu" or value.device == device:
        return value
    if value.layout == torch.sparse_csr:
        return SparseRows.from_tensor(value).to(device)
    pinned = device.type == "cuda"
    return (value.pin_memory() if pinned else value).to(device, non_blocking=pinned)


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


class LinearPath(GeneEncoder):
    """Fixed linear combinations of genes beside what a network makes of a cell, each part with a scale.

    They are zero until they are told which, by :meth:`start_at`.

    Parameters
    ----------
    n_genes
        Number of genes.
    n_out
        Number of combinations.
    """

    def __init__(self, n_genes: int, n_out: int) -> None:
        super().__init__(n_genes, n_out)
        self.requires_grad_(False)
        self.register_buffer("scale", torch.ones(2))
        self.scale: Tensor

    def reset_parameters(self) -> None:
        """Nothing is seen until it is told what."""
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)

    @property
    def is_set(self) -> bool:
        """Whether it was told which combinations to take."""
        return bool(self.weight.any())

    @torch.no_grad()
    def start_at(self, weight: Tensor, mean: Tensor) -> None:
        """Take these combinations of the deviations of genes from their mean.

        Parameters
        ----------
        weight
            Shape ``(n_genes, n_out)``.
        mean
            Of each gene.
        """
        self.weight.copy_(weight)
        self.bias.copy_(-(mean @ weight))

    def beside(self, z: Tensor, combinations: Tensor) -> Tensor:
        """Both, each times its scale, shape ``(n_cells, n_z + n_out)``."""
        return torch.cat([z * self.scale[0], combinations.to(z) * self.scale[1]], dim=1)

    def network_part(self, both: Tensor) -> Tensor:
        """What the network gave, of what :meth:`beside` made of it."""
        return both[:, : both.shape[1] - self.weight.shape[1]] / self.scale[0]


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


class GeneSampler:
    r"""Draw part of the genes so that a sum over the part estimates the sum over all without bias.

    Gene :math:`g` is drawn with probability :math:`\pi_g = \min(1, c\,q_g)`,
    :math:`q_g = (1-\epsilon)\,\sigma_g / \sum_h \sigma_h + \epsilon / G`, and a drawn gene counts
    :math:`1/\pi_g` (Horvitz-Thompson). :math:`\sigma_g` is the standard deviation of the gene: its
    square is what the gene adds to the loss at the start of training, and sampling in proportion to
    its root keeps both the variance of the loss and the largest weight low. :math:`c` is set so that
    exactly ``n_draw`` genes are drawn each time; the draw is systematic (Madow) over a random order
    of the genes.

    Parameters
    ----------
    spread
        Standard deviation of each gene, shape ``(n_genes,)``.
    n_draw
        Genes per draw.
    floor
        Share :math:`\epsilon` of the draws that is spread evenly over all genes, so that no gene
        is without updates.
    eligible
        Positions of the genes that count at all, ascending; all by default. No other is drawn.

    Raises
    ------
    ValueError
        If ``n_draw`` is not between 1 and the number of genes.
    """

    def __init__(
        self,
        spread: np.ndarray,
        n_draw: int,
        *,
        floor: float = 0.1,
        eligible: np.ndarray | None = None,
    ) -> None:
        self.eligible = None if eligible is None else torch.from_numpy(np.asarray(eligible))
        if eligible is not None:
            spread = np.asarray(spread)[eligible]
            n_draw = min(n_draw, len(spread))
        n_genes = len(spread)
        check_whole("n_output_genes", n_draw, 1, n_genes)
        spread = np.asarray(spread, dtype=np.float64)
        total = spread.sum()
        share = spread / total if total > 0 else np.full(n_genes, 1 / n_genes)
        self.probability = _inclusion(share * (1 - floor) + floor / n_genes, n_draw)
        # In whole numbers: sums are exact on any device, also on those without float64.
        self._ticks = torch.from_numpy(_in_ticks(self.probability, n_draw))
        self._counts = torch.from_numpy((1 / self.probability).astype(np.float32))
        self.n_draw = n_draw

    def draw(self, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Drawn genes, ascending, and what each counts; int64 and float32."""
        device, n_genes = rng.device, len(self.probability)
        if self.n_draw == n_genes:
            return self._genes(torch.arange(n_genes, device=device)), torch.ones(
                n_genes, device=device
            )
        if self._ticks.device != device:
            self._ticks, self._counts = self._ticks.to(device), self._counts.to(device)
        order = torch.randperm(n_genes, generator=rng, device=device)
        start = torch.randint(_TICKS, (1,), generator=rng, device=device)
        drawn_at = start + torch.arange(self.n_draw, device=device) * _TICKS
        # No gene is longer than the distance of two: each is drawn once at most.
        at = torch.searchsorted(self._ticks[order].cumsum(0), drawn_at, right=True)
        drawn = order[at].sort().values
        return self._genes(drawn), self._counts[drawn]

    def _genes(self, drawn: Tensor) -> Tensor:
        if self.eligible is None:
            return drawn
        return self.eligible.to(drawn.device).index_select(0, drawn)


def _in_ticks(probability: np.ndarray, n_draw: int) -> np.ndarray:
    """Probabilities as whole numbers of which `_TICKS` are 1, with the exact sum of `n_draw`."""
    found = np.minimum(np.floor(probability * _TICKS).astype(np.int64), _TICKS)
    below = np.flatnonzero(found < _TICKS)
    left = n_draw * _TICKS - int(found.sum())
    if left:
        # Rounded down, each by less than one; sums of floats are off by a little more.
        found[below] += left // len(below)
        found[below[: left % len(below)]] += 1
    return found


def _inclusion(share: np.ndarray, n_draw: int) -> np.ndarray:
    """``min(1, c * share)`` with the ``c`` that makes the sum ``n_draw``."""
    probability = np.ones_like(share)
    free = np.ones(len(share), dtype=bool)
    left = n_draw
    # Genes whose probability would pass 1 are always in; the others share what is left.
    while left > 0 and free.any():
        scaled = share[free] * (left / share[free].sum())
        if scaled.max() <= 1:
            probability[free] = scaled
            break
        newly = np.flatnonzero(free)[scaled >= 1]
        free[newly] = False
        left -= len(newly)
    return probability
