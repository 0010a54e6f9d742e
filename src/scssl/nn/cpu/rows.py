"""Compiled CPU kernels for the two places where PyTorch has no quick one.

Every output row is written by one thread only, so results do not depend on the number of threads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from threading import Thread
from typing import Any

import numba
import numpy as np
import torch

# Sums may be reordered and fused, but NaN stays NaN.
_FAST = {"reassoc", "contract", "arcp", "nsz"}

#: Products that are worth a thread.
_WORK = 2**22
#: Weights whose update is: each costs the traffic of four matrices.
_UPDATES = 2**18


@numba.njit(nogil=True, fastmath=_FAST, cache=True)
def _transposed_product(start, stop, pointers, cells, values, dense, out):  # pragma: no cover
    width = out.shape[1]
    for gene in range(start, stop):
        row = out[gene]
        row[:] = 0
        k, end = pointers[gene], pointers[gene + 1]
        # Four cells for each time that the sum is read and written.
        while k + 3 < end:
            c0, c1, c2, c3 = (
                dense[cells[k]],
                dense[cells[k + 1]],
                dense[cells[k + 2]],
                dense[cells[k + 3]],
            )
            v0, v1, v2, v3 = values[k], values[k + 1], values[k + 2], values[k + 3]
            for j in range(width):
                row[j] += v0 * c0[j] + v1 * c1[j] + v2 * c2[j] + v3 * c3[j]
            k += 4
        while k < end:
            cell, value = dense[cells[k]], values[k]
            for j in range(width):
                row[j] += value * cell[j]
            k += 1


@numba.njit(nogil=True, fastmath=_FAST, cache=True)
def _adamw_rows(  # pragma: no cover
    start,
    stop,
    rows,
    gradient,
    weight,
    first,
    second,
    sizes,
    roots,
    shrink,
    beta1,
    one,
    beta2,
    two,
    eps,
):
    for i in range(start, stop):
        row, size, root = rows[i], sizes[i], roots[i]
        w, m, v, g = weight[row], first[row], second[row], gradient[i]
        for j in range(len(w)):
            m[j] = beta1 * m[j] + one * g[j]
            v[j] = beta2 * v[j] + two * g[j] * g[j]
            w[j] = shrink * w[j] - size * m[j] / (np.sqrt(v[j]) * root + eps)


@numba.njit(cache=True)
def _compress(
    pointers, columns, values, kept, out_pointers, out_columns, out_values
):  # pragma: no cover
    k = 0
    for row in range(len(pointers) - 1):
        out_pointers[row] = k
        for j in range(pointers[row], pointers[row + 1]):
            if kept[j]:
                out_columns[k] = columns[j]
                out_values[k] = values[j]
                k += 1
    out_pointers[len(pointers) - 1] = k
    return k


def in_threads(kernel: Callable[..., None], ends: Sequence[int], *arguments: Any) -> None:
    """Run a kernel on ranges of rows, each on a thread of its own.

    These are threads of Python and not those of numba: the pools of numba and of PyTorch are two, each
    of which waits for work in a loop that keeps the cores from the other. A thread costs a tenth of a
    millisecond.

    Ranges are between neighbouring `ends`. The kernel takes the first row and the one after the last,
    then the arguments, and lets go of the interpreter.
    """
    failed: list[BaseException] = []

    def run(start: int, stop: int) -> None:
        try:
            kernel(start, stop, *arguments)
        except BaseException as error:  # noqa: BLE001
            # Raised below, where it can be caught.
            failed.append(error)

    spans = list(pairwise(ends))
    threads = [Thread(target=run, args=span) for span in spans[1:]]
    for thread in threads:
        thread.start()
    run(*spans[0])
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]


def transposed_product(
    pointers: np.ndarray, cells: np.ndarray, values: np.ndarray, dense: np.ndarray, out: np.ndarray
) -> None:
    """``out = X.T @ dense`` for X compressed by gene; overwrites ``out``."""
    n_threads = max(1, min(torch.get_num_threads(), len(cells) * dense.shape[1] // _WORK))
    # As many entries for each, which genes have very different numbers of.
    shares = np.linspace(0, len(cells), n_threads + 1)[1:-1]
    ends = [0, *np.searchsorted(pointers, shares).tolist(), len(pointers) - 1]
    in_threads(_transposed_product, ends, pointers, cells, values, dense, out)


def compress(
    pointers: np.ndarray, columns: np.ndarray, values: np.ndarray, kept: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Compressed rows with the entries that are ``kept``."""
    out = np.empty_like(pointers), np.empty_like(columns), np.empty_like(values)
    n = _compress(pointers, columns, values, kept, *out)
    return out[0], out[1][:n], out[2][:n]


def adamw_rows(
    rows: np.ndarray,
    gradient: np.ndarray,
    weight: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    steps: np.ndarray,
    *,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
) -> None:
    """AdamW on some rows of a matrix, each with its own count of steps, in one pass over memory.

    Each row comes at most once, and ``gradient`` is of these only; matrix, moments and counts are
    updated.
    """
    steps[rows] += 1
    count = steps[rows].astype(np.float64)
    # Powers by NumPy: compiled ones were other bits before and after the kernel was in the cache.
    beta1, beta2 = betas
    sizes = (lr / (1 - beta1**count)).astype(np.float32)
    roots = (1 / np.sqrt(1 - beta2**count)).astype(np.float32)
    n = len(rows)
    n_threads = max(1, min(torch.get_num_threads(), n * weight.shape[1] // _UPDATES))
    ends = [n * i // n_threads for i in range(n_threads + 1)]
    hyper = map(np.float32, (1 - lr * weight_decay, beta1, 1 - beta1, beta2, 1 - beta2, eps))
    in_threads(_adamw_rows, ends, rows, gradient, weight, first, second, sizes, roots, *hyper)
