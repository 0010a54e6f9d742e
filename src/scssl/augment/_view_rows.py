"""Rows of sparse batches: values cell by cell, chosen cells, two sets of entries in one batch.

No operation sorts. Columns within a cell come out in any order, each at most once.
"""

from __future__ import annotations

import torch
from torch import Tensor

from scssl.nn import SparseRows, cpu

from ._view import Batch


def values_of(x: Batch) -> Tensor:
    """Stored values ``(n_stored,)``, or the dense matrix."""
    return x.values if isinstance(x, SparseRows) else x


def per_value(x: Batch, of_cells: Tensor) -> Tensor:
    """Numbers of cells, shaped to go with :func:`values_of`."""
    return of_cells.index_select(0, x.rows) if isinstance(x, SparseRows) else of_cells.unsqueeze(1)


def with_values(x: Batch, values: Tensor) -> Batch:
    """The same cells with other values, zeros no longer stored.

    Parameters
    ----------
    x
        Batch of cells.
    values
        Shaped as :func:`values_of`.
    """
    return sparse_with_values(x, values) if isinstance(x, SparseRows) else values


def sparse_with_values(x: SparseRows, values: Tensor) -> SparseRows:
    """As :func:`with_values`, of a sparse batch."""
    kept = values != 0
    # Most augmentations leave no zeros, and looking costs little beside copying.
    if bool(kept.all()):
        return SparseRows(x.pointers, x.columns, values, x.n_genes)
    return x.keep(kept, values)


def has_kernel(*batches: Batch) -> bool:
    """Whether compiled kernels take these batches: see :func:`scssl.nn.cpu.enabled`; without a gradient."""
    values = [values_of(x) for x in batches]
    return cpu.enabled(*values) and not any(one.requires_grad for one in values)


def to_dense(x: Batch) -> Tensor:
    """Dense matrix."""
    return x.to_dense() if isinstance(x, SparseRows) else x


def position_keys(x: SparseRows) -> Tensor:
    """Number of each stored entry among all ``n_cells * n_genes``; int64."""
    return torch.add(x.columns, x.rows, alpha=x.n_genes)


def take(x: SparseRows, cells: Tensor, kept: Tensor | None = None) -> SparseRows:
    """Chosen cells, in this order.

    Parameters
    ----------
    x
        Batch of cells.
    cells
        Numbers of cells, int64; a cell may come several times.
    kept
        Which of the chosen are wanted; the others come without entries.
    """
    starts = x.pointers.index_select(0, cells)
    lengths = x.pointers.diff().index_select(0, cells)
    if kept is not None:
        lengths = lengths * kept
    pointers = _pointers(lengths)
    n_stored = int(pointers[-1])
    shift = (starts - pointers[:-1]).long()
    index = torch.arange(n_stored, device=starts.device)
    index += shift.repeat_interleave(lengths.long(), output_size=n_stored)
    columns, values = x.columns.index_select(0, index), x.values.index_select(0, index)
    return SparseRows(pointers, columns, values, x.n_genes)


def join(x: SparseRows, other: SparseRows) -> SparseRows:
    """Entries of both, cell by cell; no entry may be in both.

    Parameters
    ----------
    x
        Batch of cells.
    other
        Other entries of the same cells.
    """
    lengths, others = x.pointers.diff(), other.pointers.diff().to(x.pointers.dtype)
    pointers = _pointers(lengths + others)
    columns = x.columns.new_empty(x.n_stored + other.n_stored)
    values = x.values.new_empty(len(columns))
    for part, before in ((x, None), (other, lengths)):
        shift = pointers[:-1] - part.pointers[:-1]
        if before is not None:
            shift = shift + before
        to = torch.arange(part.n_stored, device=values.device)
        to += shift.long().index_select(0, part.rows)
        columns.index_copy_(0, to, part.columns.to(columns.dtype))
        values.index_copy_(0, to, part.values.to(values.dtype))
    return SparseRows(pointers, columns, values, x.n_genes)


def choose_cells(chosen: Tensor, x: Batch, other: Batch) -> Batch:
    """Cells of ``x`` where ``chosen``, else those of ``other``.

    Parameters
    ----------
    chosen
        Boolean, shape ``(n_cells,)``.
    x, other
        Batches of as many cells and genes.
    """
    if isinstance(x, SparseRows) and isinstance(other, SparseRows):
        cells = torch.arange(x.n_cells, device=chosen.device)
        return join(take(x, cells, chosen), take(other, cells, ~chosen))
    return torch.where(chosen.unsqueeze(1), to_dense(x), to_dense(other))


def match(x: SparseRows, other: SparseRows) -> tuple[Tensor, Tensor]:
    """Look up the entries of one batch in another.

    Returns
    -------
    values
        Value in ``other`` of each entry of ``x``, 0 where it has none; shape ``(x.n_stored,)``.
    unmatched
        Which entries of ``other`` are not in ``x``; boolean, shape ``(other.n_stored,)``.
    """
    keys, others = position_keys(x), position_keys(other)
    # A slot for each entry of the batch that says where it is among the stored ones. It needs no
    # clearing: what is read is believed only if the entry there has the key that was looked for.
    slots = torch.empty(x.n_cells * x.n_genes, dtype=torch.int32, device=keys.device)
    slots.index_copy_(0, keys, torch.arange(len(keys), dtype=torch.int32, device=keys.device))
    values = other.values.new_zeros(len(keys))
    if len(keys) == 0:
        return values, torch.ones_like(others, dtype=torch.bool)
    found = slots.index_select(0, others).long().clamp_(0, len(keys) - 1)
    same = keys.index_select(0, found) == others
    where = same.nonzero().squeeze(1)
    values.index_copy_(0, found.index_select(0, where), other.values.index_select(0, where))
    return values, ~same


def _pointers(lengths: Tensor) -> Tensor:
    ends = lengths.cumsum(0, dtype=lengths.dtype)
    return torch.nn.functional.pad(ends, (1, 0))
