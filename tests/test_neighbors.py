"""Search for nearest cells against all distances."""

from __future__ import annotations

import numpy as np
import pytest

from scssl._neighbors import Index


@pytest.fixture(scope="module")
def cells():
    """12,000 cells of a reference and 300 others, twelve clusters in 30 dimensions."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(12, 30)) * 2
    kinds = rng.integers(0, 12, 12_300)
    values = (centres[kinds] + rng.normal(size=(12_300, 30))).astype(np.float32)
    return values[:12_000], values[12_000:]


def recall(found, reference, query, k, own=False):
    squares = (reference**2).sum(1)
    hits = []
    for i, one in enumerate(query):
        distance = squares - 2 * reference @ one
        if own:
            distance[i] = np.inf
        nearest = np.argpartition(distance, k)[:k]
        hits.append(np.isin(found[i], nearest).mean())
    return float(np.mean(hits))


@pytest.mark.slow
def test_approximate_search_finds_nearly_all(cells):
    """Of few neighbours too, of which pynndescent alone finds five in six. Slow: it compiles."""
    reference, query = cells
    index = Index(reference, exact=False, seed=0)
    for k in (1, 5, 15):
        distances, found = index.query(query, k)
        assert found.shape == distances.shape == (300, k)
        assert recall(found, reference, query, k) > 0.98
        assert (np.diff(distances, axis=1) >= 0).all()
        expected = np.linalg.norm(reference[found] - query[:, None], axis=2)
        np.testing.assert_allclose(distances, expected, rtol=1e-5)
    distances, own = index.own(5)
    assert recall(own[:300], reference, reference[:300], 5, own=True) > 0.98
    assert (own != np.arange(len(own))[:, None]).all()
    again = Index(reference, exact=False, seed=0).own(5)
    np.testing.assert_array_equal(again[1], own, "a function of the seed")
    np.testing.assert_array_equal(again[0], distances)


def test_more_is_not_searched_for_than_there_is():
    values = np.random.default_rng(1).normal(size=(20, 3)).astype(np.float32)
    exact = Index(values, exact=True, seed=0).query(values[:4], 3)
    asked = []

    class Search:
        def query(self, some, k):
            asked.append(k)
            return np.argsort(((some[:, None] - values) ** 2).sum(2), axis=1)[:, :k], None

    index = Index(values, exact=False, seed=0)
    index._searches[30] = Search()
    for one, other in zip(index.query(values[:4], 3), exact, strict=True):
        np.testing.assert_array_equal(one, other)
    assert asked == [20]
