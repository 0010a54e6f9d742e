"""The table of mutants is one of this source; `make mutants` runs it."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

from .run import ROOT, broken
from .table import MUTANTS

NAMES = [mutant.name for mutant in MUTANTS]


@cache
def functions(path: Path) -> dict[str, ast.FunctionDef]:
    nodes = ast.walk(ast.parse(path.read_text()))
    return {node.name: node for node in nodes if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("mutant", MUTANTS, ids=NAMES)
def test_it_can_be_applied(mutant):
    path, changed = broken(mutant, ROOT / "src" / "scssl")
    assert ast.dump(ast.parse(changed)) != ast.dump(ast.parse(path.read_text()))


@pytest.mark.parametrize("mutant", MUTANTS, ids=NAMES)
def test_its_tests_are_there_and_fast(mutant):
    for test in mutant.tests:
        path, *_, function = test.split("::")
        found = functions(ROOT / "tests" / path)[function.partition("[")[0]]
        assert not any("slow" in ast.unparse(mark) for mark in found.decorator_list), test


def test_names_differ():
    assert len(set(NAMES)) == len(NAMES)
