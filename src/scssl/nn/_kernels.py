"""Compiled CPU kernels for the two places where PyTorch has no quick one.

Every output row is written by one thread only, so results do not depend on the number of threads.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import torch

# Sums may be reordered and fused, but NaN stays NaN.
_FAST = {"reassoc", "contract", "arcp", "nsz"}


@numba.njit(parallel=True, fastmath=_FAST, cache=True)
def _transposed_product(pointers, cells, values, dense, out):  # pragma: no cover
    for gene in numba.prange(len(pointers) - 1):
        row = out[gene]
        row[:] = 0
        for k in range(pointers[gene], pointers[gene + 1]):
            cell, value = dense[cells[k]], values[k]
            for j in range(len(row)):
                row[j] += value * cell[j]


@numba.njit(parallel=True, fastmath=_FAST, cache=True)
def _adamw_rows(  # pragma: no cover
    rows, gradient, weight, first, second, steps, lr, beta1, beta2, eps, weight_decay
):
    one1, one2 = np.float32(1 - beta1), np.float32(1 - beta2)
    b1, b2, e = np.float32(beta1), np.float32(beta2), np.float32(eps)
    shrink = np.float32(1 - lr * weight_decay)
    for i in numba.prange(len(rows)):
        row = rows[i]
        steps[row] += 1
        size = np.float32(lr / (1 - beta1 ** steps[row]))
        root = np.float32(1 / np.sqrt(1 - beta2 ** steps[row]))
        w, m, v, g = weight[row], first[row], second[row], gradient[i]
        for j in range(len(w)):
            m[j] = b1 * m[j] + one1 * g[j]
            v[j] = b2 * v[j] + one2 * g[j] * g[j]
            w[j] = shrink * w[j] - size * m[j] / (np.sqrt(v[j]) * root + e)


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


def _run(kernel: Callable[..., None], *arguments: Any) -> None:
    """Run a kernel on as many threads as PyTorch may use."""
    before = numba.get_num_threads()
    numba.set_num_threads(max(1, min(torch.get_num_threads(), numba.config.NUMBA_NUM_THREADS)))
    try:
        kernel(*arguments)
    finally:
        numba.set_num_threads(before)


def transposed_product(
    pointers: np.ndarray, cells: np.ndarray, values: np.ndarray, dense: np.ndarray, out: np.ndarray
) -> None:
    """``out = X.T @ dense`` for X compressed by gene.

    Parameters
    ----------
    pointers, cells, values
        X: start of each gene, and cell and value of each entry.
    dense
        Shape ``(n_cells, width)``.
    out
        Shape ``(n_genes, width)``, overwritten.
    """
    _run(_transposed_product, pointers, cells, values, dense, out)


def compress(
    pointers: np.ndarray, columns: np.ndarray, values: np.ndarray, kept: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Compressed rows with some of their entries.

    Parameters
    ----------
    pointers, columns, values
        Start of each row, and column and value of each entry.
    kept
        Which entries; boolean.
    """
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

    Parameters
    ----------
    rows
        Rows to update, each at most once.
    gradient
        Of these rows, shape ``(n_rows, width)``.
    weight, first, second, steps
        Matrix, its moments and the count of each row; updated.
    lr, betas, eps, weight_decay
        As in :class:`torch.optim.AdamW`.
    """
    _run(
        _adamw_rows,
        rows,
        gradient,
        weight,
        first,
        second,
        steps,
        float(lr),
        *betas,
        float(eps),
        float(weight_decay),
    )
