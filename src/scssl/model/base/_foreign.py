"""Checkpoints of other programs, as models ask for them."""

from __future__ import annotations

import importlib
from typing import Any

#: Entry of a registry that says where weights are from, which are not of scssl.
SOURCE = "scssl_source"


def foreign(name: str) -> Any:
    """What reads checkpoints of other programs, by name.

    Readers build models, so they stand above them, and a model finds them by name.

    Parameters
    ----------
    name
        Of a function of ``scssl.published``.
    """
    return getattr(importlib.import_module("scssl.published"), name)


def from_foreign(reader: str, *args: Any, device: Any, adata: Any, **options: Any) -> Any:
    """Model that a reader makes of a checkpoint, on a device and with data if there are any.

    Parameters
    ----------
    reader
        Name of a function of ``scssl.published``.
    *args, **options
        Of that function.
    device, adata
        As in ``load`` of a model.
    """
    model = foreign(reader)(*args, **options)
    model.module.to(device).eval()
    if adata is not None:
        model.attach(adata)
    return model


def check_unused(example: str, /, **arguments: Any) -> None:
    """Refuse arguments that mean something for checkpoints only; how to name one, for the message."""
    for name, value in arguments.items():
        if value is not None and value is not False:
            raise ValueError(
                f"`{name}` is for checkpoints of other programs. Say which one to read: {example}"
            )
