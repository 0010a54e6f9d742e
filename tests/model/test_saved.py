"""Model folders that an earlier version wrote are read, and embed as they did.

``saved/cells.npz`` has the cells, and the embeddings that the version of before (7be1d7c, scssl 0.1.0) made of
them, and with which instructions and which PyTorch: where these are the same, so are the bits.
"""

from __future__ import annotations

from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse

import scssl

SAVED = Path(__file__).parent / "saved"


@pytest.fixture(scope="module")
def before():
    with np.load(SAVED / "cells.npz") as found:
        return dict(found)


@pytest.fixture
def cells(before):
    n_cells, genes = len(before["age"]), before["genes"]
    parts = (before["data"].astype(np.float32), before["indices"], before["indptr"])
    counts = sparse.csr_matrix(parts, shape=(n_cells, len(genes)))
    obs = pd.DataFrame(
        {name: before[name] for name in ("cell_type", "batch", "sample", "age")},
        index=[f"c{i}" for i in range(n_cells)],
    )
    adata = anndata.AnnData(counts, obs=obs, var=pd.DataFrame(index=genes))
    adata.obsm["spatial"] = before["spatial"]
    return adata


@pytest.mark.parametrize("name", ["mae", "SimCLR", "CellPLM"])
def test_embeds_as_before(name, before, cells):
    model = scssl.model.SSLModel.load(SAVED / name)
    assert model.is_trained_
    found = model.get_latent_representation(cells)
    np.testing.assert_allclose(found, before[name], rtol=1e-4, atol=1e-5)
    here = [torch.backends.cpu.get_cpu_capability(), torch.__version__.split("+")[0]]
    if here == list(before["made_with"]):
        np.testing.assert_array_equal(found, before[name])
    again = model.get_latent_representation(cells[:, ::-1].copy())
    np.testing.assert_array_equal(again, found)


@pytest.mark.parametrize("name", ["mae", "SimCLR", "CellPLM"])
def test_goes_on_learning(name, cells):
    model = scssl.model.SSLModel.load(SAVED / name, cells)
    n_before = len(model.history["train_loss"])
    model.train(max_epochs=1, batch_size=64, progress=False)
    assert len(model.history["train_loss"]) == n_before + 1


@pytest.mark.parametrize("name", ["mae", "SimCLR", "CellPLM"])
def test_is_saved_again_as_it_was(name, tmp_path):
    model = scssl.model.SSLModel.load(SAVED / name)
    model.save(tmp_path / "again")
    old, new = (scssl.hub.read_bundle(folder) for folder in (SAVED / name, tmp_path / "again"))
    for part in ("class", "arguments", "input", "training", "history"):
        # What an argument that came later is without.
        later = {"n_components": 0} if (name, part) == ("mae", "arguments") else {}
        expected = {**old.config[part], **later} if later else old.config[part]
        assert new.config[part] == expected, part
    assert old.tensors.keys() == new.tensors.keys()
    assert all(torch.equal(old.tensors[key], new.tensors[key]) for key in old.tensors)
