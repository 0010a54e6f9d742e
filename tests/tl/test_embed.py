"""tl.embed writes what the model computes and how, and changes nothing else."""

from __future__ import annotations

import os
from functools import partial

import anndata as ad
import numpy as np
import pytest

import scssl
from scssl.data import GeneVocabulary


class Sums:
    """A model whose embedding of a cell can be seen at once: the sum of its known genes, thrice."""

    def __init__(self, genes):
        self.genes = GeneVocabulary(genes)
        self.calls = []

    encoder_hash = "sums"

    def align(self, adata):
        return self.genes.align(adata.var_names, min_overlap=0)

    def get_latent_representation(self, adata, *, batch_size, min_overlap):
        self.calls.append((batch_size, min_overlap))
        known = [gene for gene in self.genes.names if gene in adata.var_names]
        total = np.asarray(adata[:, known].X.sum(axis=1)).reshape(-1, 1)
        return np.repeat(total, 3, axis=1).astype(np.float32)


@pytest.fixture
def adata():
    adata = ad.AnnData(np.arange(24, dtype=np.float32).reshape(6, 4))
    adata.obs_names = [f"cell{i}" for i in range(6)]
    adata.var_names = ["CD3D", "MS4A1", "LYZ", "GNLY"]
    return adata


def test_results(adata):
    model = Sums(["LYZ", "CD3D", "NKG7"])
    assert scssl.tl.embed(adata, model, batch_size=2, min_overlap=0.4) is None
    np.testing.assert_array_equal(adata.obsm["X_ssl"][:, 0], adata.X[:, 0] + adata.X[:, 2])
    assert model.calls == [(2, 0.4)]
    assert adata.uns["X_ssl"] == {
        "model": "Sums",
        "scssl_version": scssl.__version__,
        "encoder_hash": "sums",
        "vocabulary_hash": model.genes.hash,
        "n_genes_matched": 2,
        "n_genes_missing": 1,
        "n_genes_extra": 2,
        "share_measured": pytest.approx(2 / 3),
        "params": {"n_latent": 3, "batch_key": "none"},
    }


def test_copy_of_backed_data_is_in_memory(adata, tmp_path):
    adata.write_h5ad(tmp_path / "cells.h5ad")
    backed = ad.read_h5ad(tmp_path / "cells.h5ad", backed="r")
    model = Sums(["CD3D", "LYZ"])
    model.get_latent_representation = lambda adata, **_: np.ones((6, 2), np.float32)
    result = scssl.tl.embed(backed, model, copy=True)
    assert not result.isbacked
    assert result.obsm["X_ssl"].shape == (6, 2)
    assert "X_ssl" not in backed.obsm


def test_what_is_not_a_model_is_refused(adata):
    with pytest.raises(TypeError, match="must be a scssl model or the folder of one, found int"):
        scssl.tl.embed(adata, 3)


@pytest.mark.parametrize("key", ["", None, 1])
def test_what_is_not_a_key_is_refused(adata, key):
    with pytest.raises(TypeError, match="`key_added` must be a string that is not empty, found"):
        scssl.tl.embed(adata, Sums(["CD3D"]), key_added=key)


# --- with a model of the package ------------------------------------------------------------------


@pytest.fixture(scope="module")
def cells():
    adata = ad.AnnData(np.random.default_rng(0).poisson(1, (40, 12)).astype(np.float32))
    adata.obs_names = [f"cell{i}" for i in range(40)]
    adata.var_names = [f"GENE{i}" for i in range(12)]
    return adata


@pytest.fixture(scope="module")
def trained(cells):
    adata = cells.copy()
    scssl.model.MaskedAutoencoder.setup_anndata(adata)
    model = scssl.model.MaskedAutoencoder(adata, hidden_dims=[8], n_latent=3)
    model.train(max_epochs=1, progress=False)
    return model


def test_without_a_model_one_is_trained(cells):
    cells, before = cells.copy(), cells.X
    cells.var["highly_variable"] = np.arange(cells.n_vars) % 2 == 0
    scssl.tl.embed(cells, rng=3)
    np.testing.assert_array_equal(cells.X, before)
    written = cells.uns["X_ssl"]
    assert (written["model"], written["n_genes_matched"]) == ("MaskedAutoencoder", 6)
    some = cells[:, cells.var["highly_variable"]].copy()
    scssl.model.MaskedAutoencoder.setup_anndata(some)
    model = scssl.model.MaskedAutoencoder(some, n_components=50, rng=3)
    model.train(rng=3, progress=False)
    np.testing.assert_array_equal(cells.obsm["X_ssl"], model.get_latent_representation())
    assert not {key for key in cells.uns if key.startswith("_scvi")}
    with pytest.raises(ValueError, match="`revision` is for a model"):
        scssl.tl.embed(cells, revision="main")


def test_folder_and_model_give_the_same(trained, cells, tmp_path):
    trained.save(tmp_path / "model")
    expected = trained.get_latent_representation(cells)
    for model in (trained, tmp_path / "model", str(tmp_path / "model")):
        adata = cells.copy()
        scssl.tl.embed(adata, model)
        np.testing.assert_array_equal(adata.obsm["X_ssl"], expected)
        assert adata.uns["X_ssl"]["model"] == "MaskedAutoencoder"


def test_embeddings_of_two_models_are_told_apart(trained, cells):
    """Even where they have the same genes and width."""
    reference, query = cells[:30].copy(), cells[30:].copy()
    reference.obs["label"] = ["a", "b"] * 15
    reference.obsm["protein"] = reference.X[:, :2]
    scssl.tl.embed(reference, trained)
    adata = cells.copy()
    scssl.model.MaskedAutoencoder.setup_anndata(adata)
    other = scssl.model.MaskedAutoencoder(adata, hidden_dims=[8], n_latent=3, rng=1)
    other.train(max_epochs=1, progress=False)
    tools = (
        partial(scssl.tl.label_transfer, reference, query, "label", n_neighbors=5),
        partial(scssl.tl.predict_modality, reference, query),
    )
    scssl.tl.embed(query, other)
    for tool in tools:
        with pytest.raises(ValueError, match=r"different weights .*tl.embed\(query, model"):
            tool()
    scssl.tl.embed(query, trained)
    for tool in tools:
        tool()


def test_gene_order_does_not_matter(trained, cells):
    shuffled = cells[:, np.random.default_rng(1).permutation(12)].copy()
    scssl.tl.embed(shuffled, trained)
    np.testing.assert_array_equal(shuffled.obsm["X_ssl"], trained.get_latent_representation(cells))


def test_too_few_genes(trained, cells):
    other = cells.copy()
    other.var_names = [f"OTHER{i}" for i in range(12)]
    with pytest.raises(scssl.GeneMismatchError, match="GENE0"):
        scssl.tl.embed(other, trained)
    assert "X_ssl" not in other.obsm
    assert "X_ssl" not in other.uns


def test_folder_that_is_no_model(cells, tmp_path):
    with pytest.raises(scssl.BundleError, match="is not a scssl model folder"):
        scssl.tl.embed(cells.copy(), tmp_path)


def test_revision_and_token_of_a_model_on_the_hub(hub, trained, cells, monkeypatch):
    trained.push_to_hub("lab/cells", private=True)
    earlier = hub.repos["lab/cells"].branches["main"]
    adata = cells.copy()
    scssl.model.MaskedAutoencoder.setup_anndata(adata)
    other = scssl.model.MaskedAutoencoder(adata, hidden_dims=[8], n_latent=3, rng=1)
    other.train(max_epochs=1, progress=False)
    other.push_to_hub("lab/cells", private=True)
    token = os.environ["HF_TOKEN"]
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises((FileNotFoundError, PermissionError), match="lab/cells"):
        scssl.tl.embed(adata, "lab/cells")
    for revision, model in ((earlier, trained), ("main", other), (None, other)):
        scssl.tl.embed(adata, "lab/cells", revision=revision, token=token)
        expected = model.get_latent_representation(adata)
        np.testing.assert_array_equal(adata.obsm["X_ssl"], expected)


def test_revision_and_token_of_a_model_that_is_here(trained, cells, tmp_path):
    trained.save(tmp_path / "model")
    for name in ("revision", "token"):
        with pytest.raises(
            ValueError, match=f"`{name}` is for a model on the hub, and `model` is a Mask"
        ):
            scssl.tl.embed(cells, trained, **{name: "x"})
        with pytest.raises(ValueError, match=f"is a folder.*leave `{name}` out"):
            scssl.tl.embed(cells, tmp_path / "model", **{name: "x"})


def test_name_on_the_hub(hub, trained, cells, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trained.push_to_hub("lab/cells")
    scssl.tl.embed(cells := cells.copy(), "lab/cells")
    np.testing.assert_array_equal(cells.obsm["X_ssl"], trained.get_latent_representation(cells))
    with pytest.raises(
        FileNotFoundError,
        match="no folder lab/none, .* lab/none/config.json failed: .*Repository Not Found.* http",
    ):
        scssl.tl.embed(cells, "lab/none")
    # A folder goes first.
    hub.requests.clear()
    trained.save("lab/cells")
    scssl.tl.embed(cells, "lab/cells")
    assert hub.requests == []
