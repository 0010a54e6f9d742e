"""Neighbours of cells across batches: nearest cells of every batch, and mutual ones."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from scipy import sparse

from scssl._checks import (
    first_fraction,
    get_embedding,
    get_labels,
    get_matrix,
    number,
    some,
)
from scssl._errors import warn
from scssl._neighbors import EXACT_PAIRS, Index
from scssl._random import derive_generator, derive_seed
from scssl.data.matrix import (
    find_counts,
    open_rows,
    pca,
    refuse_features,
    resolve_input,
    scan_matrix,
    usual_target_sum,
)

from ._partners import describe_cells

if TYPE_CHECKING:
    from anndata import AnnData

_LOGGER = logging.getLogger("scssl")

Method = Literal["bbknn", "mnn"]
Metric = Literal["euclidean", "cosine"]
#: What the graph of each method is called where the user does not name it.
GRAPH_KEYS: dict[Method, str] = {"bbknn": "cross_batch_neighbors", "mnn": "mnn"}
_N_NEIGHBORS = {"bbknn": 5, "mnn": 20}
# Cells of a batch up to which the search looks at all of them: as fast as pynndescent.
_SMALL_BATCH = 4096


@dataclass(frozen=True)
class BatchGraphs:
    """Graphs by name, and what is written beside them."""

    graphs: dict[str, sparse.csr_matrix]
    description: dict[str, Any]


def batch_graphs(
    adata: AnnData,
    batch_key: str,
    key: str,
    *,
    method: Method,
    use_rep: str | None = None,
    layer: str | None = None,
    input: str = "auto",
    n_neighbors: int | None = None,
    n_neighbors_within: int = 10,
    metric: Metric = "cosine",
    n_pcs: int = 50,
    max_batches: int | None = None,
    max_anchors: int | None = None,
    exact: bool | None = None,
    seed: int = 0,
) -> BatchGraphs:
    """Find the graphs of :func:`scssl.pp.cross_batch_neighbors`, whose arguments and defaults these are.

    `adata` is not changed. `input` is what its values are, where that is known.
    """
    k = _N_NEIGHBORS[method] if n_neighbors is None else n_neighbors
    codes, names = batches_of(adata, batch_key)
    sizes = np.bincount(codes)
    values, source = _embedding(adata, use_rep, layer, input, n_pcs, derive_seed(seed, "pca"))
    if metric == "cosine" and not values.any(axis=1).all():
        first = adata.obs_names[int((~values.any(axis=1)).argmax())]
        raise ValueError(
            f"{source} is zero in some cells (first: {first!r}), which have no angle to others. "
            'Leave them out, or take `metric="euclidean"`.'
        )
    most = max(k, n_neighbors_within) if method == "mnn" else k
    small = sizes <= most
    if small.any():
        warn(
            f"{small.sum()} of {len(names)} batches in adata.obs[{batch_key!r}] have no more than {most} "
            f"cells, so that fewer neighbours than asked for are found in them: {some(names[small])}."
        )
    if exact is None:
        exact = float(len(codes)) ** 2 <= EXACT_PAIRS

    search = BatchSearch(values, codes, cosine=metric == "cosine", exact=exact, seed=seed)
    pairs = batch_pairs(len(names), max_batches, seed)
    if method == "bbknn":
        graphs = {key: balanced(search, pairs, k)}
    else:
        graphs = {
            key: mutual(search, pairs, k, max_anchors),
            f"{key}_within": balanced(search, [], n_neighbors_within),
        }
        check_graph(graphs[f"{key}_within"], codes, "same")
    check_graph(graphs[key], codes, "any" if method == "bbknn" else "other")

    covered = _reaches_out(graphs[key], codes)
    of_batch = np.bincount(codes, weights=covered) / sizes
    _tell(names, of_batch, float(covered.mean()), method)
    params = {
        "batch_key": batch_key,
        "method": method,
        "embedding": source,
        "n_dimensions": values.shape[1],
        "n_neighbors": k,
        "metric": metric,
        "n_batch_pairs": len(pairs),
        "exact": bool(exact),
        "seed": seed,
    }
    if method == "mnn":
        params |= {"n_neighbors_within": n_neighbors_within, "max_anchors": max_anchors or 0}
    description = {
        "coverage": float(covered.mean()),
        "batches": names.astype(object),
        "n_cells": sizes,
        "coverage_of_batch": of_batch,
        "cells": describe_cells(adata.obs_names, graphs),
        "params": params,
    }
    return BatchGraphs(graphs, description)


def batches_of(adata: AnnData, key: str) -> tuple[np.ndarray, np.ndarray]:
    """Number of the batch of every cell, and the names in order."""
    column = get_labels(adata, key, "batch_key")
    fraction = first_fraction(column)
    if fraction is not None:
        what = f"holds fractions ({number(fraction)}, ...), which are no batches"
        raise ValueError(f"adata.obs[{key!r}] {what}. Set batch_key to the column of batches.")
    names, codes = np.unique(column.astype(str).to_numpy(dtype=str), return_inverse=True)
    if len(names) < 2:
        found = f"only the batch {str(names[0])!r}" if len(names) else "no cells"
        raise ValueError(
            f"adata.obs[{key!r}] has {found}, and two batches are needed. For neighbours in one "
            "there is scanpy.pp.neighbors, whose adata.obsp entries augmentations take as well."
        )
    return codes.ravel(), names


def _embedding(
    adata: AnnData, use_rep: str | None, layer: str | None, input: str, n_pcs: int, seed: int
) -> tuple[np.ndarray, str]:
    """Embedding of the cells, and where it is from."""
    name = "X_pca" if use_rep is None and layer is None and "X_pca" in adata.obsm else use_rep
    if name is None:
        return _components(adata, layer, input, n_pcs, seed)
    values = get_embedding(
        adata, name, advice="Without use_rep, principal components are computed here."
    )
    if use_rep is None:
        values = values[:, :n_pcs]
    return values.astype(np.float32), f"adata.obsm[{name!r}]"


def _components(
    adata: AnnData, layer: str | None, input: str, n_pcs: int, seed: int
) -> tuple[np.ndarray, str]:
    matrix, where = get_matrix(adata, layer)
    if matrix is None:
        ways = [f"`layer={name!r}`" for name in adata.layers if name is not None]
        ways += [f"`use_rep={name!r}`" for name in adata.obsm]
        take = f" Take {' or '.join(ways[:2])}." if ways else ""
        raise ValueError(f"adata.X is empty, and there is no adata.obsm['X_pca'].{take}")
    refuse_features(adata)
    stats = scan_matrix(matrix, where=where)
    decision = resolve_input(
        stats,
        input,
        input_name=None,
        raw_hint=find_counts(adata, layer=layer),
        obs_names=adata.obs_names,
        var_names=adata.var_names,
    )
    columns = None
    genes = f"{adata.n_vars:,} genes"
    if "highly_variable" in adata.var:
        columns = np.flatnonzero(adata.var["highly_variable"].to_numpy(dtype=bool, na_value=False))
        if not len(columns):
            raise ValueError(
                'adata.var["highly_variable"] selects no gene: `del adata.var["highly_variable"]`.'
            )
        genes = f"{len(columns):,} highly variable genes"
    values = pca(
        open_rows(matrix, where=where),
        input_kind=decision.kind,
        columns=columns,
        n_pcs=n_pcs,
        seed=seed,
        target_sum=usual_target_sum(adata.n_vars, stats.median_sum),
    )
    _LOGGER.info(
        "%s. Neighbours are in %d components of %s.", decision.reason, values.shape[1], genes
    )
    return values, f"PCA of {where}"


def _reaches_out(graph: sparse.csr_matrix, codes: np.ndarray) -> np.ndarray:
    """Which cells have a neighbour in another batch."""
    rows = np.repeat(np.arange(len(codes)), np.diff(graph.indptr))
    found = np.zeros(len(codes), dtype=bool)
    found[rows[codes[rows] != codes[graph.indices]]] = True
    return found


def _tell(names: np.ndarray, of_batch: np.ndarray, coverage: float, method: str) -> None:
    worst = int(of_batch.argmin())
    _LOGGER.info(
        "%.1f %% of the cells have a neighbour in another batch; least in batch %r: %.1f %%.",
        100 * coverage,
        str(names[worst]),
        100 * of_batch[worst],
    )
    if (of_batch == 0).any():
        more = "a larger n_neighbors" if method == "mnn" else "a larger max_batches"
        warn(
            f"No cell of {some(names[of_batch == 0])} has a neighbour in another batch: views of "
            f"these cells get no partner. Try {more}."
        )


class BatchSearch:
    """Search for nearest cells in `values`, batch by batch; `codes` are the batches of the cells.

    By the smallest distance, or with `cosine` the smallest angle; `seed` is that of the search where
    it is not `exact`.
    """

    def __init__(
        self, values: np.ndarray, codes: np.ndarray, *, cosine: bool, exact: bool, seed: int
    ) -> None:
        if cosine:
            # In the order of distances between unit vectors is the order of angles.
            values = values / np.linalg.norm(values.astype(np.float64), axis=1, keepdims=True)
        self.values = np.ascontiguousarray(values, dtype=np.float32)
        self.codes, self.cosine, self.exact, self.seed = codes, cosine, exact, seed
        order = np.argsort(codes, kind="stable")
        #: Row numbers of the cells of every batch.
        self.members = np.split(order, np.cumsum(np.bincount(codes))[:-1])
        self._indexes: dict[int, Index] = {}

    @property
    def n_batches(self) -> int:
        """Number of batches."""
        return len(self.members)

    def nearest(self, batch: int, rows: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Nearest cells of `batch` to cells of others: row numbers and distances.

        Fewer than `k` where the batch has fewer.
        """
        members = self.members[batch]
        distances, found = self._index(batch).query(self.values[rows], min(k, len(members)))
        return members[found], self._distance(distances)

    def nearest_own(self, batch: int, k: int) -> tuple[np.ndarray, np.ndarray]:
        """As :meth:`nearest`, of every cell of `batch` among the others of it."""
        members = self.members[batch]
        k = min(k, len(members) - 1)
        if k == 0:
            return np.zeros((1, 0), dtype=np.int64), np.zeros((1, 0))
        distances, found = self._index(batch).own(k)
        return members[found], self._distance(distances)

    def forget(self, batch: int) -> None:
        """Free what was built for a batch."""
        self._indexes.pop(batch, None)

    def _index(self, batch: int) -> Index:
        if batch not in self._indexes:
            members = self.members[batch]
            self._indexes[batch] = Index(
                self.values[members],
                exact=self.exact or len(members) <= _SMALL_BATCH,
                seed=derive_seed(self.seed, "batch", batch),
            )
        return self._indexes[batch]

    def _distance(self, distances: np.ndarray) -> np.ndarray:
        return distances**2 / 2 if self.cosine else distances


def batch_pairs(n_batches: int, max_batches: int | None, seed: int) -> list[tuple[int, int]]:
    """Pairs of batches to compare, such that every batch is in as many.

    All by default. Otherwise the first `max_batches` rounds of a tournament in random order, in each
    of which a batch meets one other (or, where they are odd, one rests).
    """
    if max_batches is None or max_batches >= n_batches - 1:
        return [(a, b) for a in range(n_batches) for b in range(a + 1, n_batches)]
    ring = derive_generator(seed, "batches").permutation(n_batches).tolist()
    if n_batches % 2:
        ring.append(-1)
    pairs = []
    for _ in range(max_batches):
        for a, b in zip(ring[: len(ring) // 2], reversed(ring), strict=False):
            if min(a, b) >= 0:
                pairs.append((min(a, b), max(a, b)))
        # The circle method: one stays, the others move on.
        ring = [ring[0], ring[-1], *ring[1:-1]]
    return sorted(pairs)


def balanced(search: BatchSearch, pairs: list[tuple[int, int]], k: int) -> sparse.csr_matrix:
    """The `k` nearest cells of its own batch, and of each that it is paired with, to every cell.

    Directed: row ``i`` has what was found for cell ``i``.
    """
    n_batches, n = search.n_batches, len(search.codes)
    meets = np.eye(n_batches, dtype=bool)
    for a, b in pairs:
        meets[a, b] = meets[b, a] = True
    sizes = np.array([len(members) for members in search.members])
    per_batch = meets @ np.minimum(sizes, k) - (sizes <= k)
    indptr = np.concatenate(([0], np.cumsum(per_batch[search.codes], dtype=np.int64)))
    small = max(n, int(indptr[-1])) <= np.iinfo(np.int32).max
    indices = np.empty(indptr[-1], dtype=np.int32 if small else np.int64)
    data = np.empty(indptr[-1], dtype=np.float32)
    filled = indptr[:-1].copy()

    def fill(rows: np.ndarray, found: np.ndarray, distances: np.ndarray) -> None:
        places = filled[rows, None] + np.arange(found.shape[1])
        indices[places], data[places] = found, connectivity(distances)
        filled[rows] += found.shape[1]

    for batch in range(n_batches):
        fill(search.members[batch], *search.nearest_own(batch, k))
        others = np.flatnonzero(meets[batch])
        for other in others[others != batch]:
            rows = search.members[other]
            fill(rows, *search.nearest(batch, rows, k))
        search.forget(batch)
    graph = sparse.csr_matrix((data, indices, indptr.astype(indices.dtype)), shape=(n, n))
    graph.sort_indices()
    return graph


def mutual(
    search: BatchSearch, pairs: list[tuple[int, int]], k: int, max_anchors: int | None
) -> sparse.csr_matrix:
    """Pairs of cells of two batches of which each is among the `k` nearest of the other.

    Symmetric. `max_anchors` pairs are kept at most for each two batches, drawn at random.
    """
    n = len(search.codes)
    first, second, weight = [], [], []
    last_use = {batch: i for i, pair in enumerate(pairs) for batch in pair}
    for i, (a, b) in enumerate(pairs):
        there, distances = search.nearest(b, search.members[a], k)
        back, _ = search.nearest(a, search.members[b], k)
        rows = np.repeat(search.members[a], there.shape[1])
        forth = rows * n + there.ravel()
        seen_back = back.ravel() * n + np.repeat(search.members[b], back.shape[1])
        kept = np.flatnonzero(np.isin(forth, seen_back, assume_unique=True))
        if max_anchors is not None and len(kept) > max_anchors:
            generator = derive_generator(search.seed, "anchors", a, b)
            kept = np.sort(generator.choice(kept, max_anchors, replace=False))
        first.append(rows[kept])
        second.append(there.ravel()[kept])
        weight.append(connectivity(distances.ravel()[kept]))
        for batch in (a, b):
            if last_use[batch] == i:
                search.forget(batch)
    left, right, weights = (np.concatenate(parts) for parts in (first, second, weight))
    graph = sparse.coo_matrix(
        (np.tile(weights, 2), (np.concatenate([left, right]), np.concatenate([right, left]))),
        shape=(n, n),
    ).tocsr()
    graph.sort_indices()
    return sparse.csr_matrix(graph)


def connectivity(distances: np.ndarray) -> np.ndarray:
    """``1 / (1 + distance)`` in float32, above zero for any distance."""
    weights = (1 / (1 + distances)).astype(np.float32)
    # A stored zero would be lost in the first operation on the graph.
    return np.maximum(weights, np.finfo(np.float32).tiny)


def check_graph(graph: sparse.csr_matrix, codes: np.ndarray, batches: str) -> None:
    """Raise unless a graph is of these cells, without self, and sound.

    Its neighbours are of the ``"same"`` batch, of ``"other"`` ones, or of ``"any"``.
    """
    n = len(codes)
    rows = np.repeat(np.arange(n), np.diff(graph.indptr))
    others = graph.indices
    wrong = None
    if graph.shape != (n, n) or (others.size and not 0 <= others.min() <= others.max() < n):
        wrong = "row numbers out of range"
    elif (rows == others).any():
        wrong = "cells that are their own neighbour"
    elif not (graph.data > 0).all():
        wrong = "weights that are not positive"
    elif batches == "same" and (codes[rows] != codes[others]).any():
        wrong = "neighbours of another batch"
    elif batches == "other" and (codes[rows] == codes[others]).any():
        wrong = "neighbours of the same batch"
    if wrong is not None:
        raise RuntimeError(f"The graph has {wrong}. This is a mistake in scssl: please report it.")
