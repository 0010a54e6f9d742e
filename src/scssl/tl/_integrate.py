"""Bring the batches of a data set together, by the method that suits it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from scssl._checks import check_adata, check_destination, check_whole
from scssl._random import RNG, as_seed, derive_seed
from scssl.data import open_rows, scan_matrix
from scssl.data.graphs import BatchSearch, batch_pairs, batches_of, mutual
from scssl.data.matrix import pca, usual_target_sum

from ._common import to_be_written
from ._recommended import AUTO, MNN, Plan, of_variable_genes, plan_for

if TYPE_CHECKING:
    from anndata import AnnData

    from scssl.data.matrix import InputKind

_N_PCS = 20
_N_NEIGHBORS = 5
_ROUNDS = 3


def integrate(
    adata: AnnData,
    batch_key: str,
    *,
    method: str = AUTO,
    layer: str | None = None,
    max_epochs: int | None = None,
    key_added: str = "X_integrated",
    progress: bool = False,
    rng: RNG = 0,
    copy: bool = False,
) -> AnnData | None:
    """Embed cells such that batches lie together, without labels, in one call.

    ``"auto"`` takes the method that did best in our comparisons on data of this size, and says which and
    why: from 1,000 cells on :class:`scssl.model.SimCLR` with ``augmentation="integration"``, whose views mix
    cells with similar ones of other batches, and which tells cells apart from others of their own batch;
    :class:`scssl.model.VICReg`, which tells none apart, where there are more than 16 batches, of which a step
    of training has a few cells each. Below 1,000 cells, where a network learns too little, it is 20 principal
    components that are moved together by mutual nearest neighbours :cite:p:`Haghverdi2018`.

    Check the result with :func:`batch_mixing`, which says what is left of the types as well: a type that
    one batch lacks may be mixed with another.

    Parameters
    ----------
    adata
        Cells of at least two batches: counts, which are normalised as they are read, or log-normalised
        values. Where there is a column ``adata.var["highly_variable"]``, of these genes.
    batch_key
        Column of `adata.obs` with the batch of every cell.
    method
        ``"auto"``; ``"MNN"``, the correction of components; or the name of a model
        (:func:`scssl.model.list_models`) with its defaults: a joint-embedding one with views across
        batches, another one told the batch if it can be.
    layer
        Layer to use instead of `adata.X`.
    max_epochs
        Passes over the cells at most, by default those of the model.
    key_added
        Where the results go in `adata.obsm` and `adata.uns`.
    progress
        Whether to show a bar while a model is trained.
    rng
        Seed or generator of components, neighbours, initial weights and training.
    copy
        Leave `adata` as it is and return a copy with the results.

    Returns
    -------
    AnnData or None
        `None`, or a copy of `adata` when `copy` is true. Sets:

        ``adata.obsm[key_added]`` : :class:`numpy.ndarray` (float32)
            The embedding.
        ``adata.uns[key_added]`` : :class:`dict`
            ``"method"``, ``"reason"`` and ``"params"``.

    Raises
    ------
    KeyError
        If there is no such column or layer.
    ValueError
        If there is one batch, a batch is missing, the matrix is neither counts nor log-normalised, or
        there is no such method.

    Examples
    --------
    >>> import numpy as np, scssl
    >>> adata = scssl.datasets.pbmc68k_reduced()
    >>> adata.obs["batch"] = np.resize(["a", "b"], adata.n_obs)
    >>> scssl.tl.integrate(adata, "batch")
    >>> adata.obsm["X_integrated"].shape, adata.uns["X_integrated"]["method"]
    ((700, 20), 'MNN')
    """
    check_adata(adata, matrix=True)
    check_destination(adata, key_added, copy=copy)
    max_epochs = check_whole("max_epochs", max_epochs, none=True)
    codes, names = batches_of(adata, batch_key)
    seed = as_seed(rng)
    plan = plan_for(method, len(codes), len(names))
    cells, kind = of_variable_genes(adata, layer, batch_key)
    embedding = embedded_by(
        plan, cells, batch_key, kind, seed, max_epochs=max_epochs, progress=progress
    )
    adata = to_be_written(adata, copy=copy)
    adata.obsm[key_added] = embedding
    adata.uns[key_added] = {
        "method": plan.method,
        "reason": plan.reason,
        "params": {
            "batch_key": batch_key,
            "layer": "none" if layer is None else layer,
            "n_genes": cells.n_vars,
            "n_batches": len(names),
            "seed": seed,
        },
    }
    return adata if copy else None


def embedded_by(
    plan: Plan,
    cells: AnnData,
    batch_key: str,
    kind: InputKind,
    seed: int,
    *,
    max_epochs: int | None,
    progress: bool,
) -> np.ndarray:
    """Embedding of cells, of which everything but ``X`` may be set up and changed."""
    if plan.method == MNN:
        plan.say()
        return _corrected(cells, batches_of(cells, batch_key)[0], kind, seed)
    model = plan.trained(cells, batch_key, kind, seed, max_epochs=max_epochs, progress=progress)
    embedding: np.ndarray = model.get_latent_representation()
    return embedding


def _corrected(cells: AnnData, codes: np.ndarray, kind: InputKind, seed: int) -> np.ndarray:
    """Leading principal components, the batches moved together."""
    values = components(cells, _N_PCS, kind, seed)
    search = BatchSearch(values, codes, cosine=True, exact=True, seed=seed)
    pairs = batch_pairs(search.n_batches, None, seed)
    return moved_together(values, codes, mutual(search, pairs, _N_NEIGHBORS, None))


def components(cells: AnnData, n_pcs: int, kind: InputKind, seed: int) -> np.ndarray:
    """Leading principal components of ``X``, counts or log-normalised."""
    return pca(
        open_rows(cells.X),
        input_kind=kind,
        columns=None,
        n_pcs=n_pcs,
        seed=derive_seed(seed, "pca"),
        target_sum=usual_target_sum(cells.n_vars, scan_matrix(cells.X).median_sum),
    )


def moved_together(values: np.ndarray, codes: np.ndarray, partners: Any) -> np.ndarray:
    """Each cell moved half the way that near cells of its batch have to their partners, several times.

    After :cite:t:`Haghverdi2018`, but all batches at once: the ways are averaged with Gaussian weights,
    whose width is the median distance to the 15th cell with a partner.
    """
    from scipy.spatial.distance import cdist

    links = partners.copy()
    links.data[:] = 1
    degree = np.asarray(links.sum(axis=1)).ravel()
    weights = []
    for batch in np.unique(codes):
        rows = np.flatnonzero(codes == batch)
        anchors = rows[degree[rows] > 0]
        if not len(anchors):
            continue
        distance = cdist(values[rows], values[anchors], "sqeuclidean")
        near = np.partition(distance, min(15, len(anchors)) - 1, axis=1)[
            :, min(15, len(anchors)) - 1
        ]
        width = max(float(np.median(near)), np.finfo(np.float32).tiny)
        # Relative to the nearest anchor, that of a cell far from all does not vanish.
        kernel = np.exp((distance.min(axis=1, keepdims=True) - distance) / width)
        weights.append((rows, anchors, kernel / kernel.sum(axis=1, keepdims=True)))
    moved = values.astype(np.float64)
    for _ in range(_ROUNDS):
        way = links @ moved / np.maximum(degree, 1)[:, None] - moved
        for rows, anchors, kernel in weights:
            moved[rows] += kernel @ way[anchors] / 2
    return moved.astype(np.float32)
