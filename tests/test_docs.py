"""The documentation names what there is: every public name, every model."""

from __future__ import annotations

import ast
import importlib.util
import re
import warnings
from pathlib import Path

import pytest

import scssl

ROOT = Path(__file__).parents[1]

NAMESPACES = [name for name in scssl.__all__ if hasattr(getattr(scssl, name), "__path__")]
MODELS = scssl.model.list_models()

_spec = importlib.util.spec_from_file_location("names", ROOT / "docs/names.py")
names = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(names)


def page(path: str) -> str:
    """A page, with what Sphinx puts in the place of names in braces."""
    text = (ROOT / path).read_text(encoding="utf-8")
    for name, value in names.substitutions().items():
        text = text.replace(f"{{{{ {name} }}}}", value)
    return text


@pytest.mark.parametrize("namespace", NAMESPACES)
def test_the_api_page_has_every_public_name_and_no_other(namespace):
    listed = re.findall(rf"^   {namespace}\.(\w+)$", page("docs/api.md"), re.MULTILINE)
    assert len(listed) == len(set(listed))
    assert set(listed) == set(getattr(scssl, namespace).__all__)
    for name in listed:
        assert hasattr(getattr(scssl, namespace), name)


def test_the_api_page_has_a_block_for_every_namespace():
    text = page("docs/api.md")
    listed = set(re.findall(r"^   (\w+)\.\w+$", text, re.MULTILINE))
    assert listed == {*NAMESPACES, "_settings"}
    for namespace in NAMESPACES:
        assert f"`scssl.{namespace}`" in text
    single = set(re.findall(r"^   ([A-Z]\w+)$", text, re.MULTILINE))
    assert single == set(scssl.__all__) - {*NAMESPACES, "__version__", "settings"}


def test_every_registered_model_is_in_the_table_of_methods():
    text = page("docs/user_guide/index.md")
    assert not [name for name in MODELS if f"`{name}`" not in text]


def test_the_readme_has_every_family():
    text = page("README.md")
    families = set(MODELS) - set(names.joint_embedding())
    assert not [name for name in families if name not in text.replace(" ", "")]


@pytest.mark.parametrize(
    "path", ["docs/api.md", "docs/user_guide/index.md", "docs/user_guide/joint_embedding.md"]
)
def test_a_new_method_of_joint_embedding_is_in_every_list(path, monkeypatch):
    """Once it is registered, and without a page that is edited."""
    monkeypatch.setitem(
        scssl.model.base._registry._MODELS, "Zeta", type("Zeta", (scssl.model.JointEmbedding,), {})
    )
    assert "Zeta" in page(path)


DOCS = ROOT / "docs"
PAGES = sorted(path for path in DOCS.rglob("*.md") if not {"_build", "generated"} & set(path.parts))
every_page = pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(DOCS)))


def _without_code(text):
    return re.sub(r"^(```+).*?^\1|`[^`\n]*`", "", text, flags=re.MULTILINE | re.DOTALL)


def _anchors(path):
    """What a link may point to in a page: headings, as MyST names them, and labels."""
    text = re.sub(r"^(```+).*?^\1$", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#{1,3} (.+)$", text, re.MULTILINE)
    slugs = {re.sub(r"[^\w\- ]", "", one.lower()).replace(" ", "-") for one in headings}
    return slugs | set(re.findall(r"^\((.+)\)=$", text, re.MULTILINE))


def test_every_page_is_in_one_toctree():
    found = []
    for path in PAGES:
        for tree in re.findall(r"^```{toctree}\n(.*?)^```", path.read_text(), re.M | re.S):
            found += [(path.parent / one).resolve() for one in re.findall(r"^\S+\.md$", tree, re.M)]
    assert sorted(found) == sorted(set(PAGES) - {DOCS / "index.md"})


@pytest.mark.parametrize("folder", ["user_guide", "how_to", "tutorials"])
def test_an_index_says_what_its_pages_are_for(folder):
    index = page(f"docs/{folder}/index.md")
    for path in (DOCS / folder).glob("*.md"):
        links = (f"]({path.name})", f"](../{folder}/{path.name})")
        everywhere = index + page("docs/how_to/index.md")
        assert path.name == "index.md" or any(link in everywhere for link in links), path.name


@every_page
def test_links_to_pages_and_headings_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)\s]+)\)", _without_code(path.read_text())):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        there = (path.parent / file).resolve() if file else path
        assert there.exists(), f"{target}: there is no {there}"
        if anchor:
            assert anchor in _anchors(there), f"{target}: {sorted(_anchors(there))}"


@pytest.mark.parametrize("name", [path.stem for path in (DOCS / "tutorials").glob("*.md")])
def test_a_tutorial_is_downloaded_and_says_where_its_cells_are_from(name):
    text = page(f"docs/tutorials/{name}.md")
    if name == "index":
        return
    assert f"{{nb-download}}`the notebook <{name}.ipynb>`" in text
    # Cells that come with scanpy are real everywhere; others are simulated where there is no folder.
    assert "pbmc68k_reduced()" in text or 'print(adata.uns["source"])' in text


def _imported(code):
    tree = ast.walk(ast.parse(code))
    aliases = [
        one for node in tree if isinstance(node, ast.Import | ast.ImportFrom) for one in node.names
    ]
    return {(one.asname or one.name).split(".")[0] for one in aliases}


@pytest.mark.parametrize(
    "path", [one for one in PAGES if "{code-cell}" in one.read_text()], ids=lambda path: path.stem
)
def test_what_is_shown_does_not_need_an_import_that_is_not(path):
    hidden, shown, used = set(), set(), set()
    for options, code in re.findall(
        r"^```{code-cell}[^\n]*\n((?::[^\n]*\n)*)(.*?)^```", path.read_text(), re.M | re.S
    ):
        if "remove-cell" in options:
            hidden |= _imported(code)
        else:
            shown |= _imported(code)
            used |= {one.id for one in ast.walk(ast.parse(code)) if isinstance(one, ast.Name)}
    assert not used & hidden - shown


# --- the code of the how-to pages, of the landing page and of the readme -----------------------

BLOCKS = [
    (path.stem, number, code)
    for path in [*sorted((DOCS / "how_to").glob("*.md")), DOCS / "index.md", ROOT / "README.md"]
    for number, code in enumerate(
        re.findall(r"^```python\n(.*?)^```", path.read_text(), re.M | re.S)
    )
]


@pytest.fixture(scope="module")
def cells():
    adata = scssl.datasets.simulated(120, 40, n_types=3, n_proteins=4)
    adata.obs["known"] = adata.obs["cell_type"].astype(str)
    adata.obs.iloc[::2, adata.obs.columns.get_loc("known")] = "Unknown"
    return adata


@pytest.fixture(scope="module")
def saved(cells, tmp_path_factory):
    adata = cells.copy()
    scssl.model.MaskedAutoencoder.setup_anndata(adata)
    model = scssl.model.MaskedAutoencoder(adata)
    model.train(max_epochs=1, progress=False)
    folder = tmp_path_factory.mktemp("how_to")
    model.save(folder / "my_model")
    return folder


@pytest.mark.parametrize(
    ("name", "number", "code"), BLOCKS, ids=lambda one: str(one)[:20].split("\n")[0]
)
def test_lines_to_paste_work(name, number, code, cells, saved, monkeypatch, tmp_path):
    """Each block by itself, with the data that the pages speak of; models are trained for an epoch."""
    assert len(code.replace("\n\n", "\n").splitlines()) <= 10
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_model").symlink_to(saved / "my_model")
    if "save(" in code:
        (tmp_path / "my_model").unlink()
    for model in [scssl.model.SSLModel, *map(scssl.model.get_model_class, MODELS)]:
        if "_train_defaults" in vars(model):
            usual = model._train_defaults
            hurried = lambda self, n, usual=usual: {**usual(self, n), "max_epochs": 1}
            monkeypatch.setattr(model, "_train_defaults", hurried)
    monkeypatch.setattr("scssl.pl._embedding._umap", lambda values, *_: values[:, :2])
    usual_benchmark = scssl.tl.benchmark
    quick = {"seeds": 1, "progress": False}
    monkeypatch.setattr(
        scssl.tl, "benchmark", lambda *args, **kwargs: usual_benchmark(*args, **kwargs, **quick)
    )
    scssl.settings.progress = False
    new = cells.copy()
    new.obs_names = [f"new {one}" for one in new.obs_names]
    names = {"scssl": scssl, "adata": cells.copy(), "reference": cells.copy(), "query": new}
    if "read_h5ad(" in code:
        for name, one in {"cells": cells, "reference": cells, "query": new}.items():
            one.write_h5ad(tmp_path / f"{name}.h5ad")
    try:
        with warnings.catch_warnings():
            # Cells are few here, and an epoch teaches little: what scssl says of that is right.
            warnings.simplefilter("ignore", scssl.ScsslWarning)
            exec(compile(code, f"{name}, block {number}", "exec"), names)
    finally:
        scssl.settings.reset()
