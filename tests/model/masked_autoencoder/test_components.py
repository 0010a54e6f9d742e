"""Principal components beside what the network makes of cells."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse
from sklearn.decomposition import PCA
from tests.model.conftest import TRAIN, make_counts

from scssl._errors import ScsslWarning
from scssl.model import CellTypeClassifier, MaskedAutoencoder, SimCLR


@pytest.fixture(scope="module")
def learnt():
    adata = make_counts()
    MaskedAutoencoder.setup_anndata(adata, labels_key="cell_type", target_sum=1e4)
    model = MaskedAutoencoder(adata, hidden_dims=(32,), n_latent=8, n_components=5)
    model.train(**TRAIN)
    return model, adata


def normalized(adata):
    counts = adata.X.toarray().astype(float)
    return np.log1p(counts / np.maximum(counts.sum(1, keepdims=True), 1) * 1e4)


def test_they_are_those_of_the_training_cells_and_weigh_as_much(learnt):
    model, adata = learnt
    assert model.n_latent == 13
    z = model.get_latent_representation()
    x, rows = normalized(adata), model.train_indices_
    expected = PCA(5, svd_solver="full").fit(x[rows]).transform(x)
    expected /= np.sqrt(expected[rows].var(axis=0).sum())
    turned = z[:, 8:] * np.sign((z[:, 8:] * expected).sum(axis=0))
    np.testing.assert_allclose(turned, expected, atol=1e-4)
    for part in (z[rows, :8], z[rows, 8:]):
        np.testing.assert_allclose(part.var(axis=0).sum(), 1, rtol=1e-4)


def test_the_network_is_that_of_a_model_without(learnt):
    model, _ = learnt
    adata = make_counts()
    MaskedAutoencoder.setup_anndata(adata, labels_key="cell_type", target_sum=1e4)
    alone = MaskedAutoencoder(adata, hidden_dims=(32,), n_latent=8)
    alone.train(**TRAIN)
    z, both = alone.get_latent_representation(), model.get_latent_representation()
    scale = model.module.linear_path.scale[0].item()
    np.testing.assert_array_equal(both[:, :8], z * np.float32(scale))
    np.testing.assert_allclose(model.get_reconstruction(), alone.get_reconstruction(), atol=1e-5)
    assert model.history["effective_rank"].equals(alone.history["effective_rank"])


def test_others_start_from_it(learnt, tmp_path):
    model, adata = learnt
    model.save(tmp_path / "model")
    z = model.get_latent_representation()
    adapted = MaskedAutoencoder.from_ssl_model(tmp_path / "model", make_counts())
    np.testing.assert_array_equal(adapted.get_latent_representation(), z)
    classifier = CellTypeClassifier.from_ssl_model(model, make_counts(), labels_key="cell_type")
    np.testing.assert_array_equal(classifier.get_latent_representation(), z)
    # What the embedding has is not put beside it again.
    assert classifier.module.widths == (13, 0)
    classifier.train(**TRAIN)
    assert classifier.encoder_hash != model.encoder_hash
    contrastive = SimCLR.from_ssl_model(model, make_counts())
    assert contrastive.n_latent == 8


@pytest.mark.parametrize("train", [{}, {"train_size": 0.3}])
def test_beyond_a_quarter_of_the_cells_they_are_zero(train):
    adata = make_counts(40)
    MaskedAutoencoder.setup_anndata(adata)
    model = MaskedAutoencoder(adata, hidden_dims=(8,), n_latent=4, n_components=50)
    model.train(**TRAIN, **train)
    z = model.get_latent_representation()
    n = len(model.train_indices_) // 4
    assert z.shape == (40, 54)
    assert (z[:, 4 : 4 + n].std(axis=0) > 0).all()
    assert (z[:, 4 + n :] == 0).all()
    few = make_counts(12, seed=1)
    adapted = MaskedAutoencoder.from_ssl_model(model, few)
    np.testing.assert_array_equal(
        adapted.get_latent_representation(), model.get_latent_representation(few)
    )
    with pytest.raises(ValueError, match="linear_path"):
        MaskedAutoencoder.from_ssl_model(model, few, n_components=5)
    with pytest.raises(ValueError, match="n_components"):
        MaskedAutoencoder(adata, n_components=-1)


def test_they_stay_when_training_goes_on(learnt):
    model, _ = learnt
    before = model.module.linear_path.weight.clone()
    model.train(**TRAIN)
    assert bool((model.module.linear_path.weight == before).all())


def test_cells_that_are_all_equal_have_none():
    adata = make_counts(40)
    adata.X = sparse.vstack([adata.X[0]] * 40, format="csr")
    MaskedAutoencoder.setup_anndata(adata)
    model = MaskedAutoencoder(adata, hidden_dims=(8,), n_latent=4, n_components=3)
    with pytest.warns(ScsslWarning, match="collapsed"):
        model.train(**TRAIN)
    assert (model.get_latent_representation()[:, 4:] == 0).all()
