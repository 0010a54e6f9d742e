"""The parts of a transformer of cells: places and latent space."""

from __future__ import annotations

import math

import pytest
import torch
from torch import distributions, nn
from torch.nn import functional

from scssl.nn import SinusoidalPosition2d
from scssl.nn._cell_transformer import LATENTS, Latent, Variational


def by_hand(x, y, n_hidden, n_grid):
    """Channels of one cell, one after the other."""
    channels = []
    for coordinate in (x, y):
        place = math.floor((1.02 * coordinate - 0.01) * n_grid)
        place = min(max(place, 0), n_grid - 1)
        half = n_hidden // 2
        for i in range(0, half, 2):
            angle = place / 10_000 ** (i / half)
            channels += [math.sin(angle), math.cos(angle)]
    return torch.tensor(channels)


def coordinates(n=200):
    return torch.rand(n, 2, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("n_hidden", "n_grid"), [(64, 100), (8, 100), (4, 7), (20, 1)])
def test_equals_the_formula(n_hidden, n_grid):
    position = coordinates()
    found = SinusoidalPosition2d(n_hidden, n_grid)(position)
    expected = torch.stack([by_hand(x, y, n_hidden, n_grid) for x, y in position.tolist()])
    torch.testing.assert_close(found, expected)


def test_edges_and_beyond():
    layer = SinusoidalPosition2d(16)
    edge = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    beyond = torch.tensor([[-5.0, 1.5], [torch.inf, -torch.inf]])
    assert torch.equal(layer(beyond), layer(edge))
    expected = torch.stack([by_hand(0, 1, 16, 100), by_hand(1, 0, 16, 100)])
    torch.testing.assert_close(layer(edge), expected)
    torch.testing.assert_close(layer(edge)[0, 8], torch.tensor(99.0).sin())


def test_axes_are_told_apart():
    layer = SinusoidalPosition2d(16)
    one, other = layer(torch.tensor([[0.2, 0.7], [0.7, 0.2]]))
    assert torch.equal(one.roll(8), other)
    assert not torch.equal(one, other)
    # Every place has its own channels.
    centres = (torch.arange(100) + 0.5 + 1) / 102
    grid = torch.cartesian_prod(centres, centres)
    assert len(layer(grid).unique(dim=0)) == 10_000


@pytest.mark.parametrize("row", [[torch.nan, torch.nan], [0.5, torch.nan], [torch.nan, 0.5]])
def test_cells_without_coordinates(row):
    layer = SinusoidalPosition2d(16)
    with torch.no_grad():
        layer.missing.normal_()
    position = coordinates(10)
    position[[3, 7]] = torch.tensor(row)
    y = layer(position)
    present = [i for i in range(10) if i not in (3, 7)]
    # By cell, whatever the first cell of the batch has.
    assert torch.equal(y[[3, 7]], layer.missing.expand(2, -1))
    assert torch.equal(y[present], layer(position[present]))
    weights = torch.randn(10, 16)
    (y * weights).sum().backward()
    torch.testing.assert_close(layer.missing.grad, weights[3] + weights[7])


def test_nothing_but_missing_is_learned_or_saved():
    layer = SinusoidalPosition2d(16)
    assert set(layer.state_dict()) == {"missing"}
    assert [name for name, _ in layer.named_parameters()] == ["missing"]
    torch.manual_seed(5)
    assert torch.equal(SinusoidalPosition2d(16).table, layer.table)


def test_under_autocast_and_in_other_types():
    layer, position = SinusoidalPosition2d(16), coordinates()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer(position), layer(position))
    expected = layer(position)
    assert torch.equal(layer(position.double()), expected)
    half = layer.bfloat16()(position)
    assert half.dtype == torch.bfloat16
    assert torch.equal(half, expected.bfloat16())


def test_no_cells():
    assert SinusoidalPosition2d(16)(torch.empty(0, 2)).shape == (0, 16)


@pytest.mark.parametrize("shape", [(5, 3), (5,), (2, 5, 2)])
def test_positions_of_another_shape(shape):
    with pytest.raises(ValueError, match=r"must have the shape \(n_cells, 2\); found"):
        SinusoidalPosition2d(16)(torch.zeros(shape))


@pytest.mark.parametrize("n_hidden", [0, 6, 2, 15])
def test_width_that_does_not_fit(n_hidden):
    with pytest.raises(ValueError, match=rf"multiple of 4.*found {n_hidden}"):
        SinusoidalPosition2d(n_hidden)


def test_grid_must_be_positive():
    with pytest.raises(ValueError, match="`n_grid` must be an integer of at least 1, found 0"):
        SinusoidalPosition2d(16, 0)


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
