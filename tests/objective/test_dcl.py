from __future__ import annotations

import math

import pytest
import torch

from scssl.objective import dcl, nt_xent


def naive(z1, z2, temperature, sigma, groups=None):
    n, total = len(z1), 0.0
    unit = [row / row.norm() for row in [*z1, *z2]]
    weight = [1.0] * n
    if sigma is not None:
        near = [math.exp(float((unit[i] @ unit[i + n]).detach()) / sigma) for i in range(n)]
        weight = [2 - near[i] / (sum(near) / n) for i in range(n)]
    group, counted = [0] * 2 * n if groups is None else groups.tolist() * 2, 0
    for i in range(2 * n):
        p = (i + n) % (2 * n)
        others = [
            torch.exp(unit[i] @ unit[j] / temperature)
            for j in range(2 * n)
            if j not in (i, p) and group[j] == group[i]
        ]
        if others:
            counted += 1
            near = weight[i % n] * (unit[i] @ unit[p]) / temperature
            total = total - near + torch.log(sum(others))
    return total / counted


@pytest.mark.parametrize("sigma", [None, 0.5, 0.2])
@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_equals_the_naive_sum(views, assert_same, temperature, sigma):
    def ours(a, b):
        return dcl(a, b, temperature=temperature, sigma=sigma)

    assert_same(ours, lambda a, b: naive(a, b, temperature, sigma), *views)


@pytest.mark.parametrize("sigma", [None, 0.5])
def test_within_groups_equals_the_naive_sum(views, assert_same, sigma):
    groups = torch.arange(len(views[0])) // 2  # of an odd batch the last cell is alone

    def ours(a, b):
        return dcl(a, b, temperature=0.2, sigma=sigma, groups=groups)

    assert_same(ours, lambda a, b: naive(a, b, 0.2, sigma, groups), *views)


def test_cells_that_are_all_alone_have_no_loss_and_a_finite_gradient(views):
    leaves = [z.clone().requires_grad_() for z in views]
    loss = dcl(*leaves, groups=torch.arange(len(views[0])))
    assert loss == 0
    assert all(bool((g == 0).all()) for g in torch.autograd.grad(loss, leaves))


@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_equals_lightly(views, assert_same, temperature):
    loss = pytest.importorskip("lightly.loss").DCLLoss(temperature=temperature)
    assert_same(lambda a, b: dcl(a, b, temperature=temperature), loss, *views)


# lightly makes a tensor of its weights, which are one already.
@pytest.mark.filterwarnings("ignore:To copy construct from a tensor:UserWarning")
@pytest.mark.parametrize("sigma", [0.5, 0.2])
def test_weighted_equals_lightly(views, assert_same, sigma):
    loss = pytest.importorskip("lightly.loss").DCLWLoss(temperature=0.1, sigma=sigma)
    assert_same(lambda a, b: dcl(a, b, sigma=sigma), loss, *views)


def test_default_temperature(views):
    assert dcl(*views) == dcl(*views, temperature=0.1)


def test_is_nt_xent_without_the_positive_in_the_denominator():
    # Equal embeddings: 2B - 2 logits of the positive's size instead of 2B - 1.
    z = torch.ones(6, 4)
    assert dcl(z, z).item() == pytest.approx(math.log(10), abs=1e-5)
    assert nt_xent(z, z).item() == pytest.approx(math.log(11), abs=1e-5)


def test_weights_are_one_where_all_views_are_equally_near(views):
    a, b = views
    torch.testing.assert_close(dcl(a, 2 * a, sigma=0.1), dcl(a, a))
    assert not torch.isclose(dcl(a, b, sigma=0.1), dcl(a, b))


def test_cells_whose_views_differ_weigh_more():
    a = torch.eye(4)
    b = a.clone()
    b[0] = a[1] + a[2]
    z = b.clone().requires_grad_()
    # With the same negatives for both, what differs is the weight of the positive.
    plain, weighted = (torch.autograd.grad(dcl(z, a, sigma=s), z)[0][0, 0] for s in (None, 0.5))
    assert weighted < plain < 0


def test_needs_two_cells():
    with pytest.raises(ValueError, match="needs at least 2; `z1` has 1.*`drop_last`"):
        dcl(torch.randn(1, 3), torch.randn(1, 3))


def test_sigma_must_be_positive(views):
    with pytest.raises(ValueError, match="`sigma` must be a positive number, found 0"):
        dcl(*views, sigma=0)
