"""Any encoder starts any model with the same layers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import scssl
from scssl._errors import GeneMismatchError, ScsslWarning
from scssl.data import Datasets
from scssl.model import JointEmbedding

from .conftest import MODELS, TRAIN, arguments_of, make_counts

STARTERS = [n for n in MODELS if scssl.model.get_model_class(n)._learns_embeddings]
OURS = [n for n in STARTERS if "batch_norm" in arguments_of(getattr(scssl.model, n), batch_norm=1)]


def train(name, adata=None, **kwargs):
    model_class = scssl.model.get_model_class(name)
    adata = make_counts() if adata is None else adata
    model_class.setup_anndata(adata)
    model = model_class(adata, **arguments_of(model_class, **kwargs))
    model.train(**TRAIN)
    return model


@pytest.fixture(scope="module")
def autoencoder():
    return train("MaskedAutoencoder", hidden_dims=(32, 16), n_components=0)


@pytest.fixture(scope="module")
def simclr():
    return train("SimCLR")


def shuffled(adata):
    return adata[:, np.random.default_rng(1).permutation(adata.n_vars)].copy()


@pytest.mark.parametrize("name", STARTERS)
def test_from_a_model_of_its_class_it_embeds_alike(name, tmp_path):
    model = train(name)
    adata = shuffled(model.adata)
    new = type(model).from_ssl_model(model, adata)
    assert new.genes.names.tolist() == adata.var_names.tolist()
    z = model.get_latent_representation()
    np.testing.assert_allclose(new.get_latent_representation(), z, atol=1e-5)
    # Also loaded before it is trained it is not called untrained.
    new.save(tmp_path / "model")
    loaded = type(model).load(tmp_path / "model", adata)
    np.testing.assert_array_equal(
        loaded.get_latent_representation(), new.get_latent_representation()
    )
    loaded.train(**TRAIN)
    assert not np.allclose(loaded.get_latent_representation(), z, atol=1e-3)


@pytest.mark.parametrize("name", OURS)
def test_from_an_autoencoder(name, autoencoder):
    adata = shuffled(autoencoder.adata)
    new = scssl.model.get_model_class(name).from_ssl_model(autoencoder, adata, batch_key="batch")
    z = autoencoder.get_latent_representation()
    np.testing.assert_allclose(new.get_latent_representation(), z, atol=1e-5)
    assert new.setup.batch_key == "batch"
    assert new._config()["batch_norm"] is False
    assert new._config()["activation"] == "selu"


def test_target_starts_from_it_too(simclr):
    new = scssl.model.BYOL.from_ssl_model(simclr, simclr.adata.copy(), momentum=0.9)
    assert new._config()["momentum"] == 0.9
    for one, other in zip(
        new.module.encoder.state_dict().values(),
        new.module.target_encoder.state_dict().values(),
        strict=True,
    ):
        assert torch.equal(one, other)


def test_new_genes_start_at_zero_and_learn(simclr):
    more = make_counts(n_genes=80, seed=2)
    more.X.data[:] = np.log1p(0.37 * more.X.data)
    known = more[:, :60].copy()
    log = train("SimCLR", known)
    new = scssl.model.VICReg.from_ssl_model(log, more)
    np.testing.assert_allclose(
        new.get_latent_representation(), log.get_latent_representation(), atol=1e-5
    )
    new.train(**TRAIN)
    assert new.module.encoder.gene_encoder.weight[60:].abs().min() > 0
    with pytest.raises(GeneMismatchError, match=r"knows 60 of the 80 genes .* min_overlap=0.9"):
        scssl.model.VICReg.from_ssl_model(log, more, min_overlap=0.9)


def test_several_data_sets_and_a_fine_tuned_model(simclr, tmp_path):
    adata = simclr.adata.copy()
    tuned = scssl.model.CellTypeClassifier.from_ssl_model(simclr, adata, "cell_type")
    tuned.train(**TRAIN)
    tuned.save(tmp_path / "tuned")
    data = Datasets({"a": adata[:80].copy(), "b": adata[80:].copy()})
    new = scssl.model.PseudoLabel.from_ssl_model(tmp_path / "tuned", data, n_rounds=1)
    np.testing.assert_allclose(
        new.get_latent_representation(), tuned.get_latent_representation(adata), atol=1e-5
    )


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"batch_norm": False}, r"Leave 'batch_norm' out; it is like .*batch_norm=True\."),
        ({"n_latent": 5}, r"Leave 'n_latent' out; it is like one with hidden_dims=\(32,\)"),
        ({"activation": "gelu"}, "Leave 'activation' out"),
    ],
)
def test_other_layers_are_refused(simclr, options, match):
    with pytest.raises(ValueError, match=match):
        scssl.model.VICReg.from_ssl_model(simclr, simclr.adata.copy(), **options)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"latent_activation": True}, "has other layers than this SimCLR"),
        ({"encode_covariates": True}, "is told covariates, so a SimCLR cannot"),
    ],
)
def test_autoencoders_with_more_layers_are_refused(options, match):
    adata = make_counts()
    scssl.model.MaskedAutoencoder.setup_anndata(adata, batch_key="batch")
    model = scssl.model.MaskedAutoencoder(adata, hidden_dims=(32, 16), n_latent=8, **options)
    with (
        pytest.warns(ScsslWarning, match="to start from is not trained"),
        pytest.raises(ValueError, match=match),
    ):
        scssl.model.SimCLR.from_ssl_model(model, adata)


def test_an_encoder_of_another_kind_is_refused():
    model = train("CellPLM")
    with pytest.raises(
        ValueError, match=r"has other layers.*CellPLM\.from_ssl_model\(model, adata"
    ):
        scssl.model.SimCLR.from_ssl_model(model, model.adata.copy())


def test_every_joint_embedding_method_can():
    methods = [scssl.model.get_model_class(name) for name in MODELS]
    methods = [one for one in methods if issubclass(one, JointEmbedding)]
    assert {one.__name__ for one in methods} <= set(OURS)
