"""What is typed into a shell."""

from __future__ import annotations

import shutil

import scipy.sparse as sparse

from . import case
from ._data import cells, model

CHAPTER = "The command line"
TRAIN = "scssl train cells.h5ad --out my_model --max-epochs 1 --no-progress"


def folder_with_cells(adata=None):
    """Cells in the working directory, and nothing that another command wrote."""
    for name in ("my_model", "types", "types_ssl"):
        shutil.rmtree(name, ignore_errors=True)
    adata = cells() if adata is None else adata
    adata.write_h5ad("cells.h5ad")


@case(CHAPTER, "There is no such command", ways="instead")
def no_such_command():
    folder_with_cells()
    return {}, TRAIN.replace("train", "trian")


@case(CHAPTER, "There is no such option", ways="instead")
def no_such_option():
    folder_with_cells()
    return {}, TRAIN.replace("--max-epochs 1", "--max_epoch=1")


@case(CHAPTER, "There is nothing to do with a word", ways="instead")
def nothing_to_do_with():
    return {}, "scssl embed cells.h5ad more.h5ad --model my_model --out embedded.h5ad"


@case(CHAPTER, "There is no such model")
def no_such_model():
    folder_with_cells()
    return {}, f"{TRAIN} --model SimCRL"


@case(CHAPTER, "A classifier needs a trained model", ways="all")
def classifier_without_a_model():
    folder_with_cells()
    line = TRAIN.replace("my_model", "types")
    return {}, f"{line} --model CellTypeClassifier --labels-key type"


@case(CHAPTER, "Cells on disk are to be written in another form")
def backed_into_another_form():
    folder_with_cells()
    shutil.rmtree("embedded.zarr", ignore_errors=True)
    model().save("my_model", overwrite=True)
    return {}, "scssl embed cells.h5ad --model my_model --backed --out embedded.zarr"


@case(CHAPTER, "A file exists already")
def file_exists_already():
    folder_with_cells()
    model().save("my_model", overwrite=True)
    return {}, "scssl embed cells.h5ad --model my_model --out cells.h5ad"


@case(CHAPTER, "There is no matrix in X of a file")
def no_matrix_in_a_file():
    adata = cells()
    adata.layers["raw counts"], adata.X = sparse.csr_matrix(adata.X), None
    folder_with_cells(adata)
    return {}, TRAIN
