"""Benchmarks are run by hand, so that what they take from scssl is tried here."""

from __future__ import annotations

import ast
import importlib
import sys
from collections.abc import Iterator
from functools import reduce
from pathlib import Path

import pytest

import scssl

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def on_path() -> Iterator[None]:
    """The scripts import each other; afterwards their names are free again."""
    before = set(sys.modules)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        yield
    for path in BENCHMARKS.glob("*.py"):
        if path.stem not in before:
            sys.modules.pop(path.stem, None)


@pytest.mark.parametrize("path", sorted(BENCHMARKS.glob("*.py")), ids=lambda path: path.stem)
@pytest.mark.usefixtures("on_path")
def test_what_a_benchmark_takes_from_scssl_is_there(path: Path):
    importlib.import_module(path.stem)
    # Also what is imported, or named, only when a function runs.
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "scssl":
            module = importlib.import_module(str(node.module))
            for alias in node.names:
                assert hasattr(module, alias.name), f"{node.module}.{alias.name}"
        elif isinstance(node, ast.Attribute) and ast.unparse(node).startswith("scssl."):
            names = ast.unparse(node).split(".")[1:]
            if all(map(str.isidentifier, names)):
                reduce(getattr, names, scssl)


@pytest.mark.usefixtures("on_path")
def test_what_runs_where_there_is_a_gpu(capsys):
    gpu = importlib.import_module("gpu")
    words = (
        "--device cpu --genes 60 --cells 200 --batch 50 --seconds 0.05 --families MaskedAutoencoder"
    )
    gpu.main(words.split())
    said = capsys.readouterr().out
    assert "failed" not in said
    for row in ("| 0.0e+00 ", "| dense loop ", "| scvi-tools SCVI ", "| bf16-mixed "):
        assert row in said
    gpu.main([*words.split(), "--minutes", "0"])
    assert "No time was left for MaskedAutoencoder" in capsys.readouterr().out
