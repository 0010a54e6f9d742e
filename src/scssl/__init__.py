"""scssl: self-supervised learning of cell representations from single-cell data.

The namespaces load on first use, so ``import scssl`` is quick and loads neither torch nor scanpy.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from scssl._errors import BundleError, GeneMismatchError, ScsslWarning
from scssl._settings import settings

if TYPE_CHECKING:
    from scssl import (
        augment,
        data,
        datasets,
        hub,
        model,
        nn,
        objective,
        pl,
        pp,
        tl,
    )

    __version__: str

_NAMESPACES = ("augment", "data", "datasets", "hub", "model", "nn", "objective", "pl", "pp", "tl")

__all__ = [
    "BundleError",
    "GeneMismatchError",
    "ScsslWarning",
    "__version__",
    "augment",
    "data",
    "datasets",
    "hub",
    "model",
    "nn",
    "objective",
    "pl",
    "pp",
    "settings",
    "tl",
]


def __getattr__(name: str) -> Any:
    if name in _NAMESPACES:
        return importlib.import_module(f"{__name__}.{name}")
    if name == "__version__":
        from importlib.metadata import version

        return version("scssl")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
