"""A mixture of Gaussians that share one covariance."""

from __future__ import annotations

import numpy as np
from scipy.linalg import cho_factor, cho_solve

# Mean log-likelihood of a row, in nats, by which a step has to move it for another one to follow.
_TOLERANCE = 1e-3


def tied_mixture(
    values: np.ndarray, n: int, *, n_init: int, least_variance: float, max_iter: int, seed: int
) -> np.ndarray:
    r"""Probability of each of `n` components for each row of `values`, by the likeliest of `n_init` runs.

    It is the expectation maximisation of :class:`sklearn.mixture.GaussianMixture` with
    ``covariance_type="tied"``, from the same starts. With one :math:`\Sigma` for all components,
    :math:`x^\top \Sigma^{-1} x` is the same in each: in the probabilities it cancels, and its mean
    over the rows is the trace of :math:`\Sigma^{-1} X^\top X / N`. What is left is linear in
    :math:`x`, and a step takes a product with `n` vectors in place of one with `n` matrices.
    """
    from sklearn.cluster import KMeans

    second_moments = values.T @ values / len(values)
    floor = least_variance * np.eye(values.shape[1])

    def step(probabilities: np.ndarray) -> tuple[np.ndarray, float]:
        """Parameters by the probabilities; probabilities by these, and how likely the rows are."""
        # As in scikit-learn: without any rows a component is a point of no weight and no error.
        sizes = probabilities.sum(axis=0) + 10 * np.finfo(np.float64).eps
        means = probabilities.T @ values / sizes[:, None]
        covariance = second_moments - (sizes * means.T) @ means / sizes.sum() + floor
        factor = cho_factor(covariance, lower=True)
        axes = cho_solve(factor, means.T)
        scores = values @ axes - (means.T * axes).sum(axis=0) / 2 + np.log(sizes / sizes.sum())
        largest = scores.max(axis=1, keepdims=True)
        weights = np.exp(scores - largest)
        totals = weights.sum(axis=1, keepdims=True)
        # But for the power of 2 pi, which no parameter changes.
        likelihood = (largest + np.log(totals)).mean() - np.log(np.diagonal(factor[0])).sum()
        likelihood -= np.trace(cho_solve(factor, second_moments)) / 2
        return weights / totals, float(likelihood)

    random = np.random.RandomState(seed)
    runs = []
    for _ in range(n_init):
        start = KMeans(n, n_init=1, random_state=random).fit(values).labels_
        probabilities, likelihood = step(np.eye(n)[start])
        for _ in range(max_iter - 1):
            before = likelihood
            probabilities, likelihood = step(probabilities)
            if abs(likelihood - before) < _TOLERANCE:
                break
        runs.append((likelihood, probabilities))
    _, likeliest = max(runs, key=lambda run: run[0])
    return step(likeliest)[0]
