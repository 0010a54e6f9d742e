"""Masks by gene programmes: which entries are seen, which are counted, at which rates."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scssl.augment import (
    GeneProgramMask,
    GenePrograms,
    GPToGPMask,
    GPToTFMask,
    masking,
    masking_from_config,
)
from scssl.nn import SparseRows

N_GENES = 120
_RNG = np.random.default_rng(0)
# The last ten genes are in no programme; programmes overlap.
MEMBERS = [sorted(_RNG.choice(110, size, replace=False).tolist()) for size in (3, 8, 20, 5, 12, 30)]
FACTORS = [MEMBERS[0][0], 117, MEMBERS[2][5], 111, 0, 119]


@pytest.fixture
def programs():
    return GenePrograms([f"p{i}" for i in range(6)], MEMBERS, N_GENES, targets=FACTORS)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def cells(n=64, density=0.4):
    x = torch.rand(n, N_GENES, generator=seeded(1)) + 0.1
    x = x * (torch.rand(n, N_GENES, generator=seeded(2)) < density)
    return x, SparseRows.from_tensor(x)


def dense(hidden, x, rows):
    """What a draw says of all entries: seen (of the stored ones), and weight in the loss."""
    seen = torch.zeros(x.shape, dtype=torch.bool)
    seen[rows.rows, rows.columns] = hidden.visible
    weight = hidden.zero_weight.expand(x.shape).clone()
    assert torch.equal(weight[rows.rows, rows.columns], hidden.loss_weight)
    return seen, weight


def sets():
    return [set(one) for one in MEMBERS]


ALL = [
    lambda p, per: GeneProgramMask(p, 0.5, per=per),
    lambda p, per: GeneProgramMask(p, 0.3, rate_of="genes", per=per),
    lambda p, per: GPToGPMask(p, per=per),
    lambda p, per: GPToGPMask(p, hide_fraction=0.4, per=per),
    lambda p, per: GPToGPMask(p, mode="complement", per=per),
    lambda p, per: GPToTFMask(p, per=per),
]


@pytest.mark.parametrize("make", ALL)
@pytest.mark.parametrize("per", ["cell", "batch"])
def test_draws(make, per, programs):
    mask = make(programs, per)
    x, rows = cells()
    hidden = mask.draw(rows, seeded(3), indicator=True)
    seen, weight = dense(hidden, x, rows)
    assert hidden.normalizer(rows).item() == pytest.approx(weight.sum().item())
    assert torch.equal(hidden.indicator[rows.rows, rows.columns], ~hidden.visible)
    assert set(weight.unique().tolist()) <= {0.0, 1.0}
    targets = set(mask.target_genes().tolist())
    assert set(weight.any(0).nonzero().flatten().tolist()) <= targets
    same = (hidden.indicator == hidden.indicator[:1]).all().item()
    assert same == (per == "batch")
    again = mask.draw(rows, seeded(3))
    assert torch.equal(again.visible, hidden.visible)
    others = (mask.draw(rows, seeded(seed)).visible for seed in range(4, 12))
    assert not all(torch.equal(other, hidden.visible) for other in others)
    # A mask says the same after it was stored.
    copy = masking_from_config(mask.config())
    assert torch.equal(copy.draw(rows, seeded(3)).loss_weight, hidden.loss_weight)


@settings(deadline=None, max_examples=20)
@given(rate=st.floats(0.05, 0.95), seed=st.integers(0, 1000))
def test_number_of_programmes_hidden(rate, seed):
    programs = GenePrograms([str(i) for i in range(6)], MEMBERS, N_GENES)
    x, rows = cells(n=20)
    seen, weight = dense(GeneProgramMask(programs, rate).draw(rows, seeded(seed)), x, rows)
    size = max(1, round(rate * 6))
    for cell in range(20):
        hidden = set(weight[cell].nonzero().flatten().tolist())
        inside = [one for one in sets() if one <= hidden]
        assert hidden == set().union(*inside)
        # Others can lie within those that were drawn.
        assert len(inside) >= size
        assert set(seen[cell].nonzero().flatten().tolist()).isdisjoint(hidden)
        assert not hidden & set(range(110, 120))
    everything_else = (x > 0) & (weight == 0)
    assert torch.equal(seen, everything_else)


def test_each_programme_is_hidden_as_often_as_the_rate():
    programs = GenePrograms(list("abcdef"), [[i] for i in range(6)], 6)
    rows = SparseRows.from_tensor(torch.ones(20_000, 6))
    hidden = GeneProgramMask(programs, 0.5).draw(rows, seeded())
    share = hidden.zero_weight.mean(0)
    assert (share - 0.5).abs().max() < 0.02
    assert torch.equal(hidden.zero_weight.sum(1), torch.full((20_000,), 3.0))
    np.testing.assert_allclose(hidden.hidden_share.numpy(), 0.5)
    correlation = np.corrcoef(hidden.zero_weight[:-1, 0], hidden.zero_weight[1:, 0])[0, 1]
    assert abs(correlation) < 0.03


@settings(deadline=None, max_examples=20)
@given(rate=st.floats(0.02, 0.6), seed=st.integers(0, 1000))
def test_rate_of_genes_is_reached_and_no_more_than_needed(rate, seed):
    programs = GenePrograms(list("abcdef"), MEMBERS, N_GENES)
    _, rows = cells(n=30)
    mask = GeneProgramMask(programs, rate, rate_of="genes")
    hidden = mask.draw(rows, seeded(seed)).zero_weight
    possible = len(set().union(*sets())) / N_GENES
    largest = max(map(len, MEMBERS)) / N_GENES
    share = hidden.mean(1)
    assert (share >= min(rate, possible) - 1e-6).all()
    assert (share < rate + largest).all()


def test_isolated_programme(programs):
    x, rows = cells()
    seen, weight = dense(GPToGPMask(programs).draw(rows, seeded()), x, rows)
    for cell in range(len(x)):
        genes = set(weight[cell].nonzero().flatten().tolist())
        assert genes in sets()
        stored = set(x[cell].nonzero().flatten().tolist())
        assert set(seen[cell].nonzero().flatten().tolist()) == genes & stored


def test_part_of_a_programme_hidden(programs):
    x, rows = cells(n=4000, density=1.0)
    seen, weight = dense(GPToGPMask(programs, hide_fraction=0.3).draw(rows, seeded()), x, rows)
    assert not (seen & (weight > 0)).any()
    both = seen | (weight > 0)
    inside = [set(row.nonzero().flatten().tolist()) for row in both[:50]]
    assert all(one in sets() for one in inside)
    assert weight.sum().item() / both.sum().item() == pytest.approx(0.3, abs=0.01)


def test_complement(programs):
    x, rows = cells()
    seen, weight = dense(GPToGPMask(programs, mode="complement").draw(rows, seeded()), x, rows)
    assert torch.equal(seen, (x > 0) & (weight == 0))
    assert all(set(row.nonzero().flatten().tolist()) in sets() for row in weight)


def test_a_factor_never_sees_itself(programs):
    x, rows = cells(n=500, density=1.0)
    seen, weight = dense(GPToTFMask(programs).draw(rows, seeded()), x, rows)
    assert torch.equal(weight.sum(1), torch.ones(500))
    factor = weight.argmax(1)
    assert set(factor.tolist()) == set(FACTORS)
    assert not seen[torch.arange(500), factor].any()
    for cell in range(500):
        expected = [set(MEMBERS[i]) - {f} for i, f in enumerate(FACTORS) if f == factor[cell]]
        assert set(seen[cell].nonzero().flatten().tolist()) in expected


def test_cover_is_the_union(programs):
    drawn = torch.rand(40, 6, generator=seeded()) < 0.4
    covered = programs.cover(drawn)
    for row, genes in zip(drawn, covered, strict=True):
        expected = set().union(*(sets()[i] for i in row.nonzero().flatten().tolist()))
        assert set(genes.nonzero().flatten().tolist()) == expected
    one = programs.of(torch.tensor([2, 0, 2]))
    assert [set(row.nonzero().flatten().tolist()) for row in one] == [sets()[i] for i in (2, 0, 2)]


def test_stored_and_read_again(programs):
    again = GenePrograms.from_dict(programs.to_dict())
    assert again.names == programs.names
    assert again.members() == MEMBERS
    assert again.targets.tolist() == FACTORS


def test_bad_input(programs):
    with pytest.raises(ValueError, match="programme 'b' has no gene"):
        GenePrograms(["a", "b"], [[1], []], 5)
    with pytest.raises(ValueError, match="0 to 4"):
        GenePrograms(["a"], [[5]], 5)
    with pytest.raises(ValueError, match="at least one"):
        GenePrograms([], [], 5)
    with pytest.raises(ValueError, match="positions among 120 genes, the batch has 7"):
        GeneProgramMask(programs).draw(SparseRows.from_tensor(torch.ones(2, 7)), seeded())
    with pytest.raises(ValueError, match="pp.tf_targets"):
        GPToTFMask(GenePrograms(["a"], [[1]], 5))
    with pytest.raises(ValueError, match="hide_fraction"):
        GPToGPMask(programs, hide_fraction=0.5, mode="complement")
    with pytest.raises(ValueError, match="has no `mask_rate`"):
        masking("gp_to_gp", rate=0.5, programs=programs)
    with pytest.raises(ValueError, match="needs gene programmes"):
        masking("gene_program")
    with pytest.raises(ValueError, match="does not have the option"):
        masking("gene_program", programs=programs, mode="complement")
    with pytest.raises(TypeError, match="must be scssl.augment.GenePrograms"):
        GeneProgramMask([[1, 2]])
    with pytest.raises(ValueError, match="'cell' or 'batch'"):
        GeneProgramMask(programs, per="gene")
