"""Embedding, and the other scores."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd

import scssl

from . import case
from ._data import cells, mdata, model

CHAPTER = "Scores and labels"


@case(CHAPTER, "A model that is here has no revision")
def revision_of_a_model():
    names = {"adata": cells(), "model": model()}
    return names, 'scssl.tl.embed(adata, model, revision="main")'


@case(CHAPTER, "A model of one modality is given a MuData", ways="instead")
def one_modality_of_a_mudata():
    return {"mdata": mdata(), "model": model()}, "scssl.tl.embed(mdata, model)"


@case(CHAPTER, "A MuData is embedded without a model", ways="instead")
def one_modality_without_a_model():
    return {"mdata": mdata()}, "scssl.tl.embed(mdata)"


def scaled(how):
    adata = cells()
    adata.layers["counts"] = adata.X.copy()
    adata.var["highly_variable"] = [True] * 25 + [False] * 5
    adata.X = (adata.X - adata.X.mean(0)) / adata.X.std(0)
    return {"adata": adata}, how


@case(CHAPTER, "Scaled values are embedded without a model")
def scaled_without_a_model():
    return scaled("scssl.tl.embed(adata)")


@case(CHAPTER, "Scaled values are integrated")
def scaled_integrated():
    return scaled('scssl.tl.integrate(adata, "batch")')


@case(CHAPTER, "Cells are named by names that are not unique")
def names_of_cells_twice():
    adata = cells()
    adata.obs_names = ["cell", "cell", *adata.obs_names[2:]]
    names = {"adata": adata, "model": model(), "some": list(adata.obs_names[1:9])}
    return names, "scssl.tl.reconstruction_metrics(adata, model, indices=some)"


def with_two_embeddings(seed=0):
    adata = cells(seed=seed)
    adata.obsm["X_pca"] = adata.obsm["X_ssl"] * 3
    return adata


@case(CHAPTER, "One embedding alone is to be fused")
def one_embedding_fused():
    return {"adata": with_two_embeddings()}, 'scssl.tl.fuse(adata, embeddings="X_pca")'


@case(CHAPTER, "An embedding that is the same in all cells is to be fused")
def flat_embedding_fused():
    adata = with_two_embeddings()
    adata.obsm["X_flat"] = np.ones((adata.n_obs, 2))
    return {"adata": adata}, 'scssl.tl.fuse(adata, embeddings=["X_pca", "X_flat", "X_ssl"])'


@case(CHAPTER, "A query is to be fused as a reference that was not")
def reference_not_fused():
    names = {"reference": with_two_embeddings(), "query": with_two_embeddings(1)}
    return names, 'scssl.tl.fuse(query, ["X_pca", "X_ssl"], reference=reference)'


@case(CHAPTER, "A query is fused of other embeddings than its reference")
def reference_of_others():
    names = {"reference": with_two_embeddings(), "query": with_two_embeddings(1)}
    scssl.tl.fuse(names["reference"], ["X_ssl", "X_pca"])
    return names, 'scssl.tl.fuse(query, ["X_pca", "X_ssl"], reference=reference)'


@case(CHAPTER, "Cells are to be smoothed with more neighbours than there are cells")
def more_neighbours_than_cells():
    return {"adata": cells()[:9].copy()}, 'scssl.tl.smooth(adata, "X_ssl")'


@case(CHAPTER, "A classifier does not converge")
def classifier_does_not_converge():
    adata = cells()
    adata.obsm["X_ssl"] *= 100
    code = 'scssl.tl.classify(adata, "type", classifier="lr", C=10.0, max_iter=4)'
    return {"adata": adata}, code


@case(CHAPTER, "A result would replace what it is made of")
def key_that_is_read():
    return {"adata": cells()}, 'scssl.tl.classify(adata, "type", key_added="type")'


@case(CHAPTER, "More neighbours are asked for than there are cells")
def neighbors_of_few_cells():
    code = 'scssl.tl.classify(adata, "type", classifier="knn", n_neighbors=500)'
    return {"adata": cells()}, code


@case(CHAPTER, "Cells to calibrate on are not told by true and false")
def held_out_by_words():
    reference = cells(90)
    reference.obs["part"] = np.where(np.arange(90) < 30, "test", "train")
    names = {"reference": reference, "query": cells(seed=1)}
    return names, 'scssl.tl.label_transfer(reference, query, "type", held_out_key="part")'


@case(CHAPTER, "Several data sets are no Datasets")
def dict_for_datasets():
    datasets = {"one": cells(), "two": cells(seed=1)}
    code = "scssl.model.PseudoLabel.setup_datasets(datasets)"
    return {"datasets": datasets}, code


@case(CHAPTER, "Genes were chosen with a data set that is held out")
def genes_of_a_list():
    sets = {name: cells(seed=i) for i, name in enumerate(("one", "two", "three"))}
    datasets = scssl.data.Datasets(sets, genes=list(sets["one"].var_names))
    code = (
        'scssl.tl.leave_one_dataset_out(datasets, "type", hold_out="one", n_repeats=1, '
        'n_labels_per_class=None, arms="pretrained", '
        'model_arguments={"n_rounds": 1, "hidden_dims": (8,), "n_latent": 4}, '
        'train_arguments={"max_epochs": 1}, finetune_arguments={"max_epochs": 1})'
    )
    return {"datasets": datasets}, code


def _with_proteins(n_known: int = 60) -> tuple[anndata.AnnData, anndata.AnnData]:
    reference, query = cells(), cells(seed=1)
    values = np.random.default_rng(0).poisson(5.0, (60, 2)).astype(float)
    values[n_known:] = np.nan
    reference.obsm["protein"] = pd.DataFrame(
        values, index=reference.obs_names, columns=["CD3", "CD19"]
    )
    return reference, query


@case(CHAPTER, "A model of one modality cannot predict another", ways="all")
def model_without_modalities():
    reference, query = _with_proteins()
    names = {"reference": reference, "query": query, "model": model()}
    return names, "scssl.tl.predict_modality(reference, query, model=model)"


@case(CHAPTER, "Too few cells have the features for a head")
def few_cells_for_a_head():
    reference, query = _with_proteins(4)
    code = 'scssl.tl.predict_modality(reference, query, method="head", n_neighbors=3)'
    return {"reference": reference, "query": query}, code


@case(CHAPTER, "Cells to predict have the features in the reference")
def cells_with_the_features():
    reference, query = _with_proteins()
    query.obs_names = [*reference.obs_names[:5], *query.obs_names[5:]]
    return {"reference": reference, "query": query}, "scssl.tl.predict_modality(reference, query)"


def _predicted() -> anndata.AnnData:
    adata = cells()
    adata.obs["predicted"] = adata.obs["type"]
    return adata


_HIERARCHY = 'scssl.tl.score_labels(adata, "type", "predicted", children=children)'


@case(CHAPTER, "A hierarchy does not know all labels")
def labels_not_in_a_dict():
    return {"adata": _predicted(), "children": {"T": ["CD4 T"]}}, _HIERARCHY


@case(CHAPTER, "A table of a hierarchy does not know all labels")
def labels_not_in_a_table():
    children = pd.DataFrame({"parent": ["T"], "child": ["CD4 T"]})
    return {"adata": _predicted(), "children": children}, _HIERARCHY


@case(CHAPTER, "Columns of a hierarchy have other names")
def columns_of_a_hierarchy():
    children = pd.DataFrame({"of": ["all", "all", "all"], "child": ["T", "B", "NK"]})
    return {"adata": _predicted(), "children": children}, _HIERARCHY


@case(CHAPTER, "A hierarchy has a word where a list should be")
def word_in_a_hierarchy():
    children = {"all": ["T", "B"], "T": "CD4 T", "NK": []}
    return {"adata": _predicted(), "children": children}, _HIERARCHY
