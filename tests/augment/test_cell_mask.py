"""Hiding genes of most cells, of each at a rate of its own."""

from __future__ import annotations

import pytest
import torch
from scipy import stats

from scssl.augment import CellMask
from scssl.nn import SparseRows


def cells(n, g, density=1.0, seed=0):
    rng = torch.Generator().manual_seed(seed)
    x = torch.rand(n, g, generator=rng) + 0.1
    return SparseRows.from_tensor(x * (torch.rand(n, g, generator=rng) < density))


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    ("n", "share", "expected"), [(100, 0.75, 75), (7, 0.5, 3), (1, 0.75, 1), (10, 1.0, 10)]
)
def test_as_many_cells_as_asked_for_are_masked(n, share, expected):
    x = cells(n, 2000)
    hidden = CellMask(share, 0.25).draw(x, seeded())
    masked = hidden.hidden_share.squeeze(1) > 0
    assert int(masked.sum()) == expected
    # The other cells are seen whole, and count for nothing.
    own = torch.bincount(x.rows, (~hidden.visible).double(), minlength=n)
    assert torch.equal(own > 0, masked)
    assert torch.equal(hidden.loss_weight, (~hidden.visible).float())
    assert hidden.zero_weight.shape == (n, 1)
    assert not hidden.zero_weight[~masked].any()


def test_rates_are_of_the_beta_distribution_that_is_published():
    x = cells(20_000, 1, 0.0)
    for rate, beta in ((0.25, 13.0), (0.5, 5.0)):
        share = CellMask(1.0, rate).draw(x, seeded()).hidden_share.squeeze(1).numpy()
        expected = stats.beta(5, beta)
        assert stats.kstest(share, expected.cdf).pvalue > 0.01
        # Its mode is the rate: x^4 (1 - x)^(beta - 1).
        assert 4 / (5 + beta - 2) == pytest.approx(rate)
    assert stats.beta(5, 13).mean() == pytest.approx(0.278, abs=5e-4)


def test_no_cell_is_hidden_beyond_nine_tenths():
    share = CellMask(1.0, 0.8).draw(cells(5000, 1, 0.0), seeded()).hidden_share
    assert float(share.max()) == pytest.approx(0.9)
    # It is a bound of the rates, not a scale.
    assert 0.01 < float((share == share.max()).float().mean()) < 0.5


def test_entries_are_hidden_at_the_rate_of_their_cell():
    n, g = 40, 4000
    x = cells(n, g)
    hidden = CellMask(0.75, 0.25).draw(x, seeded())
    found = torch.bincount(x.rows, (~hidden.visible).double(), minlength=n) / g
    rate = hidden.hidden_share.squeeze(1).double()
    error = (found - rate).abs() / (rate * (1 - rate) / g).clamp(min=1e-12).sqrt()
    assert float(error.max()) < 4.5
    assert torch.equal(hidden.zero_weight, hidden.hidden_share)
    # Of each gene alike: none is hidden in all cells.
    by_gene = torch.bincount(x.columns.long(), (~hidden.visible).double(), minlength=g) / n
    assert float(by_gene.max()) < 0.65


def test_zeros_count_in_expectation_as_if_drawn():
    x = cells(60, 50, 0.3)
    value = torch.randn(60, 50, generator=seeded(1)).double()
    dense = x.to_dense() != 0
    expected, found = [], []
    for seed in range(400):
        hidden = CellMask(0.75, 0.25).draw(x, seeded(seed))
        rate = hidden.hidden_share.double()
        # A dense draw with the rates of the cells, zeros and all.
        drawn = torch.rand(60, 50, generator=seeded(seed + 10_000)).double() < rate
        expected.append(float((value * drawn).sum()))
        at = value[x.rows, x.columns.long()]
        found.append(
            float((at * hidden.loss_weight).sum() + (value * ~dense * hidden.zero_weight).sum())
        )
    expected, found = torch.tensor(expected), torch.tensor(found)
    gap = (found.mean() - expected.mean()).abs()
    assert gap < 4 * (expected.var() / 400 + found.var() / 400).sqrt()
    assert found.std() < expected.std()


def test_only_eligible_cells_are_masked():
    x = cells(50, 30)
    eligible = torch.zeros(50, dtype=torch.bool)
    eligible[10:30] = True
    counts = torch.zeros(50)
    for seed in range(200):
        masked = CellMask(0.75).draw(x, seeded(seed), eligible=eligible).hidden_share.squeeze(1) > 0
        assert int(masked.sum()) == 15
        assert not masked[~eligible].any()
        counts += masked
    # Any of them, as often.
    assert 0.6 < float(counts[eligible].min() / 200)
    assert float(counts[eligible].max() / 200) < 0.9
    none = CellMask().draw(x, seeded(), eligible=torch.zeros(50, dtype=torch.bool))
    assert none.visible.all()
    assert not none.hidden_share.any()


def test_a_seed_is_a_mask():
    x = cells(30, 40)
    first, again, other = (CellMask().draw(x, seeded(seed)) for seed in (3, 3, 4))
    assert torch.equal(first.visible, again.visible)
    assert torch.equal(first.hidden_share, again.hidden_share)
    assert not torch.equal(first.visible, other.visible)
    before = torch.get_rng_state()
    CellMask().draw(x, seeded())
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0.0, 0.25), r"`mask_cells` must be a number in \(0, 1\]"),
        ((1.5, 0.25), "found 1.5"),
        ((0.5, 0.0), r"`mask_rate` must be a number in \(0, 1\)"),
        ((0.5, 1.0), "found 1.0"),
    ],
)
def test_rates_are_checked(arguments, message):
    with pytest.raises(ValueError, match=message):
        CellMask(*arguments)
