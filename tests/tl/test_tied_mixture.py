"""The mixture with one covariance is that of scikit-learn, by less work."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from sklearn.mixture import GaussianMixture

from scssl.tl._tied_mixture import tied_mixture


def blobs(n=400, distance=2.0, seed=0):
    """Four groups that overlap, in eight correlated dimensions."""
    generator = np.random.default_rng(seed)
    centres = distance * generator.normal(size=(4, 8))
    shape = generator.normal(size=(8, 8))
    return centres[generator.integers(4, size=n)] + generator.normal(size=(n, 8)) @ shape / 2 + 1


@pytest.mark.parametrize("n", [1, 3, 4, 9])
@pytest.mark.parametrize("n_init", [1, 4])
@pytest.mark.parametrize("max_iter", [3, 200])
def test_it_is_the_mixture_of_scikit_learn(n, n_init, max_iter):
    values = blobs()
    theirs = GaussianMixture(
        n, covariance_type="tied", n_init=n_init, reg_covar=0.01, max_iter=max_iter, random_state=5
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # three steps are too few, on purpose
        expected = theirs.fit(values).predict_proba(values)
    found = tied_mixture(values, n, n_init=n_init, least_variance=0.01, max_iter=max_iter, seed=5)
    # Which rows are together, since of runs that are the same but for the order either may be kept.
    np.testing.assert_allclose(found @ found.T, expected @ expected.T, atol=1e-8)


def test_the_likeliest_of_several_runs_is_kept():
    values = blobs(distance=0.7)
    options = {"least_variance": 1e-4, "max_iter": 200, "seed": 1}
    one, eight = (tied_mixture(values, 6, n_init=n_init, **options) for n_init in (1, 8))
    likelihoods = [
        GaussianMixture(
            6, covariance_type="tied", n_init=n_init, reg_covar=1e-4, max_iter=200, random_state=1
        )
        .fit(values)
        .lower_bound_
        for n_init in (1, 8)
    ]
    assert likelihoods[1] > likelihoods[0] + 1e-3, "the first start is the best: choose others"
    assert np.abs(eight @ eight.T - one @ one.T).max() > 0.1
