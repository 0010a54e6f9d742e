"""How well labels can be read from an embedding: linear and nearest-neighbour probes."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from scssl._errors import warn
from scssl._random import RNG, as_seed, derive_generator

from ._checks import (
    check_adata,
    check_integers,
    check_key,
    check_share,
    get_embedding,
    get_labels,
)
from ._protocol import Protocol, make_protocol, rank_in_class
from ._scores import class_table, scores_of

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

# Inverse strengths of the L2 penalty on standardised features, strongest first.
_STRENGTHS = (0.001, 0.01, 0.1, 1.0, 10.0)
_DEFAULT_STRENGTH = 1.0
_FOLDS = 3


def linear_probe(
    adata: AnnData,
    label_key: str,
    *,
    use_rep: str | Sequence[str] = "X_ssl",
    split: str | tuple[Any, Any] | None = None,
    test_size: float = 0.2,
    n_labels_per_class: int | None = None,
    rng: RNG = 0,
    key_added: str | None = None,
) -> pd.DataFrame:
    """Score embeddings by a linear classifier on top of them.

    Multinomial logistic regression with an L2 penalty. Features are standardised with mean and
    standard deviation of the training part; the penalty is the one of five with the best macro-F1 in
    3-fold cross-validation within the labelled training cells. The test part is looked at once.

    All representations are given the same split and the same labelled cells, so that rows of one
    call can be compared. Embeddings of an untrained model and of PCA belong beside the one that is
    asked about.

    Parameters
    ----------
    adata
        Annotated cells with embeddings. Only `adata.uns` is changed.
    label_key
        Column of `adata.obs` with the labels. Every cell must have one.
    use_rep
        Entry of `adata.obsm`, or several: one row of the result for each.
    split
        By default a seeded split that takes the share `test_size` of every label for testing, at
        least one cell. Otherwise a column of `adata.obs` with ``"train"`` and ``"test"`` (cells with
        other values are not used), or a pair of row numbers, masks or names.
    test_size
        Share of the cells to test on, where `split` is not given.
    n_labels_per_class
        Learn from this many labelled cells of each label, drawn from the training part, or from all
        there are of a rarer one; features are still standardised on the whole training part, which
        needs no label. By default all are used. With one cell per label nothing is left to choose
        the penalty with, which is then 1. The cells drawn for a smaller number are among those for a
        larger one.
    rng
        Seed or generator of split, draw and folds.
    key_added
        Entry of `adata.uns` for the result; ``"linear_probe"`` by default.

    Returns
    -------
    pandas.DataFrame
        One row for each representation: ``use_rep``, ``label_key``, ``n_train``, ``n_test``,
        ``n_labels``, ``macro_f1``, ``balanced_accuracy``, ``weighted_f1``, ``accuracy`` and
        ``inverse_penalty`` (scikit-learn's ``C``). Means over labels run over those with test cells.
        ``.attrs["per_class"]`` has precision, recall and F1 by representation and label as a dict of
        columns. ``adata.uns[key_added]`` has the row or rows as ``"scores"``, the classes as the
        frame ``"per_class"``, labels that could not be tested in ``"left_out"``, and ``"params"``.

    Raises
    ------
    KeyError
        If a column or an embedding is not in `adata`.
    ValueError
        If the two parts of `split` share a cell, labels or embeddings are incomplete, or a parameter
        is out of range.

    Examples
    --------
    >>> import scanpy as sc, scssl
    >>> adata = scssl.datasets.pbmc68k_reduced()
    >>> sc.pp.pca(adata)
    >>> adata.obsm["X_pca5"] = adata.obsm["X_pca"][:, :5]
    >>> scores = scssl.tl.linear_probe(adata, "bulk_labels", use_rep=["X_pca", "X_pca5"])
    >>> bool(scores["accuracy"][0] > scores["accuracy"][1])
    True
    """
    strengths: list[float] = []

    def predict(values: np.ndarray, protocol: Protocol, seed: int) -> np.ndarray:
        predicted, strength = _logistic(values, protocol, seed)
        strengths.append(strength)
        return predicted

    return _probe(
        adata,
        label_key,
        use_rep,
        split,
        test_size,
        n_labels_per_class,
        rng,
        "linear_probe" if key_added is None else key_added,
        predict,
        lambda: {"inverse_penalty": strengths},
        {},
    )


def knn_probe(
    adata: AnnData,
    label_key: str,
    *,
    use_rep: str | Sequence[str] = "X_ssl",
    n_neighbors: int = 15,
    split: str | tuple[Any, Any] | None = None,
    test_size: float = 0.2,
    n_labels_per_class: int | None = None,
    rng: RNG = 0,
    key_added: str | None = None,
) -> pd.DataFrame:
    """Score embeddings by the nearest training cells of each test cell.

    A test cell gets the most frequent label of its nearest cells in the training part, the nearest
    one included (exact Euclidean search, ties to the label that sorts first). Training and test part
    share no cell, so that no cell votes for itself and none is to be skipped.

    It differs from :func:`knn_score`, which tests every cell in cross-validation, in that the
    training cells can be given and limited.

    Parameters
    ----------
    adata
        Annotated cells with embeddings. Only `adata.uns` is changed.
    label_key
        Column of `adata.obs` with the labels. Every cell must have one.
    use_rep
        Entry of `adata.obsm`, or several: one row of the result for each.
    n_neighbors
        Neighbours that vote; with `n_labels_per_class`, no more than that, as the others would be of
        another label.
    split
        As in :func:`linear_probe`.
    test_size
        Share of the cells to test on, where `split` is not given.
    n_labels_per_class
        Search among this many cells of each label, drawn from the training part, or among all there
        are of a rarer one. By default all are used.
    rng
        Seed or generator of split and draw.
    key_added
        Entry of `adata.uns` for the result; ``"knn_probe"`` by default.

    Returns
    -------
    pandas.DataFrame
        One row for each representation, with the columns of :func:`linear_probe` and ``n_neighbors``
        instead of ``inverse_penalty``; in ``adata.uns[key_added]`` what :func:`linear_probe` writes.

    Raises
    ------
    KeyError
        If a column or an embedding is not in `adata`.
    ValueError
        If the two parts of `split` share a cell, there are fewer training cells than `n_neighbors`,
        labels or embeddings are incomplete, or a parameter is out of range.

    Examples
    --------
    >>> import scanpy as sc, scssl
    >>> adata = scssl.datasets.pbmc68k_reduced()
    >>> sc.pp.pca(adata)
    >>> few = scssl.tl.knn_probe(adata, "bulk_labels", use_rep="X_pca", n_labels_per_class=1)
    >>> full = scssl.tl.knn_probe(adata, "bulk_labels", use_rep="X_pca")
    >>> bool(full.loc[0, "accuracy"] > few.loc[0, "accuracy"])
    True
    """
    check_integers(n_neighbors=(n_neighbors, 1))
    used: list[int] = []

    def predict(values: np.ndarray, protocol: Protocol, seed: int) -> np.ndarray:
        n = n_neighbors if n_labels_per_class is None else min(n_neighbors, n_labels_per_class)
        used.append(n)
        return _nearest(values, protocol, n)

    return _probe(
        adata,
        label_key,
        use_rep,
        split,
        test_size,
        n_labels_per_class,
        rng,
        "knn_probe" if key_added is None else key_added,
        predict,
        lambda: {"n_neighbors": used},
        {"n_neighbors": n_neighbors},
    )


def _probe(
    adata: AnnData,
    label_key: str,
    use_rep: str | Sequence[str],
    split: Any,
    test_size: float,
    n_labels_per_class: int | None,
    rng: RNG,
    key_added: str,
    predict: Callable[[np.ndarray, Protocol, int], np.ndarray],
    columns: Callable[[], dict[str, list[Any]]],
    params: dict[str, Any],
) -> pd.DataFrame:
    """What both probes do around their classifier."""
    import pandas as pd

    check_adata(adata)
    check_key(key_added, "key_added")
    check_share(test_size, "test_size")
    if n_labels_per_class is not None:
        check_integers(n_labels_per_class=(n_labels_per_class, 1))
    keys = [use_rep] if isinstance(use_rep, str) else list(use_rep)
    if not keys or len(set(keys)) < len(keys):
        raise ValueError(
            f"`use_rep` must name one or more entries of adata.obsm, each once, found {keys}."
        )
    labels = get_labels(adata, label_key)
    embeddings = {key: get_embedding(adata, key) for key in keys}
    seed = as_seed(rng)
    protocol = make_protocol(
        adata,
        labels,
        label_key=label_key,
        split=split,
        test_size=test_size,
        n_labels_per_class=n_labels_per_class,
        seed=seed,
    )
    truth = protocol.codes[protocol.test]
    rows, tables = [], []
    for key, values in embeddings.items():
        table = class_table(truth, predict(values, protocol, seed), protocol.names)
        tables.append(table.assign(use_rep=key)[["use_rep", *table.columns]])
        rows.append(
            {
                "use_rep": key,
                "label_key": label_key,
                "n_train": len(protocol.train),
                "n_test": len(protocol.test),
                "n_labels": len(table),
                **scores_of(table),
            }
        )
    scores = pd.DataFrame(rows).assign(**columns())
    per_class = pd.concat(tables, ignore_index=True)
    params = {
        **params,
        "split": "given" if split is not None and not isinstance(split, str) else split or "seeded",
        "test_size": float(test_size) if split is None else "given",
        "n_labels_per_class": "all" if n_labels_per_class is None else int(n_labels_per_class),
        "seed": seed,
    }
    adata.uns[key_added] = {
        "scores": scores.copy(),
        "per_class": per_class,
        "left_out": protocol.left_out,
        "params": params,
    }
    # A dict of columns: pandas compares attrs when frames are joined, and a frame has no truth.
    scores.attrs["per_class"] = per_class.to_dict(orient="list")
    return scores


def _logistic(values: np.ndarray, protocol: Protocol, seed: int) -> tuple[np.ndarray, float]:
    """Predictions for the test cells, and the inverse penalty they were made with."""
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(values[protocol.pool].astype(np.float64))
    x = scaler.transform(values[protocol.train].astype(np.float64))
    y = protocol.codes[protocol.train]
    strength = _choose_strength(x, y, seed)
    fitted = _fit(x, y, strength)
    if int(max(fitted.n_iter_)) >= fitted.max_iter:
        warn(f"The linear probe did not converge in {fitted.max_iter:,} iterations.")
    return fitted.predict(scaler.transform(values[protocol.test].astype(np.float64))), strength


def _choose_strength(x: np.ndarray, y: np.ndarray, seed: int) -> float:
    """Inverse penalty with the best macro-F1 of the predictions of all folds; ties to the stronger."""
    sizes = np.sort(np.bincount(y))[::-1]
    # With fewer cells of the second label than folds, a fold could be trained on one label alone.
    folds = min(_FOLDS, int(sizes[1]))
    if folds < 2:
        return _DEFAULT_STRENGTH
    fold = rank_in_class(y, derive_generator(seed, "folds")) % folds
    best = (-1.0, _DEFAULT_STRENGTH)
    for strength in _STRENGTHS:
        predicted = np.empty_like(y)
        for i in range(folds):
            predicted[fold == i] = _fit(x[fold != i], y[fold != i], strength).predict(x[fold == i])
        score = scores_of(class_table(y, predicted, range(len(sizes))))["macro_f1"]
        if score > best[0]:
            best = (score, strength)
    return best[1]


def _fit(x: np.ndarray, y: np.ndarray, strength: float) -> Any:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    with warnings.catch_warnings():
        # Said once, for the final fit, by the caller.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return LogisticRegression(C=strength, max_iter=1000).fit(x, y)


def _nearest(values: np.ndarray, protocol: Protocol, n_neighbors: int) -> np.ndarray:
    """Most frequent label of the nearest training cells of each test cell."""
    from sklearn.neighbors import NearestNeighbors

    if n_neighbors > len(protocol.train):
        raise ValueError(
            f"n_neighbors={n_neighbors} is more than the {len(protocol.train):,} training cells."
        )
    index = NearestNeighbors(n_neighbors=n_neighbors).fit(values[protocol.train])
    found = index.kneighbors(values[protocol.test], return_distance=False)
    n_labels = len(protocol.names)
    votes = protocol.codes[protocol.train][found] + n_labels * np.arange(len(found))[:, None]
    tally = np.bincount(votes.ravel(), minlength=len(found) * n_labels)
    return tally.reshape(len(found), n_labels).argmax(axis=1)
