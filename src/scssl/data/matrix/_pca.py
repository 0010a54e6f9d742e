"""Principal components of cells in any storage, a block at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from scssl._random import derive_generator

from ._rows import RowSource, normalize_rows

if TYPE_CHECKING:
    from scipy import sparse
    from sklearn.decomposition import PCA

    from ._rows import InputKind

_BLOCK_ROWS = 8192
# Values kept between passes: 400 MB. What is beyond is read again.
_KEPT_VALUES = 2**25
# More than leading components need: the last ones count as much in a distance.
_OVERSAMPLING = 20
_PASSES = 6


class _Blocks:
    """Log-normalised cells, in blocks that are read again in every pass where they are many."""

    def __init__(
        self,
        source: RowSource,
        input_kind: InputKind,
        columns: np.ndarray | None,
        target_sum: float | None,
    ):
        self.source, self.input_kind, self.columns = source, input_kind, columns
        self.target_sum = target_sum
        self.n_cells = source.shape[0]
        self.n_genes = source.shape[1] if columns is None else len(columns)
        self.step = source.rows_per_read or _BLOCK_ROWS
        self._kept: dict[int, sparse.csr_matrix] = {}
        self._n_kept = 0

    def __iter__(self) -> Iterator[tuple[int, sparse.csr_matrix]]:
        for start in range(0, self.n_cells, self.step):
            block = self._kept.get(start)
            if block is None:
                block = self._read(start)
                if self._n_kept + block.nnz <= _KEPT_VALUES:
                    self._kept[start] = block
                    self._n_kept += block.nnz
            yield start, block

    def _read(self, start: int) -> sparse.csr_matrix:
        rows = np.arange(start, min(start + self.step, self.n_cells))
        block, _ = normalize_rows(
            self.source.read(rows), input_kind=self.input_kind, target_sum=self.target_sum
        )
        if self.columns is not None:
            block = block[:, self.columns]
        return block.astype(np.float64)


def pca(
    source: RowSource,
    *,
    input_kind: InputKind,
    columns: np.ndarray | None,
    n_pcs: int,
    seed: int,
    target_sum: float | None = 1e4,
) -> np.ndarray:
    """Scores of the leading principal components of log-normalised expression; float32.

    Randomised subspace iteration :cite:p:`Halko2011` on the covariance of the genes, of which `columns`
    are used, after normalisation to `target_sum` over all. The mean is taken off the products and not off the values, so
    that zeros stay zeros. There are no more components than genes, or cells less one.
    """
    blocks = _Blocks(source, input_kind, columns, target_sum)
    n_cells, n_genes = blocks.n_cells, blocks.n_genes
    n_pcs = min(n_pcs, n_cells - 1, n_genes)
    mean = np.zeros(n_genes)
    for _, block in blocks:
        mean += np.asarray(block.sum(axis=0)).ravel() / n_cells

    def covariance_times(directions: np.ndarray) -> np.ndarray:
        product = np.zeros(directions.shape)
        shift = mean @ directions
        # Centred scores sum to zero, so that the left factor needs no centring.
        for _, block in blocks:
            product += block.T @ (block @ directions - shift)
        return product

    width = min(n_pcs + _OVERSAMPLING, n_genes)
    start = derive_generator(seed, "pca").standard_normal((n_genes, width))
    basis = np.linalg.qr(start)[0]
    for _ in range(_PASSES if width < n_genes else 0):
        basis = np.linalg.qr(covariance_times(basis))[0]
    small = basis.T @ covariance_times(basis)
    components = basis @ np.linalg.eigh((small + small.T) / 2)[1][:, ::-1][:, :n_pcs]
    scores = np.empty((n_cells, n_pcs), dtype=np.float32)
    shift = mean @ components
    for first, block in blocks:
        scores[first : first + block.shape[0]] = block @ components - shift
    return scores


def fitted_pca(x: sparse.csr_matrix, n_pcs: int, seed: int) -> PCA | None:
    """scikit-learn's PCA of sparse cells, exact; `None` of cells that are all equal, which ARPACK cannot."""
    from sklearn.decomposition import PCA

    if (x.max(axis=0) - x.min(axis=0)).nnz == 0:
        return None
    return PCA(n_pcs, svd_solver="arpack", random_state=seed).fit(x)
