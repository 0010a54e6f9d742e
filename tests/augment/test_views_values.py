"""Augmentations of single values and of counts."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

import scssl.augment
from scssl.augment import (
    Augmentation,
    BinomialThinning,
    Compose,
    CrossOver,
    Dropout,
    GaussianNoise,
    GeneSwap,
    Mask,
    MutualNeighborMix,
    NegativeBinomialNoise,
    NeighborMix,
    PoissonResample,
    RandomApply,
    ViewContext,
    augmentation,
    two_views,
)
from scssl.nn import SparseRows

CONTEXT = ViewContext()


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def dense(x):
    return x.to_dense() if isinstance(x, SparseRows) else x


def as_given(x, kind):
    return SparseRows.from_tensor(x) if kind == "sparse" else x


kinds = pytest.mark.parametrize("kind", ["sparse", "dense"])


@settings(deadline=None, max_examples=20)
@given(rate=st.floats(0.02, 0.98), seed=st.integers(0, 10_000), sparse=st.booleans())
def test_mask_zeroes_its_rate_of_the_genes_and_nothing_else(rate, seed, sparse):
    # The public code keeps this share, and zeroes the rest.
    x = torch.rand(50, 400, generator=seeded(1)) + 0.5
    view = dense(Mask(rate, p=1)(SparseRows.from_tensor(x) if sparse else x, seeded(seed), CONTEXT))
    zeroed = view == 0
    assert abs(zeroed.float().mean() - rate) < 5 * np.sqrt(rate * (1 - rate) / x.numel())
    assert torch.equal(view[~zeroed], x[~zeroed])
    # Cells and genes have no share of their own.
    per_cell = zeroed.float().mean(1).numpy()
    assert stats.kstest(per_cell, stats.norm(rate, np.sqrt(rate * (1 - rate) / 400)).cdf)[1] > 1e-5


@kinds
def test_mask_draws_anew_for_each_cell_gene_and_call(kind):
    x, rng = torch.ones(2, 20_000), seeded()
    first, second = (dense(Mask(0.5, p=1)(as_given(x, kind), rng, CONTEXT)) for _ in range(2))
    for a, b in ((first[0], first[1]), (first[0], second[0]), (first[0, 1:], first[0, :-1])):
        assert abs(np.corrcoef(a, b)[0, 1]) < 5 / np.sqrt(20_000)


@kinds
def test_rescaled_mask_keeps_what_a_cell_weighs(kind):
    x = torch.rand(400, 300, generator=seeded(1)) + 0.5
    view = dense(Mask(0.6, p=0.5, rescale=True)(as_given(x, kind), seeded(), CONTEXT))
    changed = (view != x).any(1)
    assert 150 < changed.sum() < 250
    kept = view[changed] != 0
    torch.testing.assert_close(view[changed][kept], x[changed][kept] / 0.4)
    assert abs(view[changed].mean() / x[changed].mean() - 1) < 0.02


def test_mask_of_zeros_that_are_stored():
    x = SparseRows.from_tensor(torch.ones(3, 40))
    with_zeros = SparseRows(x.pointers, x.columns, x.values * (x.columns % 2), 40)
    view = dense(Mask(0.5, p=1)(with_zeros, seeded(), CONTEXT))
    assert not view[:, ::2].any()


@kinds
@pytest.mark.parametrize(("rate", "decay"), [(0.5, 0.1), (1.0, 0.3)])
def test_dropout_loses_values_as_the_formula_says(kind, rate, decay):
    values = np.array([0.05, 0.5, 1.0, 2.0, 3.5, 6.0], dtype=np.float32)
    x = torch.from_numpy(values).repeat(20_000, 1)
    view = dense(Dropout(rate, decay=decay, p=1)(as_given(x, kind), seeded(), CONTEXT))
    lost = (view == 0).double().mean(0).numpy()
    expected = rate * np.exp(-decay * values.astype(float) ** 2)
    error = np.sqrt(expected * (1 - expected) / len(x))
    np.testing.assert_allclose(lost, expected, atol=5 * error.max(), rtol=0)
    assert (np.diff(lost) < 0).all()
    assert torch.equal(view[view != 0], x[view != 0])


def test_dropout_takes_negative_values_for_the_lowest():
    x = torch.full((1, 20_000), -3.0)
    lost = (Dropout(0.5, p=1)(x, seeded(), CONTEXT) == 0).float().mean()
    assert abs(lost - 0.5) < 5 * np.sqrt(0.25 / 20_000)


@kinds
@pytest.mark.parametrize("rate", [0.2, 0.8, 1.0])
def test_noise_changes_its_rate_of_the_genes_by_its_scale(kind, rate):
    x = torch.rand(60, 1000, generator=seeded(1)) * (torch.rand(60, 1000) < 0.3)
    view = dense(GaussianNoise(rate, 0.3, p=1)(as_given(x, kind), seeded(), CONTEXT))
    changed = view != x
    n = x.numel()
    assert abs(changed.float().mean() - rate) <= 5 * np.sqrt(rate * (1 - rate) / n) + 1e-4
    noise = (view - x)[changed].double().numpy()
    # Rounding of sums moves no noise by more than 1e-6.
    assert stats.kstest(noise, stats.norm(0, 0.3).cdf).pvalue > 1e-4
    assert changed[x == 0].float().mean() == pytest.approx(rate, abs=0.02)
    assert abs(np.corrcoef((view - x)[0], (view - x)[1])[0, 1]) < 5 / np.sqrt(1000)


@kinds
def test_noise_on_expressed_genes_leaves_zeros(kind):
    x = torch.rand(60, 1000, generator=seeded(1)) * (torch.rand(60, 1000) < 0.3)
    given = as_given(x, kind)
    found = GaussianNoise(0.5, 0.3, p=1, on="expressed")(given, seeded(), CONTEXT)
    assert type(found) is type(given)
    view, expressed = dense(found), x != 0
    assert not view[~expressed].any()
    changed = (view != x)[expressed]
    assert abs(changed.float().mean() - 0.5) < 5 * np.sqrt(0.25 / len(changed))
    assert (view - x)[expressed][changed].std().item() == pytest.approx(0.3, rel=0.03)


@pytest.mark.parametrize("on", ["all", "expressed"])
def test_noise_is_clipped_only_where_asked(on):
    x = torch.full((20, 1000), 0.1)
    free, clipped = (
        GaussianNoise(0.5, 0.3, p=1, on=on, clip_min=clip)(x, seeded(), CONTEXT)
        for clip in (None, 0)
    )
    assert free.min() < -0.3
    assert clipped.min() == 0
    assert torch.equal(clipped, free.clamp(min=0))


def test_noise_makes_dense_only_what_it_has_to():
    x = SparseRows.from_tensor(torch.eye(10))
    assert isinstance(GaussianNoise(p=0.5)(x, seeded(), CONTEXT), torch.Tensor)
    assert GaussianNoise(p=0)(x, seeded(), CONTEXT) is x


@kinds
def test_rescaled_masks_keep_the_expected_value(kind):
    x = torch.rand(50, 400, generator=seeded(1)) + 0.5
    plain, rescaled = (
        dense(Mask(0.3, p=0.5, rescale=rescale)(as_given(x, kind), seeded(), CONTEXT))
        for rescale in (False, True)
    )
    applied = (plain == 0).any(1)
    assert 0.2 < applied.float().mean() < 0.8
    assert torch.equal(rescaled[~applied], x[~applied])
    torch.testing.assert_close(rescaled[applied], plain[applied] / 0.7)
    assert rescaled[applied].mean() == pytest.approx(x[applied].mean().item(), rel=0.02)


TARGET = 1e4
every = pytest.mark.parametrize(
    "make", [BinomialThinning, PoissonResample, NegativeBinomialNoise], ids=lambda c: c.__name__
)


def cells(counts, kind="dense", library=None):
    """A batch of these counts, normalised, and what is known of it."""
    counts = torch.as_tensor(counts, dtype=torch.float32)
    library = counts.sum(1) if library is None else library
    x = torch.log1p(counts * TARGET / library.clamp(min=1)[:, None])
    context = ViewContext(input_kind="counts", library=library, target_sum=TARGET)
    return (SparseRows.from_tensor(x) if kind == "sparse" else x), context


def shares(view):
    """Share of each gene among the counts of its cell."""
    return np.expm1(dense(view).double().numpy()) / TARGET


def copies(counts, n):
    return np.tile(np.asarray(counts, dtype=np.float32), (n, 1))


@kinds
@every
def test_views_are_normalised_to_the_target_sum(make, kind):
    counts = np.random.default_rng(0).poisson(np.linspace(0, 5, 200), (30, 200))
    x, context = cells(counts, kind)
    view = make(p=1)(x, seeded(), context)
    np.testing.assert_allclose(shares(view).sum(1), 1, rtol=1e-5)
    # Zeros stay zeros, most of the rest changes.
    assert not dense(view)[torch.as_tensor(counts == 0)].any()
    assert (dense(view) != dense(x))[torch.as_tensor(counts > 0)].float().mean() > 0.5


@kinds
@every
def test_expected_shares_of_genes_are_kept(make, kind):
    counts = np.arange(1000) % 40
    x, context = cells(copies(counts, 1000), kind)
    found = shares(make(p=1)(x, seeded(), context))
    error = found.std(0) / np.sqrt(len(found))
    assert (abs(found.mean(0) - counts / counts.sum()) <= 5 * error).all()
    # Many genes together show a bias that is smaller than what one gene's draws hide.
    ratio = found[:, counts > 0].mean(0) / (counts[counts > 0] / counts.sum())
    assert np.corrcoef(ratio, counts[counts > 0])[0, 1] < 5 / np.sqrt(len(ratio))


def assert_same_distribution(found, expected):
    """Of shares of few counts, by the chi-squared test of two samples."""
    # Between values, which single precision would else put on either side.
    edges = np.unique(np.quantile(expected, np.linspace(0, 1, 12)).round(4)) - 1e-4
    table = [
        np.bincount(np.searchsorted(edges, values, side="right"), minlength=len(edges) + 1)
        for values in (found, expected)
    ]
    table = np.array(table)[:, np.sum(table, 0) > 0]
    assert stats.chi2_contingency(table).pvalue > 1e-4


@kinds
@pytest.mark.parametrize("keep", [0.3, (0.2, 0.9), (0.5, 1.0)])
def test_thinning_is_binomial_with_one_share_per_cell(kind, keep):
    # Two genes: which share of the cell is the first's is known when both counts are drawn.
    counts, n = [40, 25, 1, 0], 20_000
    x, context = cells(copies(counts, n), kind)
    found = shares(BinomialThinning(keep, p=1)(x, seeded(), context))
    low, high = (keep, keep) if isinstance(keep, float) else keep
    rng = np.random.default_rng(1)
    drawn = rng.binomial(counts, rng.uniform(low, high, (n, 1)))
    total = drawn.sum(1, keepdims=True)
    expected = np.divide(drawn, total, out=np.zeros(drawn.shape), where=total > 0)
    for gene in range(3):
        assert_same_distribution(found[:, gene], expected[:, gene])
    # Only a common share makes the number of genes that vanish go together.
    assert (found[:, 2] > 0).mean() == pytest.approx((low + high) / 2, abs=0.02)


def test_thinning_keeps_whole_numbers_not_above_the_counts():
    counts = np.random.default_rng(0).poisson(3, (50, 300))
    counts[:, 0] = 1000
    x, context = cells(counts)
    view = dense(BinomialThinning(0.9999, p=1)(x, seeded(), context))
    # With nearly all kept the sum of a cell is nearly what it was: counts come out again.
    back = shares(view) * counts.sum(1, keepdims=True)
    assert (back < counts * 1.02 + 1e-3).all()
    assert abs(back - counts).max() < 12
    everything = BinomialThinning(1.0, p=1)(x, seeded(), context)
    torch.testing.assert_close(dense(everything), x, rtol=1e-5, atol=1e-6)


@kinds
@pytest.mark.parametrize(
    ("augmentation", "draw"),
    [
        (PoissonResample(p=1), lambda rng, c: rng.poisson(c)),
        (
            NegativeBinomialNoise(0.5, p=1),
            lambda rng, c: stats.nbinom(2, 1 / (1 + 0.5 * np.maximum(c, 1e-9))).rvs(
                c.shape, random_state=rng
            ),
        ),
        (
            NegativeBinomialNoise(0.05, p=1),
            lambda rng, c: stats.nbinom(20, 1 / (1 + 0.05 * np.maximum(c, 1e-9))).rvs(
                c.shape, random_state=rng
            ),
        ),
    ],
    ids=["poisson", "nb 0.5", "nb 0.05"],
)
def test_resampling_follows_its_distribution(kind, augmentation, draw):
    counts, n = np.array([40.0, 25.0, 1.0, 0.0, 150.0]), 20_000
    x, context = cells(copies(counts, n), kind)
    found = shares(augmentation(x, seeded(), context))
    drawn = draw(np.random.default_rng(1), np.tile(counts, (n, 1)))
    total = drawn.sum(1, keepdims=True)
    expected = np.divide(drawn, total, out=np.zeros(drawn.shape), where=total > 0)
    for gene in (0, 1, 2, 4):
        assert_same_distribution(found[:, gene], expected[:, gene])


@pytest.mark.parametrize(
    ("augmentation", "variance"),
    [
        (PoissonResample(p=1), lambda c: c),
        (NegativeBinomialNoise(0.1, p=1), lambda c: c + 0.1 * c**2),
        (NegativeBinomialNoise(1.0, p=1), lambda c: c + c**2),
        # Of 70 %, scaled back to the sum it was.
        (BinomialThinning(0.7, p=1), lambda c: c * 0.7 * 0.3 / 0.7**2),
    ],
    ids=["poisson", "nb 0.1", "nb 1.0", "thinning"],
)
def test_variance_of_counts(augmentation, variance):
    # Among very many genes, the sum of a cell hardly varies, and a share is a count.
    n_genes, count = 4000, 10.0
    x, context = cells(np.full((60, n_genes), count))
    found = shares(augmentation(x, seeded(), context)) * n_genes * count
    assert found.var() == pytest.approx(variance(count), rel=0.03)


@kinds
@every
def test_sum_after_a_mask_is_that_of_the_genes_that_are_left(make, kind):
    counts = np.full((20, 2000), 8.0)
    x, context = cells(counts, kind)
    found = shares(Compose([Mask(0.5, p=1), make(p=1)])(x, seeded(), context))
    np.testing.assert_allclose(found.sum(1), 0.5, atol=0.06)


@every
def test_library_may_count_genes_that_are_not_there(make):
    # A model of some of the genes: sums of all, and values that add up to less than the target.
    x, context = cells(np.full((20, 2000), 8.0), library=torch.full((20,), 64_000.0))
    np.testing.assert_allclose(shares(make(p=1)(x, seeded(), context)).sum(1), 0.25, rtol=1e-4)


@every
def test_library_may_be_a_column(make):
    x, context = cells(np.full((5, 50), 8.0))
    column = ViewContext(input_kind="counts", library=context.library[:, None])
    assert torch.equal(make(p=1)(x, seeded(), context), make(p=1)(x, seeded(), column))


@every
def test_views_are_drawn_apart(make):
    x, context = cells(copies([1] * 300, 4), "sparse")
    contexts = context, ViewContext(view=1, input_kind="counts", library=context.library)
    first, second = two_views(x, make(p=1), seeded(), contexts)
    kept = [dense(view).flatten() > 0 for view in (first, second)]
    assert abs(np.corrcoef(*kept)[0, 1]) < 5 / np.sqrt(1200)


@every
def test_what_is_missing_is_said(make):
    x, context = cells(np.full((5, 50), 8.0))
    with pytest.raises(ValueError, match="Use the counts, a `layer` of them, .*'mask'"):
        make()(x, seeded(), ViewContext())
    with pytest.raises(ValueError, match="each of the 5 cells, none was given: .* ViewContext"):
        make()(x, seeded(), ViewContext(input_kind="counts"))
    with pytest.raises(ValueError, match="found 4 of them"):
        make()(x, seeded(), ViewContext(input_kind="counts", library=context.library[:4]))


# --- what may come before -------------------------------------------------------------------------

BEFORE = {
    "mask": lambda: Mask(0.4, p=1),
    "rescaled mask": lambda: Mask(0.4, p=1, rescale=True),
    "dropout": lambda: Dropout(0.5, p=1),
    "noise": lambda: GaussianNoise(0.5, 0.2, p=1),
    "noise on expressed": lambda: GaussianNoise(0.5, 0.2, p=1, on="expressed"),
    "swap": lambda: GeneSwap(0.5, p=1),
    "crossover": lambda: CrossOver(0.5, p=1),
    "mix": lambda: NeighborMix("near", p=1),
    "mutual": lambda: MutualNeighborMix("m", "w", p=1),
    "thinning": lambda: BinomialThinning(0.5, p=1),
    "poisson": lambda: PoissonResample(p=1),
    "negative binomial": lambda: NegativeBinomialNoise(0.1, p=1),
}


@pytest.mark.parametrize("name", BEFORE)
def test_counts_are_needed_only_where_they_can_be_found_again(name):
    """Against what the values after a step say: whole counts with the right sum, or not."""
    rng = np.random.default_rng(0)
    # Depths differ threefold, and the rates of genes do.
    depth = rng.uniform(0.5, 1.5, (50, 1))
    counts = rng.poisson(rng.gamma(0.5, 4.0, (50, 800)) * depth).astype(np.float32)
    x, context = cells(counts, "sparse")
    other = cells(counts[::-1].copy(), "sparse")[0]
    walks = {("near",): other, ("w",): other, ("m",): other, ("m", "w"): other}
    context = dataclasses.replace(context, partners=walks, view=1)
    step = BEFORE[name]()
    found = np.expm1(dense(step(x, seeded(), context)).numpy()) * counts.sum(1)[:, None] / TARGET
    # Counts of resampled cells are scaled to the sum of the cell, a change of a few percent.
    low = found[(found > 0) & (found < 3.5)]
    kept = np.isclose(low, np.round(low), rtol=0.12, atol=0).mean() > 0.99
    if name == "thinning":
        kept = bool(found.sum() < 0.6 * counts.sum())
    assert step.keeps_counts == kept
    if kept:
        assert Compose([step, PoissonResample()]).keeps_counts
    else:
        with pytest.raises(ValueError, match="cannot be found again"):
            Compose([step, PoissonResample()])
        Compose([PoissonResample(), step, Mask()])


def order_that_is_said(make):
    with pytest.raises(ValueError, match="cannot be found again after") as caught:
        make()
    said = re.search(r"Put it before: (\[.*\])", str(caught.value))
    return None if said is None else eval(said[1], vars(scssl.augment))


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        (["default", "poisson_resample"], ["poisson_resample", "mask"]),
        ([CrossOver(), Mask(), PoissonResample()], ["poisson_resample", "cross_over", "mask"]),
        (
            ["binomial_thinning", "gene_swap", "poisson_resample"],
            ["poisson_resample", "binomial_thinning", "gene_swap"],
        ),
        ([RandomApply(CrossOver()), RandomApply(PoissonResample())], ["random_apply"] * 2),
        (["gaussian_noise", Compose([Mask(), PoissonResample()])], ["compose", "gaussian_noise"]),
    ],
)
def test_the_right_order_is_said(steps, expected):
    order = order_that_is_said(lambda: augmentation(steps))
    assert [step.name for step in order] == expected
    assert Compose(order).needs_counts


def test_two_that_take_the_counts_away_have_no_order():
    with pytest.raises(ValueError, match="No order of these is right: leave one out"):
        Compose([BinomialThinning(), BinomialThinning()])


def test_own_augmentations_say_themselves_whether_they_keep_counts():
    class Own(Augmentation):
        def transform(self, x, applied, rng, context):
            return x

    class Keeps(Own):
        keeps_counts = True

    with pytest.raises(ValueError, match=r"if Own leaves .*set `keeps_counts` to True"):
        Compose([Own(), PoissonResample()])
    assert Compose([Keeps(), PoissonResample()]).needs_counts
