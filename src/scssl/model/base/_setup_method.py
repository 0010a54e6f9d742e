"""Signature and documentation of each model's setup methods, made from those of the base."""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, get_type_hints

from scssl._checks import no_argument

_SECTION = re.compile(r"^(\w+)\n-{3,}\n", re.MULTILINE)
_PARAMETER = re.compile(r"^(\*{0,2}\w.*)\n((?:(?:    .*)?\n)+)", re.MULTILINE)


@dataclass(frozen=True)
class SetupArgument:
    """What an argument of a setup method is for one model; without an annotation, type and default of the base."""

    text: str
    annotation: Any = None
    default: Any = None


def setup_method(
    base: Any, takes: Mapping[str, SetupArgument], refuses: Mapping[str, str] = MappingProxyType({})
) -> Any:
    """The setup method of a model, which does what that of the base does, with its own arguments.

    Signature and documentation of `base` hold for what is not said otherwise: `takes` are arguments that it
    does not have, or that mean something else to this model, `refuses` those that the model has no use for.
    """
    hints = get_type_hints(base.__func__)
    every = [
        one.replace(annotation=hints.get(name, inspect.Parameter.empty))
        for name, one in inspect.signature(base).parameters.items()
    ]
    first = [one for one in every if one.kind is one.POSITIONAL_OR_KEYWORD]
    known = {one.name: one for one in every if one not in first and one.name not in refuses}
    text = inspect.getdoc(base) or ""
    if "**kwargs" not in text:
        # Nothing but what other models take.
        del known["kwargs"]
    more: dict[str, inspect.Parameter] = {}
    for name, argument in takes.items():
        if argument.annotation is not None:
            own = inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                default=argument.default,
                annotation=argument.annotation,
            )
            (known if name in known else more)[name] = own
    model = inspect.Parameter("cls", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = [model, *first, *more.values(), *known.values()]
    signature = inspect.Signature(parameters, return_annotation=None)

    def method(cls: Any, *args: Any, **kwargs: Any) -> None:
        names = set(signature.parameters)
        if unknown := [] if "kwargs" in names else [name for name in kwargs if name not in names]:
            name = unknown[0]
            known = [one for one in signature.parameters if one != "cls"]
            raise TypeError(no_argument(f"{base.__name__}()", name, kwargs[name], known))
        try:
            bound = signature.bind(cls, *args, **kwargs)
        except TypeError as error:
            places = " and ".join(f"`{one.name}`" for one in first)
            hint = f"{places} can come by position, all else by name"
            raise TypeError(f"{base.__name__}(): {error}; {hint}") from None
        bound.apply_defaults()
        del bound.arguments["cls"]
        base.__func__(cls, **bound.arguments.pop("kwargs", {}), **bound.arguments)

    method.__name__, method.__module__ = base.__name__, base.__module__
    method.__signature__ = signature  # type: ignore[attr-defined]
    method.__annotations__ = {
        one.name: one.annotation for one in parameters[1:] if one.annotation is not one.empty
    } | {"return": None}
    method.__doc__ = _documentation(text, list(signature.parameters)[1:], takes)
    return classmethod(method)


def _documentation(base: str, names: list[str], takes: Mapping[str, SetupArgument]) -> str:
    """That of the base for these arguments, without examples, which would be of another model."""
    head, *parts = _SECTION.split(base + "\n")
    sections = dict(zip(parts[::2], parts[1::2], strict=True))
    texts = {}
    for joined, text in _PARAMETER.findall(sections["Parameters"]):
        for name in joined.split(", "):
            texts[name.lstrip("*")] = inspect.cleandoc(text)
    texts |= {k: textwrap.fill(" ".join(one.text.split()), 96) for k, one in takes.items()}
    entries: list[tuple[list[str], str]] = []
    for name in names:
        shown = "**kwargs" if name == "kwargs" else name
        # Neighbours of which the same holds are documented together.
        if entries and entries[-1][1] == texts[name]:
            entries[-1][0].append(shown)
        else:
            entries.append(([shown], texts[name]))
    lines = [
        f"{', '.join(shown)}\n" + "\n".join(f"    {line}".rstrip() for line in text.split("\n"))
        for shown, text in entries
    ]
    parameters = "\n".join(lines)
    raises = sections["Raises"].strip("\n")
    return f"{head}Parameters\n----------\n{parameters}\n\nRaises\n------\n{raises}\n"
