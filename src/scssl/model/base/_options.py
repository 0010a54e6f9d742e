"""Hyper-parameters of a model, each declared once: default, what it can be, and its value in the preset."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields
from inspect import Parameter
from types import NoneType
from typing import Annotated, Any, Literal, Self, get_args, get_origin, get_type_hints

from scssl._checks import check_choice, check_number, check_whole, check_widths

#: What an option is, with the bounds or the check that :func:`checked` holds it to.
Positive = Annotated[float, "(0, inf)"]
NotNegative = Annotated[float, "[0, inf)"]
Rate = Annotated[float, "[0, 1)"]
Share = Annotated[float, "[0, 1]"]
Count = Annotated[int, "[0, inf)"]
Widths = Annotated[Sequence[int], check_widths]


def checked(name: str, value: Any, kind: Any) -> Any:
    """An argument as it is kept, or an error unless it is what its annotation says.

    ``Annotated`` types say more: the bounds of a number, or the check of anything else.
    """
    parts = get_args(kind) if NoneType in get_args(kind) else (kind,)
    none, (kind, *_) = len(parts) > 1, (part for part in parts if part is not NoneType)
    if none and value is None:
        return None
    more: Any = None
    if get_origin(kind) is Annotated:
        kind, more = get_args(kind)
    if callable(more):
        return more(name, value)
    if get_origin(kind) is Literal:
        return check_choice(name, value, (*get_args(kind), *((None,) if none else ())))
    if kind is float:
        return check_number(name, value, more or "(-inf, inf)", none=none)
    if kind is int:
        return check_whole(name, value, 1 if more is None else int(more[1:2]), none=none)
    return kind(value)


def option(default: Any, published: Any = MISSING, *, left_open: Any = None, **flags: Any) -> Any:
    """A field of :class:`Options`: its value without a preset and, if it has another there, in the preset.

    `default` is `None`, if its type has no such, for one that follows from others. A user who gives
    `left_open`, as the signature of the model has it, leaves it to the preset or the default. The `flags` are
    what else is to be known of it.
    """
    metadata = {"published": published, "left_open": left_open, **flags}
    return field(default=default, metadata=metadata)


@dataclass
class Options:
    """Base of the hyper-parameters of a model, with the names of its arguments; checked when made."""

    def __post_init__(self) -> None:
        kinds = get_type_hints(type(self), include_extras=True)
        for one in fields(self):
            value = getattr(self, one.name)
            if value is not None or one.default is not None:
                setattr(self, one.name, checked(one.name, value, kinds[one.name]))

    @classmethod
    def chosen(cls, given: Mapping[str, Any]) -> Self:
        """What was given, and what is published or the default where it was left open."""
        values = dict(given)
        for one in fields(cls):
            name = one.name
            is_open = one.metadata.get("left_open")
            value = values.get(name, is_open)
            if _in_preset(one) and type(value) is type(is_open) and value == is_open:
                published = one.metadata["published"]
                values[name] = one.default if values.get("preset") is None else published
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Arguments of a model like this one, as they are saved."""
        return dict(vars(self))


def _in_preset(one: Field[Any]) -> bool:
    return one.metadata.get("published", MISSING) is not MISSING


def takes(options: type[Options]) -> Callable[[Any], Any]:
    """Let a constructor that takes options as ``**kwargs`` list each of them in its signature."""

    def listed(init: Any) -> Any:
        kinds, named = get_type_hints(options), []
        for one in fields(options):
            default, kind = one.default, kinds[one.name]
            if _in_preset(one):
                default = one.metadata["left_open"]
            if default is None:
                kind |= None
            named.append(
                Parameter(one.name, Parameter.KEYWORD_ONLY, default=default, annotation=kind)
            )
        return list_options(init, named)

    return listed


def list_options(init: Any, named: Iterable[Parameter], base: Any = None) -> Any:
    """Let a constructor list what it takes as ``**kwargs``, ahead of its other arguments by name.

    Those are its own, or of the constructor of `base` that it passes them on to.
    """
    signature = inspect.signature(base or init, eval_str=True)
    own = [p for p in signature.parameters.values() if p.kind is not Parameter.VAR_KEYWORD]
    last = [p for p in own if p.kind is Parameter.KEYWORD_ONLY]
    parameters = [*own[: -len(last)], *named, *last]
    init.__signature__ = signature.replace(parameters=parameters)
    init.__annotations__ = {p.name: p.annotation for p in parameters[1:]} | {"return": None}
    return init


def documented(own: str | None, common: str | None) -> str | None:
    """Docstring of a class with the entries of arguments that it leaves to that of its base."""
    if own is None or common is None:
        return own
    before, mine, after = _entries(own)
    theirs = {k: text for k, text in _entries(common)[1].items() if not k.startswith("*")}
    found = theirs | mine
    first = [name for name in ("adata", "registry") if name in found]
    order = [*first, *mine, *theirs]
    # What is handed on comes last: sorting keeps the order of all else.
    order = sorted(dict.fromkeys(order), key=lambda name: name.startswith("*"))
    entries = "\n".join(found[name] for name in order)
    return f"{before.rstrip()}\n\nParameters\n----------\n{entries}\n\n{after}"


def _entries(doc: str) -> tuple[str, dict[str, str], str]:
    """What stands before the parameters of a docstring, the entry of each, and what stands after them."""
    before, _, rest = inspect.cleandoc(doc).partition("Parameters\n----------\n")
    following = re.search(r"^\w+\n-{3,}$", rest, re.MULTILINE)
    end = following.start() if following else len(rest)
    entries = re.findall(r"^\S.*(?:\n+[ ]+\S.*)*", rest[:end], re.MULTILINE)
    return before, {entry.partition("\n")[0]: entry for entry in entries}, rest[end:]
