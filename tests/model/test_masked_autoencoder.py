"""What only the masked autoencoder does."""

from __future__ import annotations

import numpy as np
import pytest

import scssl
from scssl.model._training import resolve_output_genes
from scssl.module._masked_autoencoder import default_hidden_dims

from .conftest import TRAIN, make_counts

MODEL = scssl.model.MaskedAutoencoder


@pytest.fixture(scope="module")
def model():
    adata = make_counts(n_cells=300)
    MODEL.setup_anndata(adata)
    model = MODEL(adata, hidden_dims=(64, 32), n_latent=8)
    model.train(60, batch_size=32, progress=False)
    return model


def normalised(adata):
    x = adata.X.toarray()
    return np.log1p(x / x.sum(1, keepdims=True) * 1e4)


def test_default_architecture():
    small, large = (256, 128), (512, 512, 256, 256)
    assert default_hidden_dims(5000, 10**6) == small
    assert default_hidden_dims(20_000, 19_999) == small
    assert default_hidden_dims(5001, 20_000) == large
    adata = make_counts(n_cells=10)
    MODEL.setup_anndata(adata)
    assert MODEL(adata)._config()["hidden_dims"] == list(small)
    assert MODEL(adata).n_latent == 64


def test_part_of_the_genes_is_decoded_where_it_pays():
    resolve = resolve_output_genes
    assert resolve("auto", 19_331, 512, "cpu", "auto") == 2048
    assert resolve("auto", 10_000, 256, "cpu", "auto") is None
    assert resolve("auto", 2000, 512, "cpu", "auto") is None
    assert resolve("auto", 19_331, 512, "cpu", 2) is None
    assert resolve("auto", 19_331, 512, "gpu", "auto") is None
    assert resolve(19_331, 19_331, 512, "cpu", "auto") is None
    assert resolve(100, 19_331, 512, "cpu", "auto") == 100


def test_reconstruction_denoises(model):
    x, predicted = normalised(model.adata), model.get_reconstruction()
    assert predicted.shape == x.shape
    assert ((predicted - x) ** 2).mean() < 0.8 * x.var(0).mean()


def test_reconstruction_of_some_genes(model):
    everything = model.get_reconstruction()
    some = model.get_reconstruction(genes=["GENE7", "GENE2"], indices=[4, 1])
    np.testing.assert_allclose(some, everything[[4, 1]][:, [7, 2]], rtol=1e-4, atol=1e-5)
    assert model.get_reconstruction(genes="GENE7").shape == (300, 1)
    with pytest.raises(KeyError, match="CD3D"):
        model.get_reconstruction(genes=["CD3D"])


def test_reconstruction_error(model):
    x, predicted = normalised(model.adata), model.get_reconstruction()
    np.testing.assert_allclose(
        model.get_reconstruction_error(), ((predicted - x) ** 2).mean(1), rtol=1e-3, atol=1e-5
    )


def test_reconstruction_error_leaves_absent_genes_out(model):
    fewer = model.adata[:, 20:].copy()
    x = np.zeros(model.adata.shape, dtype=np.float32)
    x[:, 20:] = normalised(fewer)
    expected = ((model.get_reconstruction(fewer) - x)[:, 20:] ** 2).mean(1)
    np.testing.assert_allclose(
        model.get_reconstruction_error(fewer), expected, rtol=1e-3, atol=1e-5
    )


def test_unlike_cells_have_a_higher_error(model):
    shuffled = model.adata.copy()
    rng = np.random.default_rng(0)
    shuffled.X = shuffled.X.toarray()
    shuffled.X = np.stack([rng.permutation(row) for row in shuffled.X])
    assert (
        model.get_reconstruction_error(shuffled).mean()
        > 1.5 * model.get_reconstruction_error().mean()
    )


def test_embedding_separates_types(model):
    from sklearn.neighbors import KNeighborsClassifier

    z, y = model.get_latent_representation(), model.adata.obs["cell_type"]
    fitted = KNeighborsClassifier(15).fit(z[:200], y[:200])
    assert fitted.score(z[200:], y[200:]) > 0.8


@pytest.mark.parametrize("signal", [None, "rescale", "indicator"])
def test_mask_signals_train_and_survive_saving(signal, tmp_path):
    adata = make_counts()
    MODEL.setup_anndata(adata)
    model = MODEL(adata, hidden_dims=(32, 16), n_latent=8, mask_signal=signal, mask_rate=0.3)
    model.train(**TRAIN)
    model.save(tmp_path / "model")
    loaded = MODEL.load(tmp_path / "model")
    np.testing.assert_array_equal(
        loaded.get_latent_representation(adata), model.get_latent_representation()
    )
    assert loaded.module.masking.rate == 0.3
    assert loaded.module.mask_signal == signal


def test_sampled_output_learns_what_full_output_learns():
    def loss(n_output_genes):
        adata = make_counts(n_cells=300)
        MODEL.setup_anndata(adata)
        model = MODEL(adata, hidden_dims=(64, 32), n_latent=8)
        model.train(30, batch_size=32, progress=False, n_output_genes=n_output_genes)
        return model.history["validation_loss"]["validation_loss"]

    full, sampled = loss(None), loss(30)
    learnt = full.iloc[0] - full.min()
    assert sampled.min() < full.min() + 0.2 * learnt


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of torch's compiler, which turns them into failures
def test_compile_gives_the_same_embedding():
    import torch

    def run(compile):
        adata = make_counts(n_cells=60)
        MODEL.setup_anndata(adata)
        model = MODEL(adata, hidden_dims=(16, 8), n_latent=4, dropout=0.0)
        model.train(1, batch_size=32, progress=False, compile=compile)
        return model

    torch._dynamo.reset()
    eager, compiled = run(False), run(True)
    np.testing.assert_allclose(
        eager.get_latent_representation(), compiled.get_latent_representation(), atol=1e-4
    )
    assert list(eager.module.state_dict()) == list(compiled.module.state_dict())
