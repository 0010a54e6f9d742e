"""Masks, dropout and noise do what their formulas say."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from scssl.augment import Dropout, GaussianNoise, Mask, ViewContext
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
