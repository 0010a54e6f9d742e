"""Principal components of the cells that a model learns from, as a layer on its genes."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from scssl.data.matrix import fitted_pca

from ._setup import CellReader

# Cells that components and scales are estimated from: more do not change them.
_MAX_CELLS = 20_000


def some_of(rows: Any) -> np.ndarray:
    """As many of these rows as a start is estimated from, evenly over all."""
    rows = np.asarray(rows)
    if len(rows) <= _MAX_CELLS:
        return rows
    places = np.linspace(0, len(rows) - 1, _MAX_CELLS).round().astype(np.int64)
    return rows[places]


def principal_axes(data: CellReader, rows: Any, n: int) -> tuple[Tensor, Tensor]:
    """Weights of the leading components of normalised expression, ``(n_genes, n)``, and mean of each gene.

    Both are zero for cells that are all equal.
    """
    parts = []
    for batch in data.loader(some_of(rows), 2048):
        x = batch["X"]
        arrays = (x.values().numpy(), x.col_indices().numpy(), x.crow_indices().numpy())
        parts.append(sparse.csr_matrix(arrays, shape=tuple(x.shape)))
    cells = sparse.vstack(parts).astype(np.float64)
    pca = fitted_pca(cells, n, 0)
    if pca is None:
        return torch.zeros(cells.shape[1], n), torch.zeros(cells.shape[1])
    # In single precision only at the end: the mean is a sum over all genes.
    return torch.from_numpy(np.ascontiguousarray(pca.components_.T)), torch.from_numpy(pca.mean_)
