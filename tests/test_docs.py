"""The documentation names what there is: every public name, every model."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import scssl

ROOT = Path(__file__).parents[1]

NAMESPACES = [name for name in scssl.__all__ if hasattr(getattr(scssl, name), "__path__")]
MODELS = scssl.model.list_models()
JOINT = [
    name
    for name in MODELS
    if issubclass(scssl.model.get_model_class(name), scssl.model.JointEmbedding)
]


def page(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


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


@pytest.mark.parametrize(
    ("path", "names"),
    [
        ("README.md", MODELS),
        ("docs/user_guide/index.md", MODELS),
        ("docs/user_guide/joint_embedding.md", JOINT),
    ],
)
def test_every_registered_model_is_in_the_lists(path, names):
    text = page(path).replace(" ", "")
    assert not [name for name in names if name not in text]


def test_every_page_of_the_user_guide_is_in_its_index():
    pages = {path.name for path in (ROOT / "docs/user_guide").glob("*.md")} - {"index.md"}
    index = page("docs/user_guide/index.md")
    assert set(re.findall(r"^\S+\.md$", index.split("```{toctree}")[1], re.MULTILINE)) == pages
    for name in pages:
        assert f"]({name})" in index
