"""Folders and checkpoints that are not what they should be."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import torch

from scssl._io._trees import json_sha256

from . import case
from ._data import model

CHAPTER = "Files of others"


def folder() -> Path:
    return Path(tempfile.mkdtemp()) / "model"


@case(CHAPTER, "A folder holds a model already", ways="instead")
def folder_with_a_model():
    model().save(path := folder())
    return {"model": model(), "path": path}, "model.save(path)"


@case(CHAPTER, "A folder holds a model of another class", ways="instead")
def folder_of_another_class():
    model().save(path := folder())
    return {"path": path}, "scssl.model.SimCLR.load(path)"


@case(CHAPTER, "A folder was written by a newer version", ways="instead")
def folder_of_a_newer_version():
    model().save(path := folder())
    document = json.loads((path / "config.json").read_text()) | {"format_version": 2}
    del document["config_sha256"]
    document["config_sha256"] = json_sha256(document)
    (path / "config.json").write_text(json.dumps(document))
    return {"path": path}, "scssl.model.SSLModel.load(path)"


@case(CHAPTER, "A checkpoint is from before torch 1.6")
def checkpoint_of_an_old_torch():
    state = {"encoder.0.weight": torch.zeros(512, 3)}
    for i, n_out, n_in in ((3, 512, 512), (6, 256, 512), (9, 256, 256), (12, 64, 256)):
        state[f"encoder.{i}.weight"] = torch.zeros(n_out, n_in)
    for i, n_out in ((0, 256), (3, 256), (6, 512), (9, 512), (12, 3)):
        n_in = {0: 64, 3: 256, 6: 256, 9: 512, 12: 512}[i]
        state[f"decoder.0.{i}.weight"] = torch.zeros(n_out, n_in)
    for name in [*state]:
        state[name.replace("weight", "bias")] = torch.zeros(len(state[name]))
    path = folder().with_name("old.ckpt")
    torch.save({"state_dict": state}, path, _use_new_zipfile_serialization=False)
    names = {"path": path, "torch": torch, "NEW": path}
    return names, 'scssl.model.MaskedAutoencoder.from_pretrained(path, genes=["A", "B", "C"])'


@case(CHAPTER, "The table of genes is a parquet file, and there is no reader", ways="instead")
def parquet_without_a_reader():
    path = folder().with_name("own.ckpt")
    torch.save({}, path)
    path.with_name("var.parquet").write_bytes(b"PAR1")
    names = {"path": path, "without_pyarrow": without_pyarrow}
    return names, "without_pyarrow(scssl.model.MaskedAutoencoder.from_pretrained, path)"


def without_pyarrow(read, *args):
    from unittest.mock import patch

    with patch("pandas.read_parquet", side_effect=ImportError("no pyarrow")):
        return read(*args)
