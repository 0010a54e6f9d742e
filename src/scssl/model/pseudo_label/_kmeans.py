"""Clusters of cells in an embedding."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any, Literal, get_args

import numpy as np

from scssl._checks import check_choice

Engine = Literal["auto", "sklearn", "faiss"]
_BATCH = 4096
# More cells than this do not change where centres may start.
_INIT_ROWS = 50_000


def resolve_engine(engine: str) -> Literal["sklearn", "faiss"]:
    """What clusters: faiss where it is installed and left open."""
    check_choice("kmeans", engine, get_args(Engine))
    there = find_spec("faiss") is not None
    if engine == "faiss" and not there:
        raise ImportError('kmeans="faiss" needs the package faiss-cpu. Or take `kmeans="sklearn"`.')
    return "faiss" if engine == "faiss" or (engine == "auto" and there) else "sklearn"


def kmeans(x: np.ndarray, k: int, *, seed: int, engine: str = "sklearn") -> np.ndarray:
    """Cluster of each row of float32; int64 in ``[0, k)``, no cluster of a single row.

    Engines are ``"sklearn"``, k-means by mini-batches, and ``"faiss"``.
    """
    x = np.ascontiguousarray(x, dtype=np.float32)
    labels, centres = (_by_faiss if engine == "faiss" else _by_sklearn)(x, k, seed)
    sizes = np.bincount(labels, minlength=k)
    lone = np.flatnonzero(sizes[labels] == 1)
    if len(lone):
        # A cluster of one cell teaches to recognise that cell.
        kept = np.flatnonzero(sizes > 1)
        if not len(kept):
            return np.zeros(len(x), dtype=np.int64)
        gaps = ((x[lone, None] - centres[None, kept]) ** 2).sum(-1)
        labels[lone] = kept[gaps.argmin(1)]
    return labels


def _by_sklearn(x: np.ndarray, k: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    from sklearn.cluster import MiniBatchKMeans

    model = MiniBatchKMeans(
        k,
        batch_size=_BATCH,
        n_init=3,
        # Centres that few cells come near move on to where there are more.
        reassignment_ratio=0.01,
        random_state=seed % 2**32,
    ).fit(x)
    return model.labels_.astype(np.int64), model.cluster_centers_


def _by_faiss(x: np.ndarray, k: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    import faiss
    from sklearn.cluster import kmeans_plusplus

    # Twenty iterations as in the published code; by default faiss asks for 39 cells per cluster.
    options: dict[str, Any] = {"niter": 20, "min_points_per_centroid": 1, "verbose": False}
    model = faiss.Kmeans(x.shape[1], k, seed=seed % 2**31, **options)
    # It starts from random cells by itself, and stays in what it finds from there.
    few = x
    if len(x) > _INIT_ROWS:
        few = x[np.random.default_rng(seed).choice(len(x), _INIT_ROWS, replace=False)]
    start = kmeans_plusplus(few, k, random_state=seed % 2**32)[0]
    model.train(x, init_centroids=np.ascontiguousarray(start, dtype=np.float32))
    return model.index.search(x, 1)[1].ravel().astype(np.int64), model.centroids


def numbers_of_clusters(
    n_cells: int, cells_per_cluster: Sequence[int], *, name: str = ""
) -> list[int]:
    """Number of clusters of each partition: cells by cells per cluster, from 2 to half of the cells."""
    if n_cells < 4:
        where = f"Data set {name!r} has" if name else "There are"
        raise ValueError(f"{where} {n_cells} cells; clusters need at least 4. Leave it out.")
    return [int(np.clip(round(n_cells / per), 2, n_cells // 2)) for per in cells_per_cluster]


def agreement(one: np.ndarray, other: np.ndarray) -> float:
    """Normalised mutual information of two partitions."""
    from sklearn.metrics import normalized_mutual_info_score

    return float(normalized_mutual_info_score(one, other))
