"""Labels and proteins to learn from."""

from __future__ import annotations

import anndata
import numpy as np

import scssl

from . import case
from ._data import cells, mdata, model

CHAPTER = "Labels and proteins to learn"
_CLASSIFIER = 'scssl.model.CellTypeClassifier.from_ssl_model(model, adata, "type"{})'


@case(CHAPTER, "No column of labels is named")
def no_column_of_labels():
    return {"adata": cells()}, "scssl.model.CellTypeClassifier.setup_anndata(adata)"


@case(CHAPTER, "Labels are numbers")
def labels_are_numbers():
    adata = cells(120)
    adata.obs["code"] = np.arange(120) // 2
    return {
        "adata": adata
    }, 'scssl.model.CellTypeClassifier.setup_anndata(adata, labels_key="code")'


@case(CHAPTER, "A loss needs an encoder that learns")
def frozen_encoder():
    names = {"adata": cells(seed=1), "model": model()}
    return names, _CLASSIFIER.format(', freeze="encoder", loss="supcon"')


def _with_proteins(scale: float = 1.0, n: int = 3) -> anndata.AnnData:
    adata = cells(seed=1)
    adata.obsm["protein"] = np.random.default_rng(0).poisson(5.0, (60, n)) * scale
    return adata


_PROTEINS = "scssl.model.ProteinPredictor.from_ssl_model(model, adata{})"


def _predictor(**arguments):
    adata = _with_proteins()
    adata.uns["protein_names"] = ["CD3", "CD19", "CD56"]
    return scssl.model.ProteinPredictor.from_ssl_model(model(), adata, **arguments)


@case(CHAPTER, "Proteins have no names")
def proteins_without_names():
    return {"adata": _with_proteins(), "model": model()}, _PROTEINS.format("")


@case(CHAPTER, "Proteins are elsewhere")
def proteins_elsewhere():
    adata = _with_proteins()
    adata.uns["protein_names"] = ["CD3", "CD19", "CD56"]
    adata.obsm["adt_counts"] = adata.obsm.pop("protein")
    return {"adata": adata, "model": model()}, _PROTEINS.format("")


@case(CHAPTER, "Proteins are normalised already")
def negative_proteins():
    adata = _with_proteins()
    adata.uns["protein_names"] = ["CD3", "CD19", "CD56"]
    adata.obsm["protein"] = adata.obsm["protein"] - 3.0
    return {"adata": adata, "model": model()}, _PROTEINS.format(', transform="log1p"')


@case(CHAPTER, "Proteins are fractions")
def fractions_of_proteins():
    adata = _with_proteins(0.5)
    adata.uns["protein_names"] = ["CD3", "CD19", "CD56"]
    return {"adata": adata, "model": model()}, _PROTEINS.format(', transform="log1p"')


@case(CHAPTER, "Proteins of other cells have no names")
def other_proteins_without_names():
    return {"adata": _with_proteins(), "model": _predictor()}, "model.get_proteins(adata)"


@case(CHAPTER, "A predictor of an AnnData is given a MuData")
def mudata_for_a_predictor():
    predictor = _predictor()
    predictor.train(max_epochs=1, progress=False)
    return {"mdata": mdata(), "model": predictor}, "model.predict(adata=mdata)"


@case(CHAPTER, "A MuData has no modality of the name")
def no_such_modality():
    import mudata

    data = mdata()
    made = scssl.model.ProteinPredictor.from_ssl_model(model(), data)
    made.train(max_epochs=1, progress=False)
    other = mudata.MuData({"gex": data["rna"], "prot": data["prot"]})
    return {"mdata": other, "model": made, "mudata": mudata}, "model.predict(mdata)"
