"""Compiled CPU kernels of views: each draws and applies in one pass over the batch.

Every decision is a hash of the seed and of the place in the batch of all processes (SplitMix64, by a counter), so
results do not depend on the number of threads or processes.
"""

from __future__ import annotations

from collections.abc import Callable
from math import erfc, exp, log, pi, sqrt
from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor

from scssl.nn import SparseRows, first_entries, places

from .rows import in_threads

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_LANE, _STEP = np.uint64(0xFFFF), np.uint64(16)

#: Right end of the lowest of 256 layers of equal area under the normal density.
_TAIL = 3.6541528853610088
#: Rows that are worth a thread.
_ROWS = 32


def _layers() -> tuple[np.ndarray, np.ndarray]:
    """Width of each layer, and how far it is under the density everywhere."""
    density = exp(-(_TAIL**2) / 2)
    area = _TAIL * density + sqrt(pi / 2) * erfc(_TAIL / sqrt(2))
    edges = [area / density, _TAIL]
    while len(edges) < 256:
        edges.append(sqrt(-2 * log(area / edges[-1] + exp(-(edges[-1] ** 2) / 2))))
    return np.array(edges), np.array([*edges[1:], 0.0])


_WIDTH, _INNER = _layers()
_WIDTH32, _INNER32 = _WIDTH.astype(np.float32), _INNER.astype(np.float32)


@numba.njit(inline="always")
def _hash(key):  # pragma: no cover
    key = (key ^ (key >> np.uint64(30))) * _FIRST
    key = (key ^ (key >> np.uint64(27))) * _SECOND
    return key ^ (key >> np.uint64(31))


@numba.njit(inline="always")
def _unit(bits):  # pragma: no cover
    """Uniform in (0, 1]."""
    return (np.float64(bits >> np.uint64(11)) + 1.0) * 2.0**-53


@numba.njit(nogil=True, cache=True)
def _normal_outside(state, x, layer):  # pragma: no cover
    """What is left to do for the 1 % of the draws that are not under the density for sure."""
    while True:
        if layer == 0:
            while True:
                state += _GOLDEN
                beyond = -np.log(_unit(_hash(state))) / _TAIL
                state += _GOLDEN
                if -2 * np.log(_unit(_hash(state))) > beyond * beyond:
                    return _TAIL + beyond if x > 0 else -_TAIL - beyond
        state += _GOLDEN
        low, high = np.exp(-0.5 * _WIDTH[layer] ** 2), np.exp(-0.5 * _INNER[layer] ** 2)
        if low + _unit(_hash(state)) * (high - low) < np.exp(-0.5 * x * x):
            return x
        state += _GOLDEN
        bits = _hash(state)
        layer = np.int64(bits & np.uint64(255))
        x = np.float64(np.int64(bits) >> 32) * 2.0**-31 * _WIDTH[layer]
        if abs(x) < _INNER[layer]:
            return x


@numba.njit(nogil=True, cache=True)
def _fill(bits, key):  # pragma: no cover
    for j in range(len(bits)):
        bits[j] = _hash(key + np.uint64(j) * _GOLDEN)


@numba.njit(nogil=True, cache=True)
def _add_noise(row, key, bound, scale, clip, bits, chosen):  # pragma: no cover
    # One hash has it all: 8 bits for the layer, 16 for the coin, 32 for the place in the layer.
    _fill(bits, key)
    n = 0
    for j in range(len(row)):
        # A branch on a coin would be guessed wrong too often.
        chosen[n] = j
        n += int(((bits[j] >> np.uint64(8)) & _LANE) < bound)
    for k in range(n):
        j = chosen[k]
        layer = np.int64(bits[j] & np.uint64(255))
        x = np.float32(np.int64(bits[j]) >> 32) * np.float32(2.0**-31) * _WIDTH32[layer]
        if abs(x) >= _INNER32[layer]:
            x = np.float32(_normal_outside(bits[j], np.float64(x), layer))
        row[j] += x * scale
    if clip:
        for j in range(len(row)):
            row[j] = max(row[j], np.float32(0))


@numba.njit(nogil=True, cache=True)
def _row_key(seed, row, width):  # pragma: no cover
    return np.uint64(seed) + np.uint64(row) * np.uint64(width) * _GOLDEN


@numba.njit(nogil=True, cache=True)
def _noise_sparse(
    start, stop, pointers, columns, values, applied, cells, seed, bound, scale, clip, out
):  # pragma: no cover
    n_genes = out.shape[1]
    bits, chosen = np.empty(n_genes, np.uint64), np.empty(n_genes, np.int32)
    for i in range(start, stop):
        row = out[i]
        row[:] = 0
        for k in range(pointers[i], pointers[i + 1]):
            row[columns[k]] = values[k]
        if applied[i]:
            _add_noise(row, _row_key(seed, cells[i], n_genes), bound, scale, clip, bits, chosen)


@numba.njit(nogil=True, cache=True)
def _noise_dense(start, stop, x, applied, cells, seed, bound, scale, clip, out):  # pragma: no cover
    n_genes = out.shape[1]
    bits, chosen = np.empty(n_genes, np.uint64), np.empty(n_genes, np.int32)
    for i in range(start, stop):
        out[i] = x[i]
        if applied[i]:
            _add_noise(out[i], _row_key(seed, cells[i], n_genes), bound, scale, clip, bits, chosen)


@numba.njit(nogil=True, cache=True)
def _swap_dense(
    start, stop, x, applied, cells, gene_at, centre, seed, bound, out
):  # pragma: no cover
    n_genes = x.shape[1]
    half = (n_genes + 1) // 2
    bits, chosen = np.empty((half + 3) // 4, np.uint64), np.empty(half, np.int32)
    coins = bits.view(np.uint16)
    for i in range(start, stop):
        row, new = x[i], out[i]
        new[:] = row
        if not applied[i]:
            continue
        _fill(bits, _row_key(seed, cells[i], n_genes))
        n = 0
        for step in range(half):
            chosen[n] = step
            n += int(coins[step] < bound)
        # Outwards from the middle between the two genes of a pair.
        first = (centre[i] + 1) // 2 % n_genes
        second = (centre[i] - first) % n_genes
        for k in range(n):
            place, other = first + chosen[k], second - chosen[k]
            place -= n_genes if place >= n_genes else 0
            other += n_genes if other < 0 else 0
            one, two = gene_at[place], gene_at[other]
            new[one], new[two] = row[two], row[one]


@numba.njit(nogil=True, cache=True)
def _exchange_dense(
    start, stop, x, other, partner, applied, cells, seed, bound, out
):  # pragma: no cover
    n_genes = x.shape[1]
    bits = np.empty((n_genes + 3) // 4, np.uint64)
    coins = bits.view(np.uint16)
    for i in range(start, stop):
        row, new = x[i], out[i]
        if not applied[i]:
            new[:] = row
            continue
        _fill(bits, _row_key(seed, cells[i], n_genes))
        donor = other[partner[i]]
        for j in range(n_genes):
            theirs, own = donor[j], row[j]
            new[j] = theirs if coins[j] < bound else own


@numba.njit(nogil=True, cache=True)
def _mask_sparse(
    pointers,
    columns,
    values,
    applied,
    first,
    seed,
    bound,
    divisor,
    out_pointers,
    out_columns,
    out_values,
):  # pragma: no cover
    n = 0
    for i in range(len(pointers) - 1):
        out_pointers[i] = n
        start, stop = pointers[i], pointers[i + 1]
        if not applied[i]:
            for k in range(start, stop):
                out_columns[n] = columns[k]
                out_values[n] = values[k]
                n += 1
            continue
        bits = np.uint64(0)
        for k in range(start, stop):
            if (k - start) % 4 == 0:
                among_all = np.uint64(first[i] + k - start)
                bits = _hash(np.uint64(seed) + among_all * _GOLDEN)
            # Written in any case: what is hidden is written over by what comes next.
            out_columns[n] = columns[k]
            out_values[n] = values[k] / divisor
            n += int((bits & _LANE) >= bound)
            bits >>= _STEP
    out_pointers[len(pointers) - 1] = n
    return n


def _bound(probability: float) -> np.uint32:
    """What 16 random bits are below with this probability."""
    return np.uint32(round(probability * 2**16))


def _seed(rng: torch.Generator) -> int:
    return int(torch.randint(2**62, (), generator=rng))


def _by_rows(kernel: Callable[..., None], n_rows: int, *arguments: Any) -> None:
    n_threads = max(1, min(torch.get_num_threads(), n_rows // _ROWS))
    in_threads(kernel, [n_rows * i // n_threads for i in range(n_threads + 1)], *arguments)


def mask(
    x: SparseRows, applied: Tensor, rate: float, divisor: float, rng: torch.Generator
) -> SparseRows:
    """Hide entries of the ``applied`` cells with probability ``rate``, and divide what is left of these."""
    arrays = [t.numpy() for t in (x.pointers, x.columns, x.values.contiguous())]
    out = [np.empty_like(a) for a in arrays]
    first = first_entries(x.pointers).numpy()
    drawn = (applied.numpy(), first, _seed(rng), _bound(rate), np.float32(divisor))
    n = _mask_sparse(*arrays, *drawn, *out)
    pointers, columns, values = (torch.from_numpy(a) for a in out)
    return SparseRows(pointers, columns[:n], values[:n], x.n_genes)


def noise(
    x: SparseRows | Tensor,
    applied: Tensor,
    rate: float,
    scale: float,
    clip: bool,
    rng: torch.Generator,
) -> Tensor:
    """Dense matrix with noise on a share of the genes of the ``applied`` cells, raised to 0 with ``clip``."""
    cells = places(len(applied), applied.device).numpy()
    drawn = (applied.numpy(), cells, _seed(rng), _bound(rate), np.float32(scale), clip)
    if isinstance(x, SparseRows):
        out = x.values.new_empty(x.n_cells, x.n_genes)
        arrays = (t.contiguous().numpy() for t in (x.pointers, x.columns, x.values))
        _by_rows(_noise_sparse, x.n_cells, *arrays, *drawn, out.numpy())
        return out
    x = x.contiguous()
    out = torch.empty_like(x)
    _by_rows(_noise_dense, len(x), x.numpy(), *drawn, out.numpy())
    return out


def swap(
    x: Tensor, applied: Tensor, gene_at: Tensor, centre: Tensor, rate: float, rng: torch.Generator
) -> Tensor:
    """Exchange the values of pairs of genes of some cells, each pair with probability ``rate``.

    ``gene_at``: genes in the order of a ring; ``centre``: sum of the places of the two of a pair.
    """
    x = x.contiguous()
    out = torch.empty_like(x)
    cells = places(len(x), x.device)
    arrays = (t.numpy() for t in (x, applied, cells, gene_at, centre))
    _by_rows(_swap_dense, len(x), *arrays, _seed(rng), _bound(rate), out.numpy())
    return out


def exchange(
    x: Tensor, other: Tensor, partner: Tensor, applied: Tensor, rate: float, rng: torch.Generator
) -> Tensor:
    """Entries of ``partner`` cells in ``other`` in place of the own ones, with probability ``rate``."""
    x, other = x.contiguous(), other.contiguous()
    out = torch.empty_like(x)
    cells = places(len(x), x.device)
    arrays = (t.numpy() for t in (x, other, partner, applied, cells))
    _by_rows(_exchange_dense, len(x), *arrays, _seed(rng), _bound(rate), out.numpy())
    return out
