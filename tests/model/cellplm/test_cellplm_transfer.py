"""What a CellPLM takes over from another one, and what the published recipe is."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

from scssl._errors import ScsslWarning
from scssl.data import Datasets
from scssl.model import CellPLM
from scssl.objective import SUPCON_TEMPERATURE

from .test_cellplm import SMALL, TISSUE, TRAIN, build, make


@pytest.fixture(scope="module")
def adata():
    return make()


@pytest.fixture(scope="module")
def blind(adata):
    """Told no places, and with a mask of its own."""
    options = {"position": "off", "context": "tiles", "context_size": 20, "halo": 5}
    model = build(
        adata, mask_cells=0.5, mask_rate=0.4, visible_weight=0.3, kl_weight=0.7, **options
    )
    model.train(**TRAIN)
    return model


def test_cells_are_not_told_their_place_if_they_were_not(blind, adata):
    model = CellPLM.from_ssl_model(blind, adata, **TISSUE)
    np.testing.assert_array_equal(
        model.get_latent_representation(), blind.get_latent_representation()
    )
    for name in (
        "position",
        "context",
        "context_size",
        "mask_cells",
        "mask_rate",
        "visible_weight",
    ):
        assert model._config()[name] == blind._config()[name], name
    told = CellPLM.from_ssl_model(blind, adata, position="sinusoidal", **TISSUE)
    assert told.module.encoder.position is not None
    assert not np.allclose(told.get_latent_representation(), blind.get_latent_representation())


def test_places_are_left_out_where_there_are_none(adata):
    seeing = build(adata)
    seeing.train(**TRAIN)
    assert CellPLM.from_ssl_model(seeing, adata, **TISSUE)._options.position == "sinusoidal"
    model = CellPLM.from_ssl_model(seeing, adata, sample_key="slice")
    assert model.module.encoder.position is None


def test_the_latent_term_of_pretraining_is_not_that_of_labels(adata):
    big = build(adata, kl_weight=5.0, free_bits=5.0)
    big.train(**TRAIN)
    for objective, weights in (
        ("reconstruction", (5.0, 5.0)),
        ("cross_entropy", (0.1, 0.0)),
        ("supcon", (0.1, 0.0)),
        ("kl", (0.1, 0.0)),
    ):
        model = CellPLM.from_ssl_model(big, adata, objective=objective, labels_key="type", **TISSUE)
        assert (model._options.kl_weight, model._options.free_bits) == weights
    model = CellPLM.from_ssl_model(
        big, adata, objective="supcon", labels_key="type", kl_weight=0.5, **TISSUE
    )
    assert model._options.kl_weight == 0.5
    assert model._options.temperature == SUPCON_TEMPERATURE


def test_a_reference_and_a_panel_go_on_from_a_trained_model(adata):
    source = build(adata)
    source.train(**TRAIN)
    cells, tissue = make(60, seed=1), make(80, seed=2)[:, ::2].copy()
    cells.obs_names = [f"cell {i}" for i in range(60)]
    del cells.obsm["spatial"], cells.obs["slice"]
    datasets = Datasets({"cells": cells, "tissue": tissue}, "union")
    model = CellPLM.from_ssl_model(source, datasets, **TISSUE)
    ours, theirs = (one.module.gene_encoder.weight.detach() for one in (model, source))
    rows = [list(source.genes.names).index(name) for name in model.genes.names]
    assert torch.equal(ours, theirs[rows])
    model.train(**TRAIN)
    measured = model.module.measured.numpy()
    assert measured.sum(axis=1).tolist() == [30, 15]
    found = model.get_imputed_expression(tissue, genes=["GENE1"], as_batch="cells")
    assert found.shape == (80, 1)
    assert np.isfinite(found.to_numpy()).all()
    with pytest.raises(ValueError, match="leave `batch_key` out"):
        CellPLM.from_ssl_model(source, datasets, batch_key="slice")


def test_labels_of_which_none_comes_twice_are_no_pairs(adata):
    own = adata.copy()
    own.obs["barcode"] = own.obs_names
    model = build(own, {**TISSUE, "labels_key": "barcode"}, objective="supcon")
    with pytest.raises(ValueError, match=r'"barcode"\] has no two. Is it the column'):
        model.train(**TRAIN)


@pytest.mark.parametrize(("latent", "weights"), [("gmvae", (5.0, 5.0)), ("vae", (1.0, 0.0))])
def test_the_published_recipe(adata, latent, weights):
    own = adata.copy()
    CellPLM.setup_anndata(own, sample_key="slice")
    model = CellPLM(own, preset="cellplm", latent=latent)
    module = model.module
    assert sum(p.numel() for p in module.parameters()) > 20e6
    sizes = {"n_hidden": 1024, "n_layers": 4, "n_heads": 8, "n_latent": 512, "decoder_width": 128}
    assert {name: model._config()[name] for name in sizes} == sizes
    assert (module.mask.cells, module.mask.rate, module.context.cell_dropout) == (0.75, 0.25, 0.3)
    assert (model._options.kl_weight, model._options.free_bits) == weights
    assert model._options.warmup_steps == 10_000
    # Clusters of which nothing is told would gain nothing from being told.
    assert 0 < module.cluster_free_bits < np.log(16)
    recipe = model._train_defaults(1000)
    assert (recipe["lr"], recipe["batch_size"], recipe["weight_decay"]) == (2e-4, 4000, 1e-8)


def test_the_published_recipe_reads_counts_as_they_are():
    own = make(60, 30)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        CellPLM.setup_anndata(own)
        CellPLM(own, preset="cellplm", **SMALL)
        CellPLM.setup_anndata(own, target_sum=1e4)
        CellPLM(own, **SMALL)
    with pytest.warns(
        ScsslWarning, match=r"scaled to 10000 per cell.*setup_anndata\(adata, target_sum=None\)`"
    ):
        CellPLM(own, preset="cellplm", **SMALL)


def test_wide_networks_learn_more_slowly(adata):
    assert build(adata, n_hidden=512)._train_defaults(1000)["lr"] == 5e-4
    assert build(adata)._train_defaults(1000)["lr"] == 3e-3
