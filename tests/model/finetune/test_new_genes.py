"""Fine-tuning on genes that the pretrained model does not know."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import scssl
from scssl.model import CellTypeClassifier

from ..conftest import TRAIN, arguments_of, make_counts

NAMES = [
    name
    for name in scssl.model.list_models()
    if scssl.model.get_model_class(name)._learns_embeddings
]


def pretrained(name):
    cls = scssl.model.get_model_class(name)
    adata = make_counts()[:, :50].copy()
    cls.setup_anndata(adata, input="counts")
    model = cls(adata, **arguments_of(cls))
    model.train(**TRAIN)
    return model


@pytest.mark.parametrize("name", NAMES)
def test_columns_follow_their_genes(name, caplog):
    model = pretrained(name)
    order = np.random.default_rng(0).permutation(60)
    adata = make_counts()[:, order].copy()
    adata = adata[:, [g for g in adata.var_names if g not in ("GENE3", "GENE7")]].copy()
    with caplog.at_level("INFO", logger="scssl"):
        tuned = CellTypeClassifier.from_ssl_model(model, adata, "cell_type", new_genes="learn")
    assert "10 of 58 genes are new to the model" in caplog.text
    assert "2 of its own are not in the data" in caplog.text
    assert tuned.genes.names.tolist() == adata.var_names.tolist()
    weights = {
        name: w
        for name, w in tuned.module.state_dict().items()
        if name.endswith("gene_encoder.weight")
    }
    before = {
        name: w
        for name, w in model.module.state_dict().items()
        if name.endswith("gene_encoder.weight")
    }
    assert weights
    for name, found in weights.items():
        theirs = before[name.removeprefix("backbone.")]
        for row, gene in enumerate(adata.var_names):
            number = int(gene.removeprefix("GENE"))
            expected = theirs[number] if number < 50 else torch.zeros(theirs.shape[1])
            assert torch.equal(found[row], expected), gene
    # What is new says nothing yet: cells without the new genes are embedded as before.
    known = make_counts()
    x = known.X.toarray()
    x[:, [3, 7, *range(50, 60)]] = 0
    known.X = x
    np.testing.assert_allclose(
        tuned.get_latent_representation(known), model.get_latent_representation(known), atol=1e-5
    )


def test_new_genes_are_learnt_and_saved(tmp_path):
    model = pretrained("PseudoLabel")
    adata = make_counts()
    tuned = CellTypeClassifier.from_ssl_model(model, adata, "cell_type", new_genes="learn")
    tuned.train(max_epochs=5, train_size=1.0, progress=False)
    assert tuned.module.state_dict()["backbone.encoder.gene_encoder.weight"][50:].abs().max() > 0
    tuned.save(tmp_path / "model")
    loaded = CellTypeClassifier.load(tmp_path / "model")
    np.testing.assert_array_equal(loaded.predict(adata), tuned.predict(adata))


def test_by_default_new_genes_are_left_out():
    model = pretrained("PseudoLabel")
    tuned = CellTypeClassifier.from_ssl_model(model, make_counts(), "cell_type")
    assert len(tuned.genes) == 50
    with pytest.raises(ValueError, match="`new_genes` must be 'ignore' or 'learn'"):
        CellTypeClassifier.from_ssl_model(model, make_counts(), "cell_type", new_genes="add")


@pytest.mark.parametrize("kind", ["lognorm", "counts"])
def test_what_new_genes_do_to_embeddings_before_training(kind):
    """Nothing to normalised values; of counts they change the sum by which a cell is scaled."""
    adata = make_counts()
    if kind == "lognorm":
        adata.X.data = np.log1p(adata.X.data).astype(np.float32)
    known = adata[:, :50].copy()
    cls = scssl.model.PseudoLabel
    cls.setup_anndata(known, input=kind)
    model = cls(known, **arguments_of(cls))
    model.train(**TRAIN)
    tuned = CellTypeClassifier.from_ssl_model(model, adata, "cell_type", new_genes="learn")
    found, before = (m.get_latent_representation(x) for m, x in ((tuned, adata), (model, known)))
    assert np.allclose(found, before, atol=1e-5) == (kind == "lognorm")


def test_without_new_genes_there_are_no_examples(caplog):
    model = pretrained("PseudoLabel")
    adata = make_counts()[:, 10:50].copy()
    with caplog.at_level("INFO", logger="scssl"):
        CellTypeClassifier.from_ssl_model(model, adata, "cell_type", new_genes="learn")
    assert "0 of 40 genes are new to the model; 10 of its own are not in the data." in caplog.text
