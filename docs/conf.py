"""Sphinx configuration. `make docs` builds with warnings as errors and needs no network."""

from __future__ import annotations

import builtins
import os
import re
import sys
import tempfile
from datetime import datetime
from importlib.metadata import metadata
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.ext.autosummary.generate import generate_autosummary_docs

sys.path.insert(0, str(Path(__file__).parent))
import names

# -- Project ---------------------------------------------------------------------------------

info = metadata("scssl")
project = info["Name"]
author = info["Author"]
copyright = f"{datetime.now():%Y}, {author}"
version = release = info["Version"]

# -- General ---------------------------------------------------------------------------------

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx_autodoc_typehints",
    "sphinx_copybutton",
    "sphinxcontrib.bibtex",
]
needs_sphinx = "8.2"
templates_path = ["_templates"]
exclude_patterns = ["_build", "Thumbs.db", ".DS_Store", "**.ipynb_checkpoints"]
bibtex_bibfiles = ["references.bib"]
bibtex_reference_style = "author_year"
default_role = "literal"
copybutton_prompt_text = r"\$ |>>> |\.\.\. "
copybutton_prompt_is_regexp = True

# -- Markdown and notebooks --------------------------------------------------------------------

myst_enable_extensions = ["amsmath", "colon_fence", "deflist", "dollarmath", "substitution"]
myst_substitutions = names.substitutions()
myst_heading_anchors = 3
# Figures and tables in the pages are made by the version they document.
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 300
nb_merge_streams = True

# -- API ---------------------------------------------------------------------------------------

# Beside a class page its methods, without its name before each.
toc_object_entries_show_parents = "hide"
autosummary_generate = True
autosummary_ignore_module_all = False
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True}
napoleon_google_docstring = False
napoleon_use_rtype = True
napoleon_use_param = True
typehints_defaults = "braces"
always_use_bars_union = True

# -- Links to other projects -------------------------------------------------------------------

nitpicky = True
upstream = {
    "anndata": "https://anndata.readthedocs.io/en/stable/",
    "h5py": "https://docs.h5py.org/en/stable/",
    "lightning": "https://lightning.ai/docs/pytorch/stable/",
    "matplotlib": "https://matplotlib.org/stable/",
    "numpy": "https://numpy.org/doc/stable/",
    "pandas": "https://pandas.pydata.org/docs/",
    "python": "https://docs.python.org/3/",
    "scanpy": "https://scanpy.readthedocs.io/en/stable/",
    "scipy": "https://docs.scipy.org/doc/scipy/",
    "scvi": "https://docs.scvi-tools.org/en/stable/",
    "torch": "https://docs.pytorch.org/docs/stable/",
}
# Set by Read the Docs; here there may be no network.
if os.environ.get("READTHEDOCS") or os.environ.get("SCSSL_DOCS_INTERSPHINX"):
    extensions.append("sphinx.ext.intersphinx")
    intersphinx_mapping = {name: (url, None) for name, url in upstream.items()}
# Without the inventories a name of another package cannot be resolved; names of scssl always must.
_roots = "|".join(
    [
        *upstream,
        "argparse",
        "collections",
        "contextlib",
        "logging",
        "os",
        "pathlib",
        "types",
        "typing",
    ]
)
_builtin_names = "|".join(name for name in dir(builtins) if not name.startswith("_"))
nitpick_ignore_regex = [
    (r"py:.*", rf"({_roots})(\..*)?"),
    (r"py:.*", rf"({_builtin_names})"),
    # Private names have no page.
    (r"py:.*", r"(.*\.)?_\w+(\..*)?"),
]

# -- HTML --------------------------------------------------------------------------------------

html_theme = "sphinx_book_theme"
html_math_renderer = "mathml"
html_title = f"scssl {version}"
html_static_path = ["_static"]
html_css_files = ["scssl.css"]
html_show_sourcelink = False
# The side bar has the search; the header's would be a second one.
html_theme_options = {"show_navbar_depth": 1, "home_page_in_toc": False, "navbar_persistent": []}


# Methods that are there for scvi-tools, which calls them or has them for its own checkpoints.
_OF_SCVI_TOOLS = {"convert_legacy_save", "load_registry", "register_manager", "view_setup_args"}


def _is_inherited_from_upstream(
    app: Any, what: str, name: str, obj: Any, skip: bool, options: Any
) -> bool | None:
    """Leave out what a class inherits from other packages: their documentation has it."""
    # The table of a class asks by the kind of the member, its page by that of the class.
    in_class = what in {"class", "method", "property", "attribute"}
    # Without a docstring of its own, a `forward` would have that of torch.
    if in_class and (name in _OF_SCVI_TOOLS or (name == "forward" and not obj.__doc__)):
        return True
    function = next(
        (getattr(obj, name) for name in ("fget", "func", "__func__") if hasattr(obj, name)), obj
    )
    module = getattr(function, "__module__", None)
    if in_class and module is not None and not module.startswith("scssl"):
        return True
    return None


def _resolve_by_last_name(app: Any, env: Any, node: Any, contnode: Any) -> Any:
    """Find ``GeneVocabulary`` and ``scssl.data._vocabulary.GeneVocabulary`` under their public name.

    Docstrings use the short name, annotations know the private module of the definition.
    """
    target = node.get("reftarget", "")
    if node.get("refdomain") != "py" or not (target.startswith("scssl.") or "." not in target):
        return None
    domain = env.domains["py"]
    last = target.rpartition(".")[2]
    found = [name for name in domain.objects if name.rpartition(".")[2] == last]
    if len(found) != 1:
        return None
    return domain.resolve_xref(
        env, node["refdoc"], app.builder, node["reftype"], found[0], node, contnode
    )


_ACCENT = re.compile(r"\\(hat|tilde|bar)\s*(\{[^{}]*\}|\w)")


def _math(self: Any, node: Any) -> None:
    """Equations as MathML, which browsers draw by themselves: no script to fetch when reading."""
    # An accented letter in braces of its own, or its index would be set below it.
    tex = _ACCENT.sub(r"{\\\1{\2}{}}", node.astext())
    if isinstance(node, nodes.math_block):
        self.body.append(f'<div class="equation">{tex2mathml(tex, as_block=True)}</div>')
    else:
        self.body.append(tex2mathml(tex))
    raise nodes.SkipNode


def _deal_out(app: Any, env: Any, docnames: list[str]) -> None:
    """Spread the pages that are executed evenly, long ones first: every process of `-j` has its share.

    Sphinx cuts the list into a few pieces, in the order of the alphabet all executed pages in one.
    """
    texts = {name: env.doc2path(name).read_text() for name in docnames}
    executed = [
        name
        for name, text in texts.items()
        if "{code-cell}" in text and 'execution_mode: "off"' not in text
    ]
    executed.sort(key=lambda name: -len(texts[name]))
    others = [name for name in docnames if name not in executed]
    places = {(i * len(others)) // max(len(executed), 1): i for i in range(len(executed))}
    docnames[:] = []
    for i in range(len(others) + 1):
        docnames += [executed[places[i]]] if i in places else []
        docnames += others[i : i + 1]


def _pages_of_methods(app: Any) -> None:
    """Pages of the models that no file lists: autosummary looks for lists in files as they are."""
    with tempfile.TemporaryDirectory() as folder:
        listed = Path(folder) / "methods.rst"
        listed.write_text(names.autosummary(names.joint_embedding(), toctree=True))
        generate_autosummary_docs(
            [str(listed)], output_dir=str(Path(app.srcdir) / "generated"), app=app
        )


def setup(app: Any) -> None:
    app.connect("builder-inited", _pages_of_methods)
    app.connect("env-before-read-docs", _deal_out)
    app.add_html_math_renderer("mathml", (_math, None), (_math, None))
    app.connect("autodoc-skip-member", _is_inherited_from_upstream)
    app.connect("missing-reference", _resolve_by_last_name)
