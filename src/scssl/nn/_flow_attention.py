"""Attention of cells to the other cells of their sequence: at linear cost, and the usual one."""

from __future__ import annotations

import functools
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from scssl._checks import check_whole

from ._mlp import Dropout

EPSILON = 1e-6


class _Attention(nn.Module):
    """Projections and sequences, common to both kinds of attention."""

    def __init__(self, n_hidden: int, n_heads: int, dropout: float, out_dropout: float) -> None:
        super().__init__()
        if n_heads < 1 or n_hidden % n_heads:
            raise ValueError(
                "`n_hidden` must be a multiple of `n_heads`; "
                f"found n_hidden={n_hidden} and n_heads={n_heads}."
            )
        self.n_hidden, self.n_heads = n_hidden, n_heads
        self.query = nn.Linear(n_hidden, n_hidden)
        self.key = nn.Linear(n_hidden, n_hidden)
        self.value = nn.Linear(n_hidden, n_hidden)
        self.out = nn.Linear(n_hidden, n_hidden)
        self.dropout, self.out_dropout = Dropout(dropout), Dropout(out_dropout)

    def forward(self, x: Tensor, lengths: Sequence[int] | None = None) -> Tensor:
        """What each cell takes from the cells of its sequence. Shape ``(n_cells, n_hidden)``.

        Parameters
        ----------
        x
            Cells, the rows of a sequence one after the other; shape ``(n_cells, n_hidden)``.
        lengths
            Number of cells of each sequence, in the order of the rows. `None`: all cells are one
            sequence.

        Raises
        ------
        ValueError
            If `lengths` do not add up to the number of cells or one is not positive.
        """
        lengths = [len(x)] if lengths is None else list(lengths)
        if sum(lengths) != len(x) or min(lengths, default=1) < (len(x) > 0):
            raise ValueError(
                f"`lengths` must be positive and add up to the number of rows of `x`, {len(x)}; "
                f"found {len(lengths)} that add up to {sum(lengths)}, the smallest "
                f"{min(lengths, default=0)}."
            )
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
    attend: Callable[..., Tensor], qkv: Sequence[Tensor], lengths: Sequence[int]
) -> Tensor:
    """Attention within each sequence; neighbouring sequences of one length are one call.

    `attend` is handed queries, keys and values of shape ``(n_sequences, length, n_hidden)``.
    """
    runs = [(length, len(list(run))) for length, run in groupby(lengths)]
    if len(runs) == 1:
        return attend(*(t.unflatten(0, runs[0][::-1]) for t in qkv)).flatten(0, 1)
    splits = (t.split([length * n for length, n in runs]) for t in qkv)
    return torch.cat(
        [
            attend(*(t.unflatten(0, (n, length)) for t in rows)).flatten(0, 1)
            for (length, n), *rows in zip(runs, *splits, strict=True)
        ]
    )


def _plain(x: Tensor) -> torch.autocast:
    """Without autocast."""
    return torch.autocast(x.device.type, enabled=False)


class _Heads:
    """Sums over the columns of each head, for rows with the heads side by side.

    Rows have the shape ``(n_sequences, length, n_hidden)``, weights of cells
    ``(n_sequences, n_heads, length)``: a product with a narrow matrix finds them for all heads at once,
    four times as fast as a product per head.
    """

    def __init__(self, x: Tensor, n_heads: int) -> None:
        self.n_heads = n_heads
        one = torch.eye(n_heads, dtype=x.dtype, device=x.device)
        # Which columns belong to which head.
        self.blocks = one.repeat_interleave(x.shape[-1] // n_heads, dim=1)

    def split(self, x: Tensor) -> Tensor:
        """A view of shape ``(n_sequences, n_heads, length, width)``."""
        return x.view(*x.shape[:2], self.n_heads, -1).transpose(1, 2)

    def times(self, x: Tensor, matrices: Tensor) -> Tensor:
        """Rows times the matrix of each head."""
        out = torch.empty_like(x)
        torch.matmul(self.split(x), matrices, out=self.split(out))
        return out

    def outer(self, x: Tensor, y: Tensor) -> Tensor:
        """Sums over cells of the outer products of rows, a matrix for each head."""
        return self.split(x).mT @ self.split(y)

    def scale_(self, x: Tensor, weights: Tensor) -> Tensor:
        """Rows times the weight of each cell and head, in place."""
        # Weights in the order of the rows: twice as fast.
        x.view(*x.shape[:2], self.n_heads, -1).mul_(weights.mT.contiguous().unsqueeze(-1))
        return x

    def dot(self, x: Tensor, row: Tensor, shift: float = EPSILON) -> Tensor:
        """``(x + shift) · row``."""
        spread = self.spread(row)
        return torch.baddbmm(spread.sum(-1, keepdim=True), spread, x.mT, beta=shift)

    def dots(self, x: Tensor, y: Tensor) -> Tensor:
        """``x · y``, row by row."""
        return self.split(x * y).sum(-1)

    def total(self, weights: Tensor, x: Tensor, shift: float = EPSILON) -> Tensor:
        """Sum over cells of ``weights * (x + shift)``; one row."""
        sums = torch.baddbmm(weights.sum(-1, keepdim=True), weights, x, beta=shift)
        return (sums * self.blocks).sum(1, keepdim=True)

    def spread(self, row: Tensor) -> Tensor:
        """A row for each head, which has the others' columns zero."""
        return row * self.blocks


class _Sums:
    """What the cells of a sequence know of each other, from its queries and keys in chunks.

    `competition` holds exponentials: they are divided by their sum at the end.
    """

    def __init__(self, queries: list[Tensor], keys: list[Tensor], n_heads: int) -> None:
        self.heads = heads = _Heads(queries[0], n_heads)
        self.all_q = _added(q.sum(1, keepdim=True) for q in queries) + EPSILON
        self.all_k = _added(k.sum(1, keepdim=True) for k in keys) + EPSILON
        self.incoming = [heads.dot(q, self.all_k).reciprocal_() for q in queries]
        self.outgoing = [heads.dot(k, self.all_q).reciprocal_() for k in keys]
        self.sinks = _added(map(self._flowing, self.outgoing, keys)) + EPSILON
        self.sources = _added(map(self._flowing, self.incoming, queries)) + EPSILON
        self.flows = [heads.dot(k, self.sources) for k in keys]
        # Between -1 and 1 the exponential needs no shift.
        self.competition = [flow.clamp(-1, 1).exp_() for flow in self.flows]
        total = _added(c.sum(-1, keepdim=True) for c in self.competition)
        self.inverse = (sum(k.shape[1] for k in keys) / total).unsqueeze(-1)

    def _flowing(self, flow: Tensor, x: Tensor) -> Tensor:
        return self.heads.total(flow, x, 0.0)

    def mixed(self, key: Tensor, value: Tensor, chunk: int) -> Tensor:
        """Part of a chunk in what queries are multiplied with; the value is overwritten."""
        return self.heads.outer(key, self.heads.scale_(value, self.competition[chunk]))

    def taken(self, query: Tensor, mixed: Tensor, chunk: int) -> Tensor:
        """What the cells of a chunk take."""
        share = self.heads.dot(query, self.sinks).sigmoid_().mul_(self.incoming[chunk])
        return self.heads.scale_(self.heads.times(query, mixed), share)


def _added(terms: Iterable[Tensor]) -> Tensor:
    return functools.reduce(torch.add, terms)


class _Flow(torch.autograd.Function):
    """Flow attention within sequences of one length.

    The derivative is written out. Forward and backward take about 60 % of the time that they take with
    what autograd puts together, and of the rows only queries, keys and values are kept.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, n_heads: int) -> Tensor:
        sums = _Sums([q], [k], n_heads)
        mixed = sums.mixed(k, v.clone(), 0) * sums.inverse
        ctx.save_for_backward(q, k, v)
        ctx.sums, ctx.mixed = sums, mixed
        return sums.taken(q, mixed, 0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        q, k, v = ctx.saved_tensors
        with _plain(grad):
            return *_flow_backward(ctx.sums, ctx.mixed, q, k, v, grad.contiguous()), None


def _flow_backward(
    sums: _Sums, mixed: Tensor, q: Tensor, k: Tensor, v: Tensor, grad: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Derivatives by queries, keys and values.

    ``d_x`` is the derivative by x. Each sum over cells is a row that all cells share: its derivative is
    summed over cells first and then handed to each.
    """
    heads = sums.heads
    incoming, outgoing = sums.incoming[0], sums.outgoing[0]
    flow, weight = sums.flows[0], sums.competition[0]
    share = heads.dot(q, sums.sinks).sigmoid_()
    taken = share * incoming
    # y = taken * (q @ mixed), mixed = inverse * sum of k (weight * v)'
    d_q = heads.times(grad, mixed.mT)
    d_taken = heads.dots(q, d_q)
    heads.scale_(d_q, taken)
    d_mixed = heads.outer(q, heads.scale_(grad.clone(), taken))
    d_total = (d_mixed * mixed).sum((-2, -1)).unsqueeze(-1) / q.shape[1]
    d_mixed *= sums.inverse
    d_k = heads.times(v, d_mixed.mT)
    d_weight = heads.dots(k, d_k) - d_total * sums.inverse.squeeze(-1)
    heads.scale_(d_k, weight)
    d_v = heads.scale_(heads.times(k, d_mixed), weight)
    # weight = exp(clamp((k + ε) · sources)), sources = sum of incoming * q
    d_flow = d_weight * weight * (flow.abs() <= 1)
    d_sources = heads.total(d_flow, k)
    # share = sigmoid((q + ε) · sinks), sinks = sum of outgoing * k
    d_sink = d_taken * taken * (1 - share)
    d_sinks = heads.total(d_sink, q)
    # incoming = 1 / ((q + ε) · all_k), outgoing = 1 / ((k + ε) · all_q)
    d_in = -(d_taken * share + heads.dot(q, d_sources, 0.0)) * incoming.square()
    d_out = -heads.dot(k, d_sinks, 0.0) * outgoing.square()
    d_all_k, d_all_q = heads.total(d_in, q), heads.total(d_out, k)

    def add(d: Tensor, weights: list[Tensor], rows: list[Tensor], everywhere: Tensor) -> Tensor:
        spread = torch.cat([*map(heads.spread, rows), everywhere], dim=1)
        ones = weights[0].new_ones(len(d), 1, d.shape[1])
        return d.baddbmm_(torch.cat([*weights, ones], dim=1).mT, spread)

    add(d_q, [incoming, d_sink, d_in], [d_sources, sums.sinks, sums.all_k], d_all_q)
    add(d_k, [d_flow, outgoing, d_out], [sums.sources, d_sinks, sums.all_q], d_all_k)
    return d_q, d_k, d_v


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
        self.chunk_size = check_whole("chunk_size", chunk_size)

    def _attend(self, x: Tensor, lengths: list[int]) -> Tensor:
        if max(lengths) > self.chunk_size and not torch.is_grad_enabled():
            return torch.cat([y for rows in x.split(lengths) for y in self._streamed(rows)])
        q, k = (self._project(layer, x).sigmoid_() for layer in (self.query, self.key))
        qkv = (q, k, self._project(self.value, x))
        with _plain(x):
            y = _by_sequence(lambda *qkv: _Flow.apply(*qkv, self.n_heads), qkv, lengths)
        return self._finish(y)

    def _streamed(self, x: Tensor) -> Iterator[Tensor]:
        """One sequence in chunks. Its queries and keys are kept, until the output takes their place."""
        chunks = [rows.unsqueeze(0) for rows in x.split(self.chunk_size)]
        queries = [self._project(self.query, rows).sigmoid_() for rows in chunks]
        keys = [self._project(self.key, rows).sigmoid_() for rows in chunks]
        with _plain(x):
            sums = _Sums(queries, keys, self.n_heads)
        mixed: Tensor | float = 0.0
        for i, (rows, key) in enumerate(zip(chunks, keys, strict=True)):
            value = self._project(self.value, rows)
            with _plain(x):
                mixed = mixed + sums.mixed(key, value, i)
        del keys, key
        for i in range(len(chunks)):
            with _plain(x):
                y = sums.taken(queries.pop(0), mixed * sums.inverse, i)
            yield self._finish(y.squeeze(0))

    def _finish(self, y: Tensor) -> Tensor:
        return self._out(self.dropout(y.to(self.out.weight.dtype)))

    @staticmethod
    def _project(layer: nn.Module, x: Tensor) -> Tensor:
        """In single precision at least: sums over thousands of cells need it."""
        y: Tensor = layer(x)
        return y.float() if y.dtype in (torch.bfloat16, torch.float16) else y


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

        def attend(*qkv: Tensor) -> Tensor:
            q, k, v = (t.unflatten(2, (self.n_heads, -1)).transpose(1, 2) for t in qkv)
            y = functional.scaled_dot_product_attention(q, k, v, dropout_p=dropout)
            return y.transpose(1, 2).flatten(2)

        qkv = [self.query(x), self.key(x), self.value(x)]
        return self._out(_by_sequence(attend, qkv, lengths))
