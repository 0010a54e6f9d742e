"""What matrices hold, and what genes are called."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd

import scssl

from . import case
from ._data import cells, model

CHAPTER = "Values and genes"
SETUP = "scssl.model.MaskedAutoencoder.setup_anndata(adata)"


def shares(adata):
    return adata.X / adata.X.sum(axis=1, keepdims=True)


def logarithms_model():
    adata = cells(120, 60, seed=3)
    adata.X = np.log1p(1e4 * shares(adata))
    scssl.model.MaskedAutoencoder.setup_anndata(adata)
    made = scssl.model.MaskedAutoencoder(adata, hidden_dims=(8,), n_latent=4)
    made.train(max_epochs=1, progress=False)
    return made


def made(function):
    adata = cells(120, 60)
    adata.X = function(adata).astype(np.float32)
    return {"adata": adata}, SETUP


@case(CHAPTER, "Values are normalised, but there is no logarithm")
def shares_without_logarithm():
    return made(shares)


@case(CHAPTER, "Values are divided by the volume of cells")
def values_by_volume():
    volumes = np.random.default_rng(0).uniform(0.01, 0.1, (120, 1))
    return made(lambda adata: adata.X / volumes)


@case(CHAPTER, "Values are divided by the volume of cells, and small")
def small_values_by_volume():
    volumes = np.random.default_rng(0).uniform(100, 1000, (120, 1))
    return made(lambda adata: adata.X / volumes)


@case(CHAPTER, "Counts were corrected and are not whole")
def corrected_counts():
    return made(lambda adata: adata.X + 0.02 * (adata.X > 0))


@case(CHAPTER, "The logarithm was taken twice")
def logarithm_taken_twice():
    return made(lambda adata: np.log1p(np.log1p(1e4 * shares(adata))))


@case(CHAPTER, "Values are square roots")
def square_roots():
    return made(lambda adata: np.sqrt(1e4 * shares(adata)))


@case(CHAPTER, "Logarithms have the base 2")
def logarithms_of_base_2():
    return made(lambda adata: np.log2(1 + 1e4 * shares(adata)))


@case(CHAPTER, "Logarithms are of counts that were not scaled")
def logarithms_of_raw_counts():
    return made(lambda adata: np.log1p(adata.X))


@case(CHAPTER, "It cannot be told that values are logarithms")
def values_of_an_unknown_kind():
    return made(lambda adata: np.random.default_rng(0).gamma(1, 1, adata.shape))


@case(CHAPTER, "Cells were normalised to another sum than those of the model")
def another_sum_than_the_model():
    adata = cells(120, 60)
    adata.X = np.log1p(1e6 * shares(adata))
    return {"adata": adata, "model": logarithms_model()}, "scssl.tl.embed(adata, model)"


@case(CHAPTER, "Values are logarithms, and counts were asked for")
def logarithms_as_counts():
    names, _ = made(lambda adata: np.log1p(1e4 * shares(adata)))
    names["adata"].layers["counts"] = cells(120, 60).X
    return names, 'scssl.model.MaskedAutoencoder.setup_anndata(adata, input="counts")'


@case(CHAPTER, "Values are counts, and logarithms were asked for")
def counts_as_logarithms():
    names, _ = made(lambda adata: adata.X)
    return names, 'scssl.model.MaskedAutoencoder.setup_anndata(adata, input="lognorm")'


@case(CHAPTER, "Counts for a model of logarithms")
def counts_for_a_model_of_logarithms():
    return {"adata": cells(120, 60), "model": logarithms_model()}, "scssl.tl.embed(adata, model)"


@case(CHAPTER, "Logarithms of raw counts for a model of counts")
def logarithms_for_a_model_of_counts():
    adata = cells(120)
    adata.X = np.log1p(adata.X)
    return {"adata": adata, "model": model()}, "scssl.tl.embed(adata, model)"


@case(CHAPTER, "Genes and antibodies in one matrix", ways="instead")
def genes_and_antibodies():
    names, code = made(lambda adata: adata.X)
    names["adata"].var["feature_types"] = ["Gene Expression"] * 50 + ["Antibody Capture"] * 10
    return names, code


@case(CHAPTER, "Values are missing after data sets of other genes were put together")
def missing_after_outer_join():
    one, two = cells(), cells(seed=1)
    two.var_names = [*two.var_names[:20], *map("OTHER{}".format, range(10))]
    return {"adata": anndata.concat([one, two], join="outer")}, SETUP


@case(CHAPTER, "Values of a few cells are missing")
def missing_in_a_few_cells():
    names, code = made(lambda adata: adata.X)
    names["adata"].X[3, 5] = np.nan
    return names, code


@case(CHAPTER, "Counts are too large")
def counts_too_large():
    names, code = made(lambda adata: adata.X)
    names["adata"].X[3, 5:8] = 2e38
    return names, code


def renamed(function, **columns):
    adata = cells()
    adata.var_names = [function(name) if i % 2 else name for i, name in enumerate(adata.var_names)]
    for name, values in columns.items():
        adata.var[name] = values
    return {"adata": adata, "model": model()}, "scssl.tl.embed(adata, model, min_overlap=0.1)"


@case(CHAPTER, "Half of the genes are in lower case")
def genes_in_lower_case():
    names, code = renamed(str.lower)
    genes = names["adata"].var_names
    table = pd.DataFrame({"mouse": genes, "human": genes.str.upper()})
    return {**names, "TABLE": table[table["mouse"] != table["human"]]}, code


@case(CHAPTER, "Genes begin with the name of the genome")
def genes_with_genome():
    return renamed("GRCh38_{}".format)


@case(CHAPTER, "The names of the genes are in a column")
def names_in_a_column():
    return renamed(lambda name: f"id{hash(name)}", feature_name=list(cells().var_names))
