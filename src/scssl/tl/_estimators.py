"""The classifiers of scikit-learn that are put on an embedding, their scores and probabilities."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from scssl._random import derive_generator, derive_seed

from ._common import check_neighbors
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
_SCALED = {"svm", "lr"}
_PROBABILITIES = {
    "rf": "mean of the trees",
    "lr": "softmax, fitted",
    "knn": "share of the neighbours",
}
# Of the scores that a temperature is fitted to, and of the choice of a penalty.
_FOLDS, _PENALTY_FOLDS = 3, 5
# Inverse strengths of the L2 penalty on scaled features, strongest first.
_STRENGTHS = (0.01, 0.1, 1.0, 10.0)
DEFAULT_STRENGTH = 0.1
# Entries of a matrix up to which one thread is faster than two.
_SMALL = 2_000_000


def scaling(values: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """How features are scaled before anything linear: to mean 0, and one variance of 1 on average.

    One factor for all dimensions. A factor for each would give the last principal components, which
    are noise, the weight of the first.
    """
    known = values.astype(np.float64)
    center, spread = known.mean(axis=0), np.sqrt(known.var(axis=0).mean())
    return lambda others: (others.astype(np.float64) - center) / (spread or 1.0)


@dataclass
class Fitted:
    """A classifier of scikit-learn after training."""

    estimator: Any
    scale: Callable[[np.ndarray], np.ndarray]
    """What is done to features before they reach it."""
    options: dict[str, Any]
    """What it was made with."""
    probabilities: str
    """What its probabilities are."""
    converged: bool
    """Whether it came to an end within its iterations."""
    temperature: float = 1.0
    """What scores that are no probabilities are divided by before the softmax."""

    @property
    def ranks(self) -> bool:
        """Whether scores are more than predictions: the vote of a single neighbour is not."""
        return self.options.get("n_neighbors") != 1

    def predict(self, values: np.ndarray) -> np.ndarray:
        """Code of the label of each cell."""
        return np.asarray(self.estimator.predict(self.scale(values)))

    def apply(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Scores and probabilities of all labels; the highest of both is of the same label."""
        from scipy.special import softmax

        scores = _scores(self.estimator, self.scale(values))
        if hasattr(self.estimator, "predict_proba"):
            return scores, scores
        return scores, softmax(scores / self.temperature, axis=1)


def fit(
    values: np.ndarray, protocol: Protocol, classifier: str, options: dict[str, Any], seed: int
) -> Fitted:
    """Train a classifier on the training cells of a protocol.

    With ``C="chosen"`` the penalty is the one with the best accuracy in cross-validation within them.
    """
    options = {**_OPTIONS[classifier], **options}
    y = protocol.codes[protocol.train]
    if classifier == "knn":
        fewer = f" Give fewer: `n_neighbors={max(1, len(y) // len(protocol.names))}`."
        check_neighbors(options["n_neighbors"], len(y), "training cells", fewer)
    scale: Callable[[np.ndarray], np.ndarray] = np.asarray
    if classifier in _SCALED:
        # The whole training part: its features are known where labels are few.
        scale = scaling(values[protocol.pool])
    x = scale(values[protocol.train])
    state = derive_seed(seed, "classifier") % 2**32
    if options.get("C") == "chosen":
        options["C"] = _choose_strength(classifier, options, x, y, seed)
    estimator, converged = trained(_make(classifier, options, state), x, y)
    fitted = Fitted(estimator, scale, options, _PROBABILITIES.get(classifier, "softmax"), converged)
    if classifier == "svm":
        held_out = _held_out(lambda: _make(classifier, options, state), x, y, seed)
        if held_out is not None:
            fitted.temperature = _temperature(*held_out)
        fitted.probabilities += ", not fitted" if held_out is None else ", temperature fitted"
    return fitted


def _choose_strength(
    classifier: str, options: dict[str, Any], x: np.ndarray, y: np.ndarray, seed: int
) -> float:
    """Inverse penalty with the best accuracy of the predictions of all folds; ties to the stronger."""
    sizes = np.sort(np.bincount(y))[::-1]
    # With fewer cells of the second label than folds, a fold could be trained on one label alone.
    folds = min(_PENALTY_FOLDS, int(sizes[1]))
    if folds < 2:
        return DEFAULT_STRENGTH
    fold = rank_in_class(y, derive_generator(seed, "folds")) % folds
    best = (-1, DEFAULT_STRENGTH)
    for strength in _STRENGTHS:
        right = 0
        for i in range(folds):
            one = _make(classifier, {**options, "C": strength}, 0)
            one, _ = trained(one, x[fold != i], y[fold != i])
            right += int((one.predict(x[fold == i]) == y[fold == i]).sum())
        if right > best[0]:
            best = (right, strength)
    return best[1]


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
        raise TypeError("Give the seed as `rng`, not as `random_state`.")
    strange = sorted(set(options) - set(allowed))
    if strange:
        raise TypeError(
            f"{made.__name__} has no option {strange[0]!r}; it has {', '.join(allowed)}."
        )
    estimator = made(**options)
    if "random_state" in estimator.get_params():
        estimator.set_params(random_state=state)
    return estimator


def trained(estimator: Any, x: np.ndarray, y: np.ndarray) -> tuple[Any, bool]:
    """The estimator, trained, and whether it converged."""
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits

    # Threads wait for one another after every small product: ten times as long on a busy machine.
    with (
        threadpool_limits(1 if x.size <= _SMALL else None),
        warnings.catch_warnings(record=True) as caught,
    ):
        warnings.simplefilter("always", ConvergenceWarning)
        estimator.fit(x, y)
    # What did not converge is said once, by the caller, and of the classifier that is kept.
    others = [one for one in caught if not issubclass(one.category, ConvergenceWarning)]
    for one in others:
        warnings.warn(one.message, one.category, stacklevel=4)
    return estimator, len(others) == len(caught)


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
            one, _ = trained(make(), x[fold != i], y[fold != i])
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
