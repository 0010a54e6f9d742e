"""A batch of cells as compressed sparse rows on one device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from . import cpu


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
    def from_tensor(cls, x: Tensor) -> SparseRows:
        """Rows of a sparse CSR tensor, without a copy, or of a dense matrix."""
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
