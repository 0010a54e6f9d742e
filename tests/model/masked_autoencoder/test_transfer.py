"""A masked autoencoder on new data that starts from another one."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

import scssl
from scssl._errors import GeneMismatchError, ScsslWarning
from scssl.augment import RandomMask
from scssl.data.matrix import GeneStatistics

from ..conftest import TRAIN, make_counts

MODEL = scssl.model.MaskedAutoencoder
SMALL = {"hidden_dims": (32, 16), "n_latent": 8}


@pytest.fixture(scope="module")
def source():
    adata = make_counts()
    MODEL.setup_anndata(adata)
    model = MODEL(adata, **SMALL)
    model.train(4, batch_size=32, progress=False)
    return model


@pytest.mark.parametrize("batch_key", [None, "batch"])
def test_starts_where_the_other_one_ended(source, batch_key):
    model = MODEL.from_ssl_model(source, make_counts(), batch_key=batch_key)
    np.testing.assert_allclose(
        model.get_latent_representation(), source.get_latent_representation(), rtol=1e-5, atol=1e-6
    )
    np.testing.assert_allclose(
        model.get_reconstruction(), source.get_reconstruction(), rtol=1e-4, atol=1e-5
    )
    before = source.get_latent_representation()
    loss = source.history["validation_loss"]["validation_loss"]
    model.train(**TRAIN)
    # The output layer did not start anew either.
    assert model.history["validation_loss"]["validation_loss"].iloc[0] < loss.iloc[0]
    assert not np.array_equal(model.get_latent_representation(), before)
    np.testing.assert_array_equal(source.get_latent_representation(), before)


def test_genes_by_name(source):
    other = make_counts()
    order = np.random.default_rng(0).permutation(60)[:50]
    other = other[:, order].copy()
    names = list(other.var_names)
    names[:5] = [f"NEW{i}" for i in range(5)]
    other.var_names = names
    model = MODEL.from_ssl_model(source, other)
    ours, theirs = model.module.state_dict(), source.module.state_dict()
    for name in ("gene_encoder.weight", "gene_decoder.weight", "gene_decoder.bias"):
        assert torch.equal(ours[name][5:], theirs[name][torch.from_numpy(order[5:])])
        assert not torch.equal(ours[name][:5], theirs[name][torch.from_numpy(order[:5])])
    with pytest.raises(GeneMismatchError, match=r"knows 45 of the 50 genes.*GENE0.*NEW0"):
        MODEL.from_ssl_model(source, other, min_overlap=0.95)


def test_only_what_is_told_of_the_batch_learns_with_a_frozen_encoder(source):
    model = MODEL.from_ssl_model(source, make_counts(), batch_key="batch", freeze="encoder")
    model.train(**TRAIN)
    ours, theirs = model.module.state_dict(), source.module.state_dict()
    for name in theirs:
        if name.startswith(("encoder.", "gene_encoder.")):
            assert torch.equal(ours[name], theirs[name])
    assert model.module.covariate_encoder.weight.abs().sum() > 0
    assert not torch.equal(ours["gene_decoder.weight"], theirs["gene_decoder.weight"])


def test_from_a_folder_and_back(source, tmp_path):
    source.save(tmp_path / "source")
    model = MODEL.from_ssl_model(tmp_path / "source", make_counts(), batch_key="batch")
    model.train(**TRAIN)
    model.save(tmp_path / "adapted")
    z = model.get_latent_representation()
    loaded = MODEL.load(tmp_path / "adapted")
    np.testing.assert_array_equal(loaded.get_latent_representation(make_counts()), z)


def test_what_was_taken_over_is_saved_before_training_too(source, tmp_path):
    other = make_counts()
    other.var_names = ["NEW0", *other.var_names[1:]]
    model = MODEL.from_ssl_model(source, other, batch_key="batch")
    model.save(tmp_path / "adapted")
    loaded = MODEL.load(tmp_path / "adapted", adata=other)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ScsslWarning)
        z = loaded.get_latent_representation()
    np.testing.assert_array_equal(z, model.get_latent_representation())
    for own in (model, loaded):
        own.train(**TRAIN)
    ours, theirs = loaded.module.state_dict(), model.module.state_dict()
    assert ours.keys() == theirs.keys()
    for name in theirs:
        assert torch.equal(ours[name], theirs[name]), name


def test_what_cannot_be_taken_over(source):
    with pytest.raises(ValueError, match=r"encoder\.2\.layers\.0.* has the shape"):
        MODEL.from_ssl_model(source, make_counts(), hidden_dims=(32, 8))
    with pytest.raises(ValueError, match="`freeze` must be 'none' or 'encoder'"):
        MODEL.from_ssl_model(source, make_counts(), freeze=2)
    adata = make_counts()
    MODEL.setup_anndata(adata)
    with pytest.warns(ScsslWarning, match="not trained"):
        MODEL.from_ssl_model(MODEL(adata, **SMALL), make_counts())


def with_batches(names):
    """Cells whose batches are called like this."""
    adata = make_counts()
    adata.obs["batch"] = np.array(names)[np.arange(adata.n_obs) % len(names)]
    return adata


@pytest.fixture(scope="module", params=[False, True], ids=["decoder", "both"])
def of_batches(request):
    adata = with_batches(["a", "b"])
    MODEL.setup_anndata(adata, batch_key="batch", continuous_covariate_keys=["age"])
    model = MODEL(adata, encode_covariates=request.param, **SMALL)
    model.train(3, batch_size=32, progress=False)
    return model


def columns_of(model):
    """What each layer adds for each batch, beside the bias."""
    state = model.module.state_dict()
    parts = {"decoder": (state["decoder.layers.0.weight"][:, 8:], state["decoder.layers.0.bias"])}
    if "covariate_encoder.weight" in state:
        parts["encoder"] = (state["covariate_encoder.weight"], state["gene_encoder.bias"])
    names = [*model.setup.categories["batch"]] if model.setup.batch_key else []
    return {
        part: ({name: weight[:, i] for i, name in enumerate(names)}, weight[:, len(names) :], bias)
        for part, (weight, bias) in parts.items()
    }


def test_new_batches_start_at_the_mean_of_the_old_ones(of_batches):
    new = MODEL.from_ssl_model(of_batches, with_batches(["c", "d"]), batch_key="batch")
    theirs = columns_of(of_batches)
    for part, (columns, rest, bias) in columns_of(new).items():
        assert rest.shape[1] == 0
        assert all((column == 0).all() for column in columns.values())
        if part in theirs:
            old, _, there = theirs[part]
            torch.testing.assert_close(bias, there + (old["a"] + old["b"]) / 2)


def test_weights_of_batches_are_matched_by_name(of_batches):
    columns = {"batch_key": "batch", "continuous_covariate_keys": ["age"]}
    new = MODEL.from_ssl_model(of_batches, with_batches(["a", "0 new", "b"]), **columns)
    theirs, ours = columns_of(of_batches), columns_of(new)
    for part, (old, age, there) in theirs.items():
        found, ours_age, bias = ours[part]
        assert (found["0 new"] == 0).all()
        for name in "ab":
            torch.testing.assert_close(found[name] + bias, old[name] + there)
        assert torch.equal(ours_age, age)
    same = MODEL.from_ssl_model(of_batches, with_batches(["a", "b"]), **columns)
    np.testing.assert_allclose(
        same.get_latent_representation(), of_batches.get_latent_representation(), atol=1e-6
    )
    np.testing.assert_allclose(
        same.get_reconstruction(), of_batches.get_reconstruction(), atol=1e-5
    )


def test_what_is_no_longer_told_becomes_its_mean(of_batches, caplog):
    with caplog.at_level("INFO", logger="scssl"):
        new = MODEL.from_ssl_model(of_batches, make_counts())
    assert "not told 'batch'" in caplog.text
    theirs = columns_of(of_batches)
    state = new.module.state_dict()
    for part, name in (("decoder", "decoder.layers.0.bias"), ("encoder", "gene_encoder.bias")):
        if part in theirs:
            old, _, there = theirs[part]
            torch.testing.assert_close(state[name], there + (old["a"] + old["b"]) / 2)


def test_new_genes_change_no_embedding_and_learn(source):
    adata = make_counts()
    adata.X = np.log1p(0.37 * adata.X.toarray())
    MODEL.setup_anndata(adata)
    old = MODEL(adata, **SMALL)
    old.train(2, batch_size=32, progress=False)
    more = make_counts(n_genes=80, seed=3)
    more.X = np.log1p(0.37 * more.X.toarray())
    new = MODEL.from_ssl_model(old, more)
    np.testing.assert_allclose(
        new.get_latent_representation(), old.get_latent_representation(more), atol=1e-6
    )
    assert (new.module.gene_encoder.weight[60:] == 0).all()
    decoder = new.module.gene_decoder
    before = decoder.weight[:60].detach().clone(), decoder.bias[:60].detach().clone()
    mean = np.arange(80.0)
    new.module.begin_training(
        GeneStatistics(mean, mean, mean, mean), fresh=True, n_output_genes=None
    )
    assert torch.equal(before[0], decoder.weight[:60])
    assert torch.equal(before[1], decoder.bias[:60])
    assert decoder.bias[60:].tolist() == mean[60:].tolist()
    new.train(**TRAIN)
    assert (new.module.gene_encoder.weight[60:] != 0).any()


@pytest.mark.parametrize("loss", ["nb", "zinb", "bce"])
def test_output_of_another_loss_starts_at_the_data(source, loss):
    adata = make_counts()
    MODEL.setup_anndata(adata)
    own = MODEL(adata, loss=loss, rng=0, **SMALL)
    new = MODEL.from_ssl_model(source, make_counts(), loss=loss)
    assert torch.equal(own.module.gene_decoder.weight, new.module.gene_decoder.weight)
    for model in (own, new):
        model.train(1, batch_size=32, lr=1e-30, weight_decay=0.0, progress=False)
    assert torch.equal(own.module.gene_decoder.bias, new.module.gene_decoder.bias)
    torch.testing.assert_close(own.module.gene_decoder.weight, new.module.gene_decoder.weight)


def test_additional_zeros_start_beside_an_output_that_has_learnt():
    adata = make_counts()
    MODEL.setup_anndata(adata)
    counts = MODEL(adata, loss="nb", **SMALL)
    counts.train(2, batch_size=32, progress=False)
    new = MODEL.from_ssl_model(counts, make_counts(), loss="zinb")
    new.train(1, batch_size=32, lr=1e-30, weight_decay=0.0, progress=False)
    ours, theirs = new.module.state_dict(), counts.module.state_dict()
    for name in ("gene_decoder.weight", "gene_decoder.bias", "log_dispersion"):
        torch.testing.assert_close(ours[name], theirs[name])
    torch.testing.assert_close(ours["zero_decoder.bias"], torch.full((60,), -2.0))


def with_programs(source, masking, **kwargs):
    """Model with a mask by programmes of genes 0-9, 10-19 and 50-59."""
    adata = make_counts()
    names = np.array(adata.var_names)
    sets = {str(i): names[i : i + 10] for i in (0, 10, 50)}
    scssl.pp.gene_programs(adata, sets)
    scssl.pp.tf_targets(adata, {names[i]: names[i + 1 : i + 11] for i in (0, 20, 45)})
    MODEL.setup_anndata(adata)
    model = MODEL(adata, masking=masking, **kwargs, **SMALL)
    model.is_trained_ = True
    return model


@pytest.mark.parametrize(
    ("masking", "kwargs"),
    [
        ("random", {"mask_rate": 0.3}),
        (
            "gene_program",
            {"mask_rate": 0.6, "mask_options": {"per": "batch", "rate_of": "genes"}},
        ),
        ("gp_to_gp", {"mask_options": {"mode": "complement"}}),
        ("gp_to_tf", {}),
    ],
)
def test_the_mask_is_that_of_the_other_model(source, masking, kwargs):
    model = with_programs(source, masking, **kwargs)
    theirs = model.module.masking.config()
    other = make_counts()[:, np.arange(49, -1, -1)].copy()
    ours = MODEL.from_ssl_model(model, other).module.masking.config()
    left, right = ({k: v for k, v in c.items() if k != "programs"} for c in (theirs, ours))
    assert left == right
    if masking != "random":
        # Position i is gene 49 - i now; what has lost its genes, or its factor, is left out.
        there, here = theirs["programs"], ours["programs"]
        assert len(here["names"]) == (3 if masking == "gp_to_tf" else 2)
        for old, new in zip(there["members"], here["members"], strict=False):
            assert sorted(49 - gene for gene in old if gene < 50) == new
        if masking == "gp_to_tf":
            assert here["targets"] == [49 - gene for gene in there["targets"]]
        with pytest.raises(ValueError, match=r'is in `adata`.*masking="random"'):
            MODEL.from_ssl_model(model, make_counts()[:, 31:45].copy(), min_overlap=0)
        assert MODEL.from_ssl_model(model, other, masking="random").module.masking.rate == 0.5


def test_arguments_of_a_mask_that_is_carried_over(source):
    model = with_programs(source, "gene_program", mask_rate=0.6, mask_options={"per": "batch"})
    adata = make_counts()
    mask = MODEL.from_ssl_model(model, adata, mask_rate=0.1).module.masking
    assert (mask.rate, mask.per, len(mask.programs)) == (0.1, "batch", 3)
    scssl.pp.gene_programs(adata, {"new": adata.var_names[:9]}, key_added="mine")
    mask = MODEL.from_ssl_model(model, adata, programs_key="mine").module.masking
    assert (mask.rate, mask.per, mask.programs.names) == (0.6, "batch", ("new",))
    with pytest.raises(ValueError, match="'gene_program' does not have the option 'mode'"):
        MODEL.from_ssl_model(model, adata, mask_options={"mode": "complement"})


def test_a_mask_of_ones_own_has_to_be_given():
    class Half(RandomMask):
        pass

    adata = make_counts()
    MODEL.setup_anndata(adata)
    model = MODEL(adata, masking=Half(0.5), **SMALL)
    model.is_trained_ = True
    with pytest.raises(ValueError, match=r'is not one of scssl.*masking="random"'):
        MODEL.from_ssl_model(model, make_counts())
    mask = Half(0.4)
    assert MODEL.from_ssl_model(model, make_counts(), masking=mask).module.masking is mask


def test_from_the_hub(hub, source):
    source.push_to_hub("lab/cells")
    z = source.get_latent_representation()
    model = MODEL.from_ssl_model("lab/cells", make_counts())
    np.testing.assert_array_equal(model.get_latent_representation(), z)
    tuned = scssl.model.CellTypeClassifier.from_ssl_model("lab/cells", make_counts(), "cell_type")
    np.testing.assert_array_equal(tuned.get_latent_representation(), z)
