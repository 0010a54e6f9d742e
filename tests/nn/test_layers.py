from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scssl.nn import (
    MLP,
    SELU,
    Dropout,
    GeneDecoder,
    GeneEncoder,
    GeneSampler,
    SparseRows,
    activation,
)
from scssl.nn._mlp import effective_rank


def random_cells(n, g, density, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(n, g, generator=generator) + 0.1
    return x * (torch.rand(n, g, generator=generator) < density)


@settings(deadline=None, max_examples=30)
@given(
    n=st.integers(0, 7), g=st.integers(1, 11), density=st.floats(0, 1), seed=st.integers(0, 1000)
)
def test_sparse_rows_round_trip(n, g, density, seed):
    x = random_cells(n, g, density, seed)
    rows = SparseRows.from_tensor(x)
    assert torch.equal(rows.to_dense(), x)
    assert torch.equal(rows.to_dense(), SparseRows.from_tensor(x.to_sparse_csr()).to_dense())
    kept = torch.rand(rows.n_stored, generator=torch.Generator().manual_seed(seed)) < 0.5
    expected = x.clone()
    expected[rows.rows[~kept], rows.columns[~kept]] = 0
    assert torch.equal(rows.keep(kept).to_dense(), expected)


@settings(deadline=None, max_examples=30)
@given(
    n=st.integers(1, 9), g=st.integers(1, 20), density=st.floats(0, 1), seed=st.integers(0, 1000)
)
def test_gene_encoder_is_the_dense_layer(n, g, density, seed):
    """Against torch's dense layer: output, and gradients of weight and bias."""
    x = random_cells(n, g, density, seed)
    torch.manual_seed(seed)
    sparse, dense = GeneEncoder(g, 5), torch.nn.Linear(g, 5)
    dense.weight.data, dense.bias.data = sparse.weight.data.t().clone(), sparse.bias.data.clone()
    a, b = sparse(SparseRows.from_tensor(x)), dense(x)
    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    seed_gradient = torch.randn(n, 5)
    a.backward(seed_gradient)
    b.backward(seed_gradient)
    torch.testing.assert_close(sparse.weight.grad.t(), dense.weight.grad, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(sparse.bias.grad, dense.bias.grad, rtol=1e-5, atol=1e-5)


def test_selu_is_torchs():
    x = torch.linspace(-8, 8, 501, dtype=torch.float64, requires_grad=True)
    y = x.detach().clone().requires_grad_()
    torch.testing.assert_close(SELU()(x), torch.nn.SELU()(y))
    SELU()(x).sum().backward()
    torch.nn.SELU()(y).sum().backward()
    torch.testing.assert_close(x.grad, y.grad)


def test_activation_by_name():
    assert isinstance(activation("gelu"), torch.nn.GELU)
    with pytest.raises(ValueError, match="found 'tanhh'"):
        activation("tanhh")


def test_decoding_some_genes_is_part_of_decoding_all():
    decoder, hidden = GeneDecoder(4, 10), torch.randn(3, 4)
    genes = torch.tensor([1, 4, 9])
    torch.testing.assert_close(decoder(hidden, genes), decoder(hidden)[:, genes])
    decoder(hidden, genes).square().sum().backward()
    assert decoder.weight.grad.is_sparse
    sparse = decoder.weight.grad.to_dense()
    decoder.zero_grad()
    decoder(hidden)[:, genes].square().sum().backward()
    torch.testing.assert_close(sparse, decoder.weight.grad)


@settings(deadline=None, max_examples=40)
@given(g=st.integers(1, 60), part=st.floats(0.01, 1), seed=st.integers(0, 1000))
def test_sampler_probabilities(g, part, seed):
    rng = np.random.default_rng(seed)
    n_draw = max(1, round(part * g))
    sampler = GeneSampler(rng.random(g) ** 8, n_draw)
    assert sampler.probability.sum() == pytest.approx(n_draw)
    assert (sampler.probability > 0).all()
    assert (sampler.probability <= 1).all()
    genes, weight = sampler.draw(torch.Generator().manual_seed(seed))
    assert len(genes) == n_draw
    assert (genes.diff() > 0).all()
    np.testing.assert_allclose(weight, 1 / sampler.probability[genes], rtol=1e-6)


def test_sampled_sum_is_unbiased():
    rng = np.random.default_rng(0)
    spread, values = rng.random(50) ** 4, torch.from_numpy(rng.random(50))
    sampler, generator = GeneSampler(spread, 10), torch.Generator().manual_seed(0)
    sums = []
    for _ in range(4000):
        genes, weight = sampler.draw(generator)
        sums.append((values[genes] * weight).sum().item())
    error = np.std(sums) / np.sqrt(len(sums))
    assert abs(np.mean(sums) - values.sum().item()) < 4 * error
    assert np.std(sums) > 0


def test_sampler_prefers_variable_genes():
    spread = np.array([10.0, 10.0] + [0.01] * 100)
    sampler = GeneSampler(spread, 20)
    assert (sampler.probability[:2] == 1).all()
    assert sampler.probability[2:].max() < 0.5


def test_sampler_of_constant_genes():
    assert GeneSampler(np.zeros(8), 4).probability == pytest.approx(0.5)
    with pytest.raises(ValueError, match="whole number from 1 to 8, found 9"):
        GeneSampler(np.ones(8), 9)


def test_mlp_shape():
    mlp = MLP([3, 5, 2], dropout=0.0, last_activation=False)
    kinds = [type(layer).__name__ for layer in mlp.layers]
    assert kinds == ["Linear", "SELU", "Dropout", "Linear"]


def test_effective_rank():
    assert effective_rank(torch.randn(5000, 8, generator=torch.Generator().manual_seed(0))) > 7.9
    line = torch.arange(20.0).unsqueeze(1) @ torch.ones(1, 6)
    assert effective_rank(line) == pytest.approx(1, abs=1e-3)
    assert effective_rank(torch.ones(20, 6)) == 0
    assert effective_rank(torch.full((20, 6), 0.1) + 1e-9 * torch.randn(20, 6)) == 0


def test_dropout():
    layer, x = Dropout(0.3), torch.ones(501, 403, requires_grad=True)
    torch.manual_seed(0)
    y = layer(x)
    torch.testing.assert_close(torch.autograd.grad(y.sum(), x)[0], y.detach())
    y = y.detach()
    assert (y == 0).float().mean().item() == pytest.approx(0.3, abs=0.005)
    assert y[y != 0].unique().numpy() == pytest.approx(1 / 0.7, rel=1e-4)
    # Neighbouring units share a random word, but no fate.
    dropped = (y == 0).float().flatten()[: 4 * 50_000].view(-1, 4)
    correlation = np.corrcoef(dropped.T) - np.eye(4)
    assert np.abs(correlation).max() < 0.02
    torch.manual_seed(0)
    assert torch.equal(layer(x), y)
    assert layer.eval()(x) is x
    assert Dropout(0.0)(x) is x
