"""Each cell moved towards its nearest cells, which takes off noise that they do not share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scssl._checks import check_adata, check_destination, check_number, check_whole, get_embedding
from scssl._neighbors import EXACT_PAIRS, Index
from scssl._random import RNG, as_seed

from ._common import check_neighbors, check_same_model, to_be_written

if TYPE_CHECKING:
    from anndata import AnnData

# Macro-F1 with one label a class, 5, 20, all, and by nearest neighbours: docs/user_guide/evaluation.md.
N_SMOOTHED, WEIGHT = 15, 0.5


def smooth(
    adata: AnnData,
    use_rep: str = "X_ssl",
    *,
    reference: AnnData | None = None,
    n_neighbors: int = N_SMOOTHED,
    weight: float = WEIGHT,
    key_added: str = "X_smooth",
    rng: RNG = 0,
    copy: bool = False,
) -> AnnData | None:
    r"""Average the embedding of each cell with that of its nearest cells.

    With :math:`N(i)` the `n_neighbors` nearest cells of cell :math:`i` and the weight :math:`w`,

    .. math:: z_i' = (1 - w)\, z_i + \frac{w}{|N(i)|} \sum_{j \in N(i)} z_j ,

    one step of a simple graph convolution :cite:p:`Wu2019`. Labels are not needed, and where there are few of
    them it helps most: one labelled cell then stands for those around it. What it was worth is on the page
    `Comparing methods and embeddings
    <https://scssl.readthedocs.io/en/latest/user_guide/evaluation.html#smoothing>`_. Types with fewer cells than
    `n_neighbors` are moved towards others.

    Parameters
    ----------
    adata
        Cells with an embedding.
    use_rep
        Entry of `adata.obsm` with it.
    reference
        Cells with the same embedding, among which the neighbours are searched, for cells that are embedded
        later or must not know of each other. By default those of `adata` without the cell itself.
    n_neighbors
        Neighbours to average over.
    weight
        Of their mean, from 0, which changes nothing, to 1, at which the cell itself does not count.
    key_added
        Where the results go in `adata.obsm` and `adata.uns`.
    rng
        Seed of the approximate search, by which neighbours are found where there are more than 2e9 pairs.
    copy
        Leave `adata` as it is and return a copy with the results.

    Returns
    -------
    AnnData or None
        `None`, or a copy of `adata` when `copy` is true. Sets:

        ``adata.obsm[key_added]`` : :class:`numpy.ndarray` (float32)
            The smoothed embedding, shaped as the embedding.
        ``adata.uns[key_added]`` : :class:`dict`
            ``"params"``.

    Raises
    ------
    KeyError
        If there is no such embedding.
    ValueError
        If there are fewer cells than neighbours, or the embedding of `reference` is another one.

    Examples
    --------
    >>> import scanpy as sc, scssl
    >>> adata = scssl.datasets.pbmc68k_reduced()
    >>> sc.pp.pca(adata)
    >>> scssl.tl.smooth(adata, "X_pca")
    >>> adata.obsm["X_smooth"].shape
    (700, 50)
    """
    check_adata(adata)
    check_destination(adata, key_added, copy=copy)
    check_whole("n_neighbors", n_neighbors)
    check_number("weight", weight, "[0, 1]")
    values = np.asarray(get_embedding(adata, use_rep), dtype=np.float32)
    known, what = values, "other cells of `adata`"
    if reference is not None:
        check_adata(reference, "reference")
        known = np.asarray(get_embedding(reference, use_rep, "reference"), dtype=np.float32)
        check_same_model(reference, adata, use_rep, known, values)
        what = "cells of `reference`"
    n_known = len(known) - (reference is None)
    fits = f" Take fewer: `n_neighbors={n_known}`." if n_known else ""
    check_neighbors(n_neighbors, n_known, what, fits)
    found = smoothed(
        known,
        None if reference is None else values,
        n_neighbors=n_neighbors,
        weight=weight,
        seed=as_seed(rng),
    )
    adata = to_be_written(adata, copy=copy)
    adata.obsm[key_added] = found
    adata.uns[key_added] = {
        "params": {"use_rep": use_rep, "n_neighbors": n_neighbors, "weight": float(weight)}
    }
    return adata if copy else None


def smoothed(
    known: np.ndarray,
    values: np.ndarray | None = None,
    *,
    n_neighbors: int = N_SMOOTHED,
    weight: float = WEIGHT,
    seed: int,
) -> np.ndarray:
    """Values averaged with the nearest of those that are known; without values, the known ones among themselves."""
    n_cells = len(known if values is None else values)
    index = Index(known, exact=len(known) * n_cells <= EXACT_PAIRS, seed=seed)
    if values is None:
        _, near = index.own(n_neighbors)
        values = known
    else:
        _, near = index.query(values, n_neighbors)
    found = np.empty_like(values)
    for start in range(0, n_cells, 4096):
        part = slice(start, start + 4096)
        mean = known[near[part]].mean(axis=1, dtype=np.float64)
        found[part] = (1 - weight) * values[part] + weight * mean
    return found
