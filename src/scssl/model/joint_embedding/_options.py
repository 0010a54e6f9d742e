"""The hyper-parameters of a method: they stand once, as arguments of what reads them."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, get_type_hints

from scssl._checks import check_widths

#: What an option is, and how it is checked.
Share = Annotated[float, "[0, 1]"]
Widths = Annotated[Sequence[int], check_widths]


def options_of(function: Callable[..., Any], *, bounds: bool = True) -> dict[str, Any]:
    """Arguments that a function takes by name only, with their types and, with `bounds`, those too."""
    types = get_type_hints(function, include_extras=bounds)
    return {
        name: one.replace(annotation=types.get(name, Any))
        for name, one in inspect.signature(function).parameters.items()
        if one.kind is one.KEYWORD_ONLY
    }


def constructor(base: Any, own: Mapping[str, inspect.Parameter]) -> Callable[..., None]:
    """The constructor of `base` that also lists the options of a method, as tools read signatures."""

    def __init__(self: Any, adata: Any = None, registry: Any = None, **arguments: Any) -> None:
        base.__init__(self, adata, registry, **arguments)

    types = get_type_hints(base.__init__)
    common = [
        one.replace(annotation=types.get(one.name, one.empty))
        for one in inspect.signature(base.__init__).parameters.values()
        if one.kind is not one.VAR_KEYWORD
    ]
    listed = [*common[:3], *own.values(), *common[3:]]
    made: Any = __init__
    made.__signature__ = inspect.Signature(listed, return_annotation=None)
    made.__annotations__ = {one.name: one.annotation for one in listed[1:]} | {"return": None}
    return __init__


def documented(cls: type, base: type) -> str | None:
    """Docstring of a method with what it leaves to its base: entries of arguments, and the example."""
    own, common = cls.__doc__, base.__doc__
    if own is None or common is None:
        return own
    before, mine, after = _entries(own)
    _, theirs, example = _entries(common)
    if cls.__module__.startswith("scssl."):
        # Every method of the package is used as that of the example.
        after = after or example.replace("SimCLR", cls.__name__)
    listed = {name: text for name, text in theirs.items() if name in ("adata", "registry")}
    listed |= mine | {k: v for k, v in theirs.items() if k not in mine and not k.startswith("*")}
    return f"{before}Parameters\n----------\n{'\n'.join(listed.values())}\n\n{after}"


def _entries(doc: str) -> tuple[str, dict[str, str], str]:
    """What stands before the parameters of a docstring, the entry of each, and what stands after them."""
    before, _, rest = inspect.cleandoc(doc).partition("Parameters\n----------\n")
    following = re.search(r"^\w+\n-{3,}$", rest, re.MULTILINE)
    end = following.start() if following else len(rest)
    entries = re.findall(r"^\S.*(?:\n+[ ]+\S.*)*", rest[:end], re.MULTILINE)
    return before, {entry.partition("\n")[0]: entry for entry in entries}, rest[end:]
