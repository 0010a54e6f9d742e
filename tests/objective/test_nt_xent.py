from __future__ import annotations

import math

import pytest
import torch

from scssl.nn import MemoryBank
from scssl.objective import nt_xent, supcon


def naive(z1, z2, temperature, groups=None):
    """The sum of the paper, term by term."""
    unit = [row / row.norm() for row in [*z1, *z2]]
    n, total = len(unit), 0.0
    group = [0] * n if groups is None else groups.tolist() * 2
    for i in range(n):
        beside = [j for j in range(n) if j != i and group[j] == group[i]]
        assert len(beside) == group.count(group[i]) - 1
        others = [torch.exp(unit[i] @ unit[j] / temperature) for j in beside]
        positive = torch.exp(unit[i] @ unit[(i + n // 2) % n] / temperature)
        total = total - torch.log(positive / sum(others))
    return total / n


@pytest.mark.parametrize("temperature", [0.1, 0.5, 1.0])
def test_equals_the_naive_sum(views, assert_same, temperature):
    def ours(a, b):
        return nt_xent(a, b, temperature=temperature)

    assert_same(ours, lambda a, b: naive(a, b, temperature), *views)


@pytest.mark.parametrize("temperature", [0.02, 0.3])
def test_within_groups_equals_the_naive_sum(views, assert_same, temperature):
    groups = torch.arange(len(views[0])) // 2 % 3

    def ours(a, b):
        return nt_xent(a, b, temperature=temperature, groups=groups)

    def theirs(a, b):
        return naive(a.double(), b.double(), temperature, groups).to(a)

    assert_same(ours, theirs, *views, single=temperature > 0.1)


def test_a_cell_that_is_alone_in_its_group_is_told_apart_from_none(views):
    alone = torch.arange(len(views[0]))
    leaves = [z.clone().requires_grad_() for z in views]
    loss = nt_xent(*leaves, groups=alone)
    assert loss.item() == pytest.approx(0, abs=1e-12)
    for gradient in torch.autograd.grad(loss, leaves):
        torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-12)
    torch.testing.assert_close(nt_xent(*views, groups=alone * 0), nt_xent(*views))
    with pytest.raises(ValueError, match=r"`groups` must be of shape \(n_cells,\), here"):
        nt_xent(*views, groups=alone[1:])


def test_gradient_is_checked_numerically(views):
    leaves = [z.clone().requires_grad_() for z in views]
    assert torch.autograd.gradcheck(lambda a, b: 3 * nt_xent(a, b, temperature=0.3), leaves)


@pytest.mark.parametrize("temperature", [0.005, 0.0249, 0.025, 0.05])
def test_low_temperatures_lose_no_digits_in_single_precision(temperature):
    """Where no negative is near, every term of the sum is next to nothing."""
    z = torch.cat([torch.eye(3), -torch.eye(3)])[[0, 3]]
    near = z + 0.01 * torch.randn(2, 3, generator=torch.Generator().manual_seed(0))
    results = []
    for dtype in (torch.double, torch.float):
        # The positive is the worst there is, and the negative no better.
        leaves = [part.to(dtype).clone().requires_grad_() for part in (z, -near)]
        loss = nt_xent(*leaves, temperature=temperature)
        results.append([loss.detach(), *torch.autograd.grad(loss, leaves)])
    for precise, single in zip(*results, strict=True):
        assert torch.isfinite(single).all()
        torch.testing.assert_close(single.double(), precise, rtol=1e-4, atol=1e-3)


def test_embeddings_without_length_have_finite_gradients():
    z = torch.zeros(4, 3, requires_grad=True)
    (gradient,) = torch.autograd.grad(nt_xent(z, torch.randn(4, 3)), z)
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_equals_lightly(views, assert_same, temperature):
    loss = pytest.importorskip("lightly.loss").NTXentLoss(temperature=temperature)
    assert_same(lambda a, b: nt_xent(a, b, temperature=temperature), loss, *views)


@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_equals_pytorch_metric_learning(views, assert_same, temperature):
    losses = pytest.importorskip("pytorch_metric_learning.losses")
    loss, cells = losses.NTXentLoss(temperature=temperature), torch.arange(len(views[0])).repeat(2)

    def theirs(a, b):
        return loss(torch.cat([a, b]), cells)

    assert_same(lambda a, b: nt_xent(a, b, temperature=temperature), theirs, *views)


def test_is_the_supervised_loss_with_a_class_for_each_cell(views):
    a, b = (z.float() for z in views)
    expected = supcon(torch.cat([a, b]), torch.arange(len(a)).repeat(2), temperature=0.5)
    torch.testing.assert_close(nt_xent(a, b), expected)


@pytest.mark.parametrize("n", [1, 2, 7, 64])
def test_of_equal_embeddings_is_the_logarithm_of_the_number_of_logits(n):
    z = torch.ones(n, 5)
    assert nt_xent(z, z).item() == pytest.approx(math.log(2 * n - 1), abs=1e-6)


def test_neither_length_nor_the_order_of_views_nor_that_of_cells_matters(views):
    a, b = views
    order = torch.randperm(len(a))
    scale = torch.rand(len(a), 1, dtype=a.dtype) + 0.5
    for other in (nt_xent(b, a), nt_xent(a * scale, 3 * b), nt_xent(a[order], b[order])):
        torch.testing.assert_close(other, nt_xent(a, b))


def test_default_temperature(views):
    assert nt_xent(*views) == nt_xent(*views, temperature=0.5)


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
def test_temperature_must_be_positive(temperature):
    with pytest.raises(ValueError, match=r"`temperature` must be a positive number, found"):
        nt_xent(torch.randn(2, 2), torch.randn(2, 2), temperature=temperature)


def test_nnclr_equals_lightly(views, assert_same):
    """NNCLR: neighbours of each view in the bank against the predictions of the other view."""
    modules = pytest.importorskip("lightly.models.modules")
    loss = pytest.importorskip("lightly.loss").NTXentLoss(temperature=0.5)
    z1, z2 = views
    p1, p2 = (z.roll(1, 1) + 0.1 for z in views)
    dim = z1.shape[1]
    bank, theirs = MemoryBank(40, dim, rng=3).double(), modules.NNMemoryBankModule(size=(40, dim))
    theirs = theirs.double()
    theirs.bank.copy_(bank.values)

    def ours(a, b):
        return (nt_xent(bank.nearest(z1).to(b), b) + nt_xent(bank.nearest(z2).to(a), a)) / 2

    def lightly(a, b):
        return 0.5 * (loss(theirs(z1).to(b), b) + loss(theirs(z2).to(a), a))

    assert_same(ours, lightly, p1, p2)
    # lightly stores embeddings of any length and scales them in the loss, ours are of length 1. It
    # also drops what does not fit behind the end of the ring, so batches here do not reach it.
    for _ in range(2):
        if 2 * len(z1) < 40:
            theirs(z2, update=True)
            bank.enqueue(z2)
    assert_same(ours, lightly, p1, p2)
