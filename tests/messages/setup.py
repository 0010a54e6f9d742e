"""Data that are set up for a model, and data that a model reads."""

from __future__ import annotations

import numpy as np
import pandas as pd

import scssl

from . import case
from ._data import cells, mdata, small

CHAPTER = "Setting data up"
SETUP = "scssl.model.MaskedAutoencoder.setup_anndata(adata)"


@case(CHAPTER, "A gene has no name")
def gene_without_a_name():
    adata = cells()
    adata.var_names = ["", *adata.var_names[1:]]
    return {"adata": adata}, SETUP


@case(CHAPTER, "Two genes have one name")
def genes_of_one_name():
    adata = cells()
    adata.var_names = ["GENE1", *adata.var_names[1:]]
    return {"adata": adata}, SETUP


@case(CHAPTER, "Names of genes are numbers")
def genes_with_numbers():
    adata = cells()
    adata.var.index = range(adata.n_vars)
    return {"adata": adata}, SETUP


@case(CHAPTER, "Data are a view")
def view():
    return {"adata": cells()[:40]}, SETUP


@case(CHAPTER, "Two cells have one name")
def cells_of_one_name():
    adata = cells()
    adata.obs_names = ["cell0_1", *adata.obs_names[1:]]
    return {"adata": adata}, SETUP


@case(CHAPTER, "Cells are empty")
def empty_cells():
    adata = cells()
    adata.X[:3] = 0
    return {"adata": adata}, SETUP


@case(CHAPTER, "There is no matrix in X")
def no_matrix():
    adata = cells()
    adata.layers["counts"] = adata.X.copy()
    adata.X = None
    return {"adata": adata}, SETUP


@case(CHAPTER, "A loss needs counts")
def loss_of_counts():
    adata = cells()
    adata.X = np.log1p(1e4 * adata.X / adata.X.sum(axis=1, keepdims=True))
    scssl.model.MaskedAutoencoder.setup_anndata(adata)
    return {"adata": adata}, 'scssl.model.MaskedAutoencoder(adata, loss="nb")'


@case(CHAPTER, "Cells are of a batch that a model does not know")
def unknown_batch():
    adata = cells()
    scssl.model.MaskedAutoencoder.setup_anndata(adata, batch_key="batch")
    model = small("MaskedAutoencoder", adata, encode_covariates=True)
    query = cells(seed=1)
    names = np.where(np.arange(60) < 5, "three", query.obs["batch"].astype(str))
    query.obs["batch"] = names
    return {"adata": query, "model": model}, "model.get_latent_representation(adata)"


@case(CHAPTER, "Cells of a MuData are in no modality that is used")
def cells_of_no_modality():
    import mudata

    other = cells(n_cells=5, seed=9)
    other.obs_names = [f"else{i}" for i in range(5)]
    other.var_names = [f"OTHER{i}" for i in range(other.n_vars)]
    data = mudata.MuData({**mdata().mod, "other": other})
    return {"mdata": data}, "scssl.model.SimCLR.setup_mudata(mdata)"


@case(CHAPTER, "A MuData is a view")
def view_of_mudata():
    return {"mdata": mdata()[:40]}, "scssl.model.SimCLR.setup_mudata(mdata)"


@case(CHAPTER, "Ensembl ids have several versions")
def several_versions():
    adata, other = cells(), cells(seed=1)
    adata.var_names = [f"ENSG{i:011d}.2" for i in range(30)]
    other.var_names = [f"ENSG{i:011d}" for i in range(30)]
    names = {"adata": adata, "other": other}
    return names, 'scssl.data.Datasets({"one": adata, "two": other})'


@case(CHAPTER, "A model knows symbols, and the data have Ensembl ids")
def ids_for_a_model_of_symbols():
    adata, other = cells(), cells(seed=1)
    adata.var_names = symbols = [f"CD{i}A" for i in range(30)]
    other.var_names = ids = [f"ENSG{i:011d}" for i in range(30)]
    scssl.model.MaskedAutoencoder.setup_anndata(adata)
    table = pd.DataFrame({"synonym": ids, "symbol": symbols})
    names = {"adata": other, "model": scssl.model.MaskedAutoencoder(adata), "TABLE": table}
    return names, "scssl.tl.embed(adata, model)"


@case(CHAPTER, "There is no matrix in a modality")
def no_matrix_of_proteins():
    data = mdata()
    proteins = data.mod["prot"]
    proteins.layers["counts"] = proteins.X.copy()
    proteins.X = None
    return {"mdata": data}, "scssl.model.SimCLR.setup_mudata(mdata)"
