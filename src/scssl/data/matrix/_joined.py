"""Several matrices of the same or of other cells, read as one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import sparse

from ._rows import csr_from_parts
from ._source import RowSource


class JoinedRows(RowSource):
    """Matrices side by side, with the cells of all of them as rows.

    Nothing is copied: rows are read from each matrix when they are asked for. A cell that a matrix
    does not have is empty there.

    Parameters
    ----------
    sources
        Matrices, in the order of their columns.
    rows
        For each matrix, its row of every cell, -1 where it does not have the cell; int64 of shape
        ``(n_cells,)``.

    Raises
    ------
    ValueError
        If there is no matrix, or rows do not fit one.

    Examples
    --------
    >>> import numpy as np
    >>> from scssl.data import JoinedRows, open_rows
    >>> rna, protein = np.array([[1, 2], [3, 4]]), np.array([[7]])
    >>> joined = JoinedRows(
    ...     [open_rows(rna), open_rows(protein)], [np.array([0, 1]), np.array([-1, 0])]
    ... )
    >>> joined.read([1, 0]).toarray().tolist()
    [[3.0, 4.0, 7.0], [1.0, 2.0, 0.0]]
    """

    def __init__(self, sources: Sequence[RowSource], rows: Sequence[np.ndarray]) -> None:
        if not sources or len(sources) != len(rows):
            raise ValueError(
                f"Needs matrices and the rows of each, found {len(sources)} and {len(rows)}."
            )
        n_cells = len(rows[0])
        for source, where in zip(sources, rows, strict=True):
            if len(where) != n_cells:
                raise ValueError(
                    f"`rows` must be of the same {n_cells:,} cells, found {len(where):,}."
                )
            if n_cells and not (where.min() >= -1 and where.max() < source.shape[0]):
                raise ValueError(
                    f"`rows` must be -1 or in [0, {source.shape[0]:,}), found {where.min():,} to "
                    f"{where.max():,}."
                )
        expensive = [s.rows_per_read for s in sources if s.rows_per_read is not None]
        super().__init__(
            (n_cells, sum(source.shape[1] for source in sources)),
            rows_per_read=min(expensive) if expensive else None,
        )
        self._sources = list(sources)
        self._rows = [np.asarray(where, dtype=np.int64) for where in rows]

    def _gather(self, rows: np.ndarray) -> sparse.csr_matrix:
        blocks, lengths = [], []
        for source, place in zip(self._sources, self._rows, strict=True):
            wanted = place[rows]
            there = wanted >= 0
            block = source.read(wanted[there])
            length = np.zeros(len(rows), dtype=np.int64)
            length[there] = np.diff(block.indptr)
            blocks.append(block)
            lengths.append(length)
        indptr = np.concatenate(([0], np.cumsum(np.sum(lengths, axis=0))))
        small = np.int32 if indptr[-1] <= np.iinfo(np.int32).max else np.int64
        data = np.empty(indptr[-1], dtype=np.float32)
        indices = np.empty(indptr[-1], dtype=small)
        start, first_column = indptr[:-1].copy(), 0
        for source, block, length in zip(self._sources, blocks, lengths, strict=True):
            # The values of a matrix come row by row, as they go into the result.
            ends = np.cumsum(length)
            to = np.repeat(start - (ends - length), length) + np.arange(len(block.data))
            data[to] = block.data
            indices[to] = block.indices + first_column
            start += length
            first_column += source.shape[1]
        return csr_from_parts(data, indices, indptr.astype(small), (len(rows), self.shape[1]))
