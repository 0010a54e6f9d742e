from __future__ import annotations

import numpy as np
import pytest
import torch

from scssl.objective import partition_cross_entropy


def by_hand(logits, labels, sizes, weighted):
    total = 0.0
    start = 0
    for p, k in enumerate(sizes):
        part = logits[:, start : start + k].astype(np.float64)
        start += k
        loss = 0.0
        for row, label in zip(part, labels[:, p], strict=True):
            loss -= np.log(np.exp(row[label]) / np.exp(row).sum())
        loss /= len(part)
        total += loss / np.log(k) / len(sizes) if weighted else loss
    return total


@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("sizes", [[3], [2, 5], [4, 7, 2]])
def test_equals_a_loop(sizes, weighted):
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(6, sum(sizes)))
    labels = np.stack([rng.integers(0, k, 6) for k in sizes], axis=1)
    found = partition_cross_entropy(
        torch.tensor(logits), torch.tensor(labels), sizes, weighted=weighted
    )
    np.testing.assert_allclose(found, by_hand(logits, labels, sizes, weighted), rtol=1e-12)


def test_gradient():
    logits = torch.randn(4, 7, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([[0, 1], [2, 3], [1, 0], [2, 2]])
    assert torch.autograd.gradcheck(lambda x: partition_cross_entropy(x, labels, [3, 4]), (logits,))


def test_logits_are_not_squashed():
    """The published code has a sigmoid before the cross-entropy, which keeps the loss near a guess."""
    labels = torch.arange(50)[:, None]
    logits = 30 * torch.eye(50)
    assert partition_cross_entropy(logits, labels, [50]) < 0.001
    assert partition_cross_entropy(logits.sigmoid(), labels, [50]) > 0.7


def test_refuses():
    with pytest.raises(ValueError, match=r"at least 2 clusters, found \[3, 1\]"):
        partition_cross_entropy(torch.zeros(2, 4), torch.zeros(2, 2).long(), [3, 1])
    with pytest.raises(ValueError, match="2 partitions of 5 clusters do not fit"):
        partition_cross_entropy(torch.zeros(2, 4), torch.zeros(2, 2).long(), [3, 2])
