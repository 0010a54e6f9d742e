"""Likelihood of counts and of detection, against scvi-tools, SciPy and PyTorch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from scvi.distributions import NegativeBinomial, ZeroInflatedNegativeBinomial

from scssl.objective import nb_nll, sparse_masked_bce, sparse_masked_nb


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
