from __future__ import annotations

import ast
import json
import logging
import re
import subprocess
import sys
from importlib.util import resolve_name
from pathlib import Path

import pytest

import scssl
from scssl._settings import Settings

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "scssl"

# Higher floors first; a floor may import those below it only, never its neighbours.
FLOORS = [
    {"cli"},
    {"pl"},
    {"tl", "pp", "datasets"},
    {"model"},
    {"hub"},
    {"train"},
    {"module"},
    {"objective", "augment"},
    {"nn", "data"},
]
# Private modules beside the namespaces are the ground that all stand on.
GROUND = {path.stem for path in SOURCE.glob("_*.py")} - {"__init__"}


def run_python(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    return done.stdout


def test_import_is_light():
    loaded = json.loads(
        run_python("import json, sys, scssl; dir(scssl); print(json.dumps(list(sys.modules)))")
    )
    heavy = {"torch", "scvi", "scanpy", "lightning", "anndata", "pandas", "numpy"}
    assert "scssl" in loaded
    assert not heavy & set(loaded)


def test_namespaces():
    out = run_python(
        "import scssl\n"
        "for name in scssl.__all__: getattr(scssl, name)\n"
        "print(sorted(set(scssl.__all__) - set(dir(scssl))))"
    )
    assert out.strip() == "[]"


def test_version_is_the_one_of_pyproject():
    stated = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert stated is not None
    assert scssl.__version__ == stated[1]


def test_unknown_attribute():
    with pytest.raises(AttributeError, match="no attribute 'modle'"):
        scssl.modle  # noqa: B018


def imports(path: Path, source: Path = SOURCE) -> set[str]:
    """Full names of all that a source file imports, at any depth of its code."""
    package = ".".join(["scssl", *path.relative_to(source).parts[:-1]])
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            module = resolve_name("." * node.level + (node.module or ""), package)
            names |= {f"{module}.{alias.name}" for alias in node.names}
    return names


def imported_by(path: Path, source: Path = SOURCE) -> set[str]:
    """First-level parts of scssl that a source file imports."""
    return {name.split(".")[1] for name in imports(path, source) if name.startswith("scssl.")}


@pytest.mark.parametrize(
    "path", sorted(SOURCE.rglob("*/*.py")), ids=lambda p: str(p.relative_to(SOURCE))
)
def test_floors(path: Path):
    own = path.relative_to(SOURCE).parts[0]
    floor = next(i for i, names in enumerate(FLOORS) if own in names)
    allowed = set().union(*FLOORS[floor + 1 :], GROUND, {own, "__version__", "settings"})
    assert imported_by(path) <= allowed
    if own in {"nn", "objective", "augment"}:  # these know tensors only
        assert "data" not in imported_by(path)
        assert not {name.split(".")[0] for name in imports(path)} & {"anndata", "scanpy", "scvi"}


def test_ground_stands_on_nothing():
    assert {part for name in GROUND for part in imported_by(SOURCE / f"{name}.py")} <= GROUND | {
        "__version__"
    }


def test_imports_are_seen(tmp_path: Path):
    """The floor test is worth nothing if it overlooks a way of importing."""
    path = tmp_path / "nn" / "_x.py"
    path.parent.mkdir()
    path.write_text(
        "import scssl.model\nfrom scssl import pl\nfrom scssl.tl import embed\nfrom ..hub import x\n"
        "from .. import cli\nfrom . import _y\nfrom ._z import w\nimport numpy\n"
        "def f():\n    from ..train._plan import q\n"
    )
    assert imported_by(path, tmp_path) == {"model", "pl", "tl", "hub", "cli", "nn", "train"}


def test_readme_commands_are_in_the_makefile():
    commands = re.findall(
        r"^(?:\$ )?make ([a-z-]+)", (ROOT / "README.md").read_text(), re.MULTILINE
    )
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert commands[:2] == ["demo", "test"]
    assert set(commands) <= targets


class TestSettings:
    def test_override_is_undone(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.delenv("SCSSL_DATA_DIR", raising=False)
        settings = Settings()
        with (
            pytest.raises(RuntimeError),
            settings.override(progress=False, data_dir="x", verbosity="error"),
        ):
            assert settings.progress is False
            assert logging.getLogger("scssl").level == logging.ERROR
            raise RuntimeError
        assert settings.progress is True
        assert settings.data_dir is None
        assert logging.getLogger("scssl").level == logging.INFO

    def test_data_dir(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
        settings = Settings()
        monkeypatch.delenv("SCSSL_DATA_DIR", raising=False)
        assert settings.data_dir is None
        monkeypatch.setenv("SCSSL_DATA_DIR", "~/cells")
        assert settings.data_dir == Path.home() / "cells"
        settings.data_dir = tmp_path
        assert settings.data_dir == tmp_path

    @pytest.mark.parametrize("own", [True, False])
    def test_messages_are_seen_once(self, own: bool):
        """On stderr by themselves; by the program's own handler alone where it has one."""
        basic = "logging.basicConfig(format='own %(message)s');" if own else ""
        code = f"import logging, scssl; {basic} logging.getLogger('scssl').info('hello')"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert done.stderr.splitlines() == (["own hello"] if own else ["hello"])

    @pytest.mark.parametrize(
        ("name", "value", "error"),
        [
            ("verbosity", "loud", ValueError),
            ("progress", 1, TypeError),
            ("sead", 0, AttributeError),
        ],
    )
    def test_bad_values(self, name: str, value: object, error: type[Exception]):
        settings = Settings()
        with pytest.raises(error, match=name), settings.override(**{name: value}):
            pass
