"""Scores, classifiers and label transfer."""

from __future__ import annotations

import numpy as np
import pandas as pd

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


@case(CHAPTER, "Most cells are called unknown", ways="instead")
def most_are_unknown():
    reference, query = cells(90), cells(seed=1)
    query.obsm["X_ssl"] += 3
    names = {"reference": reference, "query": query}
    return names, 'scssl.tl.label_transfer(reference, query, "type")'


@case(CHAPTER, "Most cells are called unknown by a model of both")
def most_are_unknown_to_a_model_of_both():
    names = {"reference": cells(90), "query": cells(seed=1)}
    return names, 'scssl.tl.annotate(reference, query, "type", max_false_unknown=0.9)'


@case(CHAPTER, "No cell of a new batch is called unknown")
def none_is_unknown():
    names = {"reference": cells(90), "query": cells(seed=1)}
    return names, 'scssl.tl.annotate(reference, query, "type", max_false_unknown=1e-6)'


@case(CHAPTER, "One data set holds counts, the other does not")
def counts_and_logarithms():
    reference, query = cells(90), cells(seed=1)
    query.X = np.log1p(1e4 * query.X / query.X.sum(axis=1, keepdims=True))
    return {"reference": reference, "query": query}, 'scssl.tl.annotate(reference, query, "type")'


@case(CHAPTER, "One data set holds logarithms of another base")
def two_bases():
    reference, query = cells(90), cells(seed=1)
    for adata, log in ((reference, np.log1p), (query, lambda values: np.log2(1 + values))):
        adata.X = log(1e4 * adata.X / adata.X.sum(axis=1, keepdims=True))
    return {"reference": reference, "query": query}, 'scssl.tl.annotate(reference, query, "type")'


def to_annotate(function):
    """A query whose genes have other names, and a table of both."""
    reference, query = cells(90), cells(seed=1)
    query.var_names = names = [function(name) for name in reference.var_names]
    table = pd.DataFrame({"mouse": names, "human": reference.var_names})
    names = {"reference": reference, "query": query, "TABLE": table}
    return names, 'scssl.tl.annotate(reference, query, "type")'


@case(CHAPTER, "Cells to annotate are of a mouse, those of the reference human")
def query_of_a_mouse():
    return to_annotate(str.capitalize)


@case(CHAPTER, "Cells to annotate have Ensembl ids, those of the reference symbols")
def query_with_ids():
    names, code = to_annotate(lambda name: f"ENSG{int(name[4:]):011}")
    names["reference"].var_names = symbols = [f"CD{i}A" for i in range(30)]
    table = names["TABLE"].rename(columns={"mouse": "synonym", "human": "symbol"})
    return {**names, "TABLE": table.assign(symbol=symbols)}, code


@case(CHAPTER, "Cells to annotate have a part of the genes of the reference")
def query_of_a_panel():
    names, code = to_annotate(str)
    return {**names, "query": names["query"][:, :14].copy()}, code


@case(CHAPTER, "Mixing is scored without labels")
def mixing_without_labels():
    adata = cells()
    return {"adata": adata}, 'scssl.tl.batch_mixing(adata, "batch", use_rep="X_ssl")'


@case(CHAPTER, "Scores of scib-metrics need labels")
def scib_without_labels():
    adata = cells()
    adata.obs["type"] = 0.5
    return {"adata": adata}, 'scssl.tl.batch_mixing(adata, "batch", use_rep="X_ssl", scib=True)'


@case(CHAPTER, "There is no such method of integration")
def no_such_integration():
    return {"adata": cells()}, 'scssl.tl.integrate(adata, "batch", method="mnn")'


@case(CHAPTER, "There is no matrix to integrate")
def no_matrix_to_integrate():
    adata = cells()
    adata.layers["counts"], adata.X = adata.X, None
    return {"adata": adata}, 'scssl.tl.integrate(adata, "batch")'


@case(CHAPTER, "No gene to integrate is selected")
def no_gene_to_integrate():
    adata = cells()
    adata.var["highly_variable"] = False
    return {"adata": adata}, 'scssl.tl.integrate(adata, "batch")'


@case(CHAPTER, "Labels of a new batch are calibrated on whole batches")
def known_batches():
    reference, query = cells(120), cells(60, seed=1)
    query.obs["batch"] = "three"
    for adata in (reference, query):
        adata.uns["X_ssl"] = {"params": {"batch_key": "batch"}}
    names = {"reference": reference, "query": query}
    return names, 'scssl.tl.label_transfer(reference, query, "type", n_neighbors=5)'
