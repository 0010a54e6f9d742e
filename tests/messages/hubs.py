"""Models on the Hugging Face Hub."""

from __future__ import annotations

import functools
import shutil
from pathlib import Path

from . import case
from ._data import beside, folder, hub, model, set_up, small

CHAPTER = "The Hugging Face Hub"
REPO = "lab/cells"


@functools.cache
def files():
    model().save(path := Path(folder()) / "model")
    return {path.name: path.read_bytes() for path in path.iterdir()}


@case(CHAPTER, "A card is the name of a file", ways="all")
def card_by_name():
    hub()
    Path("card.md").write_text("---\nlibrary_name: scssl\ntags: [scssl]\n---\n\n# Cells\n")
    return {"model": model()}, f'model.push_to_hub("{REPO}", card="card.md")'


@case(CHAPTER, "A model was not trained before it is published")
def untrained_model():
    hub()
    adata = set_up("MaskedAutoencoder")
    return {"model": small("MaskedAutoencoder", adata)}, f'model.push_to_hub("{REPO}")'


@case(CHAPTER, "A repository is public and should be private")
def public_repository():
    hub().add(REPO)
    return {"model": model()}, f'model.push_to_hub("{REPO}", private=True)'


@case(CHAPTER, "A folder for a model is not empty")
def folder_is_not_empty():
    hub().add(REPO, files())
    shutil.rmtree("my_model", ignore_errors=True)
    model().save("my_model")
    return {}, f'scssl.hub.fetch_bundle("{REPO}", "my_model")'


@case(CHAPTER, "A repository holds no model of scssl", ways="instead")
def no_model_of_ours():
    hub().add(REPO, {"README.md": b"# Cells"})
    return {}, f'scssl.model.SSLModel.from_pretrained("{REPO}")'


@case(CHAPTER, "A repository is private", ways="all")
def private_repository():
    hub().add(REPO, files(), private=True)
    names = {"TOKEN": beside("hub/server").WRITER}
    return names, f'scssl.model.SSLModel.from_pretrained("{REPO}", token=False)'
