"""Several modalities."""

from __future__ import annotations

import anndata
import numpy as np

import scssl

from . import case
from ._data import cells, mdata, set_up, small

CHAPTER = "Several modalities"
SETUP = "scssl.model.SimCLR.setup_mudata(mdata)"


def with_peaks():
    import mudata

    peaks = anndata.AnnData(np.random.default_rng(0).poisson(0.5, (60, 20)).astype(np.float32))
    peaks.obs_names, peaks.var_names = cells().obs_names, [f"chr1:{i}-{i + 1}" for i in range(20)]
    peaks.X[:, 0] = 1
    return mudata.MuData({**mdata().mod, "atac": peaks})


@case(CHAPTER, "Two cells of a modality have one name")
def cells_of_a_modality_of_one_name():
    data = mdata()
    names = [*data.obs_names]
    data.mod["prot"].obs_names = [names[1], *names[1:]]
    return {"mdata": data}, SETUP


@case(CHAPTER, "A modality was changed, and the MuData does not know")
def modality_was_changed():
    data = mdata()
    data.mod["prot"].obs_names = [*data.obs_names[:-1], "new"]
    return {"mdata": data}, SETUP


@case(CHAPTER, "A model without RNA is given an AnnData")
def model_without_rna():
    data = with_peaks()
    scssl.model.SimCLR.setup_mudata(data, rna=None)
    names = {"model": small("SimCLR", data), "adata": data.mod["prot"].copy()}
    return names, "model.get_latent_representation(adata)"


def proteins(change, data=None):
    data = mdata() if data is None else data
    change(data.mod["prot"])
    return {"mdata": data}, SETUP


@case(CHAPTER, "Proteins were not measured in all cells: zeros")
def proteins_of_zeros():
    def change(prot):
        prot.X[:5] = 0

    return proteins(change)


@case(CHAPTER, "Proteins were not measured in all cells: missing values")
def proteins_that_are_missing():
    def change(prot):
        prot.X[:5] = np.nan

    return proteins(change)


@case(CHAPTER, "All values of a modality are zero")
def modality_of_zeros():
    def change(prot):
        prot.X[:] = 0

    return proteins(change, with_peaks())


@case(CHAPTER, "All values of a modality of new cells are zero")
def modality_of_new_cells():
    model = small("SimCLR", set_up("SimCLR", mdata()))
    data = mdata()
    data.mod["prot"].X[:] = 0
    return {"mdata": data, "model": model}, "model.get_latent_representation(mdata)"


@case(CHAPTER, "Proteins of a MuData are normalised already")
def proteins_that_are_normalised():
    def change(prot):
        prot.layers["counts"] = prot.X.copy()
        prot.X = np.log1p(prot.X)

    return proteins(change)
