"""Swaps permute the genes of a cell, crossovers take genes of one other cell."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from scssl.augment import CrossOver, GeneSwap, ViewContext
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
