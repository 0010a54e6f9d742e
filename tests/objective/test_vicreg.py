from __future__ import annotations

import math

import pytest
import torch

from scssl.objective import vicreg

WEIGHTS = [
    {"invariance": 25.0, "variance": 25.0, "covariance": 1.0},
    {"invariance": 5.0, "variance": 2.0, "covariance": 3.0},
]


def naive(z1, z2, invariance, variance, covariance, eps=1e-4):
    n, d = z1.shape
    distance = sum((z1[b, j] - z2[b, j]) ** 2 for b in range(n) for j in range(d)) / (n * d)
    shortfall, redundancy = 0.0, 0.0
    for z in (z1, z2):
        centred = [z[:, j] - sum(z[:, j]) / n for j in range(d)]
        for i in range(d):
            for j in range(d):
                c = sum(x * y for x, y in zip(centred[i], centred[j], strict=True)) / (n - 1)
                if i == j:
                    shortfall = shortfall + (1 - torch.sqrt(c + eps)).clamp(min=0) / d
                else:
                    redundancy = redundancy + c**2 / d
    return invariance * distance + variance * shortfall / 2 + covariance * redundancy


@pytest.mark.parametrize("weights", WEIGHTS)
def test_equals_the_naive_sum(views, assert_same, weights):
    def ours(a, b):
        return vicreg(a, b, **weights)

    assert_same(ours, lambda a, b: naive(a, b, **weights), *views)


@pytest.mark.parametrize("weights", WEIGHTS)
def test_equals_lightly(views, assert_same, weights):
    loss = pytest.importorskip("lightly.loss").VICRegLoss(
        weights["invariance"], weights["variance"], weights["covariance"]
    )
    assert_same(lambda a, b: vicreg(a, b, **weights), loss, *views)


@pytest.mark.parametrize("weights", WEIGHTS)
def test_equals_pytorch_metric_learning(views, assert_same, weights):
    losses = pytest.importorskip("pytorch_metric_learning.losses")
    loss = losses.VICRegLoss(weights["invariance"], weights["variance"], weights["covariance"])

    def theirs(a, b):
        return loss(a, ref_emb=b)

    assert_same(lambda a, b: vicreg(a, b, **weights), theirs, *views)


def test_defaults(views):
    assert vicreg(*views) == vicreg(*views, **WEIGHTS[0], eps=1e-4)


@pytest.mark.parametrize("eps", [1e-4, 1e-2])
def test_of_views_that_collapsed_is_the_variance_term(eps):
    z = torch.full((9, 5), 3.0).requires_grad_()
    loss = vicreg(z, z.detach().clone(), variance=7.0, eps=eps)
    assert loss.item() == pytest.approx(7 * (1 - math.sqrt(eps)), rel=1e-6)
    loss.backward()
    assert torch.isfinite(z.grad).all()


def test_of_decorrelated_views_of_unit_spread_is_zero():
    hadamard = torch.tensor([[1.0, 1.0], [1.0, -1.0]])
    h = torch.kron(torch.kron(hadamard, hadamard), hadamard)[:, 1:]
    assert vicreg(h, h).item() == pytest.approx(0, abs=1e-10)
    # Shifting one view costs the squared distance only.
    assert vicreg(h, h + 2, invariance=1.5).item() == pytest.approx(6, rel=1e-6)


def test_covariance_of_views_that_line_up():
    # Both dimensions are +-1 alike: unbiased covariance 4 / 3, two off-diagonal elements of two
    # dimensions in each view.
    z = torch.tensor([[1.0, 1.0], [-1.0, -1.0], [1.0, 1.0], [-1.0, -1.0]])
    assert vicreg(z, z, covariance=1.0).item() == pytest.approx(2 * 16 / 9, rel=1e-5)
