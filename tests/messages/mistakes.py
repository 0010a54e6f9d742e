"""Mistyped arguments, and results that could not be written."""

from __future__ import annotations

import os
import tempfile
from unittest.mock import patch

import scssl

from . import case
from ._data import cells, model, set_up, small

CHAPTER = "Arguments and results"


def untrained():
    adata = cells()
    scssl.model.MaskedAutoencoder.setup_anndata(adata)
    return scssl.model.MaskedAutoencoder(adata, hidden_dims=(8,), n_latent=4)


def loaded():
    with tempfile.TemporaryDirectory() as folder:
        model().save(folder)
        return scssl.model.MaskedAutoencoder.load(folder)


@case(CHAPTER, "A key has a slash")
def key_with_a_slash():
    return {"adata": cells(), "model": model()}, 'scssl.tl.embed(adata, model, key_added="X/new")'


@case(CHAPTER, "Results for a view of a file")
def view_of_a_file():
    import anndata

    path = tempfile.mkdtemp() + "/cells.h5ad"
    cells().write_h5ad(path)
    adata = anndata.read_h5ad(path, backed="r")[:30]
    return {"adata": adata, "model": model()}, "scssl.tl.embed(adata, model)"


@case(CHAPTER, "A figure in a format that there is not")
def figure_of_no_kind():
    path = tempfile.mkdtemp() + "/history.xls"
    return {"model": model()}, f"scssl.pl.history(model, save={path!r})"


@case(CHAPTER, "An argument has another name")
def argument_of_another_name():
    return {"model": untrained()}, "model.train(epochs=1, progress=False)"


@case(CHAPTER, "A number is given as a text")
def number_as_text():
    return {"model": untrained()}, 'model.train(max_epochs="1", progress=False)'


@case(CHAPTER, "A positive number is given as a text")
def fraction_as_text():
    return {"model": untrained()}, 'model.train(max_epochs=1, lr="1e-3", progress=False)'


@case(CHAPTER, "Callbacks are something else")
def no_callbacks():
    return {"model": untrained()}, 'model.train(max_epochs=1, progress=False, callbacks="x")'


@case(CHAPTER, "There are no such devices")
def no_such_devices():
    return {"model": untrained()}, "model.train(max_epochs=1, progress=False, devices=0)"


@case(CHAPTER, "torchrun has started another number of processes")
def other_number_of_processes():
    made = untrained()
    here = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}
    made.train = patch.dict(os.environ, {"TORCHELASTIC_RUN_ID": "run", **here})(made.train)
    code = "model.train(max_epochs=1, progress=False, devices=2, num_nodes=3)"
    return {"model": made}, code


@case(CHAPTER, "Cells see each other, and a batch is to be divided among processes")
def cells_that_see_each_other():
    model = small("CellPLM", set_up("CellPLM"))
    return {"model": model}, "model.train(max_epochs=1, progress=False, devices=2)"


@case(CHAPTER, "There is no such accelerator")
def no_such_accelerator():
    return {"model": untrained()}, 'model.train(max_epochs=1, progress=False, accelerator="tpu")'


@case(CHAPTER, "A loaded model has no cells to train on")
def loaded_without_cells():
    names = {"model": loaded(), "adata": cells()}
    return names, "model.train(max_epochs=1, progress=False)"


@case(CHAPTER, "A method of scvi-tools that is not there: expression", ways="instead")
def no_normalized_expression():
    return {"model": model(), "adata": cells()}, "model.get_normalized_expression(adata)"


@case(CHAPTER, "A method of scvi-tools that is not there: abundance", ways="instead")
def no_differential_abundance():
    return {"model": model(), "adata": cells()}, "model.differential_abundance(adata)"


@case(CHAPTER, "Cells are given by names that are not unique")
def cells_by_names_that_are_not_unique():
    adata = cells()
    adata.obs_names = ["cell0_1", *adata.obs_names[1:]]
    names = {"adata": adata, "model": model()}
    return names, 'model.get_latent_representation(adata, indices=["cell0_2", "cell0_3"])'
