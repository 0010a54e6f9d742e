"""Losses on hidden entries."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scvi.distributions import NegativeBinomial, ZeroInflatedNegativeBinomial

from scssl.objective import (
    masked_mse,
    nb_nll,
    sparse_masked_bce,
    sparse_masked_mse,
    sparse_masked_nb,
)


def test_by_hand():
    # Hidden: x = 1 predicted 3, x = 0 predicted 1, x = 2 predicted 2; (4 + 1 + 0) / 3.
    x = torch.tensor([[1.0, 0.0, 5.0], [0.0, 2.0, 4.0]])
    predicted = torch.tensor([[3.0, 1.0, 0.0], [9.0, 2.0, 0.0]])
    mask = torch.tensor([[1, 1, 0], [0, 1, 0]])
    assert masked_mse(predicted, x, mask).item() == pytest.approx(5 / 3)


def test_gradient_is_zero_where_nothing_is_hidden():
    predicted = torch.randn(4, 6, requires_grad=True)
    mask = torch.rand(4, 6) < 0.5
    masked_mse(predicted, torch.randn(4, 6), mask).backward()
    assert (predicted.grad[~mask] == 0).all()
    assert (predicted.grad[mask] != 0).all()


def test_nothing_hidden_is_zero():
    assert masked_mse(torch.ones(2, 2), torch.zeros(2, 2), torch.zeros(2, 2)).item() == 0


@settings(deadline=None, max_examples=40)
@given(
    n=st.integers(1, 6),
    g=st.integers(1, 9),
    density=st.floats(0, 1),
    per=st.sampled_from(["scalar", "gene", "entry"]),
    seed=st.integers(0, 1000),
)
def test_sparse_equals_dense(n, g, density, per, seed):
    rng = np.random.default_rng(seed)
    x = rng.random((n, g)) * (rng.random((n, g)) < density)
    rows, columns = np.nonzero(x)
    weight = rng.random((n, g))
    zero = {"scalar": rng.random(), "gene": rng.random(g), "entry": rng.random((n, g))}[per]
    weight[x == 0] = np.broadcast_to(zero, (n, g))[x == 0]
    predicted = rng.standard_normal((n, g))
    total = 3.7

    a = torch.tensor(predicted, dtype=torch.float32, requires_grad=True)
    loss = sparse_masked_mse(
        a,
        torch.from_numpy(rows * g + columns),
        torch.tensor(x[rows, columns], dtype=torch.float32),
        torch.tensor(weight[rows, columns], dtype=torch.float32),
        torch.tensor(zero, dtype=torch.float32),
        torch.tensor(total),
    )
    loss.backward()
    # Where prediction and value are nearly equal, single precision has few digits of the difference.
    expected = (weight * (predicted - x) ** 2).sum() / total
    assert loss.item() == pytest.approx(expected, rel=1e-4, abs=1e-6)
    np.testing.assert_allclose(a.grad, 2 * weight * (predicted - x) / total, rtol=1e-4, atol=1e-5)


def example(n=13, g=29, seed=0):
    rng = torch.Generator().manual_seed(seed)
    counts = torch.poisson(torch.rand(n, g, generator=rng) * 2, generator=rng)
    log_mean = torch.randn(n, g, generator=rng)
    log_dispersion = torch.randn(g, generator=rng)
    logits = torch.randn(n, g, generator=rng)
    return counts, log_mean, log_dispersion, logits


def test_nb_is_that_of_scipy():
    counts, log_mean, log_dispersion, _ = example()
    mean, theta = log_mean.exp().numpy(), log_dispersion.exp().numpy()
    expected = -stats.nbinom.logpmf(counts.numpy(), theta, theta / (theta + mean))
    np.testing.assert_allclose(nb_nll(log_mean, log_dispersion, counts), expected, rtol=2e-4)


def test_zero_inflated_probabilities_sum_to_one():
    k = torch.arange(400.0)
    nll = nb_nll(torch.tensor(1.3), torch.tensor(0.2), k, torch.tensor(-0.4))
    assert (-nll).exp().sum().item() == pytest.approx(1, abs=1e-5)
    assert (-nll[0]).exp() > (-nb_nll(torch.tensor(1.3), torch.tensor(0.2), k)[0]).exp()


@pytest.mark.parametrize("inflated", [False, True])
@pytest.mark.parametrize("weights", ["scalar", "gene", "entry"])
def test_sparse_is_the_dense_likelihood_of_scvi_tools(inflated, weights):
    counts, log_mean, log_dispersion, logits = example()
    rng = torch.Generator().manual_seed(5)
    stored = counts.flatten().nonzero().squeeze(1)
    weight_stored = torch.rand(len(stored), generator=rng)
    zero_weight = {
        "scalar": torch.tensor(0.3),
        "gene": torch.rand(29, generator=rng),
        "entry": torch.rand(13, 29, generator=rng),
    }[weights]
    full = zero_weight.expand(13, 29).clone().flatten()
    full[stored] = weight_stored
    inputs = [log_mean, log_dispersion, *([logits] if inflated else [])]
    for tensor in inputs:
        tensor.requires_grad_()
    args = {"mu": log_mean.exp(), "theta": log_dispersion.exp().expand(13, 29)}
    if inflated:
        reference = ZeroInflatedNegativeBinomial(**args, zi_logits=logits)
    else:
        reference = NegativeBinomial(**args)
    expected = -(reference.log_prob(counts).flatten() * full).sum() / full.sum()
    ours = sparse_masked_nb(
        log_mean,
        log_dispersion,
        stored,
        counts.flatten()[stored],
        weight_stored,
        zero_weight,
        full.sum(),
        logits=logits if inflated else None,
    )
    # scvi-tools adds 1e-8 within logarithms.
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)
    for a, b in zip(
        torch.autograd.grad(ours, inputs), torch.autograd.grad(expected, inputs), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)


def test_extreme_predictions_stay_finite():
    for value in (-60.0, 60.0):
        log_mean = torch.full((1, 2), value, requires_grad=True)
        loss = sparse_masked_nb(
            log_mean,
            torch.zeros(2),
            torch.tensor([0]),
            torch.tensor([3.0]),
            torch.ones(1),
            torch.tensor(1.0),
            torch.tensor(2.0),
            logits=torch.full((1, 2), -value),
        )
        assert loss.isfinite()
        assert torch.autograd.grad(loss, log_mean)[0].isfinite().all()


@pytest.mark.parametrize("per_entry", [False, True])
def test_detection_is_the_dense_cross_entropy(per_entry):
    counts, logits, *_ = example(seed=3)
    rng = torch.Generator().manual_seed(6)
    stored = counts.flatten().nonzero().squeeze(1)
    weight = torch.rand(len(stored), generator=rng)
    zero = torch.rand(13, 29, generator=rng) if per_entry else torch.tensor(0.4)
    full = zero.expand(13, 29).clone().flatten()
    full[stored] = weight
    logits.requires_grad_()
    expected = torch.nn.functional.binary_cross_entropy_with_logits(
        logits.flatten(), (counts > 0).float().flatten(), full, reduction="sum"
    )
    ours = sparse_masked_bce(
        logits, stored, counts.flatten()[stored], weight, zero, torch.tensor(1.0)
    )
    torch.testing.assert_close(ours, expected)
    torch.testing.assert_close(
        torch.autograd.grad(ours, logits)[0], torch.autograd.grad(expected, logits)[0]
    )
