"""Sections, neighbours in space and spatial domains."""

from __future__ import annotations

import numpy as np

from . import case
from ._data import cells, model, set_up, small

CHAPTER = "Tissue"


def _tissue(*, graph: bool = True, **options):
    import scssl

    adata = cells()
    adata.obsm["spatial"] = np.random.default_rng(0).random((60, 2))
    if graph:
        scssl.pp.spatial_neighbors(adata, **options)
    return adata


@case(CHAPTER, "There is no graph of neighbours in space")
def no_graph():
    return {"adata": _tissue(graph=False)}, "scssl.tl.spatial_domains(adata, 3)"


@case(CHAPTER, "A graph of neighbours in space is empty")
def empty_graph():
    adata = _tissue()
    adata.obsp["spatial_connectivities"] = adata.obsp["spatial_connectivities"] * 0
    return {"adata": adata}, "scssl.tl.spatial_domains(adata, 3)"


@case(CHAPTER, "Neighbours in space are of two sections")
def graph_across_sections():
    names = {"adata": _tissue()}
    return names, 'scssl.tl.spatial_domains(adata, 3, sample_key="batch")'


@case(CHAPTER, "Places are columns of obs")
def places_in_obs():
    adata = cells()
    adata.obs[["x_centroid", "y_centroid"]] = np.random.default_rng(0).random((60, 2))
    return {"adata": adata}, "scssl.pp.spatial_neighbors(adata)"


@case(CHAPTER, "Sections lie over each other")
def sections_over_each_other():
    adata = _tissue(graph=False)
    section = np.arange(60) // 3 % 2
    adata.obsm["spatial"][section == 1] = adata.obsm["spatial"][section == 0]
    return {"adata": adata}, "scssl.pp.spatial_neighbors(adata)"


class SpatialData:
    """As the one of spatialdata, which has its cells in tables."""

    def __init__(self, **tables):
        self.tables = tables


@case(CHAPTER, "A SpatialData is given")
def spatial_data():
    return {"adata": SpatialData(table=_tissue())}, "scssl.pp.spatial_neighbors(adata)"


_RADIUS = 'scssl.pp.spatial_neighbors(adata, method="radius"{})'


@case(CHAPTER, "There is no radius")
def no_radius():
    return {"adata": _tissue(graph=False)}, _RADIUS.format("")


@case(CHAPTER, "A radius is too small")
def small_radius():
    return {"adata": _tissue(graph=False)}, _RADIUS.format(", radius=1e-9")


@case(CHAPTER, "A radius is in another unit")
def radius_in_another_unit():
    adata = cells(2000)
    adata.obsm["spatial"] = np.random.default_rng(0).random((2000, 2))
    return {"adata": adata}, _RADIUS.format(", radius=50.0")


@case(CHAPTER, "Domains are types of cells")
def domains_are_types():
    return {"adata": _tissue()}, "scssl.tl.spatial_domains(adata, 3)"


@case(CHAPTER, "Domains are sections")
def domains_are_sections():
    import scssl

    adata = _tissue(graph=False)
    scssl.pp.spatial_neighbors(adata, sample_key="batch")
    adata.obsm["X_ssl"][adata.obs["batch"] == "one"] += 50
    code = 'scssl.tl.spatial_domains(adata, 2, sample_key="batch", center=False)'
    return {"adata": adata}, code


@case(CHAPTER, "Nothing is known of the number of domains", ways="each")
def no_stability():
    return {"adata": _tissue()}, "scssl.pl.n_domains(adata, show=False)"


@case(CHAPTER, "A model of neighbours in space is not told places")
def no_places_of_a_model():
    names = {"adata": _tissue(graph=False)}
    return names, "scssl.model.STAGATE.setup_anndata(adata, spatial_key=None)"


@case(CHAPTER, "A model reads a graph that other data do not have")
def no_graph_of_a_model():
    adata = _tissue()
    model = small("GraphST", set_up("GraphST", adata))
    model.train(max_epochs=1, progress=False)
    names = {"adata": _tissue(graph=False), "model": model}
    return names, "model.get_latent_representation(adata)"


@case(CHAPTER, "The radius of a model is in another unit")
def radius_of_a_model():
    return {
        "adata": set_up("STAGATE", _tissue(graph=False))
    }, "scssl.model.STAGATE(adata, radius=1e-6)"


def _panel():
    """A query with fewer genes than its reference."""
    return {"query": cells(60, 20, seed=1), "reference": cells(80, 30, seed=2)}


_IMPUTE = 'scssl.tl.impute(query, reference, method="pca_knn", n_neighbors=9{})'


@case(CHAPTER, "A gene to impute was measured")
def gene_was_measured():
    return _panel(), _IMPUTE.format(', genes=["GENE3", "GENE25"]')


@case(CHAPTER, "A gene to impute is not in the reference")
def gene_to_impute_is_not_there():
    return _panel(), _IMPUTE.format(', genes=["GENE25", "GENE99"]')


@case(CHAPTER, "There is nothing to impute")
def nothing_to_impute():
    names = _panel()
    names["query"] = cells(60, 30, seed=1)
    return names, _IMPUTE.format("")


@case(CHAPTER, "One gene to impute is no list")
def one_gene_to_impute():
    return _panel(), _IMPUTE.format(', genes="GENE25"')


@case(CHAPTER, "A model is given for an imputation without one")
def imputation_without_a_model():
    return {**_panel(), "model": model()}, _IMPUTE.format(", model=model")


@case(CHAPTER, "An imputation is no better than nearest cells in principal components")
def imputation_is_no_better():
    names = _panel()
    # Nothing goes together in the reference.
    rng = np.random.default_rng(0)
    names["reference"].X = rng.permuted(names["reference"].X, axis=0)
    return names, _IMPUTE.format("").replace("pca_knn", "spage")


@case(CHAPTER, "Genes are imputed by a method of counts, and there are logarithms")
def logarithms_to_impute():
    names = _panel()
    names["query"].X = np.log1p(1e4 * names["query"].X / names["query"].X.sum(1, keepdims=True))
    return names, _IMPUTE.format("").replace("pca_knn", "gimvi")
