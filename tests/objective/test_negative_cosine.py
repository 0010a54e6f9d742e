from __future__ import annotations

import pytest
import torch
from torch.nn.functional import normalize

from scssl.objective import negative_cosine


def naive(p, z):
    terms = [(a @ b) / (a.norm() * b.norm()) for a, b in zip(p, z, strict=True)]
    return -sum(terms) / len(terms)


def test_equals_the_naive_sum(views, assert_same):
    assert_same(negative_cosine, naive, *views)


def test_equals_lightly(views, assert_same):
    loss = pytest.importorskip("lightly.loss").NegativeCosineSimilarity()
    assert_same(negative_cosine, loss, *views)


def test_equals_pytorch_metric_learning(views, assert_same):
    distances = pytest.importorskip("pytorch_metric_learning.distances")
    cosine = distances.CosineSimilarity()
    assert_same(negative_cosine, lambda p, z: -cosine(p, z).diagonal().mean(), *views)


def test_is_the_squared_distance_of_byol(views, assert_same):
    def byol(p, z):
        return ((normalize(p, dim=1) - normalize(z, dim=1)).square().sum(1).mean() - 2) / 2

    assert_same(negative_cosine, byol, *views)


def test_the_gradient_stops_where_the_caller_stops_it(views):
    p, z = (view.requires_grad_() for view in views)
    negative_cosine(p, z.detach()).backward()
    assert z.grad is None
    # The length of a prediction changes nothing: no gradient along itself.
    torch.testing.assert_close((p.grad * p).sum(1), torch.zeros(len(p), dtype=p.dtype))


@pytest.mark.parametrize(("factor", "expected"), [(2.0, -1.0), (-1.0, 1.0)])
def test_of_parallel_vectors(views, factor, expected):
    assert negative_cosine(views[0], factor * views[0]).item() == pytest.approx(expected)
