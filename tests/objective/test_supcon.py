from __future__ import annotations

import math
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scssl.objective import supcon


def naive(z, labels, temperature):
    """The sum of the paper, term by term, on lists of scalars."""
    total, anchors = 0.0, 0
    unit = [row / row.norm() for row in z]
    for i in range(len(z)):
        positives = [p for p in range(len(z)) if p != i and labels[p] == labels[i]]
        if not positives:
            continue
        others = sum(torch.exp(unit[i] @ unit[a] / temperature) for a in range(len(z)) if a != i)
        terms = [torch.log(torch.exp(unit[i] @ unit[p] / temperature) / others) for p in positives]
        total = total - sum(terms) / len(positives)
        anchors += 1
    return total / anchors


@settings(deadline=None, max_examples=40)
@given(
    n=st.integers(2, 9),
    n_classes=st.integers(1, 4),
    temperature=st.sampled_from([0.1, 0.5, 1.0]),
    seed=st.integers(0, 1000),
)
def test_equals_the_naive_sum(n, n_classes, temperature, seed):
    rng = np.random.default_rng(seed)
    labels = torch.from_numpy(rng.integers(0, n_classes, n))
    if labels.bincount().max() < 2:
        labels[:2] = 0
    values = torch.from_numpy(rng.standard_normal((n, 5)))
    a = values.float().requires_grad_()
    b = values.double().requires_grad_()
    loss, expected = supcon(a, labels, temperature=temperature), naive(b, labels, temperature)
    loss.backward()
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4, abs=1e-5)
    np.testing.assert_allclose(a.grad, b.grad.float(), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("temperature", [0.07, 0.1, 0.5])
@pytest.mark.parametrize("kinds", [[0, 1], [0, 0, 1], [0, 1, 2, 2, 1, 0, 3]])
def test_equals_pytorch_metric_learning(assert_same, kinds, temperature):
    losses = pytest.importorskip("pytorch_metric_learning.losses")
    loss, labels = losses.SupConLoss(temperature=temperature), torch.tensor(kinds).repeat(3)[:-1]
    generator = torch.Generator().manual_seed(len(kinds))
    z = torch.randn(len(labels), 6, generator=generator, dtype=torch.float64) * 2 + 0.3

    def ours(x):
        return supcon(x, labels, temperature=temperature)

    assert_same(ours, lambda x: loss(x, labels), z)


def test_by_hand():
    # Two cells alike, one at right angles: -log(e / (e + 1)) for each of the two anchors.
    z = torch.tensor([[2.0, 0.0], [1.0, 0.0], [0.0, 3.0]])
    loss = supcon(z, torch.tensor([0, 0, 1]), temperature=1.0)
    assert loss.item() == pytest.approx(math.log(1 + math.exp(-1)))


def test_length_makes_no_difference():
    z, labels = torch.randn(6, 4), torch.tensor([0, 0, 1, 1, 2, 2])
    scale = torch.rand(6, 1) + 0.5
    torch.testing.assert_close(supcon(z, labels), supcon(z * scale, labels))


@pytest.mark.parametrize("labels", [[0, 1, 2], [0]])
def test_without_positives_it_is_zero(labels):
    z = torch.randn(len(labels), 4, requires_grad=True)
    loss = supcon(z, torch.tensor(labels))
    loss.backward()
    assert loss.item() == 0
    assert (z.grad == 0).all()


def test_a_cell_alone_in_its_class_is_no_anchor_but_pushes():
    z = torch.randn(3, 4)
    loss = supcon(z, torch.tensor([0, 0, 1]))
    assert loss > supcon(z[:2], torch.tensor([0, 0]))
    assert supcon(z[:2], torch.tensor([0, 0])).item() == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("temperature", [0, 0.0, -1.0, float("nan")])
def test_temperature_must_be_positive(temperature):
    with pytest.raises(ValueError, match=r"`temperature` must be a positive number, found"):
        supcon(torch.randn(4, 3), torch.tensor([0, 0, 1, 1]), temperature=temperature)


def test_default_temperature():
    z, labels = torch.randn(6, 4), torch.tensor([0, 0, 1, 1, 2, 2])
    assert supcon(z, labels) == supcon(z, labels, temperature=0.1)


@pytest.mark.parametrize(
    ("z", "labels"), [((4, 3), (3,)), ((4, 3), (5,)), ((4, 3), (4, 1)), ((4,), (4,)), ((4, 3), ())]
)
def test_one_label_for_each_cell(z, labels):
    message = re.escape(f"found {z} and {labels}.")
    with pytest.raises(ValueError, match=message):
        supcon(torch.randn(z), torch.zeros(labels, dtype=torch.int64))


def test_cells_without_a_label_are_refused():
    z, labels = torch.randn(5, 3), torch.tensor([0.0, torch.nan, 0.0, 1.0, torch.nan])
    with pytest.raises(ValueError, match="`labels` has 2 NaN of 5") as caught:
        supcon(z, labels)
    left = {"z": z, "labels": labels}
    exec(str(caught.value).split("`")[-2], left)
    assert supcon(left["z"], left["labels"]) == supcon(z[[0, 2, 3]], torch.tensor([0, 0, 1]))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_is_at_least_of_single_precision(dtype):
    z = torch.randn(6, 4, generator=torch.Generator().manual_seed(2)).to(dtype)
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    loss = supcon(z, labels)
    assert loss.dtype == torch.promote_types(dtype, torch.float32)
    exact = naive(z.double(), labels, 0.1).item()
    digits = 1e-12 if dtype == torch.float64 else 1e-5
    assert loss.item() == pytest.approx(exact, rel=digits)
