"""Runs what a user typed, takes the code out of the message, and does what it says."""

from __future__ import annotations

import ast
import logging
import re
import shlex
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

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
    if _is_command(code) or _is_keywords(code):
        return True
    try:
        tree = ast.parse(code)
    except SyntaxError:
        return False
    doing = (ast.Call, ast.Assign, ast.Delete, ast.AugAssign)
    return any(isinstance(node, doing) for node in ast.walk(tree))


def follow(names: dict[str, Any], code: str, line: str, message: str = "") -> str:
    """Type a line; gives the user's code, changed where the line is arguments for it."""
    if _is_keywords(line):
        return _with_keywords(code, line, line_is_meant=f"Did you mean `{line}`?" in message)
    _run(names, line)
    return code


def _run(names: dict[str, Any], code: str) -> None:
    if _is_command(code):
        if code.startswith("scssl "):
            from scssl.cli import main

            status = main(shlex.split(code)[1:])
            assert not status, f"{code} ended with {status}"
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


def _is_command(code: str) -> bool:
    return code.startswith(("scssl ", "pip "))


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
