from __future__ import annotations

import pytest
import torch
from torch.nn.functional import batch_norm

from scssl.objective import barlow_twins

EPS = 1e-5


def naive(z1, z2, redundancy):
    n, d = z1.shape

    def standardised(column):
        mean = sum(column) / n
        variance = sum((x - mean) ** 2 for x in column) / n
        return [(x - mean) / torch.sqrt(variance + EPS) for x in column]

    a, b = ([standardised(list(z[:, j])) for j in range(d)] for z in (z1, z2))
    total = 0.0
    for i in range(d):
        for j in range(d):
            c = sum(x * y for x, y in zip(a[i], b[j], strict=True)) / n
            total = total + ((1 - c) ** 2 if i == j else redundancy * c**2)
    return total


def mixed(z1, z2, redundancy):
    """Both views standardised by the statistics of both together, as public code did it."""
    both = batch_norm(torch.cat([z1, z2]), None, None, training=True)
    c = both[: len(z1)].T @ both[len(z1) :] / len(z1)
    diagonal = torch.eye(len(c), dtype=c.dtype)
    return (((c - diagonal) ** 2) * (diagonal + redundancy * (1 - diagonal))).sum()


@pytest.mark.parametrize("redundancy", [5e-3, 0.5])
def test_equals_the_naive_sum(views, assert_same, redundancy):
    def ours(a, b):
        return barlow_twins(a, b, redundancy=redundancy)

    assert_same(ours, lambda a, b: naive(a, b, redundancy), *views)


@pytest.mark.parametrize("redundancy", [5e-3, 0.5])
def test_equals_lightly(views, assert_same, redundancy):
    # From 1.6 on; before, the two views shared their statistics.
    pytest.importorskip("lightly", minversion="1.6")
    loss = pytest.importorskip("lightly.loss").BarlowTwinsLoss(lambda_param=redundancy)
    assert_same(lambda a, b: barlow_twins(a, b, redundancy=redundancy), loss, *views)


def test_each_view_has_its_own_statistics(views):
    a, b = views
    expected = barlow_twins(a, b)
    for other in (b + 3.0, 10 * b):
        # Exactly but for the small term beside the variance.
        torch.testing.assert_close(barlow_twins(a, other), expected, rtol=1e-2, atol=1e-4)
        assert mixed(a, other, 5e-3) > 1.5 * expected + 0.1


def test_default_redundancy(views):
    assert barlow_twins(*views) == barlow_twins(*views, redundancy=5e-3)


def test_of_decorrelated_views_that_agree_is_zero():
    # Columns of a Hadamard matrix: mean 0, variance 1, no correlation.
    hadamard = torch.tensor([[1.0, 1.0], [1.0, -1.0]])
    h = torch.kron(torch.kron(hadamard, hadamard), hadamard)[:, 1:].double()
    assert barlow_twins(h, h).item() == pytest.approx(0, abs=1e-8)
    assert barlow_twins(3 * h + 1, h).item() == pytest.approx(0, abs=1e-8)
    # Of no relation at all: every diagonal element lacks 1.
    assert barlow_twins(h[:, :3], h[:, 3:6]).item() == pytest.approx(3, abs=1e-8)


def test_a_dimension_without_variance_costs_one():
    z = torch.randn(20, 3)
    z[:, 1] = 2.0
    loss = barlow_twins(z, z, redundancy=0.0)
    assert loss.item() == pytest.approx(1, abs=1e-3)
