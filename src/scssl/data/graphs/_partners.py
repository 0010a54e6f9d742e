"""Other cells that a cell is mixed with: neighbours in graphs, and walks over them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from scipy import sparse

from scssl._errors import MissingKeyError, warn
from scssl.data.keys import Walk

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from numpy.typing import ArrayLike


class NeighborTable:
    """Neighbours of every cell, as row numbers of the whole data set.

    Made by :meth:`from_graph` or :meth:`from_array`. Memory goes with the number of neighbours of
    all cells together, so one cell may have very many.

    Parameters
    ----------
    indptr
        Where the neighbours of each cell start, ``(n_cells + 1,)``.
    indices
        Neighbours of all cells, one cell after the other.
    """

    def __init__(self, indptr: np.ndarray, indices: np.ndarray) -> None:
        self.indptr = indptr
        self.indices = indices

    @classmethod
    def from_graph(cls, graph: Any, name: str, n_cells: int, *, how: str | None = None) -> Self:
        """Take the stored entries of a graph, whatever their values, as neighbours.

        Parameters
        ----------
        graph
            Sparse matrix or array ``(n_cells, n_cells)``; row ``i`` has the neighbours of cell
            ``i``. A zero that is stored is an entry (a distance can be zero), and the diagonal is
            left out. Of a dense matrix, what is not zero counts, and NaN is refused.
        name
            Its key in ``adata.obsp``, for messages.
        n_cells
            Number of cells of the data.
        how
            How to make it, for messages.

        Returns
        -------
        NeighborTable
            The neighbours, each once.

        Raises
        ------
        KeyError
            If `graph` is `None`.
        TypeError
            If `graph` is no matrix.
        ValueError
            If its shape does not fit, an entry is out of range, no cell has a neighbour, or NaN would make
            all cells neighbours.

        Examples
        --------
        >>> from scipy import sparse
        >>> from scssl.data import NeighborTable
        >>> graph = sparse.csr_matrix(([1, 0, 1], ([0, 0, 1], [0, 1, 2])), shape=(3, 3))
        >>> table = NeighborTable.from_graph(graph, "neighbors", 3)
        >>> [table.of(cell).tolist() for cell in range(3)]
        [[1], [2], []]
        """
        where = f'adata.obsp["{name}"]'
        how = how or (
            " scssl.pp.cross_batch_neighbors makes one; any other graph of these cells will do as well."
        )
        if graph is None:
            raise MissingKeyError(f"There is no {where}.{how}")
        dense = isinstance(graph, np.ndarray)
        if isinstance(graph, np.ndarray) and graph.ndim == 2 and graph.dtype.kind in "biuf":
            graph = sparse.csr_matrix(graph)
        if not sparse.issparse(graph):
            raise TypeError(f"{where} must be a sparse matrix, found {type(graph).__name__}.{how}")
        if graph.shape != (n_cells, n_cells):
            raise ValueError(f"{where} is {graph.shape}, but there are {n_cells:,} cells.{how}")
        csr = graph.tocsr()
        rows = np.repeat(np.arange(n_cells), np.diff(csr.indptr))
        table = cls._from_pairs(rows, csr.indices[: len(rows)], n_cells, where)
        # What is stored names a neighbour, whatever its value; a NaN in a matrix of all pairs names none.
        if dense or len(table.indices) == n_cells * (n_cells - 1):
            n_unknown = int(np.isnan(csr.data).sum())
            if n_unknown:
                raise ValueError(
                    f"{where} has {n_unknown:,} entries that are NaN, which would make neighbours of any "
                    f"cells.{how}"
                )
        if not len(table.indices):
            raise ValueError(
                f"{where} has no entries beside the diagonal: no cell has a neighbour.{how}"
            )
        return table

    @classmethod
    def from_array(cls, ids: Any, name: str, n_cells: int) -> Self:
        """Take row numbers of neighbours, one row per cell.

        Parameters
        ----------
        ids
            Row numbers of all cells, whole numbers ``(n_cells, k)``. Negative ones, anywhere in a
            row, stand for no cell. A cell itself is left out.
        name
            Where they are, for messages.
        n_cells
            Number of cells of the data.

        Returns
        -------
        NeighborTable
            The neighbours, each once.

        Raises
        ------
        TypeError
            If `ids` are not whole numbers.
        ValueError
            If their shape does not fit or one is out of range.

        Examples
        --------
        >>> import numpy as np
        >>> from scssl.data import NeighborTable
        >>> table = NeighborTable.from_array(np.array([[-1, 1], [2, 0], [-1, -1]]), "pairs", 3)
        >>> [table.of(cell).tolist() for cell in range(3)]
        [[1], [0, 2], []]
        """
        ids = np.asarray(ids)
        if ids.dtype.kind not in "iu":
            raise TypeError(f"{name} must be row numbers, found {ids.dtype}.")
        if ids.ndim != 2 or len(ids) != n_cells:
            raise ValueError(
                f"{name} must be ({n_cells:,}, k), one row per cell, found shape {ids.shape}."
            )
        rows, columns = np.nonzero(ids >= 0)
        return cls._from_pairs(rows, ids[rows, columns], n_cells, name)

    @classmethod
    def _from_pairs(cls, cells: np.ndarray, others: np.ndarray, n_cells: int, where: str) -> Self:
        """From pairs of a cell and a neighbour, in any order and with repeats."""
        if others.size and (others.min() < 0 or others.max() >= n_cells):
            worst = others.min() if others.min() < 0 else others.max()
            raise ValueError(
                f"{where} has the neighbour {worst:,}, but the cells are 0 to {n_cells - 1:,}."
            )
        others = others.astype(np.int64, copy=False)
        kept = cells != others
        pairs = cells[kept] * n_cells + others[kept]
        if (pairs[1:] <= pairs[:-1]).any():
            pairs = np.unique(pairs)
        counts = np.bincount(pairs // max(n_cells, 1), minlength=n_cells)
        indptr = np.concatenate(([0], np.cumsum(counts, dtype=np.int64)))
        small = np.int32 if n_cells <= np.iinfo(np.int32).max else np.int64
        return cls(indptr, (pairs % max(n_cells, 1)).astype(small))

    @property
    def n_cells(self) -> int:
        """Number of cells of the data."""
        return len(self.indptr) - 1

    @property
    def counts(self) -> np.ndarray:
        """Number of neighbours of every cell."""
        return np.diff(self.indptr)

    @property
    def coverage(self) -> float:
        """Share of the cells with at least one neighbour."""
        return float((self.counts > 0).mean()) if self.n_cells else 0.0

    @property
    def digest(self) -> str:
        """Digest of the neighbours of all cells, equal for equal tables only."""
        digest = hashlib.sha256(np.ascontiguousarray(self.indptr, dtype=np.int64).data)
        digest.update(np.ascontiguousarray(self.indices, dtype=np.int64).data)
        return digest.hexdigest()

    def __repr__(self) -> str:
        coverage = f"{self.coverage:.1%}".replace("%", " %")
        return f"NeighborTable({self.n_cells:,} cells, {coverage} with a neighbour)"

    def of(self, row: int) -> np.ndarray:
        """Neighbours of one cell, ascending.

        Parameters
        ----------
        row
            Row number of the cell.
        """
        return self.indices[self.indptr[row] : self.indptr[row + 1]].astype(np.int64)

    def restrict(self, rows: ArrayLike) -> Self:
        """Leave out all neighbours that are not among `rows`.

        Parameters
        ----------
        rows
            Row numbers, or a mask, of the cells that may be a neighbour: those of training, that no
            cell held out is seen in training as a neighbour of another.

        Returns
        -------
        NeighborTable
            A table of all cells; this one is not changed.
        """
        allowed = np.zeros(self.n_cells, dtype=bool)
        rows = np.asarray(rows)
        allowed[rows if rows.size else []] = True
        kept = allowed[self.indices]
        # A running count, because reduceat has no sums of empty segments.
        total = np.concatenate(([0], np.cumsum(kept, dtype=np.int64)))
        return type(self)(total[self.indptr], self.indices[kept])

    def step(self, rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Replace each cell by a random one of its neighbours, if it has any.

        Parameters
        ----------
        rows
            Row numbers of cells, repeats allowed.
        rng
            Generator of the choices, which are uniform and independent.
        """
        start = self.indptr[rows]
        count = self.indptr[rows + 1] - start
        # A choice for every cell, so that those of one cell do not depend on the degree of others.
        choice = np.floor(rng.random(len(rows)) * count).astype(np.int64)
        moved = rows.astype(np.int64, copy=True)
        some = count > 0
        moved[some] = self.indices[(start + choice)[some]]
        return moved


class PartnerWalks:
    """Draws the cells that the views of a batch are mixed with.

    A walk takes one neighbour at random in each of its graphs in turn, and stays where a cell has
    none. Within a view, walks that begin with the same graphs go over the same cells; those of two
    views are independent.

    Parameters
    ----------
    tables
        Neighbours by name of the graph.
    walks
        Walks of each view.

    Raises
    ------
    KeyError
        If a walk names a graph that is not in `tables`.
    ValueError
        If a walk is empty, a name has a slash, or the tables are of different data.

    Examples
    --------
    >>> import numpy as np
    >>> from scssl.data import NeighborTable, PartnerWalks
    >>> table = NeighborTable.from_array(np.array([[1], [2], [0]]), "next", 3)
    >>> walks = PartnerWalks({"next": table}, ((("next",),), (("next", "next"),)))
    >>> found = walks.draw(np.array([0, 2]), np.random.default_rng(0))
    >>> {key: rows.tolist() for key, rows in found.items()}
    {(0, ('next',)): [1, 0], (1, ('next', 'next')): [2, 1]}
    """

    def __init__(
        self, tables: Mapping[str, NeighborTable], walks: tuple[tuple[Walk, ...], ...]
    ) -> None:
        for walk in (walk for view in walks for walk in view):
            if isinstance(walk, str) or not walk:
                raise ValueError(
                    f"A walk is a tuple of at least one name of a graph, found {walk!r}."
                )
            for name in walk:
                if name not in tables:
                    found = ", ".join(map(repr, tables)) or "none"
                    raise MissingKeyError(
                        f"No graph {name!r} for the walk {walk!r}; there are: {found}."
                    )
                if "/" in name:
                    raise ValueError(
                        f"A graph must not have a slash in its name, found {name!r}: rename it."
                    )
        sizes = {name: table.n_cells for name, table in tables.items()}
        if len(set(sizes.values())) > 1:
            raise ValueError(f"The graphs are of different numbers of cells: {sizes}.")
        self.tables = dict(tables)
        self.walks = tuple(tuple(dict.fromkeys(map(tuple, view))) for view in walks)

    @property
    def n_cells(self) -> int | None:
        """Number of cells of the graphs, or `None` where there is no graph."""
        return next((table.n_cells for table in self.tables.values()), None)

    @property
    def n_walks(self) -> int:
        """Number of walks of all views together."""
        return sum(len(view) for view in self.walks)

    def __repr__(self) -> str:
        views = "; ".join(
            f"view {view}: {', '.join('/'.join(walk) for walk in walks) or 'none'}"
            for view, walks in enumerate(self.walks)
        )
        return f"PartnerWalks({views})"

    def draw(
        self, rows: np.ndarray, rng: np.random.Generator
    ) -> dict[tuple[int, Walk], np.ndarray]:
        """Row number of the cell at the end of every walk from every cell.

        Parameters
        ----------
        rows
            Row numbers of the cells, repeats allowed: each is walked from by itself.
        rng
            Generator of the choices.

        Returns
        -------
        dict
            By view and walk, int64 ``(len(rows),)``.
        """
        ends = {}
        for view, walks in enumerate(self.walks):
            reached: dict[Walk, np.ndarray] = {(): np.asarray(rows, dtype=np.int64)}
            for walk in walks:
                for length in range(1, len(walk) + 1):
                    path = walk[:length]
                    if path not in reached:
                        reached[path] = self.tables[path[-1]].step(reached[path[:-1]], rng)
                ends[view, walk] = reached[walk]
        return ends


_CELLS = "cells"


def describe_cells(obs_names: Iterable[str], graphs: Mapping[str, Any]) -> dict[str, Any]:
    """Digests of the names of cells and of graphs of them by key, to be written to `uns`."""
    names = [str(name) for name in obs_names]
    return {
        "in_order": _of_names(names),
        "any_order": _of_names(sorted(names)),
        "graphs": {key: _of_graph(graph) for key, graph in graphs.items()},
    }


def check_graph_cells(adata: AnnData, key: str, where: str = "adata") -> None:
    """Warn if a graph was made of other cells, or of these in another order.

    Known for graphs of :func:`scssl.pp.cross_batch_neighbors`. Where AnnData selects or sorts cells, it
    does the same to the graph, which is another one then: only a graph that is what it was, beside
    names that are not, is one of other cells. `where` is what messages call `adata`.
    """
    written = [
        value
        for value in (adata.uns.get(key), adata.uns.get(key.removesuffix("_within")))
        if isinstance(value, Mapping) and isinstance(value.get(_CELLS), Mapping)
    ]
    found = next((one for one in written if key in one[_CELLS].get("graphs", {})), None)
    graph = adata.obsp.get(key)
    if found is None or graph is None:
        return
    names = [str(name) for name in adata.obs_names]
    cells = found[_CELLS]
    if _of_names(names) == cells["in_order"] or _of_graph(graph) != cells["graphs"][key]:
        return
    same = _of_names(sorted(names)) == cells["any_order"]
    what = (
        "of these cells in another order"
        if same
        else "of cells with other names; unless cells were only renamed, it is not of these"
    )
    params = found.get("params", {})
    main = key if key in adata.uns else key.removesuffix("_within")
    source = str(params.get("embedding", ""))
    # Components, and the leading ones of X_pca, are what is taken without being told.
    given = source.startswith("adata.obsm[") and source != "adata.obsm['X_pca']"
    use_rep = f", use_rep={source.removeprefix('adata.obsm[').removesuffix(']')}" if given else ""
    warn(
        f"{where}.obsp[{key!r}] was made {what}: neighbours are then any cells. Make it again: "
        f"`scssl.pp.cross_batch_neighbors({where}, {params.get('batch_key', 'batch')!r}{use_rep}, "
        f"method={params.get('method', 'bbknn')!r}, key_added={main!r})`."
    )


def batch_keys(uns: Mapping[str, Any], key: str, beside: Iterable[str] = ()) -> list[str]:
    """Columns of `obs` with the batches that a graph was made with, as far as `uns` has it.

    What was made together, some of it `beside` this one, is described once, under the first name.
    """
    keys = []
    for name in (key, *(one for one in beside if f"{one}_within" == key)):
        try:
            found = uns[name]["params"]["batch_key"]
        except (KeyError, TypeError, IndexError):
            continue
        if isinstance(found, str):
            keys.append(found)
    return keys


def batch_codes(column: pd.Series[Any]) -> np.ndarray:
    """Code of the batch of each cell, -1 where it is missing."""
    import pandas as pd

    codes: np.ndarray = pd.factorize(column.astype(str).where(column.notna()))[0]
    return codes


def check_edges(
    table: NeighborTable,
    codes: np.ndarray,
    wanted: str,
    *,
    who: str,
    where: str,
    batch_key: str,
    how: str,
) -> None:
    """Refuse edges between batches where those `"within"` are `wanted`, and the other way round."""
    ends = np.repeat(codes, table.counts), codes[table.indices]
    known = (ends[0] >= 0) & (ends[1] >= 0)
    same = (ends[0] == ends[1])[known]
    wrong = same if wanted == "across" else ~same
    if not wrong.any():
        return
    what, other = (
        ("between batches", "within one")
        if wanted == "across"
        else ("within batches", "between two")
    )
    raise ValueError(
        f"{who} needs a graph with edges {what} only, but {100 * wrong.mean():.2g} % of those of {where} "
        f"are {other} (obs[{batch_key!r}]). Make it: {how}."
    )


def _of_names(names: list[str]) -> str:
    digest = hashlib.sha256()
    for name in names:
        # With its length, or two names could be taken for one.
        digest.update(f"{len(name)}:{name}".encode())
    return digest.hexdigest()[:32]


def _of_graph(graph: Any) -> str:
    """Digest of which entries there are; the same in any format and type."""
    if not sparse.issparse(graph):
        return ""
    csr = graph.tocsr()
    if not csr.has_sorted_indices:
        csr = csr.sorted_indices()
    digest = hashlib.sha256(str(csr.shape).encode())
    for part in (csr.indptr, csr.indices):
        for start in range(0, len(part), 1 << 20):
            digest.update(part[start : start + (1 << 20)].astype(np.int64).data)
    return digest.hexdigest()[:32]
