"""From an embedding to the layer before the genes, and what it is told of a cell."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from scssl.nn._cell_transformer import CellDecoder

N, L, D, OUT = 9, 5, 8, 6


def build(categories=None, n_continuous=0, *, dropout=0.0):
    torch.manual_seed(0)
    decoder = CellDecoder(
        L, D, OUT, dropout=dropout, n_categories=categories or {}, n_continuous=n_continuous
    )
    for parameter in decoder.parameters():
        nn.init.normal_(parameter, mean=0.1, std=0.7)
    return decoder.eval()


def group_norm(x, norm):
    """Groups of a fourth of the features, of each cell by itself."""
    groups = x.reshape(len(x), 4, -1)
    mean = groups.mean(-1, keepdim=True)
    variance = (groups - mean).square().mean(-1, keepdim=True)
    return ((groups - mean) / (variance + 1e-5).sqrt()).reshape(x.shape) * norm.weight + norm.bias


def prelu(x, slope):
    return torch.where(x > 0, x, slope * x)


def direct(decoder, z, rows=(), continuous=None):
    """The formula, with a row for each covariate."""
    x = z @ decoder.input.weight.T + decoder.input.bias
    h = group_norm(prelu(x, decoder.activation.weight), decoder.norm)
    for row in rows:
        h = h + row
    if continuous is not None:
        h = h + continuous @ decoder.continuous.weight.T
    return functional.relu(h @ decoder.hidden.weight.T + decoder.hidden.bias)


def activated(covariate):
    """What is added for each category."""
    return group_norm(
        prelu(covariate.embedding.weight, covariate.activation.weight), covariate.norm
    )


@pytest.fixture
def z():
    return torch.randn(N, L, generator=torch.Generator().manual_seed(1))


def test_without_covariates(z):
    decoder = build()
    torch.testing.assert_close(decoder(z, []), direct(decoder, z))
    assert decoder.continuous is None


def test_categories_are_added_once_activated(z):
    decoder = build({"batch": 3, "donor": 5})
    codes = [torch.tensor([0, 1, 2, 0, 1, 2, 0, 1, 2]), torch.tensor([4, 3, 2, 1, 0, 4, 3, 2, 1])]
    rows = [activated(c)[code] for c, code in zip(decoder.covariates, codes, strict=True)]
    torch.testing.assert_close(decoder(z, codes), direct(decoder, z, rows))


def test_an_unknown_category_is_the_mean_of_what_is_added_for_the_known(z):
    decoder = build({"batch": 3})
    (covariate,) = decoder.covariates
    mean = activated(covariate).mean(0)
    expected = direct(decoder, z, [mean])
    torch.testing.assert_close(decoder(z, [torch.full((N,), -1)]), expected)
    torch.testing.assert_close(decoder(z, [None]), expected)
    # Neither the sum of the rows as they are, nor their mean before the activation.
    raw = covariate.embedding.weight
    for other in (raw.sum(0, keepdim=True), raw.mean(0, keepdim=True)):
        wrong = group_norm(prelu(other, covariate.activation.weight), covariate.norm)
        assert not torch.allclose(direct(decoder, z, [wrong]), expected, atol=0.05)
    some = torch.tensor([0, -1, 2, -1, 1, -1, 0, -1, 2])
    found = decoder(z, [some])
    torch.testing.assert_close(found[some < 0], expected[some < 0])
    torch.testing.assert_close(
        found[some >= 0], direct(decoder, z, [activated(covariate)[some]])[some >= 0]
    )


def test_an_unknown_category_teaches_all_rows(z):
    decoder = build({"batch": 3})
    decoder(z, [None]).sum().backward()
    grad = decoder.covariates[0].embedding.weight.grad
    assert (grad.abs().sum(1) > 0).all()


def test_continuous_covariates(z):
    decoder = build({"batch": 2}, 3)
    ages = torch.randn(N, 3, generator=torch.Generator().manual_seed(2))
    rows = [activated(decoder.covariates[0])[torch.zeros(N, dtype=torch.int64)]]
    found = decoder(z, [torch.zeros(N, dtype=torch.int64)], ages)
    torch.testing.assert_close(found, direct(decoder, z, rows, ages))
    # Not told: nothing is added.
    torch.testing.assert_close(
        decoder(z, [torch.zeros(N, dtype=torch.int64)]), direct(decoder, z, rows)
    )


def test_every_covariate_needs_codes(z):
    with pytest.raises(ValueError, match="zip"):
        build({"batch": 2, "donor": 2})(z, [None])


def test_dropout_is_of_training_only(z):
    decoder = build(dropout=0.5)
    assert torch.equal(decoder(z, []), decoder(z, []))
    decoder.train()
    assert not torch.equal(decoder(z, []), decoder(z, []))
