"""A published classifier predicts as its own network does, under the names the caller gives."""

from __future__ import annotations

from functools import partial

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from scssl._errors import BundleError
from scssl.model import CellTypeClassifier, MaskedAutoencoder
from scssl.published import _ssl_in_scg as module
from scssl.published._gene_table import GeneOrder

G = 60
# In no order: the model sorts its classes, the outputs of the network stay where they are.
CLASSES = [f"type {(37 * i) % 164:03d}" for i in range(164)]


@pytest.fixture(scope="module")
def table(published):
    ids = published.ensembl_ids(G)
    return pd.DataFrame({"feature_id": ids, "feature_name": [f"SYM{i}" for i in range(G)]})


@pytest.fixture(autouse=True)
def few_genes(monkeypatch, table):
    order = GeneOrder(G, tuple(table.feature_id[:5]), tuple(table.feature_id[-5:]))
    monkeypatch.setattr(module, "open_published", partial(module.open_published, order=order))


@pytest.fixture(scope="module")
def cells(table):
    counts = np.random.default_rng(0).poisson(1.5, (40, G)).astype(np.float32)
    return anndata.AnnData(sparse.csr_matrix(counts), var=pd.DataFrame(index=table.feature_name))


@pytest.fixture
def state(tmp_path, published):
    return published.checkpoint(tmp_path / "HLCA_SSL.ckpt", "classifier", G)


@pytest.fixture
def read(tmp_path, table):
    def make(**kwargs):
        kwargs = {"classes": CLASSES, "genes": table, "file": "HLCA_SSL.ckpt", **kwargs}
        return CellTypeClassifier.from_pretrained(tmp_path, **kwargs)

    return make


def probabilities(published, state, cells):
    logits = published.logits(state, published.normalize(cells.X.toarray().astype(np.float64)))
    exp = np.exp(logits - logits.max(axis=1, keepdims=True))
    return pd.DataFrame(exp / exp.sum(axis=1, keepdims=True), cells.obs_names, CLASSES)


def test_predictions_equal_the_published_network(read, state, published, cells):
    model = read()
    expected = probabilities(published, state, cells)
    soft = model.predict(cells, soft=True)
    assert set(soft.columns) == set(CLASSES)
    np.testing.assert_allclose(soft[CLASSES], expected, rtol=0, atol=1e-6)
    hard = model.predict(cells)
    assert hard.tolist() == expected.idxmax(axis=1).tolist()
    assert hard.nunique() > 1
    assert hard.name == "cell_type"
    z = published.embedding(
        state, "classifier", published.normalize(cells.X.toarray().astype(np.float64))
    )
    np.testing.assert_allclose(model.get_latent_representation(cells), z, rtol=0, atol=1e-6)
    assert (model.get_latent_representation(cells) == 0).any(), "after the ReLU"


def test_saved_and_loaded(read, state, cells, tmp_path):
    model = read(labels_key="type")
    model.save(tmp_path / "model")
    loaded = CellTypeClassifier.from_pretrained(tmp_path / "model")
    pd.testing.assert_frame_equal(loaded.predict(cells, soft=True), model.predict(cells, soft=True))
    assert loaded.source == model.source
    assert loaded.source["used"]["classifier.15.weight"] == "head.weight"
    assert set(loaded.source["used"]) | set(loaded.source["unused"]) == set(state)
    assert loaded.genes.aliases is not None
    assert loaded.setup.labels_key == "type"
    assert "weights of HLCA_SSL.ckpt" in repr(loaded)
    assert "not trained" not in repr(loaded)


def test_training_can_go_on(read, state, cells):
    adata = cells.copy()
    adata.obs["cell_type"] = np.array(CLASSES)[np.arange(40) % 4]
    model = read(adata=adata)
    before = (model.predict().to_numpy() == adata.obs["cell_type"]).mean()
    model.train(max_epochs=30, lr=1e-2, progress=False)
    after = (model.predict().to_numpy() == adata.obs["cell_type"]).mean()
    assert after > before


def test_classes_are_required(read, state):
    with pytest.raises(ValueError, match="has 164 classes and does not name them"):
        read(classes=None)
    with pytest.raises(ValueError, match="must name the 164 classes of .*, found 3"):
        read(classes=["a", "b", "c"])
    with pytest.raises(ValueError, match="must name the 164 classes of .*, found 'abc'"):
        read(classes="abc")
    with pytest.raises(ValueError, match="'type 000' occurs more than once"):
        read(classes=["type 000", "type 000", *CLASSES[:162]])
    with pytest.raises(ValueError, match="one is empty"):
        read(classes=[" ", *[c for c in CLASSES if c != "type 000"]])


def test_other_checkpoints_are_no_classifiers(read, tmp_path, published):
    published.checkpoint(tmp_path / "HLCA_SSL.ckpt", "autoencoder", G)
    with pytest.raises(BundleError, match=r"HLCA_SSL\.ckpt is no classifier: it is an autoencoder"):
        read()


def test_own_models_take_no_arguments_of_checkpoints(read, state, tmp_path):
    read().save(tmp_path / "own")
    with pytest.raises(ValueError, match="`classes` is for checkpoints"):
        CellTypeClassifier.from_pretrained(tmp_path / "own", classes=CLASSES)
    with pytest.raises(BundleError, match="holds a CellTypeClassifier, not a MaskedAutoencoder"):
        MaskedAutoencoder.from_pretrained(tmp_path / "own")
