"""Reconstruction scores equal scikit-learn's, hide what they say, and never hold all cells dense."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from sklearn.metrics import explained_variance_score, mean_squared_error

import scssl
from scssl._errors import ScsslWarning
from scssl._random import derive_generator
from scssl.data import GeneVocabulary

N_CELLS, N_GENES = 90, 30


class Setup:
    def __init__(self, kind="counts", layer=None):
        self.input_kind, self.layer, self.target_sum = kind, layer, 1e4


class Half:
    """A model whose reconstruction can be seen at once: half of what it is given, and a half."""

    def __init__(self, genes, kind="counts", layer=None):
        self.genes = GeneVocabulary(genes)
        self.setup = Setup(kind, layer)
        self.given = []

    def get_reconstruction(self, adata, *, min_overlap):
        values = adata.X if self.setup.layer is None else adata.layers[self.setup.layer]
        self.given.append(sparse.csr_matrix(values))
        return (0.5 * lognorm(values, adata.var_names, self) + 0.5).astype(np.float32)


def lognorm(values, names, model):
    """Expression in the genes of a model, computed apart from the package."""
    dense = pd.DataFrame(sparse.csr_matrix(values).toarray(), columns=list(names))
    dense = dense.reindex(columns=list(model.genes.names), fill_value=0).to_numpy(np.float64)
    if model.setup.input_kind == "counts":
        total = dense.sum(axis=1, keepdims=True)
        dense = np.log1p(1e4 * dense / np.where(total > 0, total, 1))
    return dense


@pytest.fixture
def adata():
    generator = np.random.default_rng(0)
    rate = generator.gamma(0.5, 2.0, N_GENES) * generator.gamma(2, 0.5, (N_CELLS, 1))
    adata = ad.AnnData(sparse.csr_matrix(generator.poisson(1 + rate).astype(np.float32)))
    adata.var_names = [f"GENE{i}" for i in range(N_GENES)]
    adata.obs_names = [f"cell{i}" for i in range(N_CELLS)]
    return adata


def check_seen(row, truth, found):
    """Of what is reconstructed from all entries."""
    for name, weights in (("weighted", "variance_weighted"), ("uniform", "uniform_average")):
        expected = explained_variance_score(truth, found, multioutput=weights)
        assert row[f"explained_variance_{name}"] == pytest.approx(expected, abs=1e-5)
    assert row["mse"] == pytest.approx(mean_squared_error(truth, found), rel=1e-5)
    assert row["mse_of_mean"] == pytest.approx(truth.var(axis=0).mean(), rel=1e-5)


@pytest.mark.parametrize("batch_size", [1, 7, 512])
def test_equals_scikit_learn(adata, batch_size):
    model = Half(adata.var_names)
    row = scssl.tl.reconstruction_metrics(adata, model, batch_size=batch_size).iloc[0]
    truth = lognorm(adata.X, adata.var_names, model)
    check_seen(row, truth, 0.5 * truth + 0.5)
    assert row[["n_cells", "n_genes", "model"]].tolist() == [N_CELLS, N_GENES, "Half"]
    assert row[["mse_masked", "mse_unmasked"]].isna().all()
    assert max(csr.shape[0] for csr in model.given) == min(batch_size, N_CELLS)


def test_other_genes_and_other_order(adata):
    """Genes are matched by name; those that the data lack are no part of the score."""
    genes = [*adata.var_names[::-1][:20], "NEW1", "NEW2"]
    model = Half(genes)
    row = scssl.tl.reconstruction_metrics(adata, model).iloc[0]
    truth = lognorm(adata.X, adata.var_names, model)[:, :20]
    check_seen(row, truth, 0.5 * truth + 0.5)
    assert row["n_genes"] == 20
    with pytest.raises(scssl.GeneMismatchError, match="Only 20 of the 22 genes"):
        scssl.tl.reconstruction_metrics(adata, model, min_overlap=0.95)


@pytest.mark.parametrize("batch_size", [8, 512])
@pytest.mark.parametrize("kind", ["counts", "lognorm"])
def test_hidden_entries_against_a_dense_version(adata, batch_size, kind):
    if kind == "lognorm":
        adata.X = adata.X.log1p()
    model = Half(adata.var_names[::-1], kind)
    row = scssl.tl.reconstruction_metrics(
        adata, model, mask_rate=0.4, batch_size=batch_size, rng=3
    ).iloc[0]
    generator = derive_generator(3, "hidden entries")
    hidden = generator.random((N_CELLS, N_GENES), dtype=np.float32) < 0.4
    assert hidden.mean() == pytest.approx(0.4, abs=0.03)
    visible = np.where(hidden, 0, adata.X.toarray())
    truth = lognorm(adata.X, adata.var_names, model)
    found = 0.5 * lognorm(visible, adata.var_names, model) + 0.5
    error, mask = (found - truth) ** 2, hidden[:, ::-1]
    assert row["mse_masked"] == pytest.approx(error[mask].mean(), rel=1e-4)
    assert row["mse_unmasked"] == pytest.approx(error[~mask].mean(), rel=1e-4)
    check_seen(row, truth, 0.5 * truth + 0.5)


def test_the_model_is_not_shown_what_is_hidden(adata):
    model = Half(adata.var_names)
    before = adata.X.copy()
    scssl.tl.reconstruction_metrics(adata, model, mask_rate=0.5)
    np.testing.assert_array_equal(adata.X.toarray(), before.toarray())
    whole, part = (csr.toarray() for csr in model.given)
    np.testing.assert_array_equal(whole, before.toarray())
    gone = (part == 0) & (whole > 0)
    assert gone.sum() / (whole > 0).sum() == pytest.approx(0.5, abs=0.05)
    np.testing.assert_array_equal(part[~gone], whole[~gone])


def test_chosen_cells(adata):
    model = Half(adata.var_names)
    rows = [5, 2, 70, 11]
    expected = scssl.tl.reconstruction_metrics(adata[rows].copy(), model).iloc[0]
    mask = np.isin(np.arange(N_CELLS), rows)
    for indices in (rows, mask, adata.obs_names[rows]):
        row = scssl.tl.reconstruction_metrics(adata, model, indices=indices).iloc[0]
        assert row["n_cells"] == 4
        np.testing.assert_allclose(row[5:8].astype(float), expected[5:8].astype(float), rtol=1e-5)


def test_a_layer_and_covariates(adata):
    adata.layers["counts"] = adata.X
    adata.X = None
    adata.obs["batch"] = pd.Categorical(np.repeat(["a", "b"], N_CELLS // 2))
    model = Half(adata.var_names, layer="counts")
    row = scssl.tl.reconstruction_metrics(adata, model, mask_rate=0.5).iloc[0]
    assert row["n_cells"] == N_CELLS
    del adata.layers["counts"]
    with pytest.raises(KeyError, match="no layer 'counts' in adata.layers; there are: none"):
        scssl.tl.reconstruction_metrics(adata, model)


def test_genes_that_do_not_vary_have_no_explained_variance(adata):
    dense = adata.X.toarray()
    dense[:, :3] = 0
    adata.X = sparse.csr_matrix(dense)
    model = Half(adata.var_names)
    row = scssl.tl.reconstruction_metrics(adata, model).iloc[0]
    truth = lognorm(adata.X, adata.var_names, model)
    check = explained_variance_score(truth[:, 3:], 0.5 * truth[:, 3:] + 0.5)
    assert row["explained_variance_uniform"] == pytest.approx(check, abs=1e-5)


def test_cells_without_a_value_are_left_out_with_a_warning(adata):
    dense = adata.X.toarray()
    dense[[3, 40]] = 0
    adata.X = sparse.csr_matrix(dense)
    model = Half(adata.var_names)
    with pytest.warns(ScsslWarning, match="2 of 90 cells have no value in any gene of the model"):
        row = scssl.tl.reconstruction_metrics(adata, model, mask_rate=0.9).iloc[0]
    assert row["n_cells"] == 88
    assert all((csr.sum(axis=1) > 0).all() for csr in model.given), "nor given with nothing visible"
    adata.X = sparse.csr_matrix(np.zeros_like(dense))
    with pytest.raises(ValueError, match="No cell has a value in any gene of the model"):
        scssl.tl.reconstruction_metrics(adata, model)


def test_result_is_returned_and_written(adata, tmp_path):
    model = Half(adata.var_names)
    score = scssl.tl.reconstruction_metrics(adata, model, mask_rate=0.25, rng=4)
    written = adata.uns["reconstruction"]
    assert {key: written[key] for key in score} == score.iloc[0].to_dict()
    assert written["params"] == {"mask_rate": 0.25, "seed": 4}
    adata.write_h5ad(tmp_path / "adata.h5ad")
    assert ad.read_h5ad(tmp_path / "adata.h5ad").uns["reconstruction"]["mse"] == written["mse"]


def test_cells_on_disk_are_read_in_batches(adata, tmp_path):
    expected = scssl.tl.reconstruction_metrics(adata, Half(adata.var_names), mask_rate=0.5)
    adata.write_h5ad(tmp_path / "adata.h5ad")
    backed = ad.read_h5ad(tmp_path / "adata.h5ad", backed="r")
    found = scssl.tl.reconstruction_metrics(
        backed, Half(adata.var_names), mask_rate=0.5, batch_size=16
    )
    pd.testing.assert_frame_equal(found, expected, rtol=1e-5)


def test_what_cannot_be_scored_is_refused(adata):
    model = Half(adata.var_names)
    with pytest.raises(TypeError, match="must be a scssl model that reconstructs.*found dict"):
        scssl.tl.reconstruction_metrics(adata, {})
    for parameters, message in (
        ({"mask_rate": 1.0}, "`mask_rate` must be a number in \\(0, 1\\)"),
        ({"mask_rate": 0}, "`mask_rate` must be"),
        ({"batch_size": 0}, "`batch_size` must be a whole number of at least 1"),
        ({"indices": [90]}, "`indices` has row 90, but `adata` has 90 cells"),
    ):
        with pytest.raises(ValueError, match=message):
            scssl.tl.reconstruction_metrics(adata, model, **parameters)


# --- the model itself -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["counts", "lognorm"])
def test_a_trained_model(adata, kind):
    """The contract of the stand-in above is that of the model."""
    if kind == "lognorm":
        adata.X = adata.X.log1p()
    scssl.model.MaskedAutoencoder.setup_anndata(adata, input=kind, target_sum=1e4)
    model = scssl.model.MaskedAutoencoder(adata, hidden_dims=(32,), n_latent=8)
    model.train(max_epochs=30, progress=False, early_stopping=False)
    row = scssl.tl.reconstruction_metrics(adata, model, mask_rate=0.5, batch_size=31).iloc[0]
    stand_in = Half(adata.var_names, kind)
    truth = lognorm(adata.X, adata.var_names, stand_in)
    check_seen(row, truth, model.get_reconstruction())
    assert row[["mse_masked", "mse_unmasked"]].notna().all()


def test_a_model_that_is_told_the_batch(adata):
    adata.obs["batch"] = pd.Categorical(np.repeat(["a", "b"], N_CELLS // 2))
    scssl.model.MaskedAutoencoder.setup_anndata(adata, batch_key="batch", input="counts")
    model = scssl.model.MaskedAutoencoder(adata, hidden_dims=(8,), n_latent=4)
    model.train(max_epochs=1, progress=False)
    row = scssl.tl.reconstruction_metrics(adata, model, mask_rate=0.5).iloc[0]
    assert row.notna().all()


def test_models_of_counts_are_scored_and_of_detection_refused(adata):
    scssl.model.MaskedAutoencoder.setup_anndata(adata, input="counts")
    models = {
        loss: scssl.model.MaskedAutoencoder(adata, hidden_dims=(8,), n_latent=4, loss=loss)
        for loss in ("nb", "bce")
    }
    models["nb"].train(max_epochs=1, progress=False)
    row = scssl.tl.reconstruction_metrics(adata, models["nb"], mask_rate=0.5).iloc[0]
    assert row.notna().all()
    with pytest.raises(ValueError, match="predicts detection, not expression"):
        scssl.tl.reconstruction_metrics(adata, models["bce"])


@pytest.mark.parametrize("batch_size", [7, 512])
def test_a_perfect_mean_by_a_model_of_counts_scores_as_the_mean(adata, batch_size):
    """What such a model predicts at best of cells that are all alike is the log of their mean."""
    model = Half(adata.var_names)
    model.loss = "nb"
    truth = lognorm(adata.X, adata.var_names, model)
    profile = np.log1p(np.expm1(truth).mean(axis=0))
    model.get_reconstruction = lambda cells, *, min_overlap: np.tile(
        profile.astype(np.float32), (cells.n_obs, 1)
    )
    row = scssl.tl.reconstruction_metrics(adata, model, batch_size=batch_size).iloc[0]
    assert row["mse"] == pytest.approx(
        mean_squared_error(truth, np.tile(profile, (N_CELLS, 1))), rel=1e-5
    )
    assert row["mse_of_mean"] == pytest.approx(row["mse"], rel=1e-5)
    assert row["mse_of_mean"] > 1.05 * truth.var(axis=0).mean()


@pytest.mark.realdata
@pytest.mark.slow
def test_real_cells_are_reconstructed_better_than_by_the_mean(data_file):
    adata = ad.read_h5ad(data_file("pbmc3k.h5ad"))
    train, test = adata[:2000].copy(), adata[2000:].copy()
    scssl.model.MaskedAutoencoder.setup_anndata(train)
    model = scssl.model.MaskedAutoencoder(train)
    model.train(progress=False)
    row = scssl.tl.reconstruction_metrics(test, model, mask_rate=0.5).iloc[0]
    assert row["explained_variance_weighted"] > 0.05
    assert row["mse"] < 0.96 * row["mse_of_mean"]
    assert row["mse_masked"] < 0.97 * row["mse_of_mean"]
