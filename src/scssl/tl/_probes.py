"""How well labels can be read from an embedding: linear and nearest-neighbour probes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from scssl._checks import (
    check_adata,
    check_destination,
    check_key,
    check_number,
    check_whole,
    get_embedding,
    get_labels,
    is_number,
)
from scssl._errors import warn
from scssl._random import RNG, as_seed, derive_generator
from scssl._scores import class_counts, class_table, f1_of, scores_of

from ._common import check_neighbors, list_of_keys, nearest, votes, write_scores
from ._estimators import fit
from ._protocol import Protocol, make_folds, make_protocol, params_of_split

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

# What a probe predicts for the test cells, and what else it says.
Predict = Callable[[np.ndarray, Protocol, int], tuple[np.ndarray, dict[str, Any]]]
_SCORE = [
    *("use_rep", "label_key", "n_cells", "n_labels", "macro_f1", "accuracy"),
    *("null_macro_f1_mean", "null_macro_f1_sd", "null_accuracy_mean", "p_value"),
]


def linear_probe(
    adata: AnnData,
    label_key: str,
    *,
    use_rep: str | Sequence[str] = "X_ssl",
    split: str | tuple[Any, Any] | None = None,
    test_size: float = 0.2,
    n_labels_per_class: int | None = None,
    rng: RNG = 0,
    key_added: str = "linear_probe",
) -> pd.DataFrame:
    """Score embeddings by a linear classifier on top of them.

    Multinomial logistic regression with an L2 penalty. All dimensions are divided by one factor, after
    which they have a variance of 1 on average in the training part: dimensions keep their relative
    size, as principal components need. The penalty is the one of four with the best accuracy in 5-fold
    cross-validation within the labelled training cells. The test part is looked at once.

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
        there are of a rarer one; features are still scaled on the whole training part, which needs
        no label. By default all are used. With one cell per label nothing is left to choose
        the penalty with, and ``inverse_penalty`` is 0.1. The cells drawn for a smaller number are among those for a
        larger one.
    rng
        Seed or generator of split, draw and folds.
    key_added
        Entry of `adata.uns` for the result.

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

    def predict(
        values: np.ndarray, protocol: Protocol, seed: int
    ) -> tuple[np.ndarray, dict[str, Any]]:
        fitted = fit(values, protocol, "lr", {"C": "chosen"}, seed)
        if not fitted.converged:
            n = fitted.options["max_iter"]
            warn(f"The linear probe did not converge in {n:,} iterations.")
        return fitted.predict(values[protocol.test]), {"inverse_penalty": fitted.options["C"]}

    check_destination(adata, key_added)
    written = _probe(
        adata, label_key, use_rep, split, test_size, n_labels_per_class, rng, predict, {}
    )
    return write_scores(adata, key_added, **written)


def knn_probe(
    adata: AnnData,
    label_key: str,
    *,
    use_rep: str | Sequence[str] = "X_ssl",
    n_neighbors: int = 15,
    split: str | int | tuple[Any, Any] | None = None,
    test_size: float = 0.2,
    n_labels_per_class: int | None = None,
    n_permutations: int = 0,
    rng: RNG = 0,
    key_added: str = "knn_probe",
) -> pd.DataFrame:
    """Score embeddings by the nearest training cells of each test cell.

    A test cell gets the most frequent label of its nearest cells in the training part, the nearest
    one included (exact Euclidean search, ties to the label that sorts first). Training and test part
    share no cell, so that no cell votes for itself and none is to be skipped.

    With a number as `split` every cell is tested, in stratified cross-validation with that many folds
    (:func:`knn_score` is this with five, and a null).

    The null permutes the labels within each part or fold, which keeps the sizes of the classes: it is
    what an embedding scores that knows nothing of the labels.

    The time of the search grows with the square of the number of cells: above 100,000 cells, score a
    random part of them.

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
        As in :func:`linear_probe`, or a number of folds. Labels with fewer cells than folds are left
        out, with a warning.
    test_size
        Share of the cells to test on, where `split` is not given.
    n_labels_per_class
        Search among this many cells of each label, drawn from the training part, or among all there
        are of a rarer one. By default all are used, and with folds they must be.
    n_permutations
        Permutations of the null; with 0 there is none.
    rng
        Seed or generator of split, draw and permutations.
    key_added
        Entry of `adata.uns` for the result.

    Returns
    -------
    pandas.DataFrame
        One row for each representation, with the columns of :func:`linear_probe` and ``n_neighbors``
        instead of ``inverse_penalty``; of folds ``n_train`` is that of the fold with the fewest. With a
        null also ``null_macro_f1_mean``, ``null_macro_f1_sd``, ``null_accuracy_mean`` and ``p_value``
        (the share of permutations, the data included, with at least the macro-F1 of the data). In
        ``adata.uns[key_added]`` what :func:`linear_probe` writes.

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
    check_destination(adata, key_added)
    written = _knn_probe(
        adata,
        label_key,
        use_rep,
        n_neighbors,
        split,
        test_size,
        n_labels_per_class,
        n_permutations,
        rng,
    )
    return write_scores(adata, key_added, **written)


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

    The macro-F1 and accuracy of :func:`knn_probe` in stratified cross-validation, in which every cell is
    labelled by its nearest cells among the other folds, beside those of a null that permutes the
    labels within each fold.

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
    check_key(use_rep, "use_rep")
    key_added = f"{use_rep}_knn_score" if key_added is None else key_added
    check_destination(adata, key_added)
    n_splits = check_whole("n_splits", n_splits, 2)
    written = _knn_probe(
        adata, label_key, use_rep, n_neighbors, n_splits, 0.2, None, n_permutations, rng
    )
    found = written["scores"].rename(columns={"n_test": "n_cells"}).reindex(columns=_SCORE)
    adata.uns[key_added] = {
        **found.to_dict("records")[0],
        "left_out": written["left_out"],
        "params": {
            "n_splits": n_splits,
            **{k: written["params"][k] for k in ("n_neighbors", "n_permutations", "seed")},
        },
    }
    return found


def _knn_probe(
    adata: AnnData,
    label_key: str,
    use_rep: str | Sequence[str],
    n_neighbors: int,
    split: Any,
    test_size: float,
    n_labels_per_class: int | None,
    n_permutations: int,
    rng: RNG,
) -> dict[str, Any]:
    n_neighbors = check_whole("n_neighbors", n_neighbors)
    n_permutations = check_whole("n_permutations", n_permutations, 0)
    n_splits = check_whole("split", split, 2) if is_number(split) else None
    if n_splits is not None and n_labels_per_class is not None:
        two = "Leave out `n_labels_per_class`, or split into two parts"
        raise ValueError(f"With split={n_splits} folds all labels of the others are used. {two}.")

    def predict(
        values: np.ndarray, protocol: Protocol, seed: int
    ) -> tuple[np.ndarray, dict[str, Any]]:
        n = n_neighbors if n_labels_per_class is None else min(n_neighbors, n_labels_per_class)
        neighbors = _neighbors(values, protocol, n)
        predicted = votes(protocol.codes[neighbors], len(protocol.names)).argmax(axis=1)
        found: dict[str, Any] = {"n_neighbors": n}
        if n_permutations:
            found |= _null(predicted, neighbors, protocol, n_permutations, seed)
        return predicted, found

    params = {"n_neighbors": n_neighbors, "n_permutations": n_permutations}
    return _probe(
        adata,
        label_key,
        use_rep,
        split,
        test_size,
        n_labels_per_class,
        rng,
        predict,
        params,
        n_splits=n_splits,
    )


def _probe(
    adata: AnnData,
    label_key: str,
    use_rep: str | Sequence[str],
    split: Any,
    test_size: float,
    n_labels_per_class: int | None,
    rng: RNG,
    predict: Predict,
    params: dict[str, Any],
    *,
    n_splits: int | None = None,
) -> dict[str, Any]:
    """What all probes do around their classifier."""
    import pandas as pd

    check_adata(adata)
    check_number("test_size", test_size, "(0, 1)")
    check_whole("n_labels_per_class", n_labels_per_class, none=True)
    keys = list_of_keys(use_rep)
    labels = get_labels(adata, label_key)
    embeddings = {key: get_embedding(adata, key) for key in keys}
    seed = as_seed(rng)
    if n_splits is not None:
        protocol = make_folds(labels, label_key=label_key, n_splits=n_splits, seed=seed)
    else:
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
        predicted, found = predict(values, protocol, seed)
        table = class_table(truth, predicted, protocol.names)
        tables.append(table.assign(use_rep=key)[["use_rep", *table.columns]])
        rows.append(
            {
                "use_rep": key,
                "label_key": label_key,
                "n_train": min(len(train) for train, _ in protocol.parts()),
                "n_test": len(truth),
                "n_labels": len(table),
                **scores_of(table),
                **found,
            }
        )
    return {
        "scores": pd.DataFrame(rows),
        "tables": {"per_class": pd.concat(tables, ignore_index=True)},
        "left_out": protocol.left_out,
        "params": {
            **params,
            **params_of_split(split, test_size, n_labels_per_class),
            "seed": seed,
        },
    }


def _neighbors(values: np.ndarray, protocol: Protocol, n_neighbors: int) -> np.ndarray:
    """Rows of the nearest training cells of each test cell."""
    parts = protocol.parts()
    n_train = min(len(train) for train, _ in parts)
    where = "training cells" if len(parts) == 1 else f"cells of {len(parts) - 1} folds"
    check_neighbors(n_neighbors, n_train, where)
    found = np.empty((len(values), n_neighbors), dtype=np.intp)
    for train, test in parts:
        found[test] = train[nearest(values[train], values[test], n_neighbors)]
    return found[protocol.test]


def _permuted(protocol: Protocol, n: int, seed: int) -> Iterator[np.ndarray]:
    """Labels of all cells, permuted within each fold, or within the training and the test part."""
    rows, group = protocol.test, protocol.fold
    if group is None:
        rows = np.sort(np.concatenate([protocol.train, protocol.test]))
        group = np.isin(rows, protocol.test)
    generator = derive_generator(seed, "permutations")
    order, codes = np.argsort(group, kind="stable"), protocol.codes[rows]
    for _ in range(n):
        permuted = protocol.codes.copy()
        permuted[rows[order]] = codes[np.lexsort((generator.random(len(rows)), group))]
        yield permuted


def _null(
    predicted: np.ndarray, neighbors: np.ndarray, protocol: Protocol, n: int, seed: int
) -> dict[str, float]:
    """What an embedding scores that knows nothing of the labels, and how often it is as good."""
    n_labels = len(protocol.names)

    def score(codes: np.ndarray, predicted: np.ndarray) -> tuple[float, float]:
        counts = class_counts(codes[protocol.test], predicted, n_labels)
        hits = counts[2].sum() / len(protocol.test)
        return float(f1_of(counts)[counts[0] > 0].mean()), float(hits)

    macro_f1, _ = score(protocol.codes, predicted)
    permuted = _permuted(protocol, n, seed)
    null = np.array([score(c, votes(c[neighbors], n_labels).argmax(axis=1)) for c in permuted])
    return {
        "null_macro_f1_mean": float(null[:, 0].mean()),
        "null_macro_f1_sd": float(null[:, 0].std(ddof=1)) if n > 1 else np.nan,
        "null_accuracy_mean": float(null[:, 1].mean()),
        "p_value": (1 + int((null[:, 0] >= macro_f1).sum())) / (1 + n),
    }
