"""A model that a user names: the object, its folder, or its place on the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from scssl._errors import warn

from ._backbone import Backbone
from ._model import SSLModel


def resolve(model: Any) -> SSLModel:
    """A model, or the model in a folder or on the Hugging Face Hub.

    Raises
    ------
    TypeError
        If it is no model of this package.
    """
    if isinstance(model, (str, Path)):
        model = SSLModel.from_pretrained(model)
    if not isinstance(model, SSLModel):
        raise TypeError(
            "`model` must be a model of scssl, the folder of one or its name on the Hugging Face Hub, "
            f"found {type(model).__name__}."
        )
    return model


def backbone_of(model: Any) -> Backbone:
    """The encoder of a model, or of the model in a folder or on the Hugging Face Hub.

    Raises
    ------
    TypeError
        If it is no model of this package.
    """
    backbone: Backbone = resolve(model)._backbone()
    if not backbone.pretrained:
        warn(
            "The model to start from is not trained: this is the same as training from scratch. "
            "Call model.train() first."
        )
    return backbone
