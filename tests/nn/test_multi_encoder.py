"""Encoders of several modalities against dense formulas."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from scssl.nn import ModalityRows, MultiEncoder, MultiView, SparseRows

FUSIONS = ("concat", "add", "mean", "clip")
HAS_RNA, HAS_PROTEIN = torch.tensor([0, 1, 2, 4, 5, 7]), torch.tensor([1, 2, 3, 5, 6, 7])


def make(fusion, **options):
    torch.manual_seed(0)
    encoder = MultiEncoder(
        {"rna": 12, "protein": 5}, fusion=fusion, hidden_dims=(7,), n_latent=4, **options
    )
    for part in encoder.encoders.values():
        for layer in part.rest:
            if isinstance(layer, torch.nn.BatchNorm1d):
                torch.nn.init.normal_(layer.bias)
                torch.nn.init.uniform_(layer.running_var, 0.5, 2.0)
                torch.nn.init.normal_(layer.running_mean)
    return encoder


@pytest.fixture
def view():
    torch.manual_seed(1)
    rna, protein = torch.rand(6, 12), torch.rand(6, 5)
    sparse = SparseRows.from_tensor(rna)
    parts = {"rna": ModalityRows(sparse, HAS_RNA), "protein": ModalityRows(protein, HAS_PROTEIN)}
    return MultiView(parts, 8), {"rna": rna, "protein": protein}


def dense(encoder, name, x, training):
    """The layers of one encoder, written out."""
    part = encoder.encoders[name]
    first, activation, second, last = part.rest[0], torch.relu, part.rest[2], part.rest[3]

    def norm(h, layer):
        mean, var = layer.running_mean, layer.running_var
        if training:
            mean, var = h.mean(0), h.var(0, unbiased=False)
        return (h - mean) / torch.sqrt(var + layer.eps) * layer.weight + layer.bias

    h = activation(norm(x @ part.gene_encoder.weight + part.gene_encoder.bias, first))
    return norm(h @ second.weight.T, last), last.bias


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("fusion", FUSIONS)
def test_fusion_against_a_loop_over_cells(view, fusion, training):
    view, values = view
    encoder = make(fusion).train(training)
    found = encoder(view)
    z = {name: dense(encoder, name, x, training) for name, x in values.items()}
    places = {"rna": HAS_RNA.tolist(), "protein": HAS_PROTEIN.tolist()}
    expected = []
    for cell in range(8):
        own = {n: z[n][0][places[n].index(cell)] for n in places if cell in places[n]}
        filled = [own.get(name, z[name][1]) for name in ("rna", "protein")]
        if fusion == "concat":
            expected.append(torch.cat(filled))
        elif fusion == "add":
            expected.append(filled[0] + filled[1])
        else:
            expected.append(torch.stack(list(own.values())).mean(0))
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-4, atol=1e-5)
    assert found.shape == (8, encoder.n_out)


def test_statistics_are_of_the_cells_that_have_it(view):
    view, values = view
    encoder = make("concat").train()
    part = encoder.encoders["protein"]
    before = part.rest[0].running_mean.clone()
    encoder(view)
    first = values["protein"] @ part.gene_encoder.weight + part.gene_encoder.bias
    torch.testing.assert_close(part.rest[0].running_mean, 0.9 * before + 0.1 * first.mean(0))


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("n", [0, 1])
def test_batches_with_no_or_one_cell_of_a_modality(view, fusion, n):
    _, values = view
    parts = {
        "rna": ModalityRows(values["rna"], torch.arange(6)),
        "protein": ModalityRows(values["protein"][:n], torch.tensor([2])[:n]),
    }
    encoder = make(fusion).train()
    z = encoder(MultiView(parts, 6))
    assert torch.isfinite(z).all()
    z.sum().backward()
    assert all(p.grad is not None for p in encoder.parameters() if p.requires_grad)
    assert encoder.encoders["protein"].training
    assert encoder.encoders["protein"].rest[0].training
    # One cell is normalised with the running statistics, which stay.
    if n:
        expected = dense(encoder, "protein", values["protein"][:1], training=False)[0]
        found = MultiView(parts, 6).embedded(encoder)["protein"]
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_without_batch_norm_an_absent_modality_is_zero(view):
    view, _ = view
    z = make("concat", batch_norm=False)(view)
    assert (z[3, :4] == 0).all()
    assert (z[0, 4:] == 0).all()
    assert (z[1] != 0).all()


def test_embeddings_of_a_view_are_computed_once(view):
    view, _ = view
    encoder, other = make("concat"), make("concat")
    assert view.embedded(encoder)["rna"] is view.embedded(encoder)["rna"]
    assert view.embedded(encoder)["rna"] is not view.embedded(other)["rna"]


def test_bad_arguments():
    with pytest.raises(ValueError, match="found 'product'"):
        MultiEncoder({"rna": 3}, fusion="product")
    with pytest.raises(ValueError, match="one modality at least"):
        MultiEncoder({})


def test_a_cell_has_the_same_bits_in_any_batch():
    encoder = make("mean").eval()
    x = np.random.default_rng(0).random((9, 4)).astype(np.float32)
    z = {"rna": torch.from_numpy(x), "protein": torch.from_numpy(x[:5] * 2)}
    parts = {
        "rna": ModalityRows(torch.zeros(9, 12), torch.arange(9)),
        "protein": ModalityRows(torch.zeros(5, 5), torch.arange(5)),
    }
    whole = encoder.fuse(z, MultiView(parts, 9))
    alone = {
        "rna": ModalityRows(torch.zeros(1, 12), torch.arange(1)),
        "protein": ModalityRows(torch.zeros(1, 5), torch.arange(1)),
    }
    for cell in range(5):
        one = {name: rows[cell : cell + 1] for name, rows in z.items()}
        assert torch.equal(encoder.fuse(one, MultiView(alone, 1))[0], whole[cell])
