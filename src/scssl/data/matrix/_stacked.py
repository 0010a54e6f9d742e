"""Some rows of a matrix, and matrices on top of each other or side by side, read as one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

from ._rows import RowSource, csr_from_parts

if TYPE_CHECKING:
    from scssl.data.genes import GeneAlignment


class SelectedRows(RowSource):
    """Some cells of a source, with the genes of a model.

    Parameters
    ----------
    source
        Where the rows come from.
    rows
        Row numbers of the cells; all by default.
    alignment
        Maps the genes of the source to those of the model; `None` where they are the same.

    Raises
    ------
    ValueError
        If a row number is out of range.

    Examples
    --------
    >>> import numpy as np
    >>> from scssl.data import SelectedRows, open_rows
    >>> SelectedRows(open_rows(np.array([[1, 2], [3, 4], [5, 6]])), [2, 0]).read([0]).toarray()
    array([[5., 6.]], dtype=float32)
    """

    def __init__(
        self,
        source: RowSource,
        rows: Sequence[int] | np.ndarray | None = None,
        alignment: GeneAlignment | None = None,
    ) -> None:
        self._rows = None if rows is None else np.asarray(rows, dtype=np.int64)
        if self._rows is not None and len(self._rows):
            low, high = int(self._rows.min()), int(self._rows.max())
            if low < 0 or high >= source.shape[0]:
                raise ValueError(
                    f"`rows` must be in [0, {source.shape[0]:,}), found {low:,} to {high:,}."
                )
        n_cells = source.shape[0] if self._rows is None else len(self._rows)
        n_genes = source.shape[1] if alignment is None else len(alignment.model_names)
        super().__init__((n_cells, n_genes), rows_per_read=source.rows_per_read)
        self._source, self._alignment = source, alignment

    def _gather(self, rows: np.ndarray) -> sparse.csr_matrix:
        block = self._source.read(rows if self._rows is None else self._rows[rows])
        return block if self._alignment is None else self._alignment.apply(block)


class StackedRows(RowSource):
    """Matrices of different cells with the same genes, on top of each other.

    Nothing is copied: rows are read from each matrix when they are asked for.

    Parameters
    ----------
    sources
        Matrices, in the order of their cells.

    Raises
    ------
    ValueError
        If there is no matrix, or they differ in the number of genes.

    Examples
    --------
    >>> import numpy as np
    >>> from scssl.data import StackedRows, open_rows
    >>> stacked = StackedRows([open_rows(np.eye(2)), open_rows(np.array([[3, 4]]))])
    >>> stacked.read([2, 0]).toarray().tolist()
    [[3.0, 4.0], [1.0, 0.0]]
    """

    def __init__(self, sources: Sequence[RowSource]) -> None:
        widths = sorted({source.shape[1] for source in sources})
        if len(widths) != 1:
            raise ValueError(
                f"Needs matrices with the same number of genes, found {widths or 'no matrix'}."
            )
        ends = np.cumsum([source.shape[0] for source in sources])
        super().__init__((int(ends[-1]), widths[0]), rows_per_read=_least_read(sources))
        self._sources = list(sources)
        self._starts = np.concatenate(([0], ends))

    def _gather(self, rows: np.ndarray) -> sparse.csr_matrix:
        of_source = np.searchsorted(self._starts, rows, side="right") - 1
        order = np.argsort(of_source, kind="stable")
        blocks = []
        for i in np.unique(of_source):
            own = rows[order[of_source[order] == i]]
            blocks.append(self._sources[i].read(own - self._starts[i]))
        if len(blocks) == 1:
            return blocks[0]
        return _in_order(blocks, np.argsort(order, kind="stable"))


def _in_order(blocks: Sequence[sparse.csr_matrix], place: np.ndarray) -> sparse.csr_matrix:
    """Rows of the blocks, of which row ``i`` of the result is number ``place[i]`` of all."""
    data = np.concatenate([block.data for block in blocks])
    indices = np.concatenate([block.indices for block in blocks])
    ends = np.cumsum(np.concatenate([np.diff(block.indptr) for block in blocks]))
    pointer = np.concatenate(([0], ends)).astype(indices.dtype, copy=False)
    whole = csr_from_parts(data, indices, pointer, (len(place), blocks[0].shape[1]))
    return whole[place]


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
        n_genes = sum(source.shape[1] for source in sources)
        super().__init__((n_cells, n_genes), rows_per_read=_least_read(sources))
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


def _least_read(sources: Sequence[RowSource]) -> int | None:
    """Rows to ask for at once where any of the sources is expensive to read in single batches."""
    return min((s.rows_per_read for s in sources if s.rows_per_read is not None), default=None)
