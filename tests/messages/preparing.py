"""Functions of scssl.pp: neighbours, orthologs and gene programmes."""

from __future__ import annotations

import anndata
import pandas as pd

from . import case
from ._data import cells, folder, model

CHAPTER = "Preparing data"
_NEIGHBORS = 'scssl.pp.cross_batch_neighbors(adata, "batch")'


@case(CHAPTER, "Cells have no angle to others")
def cells_of_zeros():
    adata = cells()
    adata.obsm["X_pca"] = adata.obsm["X_ssl"]
    adata.obsm["X_pca"][3] = 0
    return {"adata": adata}, _NEIGHBORS


@case(CHAPTER, "No gene is highly variable")
def no_variable_gene():
    adata = cells()
    adata.var["highly_variable"] = False
    return {"adata": adata}, _NEIGHBORS


@case(CHAPTER, "There is no matrix to find neighbours in")
def no_matrix():
    full = cells()
    adata = anndata.AnnData(obs=full.obs, var=full.var, layers={"counts": full.X}, obsm=full.obsm)
    return {"adata": adata}, _NEIGHBORS


_TABLE = pd.DataFrame(
    {"mouse": [f"Gene{i}" for i in range(30)], "human": [f"GENE{i}" for i in range(30)]}
)
_MAP = 'scssl.pp.map_orthologs(adata, table, from_species="human", to_species="mouse"{})'


@case(CHAPTER, "Genes of a view are to be renamed")
def genes_of_a_view():
    return {"adata": cells()[:50], "table": _TABLE}, _MAP.format("")


@case(CHAPTER, "Genes of a file are to be renamed")
def genes_of_a_file():
    place = f"{folder()}/cells.h5ad"
    cells().write_h5ad(place)
    return {"adata": anndata.read_h5ad(place, backed="r"), "table": _TABLE}, _MAP.format("")


@case(CHAPTER, "A table has ids of another species")
def ids_of_another_species():
    adata = cells()
    adata.var_names = [f"ENSMUSG{i:011}" for i in range(30)]
    human = [f"ENSG{i:011}" for i in range(30)]
    names = {"Gene stable ID": adata.var_names, "Human gene stable ID": human}
    code = 'scssl.pp.map_orthologs(adata, table, from_species="rodent", to_species="human")'
    return {"adata": adata, "table": pd.DataFrame(names)}, code


_SETS = {"one": [f"GENE{i}" for i in range(8)], "two": [f"GENE{i}" for i in range(8, 16)]}


@case(CHAPTER, "Programmes name genes otherwise than the data")
def programmes_by_symbols():
    adata = cells()
    adata.var["symbol"] = adata.var_names
    adata.var_names = [f"ENSG{i:011}" for i in range(30)]
    return {"adata": adata, "programs": _SETS}, "scssl.pp.gene_programs(adata, programs)"


@case(CHAPTER, "Few programmes are left")
def few_programmes():
    sets = {f"set{i}": [f"OTHER{i}_{j}" for j in range(8)] for i in range(3)} | {
        "one": _SETS["one"]
    }
    return {"adata": cells(), "programs": sets}, "scssl.pp.gene_programs(adata, programs)"


@case(CHAPTER, "Most genes of programmes are missing")
def programmes_of_missing_genes():
    sets = dict(_SETS)
    for i in range(2):
        sets[f"set{i}"] = [*_SETS["one"][:5], *(f"OTHER{i}_{j}" for j in range(200))]
    return {"adata": cells(), "programs": sets}, "scssl.pp.gene_programs(adata, programs)"


@case(CHAPTER, "One factor is named where a list is meant")
def factor_for_a_list():
    targets = {f"GENE{i}": [f"GENE{j}" for j in range(30) if j != i] for i in (1, 2)}
    names = {"adata": cells(), "targets": targets}
    return names, 'scssl.pp.tf_targets(adata, targets, tfs="GENE1")'


@case(CHAPTER, "There is no table of orthologs", ways="instead")
def no_table():
    adata = cells()
    adata.var_names = [f"Gene{i}" for i in range(30)]
    human = [f"GENE{i}" for i in range(30)]
    table = pd.DataFrame({"Gene name": adata.var_names, "Human gene name": human})
    table.to_csv("mart_export.txt", sep="\t", index=False)
    organisms = {"Common Organism Name": ["mouse, laboratory"] * 30 + ["human"] * 30}
    homology = {"DB Class Key": [*range(30)] * 2, **organisms, "Symbol": [*adata.var_names, *human]}
    pd.DataFrame(homology).to_csv("HOM_MouseHumanSequence.rpt", sep="\t", index=False)
    code = 'scssl.pp.map_orthologs(adata, from_species="mouse", to_species="human")'
    return {"adata": adata, "table": table}, code


@case(CHAPTER, "Orthologs are given for genes of the model's own species")
def orthologs_of_the_same_species():
    human = [f"GENE{i}" for i in range(30)]
    table = pd.DataFrame({"human": human, "mouse": [name.title() for name in human]})
    names = {"adata": cells(), "model": model(), "table": table}
    return names, "scssl.tl.embed(adata, model, orthologs=table)"
