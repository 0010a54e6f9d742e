from __future__ import annotations

import copy
import inspect
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import scssl

# Every model of the registry goes through the contract; a new one gets all of it for free.
MODELS = scssl.model.list_models()
# What makes a model small, of the arguments that it has.
SMALL = {
    "hidden_dims": (32,),
    "n_latent": 8,
    # With 256 dimensions most of the loss of some methods is variance that 8 cannot have.
    "projector_dims": (8, 8),
    "n_hidden": 32,
    "n_layers": 1,
    "n_heads": 2,
    "n_rounds": 1,
    "cells_per_cluster": (50, 25),
    "n_components": 5,
    # Otherwise a ridge regression solves these data before training starts.
    "head_start": "random",
}


def arguments_of(function, **more):
    """Those of the small arguments that a model, or another function, takes."""
    taken = set(inspect.signature(function).parameters)
    if "backbone" in taken:
        # What is fine-tuned hands them on.
        taken |= set(inspect.signature(scssl.model.MaskedAutoencoder).parameters)
    return {name: value for name, value in {**SMALL, **more}.items() if name in taken}


# What a model cannot be set up without.
SETUP = {"CellTypeClassifier": {"labels_key": "cell_type"}}
# What its history has beside that of all models.
HISTORY = {
    "CellPLM": {"validation_objective", "validation_divergence"},
    "CellTypeClassifier": {"validation_accuracy", "validation_macro_f1"},
    "ProteinPredictor": {"validation_pearson"},
    "PseudoLabel": {"validation_accuracy"},
}
HISTORY |= {
    name: {"projection_spread", "projection_std", "projection_dimensions"}
    for name in MODELS
    if issubclass(scssl.model.get_model_class(name), scssl.model.JointEmbedding)
}
TRAIN = {"max_epochs": 2, "batch_size": 32, "progress": False}


def make_counts(n_cells=150, n_genes=60, seed=0):
    """Counts of three cell types in two batches."""
    rng = np.random.default_rng(seed)
    kind = np.arange(n_cells) % 3
    mean = rng.gamma(0.5, 2.0, (3, n_genes)) * rng.gamma(5.0, 0.2, (n_cells, 1))[:, :1].mean()
    counts = rng.poisson(mean[kind] * rng.gamma(5.0, 0.2, (n_cells, 1))).astype(np.float32)
    obs = pd.DataFrame(
        {
            "cell_type": pd.Categorical([f"type {k}" for k in kind]),
            "batch": np.where(np.arange(n_cells) % 2, "a", "b"),
            "age": rng.normal(size=n_cells),
        },
        index=[f"cell{i}" for i in range(n_cells)],
    )
    var = pd.DataFrame(index=[f"GENE{i}" for i in range(n_genes)])
    # Without these some models cannot be set up, and others do not read them.
    places = np.random.default_rng(1).random((n_cells, 2))
    return anndata.AnnData(sparse.csr_matrix(counts), obs=obs, var=var, obsm={"spatial": places})


def make_proteins(adata):
    """Counts of four proteins that differ between the cell types, more in larger cells."""
    rng = np.random.default_rng(7)
    kind = adata.obs["cell_type"].cat.codes.to_numpy()
    size = rng.gamma(8.0, 0.125, (adata.n_obs, 1))
    mean = np.array([[20, 5, 1, 9], [3, 30, 2, 9], [1, 6, 25, 3]])
    names = ["CD3", "CD4", "CD8", "CD19"]
    return pd.DataFrame(rng.poisson(mean[kind] * size), index=adata.obs_names, columns=names)


@pytest.fixture
def adata():
    adata = make_counts()
    adata.obsm["protein"] = make_proteins(adata)
    return adata


@pytest.fixture(params=MODELS)
def model_class(request):
    return scssl.model.get_model_class(request.param)


@pytest.fixture
def build(model_class):
    """Build a small model of the class on an AnnData, set up and not trained."""

    def make(adata, *, setup=None, **kwargs):
        if model_class.__name__ == "ProteinPredictor" and "protein" not in adata.obsm:
            adata.obsm["protein"] = make_proteins(adata)
        model_class.setup_anndata(adata, **{**SETUP.get(model_class.__name__, {}), **(setup or {})})
        return model_class(adata, **{**arguments_of(model_class), **kwargs})

    return make


# What training leaves in a model, of each class that was trained once in this session.
_LEARNT: dict[str, dict[str, Any]] = {}
_LEFT = ("module", "is_trained_", "history_", "training_", "train_indices_", "validation_indices_")


@pytest.fixture
def trained(build, adata, model_class):
    """A model of its own for each test; the training itself is done once for each class."""
    model = build(adata, setup={"labels_key": "cell_type"})
    name = model_class.__name__
    if name not in _LEARNT:
        model.train(**TRAIN)
        left = {key: vars(model)[key] for key in (*_LEFT, "_clusters") if key in vars(model)}
        _LEARNT[name] = copy.deepcopy({**left, "split": adata.uns["scssl_split"]})
    else:
        left = copy.deepcopy(_LEARNT[name])
        adata.uns["scssl_split"] = left.pop("split")
        for key, value in left.items():
            setattr(model, key, value)
    return model
