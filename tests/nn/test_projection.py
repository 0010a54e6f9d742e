from __future__ import annotations

import pytest
import torch
from torch import nn

from scssl.nn import BatchNormEncoder, Dropout, ProjectionHead, SparseRows
from scssl.nn._mlp import BatchNorm

NO_NORM = {"batch_norm": False}
LAST_NORM = {"last_batch_norm": True}

# Class in lightly, its arguments, our sizes and options.
HEADS = [
    ("SimCLRProjectionHead", (64, 48, 32), [64, 48, 32], LAST_NORM),
    ("SimCLRProjectionHead", (64, 48, 32, 3), [64, 48, 48, 32], LAST_NORM),
    ("SimCLRProjectionHead", (64, 48, 32, 2, False), [64, 48, 32], NO_NORM),
    ("MoCoProjectionHead", (64, 48, 32), [64, 48, 32], NO_NORM),
    ("MoCoProjectionHead", (64, 48, 32, 3, True), [64, 48, 48, 32], LAST_NORM),
    ("NNCLRProjectionHead", (64, 48, 32), [64, 48, 48, 32], LAST_NORM),
    ("NNCLRPredictionHead", (32, 48, 32), [32, 48, 32], {}),
    ("BYOLProjectionHead", (64, 48, 32), [64, 48, 32], {}),
    ("BYOLPredictionHead", (32, 48, 32), [32, 48, 32], {}),
    ("SimSiamProjectionHead", (64, 48, 32), [64, 48, 48, 32], {**LAST_NORM, "last_affine": False}),
    ("SimSiamPredictionHead", (32, 16, 32), [32, 16, 32], {}),
    ("BarlowTwinsProjectionHead", (64, 48, 32), [64, 48, 48, 32], {}),
    ("VICRegProjectionHead", (64, 48, 32, 2), [64, 48, 32], {}),
    ("VICRegProjectionHead", (64, 48, 32, 3), [64, 48, 48, 32], {}),
]


@pytest.mark.parametrize(("name", "arguments", "sizes", "options"), HEADS)
def test_equals_lightly(name, arguments, sizes, options):
    heads = pytest.importorskip("lightly.models.modules.heads")
    theirs, ours = getattr(heads, name)(*arguments), ProjectionHead(sizes, **options)
    # Strict: neither has a parameter, or a statistic, that the other has not.
    ours.load_state_dict(theirs.state_dict())
    assert len(ours.layers) == len(theirs.layers)
    assert all(isinstance(a, type(b)) for a, b in zip(ours.layers, theirs.layers, strict=True))
    torch.manual_seed(0)
    for _ in range(3):
        x = torch.randn(10, sizes[0]) * 2 + 1
        torch.testing.assert_close(ours.train()(x), theirs.train()(x))
    # After three batches the statistics have moved.
    x = torch.randn(7, sizes[0])
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x))


def test_by_hand():
    torch.manual_seed(0)
    head = ProjectionHead([5, 4, 3], last_batch_norm=True, last_affine=False)
    first, norm1, relu, last, norm2 = head.layers
    assert isinstance(relu, nn.ReLU)
    nn.init.uniform_(norm1.weight)
    nn.init.uniform_(norm1.bias)
    x = torch.randn(20, 5)
    h = x @ first.weight.T
    h = (h - h.mean(0)) / torch.sqrt(h.var(0, correction=0) + 1e-5) * norm1.weight + norm1.bias
    y = h.clamp(min=0) @ last.weight.T
    y = (y - y.mean(0)) / torch.sqrt(y.var(0, correction=0) + 1e-5)
    torch.testing.assert_close(head(x), y)
    assert first.bias is None
    assert last.bias is None
    assert norm2.weight is None


@pytest.mark.parametrize(
    ("bias", "expected"), [("auto", [False, True]), (True, [True, True]), (False, [False, False])]
)
def test_bias(bias, expected):
    head = ProjectionHead([5, 4, 3], bias=bias)
    assert [m.bias is not None for m in head.layers if isinstance(m, nn.Linear)] == expected


def test_one_size_is_no_head():
    with pytest.raises(ValueError, match=r"as in \[64, 256, 64\]; found \[64\]"):
        ProjectionHead([64])


def cells(n=12, n_genes=40):
    generator = torch.Generator().manual_seed(2)
    x = torch.rand(n, n_genes, generator=generator) * 3
    return x * (torch.rand(n, n_genes, generator=generator) < 0.3)


@pytest.mark.parametrize("batch_norm", [True, False])
def test_encoder_of_sparse_and_dense_cells_is_the_same(batch_norm):
    torch.manual_seed(0)
    encoder = BatchNormEncoder(40, hidden_dims=(16, 8), n_latent=4, batch_norm=batch_norm)
    x = cells()
    for mode in (True, False):
        encoder.train(mode)
        torch.testing.assert_close(encoder(SparseRows.from_tensor(x)), encoder(x))


def test_encoder_equals_the_plain_layers():
    torch.manual_seed(0)
    encoder = BatchNormEncoder(40, hidden_dims=(16,), n_latent=4)
    plain = nn.Sequential(
        nn.Linear(40, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 4), nn.BatchNorm1d(4)
    )
    (last,) = (m for m in encoder.rest if isinstance(m, nn.Linear))
    with torch.no_grad():
        plain[0].weight.copy_(encoder.gene_encoder.weight.T)
        plain[3].weight.copy_(last.weight)
    # The plain layers have biases and ours have none, which makes no difference in training.
    torch.testing.assert_close(encoder(cells()), plain(cells()))
    with torch.no_grad():
        for i in (0, 3):
            plain[i].bias.zero_()
    for norm in (plain[1], plain[4]):
        norm.momentum = 1.0
    for norm in (m for m in encoder.rest if isinstance(m, nn.BatchNorm1d)):
        norm.momentum = 1.0
    # With a momentum of 1 the statistics are those of the last batch, whatever was before.
    encoder(cells()), plain(cells())
    torch.testing.assert_close(encoder.eval()(cells(5)), plain.eval()(cells(5)))


def test_encoder_layers():
    def kinds(encoder):
        return [type(m) for m in encoder.rest]

    norm = BatchNormEncoder(40, hidden_dims=(16, 8), n_latent=4, dropout=0.2)
    hidden = [BatchNorm, nn.ReLU, nn.Linear]
    assert kinds(norm) == [*hidden, *hidden, BatchNorm, Dropout]
    assert norm.rest[-1].p == 0.2
    plain = BatchNormEncoder(40, hidden_dims=(16, 8), n_latent=4, dropout=0.2, batch_norm=False)
    assert kinds(plain) == [nn.ReLU, Dropout, nn.Linear] * 2
    assert plain.gene_encoder.bias.requires_grad
    # Nothing that batch norm would take away again is trained.
    assert not norm.gene_encoder.bias.requires_grad
    assert all(m.bias is None for m in norm.rest if isinstance(m, nn.Linear))


def test_encoder_default_widths():
    encoder = BatchNormEncoder(40)
    assert encoder.gene_encoder.weight.shape == (40, 128)
    assert encoder(cells()).shape == (12, 64)


def test_every_trained_parameter_of_the_encoder_has_a_gradient():
    encoder = BatchNormEncoder(40, hidden_dims=(16, 8), n_latent=4)
    (encoder(SparseRows.from_tensor(cells())) * torch.randn(12, 4)).sum().backward()
    for name, parameter in encoder.named_parameters():
        if parameter.requires_grad:
            assert (parameter.grad != 0).any(), name


def test_an_embedding_in_evaluation_does_not_depend_on_the_batch():
    torch.manual_seed(0)
    encoder = BatchNormEncoder(40)
    for _ in range(3):
        encoder(cells())
    before = {k: v.clone() for k, v in encoder.state_dict().items()}
    encoder.eval()
    first = encoder.gene_encoder(SparseRows.from_tensor(cells(256)))
    z = encoder.rest(first)
    assert torch.equal(encoder.rest(first.roll(7, 0)).roll(-7, 0), z)
    # Public code embedded with batch norm in training: statistics of the batch, and updated.
    for name, value in encoder.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert not torch.allclose(encoder.train().rest(first), z, atol=1e-2)


def test_encoder_without_hidden_layers_is_linear():
    encoder = BatchNormEncoder(40, hidden_dims=(), n_latent=5, batch_norm=False, dropout=0.5)
    assert len(list(encoder.parameters())) == 2
    one, other = torch.rand(2, 3, 40)
    torch.testing.assert_close(
        encoder(2 * one + other),
        2 * encoder(one) + encoder(other) - 2 * encoder(torch.zeros(3, 40)),
    )
    normalised = BatchNormEncoder(40, hidden_dims=(), n_latent=5).train()(torch.rand(9, 40))
    torch.testing.assert_close(normalised.mean(0), torch.zeros(5), atol=1e-5, rtol=0)
