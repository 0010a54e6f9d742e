"""Latent spaces: what they draw, what they are in evaluation, and what they cost."""

from __future__ import annotations

import math

import pytest
import torch
from torch import distributions, nn
from torch.nn import functional

from scssl.nn._latent import LATENTS, Latent, Variational

N, D, L, K = 200, 12, 5, 4


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def make():
    def build(kind, *, train):
        torch.manual_seed(0)
        latent, variational = Latent(kind, D, L, K), Variational(kind, D, L, K)
        for module in (latent, variational):
            module.train(train)
            for parameter in module.parameters():
                nn.init.normal_(parameter, std=0.5)
        return latent, variational

    return build


@pytest.fixture
def hidden():
    return torch.randn(N, D, generator=seeded(5))


@pytest.mark.parametrize("kind", LATENTS)
def test_evaluation_is_deterministic(kind, make, hidden):
    latent, variational = make(kind, train=False)
    torch.manual_seed(1)
    first = latent(hidden)
    before = torch.get_rng_state()
    again = latent(hidden)
    assert torch.equal(first[0], again[0])
    assert torch.equal(before, torch.get_rng_state())
    # The mean is what is decoded, and what a cell is does not depend on the others.
    posterior = variational(*first, rng=seeded())
    assert torch.equal(posterior.sample, first[0])
    torch.testing.assert_close(latent(hidden[3:9])[0], first[0][3:9])


def test_the_embedding_of_a_point_and_of_a_gaussian_is_one_layer(make, hidden):
    for kind in ("ae", "vae"):
        latent, _ = make(kind, train=True)
        expected = hidden @ latent.mean.weight.T + latent.mean.bias
        torch.testing.assert_close(latent(hidden)[0], expected)
        assert latent.mean.weight.shape == (L, D)
    assert [name for name, _ in make("ae", train=True)[1].named_parameters()] == []


def test_a_point_costs_nothing(make, hidden):
    latent, variational = make("ae", train=True)
    posterior = variational(*latent(hidden), rng=seeded())
    assert posterior.sample is not None
    assert torch.equal(posterior.sample, latent(hidden)[0])
    assert not posterior.divergence.any()
    assert posterior.divergence.shape == (N,)
    assert posterior.cluster_divergence is None


@pytest.mark.parametrize("train", [False, True])
def test_divergence_of_one_gaussian(train, make, hidden):
    latent, variational = make("vae", train=train)
    mean, inner, logits, assigned = latent(hidden)
    assert logits is None
    assert assigned is None
    posterior = variational(mean, inner, logits, assigned, rng=seeded())
    layer = variational.log_variance
    log_variance = (hidden @ layer.weight.T + layer.bias).clamp(-5, 5)
    scale = (log_variance.exp() + 1e-4).sqrt()
    own = distributions.Normal(mean, scale)
    expected = distributions.kl_divergence(own, distributions.Normal(0.0, 1.0)).sum(1)
    torch.testing.assert_close(posterior.divergence, expected, rtol=1e-4, atol=1e-4)
    assert posterior.cluster_divergence is None
    assert bool((expected > 0).all())


def test_draws_are_of_the_posterior(make):
    latent, variational = make("vae", train=True)
    one = torch.randn(1, D, generator=seeded(1)).expand(40_000, D)
    mean, *rest = latent(one)
    drawn = variational(mean, *rest, rng=seeded()).sample
    variance = variational.log_variance(one)[0].clamp(-5, 5).exp() + 1e-4
    torch.testing.assert_close(drawn.mean(0), mean[0], atol=0.05, rtol=0.02)
    torch.testing.assert_close(drawn.var(0), variance, rtol=0.05, atol=1e-3)
    again = variational(mean, *rest, rng=seeded()).sample
    other = variational(mean, *rest, rng=seeded(1)).sample
    assert torch.equal(drawn, again)
    assert not torch.equal(drawn, other)


def test_variances_are_bounded(make, hidden):
    latent, variational = make("vae", train=True)
    with torch.no_grad():
        variational.log_variance.bias.fill_(1e4)
    mean, *rest = latent(hidden)
    found = variational(mean, *rest, rng=seeded()).divergence
    top = math.exp(5) + 1e-4
    expected = 0.5 * (mean.square() + top - 1 - math.log(top)).sum(1)
    torch.testing.assert_close(found, expected)


def mixture(latent, variational, hidden, assigned):
    """Mean, divergence and cost of the assignment of each cell, one cell and dimension at a time."""
    mixed = functional.relu(
        torch.cat([hidden, assigned], 1) @ latent.mix.weight.T + latent.mix.bias
    )
    mean = mixed @ latent.mean.weight.T + latent.mean.bias
    variance = functional.softplus(variational.variance(mixed)) + 1e-4
    prior_mean = assigned @ variational.prior_mean.weight.T + variational.prior_mean.bias
    prior = assigned @ variational.prior_variance.weight.T + variational.prior_variance.bias
    prior_variance = functional.softplus(prior) + 1e-4
    own = distributions.Normal(mean, variance.sqrt())
    divergence = distributions.kl_divergence(
        own, distributions.Normal(prior_mean, prior_variance.sqrt())
    ).sum(1)
    shares = distributions.Categorical(logits=latent.clusters(hidden))
    uniform = distributions.Categorical(logits=torch.zeros(K))
    return mean, divergence, distributions.kl_divergence(shares, uniform)


def test_divergence_of_a_mixture_in_evaluation(make, hidden):
    latent, variational = make("gmvae", train=False)
    mean, inner, logits, assigned = latent(hidden)
    best = torch.zeros(N, K)
    best[torch.arange(N), latent.clusters(hidden).argmax(1)] = 1
    assert torch.equal(assigned, best)
    assert len(best.argmax(1).unique()) > 1
    expected_mean, divergence, told = mixture(latent, variational, hidden, best)
    posterior = variational(mean, inner, logits, assigned)
    torch.testing.assert_close(mean, expected_mean)
    torch.testing.assert_close(posterior.divergence, divergence, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(posterior.cluster_divergence, told, rtol=1e-4, atol=1e-5)
    assert bool((told <= math.log(K)).all())


def test_clusters_are_drawn_in_training_only(make, hidden):
    latent, variational = make("gmvae", train=True)
    torch.manual_seed(1)
    mean, inner, logits, assigned = latent(hidden)
    torch.testing.assert_close(assigned.sum(1), torch.ones(N))
    # Softly.
    assert float(((assigned > 0.05) & (assigned < 0.95)).float().mean()) > 0.1
    other = latent(hidden)
    assert not torch.equal(other[3], assigned)
    assert not torch.equal(other[0], mean)
    torch.manual_seed(1)
    assert torch.equal(latent(hidden)[3], assigned)
    expected_mean, divergence, _ = mixture(latent, variational, hidden, assigned)
    posterior = variational(mean, inner, logits, assigned, rng=seeded())
    torch.testing.assert_close(mean, expected_mean)
    torch.testing.assert_close(posterior.divergence, divergence, rtol=1e-4, atol=1e-4)
    # The most probable cluster is drawn as often as its probability says (Gumbel-max).
    one = hidden[:1].expand(20_000, D)
    _, _, logits, assigned = latent(one)
    found = torch.bincount(assigned.argmax(1), minlength=K) / 20_000
    torch.testing.assert_close(found, logits[0].softmax(0), atol=0.015, rtol=0)


def test_what_is_told_of_clusters_has_a_gradient(make, hidden):
    latent, variational = make("gmvae", train=True)
    posterior = variational(*latent(hidden), rng=seeded())
    posterior.cluster_divergence.mean().backward()
    assert float(latent.clusters.weight.grad.abs().max()) > 1e-4


def test_costs_are_in_single_precision_under_autocast(make, hidden):
    for kind in ("vae", "gmvae"):
        latent, variational = make(kind, train=False)
        exact = variational(*latent(hidden)).divergence
        with torch.autocast("cpu", dtype=torch.bfloat16):
            posterior = variational(*latent(hidden))
        assert posterior.divergence.dtype == torch.float32
        # Where two clusters are as probable, rounding decides.
        near = (posterior.divergence - exact).abs() < 0.3 + 0.1 * exact
        assert int(near.sum()) >= 0.97 * N
