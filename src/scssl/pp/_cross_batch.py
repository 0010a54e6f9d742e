"""Neighbours of cells across batches, as graphs for augmentations."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scssl._checks import check_adata, check_choice, check_destination, check_whole
from scssl._random import RNG, as_seed
from scssl.data.graphs import GRAPH_KEYS, Method, Metric, batch_graphs

if TYPE_CHECKING:
    from anndata import AnnData


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
    check_adata(adata)
    check_choice("method", method, GRAPH_KEYS)
    check_choice("metric", metric, ("cosine", "euclidean"))
    key = GRAPH_KEYS[method] if key_added is None else key_added
    check_destination(adata, key, copy=copy)
    if exact not in (None, True, False):
        raise TypeError(f"`exact` must be True, False or None, found {exact!r}.")
    found = batch_graphs(
        adata,
        batch_key,
        key,
        method=method,
        use_rep=use_rep,
        layer=layer,
        n_neighbors=check_whole("n_neighbors", n_neighbors, none=True),
        n_neighbors_within=check_whole("n_neighbors_within", n_neighbors_within),
        metric=metric,
        n_pcs=check_whole("n_pcs", n_pcs),
        max_batches=check_whole("max_batches", max_batches, none=True),
        max_anchors=check_whole("max_anchors", max_anchors, none=True),
        exact=exact,
        seed=as_seed(rng),
    )
    if copy:
        adata = adata.to_memory() if adata.isbacked else adata.copy()
    for name, graph in found.graphs.items():
        adata.obsp[name] = graph
    adata.uns[key] = found.description
    return adata if copy else None
