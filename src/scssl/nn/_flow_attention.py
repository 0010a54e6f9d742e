"""Attention of cells to the other cells of their sequence: at linear cost, and the usual one."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from itertools import groupby

import torch
from torch import Tensor, nn
from torch.nn import functional

from ._dropout import Dropout

EPSILON = 1e-6


class _Attention(nn.Module):
    """Projections and sequences, common to both kinds of attention."""

    def __init__(self, n_hidden: int, n_heads: int, dropout: float, out_dropout: float) -> None:
        super().__init__()
        if n_heads < 1 or n_hidden % n_heads:
            msg = (
                "`n_hidden` must be a multiple of `n_heads`; "
                f"found n_hidden={n_hidden} and n_heads={n_heads}."
            )
            raise ValueError(msg)
        self.n_hidden, self.n_heads = n_hidden, n_heads
        self.query = nn.Linear(n_hidden, n_hidden)
        self.key = nn.Linear(n_hidden, n_hidden)
        self.value = nn.Linear(n_hidden, n_hidden)
        self.out = nn.Linear(n_hidden, n_hidden)
        self.dropout, self.out_dropout = Dropout(dropout), Dropout(out_dropout)

    def forward(self, x: Tensor, lengths: Sequence[int] | None = None) -> Tensor:
        """What each cell takes from the cells of its sequence.

        Parameters
        ----------
        x
            Cells, the rows of a sequence one after the other; shape ``(n_cells, n_hidden)``.
        lengths
            Number of cells of each sequence, in the order of the rows. `None`: all cells are one
            sequence.

        Returns
        -------
        Shape ``(n_cells, n_hidden)``.

        Raises
        ------
        ValueError
            If `lengths` do not add up to the number of cells or one is not positive.
        """
        lengths = [len(x)] if lengths is None else list(lengths)
        if sum(lengths) != len(x) or min(lengths, default=1) < (len(x) > 0):
            msg = (
                f"`lengths` must be positive and add up to the number of rows of `x`, {len(x)}; "
                f"found {len(lengths)} that add up to {sum(lengths)}, the smallest "
                f"{min(lengths, default=0)}."
            )
            raise ValueError(msg)
        if len(x) == 0:
            return self.out(x)
        return self._attend(x, lengths)

    @abstractmethod
    def _attend(self, x: Tensor, lengths: list[int]) -> Tensor: ...

    def _out(self, y: Tensor) -> Tensor:
        z: Tensor = self.out_dropout(self.out(y))
        return z

    def extra_repr(self) -> str:
        return f"n_hidden={self.n_hidden}, n_heads={self.n_heads}"


def _by_sequence(
    attend: Callable[[Tensor, Tensor, Tensor], Tensor],
    qkv: tuple[Tensor, Tensor, Tensor],
    lengths: list[int],
    n_heads: int,
) -> Tensor:
    """Attention within each sequence; neighbouring sequences of one length are one call.

    `attend` is handed queries, keys and values of shape ``(n_sequences, n_heads, length, width)``.
    """
    runs = [(length, len(list(run))) for length, run in groupby(lengths)]
    splits = (t.split([length * n for length, n in runs]) for t in qkv)
    parts = []
    for (length, n), *rows in zip(runs, *splits, strict=True):
        q, k, v = (t.view(n, length, n_heads, -1).transpose(1, 2) for t in rows)
        parts.append(attend(q, k, v).transpose(1, 2).reshape(n * length, -1))
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _single(x: Tensor) -> Tensor:
    """In single precision at least: sums over thousands of cells need it."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def _dot(x: Tensor, y: Tensor) -> Tensor:
    """``(x + EPSILON) · y``, of the rows of x and one row y; shape ``(..., n, 1)``."""
    return x @ y.mT + EPSILON * y.sum(-1, keepdim=True)


def _flow(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Flow attention of queries and keys in (0, 1); shape ``(..., length, width)``."""
    incoming = _dot(q, k.sum(-2, keepdim=True) + EPSILON).reciprocal()
    outgoing = _dot(k, q.sum(-2, keepdim=True) + EPSILON).reciprocal()
    sink = _dot(q, outgoing.mT @ k + EPSILON)
    source = _dot(k, incoming.mT @ q + EPSILON).clamp(-1, 1)
    # Between -1 and 1 the exponential needs no shift.
    competition = source.exp()
    competition = competition * (k.shape[-2] / competition.sum(-2, keepdim=True))
    return (q @ (k.mT @ (v * competition))) * (sink.sigmoid() * incoming)


class FlowAttention(_Attention):
    """Flow attention :cite:p:`Wu2022`: each cell attends to all cells of its sequence at linear cost.

    Queries and keys are sigmoids, so that each cell passes on and takes in a positive flow. What
    cells take in is made one, and they compete for being a source; what they pass on is made one, and
    decides how much a cell takes. No weight of a pair of cells is ever computed: all that cells know of
    each other are sums over the sequence. There is no order, no padding and no mask.

    Without gradients a sequence longer than `chunk_size` is read in chunks, which makes no difference
    but rounding. Sums are in single precision also under autocast.

    Parameters
    ----------
    n_hidden
        Width of a cell.
    n_heads
        Number of heads, each of width ``n_hidden / n_heads``.
    dropout
        Dropout of what the heads find, before they are put together.
    out_dropout
        Dropout of the output.
    chunk_size
        Cells at a time.

    Raises
    ------
    ValueError
        If `n_hidden` is not a multiple of `n_heads` or `chunk_size` is not positive.

    Examples
    --------
    >>> import torch
    >>> from scssl.nn import FlowAttention
    >>> attention = FlowAttention(64, 4)
    >>> attention(torch.randn(1000, 64), lengths=[700, 300]).shape
    torch.Size([1000, 64])
    """

    def __init__(
        self,
        n_hidden: int,
        n_heads: int,
        *,
        dropout: float = 0.0,
        out_dropout: float = 0.0,
        chunk_size: int = 1024,
    ) -> None:
        super().__init__(n_hidden, n_heads, dropout, out_dropout)
        if chunk_size < 1:
            msg = f"`chunk_size` must be positive; found {chunk_size}."
            raise ValueError(msg)
        self.chunk_size = chunk_size

    def _attend(self, x: Tensor, lengths: list[int]) -> Tensor:
        if max(lengths) > self.chunk_size and not torch.is_grad_enabled():
            parts = [self._streamed(rows) for rows in x.split(lengths)]
            return parts[0] if len(parts) == 1 else torch.cat(parts)
        q, k, v = (_single(layer(x)) for layer in (self.query, self.key, self.value))
        with torch.autocast(x.device.type, enabled=False):
            y = _by_sequence(_flow, (q.sigmoid(), k.sigmoid(), v), lengths, self.n_heads)
        return self._out(self.dropout(y))

    def _streamed(self, x: Tensor) -> Tensor:
        """One sequence in chunks; queries and keys are kept, the output takes the queries' place."""
        chunks = x.split(self.chunk_size)
        q, k = (
            [_single(layer(rows)).sigmoid_() for rows in chunks] for layer in (self.query, self.key)
        )
        q, k = ([self._heads(t) for t in ts] for ts in (q, k))
        zeros = q[0].new_zeros(())

        def total(terms) -> Tensor:
            return sum(terms, start=zeros)

        with torch.autocast(x.device.type, enabled=False):
            all_q = total(t.sum(-2, keepdim=True) for t in q) + EPSILON
            all_k = total(t.sum(-2, keepdim=True) for t in k) + EPSILON
            incoming = [_dot(t, all_k).reciprocal() for t in q]
            sinks = total(_dot(t, all_q).reciprocal().mT @ t for t in k) + EPSILON
            sources = total(n.mT @ t for n, t in zip(incoming, q, strict=True)) + EPSILON
        weights, mixed = zeros, zeros
        for rows, key in zip(chunks, k, strict=True):
            value = self._heads(_single(self.value(rows)))
            with torch.autocast(x.device.type, enabled=False):
                competition = _dot(key, sources).clamp_(-1, 1).exp_()
                weights = weights + competition.sum(-2, keepdim=True)
                mixed = mixed + key.mT @ (value * competition)
        mixed = mixed * (len(x) / weights)
        out = []
        for query, flow in zip(q, incoming, strict=True):
            with torch.autocast(x.device.type, enabled=False):
                y = (query @ mixed) * (_dot(query, sinks).sigmoid_() * flow)
            out.append(self._out(self.dropout(y.transpose(0, 1).reshape(-1, self.n_hidden))))
        return torch.cat(out)

    def _heads(self, x: Tensor) -> Tensor:
        return x.view(len(x), self.n_heads, -1).transpose(0, 1)


class SoftmaxAttention(_Attention):
    """Attention with a weight for each pair of cells of a sequence :cite:p:`Vaswani2017`.

    Time grows with the square of the length of a sequence: for small tissues. The layers have the names
    that :class:`FlowAttention` gives them.

    Parameters
    ----------
    n_hidden
        Width of a cell.
    n_heads
        Number of heads, each of width ``n_hidden / n_heads``.
    dropout
        Dropout of the weights.
    out_dropout
        Dropout of the output.

    Raises
    ------
    ValueError
        If `n_hidden` is not a multiple of `n_heads`.

    Examples
    --------
    >>> import torch
    >>> from scssl.nn import SoftmaxAttention
    >>> attention = SoftmaxAttention(64, 4)
    >>> attention(torch.randn(100, 64), lengths=[70, 30]).shape
    torch.Size([100, 64])
    """

    def __init__(
        self, n_hidden: int, n_heads: int, *, dropout: float = 0.0, out_dropout: float = 0.0
    ) -> None:
        super().__init__(n_hidden, n_heads, dropout, out_dropout)

    def _attend(self, x: Tensor, lengths: list[int]) -> Tensor:
        dropout = self.dropout.p if self.training else 0.0

        def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return functional.scaled_dot_product_attention(q, k, v, dropout_p=dropout)

        qkv = (self.query(x), self.key(x), self.value(x))
        return self._out(_by_sequence(attend, qkv, lengths, self.n_heads))
