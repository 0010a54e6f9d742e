r"""One batch of several processes that train together: what each draws of it, and what all have.

A batch is that of all processes, and each has some of its rows. What is random is drawn by every process for all
rows, and each takes what is of its own: a cell draws the same in whatever process it is, however many there are.
Sums over the batch are over all rows. A loss is right if its mean over the processes is the loss of the batch:
:class:`torch.nn.parallel.DistributedDataParallel` takes that mean of the gradients.

All of this holds within :func:`sharing` only. Elsewhere, and in a lone process, a batch has no other rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class _Share:
    """Places of the own rows among those of all processes, ascending, and the number of all."""

    places: Tensor
    n: int


_share: _Share | None = None


@contextmanager
def sharing(places: Tensor | None) -> Iterator[None]:
    """Within, a batch is that of all processes.

    All of them have to enter it, and have to do the same there.

    Parameters
    ----------
    places
        Of the own rows among those of all, ascending; `None`: there are no others.
    """
    if places is None:
        yield
        return
    own = places.view(-1)
    with _as(_Share(own, int(total_of_all(own.new_tensor(len(own)))))):
        yield


@contextmanager
def only(rows: Tensor) -> Iterator[int]:
    """Within, a batch is those of its rows only that each process names.

    Gives the number of all.

    Parameters
    ----------
    rows
        Places among the own rows, ascending.
    """
    if _share is None:
        yield len(rows)
        return
    own = _share.places.index_select(0, rows)
    named = own.new_zeros(_share.n).index_fill_(0, own, 1)
    after = total_of_all(named).cumsum(0)
    with _as(_Share(after.index_select(0, own) - 1, int(after[-1]))):
        yield int(after[-1])


@contextmanager
def _as(share: _Share) -> Iterator[None]:
    global _share
    before, _share = _share, share
    try:
        yield
    finally:
        _share = before


def is_shared() -> bool:
    """Whether a batch has rows of other processes."""
    return _share is not None


def n_of_all(n_rows: int) -> int:
    """Number of rows of a batch of which this process has `n_rows`."""
    return n_rows if _share is None else _share.n


def places(n_rows: int, device: torch.device) -> Tensor:
    """Place of each own row among all."""
    return torch.arange(n_rows, device=device) if _share is None else _share.places


def drawn(draw: Callable[[int], Tensor], n_rows: int) -> Tensor:
    """What is drawn for each row.

    Parameters
    ----------
    draw
        Takes a number of rows.
    n_rows
        Number of own rows.
    """
    if _share is None:
        return draw(n_rows)
    return draw(_share.n).index_select(0, _share.places)


def drawn_in_rows(draw: Callable[[int], Tensor], pointers: Tensor) -> Tensor:
    """What is drawn for each entry of sparse rows.

    Parameters
    ----------
    draw
        Takes a number of entries.
    pointers
        Start of each own row, and the end of the last one.
    """
    if _share is None:
        return draw(int(pointers[-1]))
    at, n = _entries(pointers.diff())
    return draw(n).index_select(0, at)


def drawn_from_values(
    draw: Callable[[Tensor, Tensor, int], Tensor], values: Tensor, rows: Tensor, n_rows: int
) -> Tensor:
    """What is drawn for each entry of sparse rows, where its value decides how much is drawn.

    Parameters
    ----------
    draw
        Takes values, the row of each and the number of rows.
    values
        Of the own rows.
    rows
        Row of each, ascending.
    n_rows
        Number of own rows.
    """
    if _share is None:
        return draw(values, rows, n_rows)
    at, n = _entries(rows.bincount(minlength=n_rows))
    every = _placed(_share.places.index_select(0, rows), at, n)
    return draw(_placed(values, at, n), every, _share.n).index_select(0, at)


def first_entries(pointers: Tensor) -> Tensor:
    """Place of the first entry of each own sparse row among the entries of all."""
    return pointers[:-1] if _share is None else _starts(pointers.diff())[0]


def gather(z: Tensor) -> Tensor:
    r"""Rows of all processes in their order, with a gradient.

    Every process evaluates the objective on the whole batch. Its gradient with respect to the rows is summed over
    the :math:`W` processes, so a process backpropagates :math:`W` times the gradient of its own.

    Parameters
    ----------
    z
        Own rows; any number of dimensions.
    """
    return z if _share is None else _placed(z, _share.places, _share.n)


def gather_sparse(
    pointers: Tensor, columns: Tensor, values: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Sparse rows of all processes in their order.

    Parameters
    ----------
    pointers, columns, values
        Of the own rows.
    """
    if _share is None:
        return pointers, columns, values
    at, n = _entries(pointers.diff())
    ends = gather(pointers.diff()).cumsum(0, dtype=pointers.dtype)
    whole = torch.nn.functional.pad(ends, (1, 0))
    return whole, _placed(columns, at, n), _placed(values, at, n)


def mean_of_all(weight: Tensor) -> Tensor:
    """Mean over the processes, without a gradient: what a sum is divided by to be a part of a mean over all rows."""
    if _share is None:
        return weight
    return total_of_all(weight.detach()) / dist.get_world_size()


def weighed(loss: Tensor, weight: Tensor | int) -> Tensor:
    """Part of this process in a loss that is a mean over all rows.

    Parameters
    ----------
    loss
        Mean over the own rows; it does not count where there are none.
    weight
        What the own rows weigh together.
    """
    if _share is None:
        return loss
    own = torch.as_tensor(weight, dtype=torch.float64, device=loss.device)
    share = (own / mean_of_all(own).clamp(min=torch.finfo(torch.float64).tiny)).to(loss.dtype)
    return torch.where(own > 0, loss * share, 0)


def of_first(drawn: Tensor) -> Tensor:
    """What the first process has drawn, for all: where they have to agree, and a mask of a user's own draws apart."""
    if _share is None:
        return drawn
    found = drawn.clone()
    dist.broadcast(found, src=0)
    return found


def _starts(lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Place of the first entry of each own row, and the number of entries of all rows."""
    assert _share is not None
    every = gather(lengths.long())
    ends = every.cumsum(0)
    return (ends - every).index_select(0, _share.places), every.sum()


def _entries(lengths: Tensor) -> tuple[Tensor, int]:
    """Place of each own entry among those of all, and the number of these."""
    starts, n = _starts(lengths)
    lengths = lengths.long()
    before = lengths.cumsum(0) - lengths
    within = torch.arange(int(lengths.sum()), device=lengths.device)
    return within + (starts - before).repeat_interleave(lengths), int(n)


def _placed(own: Tensor, at: Tensor, n: int) -> Tensor:
    """Rows of all processes, each of which puts its own in their places."""
    return total_of_all(own.new_zeros(n, *own.shape[1:]).index_copy(0, at, own))


def total_of_all(own: Tensor) -> Tensor:
    """Sum over the processes, with a gradient.

    Parameters
    ----------
    own
        Of this process.
    """
    # Not at the top: builds of PyTorch without processes do not have it.
    from torch.distributed.nn.functional import all_reduce

    total: Tensor = all_reduce(own)
    return total
