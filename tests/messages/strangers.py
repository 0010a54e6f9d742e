"""Folders and checkpoints that are not what they should be."""

from __future__ import annotations

import json
import tempfile
from argparse import Namespace
from pathlib import Path
from unittest.mock import patch

import torch
from torch.torch_version import TorchVersion

from scssl._io._trees import json_sha256

from . import case
from ._data import beside, model

CHAPTER = "Files of others"
cellplm = beside("cellplm_reference")


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


def autoencoder() -> dict[str, torch.Tensor]:
    """Weights of a published autoencoder of three genes."""
    state = {"encoder.0.weight": torch.zeros(512, 3)}
    for i, n_out, n_in in ((3, 512, 512), (6, 256, 512), (9, 256, 256), (12, 64, 256)):
        state[f"encoder.{i}.weight"] = torch.zeros(n_out, n_in)
    for i, n_out in ((0, 256), (3, 256), (6, 512), (9, 512), (12, 3)):
        n_in = {0: 64, 3: 256, 6: 256, 9: 512, 12: 512}[i]
        state[f"decoder.0.{i}.weight"] = torch.zeros(n_out, n_in)
    for name in [*state]:
        state[name.replace("weight", "bias")] = torch.zeros(len(state[name]))
    return state


@case(CHAPTER, "A checkpoint is from before torch 1.6")
def checkpoint_of_an_old_torch():
    path = folder().with_name("old.ckpt")
    torch.save({"state_dict": autoencoder()}, path, _use_new_zipfile_serialization=False)
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
    with patch("pandas.read_parquet", side_effect=ImportError("no pyarrow")):
        return read(*args)


@case(CHAPTER, "A checkpoint is read by an old torch", ways="instead")
def checkpoint_read_by_an_old_torch():
    path = folder().with_name("own.ckpt")
    torch.save({}, path)
    names = {"path": path, "with_torch_2_9": with_torch_2_9}
    code = 'scssl.model.MaskedAutoencoder.from_pretrained, path, genes=["A", "B", "C"]'
    return names, f"with_torch_2_9({code})"


def with_torch_2_9(read, *args, **kwargs):
    with patch("torch.__version__", TorchVersion("2.9.1")):
        return read(*args, **kwargs)


@case(CHAPTER, "A checkpoint holds more than tensors")
def checkpoint_with_objects():
    checkpoint = {"state_dict": autoencoder(), "hyper_parameters": Namespace(lr=1e-3)}
    torch.save(checkpoint, "weights.ckpt")
    names = {"torch": torch, "checkpoint": checkpoint}
    return names, (
        'scssl.model.MaskedAutoencoder.from_pretrained("weights.ckpt", genes=["A", "B", "C"])'
    )


@case(CHAPTER, "A folder holds several checkpoints of CellPLM")
def several_checkpoints():
    path = folder()
    for prefix in ("20230926_85M", "20231027_85M"):
        cellplm.checkpoint(path, prefix, "vae", 20)
    return {"path": path}, "scssl.model.CellPLM.from_pretrained(path)"


@case(CHAPTER, "A configuration of CellPLM is of other weights")
def configuration_of_other_weights():
    path = folder()
    state = cellplm.state_dict(cellplm.configuration(20, "vae"))
    cellplm.write(path, "85M", cellplm.configuration(20, "gmvae"), state)
    return {"path": path}, "scssl.model.CellPLM.from_pretrained(path)"
