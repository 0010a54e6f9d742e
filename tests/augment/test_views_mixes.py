"""Augmentations that exchange and mix: genes, cells and neighbours."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from scssl.augment import (
    Compose,
    CrossOver,
    GeneSwap,
    Mask,
    MutualNeighborMix,
    NeighborMix,
    RandomApply,
    ViewContext,
    two_views,
)
from scssl.nn import SparseRows

CONTEXT = ViewContext()
kinds = pytest.mark.parametrize("kind", ["sparse", "dense"])


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def dense(x):
    return x.to_dense() if isinstance(x, SparseRows) else x


def as_given(x, kind):
    return SparseRows.from_tensor(x) if kind == "sparse" else x


def distinct(n, g):
    """Values that tell from which cell and gene they are."""
    return 1 + torch.arange(n * g, dtype=torch.float32).view(n, g)


def partners(view, n, g):
    """Gene whose value each gene has now."""
    return (view - 1).long() - g * torch.arange(n)[:, None]


@settings(deadline=None, max_examples=60)
@given(
    rate=st.floats(0.01, 1),
    seed=st.integers(0, 10_000),
    g=st.sampled_from([1, 2, 3, 4, 5, 6, 7, 50, 51]),
    kind=st.sampled_from(["sparse", "dense"]),
)
def test_swap_exchanges_disjoint_pairs(rate, seed, g, kind):
    # The public code draws pairs with replacement: values get lost.
    x = distinct(8, g)
    given = as_given(x, kind)
    found = GeneSwap(rate, p=1)(given, seeded(seed), CONTEXT)
    assert type(found) is type(given)
    view = dense(found)
    assert torch.equal(view.sort(1).values, x)
    # Where gene g has h's value, h has g's.
    partner = partners(view, 8, g)
    assert torch.equal(partner.gather(1, partner), torch.arange(g).expand(8, -1))
    assert torch.equal(dense(given), distinct(8, g))


@kinds
@pytest.mark.parametrize("g", [1000, 1001])
@pytest.mark.parametrize("rate", [0.1, 0.3, 1.0])
def test_swap_rate_is_the_share_of_genes_that_move(kind, g, rate):
    x, rng, moved = distinct(50, g), seeded(), []
    for _ in range(10):
        view = dense(GeneSwap(rate, p=1)(as_given(x, kind), rng, CONTEXT))
        moved.append((view != x).float().mean(1))
    # A pair moves two genes, so that the spread is that of half as many; one or two genes are
    # their own partners.
    error = np.sqrt(2 * rate * (1 - rate) / (g * 500))
    assert abs(torch.stack(moved).mean() - rate) < 5 * error + 2 / g


@kinds
def test_swap_partners_are_any_gene_and_differ_between_cells(kind):
    g, n = 40, 30
    x, rng = distinct(n, g), seeded()
    seen = torch.zeros(g, g)
    for _ in range(100):
        partner = partners(dense(GeneSwap(1.0, p=1)(as_given(x, kind), rng, CONTEXT)), n, g)
        seen += torch.nn.functional.one_hot(partner, g).sum(0)
        assert len(partner.unique(dim=0)) > n / 3, "cells have pairings of their own"
    off = ~torch.eye(g, dtype=torch.bool)
    # Pairings of one call share an order of the genes: 3,000 draws, spread as of fewer.
    assert seen[off].min() > 0.5 * seen[off].mean()
    assert seen[off].max() < 1.5 * seen[off].mean()


@kinds
def test_swap_of_one_pair_says_nothing_of_another(kind):
    moved = []
    rng = seeded()
    for _ in range(300):
        x = distinct(4, 20)
        moved.append(dense(GeneSwap(0.5, p=1)(as_given(x, kind), rng, CONTEXT)) != x)
    moved = torch.cat(moved).float().numpy()
    correlation = np.corrcoef(moved.T)[~np.eye(20, dtype=bool)]
    # A gene goes with its partner, which is any of the 19 others: correlation 1/19.
    assert abs(correlation - 1 / 19).max() < 6 / np.sqrt(len(moved))


def test_swap_keeps_what_is_stored():
    x = SparseRows.from_tensor(distinct(5, 30) * (distinct(5, 30) % 3 == 0))
    view = GeneSwap(1.0, p=1)(x, seeded(), CONTEXT)
    assert view.values is x.values
    assert view.pointers is x.pointers
    assert bool((x.columns == SparseRows.from_tensor(dense(x)).columns).all())


def donors_of(view, x):
    """The one other cell of which each cell has values, and where."""
    n, g = x.shape
    origin = torch.div(view - 1, g, rounding_mode="floor").long()
    assert torch.equal(view, 1 + (origin * g + torch.arange(g)).float()), "each at its own gene"
    foreign = origin != torch.arange(n)[:, None]
    found = []
    for cell in range(n):
        others = origin[cell][foreign[cell]].unique()
        assert len(others) <= 1, "one donor for all genes"
        found.append(int(others[0]) if len(others) else cell)
    return np.array(found), foreign


@settings(deadline=None, max_examples=20)
@given(rate=st.floats(0.05, 0.95), seed=st.integers(0, 10_000), sparse=st.booleans())
def test_crossover_takes_its_rate_of_the_genes_from_one_other_cell(rate, seed, sparse):
    x = distinct(40, 500)
    given = as_given(x, "sparse" if sparse else "dense")
    found = CrossOver(rate, p=1)(given, seeded(seed), CONTEXT)
    assert type(found) is type(given)
    donor, foreign = donors_of(dense(found), x)
    assert (donor != np.arange(40)).all()
    share = foreign.float().mean()
    assert abs(share - rate) < 5 * np.sqrt(rate * (1 - rate) / x.numel())


@kinds
def test_crossover_donors_are_any_other_cell(kind):
    x, rng = distinct(6, 60), seeded()
    seen = np.zeros((6, 6))
    for _ in range(600):
        donor, _ = donors_of(dense(CrossOver(0.5, p=1)(as_given(x, kind), rng, CONTEXT)), x)
        seen[np.arange(6), donor] += 1
    assert not seen.diagonal().any()
    assert stats.chisquare(seen[~np.eye(6, dtype=bool)]).pvalue > 1e-4


@kinds
def test_crossover_within_batches(kind):
    batch = torch.tensor([5, 0, 5, 7, 0, 5, 0, 5])
    x, rng = distinct(8, 60), seeded()
    seen = np.zeros((8, 8))
    for _ in range(500):
        crossover = CrossOver(0.5, within="batch", p=1)
        view = crossover(as_given(x, kind), rng, ViewContext(batch=batch))
        donor, _ = donors_of(dense(view), x)
        seen[np.arange(8), donor] += 1
    assert seen[3, 3] == 500, "the only cell of its batch has no donor"
    possible = (batch[:, None] == batch) & ~torch.eye(8, dtype=torch.bool)
    seen[3, 3] = 0
    assert ((seen > 0) == possible.numpy()).all()
    for row in seen[:3]:
        assert stats.chisquare(row[row > 0]).pvalue > 1e-4


def test_crossover_of_sparse_cells_takes_zeros_too():
    # Where the donor has nothing, the own value goes; where only the donor has one, it comes.
    generator = seeded(1)
    x = distinct(30, 400) * (torch.rand(30, 400, generator=generator) < 0.3)
    view = dense(CrossOver(0.5, p=1)(SparseRows.from_tensor(x), seeded(), CONTEXT))
    own, came = (view == x) & (x != 0), (view != 0) & (view != x)
    error = 5 * np.sqrt(0.25 / (0.3 * x.numel()))
    assert abs(own.sum() / (x != 0).sum() - 0.5) < error
    assert abs((view != 0).float().mean() - 0.3) < error
    assert came.sum() > 0.4 * own.sum()


def test_crossover_says_what_is_missing():
    x = distinct(4, 5)
    with pytest.raises(ValueError, match="each of the 4 cells, none was given: give `batch_key`"):
        CrossOver(within="batch")(x, seeded(), CONTEXT)
    with pytest.raises(ValueError, match="found 3 of them"):
        CrossOver(within="batch")(x, seeded(), ViewContext(batch=torch.zeros(3)))


N, G = 40, 500


def values(seed, density=0.4):
    generator = seeded(seed)
    x = torch.rand(N, G, generator=generator) + 0.5
    return x * (torch.rand(N, G, generator=generator) < density)


def context(view=0, shared_seed=0, **partners):
    named = {tuple(name.split("__")): SparseRows.from_tensor(x) for name, x in partners.items()}
    return ViewContext(view=view, partners=named, shared_seed=shared_seed)


@kinds
@pytest.mark.parametrize("alpha", [0.3, 0.5])
def test_interpolation(kind, alpha):
    x, y = values(0), values(1)
    given = as_given(x, kind)
    found = NeighborMix("g", "int", alpha, p=1)(given, seeded(), context(g=y))
    assert type(found) is type(given)
    torch.testing.assert_close(dense(found), alpha * x + (1 - alpha) * y)


def weights(view, x, y):
    """Weight of ``x`` in each cell, by least squares, and what it does not explain."""
    weight = ((view - y) * (x - y)).sum(1) / (x - y).square().sum(1)
    return weight, (view - (weight[:, None] * x + (1 - weight[:, None]) * y)).abs().max()


@kinds
def test_random_weight_is_uniform_above_alpha(kind):
    found, rng = [], seeded()
    x, y = values(0), values(1)
    for _ in range(20):
        mix = NeighborMix("g", "int", 0.4, weight="random", p=1)
        weight, rest = weights(dense(mix(as_given(x, kind), rng, context(g=y))), x, y)
        assert rest < 1e-5
        found.append(weight)
    assert stats.kstest(torch.cat(found).numpy(), stats.uniform(0.4, 0.6).cdf).pvalue > 1e-4


@kinds
def test_geometric_mean(kind):
    x, y = values(0), values(1)
    view = dense(NeighborMix("g", "geo", 0.4, p=1)(as_given(x, kind), seeded(), context(g=y)))
    both = (x > 0) & (y > 0)
    assert not view[~both].any()
    weight = torch.stack(
        [
            weights(view[i, both[i]].log()[None], x[i, both[i]].log()[None], y[i, both[i]].log())[0]
            for i in range(N)
        ]
    )
    expected = x**weight * y ** (1 - weight)
    torch.testing.assert_close(view[both], expected[both], rtol=1e-4, atol=1e-5)
    assert 0.4 - 1e-4 < weight.min() < 0.5
    assert 0.9 < weight.max() < 1 + 1e-4


@kinds
@pytest.mark.parametrize("alpha", [0.3, 0.7])
@pytest.mark.parametrize("mix", ["exc", ("exc", "geo")])
def test_exchange_draws_each_gene(kind, alpha, mix):
    x, y = 2 + values(0), 4 + values(1)
    view = dense(NeighborMix("g", mix, alpha, p=1)(as_given(x, kind), seeded(), context(g=y)))
    own = view == x
    exchanged = (own | (view == y)).all(1)
    assert exchanged.float().mean() > (0.99 if mix == "exc" else 0.2)
    # The public code draws once for the whole cell.
    share = own[exchanged].float().mean(1)
    assert abs(share - alpha).max() < 5 * np.sqrt(alpha * (1 - alpha) / G)
    assert len(own[exchanged].unique(dim=0)) == exchanged.sum()


@kinds
def test_ways_to_mix_are_drawn_for_each_cell(kind):
    x, y = 2 + values(0), 4 + values(1)
    seen, rng = torch.zeros(3), seeded()
    for _ in range(30):
        mix = NeighborMix("g", ("int", "geo", "exc"), 0.5, p=1)
        view = dense(mix(as_given(x, kind), rng, context(g=y)))
        middle = torch.isclose(view, (x + y) / 2).all(1)
        either = ((view == x) | (view == y)).all(1)
        seen += torch.stack([middle.sum(), either.sum(), (~middle & ~either).sum()])
    assert stats.chisquare(seen.numpy()).pvalue > 1e-4


@kinds
def test_partners_are_those_of_the_same_row(kind):
    # The public code takes the place in a list of neighbours for the number of a cell.
    x = torch.zeros(N, G)
    y = (1 + torch.arange(N, dtype=torch.float32))[:, None].expand(-1, G)
    view = dense(NeighborMix("g", "exc", p=1)(as_given(x, kind), seeded(), context(g=y)))
    assert torch.equal(view.amax(1), y[:, 0])
    assert bool(((view == 0) | (view == y)).all())


def test_a_cell_that_is_its_own_partner_does_not_change():
    x = values(0)
    for mix in ("int", "exc"):
        view = NeighborMix("g", mix, p=1)(x, seeded(), context(g=x))
        torch.testing.assert_close(view, x)


def test_negative_values_have_no_power():
    mix = NeighborMix("g", "geo", p=1)
    view = mix(torch.full((N, G), -1.0), seeded(), context(g=values(1)))
    assert not view.any()


@kinds
@pytest.mark.parametrize("p", [0.0, 0.3, 0.5, 1.0])
def test_steps_after_it_get_a_batch_whether_applied_or_not(kind, p):
    # In the public code a cell to which it was not applied breaks the swap that follows.
    pipeline = Compose([NeighborMix("g", p=p), GeneSwap(0.3, p=1), Mask(0.2, p=1)])
    view = dense(pipeline(as_given(values(0), kind), seeded(), context(g=values(1))))
    assert view.shape == (N, G)


def mutual(view, shared_seed=0):
    marks = {"w": 2.0, "m": 10.0, "m__w": 20.0}
    used = {0: ("w",), 1: ("m", "m__w")}[view]
    return context(view, shared_seed, **{name: torch.full((N, G), marks[name]) for name in used})


@kinds
def test_mutual_partners_of_each_view(kind):
    x = as_given(torch.ones(N, G), kind)
    mix = MutualNeighborMix("m", "w", alpha=0.5, p=1)
    assert mix.walks(0) == (("w",),)
    assert mix.walks(1) == (("m",), ("m", "w"))
    # Given are only the walks that it asks for.
    first = dense(mix(x, seeded(), mutual(0)))
    second = dense(mix(x, seeded(), mutual(1)))
    assert torch.equal(first, torch.full((N, G), 1.5))
    assert torch.equal(second, torch.full((N, G), 15.0))
    exchanged = dense(MutualNeighborMix("m", "w", "exc", p=1)(x, seeded(), mutual(1)))
    assert set(exchanged.unique().tolist()) == {10.0, 20.0}


@kinds
@pytest.mark.parametrize(
    "make",
    [
        lambda: MutualNeighborMix("m", "w", p=0.5),
        lambda: RandomApply(MutualNeighborMix("m", "w", p=1), 0.5),
        lambda: RandomApply(Compose([MutualNeighborMix("m", "w", p=0.7)]), 0.7),
    ],
    ids=["itself", "applied at random", "composed"],
)
def test_mutual_is_applied_to_the_same_cells_in_both_views(kind, make):
    x, rng, drawn = torch.ones(N, G), seeded(), []
    for seed in range(60):
        if kind == "sparse":
            contexts = mutual(0, seed), mutual(1, seed)
            views = two_views(as_given(x, kind), make(), rng, contexts)
        else:
            views = tuple(make()(x, rng, mutual(view, seed)) for view in (0, 1))
        changed = [(dense(view) != x).any(1) for view in views]
        assert torch.equal(*changed)
        drawn.append(changed[0])
    drawn = torch.stack(drawn).float()
    assert abs(drawn.mean() - 0.5) < 5 * np.sqrt(0.25 / drawn.numel())
    # Neighbouring cells and neighbouring seeds draw apart.
    for a, b in (
        (drawn[1:], drawn[:-1]),
        (drawn[:, 1:], drawn[:, :-1]),
        (drawn[1:, :-1], drawn[:-1, 1:]),
        (drawn[:-1, :-1], drawn[1:, 1:]),
    ):
        assert abs(np.corrcoef(a.flatten(), b.flatten())[0, 1]) < 5 / np.sqrt(a.numel())


def test_two_mutual_mixes_draw_apart():
    x = torch.ones(N, G)
    graphs = {"w": 2.0, "m": 10.0, "m__w": 20.0, "v": 3.0, "n": 30.0, "n__v": 40.0}
    partners = {name: torch.full((N, G), mark) for name, mark in graphs.items()}
    changed = [
        (MutualNeighborMix(m, w, p=0.5)(x, seeded(), context(1, 5, **partners)) != x).any(1)
        for m, w in (("m", "w"), ("n", "v"))
    ]
    assert not torch.equal(*changed)


def test_missing_partners_are_refused():
    x = values(0)
    with pytest.raises(ValueError, match=r"\('g',\) are missing \(found: \('h',\)\): give"):
        NeighborMix("g")(x, seeded(), context(h=x))
    with pytest.raises(ValueError, match=r"\('m', 'w'\) are missing"):
        MutualNeighborMix("m", "w", p=1)(x, seeded(), context(1, m=x))
    with pytest.raises(ValueError, match="have 3 cells and 500 genes, the batch has 40 and 500"):
        NeighborMix("g")(x, seeded(), context(g=x[:3]))
