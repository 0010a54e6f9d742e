"""The example of the documentation: a method from outside the package goes through the same contract."""

from __future__ import annotations

import inspect
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch

import scssl
from scssl.model.base import _registry

from .. import test_contract as contract
from ..conftest import TRAIN, arguments_of, make_counts

EXAMPLE = Path(__file__).parents[3] / "docs" / "examples" / "add_a_method.py"


@pytest.fixture
def example(monkeypatch):
    monkeypatch.setattr(_registry, "_MODELS", dict(_registry._MODELS))
    return runpy.run_path(str(EXAMPLE))


@pytest.fixture
def trained(example):
    adata = make_counts()
    example["WMSE"].setup_anndata(adata, labels_key="cell_type")
    model = example["WMSE"](adata, **arguments_of(example["WMSE"], projector_dims=(16, 4)))
    model.train(**TRAIN)
    return model


def test_it_runs(monkeypatch, capsys):
    monkeypatch.setattr(_registry, "_MODELS", dict(_registry._MODELS))
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    said = capsys.readouterr().out
    assert "eps 0.05" in said
    assert "trained: 5 epochs on 700 cells" in said


def test_constructor_and_docstring_list_all_arguments(example):
    found = inspect.signature(example["WMSE"]).parameters
    common = inspect.signature(scssl.model.SimCLR).parameters
    assert set(found) == {"eps", *common} - {"temperature", "loss", "negatives"}
    assert (found["eps"].default, found["eps"].annotation) == (0.01, float)
    text = inspect.getdoc(example["WMSE"])
    for name in found:
        assert text.count(f"\n{name}\n    ") == 1
    with pytest.raises(ValueError, match=r"`eps` must be a number in \[0, 1\], found 2"):
        example["WMSE"].setup_anndata(adata := make_counts())
        example["WMSE"](adata, eps=2)


def test_it_is_a_model_like_any_other(trained, tmp_path):
    adata = trained.adata
    assert "WMSE" in scssl.model.list_models()
    contract.test_embedding(trained, adata)
    contract.test_deterministic_embedding(trained)
    contract.test_embedding_does_not_depend_on_the_batch_size(trained, 7)
    contract.test_gene_order_makes_no_difference(trained, adata)
    contract.test_missing_genes_are_zero(trained, adata)
    contract.test_hash_of_the_encoder(trained, adata, tmp_path / "hash")
    contract.test_save_and_load(trained, adata, tmp_path)
    contract.test_foreign_genes_are_refused(trained, adata)


def test_the_name_of_another_model_is_refused():
    with pytest.raises(ValueError, match=r"is a model VICReg in scssl\.model\.joint_embedding"):
        scssl.model.register_model(type("VICReg", (scssl.model.SimCLR,), {"__doc__": None}))


def test_its_loss_falls(example):
    adata = make_counts(n_cells=300)
    example["WMSE"].setup_anndata(adata)
    model = example["WMSE"](adata, **arguments_of(example["WMSE"], projector_dims=(16, 4)))
    model.train(max_epochs=15, batch_size=32, progress=False)
    loss = model.history["train_loss"]["train_loss"]
    assert loss.iloc[-1] < 0.9 * loss.iloc[0]
    assert model.history["effective_rank"].iloc[-1, 0] > 3


def test_its_objective_equals_the_naive_sum(example):
    rng = np.random.default_rng(0)
    one = rng.normal(size=(21, 6)) * np.linspace(0.3, 2, 6)
    two = one + 0.5 * rng.normal(size=(21, 6))
    white = []
    for z in (one, two):
        covariance = sum(np.outer(row, row) for row in z - z.mean(0)) / 20
        factor = np.linalg.cholesky(0.9 * covariance + 0.1 * np.eye(6))
        white.append([np.linalg.inv(factor) @ row for row in z - z.mean(0)])
    cosines = [a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in zip(*white, strict=True)]
    found = example["w_mse"](torch.from_numpy(one), torch.from_numpy(two), eps=0.1)
    assert float(found) == pytest.approx(2 - 2 * np.mean(cosines), rel=1e-10)
