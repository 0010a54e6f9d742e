from __future__ import annotations

import math

import pytest
import torch

from scssl.objective import clip_loss

SCALE = torch.tensor(math.log(1 / 0.2), dtype=torch.float64)


def naive(z1, z2, log_scale):
    a, b = ([row / row.norm() for row in z] for z in (z1, z2))
    s, n, total = torch.exp(log_scale), len(z1), 0.0
    for i in range(n):
        row = sum(torch.exp(s * (a[i] @ b[j])) for j in range(n))
        column = sum(torch.exp(s * (a[j] @ b[i])) for j in range(n))
        own = torch.exp(s * (a[i] @ b[i]))
        total = total - torch.log(own / row) - torch.log(own / column)
    return total / (2 * n)


def test_equals_the_naive_sum_also_in_the_gradient_of_the_scale(views, assert_same):
    assert_same(clip_loss, naive, *views, SCALE)


def test_equals_pytorch_metric_learning(views, assert_same):
    losses = pytest.importorskip("pytorch_metric_learning.losses")
    loss, cells = losses.NTXentLoss(temperature=0.2), torch.arange(len(views[0]))
    # Not the same object, which would mean the same cells and leave out the pairs of a cell.
    again = cells.clone()

    def theirs(a, b):
        rows = loss(a, cells, ref_emb=b, ref_labels=again)
        columns = loss(b, cells, ref_emb=a, ref_labels=again)
        return (rows + columns) / 2

    # A constant beside the logarithm there: fewer digits agree.
    assert_same(lambda a, b: clip_loss(a, b, SCALE.to(a)), theirs, *views, rtol=1e-6)


def test_is_symmetric(views):
    a, b = views
    torch.testing.assert_close(clip_loss(a, b, SCALE), clip_loss(b, a, SCALE))


@pytest.mark.parametrize("n", [1, 4, 30])
def test_of_equal_embeddings_is_the_logarithm_of_the_number_of_cells(n):
    z = torch.ones(n, 5)
    assert clip_loss(z, z, torch.tensor(2.0)).item() == pytest.approx(math.log(n), abs=1e-6)


def test_a_modality_is_not_contrasted_with_itself():
    # All RNA profiles alike, all proteins alike and opposite: NT-Xent would see more than the
    # chance level here.
    z = torch.ones(6, 4)
    assert clip_loss(z, -z, torch.tensor(1.0)).item() == pytest.approx(math.log(6))
