"""Neighbours of cells across batches."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from scssl._checks import (
    check_adata,
    check_integers,
    check_key,
    first_fraction,
    get_embedding,
    whole_numbers,
)
from scssl._errors import warn
from scssl._random import RNG, as_seed, derive_seed

if TYPE_CHECKING:
    from anndata import AnnData
    from scipy import sparse

_LOGGER = logging.getLogger("scssl")

Method = Literal["bbknn", "mnn"]
Metric = Literal["euclidean", "cosine"]
_KEYS = {"bbknn": "cross_batch_neighbors", "mnn": "mnn"}
_N_NEIGHBORS = {"bbknn": 5, "mnn": 20}


def cross_batch_neighbors(
    adata: AnnData,
    batch_key: str,
    *,
    use_rep: str | None = None,
    layer: str | None = None,
    method: Method = "bbknn",
    n_neighbors: int | None = None,
    n_neighbors_within: int = 10,
    metric: Metric = "cosine",
    n_pcs: int = 50,
    max_batches: int | None = None,
    max_anchors: int | None = None,
    exact: bool | None = None,
    rng: RNG = 0,
    key_added: str | None = None,
    copy: bool = False,
) -> AnnData | None:
    """Find the neighbours of every cell in other batches, as partners for augmentations.

    ``"bbknn"`` takes the nearest cells of every batch to each cell, its own batch included
    :cite:p:`Polanski2020`: one graph, for :class:`scssl.augment.NeighborMix`. It is not made
    symmetric: row ``i`` has the neighbours of cell ``i``, and no more of them than asked for.

    ``"mnn"`` takes pairs of cells of two batches that are among the nearest of each other
    :cite:p:`Haghverdi2018`: a symmetric graph between batches. A cell of a type that the other batch
    lacks is in fewer pairs, if `n_neighbors` is small beside the batches. Beside it goes a graph of
    nearest neighbours within the own batch; :class:`scssl.augment.MutualNeighborMix` uses both
    :cite:p:`Yan2023`.

    Time and memory go with the number of neighbours; no matrix of all pairs of cells is made.

    Parameters
    ----------
    adata
        Annotated cells of at least two batches.
    batch_key
        Column of `adata.obs` with the batch of every cell.
    use_rep
        Entry of `adata.obsm` in which neighbours are near, used whole. By default ``"X_pca"`` if it
        is there, or else principal components of `adata.X`, which are not written to `adata`.
    layer
        Layer to take components of instead of `adata.X`. Either holds counts, which are normalised
        as they are read, or log-normalised values; `adata.var["highly_variable"]` selects the genes
        if there is such a column. Not used where there is an embedding.
    method
        ``"bbknn"`` or ``"mnn"``.
    n_neighbors
        Neighbours in each batch: 5 by default for ``"bbknn"``, and for ``"mnn"`` 20, as in mnnCorrect
        of :cite:t:`Haghverdi2018`. Take less for ``"mnn"`` where batches have a few hundred cells.
    n_neighbors_within
        Neighbours within the own batch, ``"mnn"`` only; the default is that of :cite:t:`Yan2023`.
    metric
        ``"cosine"``: one less the cosine of the angle; or ``"euclidean"`` distance. On three real
        data sets, angles give more cells a partner at the same share of partners of their own type.
    n_pcs
        Leading components to use where the embedding is ``"X_pca"`` or made here.
    max_batches
        Other batches to search for each, all by default. With a smaller number, pairs of batches are
        drawn such that each is in as many (one may be in one pair less where the batches are odd).
    max_anchors
        Mutual pairs to keep for each two batches, ``"mnn"`` only; all by default. More are thinned at
        random.
    exact
        Whether to look at all cells (`True`), or to search by pynndescent, which finds nearly all of
        the nearest cells and depends on the number of threads (`False`). By default exact up to
        45,000 cells. Batches of up to 4,096 cells are always searched exactly.
    rng
        Seed or generator of components, search and draws.
    key_added
        Where the result goes in `adata.obsp` and `adata.uns`: ``"cross_batch_neighbors"`` for
        ``"bbknn"`` and ``"mnn"`` for ``"mnn"`` by default.
    copy
        Leave `adata` as it is and return a copy with the result.

    Returns
    -------
    AnnData or None
        `None`, or a copy of `adata` when `copy` is true. Sets:

        ``adata.obsp[key_added]`` : :class:`scipy.sparse.csr_matrix` (float32)
            Neighbours of each cell. Entries are ``1 / (1 + distance)``, above zero.
        ``adata.obsp[f"{key_added}_within"]`` : :class:`scipy.sparse.csr_matrix` (float32)
            Neighbours within the own batch, ``"mnn"`` only.
        ``adata.uns[key_added]`` : :class:`dict`
            ``coverage``, the share of the cells with a neighbour in another batch; ``batches``, with
            ``n_cells`` and ``coverage_of_batch`` of each; ``cells``, digests of names and graphs, by
            which a graph of other cells is noticed where it is used; ``params``.

    Raises
    ------
    KeyError
        If there is no column `batch_key`, embedding `use_rep` or layer `layer`.
    ValueError
        If a batch is not known, there is one batch only, the embedding is not finite, the matrix is
        neither counts nor log-normalised, or an argument is out of range.

    Examples
    --------
    >>> import numpy as np, scssl
    >>> adata = scssl.datasets.pbmc68k_reduced()
    >>> adata.obs["batch"] = np.resize(["a", "b", "c"], adata.n_obs)
    >>> scssl.pp.cross_batch_neighbors(adata, "batch", n_neighbors=4)
    >>> adata.obsp["cross_batch_neighbors"].getnnz(axis=1).tolist() == [12] * 700
    True
    >>> scssl.pp.cross_batch_neighbors(adata, "batch", method="mnn")
    >>> bool(adata.uns["mnn"]["coverage"] > 0.9)
    True
    """
    from scssl._neighbors import EXACT_PAIRS
    from scssl.data.graphs import describe_cells

    from ._batch_graphs import (
        BatchSearch,
        balanced,
        batch_pairs,
        check_graph,
        mutual,
        within,
    )

    _check_arguments(adata, method, metric, key_added, exact)
    k = _N_NEIGHBORS[method] if n_neighbors is None else n_neighbors
    check_integers(n_neighbors=(k, 1), n_neighbors_within=(n_neighbors_within, 1), n_pcs=(n_pcs, 1))
    check_integers(
        **{
            name: (value, 1)
            for name, value in {"max_batches": max_batches, "max_anchors": max_anchors}.items()
            if value is not None
        }
    )
    codes, names = _batches(adata, batch_key)
    sizes = np.bincount(codes)
    seed = as_seed(rng)
    values, source = _embedding(adata, use_rep, layer, n_pcs, derive_seed(seed, "pca"))
    if metric == "cosine" and not values.any(axis=1).all():
        first = adata.obs_names[int((~values.any(axis=1)).argmax())]
        raise ValueError(
            f"{source} is zero in some cells (first: {first!r}), which have no angle to others. "
            'Leave them out, or take metric="euclidean".'
        )
    _warn_of_small(names, sizes, max(k, n_neighbors_within) if method == "mnn" else k, batch_key)
    if exact is None:
        exact = float(len(codes)) ** 2 <= EXACT_PAIRS

    search = BatchSearch(values, codes, cosine=metric == "cosine", exact=exact, seed=seed)
    pairs = batch_pairs(len(names), max_batches, seed)
    key = key_added or _KEYS[method]
    if method == "bbknn":
        graphs = {key: balanced(search, pairs, k)}
    else:
        graphs = {
            key: mutual(search, pairs, k, max_anchors),
            f"{key}_within": within(search, n_neighbors_within),
        }
        check_graph(graphs[f"{key}_within"], codes, "same")
    check_graph(graphs[key], codes, "any" if method == "bbknn" else "other")

    covered = _reaches_out(graphs[key], codes)
    of_batch = np.bincount(codes, weights=covered) / sizes
    _tell(names, of_batch, float(covered.mean()), method)
    if copy:
        adata = adata.to_memory() if adata.isbacked else adata.copy()
    for name, graph in graphs.items():
        adata.obsp[name] = graph
    adata.uns[key] = {
        "coverage": float(covered.mean()),
        "batches": names.astype(object),
        "n_cells": sizes,
        "coverage_of_batch": of_batch,
        "cells": describe_cells(adata.obs_names, graphs),
        "params": {
            "batch_key": batch_key,
            "method": method,
            "embedding": source,
            "n_dimensions": values.shape[1],
            "n_neighbors": int(k),
            "metric": metric,
            "n_batch_pairs": len(pairs),
            "exact": bool(exact),
            "seed": seed,
            **(
                {"n_neighbors_within": int(n_neighbors_within), "max_anchors": max_anchors or 0}
                if method == "mnn"
                else {}
            ),
        },
    }
    return adata if copy else None


def _check_arguments(adata: Any, method: Any, metric: Any, key: Any, exact: Any) -> None:
    check_adata(adata)
    for name, value, known in (
        ("method", method, tuple(_KEYS)),
        ("metric", metric, ("cosine", "euclidean")),
    ):
        if value not in known:
            raise ValueError(f"`{name}` must be {known[0]!r} or {known[1]!r}, found {value!r}.")
    if key is not None:
        check_key(key, "key_added")
    if exact not in (None, True, False):
        raise TypeError(f"`exact` must be True, False or None, found {exact!r}.")


def _batches(adata: AnnData, key: str) -> tuple[np.ndarray, np.ndarray]:
    """Number of the batch of every cell, and the names in order."""
    if key not in adata.obs:
        found = ", ".join(map(repr, adata.obs.columns)) or "no columns"
        raise KeyError(
            f"adata.obs has no {key!r}; it has {found}. Set batch_key to the column of batches."
        )
    column = adata.obs[key]
    unknown = int(column.isna().sum())
    if unknown:
        raise ValueError(
            f"adata.obs[{key!r}] is missing for {unknown:,} of {len(column):,} cells. Take the others: "
            f"`adata = adata[adata.obs[{key!r}].notna()].copy()`."
        )
    fraction = first_fraction(column)
    if fraction is not None:
        raise ValueError(
            f"adata.obs[{key!r}] holds fractions ({fraction:g}, ...), which are no batches. Set batch_key "
            "to the column of batches."
        )
    names, codes = np.unique(
        whole_numbers(column).astype(str).to_numpy(dtype=str), return_inverse=True
    )
    if len(names) < 2:
        found = f"only the batch {str(names[0])!r}" if len(names) else "no cells"
        raise ValueError(
            f"adata.obs[{key!r}] has {found}: neighbours across batches need two. For neighbours in "
            "one batch: `sc.pp.neighbors(adata)`, whose adata.obsp entries augmentations take as well."
        )
    return codes.ravel(), names


def _embedding(
    adata: AnnData, use_rep: str | None, layer: str | None, n_pcs: int, seed: int
) -> tuple[np.ndarray, str]:
    """Embedding of the cells, and where it is from."""
    name = "X_pca" if use_rep is None and layer is None and "X_pca" in adata.obsm else use_rep
    if name is None:
        return _components(adata, layer, n_pcs, seed)
    values = get_embedding(
        adata, name, advice="Without use_rep, principal components are computed here."
    )
    if use_rep is None:
        values = values[:, :n_pcs]
    return values.astype(np.float32), f"adata.obsm[{name!r}]"


def _components(adata: AnnData, layer: str | None, n_pcs: int, seed: int) -> tuple[np.ndarray, str]:
    from scssl.data import find_counts, open_rows, resolve_input, scan_matrix
    from scssl.data.matrix import pca

    where = "adata.X" if layer is None else f'adata.layers["{layer}"]'
    if layer is not None and layer not in adata.layers:
        found = ", ".join(map(repr, adata.layers)) or "none"
        raise KeyError(f"adata has no layer {layer!r}; it has: {found}.")
    matrix = adata.X if layer is None else adata.layers[layer]
    if matrix is None:
        raise ValueError(
            "adata.X is empty, and adata.obsm has no 'X_pca': set use_rep=... or layer=..."
        )
    decision = resolve_input(
        scan_matrix(matrix, where=where),
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


def _some(names: np.ndarray) -> str:
    shown = ", ".join(repr(str(name)) for name in names[:5])
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5} more"


def _warn_of_small(names: np.ndarray, sizes: np.ndarray, k: int, key: str) -> None:
    small = sizes <= k
    if small.any():
        warn(
            f"{small.sum()} of {len(names)} batches in adata.obs[{key!r}] have no more than {k} cells, "
            f"so that fewer neighbours than asked for are found in them: {_some(names[small])}."
        )


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
            f"No cell of {_some(names[of_batch == 0])} has a neighbour in another batch: views of "
            f"these cells get no partner. Try {more}."
        )
