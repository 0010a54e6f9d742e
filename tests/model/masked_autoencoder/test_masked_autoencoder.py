"""What only the masked autoencoder does."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import scssl
from scssl.augment import RandomMask
from scssl.model.masked_autoencoder._network import default_hidden_dims
from scssl.model.masked_autoencoder._presets import PRESETS
from scssl.train import resolve_output_genes

from ..conftest import TRAIN, make_counts

MODEL = scssl.model.MaskedAutoencoder


@pytest.fixture(scope="module")
def model():
    adata = make_counts(n_cells=300)
    MODEL.setup_anndata(adata, target_sum=1e4)
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
    MODEL.setup_anndata(adata, target_sum=1e4)
    assert MODEL(adata)._config()["hidden_dims"] == list(small)
    assert MODEL(adata).n_latent == 64


def test_part_of_the_genes_is_decoded_where_it_pays():
    resolve = resolve_output_genes
    assert resolve("auto", 19_331, 512, "cpu") == 2048
    assert resolve("auto", 10_000, 256, "cpu") is None
    assert resolve("auto", 2000, 512, "cpu") is None
    assert resolve("auto", 19_331, 512, "gpu") is None
    assert resolve(19_331, 19_331, 512, "cpu") is None
    assert resolve(100, 19_331, 512, "cpu") == 100


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
    MODEL.setup_anndata(adata, target_sum=1e4)
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
        MODEL.setup_anndata(adata, target_sum=1e4)
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
        MODEL.setup_anndata(adata, target_sum=1e4)
        model = MODEL(adata, hidden_dims=(16, 8), n_latent=4, dropout=0.0)
        model.train(1, batch_size=32, progress=False, compile=compile)
        return model

    torch._dynamo.reset()
    eager, compiled = run(False), run(True)
    np.testing.assert_allclose(
        eager.get_latent_representation(), compiled.get_latent_representation(), atol=1e-4
    )
    assert list(eager.module.state_dict()) == list(compiled.module.state_dict())


# --- masks, losses, presets ------------------------------------------------------------------------


def with_programs(n_cells=150):
    adata = make_counts(n_cells=n_cells)
    names = list(adata.var_names)
    programs = {f"p{i}": names[4 * i : 4 * i + 10] for i in range(12)}
    scssl.pp.gene_programs(adata, programs)
    scssl.pp.tf_targets(adata, {names[i]: names[i + 1 : i + 12] for i in range(8)})
    MODEL.setup_anndata(adata, target_sum=1e4)
    return adata


SMALL = {"hidden_dims": (32, 16), "n_latent": 8}
MASKS = ["random", "gene_program", "gp_to_gp", "gp_to_tf", "panel"]


@pytest.mark.parametrize("loss", ["mse", "nb", "zinb", "bce"])
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("n_output_genes", [None, 20])
def test_every_mask_with_every_loss(mask, loss, n_output_genes, tmp_path):
    adata = with_programs()
    model = MODEL(adata, masking=mask, loss=loss, **SMALL)
    model.train(6, batch_size=32, lr=3e-3, progress=False, n_output_genes=n_output_genes)
    history = model.history["validation_loss"]["validation_loss"]
    assert history.min() < history.iloc[0]
    z, x_hat = model.get_latent_representation(), model.get_reconstruction()
    assert np.isfinite(x_hat).all()
    if loss == "bce":
        assert 0 <= x_hat.min() <= x_hat.max() <= 1
    model.save(tmp_path / "model")
    loaded = MODEL.load(tmp_path / "model")
    assert repr(loaded) == repr(model)
    np.testing.assert_array_equal(loaded.get_latent_representation(adata), z)
    np.testing.assert_array_equal(loaded.get_reconstruction(adata), x_hat)
    # What the mask needs is in the folder: the loaded model goes on training without programmes.
    plain = make_counts()
    loaded.attach(plain)
    loaded.train(1, batch_size=32, progress=False)


@pytest.mark.parametrize("loss", ["nb", "zinb"])
def test_likelihood_finds_the_rates(loss):
    rng = np.random.default_rng(0)
    rate = rng.gamma(1.0, 1.0, (2, 30)) + 0.05
    kind = np.arange(600) % 2
    counts = rng.poisson(40 * rate[kind] * rng.gamma(10, 0.1, (600, 1)) / 10)
    import anndata

    adata = anndata.AnnData(counts.astype(np.float32))
    MODEL.setup_anndata(adata, input="counts", target_sum=1e4)
    model = MODEL(adata, loss=loss, **SMALL)
    model.train(40, batch_size=64, lr=3e-3, progress=False)
    predicted = np.expm1(model.get_reconstruction()) / 1e4
    truth = rate / rate.sum(1, keepdims=True)
    for k in range(2):
        found = predicted[kind == k].mean(0)
        assert np.corrcoef(found, truth[k])[0, 1] > 0.98
        assert np.abs(found - truth[k]).mean() < 0.2 * truth[k].mean()
        assert np.corrcoef(found, truth[1 - k])[0, 1] < 0.9


def test_counts_are_needed_for_their_likelihood():
    adata = make_counts()
    adata.X = np.log1p(0.37 * adata.X.toarray())
    MODEL.setup_anndata(adata, target_sum=1e4)
    with pytest.raises(ValueError, match="loss='nb' needs counts, but adata.X was set up as log"):
        MODEL(adata, loss="nb")


def test_programmes_have_to_be_there():
    adata = make_counts()
    MODEL.setup_anndata(adata, target_sum=1e4)
    with pytest.raises(KeyError, match=r"scssl\.pp\.gene_programs\(adata"):
        MODEL(adata, masking="gene_program")
    with pytest.raises(KeyError, match=r"scssl\.pp\.tf_targets\(adata"):
        MODEL(adata, masking="gp_to_tf")
    with pytest.raises(ValueError, match="uses no gene programmes"):
        MODEL(adata, programs_key="gene_programs")
    adata = with_programs()
    adata.uns["gene_programs"]["names"] = adata.uns["gene_programs"]["names"][:3]
    with pytest.raises(ValueError, match="has 12 programmes, .* names 3"):
        MODEL(adata, masking="gene_program")
    adata = with_programs()
    members = adata.varm["gene_programs"]
    adata.varm["gene_programs"] = type(members)(members.shape)
    with pytest.raises(
        ValueError, match="12 programmes of 'gene_programs' have no gene .*Make them again"
    ):
        MODEL(adata, masking="gene_program")
    del adata.uns["tf_targets"]["targets"]
    with pytest.raises(
        ValueError, match=r"names no transcription factors.*scssl\.pp\.tf_targets\(adata"
    ):
        MODEL(adata, masking="gp_to_tf")


def test_covariates_for_the_encoder_have_to_be_there():
    adata = make_counts()
    MODEL.setup_anndata(adata, labels_key="cell_type")
    with pytest.raises(
        ValueError,
        match=r"no batch and no covariates were set up.*setup_anndata\(adata, batch_key=.batch.*labels_key=.cell_type.\)`",
    ):
        MODEL(adata, encode_covariates=True, **SMALL)
    MODEL.setup_anndata(adata, continuous_covariate_keys=["age"])
    assert MODEL(adata, encode_covariates=True, **SMALL).module.encodes_covariates


@pytest.mark.parametrize(("given", "used"), [({}, 1.0), ({"gradient_clip": None}, None)])
def test_clipping_of_a_preset_can_be_taken_away(given, used):
    adata = make_counts()
    MODEL.setup_anndata(adata, target_sum=1e4)
    model = MODEL.from_preset("ssl_in_scg.random_mask", adata, **SMALL)
    model.train(1, progress=False, **given)
    assert model.training_["gradient_clip"] == used
    with pytest.raises(
        ValueError, match='`gradient_clip` must be a positive number, None or "auto"'
    ):
        model.train(1, gradient_clip=0)


def test_another_mask_than_that_of_the_preset():
    adata = with_programs()
    mask = MODEL.from_preset("ssl_in_scg.gene_program", adata, masking="random").module.masking
    assert mask.config() == {"name": "random", "rate": 0.5}
    mask = MODEL.from_preset("ssl_in_scg.random_mask", adata, masking="gp_to_gp").module.masking
    assert mask.mode == "isolated"
    options = {"rate_of": "genes"}
    mask = MODEL.from_preset("ssl_in_scg.gene_program", adata, mask_options=options).module.masking
    assert (mask.rate, mask.rate_of) == (0.25, "genes")
    mask = RandomMask(0.1)
    found = MODEL.from_preset("sc_mae", adata, masking=mask).module.masking
    assert found is mask


def test_options_that_a_mask_does_not_have():
    adata = with_programs()
    with pytest.raises(ValueError, match="'random' does not have the option 'per': it has none"):
        MODEL(adata, mask_options={"per": "batch"})
    with pytest.raises(ValueError, match="'per_cell': `mask_options` can have rate_of, per"):
        MODEL(adata, masking="gene_program", mask_options={"per_cell": True})


def test_set_up_with_another_class():
    adata = make_counts()
    MODEL.setup_anndata(adata, target_sum=1e4)
    model = MODEL(adata, **SMALL)
    model.is_trained_ = True
    # scvi-tools knows data by an id that is copied along.
    adata = adata.copy()
    scssl.model.CellTypeClassifier.from_ssl_model(model, adata, "cell_type")
    with pytest.raises(
        ValueError, match=r"CellTypeClassifier.*MaskedAutoencoder\.setup_anndata\(adata\)"
    ):
        MODEL(adata, **SMALL)
    with pytest.raises(ValueError, match=r"not set up.*MaskedAutoencoder\.setup_anndata\(adata\)"):
        MODEL(make_counts())
    MODEL.setup_anndata(adata, target_sum=1e4)
    MODEL(adata, **SMALL)
    with pytest.raises(ValueError, match=r"copy.*MaskedAutoencoder\.setup_anndata\(adata\)"):
        MODEL(adata.copy(), **SMALL)


def test_mask_options():
    adata = with_programs()
    options = {"per": "batch", "rate_of": "genes"}
    model = MODEL(adata, masking="gene_program", mask_rate=0.3, mask_options=options, **SMALL)
    mask = model.module.masking
    assert (mask.per, mask.rate_of, mask.rate) == ("batch", "genes", 0.3)


def test_only_genes_that_can_count_are_decoded():
    adata = with_programs()
    model = MODEL(adata, masking="gp_to_tf", **SMALL)
    model.train(1, batch_size=32, progress=False, n_output_genes=30)
    genes, count = model.module.sampler.draw(torch.Generator())
    assert genes.tolist() == list(range(8))
    assert count.tolist() == [1.0] * 8


@pytest.mark.parametrize("name", list(MODEL.list_presets()))
def test_presets(name, tmp_path):
    adata = with_programs()
    model = MODEL.from_preset(name, adata, hidden_dims=(16, 8), n_latent=4)
    assert model._config()["preset"] == name
    model.train(3, progress=False)
    training = model.training_
    recipe = PRESETS[name].train
    assert training["lr"] == recipe["lr"]
    assert training["weight_decay"] == recipe["weight_decay"]
    if training["lr_schedule"] == "step":
        np.testing.assert_allclose(model.history["lr"]["lr"], recipe["lr"] * np.array([1, 1, 0.9]))
    model.save(tmp_path / "model")
    assert MODEL.load(tmp_path / "model")._train_defaults(10)["lr"] == recipe["lr"]


def test_published_architecture_of_the_preset():
    adata = make_counts()
    MODEL.setup_anndata(adata, target_sum=1e4)
    model = MODEL.from_preset("ssl_in_scg.random_mask", adata)
    config = model._config()
    assert config["hidden_dims"] == [512, 512, 256, 256]
    assert (config["n_latent"], config["mask_signal"]) == (64, "rescale")
    with pytest.raises(
        ValueError, match=r"`preset` must be 'ssl_in_scg\.random_mask', .* found 'mae'"
    ):
        MODEL.from_preset("mae", adata)


def test_encoder_that_is_told_the_batch():
    adata = make_counts()
    MODEL.setup_anndata(adata, batch_key="batch")
    model = MODEL(adata, encode_covariates=True, **SMALL)
    model.train(**TRAIN)
    z = model.get_latent_representation()
    other = adata.copy()
    other.obs["batch"] = np.where(adata.obs["batch"] == "a", "b", "a")
    assert not np.array_equal(model.get_latent_representation(other), z)
    np.testing.assert_array_equal(model.get_latent_representation(batch_size=7), z)
    other.obs["batch"] = "c"
    with pytest.raises(ValueError, match="categories that the model was not trained with"):
        model.get_latent_representation(other)
    del other.obs["batch"]
    with pytest.raises(KeyError, match="adata.obs has no 'batch'"):
        model.get_latent_representation(other)


def test_without_a_decoder():
    adata = make_counts()
    MODEL.setup_anndata(adata, target_sum=1e4)
    model = MODEL(adata, decoder=False, **SMALL)
    with pytest.raises(ValueError, match="no decoder, so it cannot be trained"):
        model.train(**TRAIN)
    model.is_trained_ = True
    assert model.get_latent_representation().shape == (150, 8)
    with pytest.raises(ValueError, match=r"no decoder.*Use get_latent_representation\(\)"):
        model.get_reconstruction()


def test_activation_of_the_embedding():
    adata = make_counts()
    MODEL.setup_anndata(adata, target_sum=1e4)
    model = MODEL(adata, latent_activation=True, activation="relu", **SMALL)
    model.train(**TRAIN)
    z = model.get_latent_representation()
    assert z.min() == 0 < z.max()


def test_sigmoid_output():
    adata = make_counts()
    MODEL.setup_anndata(adata, target_sum=1e4)
    model = MODEL(adata, output_activation="sigmoid", **SMALL)
    model.train(**TRAIN)
    assert 0 < model.get_reconstruction().min() < model.get_reconstruction().max() < 1
    with pytest.raises(
        ValueError, match="`output_activation` must be None or, with .*found .* with loss="
    ):
        MODEL(adata, output_activation="sigmoid", loss="bce")
