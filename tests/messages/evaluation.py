"""Scores, classifiers and label transfer."""

from __future__ import annotations

import numpy as np

from . import case
from ._data import cells, model

CHAPTER = "Scores and labels"


@case(CHAPTER, "There is no embedding yet")
def no_embedding():
    adata = cells()
    del adata.obsm["X_ssl"]
    return {"adata": adata, "model": model()}, 'scssl.tl.linear_probe(adata, "type")'


@case(CHAPTER, "An embedding has NaN")
def embedding_with_nan():
    adata = cells()
    adata.obsm["X_ssl"][4, 1] = np.nan
    return {"adata": adata}, 'scssl.tl.linear_probe(adata, "type")'


@case(CHAPTER, "Cells have no label")
def cells_without_label():
    adata = cells()
    adata.obs.loc[adata.obs_names[:4], "type"] = None
    return {"adata": adata}, 'scssl.tl.linear_probe(adata, "type")'


@case(CHAPTER, "Two embeddings are not by one model", ways="all")
def embeddings_of_two_models():
    reference, query = cells(), cells(seed=1)
    query.obsm["X_ssl"] = query.obsm["X_ssl"][:, :2]
    names = {"reference": reference, "query": query, "model": model()}
    return names, 'scssl.tl.label_transfer(reference, query, "type")'


@case(CHAPTER, "A label has the name of the unknown")
def label_called_unknown():
    reference = cells()
    reference.obs["type"] = reference.obs["type"].cat.rename_categories({"T": "unknown"})
    names = {"reference": reference, "query": cells(seed=1)}
    return names, 'scssl.tl.label_transfer(reference, query, "type")'


@case(CHAPTER, "Cells to annotate are part of the reference")
def cells_of_the_reference():
    reference = cells(90)
    query = reference[60:].copy()
    query.obs_names = [*query.obs_names[:5], *map("new{}".format, range(25))]
    names = {"reference": reference, "query": query}
    return names, 'scssl.tl.label_transfer(reference, query, "type")'
