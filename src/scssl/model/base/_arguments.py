"""What models are asked for by a name that they do not have: arguments, and methods of scvi-tools."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, cast

from scvi.model.base import BaseModelClass

from scssl._checks import no_argument

#: Methods of which an unknown argument is explained, where a model writes them itself.
EXPLAINED = ("__init__", "train", "from_ssl_model", "from_preset", "from_pretrained")


def explained[F: Callable[..., Any]](method: F) -> F:
    """Let a method or a class method of models say what an argument that it does not have may have meant."""
    if isinstance(method, classmethod):
        return cast("F", classmethod(explained(method.__func__)))
    name = method.__name__

    @functools.wraps(method)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        owner = self if isinstance(self, type) else type(self)
        known = known_arguments(owner, name, kwargs)
        for key in kwargs:
            if key not in known:
                what = owner.__name__ if name == "__init__" else f"{owner.__name__}.{name}()"
                raise TypeError(no_argument(what, key, kwargs[key], known))
        return method(self, *args, **kwargs)

    return cast("F", call)


def known_arguments(owner: Any, name: str, given: Mapping[str, Any]) -> list[str]:
    """Names of all arguments of a method, with those that it hands on."""
    found: dict[str, None] = {}
    hands_on = False
    for base in owner.__mro__:
        method = vars(base).get(name)
        if method is None:
            continue
        parameters = inspect.signature(getattr(method, "__func__", method)).parameters.values()
        rest = any(one.kind is one.VAR_KEYWORD for one in parameters)
        found |= {
            p.name: None for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
        }
        hands_on |= rest
        if not rest:
            break
    if hands_on and name.startswith("from_"):
        # What makes a model hands them on to the constructor.
        found |= dict.fromkeys(known_arguments(owner, "__init__", given))
    more = owner._more_arguments(given) if name == "__init__" else ()
    return [one for one in (*found, *more) if one not in ("self", "cls")]


class NotOffered:
    """In place of a method that models inherit from scvi-tools and that does not work."""

    def __init__(self, advice: Callable[[Any], str]) -> None:
        self.advice = advice

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, model: Any, owner: type) -> Any:
        raise AttributeError(f"{owner.__name__} has no {self.name}. {self.advice(owner)}")


def offered(owner: Any, names: Any) -> list[str]:
    """Of the names of attributes, those that are offered."""
    static = inspect.getattr_static
    return [name for name in names if not isinstance(static(owner, name, None), NotOffered)]


class Face(type(BaseModelClass)):  # type: ignore[misc]
    """Metaclass of models, which do not list what is not offered."""

    def __dir__(cls) -> list[str]:
        return offered(cls, super().__dir__())
