"""Normalisation of cells with several modalities, each in its own way."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import sparse

from ._rows import csr_from_parts, normalize_rows, row_sums

Normalization = Literal["counts", "lognorm", "clr", "log1p", "none", "tfidf", "binary"]


@dataclass
class FeatureBlock:
    r"""Columns of one modality, and how they are normalised.

    ============  =================================================================================
    ``counts``    :math:`\log(1 + s x_j / \sum_k x_k)`, ``s`` being `target_sum`: RNA
    ``lognorm``   as it is: RNA
    ``clr``       :math:`\log(1 + x_j / g)`, :math:`\log g = \frac1p \sum_k \log(1 + x_k)` over the
                  `n_measured` features of the cell: proteins
    ``log1p``     :math:`\log(1 + x_j)`
    ``none``      as it is
    ``tfidf``     :math:`\log(1 + s\, \mathrm{idf}_j\, x_j / \sum_k x_k)`: peaks
    ``binary``    1 where there is a count: peaks
    ============  =================================================================================

    ``clr`` is the centred log ratio of :cite:t:`Stoeckius2017` across the proteins of a cell, in the
    form with which zeros stay zeros: the ratio to the geometric mean before the logarithm. ``tfidf`` is
    that of :cite:t:`Stuart2021`.

    Parameters
    ----------
    name
        Of the modality.
    start, stop
        First column, and the one after the last.
    normalization
        One of the above.
    target_sum
        :math:`s`.
    n_measured
        Number of features that the data have; others do not count as zeros of ``clr``.
    idf
        Inverse document frequency of each feature, for ``tfidf``.
    """

    name: str
    start: int
    stop: int
    normalization: Normalization
    target_sum: float = 1e4
    n_measured: int = 0
    idf: np.ndarray | None = None

    def apply(self, part: sparse.csr_matrix) -> tuple[np.ndarray, np.ndarray]:
        """Normalised values of cells of this modality, and what each cell had in total."""
        if self.normalization in ("counts", "lognorm", "tfidf"):
            if self.normalization == "tfidf" and self.idf is not None:
                # Scaled before the logarithm; the sum of a cell is that of its counts.
                factor, sums = self.idf[part.indices], row_sums(part)
                scale = np.zeros_like(sums)
                np.divide(np.float32(self.target_sum), sums, out=scale, where=sums > 0)
                values = part.data * np.repeat(scale, np.diff(part.indptr))
                return np.log1p(values * factor), sums
            kind: Literal["counts", "lognorm"] = (
                "lognorm" if self.normalization == "lognorm" else "counts"
            )
            done, library = normalize_rows(part, input_kind=kind, target_sum=self.target_sum)
            return done.data, library[:, 0]
        total = row_sums(csr_from_parts(np.abs(part.data), part.indices, part.indptr, part.shape))
        if self.normalization == "none":
            return part.data, total
        if self.normalization == "binary":
            return np.ones_like(part.data), total
        logs = np.log1p(part.data)
        if self.normalization == "log1p":
            return logs, total
        sums = row_sums(csr_from_parts(logs, part.indices, part.indptr, part.shape))
        centre = np.exp(sums.astype(np.float64) / max(self.n_measured, 1)).astype(np.float32)
        return np.log1p(part.data / np.repeat(centre, np.diff(part.indptr))), total


class BlockNormalizer:
    """Normalise the columns of every modality in its own way.

    Parameters
    ----------
    blocks
        The modalities.

    Examples
    --------
    >>> import numpy as np
    >>> from scipy import sparse
    >>> from scssl.data import BlockNormalizer, FeatureBlock
    >>> blocks = [FeatureBlock("rna", 0, 2, "counts", 4), FeatureBlock("protein", 2, 4, "log1p")]
    >>> cells = sparse.csr_matrix(np.array([[1, 3, 0, 7]], dtype=np.float32))
    >>> normalised, library = BlockNormalizer(blocks)(cells)
    >>> np.expm1(normalised.toarray()).round(3).tolist(), library.tolist()
    ([[1.0, 3.0, 0.0, 7.0]], [[4.0, 7.0]])
    """

    def __init__(self, blocks: Sequence[FeatureBlock]) -> None:
        self.blocks = tuple(blocks)

    def __call__(self, csr: sparse.csr_matrix) -> tuple[sparse.csr_matrix, np.ndarray]:
        """Normalise a block of cells in place.

        Parameters
        ----------
        csr
            Cells with the columns of all modalities, float32. **Its values are overwritten.**

        Returns
        -------
        csr
            The same object.
        library
            Sum of each cell in each modality before the normalisation, of absolute values where
            nothing is normalised; float32 of shape ``(n_cells, n_modalities)``.
        """
        library = np.zeros((csr.shape[0], len(self.blocks)), dtype=np.float32)
        for i, block in enumerate(self.blocks):
            inside, part = columns_of(csr, block.start, block.stop)
            csr.data[inside], library[:, i] = block.apply(part)
        return csr, library


def columns_of(
    csr: sparse.csr_matrix, start: int, stop: int
) -> tuple[np.ndarray, sparse.csr_matrix]:
    """Some neighbouring columns: where their values are stored, and the columns as a matrix."""
    inside = np.flatnonzero((csr.indices >= start) & (csr.indices < stop))
    indptr = np.searchsorted(inside, csr.indptr).astype(csr.indptr.dtype)
    shape = (csr.shape[0], stop - start)
    return inside, csr_from_parts(csr.data[inside], csr.indices[inside] - start, indptr, shape)


def inverse_document_frequency(
    blocks: Iterable[sparse.csr_matrix], n_features: int, n_cells: int
) -> np.ndarray:
    r"""Inverse document frequency of peaks :cite:p:`Stuart2021`, from blocks of their counts in cells.

    .. math:: \mathrm{idf}_j = N / \sum_i x_{ij}

    and 0 for a peak without any count, of which nothing can be learnt.
    """
    totals = np.zeros(n_features)
    for block in blocks:
        totals += np.bincount(block.indices, weights=block.data, minlength=n_features)
    idf = np.zeros(n_features)
    np.divide(n_cells, totals, out=idf, where=totals > 0)
    return idf.astype(np.float32)
