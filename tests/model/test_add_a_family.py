"""The family of the documentation: a model from one file goes through the contract and gives its encoder away."""

from __future__ import annotations

import importlib
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

import scssl
from scssl.model.base import _registry

from . import test_contract as contract
from .conftest import TRAIN, arguments_of, make_counts

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "add_a_family.py"


@pytest.fixture(scope="module")
def family():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_registry, "_MODELS", dict(_registry._MODELS))
        patch.syspath_prepend(str(EXAMPLE.parent))
        yield importlib.import_module(EXAMPLE.stem).DenoisingAutoencoder
    del sys.modules[EXAMPLE.stem]


@pytest.fixture
def trained(family):
    adata = make_counts()
    family.setup_anndata(adata, labels_key="cell_type")
    model = family(adata, **arguments_of(family))
    model.train(**TRAIN)
    return model


def test_it_runs(monkeypatch, capsys):
    monkeypatch.setattr(_registry, "_MODELS", dict(_registry._MODELS))
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    assert "trained: 5 epochs on 700 cells" in capsys.readouterr().out


def test_it_is_a_model_like_any_other(trained, tmp_path):
    adata = trained.adata
    contract.test_embedding(trained, adata)
    contract.test_deterministic_embedding(trained)
    contract.test_embedding_does_not_depend_on_the_batch_size(trained, 7)
    contract.test_gene_order_makes_no_difference(trained, adata)
    contract.test_missing_genes_are_zero(trained, adata)
    contract.test_hash_of_the_encoder(trained, adata, tmp_path / "hash")
    contract.test_save_and_load(trained, adata, tmp_path)
    contract.test_foreign_genes_are_refused(trained, adata)


def test_what_a_model_does_not_say_of_training_is_the_usual(trained):
    usual = scssl.train.TrainOptions.chosen(
        trained._train_defaults(150), dict.fromkeys(scssl.train.TrainOptions.__annotations__)
    )
    assert (usual.weight_decay, usual.lr_schedule, usual.patience) == (1e-2, "cosine", 20)


def test_others_start_from_its_encoder(trained, family):
    order = np.random.default_rng(0).permutation(60)
    adata = make_counts()[:, order].copy()
    z = trained.get_latent_representation(adata)
    for model_class in (family, scssl.model.SimCLR):
        new = model_class.from_ssl_model(trained, adata)
        np.testing.assert_allclose(new.get_latent_representation(), z, atol=1e-5)
    adata = adata[:, adata.var_names != "GENE3"].copy()
    tuned = scssl.model.CellTypeClassifier.from_ssl_model(trained, adata, "cell_type")
    tuned.train(**TRAIN)
    assert set(tuned.predict()) <= set(adata.obs["cell_type"].unique())
