"""A model of one species embeds cells of another in one call, and says what is lost."""

from __future__ import annotations

import logging

import numpy as np
import pandas as pd
import pytest

import scssl
from scssl._errors import GeneMismatchError

HUMAN = [f"GENE{i}" for i in range(30)]
MOUSE = [f"Gene{i}" for i in range(30)]
TABLE = pd.DataFrame({"mouse": [*MOUSE, "Gene0"], "human": [*HUMAN, "OTHER"]})


@pytest.fixture(scope="module")
def model():
    rng = np.random.default_rng(0)
    adata = scssl.datasets.pbmc68k_reduced()[:60, :30].copy()
    adata.X = rng.poisson(2.0, (60, 30)).astype(np.float32)
    adata.var_names = HUMAN
    scssl.model.MaskedAutoencoder.setup_anndata(adata)
    made = scssl.model.MaskedAutoencoder(adata, hidden_dims=(8,), n_latent=4)
    made.train(max_epochs=1, progress=False)
    return made


@pytest.fixture
def mouse(model):
    adata = model.adata.copy()
    adata.var_names = MOUSE
    return adata[:, ::-1].copy()


def test_as_with_genes_mapped_before(model, mouse, caplog):
    mapped = scssl.pp.map_orthologs(
        mouse, TABLE, from_species="mouse", to_species="human", copy=True
    )
    assert mapped.n_vars == 29
    expected = model.get_latent_representation(mapped)
    with caplog.at_level(logging.INFO, logger="scssl"):
        found = model.get_latent_representation(mouse, orthologs=TABLE)
    np.testing.assert_array_equal(found, expected)
    assert "29 of 30 genes of mouse mapped to human" in caplog.text
    assert mouse.var_names[-1] == "Gene0"


def test_what_is_lost_is_written(model, mouse):
    before = mouse.copy()
    scssl.tl.embed(mouse, model, orthologs=TABLE)
    written = mouse.uns["X_ssl"]
    assert written["n_genes_matched"] == 29
    assert written["orthologs"]["counts"]["one_to_many"] == 1
    assert (written["orthologs"]["from_species"], written["orthologs"]["to_species"]) == (
        "mouse",
        "human",
    )
    genes = written["orthologs"]["genes"].set_index("gene")
    assert genes.loc["Gene5", "ortholog"] == "GENE5"
    assert mouse.var_names.equals(before.var_names)
    np.testing.assert_array_equal(mouse.X, before.X)


def test_a_gene_without_an_ortholog_is_not_taken_for_one_that_is_called_alike(model, mouse):
    mouse.var_names = [*mouse.var_names[:-1], "GENE0"]
    table = TABLE[TABLE["mouse"] != "Gene0"]
    _, report = model.translated(mouse, table)
    assert report["counts"]["mapped"] == 29
    assert not model.align(model.translated(mouse, table)[0]).present[0]


def test_tables_that_do_not_help(model, mouse):
    with pytest.raises(GeneMismatchError, match="both have genes of human.*`orthologs=None`"):
        model.get_latent_representation(model.adata.copy(), orthologs=TABLE)
    with pytest.raises(GeneMismatchError, match="names of 1 species; two are needed"):
        model.get_latent_representation(mouse, orthologs=TABLE[["mouse"]])
    with pytest.raises(TypeError, match="`orthologs` must be a path or a DataFrame"):
        model.get_latent_representation(mouse, orthologs=3)


def test_joint_embedding(mouse, model):
    adata = model.adata.copy()
    scssl.model.SimCLR.setup_anndata(adata)
    made = scssl.model.SimCLR(adata, hidden_dims=(8,), n_latent=4)
    made.train(max_epochs=1, progress=False)
    mapped = scssl.pp.map_orthologs(
        mouse, TABLE, from_species="mouse", to_species="human", copy=True
    )
    for layer in ("encoder", "projector"):
        np.testing.assert_array_equal(
            made.get_latent_representation(mouse, orthologs=TABLE, layer=layer),
            made.get_latent_representation(mapped, layer=layer),
        )
