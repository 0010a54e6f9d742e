"""Runs what a user typed, takes the code out of the message, and does what it says."""

from __future__ import annotations

import ast
import io
import logging
import re
import shlex
import tomllib
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

from packaging.requirements import Requirement

CASES: dict[str, Case] = {}


@dataclass(frozen=True)
class Case:
    """A message, by the data that triggers it."""

    chapter: str
    title: str
    make: Callable[[], tuple[dict[str, Any], str]]
    ways: str

    @property
    def name(self) -> str:
        """Of the test."""
        return f"{self.make.__module__.rpartition('.')[2]}.{self.make.__name__}"


@dataclass(frozen=True)
class Outcome:
    """What a user sees."""

    category: str
    message: str
    error: BaseException | None = None


def case(chapter: str, title: str, *, ways: str = "each") -> Callable:
    """Register a function that gives the user's names and code."""

    def register(make: Callable[[], tuple[dict[str, Any], str]]) -> Callable:
        assert ways in {"each", "all", "instead"}
        made = Case(chapter, title, make, ways)
        CASES[made.name] = made
        return make

    return register


def trigger(names: dict[str, Any], code: str) -> list[Outcome]:
    """Errors, warnings and what is logged by scssl that the code gives; nothing else may go wrong."""
    from scssl._errors import ScsslWarning

    if code.startswith("scssl "):
        return _said_by_command(code)
    with warnings.catch_warnings(record=True) as caught, _logged() as logged:
        warnings.simplefilter("always")
        error = None
        try:
            _run(names, code)
        except (
            ValueError,
            TypeError,
            KeyError,
            AttributeError,
            ImportError,
            OSError,
            RuntimeError,
        ) as one:
            error = one
    said = [
        Outcome("warning", str(one.message))
        for one in caught
        if issubclass(one.category, ScsslWarning)
    ]
    said += [Outcome("log", text) for text in logged]
    if error is None:
        return said
    return [Outcome(type(error).__name__, str(error), error), *said]


def _said_by_command(code: str) -> list[Outcome]:
    """What a command writes of its errors and warnings; they begin with its name."""
    status, text = _type_command(code)
    said = []
    for kind, message in re.findall(
        r"^scssl: (error|warning): (.*?)\s*(?=\Z|^scssl: )", text, re.DOTALL | re.MULTILINE
    ):
        error = ValueError(message) if kind == "error" else None
        said.append(Outcome(f"scssl: {kind}", message, error))
    assert bool(status) == any(one.error is not None for one in said), f"{code}: {status}, {text}"
    return said


def _type_command(code: str) -> tuple[int, str]:
    """Exit status of ``scssl ...``, trained for an epoch, and what it writes of its errors and warnings."""
    import scssl
    from scssl.cli import main

    with (
        redirect_stdout(io.StringIO()),
        redirect_stderr(io.StringIO()) as written,
        patch.object(scssl.model.MaskedAutoencoder, "_train_defaults", _in_one_epoch()),
    ):
        try:
            status = main(shlex.split(code)[1:])
        except SystemExit as stop:
            status = int(stop.code or 0)
    return status, written.getvalue()


def _in_one_epoch() -> Callable[..., dict[str, Any]]:
    import scssl

    usual = scssl.model.MaskedAutoencoder._train_defaults
    return lambda model, n_cells: {**usual(model, n_cells), "max_epochs": 1}


def _check_installable(code: str) -> None:
    """That what ``pip install ...`` names is what the package declares that it needs."""
    pyproject = Path(__file__).parents[2] / "pyproject.toml"
    project = tomllib.loads(pyproject.read_text())["project"]
    needed = {one.name: one for one in map(Requirement, project["dependencies"])}
    for word in [word for word in shlex.split(code)[2:] if not word.startswith("-")]:
        asked = Requirement(word)
        if asked.name == project["name"]:
            assert asked.extras <= set(project["optional-dependencies"]), f"no such extra: {code}"
        else:
            assert asked.name in needed, (
                f"{asked.name} is of an extra, which is to be named: {code}"
            )


@contextmanager
def _logged() -> Iterator[list[str]]:
    """What is logged, at the level of a user who wants to know."""
    texts: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            texts.append(record.getMessage())

    logger, keep = logging.getLogger("scssl"), Keep()
    level = logger.level
    logger.addHandler(keep)
    logger.setLevel(logging.INFO)
    try:
        yield texts
    finally:
        logger.removeHandler(keep)
        logger.setLevel(level)


def told_in(message: str) -> list[str]:
    """The code in backticks that is something to type, and not a name."""
    return [code for code in re.findall(r"`([^`]+)`", message) if is_line(code)]


def is_line(code: str) -> bool:
    """Whether it is a statement, arguments or a command."""
    if is_command(code) or _is_keywords(code) or _is_option(code):
        return True
    try:
        tree = ast.parse(code)
    except SyntaxError:
        return False
    doing = (ast.Call, ast.Assign, ast.Delete, ast.AugAssign, ast.Import)
    return any(isinstance(node, doing) for node in ast.walk(tree))


def follow(names: dict[str, Any], code: str, line: str, message: str = "") -> str:
    """Type a line; gives the user's code, changed where the line is arguments for it."""
    if _is_option(line):
        return _with_option(code, line)
    if _is_keywords(line):
        return _with_keywords(code, line, line_is_meant=f"Did you mean `{line}`?" in message)
    _run(names, line)
    return code


def _run(names: dict[str, Any], code: str) -> None:
    if code.startswith("pip "):
        _check_installable(code)
        return
    if code.startswith("scssl "):
        status, text = _type_command(code)
        assert not status, f"{code} ended with {status}: {text}"
        return
    import anndata
    import numpy as np
    import pandas as pd
    import scanpy as sc

    import scssl

    known = {"scssl": scssl, "np": np, "pd": pd, "sc": sc, "anndata": anndata}
    for name, module in known.items():
        names.setdefault(name, module)
    exec(compile(code, "<user>", "exec"), names)


def is_command(code: str) -> bool:
    """Whether it is typed into a shell."""
    return code.startswith(("scssl ", "pip "))


def _is_option(code: str) -> bool:
    return re.match(r"--\w", code) is not None


def _with_option(code: str, line: str) -> str:
    """The command, with an option in place of the one of that name or at its end."""
    words, (flag, *values) = shlex.split(code), shlex.split(line)
    if flag in words:
        start = words.index(flag)
        stop = start + 1
        while stop < len(words) and not words[stop].startswith("--"):
            stop += 1
        del words[start:stop]
    return shlex.join([*words, flag, *values])


def _is_keywords(code: str) -> bool:
    return re.match(r"\w+=[^=]", code) is not None


def _with_keywords(code: str, line: str, *, line_is_meant: bool = False) -> str:
    """The outermost call of the last statement, with these arguments."""
    tree = ast.parse(code)
    last: Any = tree.body[-1]
    call = last.value
    assert isinstance(call, ast.Call), f"no call to give {line} to: {code}"
    given = ast.parse(f"f({line})", mode="eval").body
    assert isinstance(given, ast.Call)
    new = {one.arg for one in given.keywords}
    kept = [one for one in call.keywords if one.arg not in new]
    # "Did you mean" tells the same value under another name.
    told = {ast.unparse(one.value) for one in given.keywords}
    if line_is_meant:
        kept = [one for one in kept if ast.unparse(one.value) not in told]
    call.keywords = kept + given.keywords
    return ast.unparse(tree)
