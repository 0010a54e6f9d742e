"""Models by name, for the command line, checkpoints and the contract tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ._model import SSLModel

_MODELS: dict[str, type[SSLModel]] = {}


def register_model[Model: type[SSLModel]](cls: Model) -> Model:
    """Class decorator: make a model known by the name of its class, to be loaded by it.

    Parameters
    ----------
    cls
        A subclass of :class:`SSLModel`.

    Raises
    ------
    ValueError
        If another model has this name.
    """
    known = _MODELS.get(cls.__name__)
    if known is not None and known.__module__ != cls.__module__:
        raise ValueError(f"There is a model {cls.__name__} in {known.__module__}. Rename yours.")
    _MODELS[cls.__name__] = cls
    return cls


def list_models() -> list[str]:
    """Names of all models.

    Examples
    --------
    >>> import scssl
    >>> "MaskedAutoencoder" in scssl.model.list_models()
    True
    """
    return sorted(_MODELS)


def get_model_class(name: str) -> type[SSLModel]:
    """Model class called ``name``; only classes of this package are ever found.

    Parameters
    ----------
    name
        One of :func:`list_models`.

    Raises
    ------
    ValueError
        If there is no such model.

    Examples
    --------
    >>> import scssl
    >>> scssl.model.get_model_class("MaskedAutoencoder").__name__
    'MaskedAutoencoder'
    """
    if name not in _MODELS:
        raise ValueError(f"There is no model {name!r}; there are {', '.join(list_models())}.")
    return _MODELS[name]
