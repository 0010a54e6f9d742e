from __future__ import annotations

import ast
import json
import logging
import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
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
    {"published"},
    {"model"},
    {"hub", "train"},
    {"module"},
    {"objective", "augment"},
    {"nn", "data"},
]
# Private modules and folders beside the namespaces are the ground that all stand on.
GROUND = {path.stem for path in SOURCE.glob("_*")} - {"__init__", "__pycache__"}
# Families of models, which know what all have in common and not each other.
FAMILIES = {path.parent.name for path in SOURCE.glob("model/*/__init__.py")} - {"base"}
# Names that may be taken from another package's private files.
MAX_PRIVATE = 0


def ground_of(path: Path) -> str:
    return path.relative_to(SOURCE).with_suffix("").parts[0]


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


def imports(path: Path, source: Path = SOURCE, *, typing: bool = True) -> set[str]:
    """Full names of all that a source file imports, at any depth of its code.

    With `typing` also what only type checkers import.
    """
    package = ".".join(["scssl", *path.relative_to(source).parts[:-1]])
    names: set[str] = set()
    tree = ast.parse(path.read_text())
    if not typing:
        for node in ast.walk(tree):
            if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
                node.body = []
    for node in ast.walk(tree):
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
    "path",
    sorted(path for path in SOURCE.rglob("*/*.py") if ground_of(path) not in GROUND),
    ids=lambda p: str(p.relative_to(SOURCE)),
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
    paths = [path for name in GROUND for path in SOURCE.rglob("*.py") if ground_of(path) == name]
    assert {part for path in paths for part in imported_by(path)} <= GROUND | {"__version__"}


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_families_do_not_know_each_other(family: str):
    others = tuple(f"scssl.model.{name}." for name in FAMILIES - {family})
    for path in (SOURCE / "model" / family).rglob("*.py"):
        assert not [name for name in imports(path) if f"{name}.".startswith(others)], path
    known = {name for path in (SOURCE / "model/base").rglob("*.py") for name in imports(path)}
    assert not [name for name in known if f"{name}.".startswith(f"scssl.model.{family}.")]


def test_rooms_are_entered_through_their_doors():
    """Another package is known by what its ``__init__`` names, not by its private files."""
    private = []
    for path in SOURCE.rglob("*/*.py"):
        own = path.relative_to(SOURCE).parts[0]
        for name in imports(path):
            parts = name.split(".")
            if parts[0] != "scssl" or len(parts) < 3 or parts[1] == own or parts[1] in GROUND:
                continue
            if any(part.startswith("_") for part in parts[2:]):
                private.append(f"{path.relative_to(SOURCE)}: {name}")
    assert len(private) <= MAX_PRIVATE, "\n".join(private)


def import_graph() -> dict[str, set[str]]:
    """Files that each file imports when it runs, through the doors of packages to what is behind."""
    modules = {
        ".".join(["scssl", *path.relative_to(SOURCE).with_suffix("").parts]).removesuffix(
            ".__init__"
        ): path
        for path in SOURCE.rglob("*.py")
    }
    doors = {
        f"{package}.{name.rsplit('.', 1)[1]}": name
        for package, path in modules.items()
        if path.name == "__init__.py"
        for name in imports(path)
        if name.startswith(f"{package}.")
    }

    def file_of(name: str) -> str | None:
        while name in doors and doors[name] != name:
            name = doors[name]
        while name and name not in modules:
            name = name.rpartition(".")[0]
        return name or None

    return {
        module: {file_of(name) for name in imports(path, typing=False) if name.startswith("scssl.")}
        - {None, module}
        for module, path in modules.items()
        if path.name != "__init__.py"
    }


def test_no_file_imports_itself_by_a_detour():
    graph = import_graph()
    # Packages are doors: what a file takes through them is in the graph under its own file.
    graph = {file: {one for one in found if one in graph} for file, found in graph.items()}
    assert graph["scssl.model.base._model"] & {"scssl.module._base", "scssl.model.base._setup"}
    while free := [file for file, found in graph.items() if not found]:
        graph = {file: found - set(free) for file, found in graph.items() if file not in free}
    assert not graph, {file: sorted(found) for file, found in graph.items()}


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


def test_no_data_are_in_the_tree():
    """Neither those of the tests that use them, nor what an example leaves behind."""
    git = ["git", "-C", str(ROOT), "ls-files"]
    listed = subprocess.run(git, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("this is no checkout")
    ends = (".h5ad", ".h5mu", ".h5", ".zarr", ".ckpt", ".partial")
    parts = {part for name in listed.stdout.splitlines() for part in name.split("/")}
    assert "pyproject.toml" in parts
    assert not [part for part in parts if part.endswith(ends)]


def test_what_is_imported_is_declared():
    """Packages that only come along with others may go with them."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [one for extra in project["optional-dependencies"].values() for one in extra]
    declared = {re.split(r"[^\w-]", one)[0] for one in [*project["dependencies"], *extras]}
    packages = packages_distributions()
    # k-means by faiss is used where it is installed, and dask is where a matrix is an array of it; the packages
    # of two are concord-sc and tangram-sc.
    known = {"scssl", "faiss", "dask", "concord", "tangram", *sys.stdlib_module_names}
    imported = {name.split(".")[0] for path in SOURCE.rglob("*.py") for name in imports(path)}
    for module in imported - known:
        found = packages.get(module, [module.replace("_", "-")])
        assert {name.lower().replace("_", "-") for name in found} & declared, module


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
        # Of processes that train together, one says what all find, and each what goes wrong.
        code += "; logging.getLogger('scssl').warning('wrong')"
        environment = {**os.environ, "RANK": "1"}
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, env=environment
        )
        assert done.stderr.splitlines() == (["own hello", "own wrong"] if own else ["wrong"])

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


def test_the_citation_is_of_this_version():
    import yaml

    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert cited["version"] == project["version"]
    assert cited["license"] == project["license"]


def test_the_workflow_does_what_ci_does_here():
    """Every target that `.ci/run` makes, on every Python that the package says it runs on."""
    import yaml

    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    steps = [step.get("run", "") for job in workflow["jobs"].values() for step in job["steps"]]
    here = set(re.findall(r"\bmake (\w+)", (ROOT / ".ci/run").read_text())) - {"install"}
    assert here <= set(re.findall(r"\bmake ([\w-]+)", " ".join(steps)))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    listed = [one.rpartition(":: ")[2] for one in project["classifiers"]]
    pythons = [one for one in listed if re.fullmatch(r"3\.\d+", one)]
    assert workflow["jobs"]["test"]["strategy"]["matrix"]["python"] == pythons
