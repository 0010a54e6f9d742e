"""How well clusters of an embedding agree with known cell types."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from scssl._checks import (
    check_adata,
    check_destination,
    check_number,
    check_whole,
    get_embedding,
    get_labels,
)
from scssl._random import RNG, as_seed, derive_generator, derive_seed
from scssl._scores import agreement_of

from ._common import check_neighbors, list_of_keys, write_scores

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

# The silhouette needs all distances between its cells.
_SILHOUETTE_CELLS = 10_000
_METHODS = ("leiden", "kmeans")


def cluster_metrics(
    adata: AnnData,
    label_key: str,
    *,
    use_rep: str | Sequence[str] = "X_ssl",
    resolution: float = 1.0,
    n_neighbors: int = 15,
    n_repeats: int = 10,
    rng: RNG = 0,
    key_added: str = "cluster_metrics",
) -> pd.DataFrame:
    """Score embeddings by how well clusters of them agree with known labels.

    Two ways of clustering, `n_repeats` times each from different seeds: Leiden :cite:p:`Traag2019`
    with modularity at `resolution` on one graph of nearest neighbours, as in scanpy, and k-means with
    as many clusters as there are labels, from one k-means++ start each. The resolution is as given for
    every embedding and is never chosen by the labels. k-means is told their number, and nothing else of
    them.

    Clusters are compared with the labels by the Rand index adjusted for chance (ARI
    :cite:p:`Hubert1985`) and by normalised mutual information (NMI, arithmetic mean). ARI and NMI
    depend on the number of clusters: compare rows at a like ``leiden_n_clusters``. The silhouette
    :cite:p:`Rousseeuw1987` needs no clusters: it asks whether cells are closer to those of their own
    label than to those of the nearest other label, and is -1 to 1.

    Parameters
    ----------
    adata
        Annotated cells with embeddings. Only `adata.uns` is changed.
    label_key
        Column of `adata.obs` with the labels. Every cell must have one.
    use_rep
        Entry of `adata.obsm`, or several: one row of the result for each.
    resolution
        Resolution of Leiden; more gives more clusters.
    n_neighbors
        Size of the neighbourhoods in the graph of Leiden.
    n_repeats
        Times that each method is run.
    rng
        Seed or generator of graph, clusters and the draw for the silhouette.
    key_added
        Entry of `adata.uns` for the result.

    Returns
    -------
    pandas.DataFrame
        One row for each representation: ``use_rep``, ``label_key``, ``n_cells``, ``n_labels``; of
        Leiden and k-means the mean over repeats of ``leiden_n_clusters``, ``leiden_ari``,
        ``leiden_nmi``, ``kmeans_n_clusters``, ``kmeans_ari``, ``kmeans_nmi``, each with its standard
        deviation as ``..._sd`` (NaN for one repeat); and ``silhouette`` with ``n_silhouette_cells``, a
        draw of 10,000 where there are more. ``.attrs["repeats"]`` has every repeat as a dict of
        columns. In ``adata.uns[key_added]``: the rows as ``"scores"``, the frame ``"repeats"`` and
        ``"params"``.

    Raises
    ------
    KeyError
        If a column or an embedding is not in `adata`.
    ValueError
        If labels or embeddings are incomplete, there are fewer than two labels or as many as cells, or
        a parameter is out of range.

    Examples
    --------
    >>> import scanpy as sc, scssl
    >>> adata = scssl.datasets.pbmc68k_reduced()
    >>> sc.pp.pca(adata)
    >>> adata.obsm["X_pca2"] = adata.obsm["X_pca"][:, :2]
    >>> scores = scssl.tl.cluster_metrics(
    ...     adata, "bulk_labels", use_rep=["X_pca", "X_pca2"], n_repeats=2
    ... )
    >>> bool(scores["leiden_nmi"][0] > scores["leiden_nmi"][1])
    True
    """
    import pandas as pd

    check_adata(adata)
    n_neighbors = check_whole("n_neighbors", n_neighbors, 2)
    n_repeats = check_whole("n_repeats", n_repeats)
    resolution = check_number("resolution", resolution, "(0, inf)")
    check_destination(adata, key_added)
    keys = list_of_keys(use_rep)
    labels = get_labels(adata, label_key).astype(str).to_numpy()
    names, codes = np.unique(labels, return_inverse=True)
    if not 2 <= len(names) < len(codes):
        raise ValueError(
            f"Needs at least two labels and more cells than labels; adata.obs[{label_key!r}] has "
            f"{len(names):,} labels of {len(codes):,} cells. Is it a column of cell types?"
        )
    check_neighbors(n_neighbors, len(codes) - 1, "other cells of `adata`")
    embeddings = {key: get_embedding(adata, key) for key in keys}
    seed = as_seed(rng)
    repeats, rows = [], []
    for key, values in embeddings.items():
        found = pd.DataFrame(
            _agreement(codes, clusters, method, repeat)
            for method, repeat, clusters in _clusterings(
                values, len(names), resolution, n_neighbors, n_repeats, seed
            )
        )
        repeats.append(found.assign(use_rep=key)[["use_rep", *found.columns]])
        silhouette, n_used = _silhouette(values, codes, seed)
        rows.append(
            {
                "use_rep": key,
                "label_key": label_key,
                "n_cells": len(codes),
                "n_labels": len(names),
                **_summary(found),
                "silhouette": silhouette,
                "n_silhouette_cells": n_used,
            }
        )
    params = {
        "resolution": resolution,
        "n_neighbors": n_neighbors,
        "n_repeats": n_repeats,
        "seed": seed,
    }
    table = pd.concat(repeats, ignore_index=True)
    return write_scores(adata, key_added, pd.DataFrame(rows), {"repeats": table}, params=params)


def _clusterings(
    values: np.ndarray,
    n_labels: int,
    resolution: float,
    n_neighbors: int,
    n_repeats: int,
    seed: int,
) -> Iterator[tuple[str, int, np.ndarray]]:
    """Method, repeat and cluster of every cell."""
    import scanpy as sc
    from anndata import AnnData
    from sklearn.cluster import KMeans

    def state(*names: int | str) -> int:
        # igraph takes no seed of more bits.
        return derive_seed(seed, *names) % 2**31

    light = AnnData(shape=(len(values), 0))
    light.obsm["X"] = values
    sc.pp.neighbors(light, n_neighbors, use_rep="X", random_state=state("graph"))
    for repeat in range(n_repeats):
        options = {"flavor": "igraph", "n_iterations": 2, "directed": False}
        sc.tl.leiden(light, resolution, random_state=state("leiden", repeat), **options)
        yield "leiden", repeat, light.obs["leiden"].cat.codes.to_numpy()
    for repeat in range(n_repeats):
        means = KMeans(n_labels, n_init=1, random_state=state("kmeans", repeat))
        yield "kmeans", repeat, means.fit_predict(values)


def _agreement(
    codes: np.ndarray, clusters: np.ndarray, method: str, repeat: int
) -> dict[str, str | int | float]:
    return {"method": method, "repeat": repeat, **agreement_of(codes, clusters)}


def _summary(repeats: pd.DataFrame) -> dict[str, float]:
    """Mean and standard deviation over the repeats of each method."""
    found: dict[str, float] = {}
    for method in _METHODS:
        rows: Any = repeats[repeats["method"] == method]
        for name in ("n_clusters", "ari", "nmi"):
            found[f"{method}_{name}"] = float(rows[name].mean())
            found[f"{method}_{name}_sd"] = float(rows[name].std())
    return found


def _silhouette(values: np.ndarray, codes: np.ndarray, seed: int) -> tuple[float, int]:
    """Mean silhouette of the labels, and the cells it is of; NaN if they are of one label."""
    from sklearn.metrics import silhouette_score

    if len(codes) > _SILHOUETTE_CELLS:
        generator = derive_generator(seed, "silhouette")
        rows = np.sort(generator.choice(len(codes), _SILHOUETTE_CELLS, replace=False))
        values, codes = values[rows], codes[rows]
    if not 2 <= len(np.unique(codes)) < len(codes):
        return float("nan"), len(codes)
    return float(silhouette_score(values, codes)), len(codes)
