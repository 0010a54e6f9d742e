"""The classifiers of scikit-learn that are put on an embedding, their scores and probabilities."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from scssl._linear import (
    chosen_logistic,
    held_out_distances,
    ranked_by,
    scaling,
    temperature_of,
    trained,
)
from scssl._random import derive_seed

from ._common import check_neighbors
from ._protocol import Protocol

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

        scores = ranked_by(self.estimator, self.scale(values))
        if hasattr(self.estimator, "predict_proba"):
            return scores, scores
        return scores, softmax(scores / self.temperature, axis=1)


def fit(
    values: np.ndarray, protocol: Protocol, classifier: str, options: dict[str, Any], seed: int
) -> Fitted:
    """Train a classifier on the training cells of a protocol.

    With ``C="chosen"`` the penalty of a logistic regression is the one with the best accuracy in
    cross-validation within them.
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
        options["C"], weight, bias = chosen_logistic(x, y, seed)
        estimator = _make(classifier, {**options, "warm_start": True}, state)
        # From its minimum scikit-learn takes no step: it says whether it is one.
        if len(bias) == 2:
            weight, bias = weight[1:] - weight[:1], bias[1:] - bias[:1]
        estimator.coef_, estimator.intercept_ = weight, bias
    else:
        estimator = _make(classifier, options, state)
    estimator, converged = trained(estimator, x, y)
    fitted = Fitted(estimator, scale, options, _PROBABILITIES.get(classifier, "softmax"), converged)
    if classifier == "svm":
        held_out = held_out_distances(lambda: _make(classifier, options, state), x, y, seed)
        if held_out is not None:
            fitted.temperature = temperature_of(*held_out)
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
