"""Columns that a model reads, and the types of what is in them."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

from . import case
from ._data import cells

CHAPTER = "Columns and covariates"
SETUP = "scssl.model.MaskedAutoencoder.setup_anndata(adata, "
COVARIATE = SETUP + 'continuous_covariate_keys=["age"])'


def with_age(values):
    adata = cells()
    adata.obs["age"] = values
    return {"adata": adata}, COVARIATE


@case(CHAPTER, "A matrix instead of an AnnData")
def matrix_alone():
    code = "scssl.model.MaskedAutoencoder.setup_anndata(adata)"
    return {"adata": np.random.default_rng(0).poisson(2.0, (30, 20)).astype("f4")}, code


@case(CHAPTER, "A list with one column")
def column_in_a_list():
    return {"adata": cells()}, SETUP + 'batch_key=["batch"])'


@case(CHAPTER, "Several columns for one", ways="all")
def several_columns():
    return {"adata": cells()}, SETUP + 'batch_key=["batch", "type"])'


@case(CHAPTER, "A column is not there")
def column_by_another_name():
    return {"adata": cells()}, SETUP + 'batch_key="bacth")'


@case(CHAPTER, "A column exists twice")
def column_twice():
    adata = cells()
    adata.obs = pd.concat([adata.obs, adata.obs[["batch"]]], axis=1)
    return {"adata": adata}, SETUP + 'batch_key="batch")'


@case(CHAPTER, "Two groups are written alike")
def groups_written_alike():
    adata = cells()
    adata.obs["batch"] = pd.Series([1, "1", None] * 20, index=adata.obs_names, dtype=object)
    return {"adata": adata}, SETUP + 'labels_key="batch")'


@case(CHAPTER, "Covariates are no list")
def covariates_as_text():
    return {"adata": cells()}, SETUP + 'categorical_covariate_keys="type")'


@case(CHAPTER, "Dates as a continuous covariate")
def dates_as_covariate():
    return with_age(pd.date_range("2020-01-01", periods=60))


@case(CHAPTER, "Durations as a continuous covariate")
def durations_as_covariate():
    return with_age(pd.timedelta_range("1D", periods=60))


@case(CHAPTER, "Complex numbers as a continuous covariate")
def complex_covariate():
    return with_age(np.arange(60) + 1j)


@case(CHAPTER, "A continuous covariate is not known for all cells")
def covariate_with_gaps():
    return with_age(pd.array([None, *range(59)], dtype="Int64"))


@case(CHAPTER, "A continuous covariate is beyond all numbers")
def covariate_too_large():
    return with_age(np.r_[1e39, np.arange(59.0)])


@case(CHAPTER, "Words as a continuous covariate")
def words_as_covariate():
    code = SETUP + 'continuous_covariate_keys=["size", "type"])'
    adata = cells()
    adata.obs["size"] = np.arange(60.0)
    return {"adata": adata}, code


def two_modalities():
    import mudata

    rna, protein = cells(), cells(seed=1)[:, :5].copy()
    protein.obs_names = rna.obs_names
    protein.var_names = [f"PROTEIN{i}" for i in range(5)]
    mdata = mudata.MuData({"rna": rna, "prot": protein})
    mdata.obs = mdata.obs[[]]
    return mdata


@case(CHAPTER, "Modalities contradict each other")
def modalities_that_contradict():
    mdata = two_modalities()
    mdata["prot"].obs["batch"] = "three"
    return {"mdata": mdata}, 'scssl.model.SimCLR.setup_mudata(mdata, batch_key="batch")'


@case(CHAPTER, "The modalities do not know the batch of all cells")
def batch_of_some_cells():
    import mudata

    mdata = two_modalities()
    mods = {"rna": mdata["rna"][:50].copy(), "prot": mdata["prot"]}
    del mods["prot"].obs["batch"]
    mdata = mudata.MuData(mods)
    mdata.obs = mdata.obs[[]]
    return {"mdata": mdata}, 'scssl.model.SimCLR.setup_mudata(mdata, batch_key="batch")'


@case(CHAPTER, "Places have three dimensions")
def places_in_three_dimensions():
    adata = cells()
    adata.obsm["spatial"] = np.random.default_rng(0).random((60, 3))
    return {"adata": adata}, 'scssl.model.CellPLM.setup_anndata(adata, spatial_key="spatial")'


@case(CHAPTER, "An embedding is to be drawn under a name that is not there")
def embedding_of_another_name():
    adata = cells()
    adata.obsm["ssl_label"] = adata.obsm.pop("X_ssl")[:, :2]
    return {"adata": adata}, "scssl.pl.embedding(adata)"


@case(CHAPTER, "A figure is to be saved, and not where")
def figure_without_a_name():
    adata = cells()
    adata.obsm["xy"] = adata.obsm["X_ssl"][:, :2]
    names = {"adata": adata, "FILE": Path(tempfile.mkdtemp()) / "figure.png"}
    return names, 'scssl.pl.embedding(adata, "xy", color="type", save=True)'
