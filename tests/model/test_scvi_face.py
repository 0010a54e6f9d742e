"""What users of scvi-tools know of its models works for all of ours."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest
import scvi
import torch

import scssl

from .conftest import TRAIN, make_counts


def test_what_every_model_says_of_itself(trained, adata, capsys):
    assert isinstance(trained, scvi.model.base.BaseModelClass)
    assert trained.adata is adata
    assert trained.is_trained is True
    assert str(trained.device) == "cpu"
    assert trained.registry["model_name"] == type(trained).__name__
    assert trained.registry["setup_method_name"] == "setup_anndata"
    assert trained.registry["setup_args"]["labels_key"] == "cell_type"
    assert trained.summary_stats["n_cells"] == adata.n_obs
    assert trained.get_var_names().tolist() == adata.var_names.tolist()
    assert repr(trained).startswith(f"{type(trained).__name__}: ")
    assert trained._model_summary_string in repr(trained)
    trained.view_anndata_setup()
    assert re.search(r"cell_type|labels", capsys.readouterr().out)


def test_history_and_indices(trained, adata):
    assert {"train_loss", "validation_loss"} <= set(trained.history)
    for name, frame in trained.history.items():
        assert isinstance(frame, pd.DataFrame)
        assert frame.columns.tolist() == [name]
        assert frame.index.name == "epoch"
        assert len(frame) == TRAIN["max_epochs"]
    both = np.concatenate([trained.train_indices, trained.validation_indices])
    np.testing.assert_array_equal(np.sort(both), np.arange(adata.n_obs))


def test_moved_and_embedded(trained):
    z = trained.get_latent_representation()
    trained.to_device("cpu")
    trained.to_device(torch.device("cpu"))
    np.testing.assert_array_equal(trained.get_latent_representation(), z)


def test_managers_are_given_back(trained, adata):
    other, names = make_counts(seed=1), ("SimCLR", "MaskedAutoencoder")
    cls = next(c for c in map(scssl.model.get_model_class, names) if c is not type(trained))
    cls.setup_anndata(other)
    assert trained.adata_manager.adata is adata
    trained.deregister_manager()
    assert trained.adata_manager.adata is adata
    # Of other classes nothing is forgotten.
    assert cls(other, n_latent=4).adata is other
    assert trained.get_latent_representation().shape[0] == adata.n_obs
    type(trained)._get_most_recent_anndata_manager(adata, required=True)
    trained.deregister_manager(adata)
    with pytest.raises(ValueError, match="Set it up"):
        type(trained)(adata)


def test_setup_of_a_folder(trained, tmp_path, capsys):
    trained.save(tmp_path / "model")
    cls = type(trained)
    assert cls.load_registry(tmp_path / "model")["setup_args"]["labels_key"] == "cell_type"
    cls.view_setup_args(tmp_path / "model")
    assert "'labels_key': 'cell_type'" in capsys.readouterr().out
