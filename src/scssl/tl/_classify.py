"""Off-the-shelf classifiers on an embedding, scored on cells they were not fitted to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from scssl._checks import (
    check_adata,
    check_choice,
    check_destination,
    check_number,
    check_whole,
    get_column,
    get_embedding,
    whole_numbers,
)
from scssl._errors import warn
from scssl._random import RNG, as_seed
from scssl._scores import all_scores, calibration_error, reliability

from ._common import to_be_written
from ._estimators import N_NEIGHBORS, Classifier, fit
from ._protocol import make_protocol, params_of_split

if TYPE_CHECKING:
    from anndata import AnnData


def classify(
    adata: AnnData,
    label_key: str,
    *,
    use_rep: str = "X_ssl",
    classifier: Classifier = "svm",
    split: str | tuple[Any, Any] | None = None,
    test_size: float = 0.2,
    n_labels_per_class: int | None = None,
    key_added: str | None = None,
    rng: RNG = 0,
    copy: bool = False,
    **kwargs: Any,
) -> AnnData | None:
    """Label cells by a classifier on an embedding, and score it on cells that it has not seen.

    The classifiers are those of scikit-learn:

    - ``"svm"``: linear support vector machine, one label against the rest;
    - ``"rf"``: random forest of 500 trees;
    - ``"lr"``: multinomial logistic regression with an L2 penalty;
    - ``"knn"``: the 15 nearest training cells by Euclidean distance, or `n_labels_per_class`, as the
      others would be of another label.

    For the first and the third, all dimensions are divided by one factor, after which they have a
    variance of 1 on average in the training part. No parameter is tuned; :func:`linear_probe` chooses a penalty.

    *Scores* are those of the test part. AUROC and AUPRC rank cells by the distance from the boundary
    (``"svm"``) or by probability (the others), one label against the rest, and never by predicted
    labels: of a single neighbour, whose vote is the prediction, they are NaN.

    *Probabilities* are not equally good. Those of ``"lr"`` are fitted, those of ``"rf"`` and ``"knn"``
    are shares of votes. A support vector machine has none: the softmax of its distances is taken,
    with the one temperature :cite:p:`Guo2017` that is the most likely in 3-fold cross-validation
    within the training cells, or 1 where every label has a single one. ``"ece"``, measured on the test
    part, says how far they are from being right.

    Parameters
    ----------
    adata
        Cells with an embedding.
    label_key
        Column of `adata.obs` with the labels. Cells that have none are neither trained nor tested on;
        they are labelled like all others.
    use_rep
        Entry of `adata.obsm` to read labels from.
    classifier
        One of the four.
    split
        As in :func:`linear_probe`: by default seeded and stratified, or a column of `adata.obs` with
        ``"train"`` and ``"test"``, or a pair of row numbers, masks or names.
    test_size
        Share of the labelled cells to test on, where `split` is not given. With 0 all are trained on
        and nothing is scored.
    n_labels_per_class
        Learn from this many cells of each label, drawn from the training part, or from all there are
        of a rarer one; smaller draws of one seed are part of larger ones.
    key_added
        Where the results go in `adata.obs`, `adata.obsm` and `adata.uns`; ``f"{classifier}_label"``
        by default.
    rng
        Seed or generator of split, draw and classifier.
    copy
        Leave `adata` as it is and return a copy with the results.
    **kwargs
        Passed to the classifier: ``C=10``, ``n_neighbors=5``, ``class_weight="balanced"``,
        ``n_jobs=-1``.

    Returns
    -------
    AnnData or None
        `None`, or a copy when `copy` is true. Sets:

        ``adata.obs[key_added]`` : :class:`pandas.Series` (category)
            The label of every cell. Of training cells it was fitted.
        ``adata.obs[f"{key_added}_confidence"]`` : :class:`pandas.Series` (float)
            Probability of that label.
        ``adata.obs[f"{key_added}_part"]`` : :class:`pandas.Series` (category)
            ``"train"``, ``"test"`` (the cells that are scored) or ``"other"``.
        ``adata.obsm[key_added]`` : :class:`numpy.ndarray` (float)
            Probabilities of all labels, in the order of ``adata.uns[key_added]["labels"]``.
        ``adata.uns[key_added]`` : :class:`dict`
            ``"scores"`` (a frame of one row: ``accuracy``, ``cohen_kappa`` :cite:p:`Cohen1960`,
            ``macro_f1``, ``macro_auprc``, ``macro_auroc``, ``balanced_accuracy``, ``weighted_f1``,
            ``ece`` :cite:p:`Naeini2015`, the cells and labels they are from, and ``n_labels_skipped``,
            labels without a test cell, over which no mean runs), ``"per_class"``, ``"labels"``,
            ``"left_out"`` (labels of test cells that no training cell has) and ``"params"``. With
            ``test_size=0`` there are no ``"scores"`` and ``"per_class"``.

    Raises
    ------
    KeyError
        If a column or the embedding is not in `adata`.
    ValueError
        If the parts of `split` share a cell, fewer than two labels have training cells, `key_added`
        would overwrite what is read, or a parameter is out of range.

    Examples
    --------
    >>> import scanpy as sc, scssl
    >>> adata = scssl.datasets.pbmc68k_reduced()
    >>> sc.pp.pca(adata)
    >>> scssl.tl.classify(adata, "bulk_labels", use_rep="X_pca", classifier="lr")
    >>> bool(adata.uns["lr_label"]["scores"].loc[0, "macro_auroc"] > 0.9)
    True
    """
    import pandas as pd

    check_adata(adata)
    check_choice("classifier", classifier, get_args(Classifier))
    check_number("test_size", test_size, "[0, 1)")
    check_whole("n_labels_per_class", n_labels_per_class, none=True)
    key_added = f"{classifier}_label" if key_added is None else key_added
    check_destination(adata, key_added, copy=copy)
    _check_not_read(key_added, label_key, split, use_rep)
    if classifier == "knn" and n_labels_per_class is not None:
        kwargs = {"n_neighbors": min(N_NEIGHBORS, n_labels_per_class), **kwargs}
    values = get_embedding(adata, use_rep)
    seed = as_seed(rng)
    protocol = make_protocol(
        adata,
        whole_numbers(get_column(adata, label_key, "label_key")),
        label_key=label_key,
        split=split,
        test_size=test_size,
        n_labels_per_class=n_labels_per_class,
        seed=seed,
    )
    fitted = fit(values, protocol, classifier, kwargs, seed)
    if not fitted.converged:
        name, n = type(fitted.estimator).__name__, fitted.estimator.max_iter
        warn(
            f"{name} did not converge in {n:,} iterations. Give it more, `max_iter={10 * n}`, or a "
            f"stronger penalty, `C={fitted.estimator.C / 10:g}`."
        )
    scores, probabilities = fitted.apply(values)
    winner = scores.argmax(axis=1)
    confidence = probabilities[np.arange(len(winner)), winner]

    adata = to_be_written(adata, copy=copy)
    part = np.full(adata.n_obs, 2)
    part[protocol.train], part[protocol.test] = 0, 1
    categories = [str(name) for name in protocol.names]
    adata.obs[key_added] = pd.Categorical.from_codes(winner, categories)
    adata.obs[f"{key_added}_confidence"] = confidence
    adata.obs[f"{key_added}_part"] = pd.Categorical.from_codes(part, ["train", "test", "other"])
    adata.obsm[key_added] = probabilities.astype(np.float32)
    written: dict[str, Any] = {
        "labels": np.asarray(categories, dtype=object),
        "left_out": protocol.left_out,
        "params": {
            "use_rep": use_rep,
            "label_key": label_key,
            "classifier": classifier,
            "options": {name: str(value) for name, value in fitted.options.items()},
            "probabilities": fitted.probabilities,
            **params_of_split(split, test_size, n_labels_per_class),
            "seed": seed,
        },
    }
    if len(protocol.test):
        test, codes = protocol.test, protocol.codes
        ranked = scores[test] if fitted.ranks else np.full_like(scores[test], np.nan)
        row, per_class = all_scores(codes[test], winner[test], ranked, protocol.names)
        n_train = dict(zip(categories, np.bincount(codes[protocol.train]), strict=True))
        about = {
            "use_rep": use_rep,
            "label_key": label_key,
            "classifier": classifier,
            "n_train": len(protocol.train),
            "n_test": len(test),
            "n_labels": len(per_class),
            "n_labels_skipped": len(protocol.names) - len(per_class),
        }
        row["ece"] = calibration_error(reliability(confidence[test], winner[test] == codes[test]))
        written["scores"] = pd.DataFrame([{**about, **row}])
        per_class.insert(6, "n_train", per_class["label"].map(n_train))
        written["per_class"] = per_class
    adata.uns[key_added] = written
    return adata if copy else None


def _check_not_read(key_added: str, label_key: str, split: Any, use_rep: str) -> None:
    read = {label_key} | ({split} if isinstance(split, str) else set())
    written = {key_added, f"{key_added}_confidence", f"{key_added}_part"}
    if read & written or key_added == use_rep:
        taken = (read & written).pop() if read & written else use_rep
        raise ValueError(
            f"key_added={key_added!r} would overwrite {taken!r}, which is read. Give another: "
            f'`key_added="{key_added}_predicted"`.'
        )
