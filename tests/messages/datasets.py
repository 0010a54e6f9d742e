"""Data sets that are not at hand."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import scssl

from . import case
from ._data import cells, folder

CHAPTER = "Data sets"


def _saved(name: str) -> Path:
    path = Path(folder()) / f"{name}.h5ad"
    cells().write_h5ad(path)
    return path


def _pooch(error: Exception) -> SimpleNamespace:
    def retrieve(*args, **kwargs):
        raise error

    return SimpleNamespace(retrieve=retrieve, os_cache=lambda name: f"/home/user/.cache/{name}")


def _where(pooch):
    """Run with this pooch, and with no folder but that which was typed."""

    def run(read, *args, **kwargs):
        with patch.dict(sys.modules, pooch=pooch), patch.dict("os.environ", SCSSL_DATA_DIR=""):
            try:
                return read(*args, **kwargs)
            finally:
                scssl.settings.data_dir = None

    return run


@case(CHAPTER, "A data set is not at hand and cannot be downloaded")
def not_at_hand():
    names = {"here": _where(None), "FOLDER": _saved("kang_ifnb").parent}
    return names, "here(scssl.datasets.kang_ifnb)"


@case(CHAPTER, "A data set is to be downloaded, and pooch is not installed", ways="instead")
def no_pooch():
    return {"without_pooch": _where(None)}, "without_pooch(scssl.datasets.pbmc3k)"


@case(CHAPTER, "A data set is to be downloaded, and there is no network")
def no_network():
    names = {"offline": _where(_pooch(OSError("no route to host"))), "FILE": _saved("pbmc3k")}
    return names, "offline(scssl.datasets.pbmc3k)"


@case(CHAPTER, "What was downloaded is another file")
def another_checksum():
    error = ValueError("SHA256 hash of downloaded file (pbmc3k_raw.h5ad) is not the known one.")
    names = {"damaged": _where(_pooch(error)), "FILE": _saved("pbmc3k")}
    return names, "damaged(scssl.datasets.pbmc3k)"


@case(CHAPTER, "More proteins than genes are to be simulated")
def more_proteins_than_genes():
    return {}, "scssl.datasets.simulated(60, 20, n_proteins=30)"
