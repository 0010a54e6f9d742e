"""Linear classifiers on an embedding: scale, penalty and temperature, the same for probes and for heads."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from scssl._random import derive_generator

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


def rank_in_class(codes: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Place of each cell in a random order of the cells of its class."""
    order = generator.permutation(len(codes))
    order = order[np.argsort(codes[order], kind="stable")]
    sizes = np.bincount(codes)
    starts = np.cumsum(sizes) - sizes
    rank = np.empty(len(codes), dtype=np.intp)
    rank[order] = np.arange(len(codes)) - starts[codes[order]]
    return rank


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


def choose_strength(make: Callable[[float], Any], x: np.ndarray, y: np.ndarray, seed: int) -> float:
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
            one, _ = trained(make(strength), x[fold != i], y[fold != i])
            right += int((one.predict(x[fold == i]) == y[fold == i]).sum())
        if right > best[0]:
            best = (right, strength)
    return best[1]


def ranked_by(estimator: Any, x: np.ndarray) -> np.ndarray:
    """What cells are ranked by, one column for each label."""
    if hasattr(estimator, "predict_proba"):
        return np.asarray(estimator.predict_proba(x))
    return distances(estimator, x)


def distances(estimator: Any, x: np.ndarray) -> np.ndarray:
    """Distances from the boundary of each label, of two labels both signs of the one there is."""
    distance = np.asarray(estimator.decision_function(x))
    return distance if distance.ndim == 2 else np.stack([-distance, distance], axis=1)


def held_out_distances(
    make: Callable[[], Any], x: np.ndarray, y: np.ndarray, seed: int
) -> tuple[np.ndarray, np.ndarray] | None:
    """Distances and labels of training cells from classifiers that were not fitted to them.

    `None` where every label has a single cell.
    """
    fold = rank_in_class(y, derive_generator(seed, "folds")) % _FOLDS
    # A label's only cell is never held out: without it there is no score of that label.
    fold[np.bincount(y)[y] == 1] = -1
    found, codes = [], []
    for i in range(_FOLDS):
        if (fold == i).any():
            one, _ = trained(make(), x[fold != i], y[fold != i])
            found.append(distances(one, x[fold == i]))
            codes.append(y[fold == i])
    return (np.concatenate(found), np.concatenate(codes)) if found else None


def temperature_of(scores: np.ndarray, codes: np.ndarray) -> float:
    """Temperature of the softmax with the highest likelihood of the labels :cite:p:`Guo2017`."""
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
