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


def principal_axes(
    data: CellReader, rows: Any, n: int, *, most: int | None = None
) -> tuple[Tensor, Tensor]:
    """Weights of the leading components of normalised expression, ``(n_genes, n)``, and mean of each gene.

    Of fewer cells or genes, and beyond `most`, the last are zero; all are for cells that are all equal.
    """
    parts = []
    for batch in data.loader(some_of(rows), 2048):
        x = batch["X"]
        arrays = (x.values().numpy(), x.col_indices().numpy(), x.crow_indices().numpy())
        parts.append(sparse.csr_matrix(arrays, shape=tuple(x.shape)))
    cells = sparse.vstack(parts).astype(np.float64)
    # In single precision only at the end: the mean is a sum over all genes.
    weight = np.zeros((cells.shape[1], n))
    k = min(n, *(size - 1 for size in cells.shape), n if most is None else most)
    pca = fitted_pca(cells, k, 0) if k > 0 else None
    if pca is None:
        return torch.from_numpy(weight), torch.zeros(cells.shape[1], dtype=torch.float64)
    weight[:, :k] = pca.components_.T
    return torch.from_numpy(weight), torch.from_numpy(pca.mean_)
