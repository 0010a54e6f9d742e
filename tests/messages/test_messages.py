"""What messages tell to type is typed."""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path

import pytest

import scssl

from . import all_cases, follow, told_in, trigger
from ._data import with_a_hub
from ._page import PAGE, page

CASES = all_cases()
SOURCE = Path(scssl.__file__).parent
# Code to type that stands outside of backticks: a statement, a call, or an argument after a verb.
BARE = re.compile(
    r"\b(adata|query|reference|mdata|model|scores)[.\w]*(\[[^]]*\])? = "
    r"|\bsc\.\w+\.\w+|\bscssl\.\w+\.[\w.]+\(|\bmodel\.\w+\(|\b(setup|from_ssl)_\w+\((?!\))"
    r"|\bnp\.\w+\(|\bpip install|\bscssl (demo|train|embed|convert|--help) "
    r"|\bmdata\.update\(|\w\.(tocsr|astype|obs_names_make_unique|compute_chunk_sizes)\("
    r"|(\b([Pp]ass|[Gg]ive|[Tt]ake|[Ss]ay|[Ss]et|[Uu]se|[Tt]ry|[Nn]ame|or|instance|such as)\b|:)"
    r"\W(\w+\W+){0,2}?\w+=(?!=)|\b\w+=(\.\.\.|\[\.\.\.)"
)


@pytest.fixture(autouse=True, scope="module")
def _hub():
    with with_a_hub():
        yield


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    """Cases write files where they are."""
    monkeypatch.chdir(tmp_path)


@functools.cache
def shown(case):
    """What is said to the code of a case."""
    names, code = case.make()
    said = trigger(names, code)
    assert said, f"nothing was said of: {code}"
    return said


@pytest.mark.parametrize("case", CASES, ids=[one.name for one in CASES])
def test_what_is_told_works(case):
    said = shown(case)
    first = next((one for one in said if told_in(one.message)), None)
    assert first is not None, f"nothing to type in: {said}"
    lines = told_in(first.message)
    ways = [lines] if case.ways == "all" else [[line] for line in lines]
    for way in ways:
        names, code = case.make()
        if case.ways == "instead":
            code = way.pop()
        for line in way:
            code = follow(names, code, line, first.message)
        again = trigger(names, code)
        errors = [one for one in again if one.error is not None]
        if errors:
            raise AssertionError(f"{way} did not mend it: {errors}") from errors[0].error
        assert first.message not in [one.message for one in again], way


def literals():
    """Texts of the source: their place, the text, and a pattern of what is shown."""
    for path in sorted(SOURCE.rglob("*.py")):
        place = str(path.relative_to(SOURCE))
        tree = ast.parse(path.read_text())
        documented = {id(one.value) for one in ast.walk(tree) if isinstance(one, ast.Expr)}
        inside = {
            id(part)
            for one in ast.walk(tree)
            if isinstance(one, ast.JoinedStr)
            for part in ast.walk(one)
            if part is not one
        }
        for one in ast.walk(tree):
            if id(one) in documented | inside:
                continue
            parts = [one] if isinstance(one, ast.Constant) else getattr(one, "values", [])
            if not isinstance(one, (ast.Constant, ast.JoinedStr)):
                continue
            fixed = [getattr(part, "value", None) for part in parts]
            fixed = [part if isinstance(part, str) else None for part in fixed]
            # What is filled in is not known here; a name makes code of what is code.
            text = "".join("x" if part is None else part for part in fixed)
            # Double backticks are the markup of documentation.
            if (" " in text or "`" in text) and "``" not in text:
                pattern = "".join(".*?" if part is None else re.escape(part) for part in fixed)
                yield f"{place}:{one.lineno}", text, pattern


def _is_code(text):
    return bool(told_in(f"`{text}`")) and "\\" not in text


def test_every_line_is_run():
    said = [one.message for case in CASES for one in shown(case)]
    missing = [
        place
        for place, text, pattern in literals()
        if any(map(_is_code, re.findall(r"`([^`]+)`", text)))
        and not any(re.search(pattern, message, re.DOTALL) for message in said)
    ]
    assert not missing, f"tell something to type, and no case of tests/messages shows it: {missing}"


def test_every_line_is_in_backticks():
    # Examples on a model's card are code and no messages.
    cards = "model/base/_folder.py"
    bare = [
        (place, found[0])
        for place, text, _ in literals()
        if not place.startswith(cards)
        # Indented lines of the help are code that stands by itself.
        and (found := BARE.search(re.sub(r"`[^`]*`|^  .*", "`", text, flags=re.MULTILINE)))
        and text.count("`") % 2 == 0
        # The text of a line, which stands in backticks where it is told.
        and found.start() > 0
        and not _is_code(text)
    ]
    assert not bare, f"tell something to type outside of backticks, where it is not run: {bare}"


def test_the_page_of_the_docs_is_made_of_these_messages():
    made = page([(case, case.make()[1], shown(case)) for case in CASES])
    assert PAGE.read_text() == made, "write it again: python -m tests.messages._page"


def test_titles_are_headings_of_their_own():
    titles = [one.title for one in CASES]
    assert len(set(titles)) == len(titles)


def test_packages_that_are_told_to_install_are_declared():
    follow({}, "", "pip install 'scssl[published]'")
    follow({}, "", 'pip install --upgrade "torch>=2.10"')
    # Of an extra, and of none.
    for line in ("pip install pyarrow", "pip install 'scssl[nothing]'"):
        with pytest.raises(AssertionError):
            follow({}, "", line)


def test_an_option_takes_the_place_of_its_like():
    code = "scssl train cells.h5ad --layer a b --out d"
    assert follow({}, code, "--layer counts").endswith("cells.h5ad --out d --layer counts")
    assert follow({}, code, "--overwrite") == f"{code} --overwrite"
