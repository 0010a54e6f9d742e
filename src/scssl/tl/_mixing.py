"""How well the batches of an embedding are mixed, and whether the cell types are kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

from scssl._checks import (
    LABELLED,
    check_adata,
    check_destination,
    check_whole,
    get_embedding,
    get_labels,
    likely_column,
)
from scssl._errors import warn
from scssl._neighbors import EXACT_PAIRS, Index
from scssl._random import RNG, as_seed, derive_seed
from scssl.data.graphs import batches_of

from ._benchmark import scib_metrics
from ._cluster_metrics import clusterings, silhouette_of
from ._common import check_neighbors, list_of_keys, write_scores

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

_MIXED = ("ilisi", "kbet", "graph_connectivity")
_KEPT = ("label_silhouette", "label_purity", "leiden_nmi")
# Level of the chi-squared test, as by Büttner et al.; neighbours with fewer of which it says nothing.
_LEVEL = 0.05
_FEWEST = 5


def batch_mixing(
    adata: AnnData,
    batch_key: str,
    label_key: str | None = None,
    *,
    use_rep: str | Sequence[str] = "X_ssl",
    n_neighbors: int = 30,
    scib: bool = False,
    rng: RNG = 0,
    key_added: str = "batch_mixing",
) -> pd.DataFrame:
    r"""Score how well batches are mixed in embeddings, beside how well cell types are kept.

    An embedding in which all cells are alike is mixed perfectly. Mixing therefore stands beside what is
    left of the types, and where `label_key` is not given a warning says that this was not checked.

    *Mixed.* ``ilisi`` is the mean over cells of the inverse Simpson index of the batches among the
    `n_neighbors` nearest cells, :math:`1 / \sum_b p_b^2`, from 0 (one batch) to 1 (all alike), after
    :cite:t:`Korsunsky2019` with equal weights. ``kbet`` is the share of cells whose nearest cells have the
    batches of all cells by a :math:`\chi^2` test at 5 % :cite:p:`Buttner2019`; among the cells of each
    label, averaged over the labels, where there are labels :cite:p:`Luecken2022`. ``graph_connectivity``
    is the share of the cells of a label that are connected with each other in the graph of nearest cells,
    averaged over the labels :cite:p:`Luecken2022`.

    *Kept.* ``label_silhouette``, from 0 to 1 :cite:p:`Rousseeuw1987`; ``label_purity``, the mean share of
    the nearest cells that have the label of the cell; ``leiden_nmi``, normalised mutual information of
    labels and Leiden clusters at resolution 1.

    Parameters
    ----------
    adata
        Cells with embeddings. Only `adata.uns` is changed.
    batch_key
        Column of `adata.obs` with the batch of every cell; at least two.
    label_key
        Column of `adata.obs` with the cell type of every cell, at least two.
    use_rep
        Entry of `adata.obsm`, or several: one row of the result for each. One from before integration,
        such as ``"X_pca"``, tells what was there to mix.
    n_neighbors
        Nearest cells of each cell. Of a label with fewer than four times as many cells, ``kbet`` looks at
        a quarter of them.
    scib
        Whether to add the scores of scib-metrics, unscaled, in columns named ``scib_...``.
    rng
        Seed or generator of the search, the clusters and the draw for the silhouette.
    key_added
        Entry of `adata.uns` for the result.

    Returns
    -------
    pandas.DataFrame
        One row for each representation: ``use_rep``; ``mixed``, the mean of the scores of mixing, and
        ``types_kept``, that of the types; the scores, each from 0 to 1, NaN where they need labels that
        are not there; ``n_cells``, ``n_batches``, ``n_labels``. In ``adata.uns[key_added]``: the rows as
        ``"scores"`` and ``"params"``.

    Raises
    ------
    KeyError
        If a column or an embedding is not in `adata`.
    ValueError
        If there is one batch or one label, a value is missing, or there are too few cells.
    ImportError
        If `scib` is true and scib-metrics is not installed.

    Examples
    --------
    >>> import numpy as np, scanpy as sc, scssl
    >>> adata = scssl.datasets.pbmc68k_reduced()
    >>> sc.pp.pca(adata)
    >>> adata.obs["batch"] = np.resize(["a", "b"], adata.n_obs)
    >>> scores = scssl.tl.batch_mixing(adata, "batch", "bulk_labels", use_rep="X_pca")
    >>> bool(scores["ilisi"][0] > 0.9), bool(0.4 < scores["types_kept"][0] < 0.9)
    (True, True)
    """
    import pandas as pd

    check_adata(adata)
    check_destination(adata, key_added)
    n_neighbors = check_whole("n_neighbors", n_neighbors, _FEWEST)
    keys = list_of_keys(use_rep)
    batches, batch_names = batches_of(adata, batch_key)
    labels, n_labels = None, 0
    if label_key is not None:
        names, labels = np.unique(
            get_labels(adata, label_key).astype(str).to_numpy(), return_inverse=True
        )
        n_labels = len(names)
        if not 2 <= n_labels < adata.n_obs:
            raise ValueError(
                f"adata.obs[{label_key!r}] has {n_labels:,} labels of {adata.n_obs:,} cells, and at least two "
                "are needed, fewer than cells. Is it a column of cell types?"
            )
    else:
        _warn_of_types(adata, batch_key)
        if scib:
            raise ValueError(
                "The scores of scib-metrics need labels: `scib=False`, or `label_key`."
            )
    check_neighbors(n_neighbors, adata.n_obs - 1, "other cells of `adata`")
    seed = as_seed(rng)
    rows = []
    for key in keys:
        values = np.ascontiguousarray(get_embedding(adata, key), dtype=np.float32)
        own = _scores(values, batches, labels, n_neighbors, seed)
        if scib:
            assert labels is not None
            more = scib_metrics(values, batches, labels)
            own |= {f"scib_{name}": value for name, value in more.items()}
        sizes = {"n_cells": len(values), "n_batches": len(batch_names), "n_labels": n_labels}
        rows.append({"use_rep": key, **own, **sizes})
    params = {
        "batch_key": batch_key,
        "label_key": "none" if label_key is None else label_key,
        "n_neighbors": n_neighbors,
        "seed": seed,
    }
    return write_scores(adata, key_added, pd.DataFrame(rows), {}, params=params)


def _warn_of_types(adata: AnnData, batch_key: str) -> None:
    likely = likely_column(adata.obs.drop(columns=batch_key), *LABELLED)
    more = "" if likely is None else f" If {likely!r} is their column: `label_key={likely!r}`."
    warn(
        "Without labels it cannot be told whether cell types are kept, and mixing alone says little: an "
        f"embedding that loses them mixes best.{more}"
    )


def _scores(
    values: np.ndarray,
    batches: np.ndarray,
    labels: np.ndarray | None,
    n_neighbors: int,
    seed: int,
) -> dict[str, float]:
    """All scores of one embedding, the means first."""
    exact = float(len(values)) ** 2 <= EXACT_PAIRS
    index = Index(values, exact=exact, seed=derive_seed(seed, "mixing"))
    _, found = index.own(n_neighbors)
    scores = dict.fromkeys((*_MIXED, *_KEPT), float("nan"))
    scores["ilisi"] = inverse_simpson(batches[found], int(batches.max()) + 1)
    if labels is None:
        scores["kbet"] = accepted(batches[found], batches)
    else:
        scores["kbet"] = _kbet_of_labels(values, batches, labels, n_neighbors, seed)
        scores["graph_connectivity"] = connectivity_of_labels(found, labels)
        silhouette = silhouette_of(values, labels, seed)[0]
        scores["label_silhouette"] = (silhouette + 1) / 2
        scores["label_purity"] = float((labels[found] == labels[:, None]).mean())
        scores["leiden_nmi"] = _leiden_nmi(values, labels, seed)
    # Of what is known: kbet is not where no label has enough cells of two batches.
    mixed = float(np.nanmean([scores[name] for name in _MIXED]))
    kept = float(np.mean([scores[name] for name in _KEPT]))
    return {"mixed": mixed, "types_kept": kept, **scores}


def inverse_simpson(batches: np.ndarray, n_batches: int) -> float:
    """Mean inverse Simpson index of the batches among neighbours, ``(n_cells, n_neighbors)``, scaled to 0-1."""
    share = np.stack([(batches == batch).mean(axis=1) for batch in range(n_batches)], axis=1)
    return float((1 / np.square(share).sum(axis=1) - 1).mean() / (n_batches - 1))


def accepted(neighbors: np.ndarray, batches: np.ndarray) -> float:
    """Share of cells whose neighbours' batches are, by the test, a draw from those of all these cells."""
    from scipy.stats import chi2

    present, codes = np.unique(batches, return_inverse=True)
    n = neighbors.shape[1]
    expected = n * np.bincount(codes) / len(codes)
    counts = np.stack([(neighbors == batch).sum(axis=1) for batch in present], axis=1)
    statistic = (np.square(counts - expected) / expected).sum(axis=1)
    return float((chi2.sf(statistic, len(present) - 1) >= _LEVEL).mean())


def _kbet_of_labels(
    values: np.ndarray, batches: np.ndarray, labels: np.ndarray, n_neighbors: int, seed: int
) -> float:
    """Mean over the labels of two batches and enough cells; NaN if there is none."""
    found = []
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        own, k = batches[rows], min(n_neighbors, len(rows) // 4)
        if k < _FEWEST or len(np.unique(own)) < 2:
            continue
        exact = float(len(rows)) ** 2 <= EXACT_PAIRS
        index = Index(values[rows], exact=exact, seed=derive_seed(seed, "kbet", int(label)))
        found.append(accepted(own[index.own(k)[1]], own))
    return float(np.mean(found)) if found else float("nan")


def connectivity_of_labels(neighbors: np.ndarray, labels: np.ndarray) -> float:
    """Mean over labels of the share of cells in the largest connected part of the label's graph."""
    from scipy.sparse.csgraph import connected_components

    n, k = neighbors.shape
    places = np.arange(0, n * k + 1, k)
    graph = sparse.csr_matrix((np.ones(n * k), neighbors.ravel(), places), shape=(n, n))
    found = []
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        parts = connected_components(graph[rows][:, rows], directed=False)[1]
        found.append(np.bincount(parts).max() / len(rows))
    return float(np.mean(found))


def _leiden_nmi(values: np.ndarray, labels: np.ndarray, seed: int) -> float:
    from sklearn.metrics import normalized_mutual_info_score

    n_neighbors = min(15, len(values) - 1)
    *_, clusters = next(clusterings(values, 1, 1.0, n_neighbors, 1, derive_seed(seed, "nmi")))
    return float(normalized_mutual_info_score(labels, clusters))
