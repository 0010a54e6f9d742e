from __future__ import annotations

import numpy as np
import pytest
import torch

from scssl.augment import Hidden, Masking, RandomMask
from scssl.data.matrix import GeneStatistics
from scssl.model.masked_autoencoder._network import MaskedAutoencoderModule
from scssl.module._base import BLOCK, blockwise
from scssl.objective import masked_mse


class FixedMask(Masking):
    """A mask known in advance, dense."""

    def __init__(self, dense):
        self.dense = dense

    def draw(self, x, rng, *, indicator=False):
        hidden = self.dense[x.rows, x.columns]
        return Hidden(
            ~hidden, hidden.float(), self.dense, self.dense.float().mean().item(), self.dense
        )

    def config(self):
        return {"name": "fixed"}


def batch(n=12, g=40, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(n, g, generator=generator) * (torch.rand(n, g, generator=generator) < 0.4)
    return x, {"X": x.to_sparse_csr(), "indices": torch.arange(n)}


def statistics(mean, spread):
    return GeneStatistics(mean, spread, np.full(len(mean), 1 / len(mean)), np.full(len(mean), 0.3))


def module(g=40, masking=None, **kwargs):
    torch.manual_seed(0)
    options = {
        "hidden_dims": (16, 8),
        "n_latent": 4,
        "dropout": 0.0,
        "activation": "selu",
        "masking": masking or RandomMask(0.5),
        "mask_signal": None,
        "loss": "mse",
        "latent_activation": False,
        "output_activation": None,
        "decoder": True,
        "encode_covariates": False,
        "n_categories": {},
        "n_continuous": 0,
    }
    return MaskedAutoencoderModule(g, **{**options, **kwargs})


def dense_forward(m, x):
    """The network written out with dense products, independently of the layers of the package."""
    selu = torch.nn.functional.selu
    h = selu(x @ m.gene_encoder.weight + m.gene_encoder.bias)
    for name in ("encoder", "decoder"):
        part = m.encoder[2] if name == "encoder" else m.decoder
        linear = [layer for layer in part.layers if isinstance(layer, torch.nn.Linear)]
        for i, layer in enumerate(linear):
            h = h @ layer.weight.t() + layer.bias
            if i < len(linear) - 1 or name == "decoder":
                h = selu(h)
    return h @ m.gene_decoder.weight.t() + m.gene_decoder.bias


@pytest.mark.parametrize("signal", [None, "rescale"])
def test_loss_is_the_dense_masked_loss(signal):
    x, tensors = batch()
    mask = torch.rand(x.shape, generator=torch.Generator().manual_seed(1)) < 0.5
    m = module(masking=FixedMask(mask), mask_signal=signal)
    loss = m.loss(tensors).loss
    scale = 1 / (1 - mask.float().mean()) if signal == "rescale" else 1.0
    expected = masked_mse(dense_forward(m, x * ~mask * scale), x, mask)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)
    parameters = list(m.parameters())
    ours = torch.autograd.grad(loss, parameters)
    theirs = torch.autograd.grad(expected, parameters)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_random_mask_has_the_expected_loss_of_the_published_one():
    """Zeros count in expectation: the mean over masks is that of masks drawn on every entry."""
    x, tensors = batch(n=4, g=30)
    m, rng = module(g=30, masking=RandomMask(0.3)), torch.Generator().manual_seed(0)
    with torch.no_grad():
        ours = [m.loss(tensors, rng=rng).loss.item() for _ in range(1500)]
        published = []
        for _ in range(1500):
            mask = torch.rand(x.shape, generator=rng) < 0.3
            error = (dense_forward(m, x * ~mask) - x).square() * mask
            # The number of hidden entries varies much in a batch this small; its mean does not.
            published.append(error.sum().item() / (0.3 * x.numel()))
    error = np.hypot(np.std(ours), np.std(published)) / np.sqrt(1500)
    assert abs(np.mean(ours) - np.mean(published)) < 4 * error
    assert np.std(ours) < np.std(published)


def test_sampled_loss_is_unbiased():
    _, tensors = batch(g=60)
    mask = torch.rand(12, 60, generator=torch.Generator().manual_seed(1)) < 0.5
    m = module(g=60, masking=FixedMask(mask))
    spread = np.random.default_rng(0).random(60)
    m.begin_training(statistics(np.zeros(60), spread), fresh=False, n_output_genes=15)
    rng = torch.Generator().manual_seed(0)
    full = m.loss(tensors, rng=rng, full=True).loss
    weight = m.encoder[2].layers[0].weight
    target = torch.autograd.grad(full, weight)[0]
    losses, gradients = [], []
    for _ in range(3000):
        loss = m.loss(tensors, rng=rng, full=False).loss
        losses.append(loss.item())
        gradients.append(torch.autograd.grad(loss, weight)[0])
    stacked = torch.stack(gradients)
    assert abs(np.mean(losses) - full.item()) < 4 * np.std(losses) / np.sqrt(len(losses))
    deviation = (stacked.mean(0) - target).abs() / (stacked.std(0) / len(losses) ** 0.5)
    assert deviation.max() < 5


def test_indicator_reaches_the_encoder_only_in_training():
    x, tensors = batch()
    mask = torch.rand(x.shape) < 0.5
    m = module(masking=FixedMask(mask), mask_signal="indicator")
    before = m.loss(tensors).loss.item()
    z = m.embed(tensors)
    m.indicator.data.normal_()
    assert m.loss(tensors).loss.item() != before
    assert torch.equal(m.embed(tensors), z)


def test_starts_at_the_mean_expression():
    m = module()
    mean = np.random.default_rng(0).random(40)
    m.begin_training(statistics(mean, np.ones(40)), fresh=True, n_output_genes=None)
    decoded = m.gene_decoder(torch.zeros(1, 16)).detach()
    np.testing.assert_allclose(decoded[0], mean, rtol=1e-6)
    m.begin_training(statistics(mean + 1, np.ones(40)), fresh=False, n_output_genes=None)
    assert torch.equal(m.gene_decoder(torch.zeros(1, 16)), decoded)


def test_the_decoder_is_told_the_covariates():
    m = module(n_categories={"category:batch": 3}, n_continuous=2)
    _, tensors = batch()
    tensors |= {
        "category:batch": torch.arange(12).view(-1, 1) % 3,
        "covariates:continuous": torch.zeros(12, 2),
    }
    z = m.embed(tensors)
    a = m.generative(tensors, z)["x_hat"]
    tensors["category:batch"] = (tensors["category:batch"] + 1) % 3
    assert torch.equal(m.embed(tensors), z)
    assert not torch.allclose(m.generative(tensors, z)["x_hat"], a)


@pytest.mark.parametrize("n", [0, 1, BLOCK - 1, BLOCK, 2 * BLOCK + 3])
def test_blockwise_bits_do_not_depend_on_the_height(n):
    torch.manual_seed(0)
    layer, x = torch.nn.Linear(300, 70), torch.randn(2 * BLOCK + 3, 300)
    with torch.no_grad():
        assert torch.equal(blockwise(layer, x[:n]), blockwise(layer, x)[:n])
