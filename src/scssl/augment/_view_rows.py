"""What views are made of: rows of sparse batches, values cell by cell, and random decisions.

No operation on rows sorts. Columns within a cell come out in any order, each at most once.

To exchange entries between two sparse cells, both need the same decision for the same gene. A hash
of the position gives it at stored entries only, without a random number per gene.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable

import torch
from torch import Tensor

from scssl.nn import SparseRows, cpu, drawn, drawn_in_rows, gather, gather_sparse, places

Batch = SparseRows | Tensor


def shape_of(x: Batch) -> tuple[int, int]:
    """Number of cells and of genes."""
    return (x.n_cells, x.n_genes) if isinstance(x, SparseRows) else (x.shape[0], x.shape[1])


def device_of(x: Batch) -> torch.device:
    """Where the batch is."""
    return x.values.device if isinstance(x, SparseRows) else x.device


def values_of(x: Batch) -> Tensor:
    """Stored values ``(n_stored,)``, or the dense matrix."""
    return x.values if isinstance(x, SparseRows) else x


def per_value(x: Batch, of_cells: Tensor) -> Tensor:
    """Numbers of cells, shaped to go with :func:`values_of`."""
    return of_cells.index_select(0, x.rows) if isinstance(x, SparseRows) else of_cells.unsqueeze(1)


def with_values(x: Batch, values: Tensor) -> Batch:
    """The same cells with other values, shaped as :func:`values_of`; zeros are no longer stored."""
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


def drawn_for(x: Batch, draw: Callable[[tuple[int, ...]], Tensor]) -> Tensor:
    """What is drawn for each of the values, shaped as :func:`values_of`; `draw` takes a shape."""
    if isinstance(x, SparseRows):
        return drawn_in_rows(lambda n: draw((n,)), x.pointers)
    return drawn(lambda n: draw((n, x.shape[1])), len(x))


def gathered(x: Batch) -> Batch:
    """Cells of all processes."""
    if isinstance(x, SparseRows):
        return SparseRows(*gather_sparse(x.pointers, x.columns, x.values), x.n_genes)
    return gather(x)


def position_keys(x: SparseRows, cells: Tensor | None = None) -> Tensor:
    """Number of each stored entry among all ``n_cells * n_genes``; int64.

    With the place of each cell among those of all processes, its number among all of these.
    """
    rows = x.rows if cells is None else cells.index_select(0, x.rows)
    return torch.add(x.columns, rows, alpha=x.n_genes)


def coins_for(x: SparseRows, seed: Tensor, probability: float) -> Tensor:
    """Decision of each stored entry: the same for one gene of a cell, whichever batch it is stored in."""
    cells = places(x.n_cells, x.values.device)
    return bernoulli(position_keys(x, cells), seed, probability)


def take(x: SparseRows, cells: Tensor, kept: Tensor | None = None) -> SparseRows:
    """Chosen cells, in this order, repeats allowed; without entries where not ``kept``."""
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
    """Entries of two batches of the same cells, cell by cell; no entry may be in both."""
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
    """Cells of ``x`` where ``chosen``, else those of ``other``."""
    if isinstance(x, SparseRows) and isinstance(other, SparseRows):
        cells = torch.arange(x.n_cells, device=chosen.device)
        return join(take(x, cells, chosen), take(other, cells, ~chosen))
    return torch.where(chosen.unsqueeze(1), to_dense(x), to_dense(other))


def match(x: SparseRows, other: SparseRows) -> tuple[Tensor, Tensor]:
    """Value in ``other`` of each entry of ``x``, or 0; and which of ``other`` are not in ``x``."""
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


# Odd constants of SplitMix64, as signed integers: PyTorch has 64-bit integers with a sign only.
_FIRST = -0x40A7B892E31B1A47
_SECOND = -0x6B2FB644ECCEEE15
_LOW = 0xFFFFFFFF


def scramble(key: Tensor) -> Tensor:
    """Hash of int64 keys, uniform over all int64; overwrites ``key``."""
    key *= _FIRST
    key ^= (key >> 32) & _LOW
    key *= _SECOND
    key ^= (key >> 32) & _LOW
    key *= _FIRST
    return key


def bernoulli(key: Tensor, seed: Tensor | int, probability: float) -> Tensor:
    """Decision of each int64 key, true with this probability; another seed gives others."""
    if probability >= 1:
        return torch.ones_like(key, dtype=torch.bool)
    # The hash is compared as an integer: no step to floats, and all of its bits count.
    return scramble(key + seed) < round((probability - 0.5) * 2**64)


def coins(shape: torch.Size | tuple[int, ...], probability: float, rng: torch.Generator) -> Tensor:
    """Independent decisions, four for each random number, to within 1/65,536 of the probability."""
    n = math.prod(shape)
    if probability >= 1:
        return torch.ones(shape, dtype=torch.bool, device=rng.device)
    draws = torch.empty(-(-n // 4), dtype=torch.int64, device=rng.device)
    draws.random_(-(2**63), None, generator=rng)
    # The greatest 16-bit integer is the most that 16-bit integers can be compared with.
    bound = min(round((probability - 0.5) * 2**16), 2**15 - 1)
    return (draws.view(torch.int16)[:n] < bound).view(shape)


def draw_seed(rng: torch.Generator, device: torch.device) -> Tensor:
    """Seed for :func:`bernoulli`, which stays on the device; int64, shape ``(1,)``."""
    return torch.randint(2**62, (1,), generator=rng, device=device)


def key_of_names(seed: int, *names: str) -> int:
    """Seed for the consumer of these names.

    Seeds that follow each other give unrelated results, so that a position and the next seed do
    not stand for the next position and the seed.
    """
    key = seed % 2**62
    for name in ("", *names):
        key = int(scramble(torch.tensor([key ^ zlib.crc32(name.encode())]))[0]) % 2**62
    return key
