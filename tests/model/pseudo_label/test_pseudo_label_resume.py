"""What pretraining on clusters goes on with, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback

from scssl.model import PseudoLabel

from ..conftest import make_counts

SMALL = {"hidden_dims": (16,), "n_latent": 8, "cells_per_cluster": (50,), "kmeans": "sklearn"}
TRAIN = {"max_epochs": 1, "batch_size": 64, "progress": False}


class _Stop(Callback):
    """In the first epoch, before there is a checkpoint of Lightning's."""

    def on_train_epoch_start(self, trainer, pl_module):
        raise RuntimeError("the machine went down")


def build(adata, **options):
    PseudoLabel.setup_anndata(adata, dataset_key="study", input="counts", target_sum=1e4)
    return PseudoLabel(adata, **{**SMALL, "n_rounds": 1, **options})


def cells():
    adata = make_counts(n_genes=30)
    adata.obs["study"] = np.repeat(["x", "y"], 75)
    return adata


def exchanged(adata):
    """The same sums and data sets, two cells in each other's place."""
    return adata[[1, 0, *range(2, adata.n_obs)]].copy()


def moved(adata):
    adata.obs["study"] = adata.obs["study"].to_numpy()[::-1].copy()
    return adata


def renamed(adata):
    adata.obs["study"] = adata.obs["study"].map({"x": "x", "y": "z"})
    return adata


def other_values(adata):
    adata.X.data *= 2
    return adata


def the_same(adata):
    return adata


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    with pytest.raises(RuntimeError, match="went down"):
        build(cells()).train(**TRAIN, rng=3, checkpoint_dir=folder, callbacks=[_Stop()])
    assert [path.name for path in (folder / "round-00").iterdir()] == ["start"]
    return folder


@pytest.mark.parametrize(
    ("change", "options", "rng", "found"),
    [
        (exchanged, {}, 3, "order of the cells is '"),
        (moved, {}, 3, "data sets is '"),
        (renamed, {}, 3, "setup is {"),
        (other_values, {}, 3, "data is {"),
        (the_same, {"cells_per_cluster": (25,)}, 3, 'model is "PseudoLabel'),
        (the_same, {}, 4, "seed is 3, of this one 4"),
    ],
)
def test_clusters_of_another_run_are_refused(folder, change, options, rng, found):
    model = build(change(cells()), **options)
    before = {name: value.clone() for name, value in model.module.state_dict().items()}
    with pytest.raises(ValueError, match=f"is a checkpoint of another run: its {found}"):
        model.train(**TRAIN, rng=rng, resume_from=folder)
    assert model._opened is None
    assert not model.is_trained_
    for name, value in model.module.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_data_sets_of_attached_cells_are_compared(folder, tmp_path):
    """They are of the data, not of the setup."""
    model = build(cells())
    model.save(tmp_path / "model")
    loaded = PseudoLabel.load(tmp_path / "model")
    loaded.attach(moved(cells()))
    with pytest.raises(ValueError, match="of another run: its data sets is '"):
        loaded.train(**TRAIN, rng=3, resume_from=folder)


def test_the_same_run_is_resumed(folder):
    straight, resumed = build(cells()), build(cells())
    straight.train(**TRAIN, rng=3)
    resumed.train(**TRAIN, rng=3, resume_from=folder)
    np.testing.assert_array_equal(
        straight.get_latent_representation(), resumed.get_latent_representation()
    )
