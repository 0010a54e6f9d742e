"""The classifiers of scikit-learn that are put on an embedding, their scores and probabilities."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from scssl._errors import warn
from scssl._random import derive_generator, derive_seed

from ._protocol import Protocol, rank_in_class

Classifier = Literal["svm", "rf", "lr", "knn"]
N_NEIGHBORS = 15
# What is not scikit-learn's own default.
_OPTIONS: dict[str, dict[str, Any]] = {
    "svm": {"max_iter": 10_000},
    "rf": {"n_estimators": 500},
    "lr": {"max_iter": 10_000},
    "knn": {"n_neighbors": N_NEIGHBORS},
}
# Distances between cells are those of the embedding, and trees do not see scales.
_STANDARDISED = {"svm", "lr"}
_PROBABILITIES = {
    "rf": "mean of the trees",
    "lr": "softmax, fitted",
    "knn": "share of the neighbours",
}
_FOLDS = 3


@dataclass
class Fitted:
    """A classifier after training.

    Parameters
    ----------
    estimator
        The classifier of scikit-learn.
    scaler
        What its features are standardised with, if they are.
    options
        What it was made with.
    probabilities
        What its probabilities are.
    temperature
        What scores that are no probabilities are divided by before the softmax.
    """

    estimator: Any
    scaler: Any
    options: dict[str, Any]
    probabilities: str
    temperature: float = 1.0

    @property
    def ranks(self) -> bool:
        """Whether scores are more than predictions: the vote of a single neighbour is not."""
        return self.options.get("n_neighbors") != 1

    def apply(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Scores and probabilities of all labels; the highest of both is of the same label."""
        from scipy.special import softmax

        x = values if self.scaler is None else self.scaler.transform(values.astype(np.float64))
        scores = _scores(self.estimator, x)
        if hasattr(self.estimator, "predict_proba"):
            return scores, scores
        return scores, softmax(scores / self.temperature, axis=1)


def fit(
    values: np.ndarray, protocol: Protocol, classifier: str, options: dict[str, Any], seed: int
) -> Fitted:
    """Train a classifier on the training cells of a protocol."""
    from sklearn.preprocessing import StandardScaler

    options = {**_OPTIONS[classifier], **options}
    x, y = values[protocol.train], protocol.codes[protocol.train]
    if classifier == "knn" and options["n_neighbors"] > len(y):
        raise ValueError(
            f"n_neighbors={options['n_neighbors']} is more than the {len(y):,} training cells. Give "
            f"fewer: `n_neighbors={max(1, len(y) // len(protocol.names))}`."
        )
    scaler = None
    if classifier in _STANDARDISED:
        # The whole training part: its features are known where labels are few.
        scaler = StandardScaler().fit(values[protocol.pool].astype(np.float64))
        x = scaler.transform(x.astype(np.float64))
    state = derive_seed(seed, "classifier") % 2**32
    estimator = _train(_make(classifier, options, state), x, y, loud=True)
    fitted = Fitted(estimator, scaler, options, _PROBABILITIES.get(classifier, "softmax"))
    if classifier == "svm":
        held_out = _held_out(lambda: _make(classifier, options, state), x, y, seed)
        if held_out is not None:
            fitted.temperature = _temperature(*held_out)
        fitted.probabilities += ", not fitted" if held_out is None else ", temperature fitted"
    return fitted


def _make(classifier: str, options: dict[str, Any], state: int) -> Any:
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.svm import LinearSVC

    made = {
        "svm": LinearSVC,
        "rf": RandomForestClassifier,
        "lr": LogisticRegression,
        "knn": KNeighborsClassifier,
    }[classifier]
    allowed = sorted(set(made().get_params()) - {"random_state"})
    if "random_state" in options:
        raise TypeError("Give the seed as `rng=...`, not as `random_state`.")
    strange = sorted(set(options) - set(allowed))
    if strange:
        raise TypeError(
            f"{made.__name__} has no option {strange[0]!r}; it has {', '.join(allowed)}."
        )
    estimator = made(**options)
    if "random_state" in estimator.get_params():
        estimator.set_params(random_state=state)
    return estimator


def _train(estimator: Any, x: np.ndarray, y: np.ndarray, *, loud: bool = False) -> Any:
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        estimator.fit(x, y)
    for one in caught:
        if not issubclass(one.category, ConvergenceWarning):
            warnings.warn(one.message, one.category, stacklevel=4)
    # Said once, for the classifier that is kept.
    if loud and any(issubclass(one.category, ConvergenceWarning) for one in caught):
        n = estimator.max_iter
        warn(
            f"{type(estimator).__name__} did not converge in {n:,} iterations. Give it more, "
            f"`max_iter={10 * n}`, or a stronger penalty, `C={estimator.C / 10:g}`."
        )
    return estimator


def _scores(estimator: Any, x: np.ndarray) -> np.ndarray:
    """What cells are ranked by, one column for each label."""
    if hasattr(estimator, "predict_proba"):
        return np.asarray(estimator.predict_proba(x))
    distance = np.asarray(estimator.decision_function(x))
    # Of two labels there is one boundary.
    return distance if distance.ndim == 2 else np.stack([-distance, distance], axis=1)


def _held_out(
    make: Any, x: np.ndarray, y: np.ndarray, seed: int
) -> tuple[np.ndarray, np.ndarray] | None:
    """Scores and labels of training cells from classifiers that were not fitted to them."""
    fold = rank_in_class(y, derive_generator(seed, "folds")) % _FOLDS
    # A label's only cell is never held out: without it there is no score of that label.
    fold[np.bincount(y)[y] == 1] = -1
    scores, codes = [], []
    for i in range(_FOLDS):
        if (fold == i).any():
            one = _train(make(), x[fold != i], y[fold != i])
            scores.append(_scores(one, x[fold == i]))
            codes.append(y[fold == i])
    return (np.concatenate(scores), np.concatenate(codes)) if scores else None


def _temperature(scores: np.ndarray, codes: np.ndarray) -> float:
    """Temperature of the softmax with the highest likelihood of the labels."""
    from scipy.optimize import minimize_scalar
    from scipy.special import log_softmax

    # As if one of two further cells were of another label: where all held-out cells are right, the
    # likelihood would have no maximum.
    wrong = 1 / (len(codes) + 2)
    n_labels = scores.shape[1]
    target = np.full(scores.shape, wrong / (n_labels - 1))
    target[np.arange(len(codes)), codes] = 1 - wrong

    def loss(log_temperature: float) -> float:
        return -float((target * log_softmax(scores / np.exp(log_temperature), axis=1)).sum())

    return float(np.exp(minimize_scalar(loss, bounds=(-6, 6), method="bounded").x))
