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
# Largest slope, on axes along which steps are of one size, at which a minimum is taken for found:
# where penalties are compared, and of the one that is kept.
_TOLERANCES = 3e-4, 3e-5
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


def chosen_logistic(
    x: np.ndarray, y: np.ndarray, seed: int, weights: np.ndarray | None = None
) -> tuple[float, np.ndarray, np.ndarray]:
    """Logistic regression with an L2 penalty on coefficients, chosen among those of `_STRENGTHS`.

    The one with the best accuracy of the predictions of all folds; ties to the stronger. What is
    minimised is what scikit-learn minimises, with `weights` of the labels, but to a gradient so small
    that predictions do not depend on the way there.

    Returns the inverse penalty, coefficients ``(n_labels, n_features)`` and intercepts.
    """
    from threadpoolctl import threadpool_limits

    sizes = np.sort(np.bincount(y))[::-1]
    # With fewer cells of the second label than folds, a fold could be trained on one label alone.
    folds = min(_PENALTY_FOLDS, int(sizes[1]))
    strength = DEFAULT_STRENGTH
    with threadpool_limits(1 if x.size <= _SMALL else None):
        places, axes, spread = _rotated(x)
        weight = np.ones(len(y)) if weights is None else weights[y]
        found = np.zeros((1, len(sizes), len(spread)))
        if folds > 1:
            fold = rank_in_class(y, derive_generator(seed, "folds")) % folds
            is_held = fold == np.arange(folds)[:, None]
            # In single precision, of which the errors are far below the tolerance.
            rough, one, best = places.astype(np.float32), np.repeat(found, folds, axis=0), -1
            for each in _STRENGTHS:
                # From the solution with a stronger one, never from one that has seen the cells held out.
                one, scores = _minima(
                    rough, y, weight * ~is_held, spread, each, one, _TOLERANCES[0]
                )
                right = int((scores.argmax(axis=1) == y)[is_held].sum())
                if right > best:
                    best, strength, found = right, each, one.mean(axis=0, keepdims=True)
        found, _ = _minima(places, y, weight[None], spread, strength, found, _TOLERANCES[1])
    return strength, found[0, :, :-1] @ axes, found[0, :, -1]


def _rotated(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cells on their principal axes and a 1 behind; the axes; and the mean square of each column.

    The penalty does not see a rotation, and no solution leaves the space that the cells span: of few
    cells with many genes there is one axis a cell.
    """
    n, n_features = x.shape
    is_wide = n < n_features
    squares, vectors = np.linalg.eigh(x @ x.T if is_wide else x.T @ x)
    is_kept = squares > squares[-1] * max(x.shape) * np.finfo(np.float64).eps
    squares, vectors = squares[is_kept], vectors[:, is_kept]
    scale = np.sqrt(squares)
    places = vectors * scale if is_wide else x @ vectors
    axes = (vectors / scale).T @ x if is_wide else vectors.T
    return np.column_stack([places, np.ones(n)]), axes, np.append(squares / n, 1.0)


def _minima(
    x: np.ndarray,
    y: np.ndarray,
    weights: np.ndarray,
    spread: np.ndarray,
    strength: float,
    start: np.ndarray,
    tolerance: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Regressions with one row of weights of the cells each, in one matrix product for all.

    Coefficients, ``(n_weights, n_labels, n_features)``, of which the last feature is 1 and has no penalty,
    and scores of all cells, ``(n_weights, n_labels, n_cells)``.
    """
    from scipy.optimize import minimize

    cells, shape = np.arange(len(y)), start.shape
    is_there = np.stack([np.bincount(y, row, shape[1]) > 0 for row in weights])
    # Of two labels scikit-learn penalises the difference of their coefficients, which is twice as much.
    penalty = np.where(is_there.sum(axis=1) == 2, 2, 1) / (strength * weights.sum(axis=1))
    penalty = np.multiply.outer(penalty[:, None], np.arange(shape[2]) < shape[2] - 1)
    weights = (weights / weights.sum(axis=1, keepdims=True)).astype(x.dtype)

    def scores_of(found: np.ndarray) -> np.ndarray:
        scores = (found.reshape(-1, shape[2]).astype(x.dtype) @ x.T).reshape(*shape[:2], -1)
        if not is_there.all():
            scores[~is_there] = -1e9
        return scores

    def weighed(scores: np.ndarray) -> np.ndarray:
        """Scores become probabilities times weights; the logarithms of the sums of exponentials."""
        most = scores.max(axis=1)
        scores -= most[:, None]
        np.exp(scores, out=scores)
        total = scores.sum(axis=1)
        scores *= (weights / total)[:, None]
        return np.log(total) + most

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        found = flat.reshape(shape) / scale
        scores = scores_of(found)
        own = scores[:, y, cells]
        value = float((weights * (weighed(scores) - own)).sum(dtype=np.float64))
        scores[:, y, cells] -= weights
        slope = (scores.reshape(-1, len(y)) @ x).reshape(shape) + penalty * found
        return value + float((penalty * found**2).sum()) / 2, (slope / scale).ravel()

    chance = scores_of(start)
    weighed(chance)
    # About the curvature at the start, so that steps along all axes are of one size.
    curvature = (chance * (1 - chance / np.maximum(weights, 1e-30)[:, None])).sum(axis=2)
    scale = np.sqrt(curvature[..., None] * spread + penalty)
    # Nothing is learned of a label that is not there.
    scale[~is_there] = 1
    options = {"maxiter": 10_000, "maxls": 50, "gtol": tolerance, "ftol": 1e-14}
    at = minimize(loss, (start * scale).ravel(), jac=True, method="L-BFGS-B", options=options).x
    found = at.reshape(shape) / scale
    return found, scores_of(found)


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
