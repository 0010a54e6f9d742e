"""Options of a command, read from the signature and the docstring of the function that it calls.

What is typed and what stands in a configuration file is text, which is turned into what the annotation of
the argument says. What is not given is not passed on, so that every default is that of the Python API.
"""

from __future__ import annotations

import argparse
import builtins
import inspect
import re
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeAliasType, Union, get_args, get_origin

_REQUIRED = inspect.Parameter.empty
_WORDS: dict[str, Any] = {"none": None, "null": None, "true": True, "false": False}
#: Title of a group in the help, and its options.
type Groups = dict[str, dict[str, Option]]

_NUMBER = {int: "a whole number", float: "a number"}


@dataclass(frozen=True)
class Option:
    """An argument of a Python function as an option of a command."""

    name: str
    annotation: Any
    default: Any
    text: str
    """What the docstring says of it."""
    by_position: bool = False
    """Whether it is typed without a name."""
    is_rest: bool = False
    """Whether it is all that follows without a name."""

    @property
    def flag(self) -> str:
        """How it is typed."""
        return f"--{self.name.replace('_', '-')}"

    @property
    def is_required(self) -> bool:
        """Whether it has no default."""
        return self.default is _REQUIRED

    @cached_property
    def is_switch(self) -> bool:
        """Whether it is typed without a value."""
        return bool in self._members and set(self._members) <= {bool, NoneType}

    @cached_property
    def _members(self) -> list[Any]:
        return _flat(self.annotation)

    @cached_property
    def _items(self) -> list[Any] | None:
        for one in self._members:
            origin = get_origin(one) or one
            if isinstance(origin, type) and issubclass(origin, Sequence) and origin is not str:
                return _flat((get_args(one) or (Any,))[0])
        return None

    @cached_property
    def _takes_pairs(self) -> bool:
        origins = [get_origin(one) or one for one in self._members]
        return any(isinstance(one, type) and issubclass(one, Mapping) for one in origins)

    def read(self, given: Any) -> Any:
        """The argument, from a word, a list of words or a mapping of words; an error if it cannot be that."""
        words = given if isinstance(given, list) else [given]
        try:
            if self._takes_pairs and isinstance(given, Mapping):
                return {name: _anything(value) for name, value in given.items()}
            if self._takes_pairs and words and all("=" in str(word) for word in words):
                pairs = (str(word).partition("=") for word in words)
                return {name: _anything(value) for name, _, value in pairs}
            if self._items is not None and isinstance(given, list):
                return [_as_one_of(self._items, word) for word in words]
            if len(words) == 1 and not isinstance(words[0], Mapping):
                try:
                    return _as_one_of(self._members, words[0])
                except ValueError:
                    if self._items is None:
                        raise
                    return [_as_one_of(self._items, words[0])]
        except ValueError:
            pass
        shown = " ".join(map(str, words))
        raise ValueError(f"must be {self._expected()}, found {shown or 'nothing'}")

    def _expected(self) -> str:
        """What it can be, for a message."""
        known = [one for one in self._members if isinstance(one, str)]
        known += [text for kind, text in _NUMBER.items() if kind in self._members]
        known += ["true", "false"] if bool in self._members else []
        if self._items is not None:
            kinds = [_NUMBER[one].split()[-1] + "s" for one in self._items if one in _NUMBER]
            known.append(f"one or several {kinds[0] if kinds else 'names'}")
        known += ["NAME=VALUE"] if self._takes_pairs else []
        known += ["none"] if NoneType in self._members else []
        return ", ".join(known[:-1]) + (" or " if len(known) > 1 else "") + (known or ["text"])[-1]

    @property
    def metavar(self) -> str:
        """What stands for its value in the help."""
        words = [one for one in self._members if isinstance(one, str)]
        kinds = self._members if words or self._items is None else [*self._members, *self._items]
        if int in kinds or float in kinds:
            words.append("N" if int in kinds else "X")
        elif not words:
            of_pairs = self._takes_pairs and str not in kinds
            words.append("NAME=VALUE" if of_pairs else "PATH" if Path in kinds else "NAME")
        if NoneType in kinds and self.default is not None:
            words.append("none")
        return "|".join(words)

    @property
    def help(self) -> str:
        """What it does, in a sentence or two, and its default."""
        text = first_sentence(self.text)
        if self.is_required or self.default is None or "default" in text:
            return text
        shown = self.default
        if isinstance(shown, bool):
            shown = "yes" if shown else "no"
        elif isinstance(shown, (list, tuple)):
            shown = " ".join(map(str, shown))
        elif isinstance(shown, float):
            shown = f"{shown:g}"
        return f"{text} (default: {shown})"


def _flat(annotation: Any) -> list[Any]:
    """Members of a union, with the values of literals as they are."""
    if isinstance(annotation, TypeAliasType):
        return _flat(annotation.__value__)
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _flat(parts[0])
    if origin in (Union, UnionType):
        return [one for part in parts for one in _flat(part)]
    if origin is Literal:
        return [NoneType if one is None else one for one in parts]
    return [NoneType if annotation is None else annotation]


def _as_one_of(members: Sequence[Any], word: str) -> Any:
    """A word as a value of one of these types, or as one of these values."""
    text = str(word)
    if text in members:
        return text
    takes_text = any(one in (str, Path, Any) for one in members)
    if NoneType in members and (text in ("none", "null") or (text == "all" and not takes_text)):
        return None
    if bool in members and text in ("true", "false"):
        return text == "true"
    for kind in (int, float):
        if kind in members:
            try:
                return kind(text)
            except ValueError:
                pass
    if Any in members:
        return _anything(word)
    if takes_text:
        return text
    raise ValueError


def _anything(value: Any) -> Any:
    """Text as the number or the word that it is; lists and mappings of it likewise."""
    if isinstance(value, Mapping):
        return {name: _anything(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_anything(one) for one in value]
    if value in _WORDS:
        return _WORDS[value]
    for kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            pass
    return value


def options_of(
    owner: Any, method: str | None = None, *, skip: Iterable[str] = (), handed_on: bool = True
) -> dict[str, Option]:
    """Options of a function, or of a method of a class, but for the arguments to `skip`.

    With those that it hands on, as ``**kwargs``, to the methods of its bases.
    """
    functions = [(owner, owner.__doc__)] if method is None else _overridden(owner, method)
    texts: dict[str, str] = {}
    for _, doc in functions:
        for name, text in documented(doc).items():
            # What only refers to another docstring is said there, further up.
            if texts.get(name, "As in").startswith("As in"):
                texts[name] = text
    found: dict[str, Option] = {}
    for function, _ in functions:
        rest = False
        for name, one in inspect.signature(function).parameters.items():
            if one.kind is one.VAR_KEYWORD:
                rest = True
            elif one.kind is one.VAR_POSITIONAL:
                text = texts.get(f"*{name}", "")
                found.setdefault(name, Option(name, str, (), text, by_position=True, is_rest=True))
            elif name not in ("self", "cls", *skip):
                annotation = _evaluated(one.annotation, function)
                # Of a function, what is needed and not told apart by a name; of a method all have names.
                first = method is None and one.kind is not one.KEYWORD_ONLY
                by_position = first and one.default is _REQUIRED
                option = Option(name, annotation, one.default, texts.get(name, ""), by_position)
                found.setdefault(name, option)
        # A signature that was made, not read from the code, names all there is.
        if not rest or not handed_on or hasattr(function, "__signature__"):
            break
    return found


def _overridden(owner: type, method: str) -> list[tuple[Callable[..., Any], str]]:
    """The method with its docstring, and those of the bases that it replaces."""
    found = []
    for base in owner.__mro__:
        if method in vars(base) and base.__module__.startswith("scssl."):
            function = vars(base)[method]
            function = getattr(function, "__func__", function)
            doc = base.__doc__ if method == "__init__" else function.__doc__
            found.append((function, doc or ""))
    return found


class _Names(dict[str, Any]):
    """Names that an annotation can use; what only type checkers import is no type that can be typed."""

    def __missing__(self, name: str) -> Any:
        return getattr(builtins, name, object)


def _evaluated(annotation: Any, function: Any) -> Any:
    if not isinstance(annotation, str):
        return annotation
    try:
        return eval(annotation, {}, _Names(inspect.unwrap(function).__globals__))
    except (AttributeError, TypeError):
        return str


def documented(doc: str) -> dict[str, str]:
    """Text of each parameter of a numpydoc docstring."""
    section = inspect.cleandoc(doc).partition("Parameters\n----------\n")[2]
    section = re.split(r"^\w+\n-{3,}$", section, maxsplit=1, flags=re.MULTILINE)[0]
    entries = re.findall(r"^(\S.*)\n((?:(?: .*)?(?:\n|$))+)", section, re.MULTILINE)
    return {name: " ".join(text.split()) for names, text in entries for name in names.split(", ")}


def first_sentence(text: str) -> str:
    """The first sentence of a text in reStructuredText, as plain text.

    Sentences that begin with a value are a list of all values, which is taken whole.
    """
    sentences = re.split(r"(?<=\.) (?=[A-Z`:0-9])", text)
    n = 1
    if text.startswith('``"'):
        while n < len(sentences) and sentences[n].startswith('``"'):
            n += 1
    while n < len(sentences) and len(plain(" ".join(sentences[:n]))) < 12:
        n += 1
    return plain(" ".join(sentences[:n])).rstrip(".")


def plain(text: str) -> str:
    """Text in reStructuredText without its marks."""
    text = re.sub(r"(\b(?:in|of) )?:cite:(\w):`([^`]*)`", _cited, text)
    text = re.sub(r":\w+:`~?(?:[\w.]+\.)?([^`]*)`", lambda m: m[1].replace("\\", ""), text)
    text = re.sub(r'``"([^"`]*)"``', r"\1", text).replace("`None`", "none")
    return text.replace("`", "")


def _cited(match: re.Match[str]) -> str:
    before, kind, keys = match.groups(default="")
    names = re.sub(r"([a-z])(\d{4})\w*", r"\1 \2", keys)
    return f"{before}{names}" if before or kind == "t" else f"({names})"


class _Read(argparse.Action):
    """Store what follows an option as the argument that it is."""

    def __init__(self, *args: Any, option: Option, **kwargs: Any) -> None:
        self.option = option
        super().__init__(*args, **kwargs)

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: Any, values: Any, flag: Any = None
    ) -> None:
        if isinstance(values, list) and len(values) == 1:
            (values,) = values
        try:
            setattr(namespace, self.dest, self.option.read(values))
        except ValueError as error:
            raise argparse.ArgumentError(self, str(error)) from error


def add_options(group: Any, options: Mapping[str, Option], *, optional: Container[str]) -> None:
    """Add options to a parser or a group of one; those that are `optional` need not be given."""
    for option in options.values():
        required = option.is_required and option.name not in optional
        common: dict[str, Any] = {
            "default": argparse.SUPPRESS,
            "help": option.help.replace("%", "%%"),
        }
        if option.by_position:
            nargs = "*" if option.is_rest else None if required else "?"
            metavar = option.name.upper()
            group.add_argument(option.name, metavar=metavar, nargs=nargs, **common)
            continue
        common |= {"dest": option.name, "required": required}
        if option.is_switch:
            group.add_argument(option.flag, action=argparse.BooleanOptionalAction, **common)
        else:
            several = option._items is not None or option._takes_pairs
            common |= {"nargs": "*" if several else None, "metavar": option.metavar}
            group.add_argument(option.flag, action=_Read, option=option, **common)


def each_once(groups: Groups) -> Groups:
    """The groups without options that an earlier one has."""
    found: Groups = {}
    for title, options in groups.items():
        before = {name for group in found.values() for name in group}
        found[title] = {name: option for name, option in options.items() if name not in before}
    return found


def read_configuration(path: str) -> dict[str, Any]:
    """Options in a YAML file, as the text that could be typed in their place."""
    import yaml  # type: ignore[import-untyped]

    file = Path(path).expanduser()
    if not file.is_file():
        raise FileNotFoundError(f"There is no file {file}.")
    try:
        # All scalars as text: `off` is a word here, not a truth value.
        found = yaml.load(file.read_text(encoding="utf-8"), Loader=yaml.BaseLoader) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        why = " ".join(str(error).split())
        raise ValueError(f"{path} cannot be read as YAML: {why}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} must hold options, one a line, such as `n_latent: 64`.")
    return {str(name).replace("-", "_"): value for name, value in found.items()}


def write_configuration(given: Mapping[str, Any], groups: Groups) -> str:
    """What :func:`read_configuration` reads; what was not given is a comment with its default."""
    import yaml

    lines = []
    for title, options in groups.items():
        lines += [f"\n# {title}"] if title else []
        for name, option in options.items():
            value = given.get(name, option.default)
            value = list(value) if isinstance(value, tuple) else value
            text = "" if value is _REQUIRED else yaml.safe_dump(value, default_flow_style=True)
            lines.append(
                f"{'' if name in given else '# '}{name}: {text.partition('\n...')[0].strip()}"
            )
    return "\n".join(lines) + "\n"
