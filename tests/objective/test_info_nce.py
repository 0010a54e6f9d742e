from __future__ import annotations

import math

import pytest
import torch

from scssl.nn import MemoryBank
from scssl.objective import info_nce


def naive(query, key, negatives, temperature):
    query, key, negatives = ([row / row.norm() for row in z] for z in (query, key, negatives))
    total = 0.0
    for q, k in zip(query, key, strict=True):
        positive = torch.exp(q @ k / temperature)
        others = sum(torch.exp(q @ n / temperature) for n in negatives)
        total = total - torch.log(positive / (positive + others))
    return total / len(query)


@pytest.fixture
def negatives(shape):
    generator = torch.Generator().manual_seed(7)
    return torch.randn(20, shape[1], generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("temperature", [0.07, 0.5])
def test_equals_the_naive_sum(views, negatives, assert_same, temperature):
    def ours(*tensors):
        return info_nce(*tensors, temperature=temperature)

    assert_same(ours, lambda *z: naive(*z, temperature), *views, negatives)


@pytest.mark.parametrize("temperature", [0.07, 0.5])
def test_equals_lightly(views, negatives, assert_same, temperature):
    loss = pytest.importorskip("lightly.loss").NTXentLoss(
        temperature=temperature, memory_bank_size=tuple(negatives.shape)
    )
    bank = torch.nn.functional.normalize(negatives, dim=1)

    def theirs(query, key):
        # Other than ours the loss itself stores the keys, so the bank is put back.
        loss.memory_bank.bank = bank.to(query, copy=True)
        return loss(query, key)

    def ours(query, key):
        return info_nce(query, key, negatives.to(query), temperature=temperature)

    assert_same(ours, theirs, *views)


def test_equals_pytorch_metric_learning(views, negatives, assert_same):
    losses = pytest.importorskip("pytorch_metric_learning.losses")
    loss = losses.NTXentLoss(temperature=0.5)
    labels = torch.arange(len(negatives) + 1)

    def theirs(query, key):
        # One query at a time: it would take the keys of the others for negatives.
        rows = [
            loss(
                q[None],
                labels[:1],
                ref_emb=torch.cat([k[None], negatives.to(k)]),
                ref_labels=labels,
            )
            for q, k in zip(query, key, strict=True)
        ]
        return torch.stack(rows).mean()

    def ours(query, key):
        return info_nce(query, key, negatives.to(query), temperature=0.5)

    assert_same(ours, theirs, *views)


def test_of_equal_embeddings_is_the_logarithm_of_the_number_of_logits():
    one = torch.ones(3, 4)
    loss = info_nce(one, one, torch.ones(9, 4), temperature=0.5)
    assert loss.item() == pytest.approx(math.log(10))


def test_other_cells_of_the_batch_are_no_negatives():
    query, key, negatives = torch.randn(3, 6, 4)
    alone = [info_nce(q[None], k[None], negatives, temperature=0.2) for q, k in zip(query, key)]  # noqa: B905
    together = info_nce(query, key, negatives, temperature=0.2)
    torch.testing.assert_close(together, torch.stack(alone).mean())


def test_a_queue_of_the_wrong_width_is_named():
    """Public code: queue of one modality's width and queries of both, concatenated."""
    query, key = torch.randn(2, 5, 128)
    with pytest.raises(
        ValueError, match=r"\(n_negatives, 128\), as wide as `query`; found \(9, 64\)"
    ):
        info_nce(query, key, torch.randn(9, 64), temperature=0.5)


def test_keys_may_enter_the_queue_before_the_backward_pass():
    bank = MemoryBank(8, 4, rng=0)
    query, key = torch.randn(3, 4, requires_grad=True), torch.randn(3, 4)
    info_nce(query, key, bank.values.clone(), temperature=0.5).backward()
    expected = query.grad.clone()
    query.grad = None
    loss = info_nce(query, key, bank.values, temperature=0.5)
    bank.enqueue(key)
    loss.backward()
    torch.testing.assert_close(query.grad, expected, rtol=0, atol=0)
