"""Stores: built, opened, trained on, embedded."""

from __future__ import annotations

import contextlib
import shutil
import sys
from pathlib import Path
from unittest.mock import patch

import anndata
import dask.array

import scssl
from scssl.data.store import _annbatch, _build

from . import case
from ._data import cells, model, set_up, small

CHAPTER = "Stores"


def written(name="one", **changes):
    """A file of cells."""
    path, adata = f"{name}.h5ad", cells()
    for key, values in changes.items():
        adata.obs[key] = values
    Path(path).parent.mkdir(exist_ok=True)
    adata.write_h5ad(path)
    return path


def built(**given):
    return scssl.data.build_store({"one": cells()}, nothing("atlas"), **given)


def nothing(name):
    """A place where nothing is; the same each time, as messages name it."""
    for one in (name, f"{name}.partial"):
        shutil.rmtree(one, ignore_errors=True)
    return name


def trained(store):
    scssl.model.MaskedAutoencoder.setup_store(store)
    model = small("MaskedAutoencoder", store)
    model.train(max_epochs=1, progress=False)
    return model


def without(call, **modules):
    with patch.dict(sys.modules, modules):
        return call()


@case(CHAPTER, "annbatch is not installed", ways="instead")
def without_annbatch():
    names = {"without": without, "need": _annbatch.need_annbatch}
    return names, "without(need, annbatch=None)"


@case(CHAPTER, "annbatch is of another version", ways="instead")
def other_annbatch():
    def ask():
        with patch.object(_annbatch, "version", lambda name: "9.0"):
            _annbatch.need_annbatch()

    return {"ask": ask}, "ask()"


@case(CHAPTER, "There is a store already")
def there_already():
    return (
        {"out": str(built().path), "more": {"more": cells(seed=1)}},
        "scssl.data.build_store(more, out)",
    )


@case(CHAPTER, "Inputs are called the same")
def called_the_same():
    names = {"inputs": [written(), written("again/one")], "out": nothing("atlas")}
    return names, "scssl.data.build_store(inputs=inputs, out=out)"


@case(CHAPTER, "Memory is not a size")
def no_size():
    names = {"inputs": [written()], "out": nothing("atlas")}
    return names, 'scssl.data.build_store(inputs, out, memory="much")'


@case(CHAPTER, "A column holds numbers in one input and names in another")
def numbers_and_names():
    adata, other = cells(), cells(seed=1)
    adata.obs["age"], other.obs["age"] = 7.0, "old"
    names = {"adata": adata, "other": other, "out": nothing("atlas")}
    code = 'scssl.data.build_store({"one": adata, "two": other}, out, obs_keys=["age"])'
    return names, code


def interrupted():
    """A file of which a store was begun."""
    path, out = written(), nothing("atlas")
    with patch.object(_build, "write_shard", side_effect=KeyboardInterrupt):
        with contextlib.suppress(KeyboardInterrupt):
            scssl.data.build_store([path], out)
    return path, out


@case(CHAPTER, "Building a store was interrupted")
def building_was_interrupted():
    _, out = interrupted()
    return {"out": out}, "store = scssl.data.Store(out)"


@case(CHAPTER, "An input changed after a part of it was read")
def input_changed():
    path, out = interrupted()
    adata = cells(seed=1)
    adata.write_h5ad(path)
    return {"path": path, "out": out}, "scssl.data.build_store([path], out)"


@case(CHAPTER, "A part of a store is of other arguments")
def other_arguments():
    path, out = interrupted()
    return {"path": path, "out": out}, 'scssl.data.build_store([path], out, obs_keys=["type"])'


@case(CHAPTER, "There is no store")
def no_store():
    out = nothing("atlas")
    return {"inputs": [written()], "out": out}, "store = scssl.data.Store(out)"


@case(CHAPTER, "A path is given for a store")
def path_for_a_store():
    names = {"store": str(built().path)}
    return names, "scssl.model.MaskedAutoencoder.setup_store(store)"


@case(CHAPTER, "A store was not set up")
def store_not_set_up():
    return {"store": built()}, "scssl.model.MaskedAutoencoder(store, hidden_dims=(8,), n_latent=4)"


@case(CHAPTER, "A continuous covariate of a store is a category")
def category_of_a_store():
    names = {"store": built(obs_keys=["batch"])}
    code = 'scssl.model.MaskedAutoencoder.setup_store(store, continuous_covariate_keys=["batch"])'
    return names, code


@case(CHAPTER, "Cells of a sample lie apart in a store")
def samples_apart():
    store = built(obs_keys=["batch"])
    names = {"store": store, "inputs": {"one": cells()}, "out": nothing("by_sample")}
    return names, 'scssl.model.CellPLM.setup_store(store, sample_key="batch")'


@case(CHAPTER, "A store is laid out by a column, and the model needs random order")
def laid_out_for_another_model():
    store = built(obs_keys=["batch"], group_key="batch")
    names = {"store": store, "inputs": {"one": cells()}, "out": nothing("at_random")}
    return names, "scssl.model.MaskedAutoencoder.setup_store(store)"


@case(CHAPTER, "Cells are added to a store in another layout")
def added_in_another_layout():
    out = str(built(obs_keys=["batch"]).path)
    names = {"more": {"more": cells(seed=1)}, "out": out}
    return names, 'scssl.data.build_store(more, out, append=True, group_key="batch")'


@case(CHAPTER, "Labels are to be learnt from a store")
def labels_of_a_store():
    store = built(obs_keys=["type"])
    scssl.model.CellPLM.setup_store(store, labels_key="type")
    code = 'scssl.model.CellPLM(store, objective="supcon", n_hidden=8, n_layers=1, n_heads=2)'
    return {"store": store}, code


@case(CHAPTER, "There is no such part of a store")
def no_such_part():
    store = built()
    names = {"store": store, "model": trained(store), "out": nothing("embedding")}
    return names, "model.embed_store(store, out, part=3)"


@case(CHAPTER, "A folder holds another embedding")
def other_embedding():
    store = built()
    out, model = nothing("embedding"), trained(store)
    model.embed_store(store, out)
    names = {"store": store, "model": model, "out": out}
    return names, 'model.embed_store(store, out=out, key_added="X_other")'


@case(CHAPTER, "Shards are not embedded yet")
def not_embedded_yet():
    store = built()
    out, model = nothing("embedding"), trained(store)
    model.embed_store(store, out, part=(1, 2))
    names = {"store": store, "model": model, "out": out}
    return names, "scssl.data.read_embedding(out)"


DASK = "model.embed_dask(adata)"


def small_model():
    return small("MaskedAutoencoder", set_up("MaskedAutoencoder"))


@case(CHAPTER, "Cells to embed with dask are in memory", ways="instead")
def cells_in_memory_for_dask():
    return {"model": model(), "adata": cells()}, DASK


@case(CHAPTER, "Cells to embed with dask were opened in another way")
def backed_cells_for_dask():
    # One that is open already cannot be written again.
    path = "lazy.h5ad" if Path("lazy.h5ad").exists() else written("lazy")
    adata = anndata.read_h5ad(path, backed="r")
    return {"model": model(), "adata": adata, "anndata": anndata}, DASK


@case(CHAPTER, "The folder for workers of dask holds another model")
def folder_of_another_model():
    place = nothing("my_model")
    small_model().save(place)
    adata = cells()
    adata.X = dask.array.from_array(adata.X, chunks=(20, -1))
    names = {"model": model(), "adata": adata, "place": place}
    return names, "model.embed_dask(adata, folder=place)"
