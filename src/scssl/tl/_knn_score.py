"""How well an embedding separates known cell types."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scssl._errors import warn
from scssl._random import RNG, as_seed, derive_generator, derive_seed

from ._checks import check_adata, check_integers, check_key, get_embedding, get_labels

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData


def knn_score(
    adata: AnnData,
    label_key: str,
    *,
    use_rep: str = "X_ssl",
    n_neighbors: int = 15,
    n_splits: int = 5,
    n_permutations: int = 100,
    rng: RNG = 0,
    key_added: str | None = None,
) -> pd.DataFrame:
    """Score an embedding by how well its nearest neighbours predict known labels.

    In stratified cross-validation every cell is labelled by the majority of its nearest cells
    among the other folds (exact Euclidean search, ties to the label that sorts first). The score
    is the mean over labels of F1 = 2TP / (2TP + FP + FN), from the predictions of all cells
    together, and the share of cells labelled correctly.

    The null permutes the labels within each fold, which keeps the folds and the sizes of the
    classes: it is what an embedding scores that knows nothing of the labels.

    The time of the search grows with the square of the number of cells: above 100,000 cells,
    score a random part of them.

    Parameters
    ----------
    adata
        Annotated cells with an embedding. Only `adata.uns` is changed.
    label_key
        Column of `adata.obs` with the labels. Every cell must have one. Labels with fewer cells
        than `n_splits` cannot be in every fold: their cells are left out, with a warning.
    use_rep
        Entry of `adata.obsm` to score.
    n_neighbors
        Neighbours that vote.
    n_splits
        Folds of the cross-validation.
    n_permutations
        Permutations of the null; with 0 there is none, and its columns are NaN.
    rng
        Seed or generator of folds and permutations.
    key_added
        Entry of `adata.uns` for the result; ``f"{use_rep}_knn_score"`` by default.

    Returns
    -------
    pandas.DataFrame
        One row with the columns ``use_rep``, ``label_key``, ``n_cells``, ``n_labels``,
        ``macro_f1``, ``accuracy``, ``null_macro_f1_mean``, ``null_macro_f1_sd``,
        ``null_accuracy_mean`` and ``p_value`` (the share of permutations, the data included, with
        at least the macro-F1 of the data). The same is in ``adata.uns[key_added]``, with the
        labels that were left out and the parameters.

    Raises
    ------
    KeyError
        If `label_key` or `use_rep` is not in `adata`.
    ValueError
        If labels or embedding are incomplete, a parameter is out of range, or fewer than two
        labels have `n_splits` cells.

    Examples
    --------
    >>> import numpy as np, pandas as pd, scssl
    >>> from anndata import AnnData
    >>> labels = np.repeat(["B", "T"], 50)
    >>> adata = AnnData(
    ...     obs=pd.DataFrame({"cell_type": labels}, index=[f"c{i}" for i in range(100)])
    ... )
    >>> noise = np.random.default_rng(0).normal(size=(100, 8))
    >>> adata.obsm["X_ssl"] = noise + 9 * (labels == "T")[:, None]
    >>> score = scssl.tl.knn_score(adata, "cell_type")
    >>> float(score.loc[0, "macro_f1"])
    1.0
    """
    import pandas as pd

    check_adata(adata)
    check_integers(
        n_neighbors=(n_neighbors, 1), n_splits=(n_splits, 2), n_permutations=(n_permutations, 0)
    )
    if key_added is not None:
        check_key(key_added, "key_added")
    labels = get_labels(adata, label_key)
    embedding = get_embedding(adata, use_rep)
    codes, names = pd.factorize(labels, sort=True)
    sizes = np.bincount(codes, minlength=len(names))
    kept = sizes[codes] >= n_splits
    left_out = {
        str(name): int(size) for name, size in zip(names, sizes, strict=True) if size < n_splits
    }
    if len(names) - len(left_out) < 2:
        raise ValueError(
            f"Needs at least two labels with {n_splits} cells or more; adata.obs[{label_key!r}] has "
            f"{len(names) - len(left_out)} among {len(names):,} labels. Is it a column of cell types?"
        )
    if left_out:
        shown = ", ".join(f"{name!r} ({size})" for name, size in list(left_out.items())[:5])
        warn(
            f"{(~kept).sum():,} cells are left out: {len(left_out)} of {len(names)} labels in "
            f"adata.obs[{label_key!r}] have fewer than n_splits={n_splits} cells: {shown}."
        )
    codes = np.unique(codes[kept], return_inverse=True)[1]
    smallest = len(codes) - -(-len(codes) // n_splits)
    if n_neighbors > smallest:
        raise ValueError(
            f"n_neighbors={n_neighbors} is more than the {smallest:,} cells of {n_splits - 1} folds."
        )

    seed = as_seed(rng)
    fold, neighbors = _neighbors(embedding[kept], codes, n_neighbors, n_splits, seed)
    macro_f1, accuracy = _score(codes, codes[neighbors])
    generator = derive_generator(seed, "permutations")
    order = np.argsort(fold, kind="stable")
    null = np.full((n_permutations, 2), np.nan)
    for i in range(n_permutations):
        permuted = np.empty_like(codes)
        permuted[order] = codes[np.lexsort((generator.random(len(codes)), fold))]
        null[i] = _score(permuted, permuted[neighbors])
    row = {
        "use_rep": use_rep,
        "label_key": label_key,
        "n_cells": len(codes),
        "n_labels": len(names) - len(left_out),
        "macro_f1": macro_f1,
        "accuracy": accuracy,
        "null_macro_f1_mean": float(null[:, 0].mean()) if n_permutations else np.nan,
        "null_macro_f1_sd": float(null[:, 0].std(ddof=1)) if n_permutations > 1 else np.nan,
        "null_accuracy_mean": float(null[:, 1].mean()) if n_permutations else np.nan,
        "p_value": (1 + int((null[:, 0] >= macro_f1).sum())) / (1 + n_permutations)
        if n_permutations
        else np.nan,
    }
    params = {
        "n_neighbors": n_neighbors,
        "n_splits": n_splits,
        "n_permutations": n_permutations,
        "seed": seed,
    }
    adata.uns[key_added or f"{use_rep}_knn_score"] = {**row, "left_out": left_out, "params": params}
    return pd.DataFrame([row])


def _neighbors(
    embedding: np.ndarray, codes: np.ndarray, n_neighbors: int, n_splits: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Fold of every cell, and its nearest cells among the other folds."""
    from sklearn.model_selection import StratifiedKFold
    from sklearn.neighbors import NearestNeighbors

    fold = np.empty(len(codes), dtype=np.intp)
    neighbors = np.empty((len(codes), n_neighbors), dtype=np.intp)
    state = derive_seed(seed, "folds") % 2**32
    folds = StratifiedKFold(n_splits, shuffle=True, random_state=state).split(embedding, codes)
    for i, (reference, query) in enumerate(folds):
        fold[query] = i
        index = NearestNeighbors(n_neighbors=n_neighbors).fit(embedding[reference])
        neighbors[query] = reference[index.kneighbors(embedding[query], return_distance=False)]
    return fold, neighbors


def _score(codes: np.ndarray, votes: np.ndarray) -> tuple[float, float]:
    """Macro-F1 and accuracy when every cell takes the most frequent of its votes."""
    n_cells, n_labels = len(codes), int(codes.max()) + 1
    flat = votes + n_labels * np.arange(n_cells)[:, None]
    tally = np.bincount(flat.ravel(), minlength=n_cells * n_labels).reshape(n_cells, n_labels)
    predicted = tally.argmax(axis=1)
    hits = np.bincount(codes[predicted == codes], minlength=n_labels)
    # 2TP + FP + FN = predicted + actual; no label is without cells.
    totals = np.bincount(predicted, minlength=n_labels) + np.bincount(codes, minlength=n_labels)
    return float((2 * hits / totals).mean()), float(hits.sum() / n_cells)
