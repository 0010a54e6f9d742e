"""Nearest cells of every batch, and mutual ones, as graphs of all cells."""

from __future__ import annotations

import numpy as np
from scipy import sparse

from scssl._neighbors import Index
from scssl._random import derive_generator, derive_seed

# Cells of a batch up to which the search looks at all of them: as fast as pynndescent.
_SMALL_BATCH = 4096


class BatchSearch:
    """Search for nearest cells, batch by batch.

    Parameters
    ----------
    values
        Embedding of all cells, float32.
    codes
        Batch of each cell, 0 to the number of batches less one.
    cosine
        Whether neighbours are those of the smallest angle instead of the smallest distance.
    exact
        Whether to look at all cells.
    seed
        Seed of the approximate search.
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

    All by default. Otherwise the first rounds of a tournament in random order, in each of which a
    batch meets one other (or, where they are odd, one rests).

    Parameters
    ----------
    n_batches
        Number of batches.
    max_batches
        Others that a batch meets at most.
    seed
        Seed of the order.
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
    indices, data = _empty(indptr, n)
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
    return _csr(data, indices, indptr, n)


def within(search: BatchSearch, k: int) -> sparse.csr_matrix:
    """The `k` nearest cells of its own batch to every cell."""
    return balanced(search, [], k)


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
    """Raise unless a graph is what it should be: of these cells, without self, and sound.

    Parameters
    ----------
    graph
        Neighbours of each cell.
    codes
        Batch of each cell.
    batches
        Whether neighbours are of the ``"same"`` batch, of ``"other"`` ones, or of ``"any"``.
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


def _empty(indptr: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    small = max(n, int(indptr[-1])) <= np.iinfo(np.int32).max
    indices = np.empty(indptr[-1], dtype=np.int32 if small else np.int64)
    return indices, np.empty(indptr[-1], dtype=np.float32)


def _csr(data: np.ndarray, indices: np.ndarray, indptr: np.ndarray, n: int) -> sparse.csr_matrix:
    graph = sparse.csr_matrix((data, indices, indptr.astype(indices.dtype)), shape=(n, n))
    graph.sort_indices()
    return graph
