from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scssl.augment import Masking, RandomMask, masking
from scssl.nn import SparseRows


def cells(n=200, g=300, density=0.3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(n, g, generator=generator) + 0.1
    return x * (torch.rand(n, g, generator=generator) < density)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


@settings(deadline=None, max_examples=20)
@given(rate=st.floats(0.05, 0.95), seed=st.integers(0, 10_000))
def test_share_hidden_is_the_rate(rate, seed):
    x = SparseRows.from_tensor(cells())
    hidden = RandomMask(rate).draw(x, seeded(seed))
    n = x.n_stored
    assert abs(hidden.loss_weight.mean().item() - rate) < 5 * np.sqrt(rate * (1 - rate) / n)
    assert hidden.normalizer(x).item() == pytest.approx(rate * x.n_cells * x.n_genes, rel=0.05)


def test_what_is_hidden_is_what_counts():
    x = SparseRows.from_tensor(cells())
    hidden = RandomMask(0.4).draw(x, seeded(1))
    assert torch.equal(hidden.visible, hidden.loss_weight == 0)


def test_cells_and_steps_are_independent():
    x = SparseRows.from_tensor(torch.ones(2, 5000))
    rng = seeded(0)
    first = RandomMask(0.5).draw(x, rng).visible.view(2, -1).float()
    second = RandomMask(0.5).draw(x, rng).visible.view(2, -1).float()
    for a, b in ((first[0], first[1]), (first[0], second[0])):
        assert abs(np.corrcoef(a, b)[0, 1]) < 0.06


def test_same_seed_same_mask():
    x = SparseRows.from_tensor(cells())
    a, b = (RandomMask(0.5).draw(x, seeded(7)) for _ in range(2))
    assert torch.equal(a.visible, b.visible)


def test_indicator_agrees_with_the_mask():
    dense = cells()
    x = SparseRows.from_tensor(dense)
    hidden = RandomMask(0.3).draw(x, seeded(3), indicator=True)
    assert torch.equal(hidden.indicator[x.rows, x.columns], ~hidden.visible)
    assert hidden.normalizer(x).item() == hidden.indicator.sum().item()


@pytest.mark.parametrize("rate", [0, 1, -0.5, 1.5])
def test_impossible_rates(rate):
    with pytest.raises(ValueError, match=r"in \(0, 1\)"):
        RandomMask(rate)


def test_by_name():
    assert masking("random", rate=0.2).rate == 0.2
    own = RandomMask(0.1)
    assert masking(own) is own
    assert masking("random").rate == 0.5
    with pytest.raises(ValueError, match="give its arguments there"):
        masking(own, rate=0.9)
    with pytest.raises(ValueError, match="`masking` must be 'random'"):
        masking("gene_programme", rate=0.5)
    assert isinstance(own, Masking)
