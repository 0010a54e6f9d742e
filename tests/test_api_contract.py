"""Every public function of ``pp``, ``tl`` and ``pl`` keeps the conventions of scanpy and of scssl.

The signatures are read, and the functions are called, so that what the documentation promises
about results and about the user's data is what happens.
"""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from types import FunctionType

import anndata as ad
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

import scssl

FUNCTIONS = {
    f"{space}.{name}": getattr(getattr(scssl, space), name)
    for space in ("pp", "tl", "pl")
    for name in getattr(scssl, space).__all__
}
# What gives new data, with other genes, and leaves the data it is given as they are.
NEW = {"tl.impute"}
# A table of imputation with fewer and fewer genes.
IMPUTED = pd.DataFrame(
    {
        "method": list("abab"),
        "dropped": [0, 0, 0.5, 0.5],
        "seed": 0,
        "pearson": [0.3, 0.4, 0.2, 0.1],
    }
)
# What is given for an argument without a default, of whatever function.
ARGUMENTS = {
    "batch_key": "batch",
    "label_key": "label",
    "model": "model",
    "pred_key": "predicted",
}
# What a function needs besides, or instead.
CALLS = {
    "pp.cross_batch_neighbors": {"method": "mnn"},
    "pp.gene_programs": {"programs": {"all": [f"GENE{i}" for i in range(10)]}},
    "pp.map_orthologs": {
        "table": pd.DataFrame(
            {name: [f"GENE{i}" for i in range(40)] for name in ("mouse", "human")}
        ),
        "from_species": "mouse",
        "to_species": "human",
    },
    "pp.match_genes": {"reference": [f"GENE{i}" for i in range(20, 60)]},
    "pp.tf_targets": {"targets": {"GENE0": [f"GENE{i}" for i in range(20)]}},
    "tl.annotate": {"max_false_unknown": 0},
    "tl.batch_mixing": {"label_key": "label"},
    "tl.classify": {"classifier": "lr"},
    "tl.cluster_metrics": {"n_repeats": 2},
    "tl.domain_scores": {"domain_key": "label"},
    "tl.fuse": {"embeddings": ["X_ssl", "spatial"]},
    "tl.knn_score": {"n_permutations": 2},
    "tl.leave_one_dataset_out": {
        "n_labels_per_class": [2],
        "n_repeats": 1,
        "model_arguments": {"hidden_dims": (8,), "n_latent": 4, "n_rounds": 1},
        "train_arguments": {"max_epochs": 1},
        "finetune_arguments": {"max_epochs": 1},
    },
    "tl.benchmark": {
        "methods": "X_ssl",
        "tasks": "embedding",
        "label_key": "label",
        "min_cells": 2,
        "seeds": 1,
        "progress": False,
    },
    "tl.benchmark_summary": {"baseline": "a"},
    "tl.transfer_benchmark": {
        "arms": "zero-shot",
        "min_cells": 2,
        "seeds": 1,
        "progress": False,
    },
    "tl.impute": {"method": "pca_knn", "keep_measured": False, "n_neighbors": 5},
    "tl.impute_curve": {"methods": ["pca_knn"], "dropped": [0, 0.5], "n_neighbors": 5},
    "tl.n_domains": {"candidates": [2, 3], "n_repeats": 2},
    "tl.reconstruction_metrics": {"mask_rate": 0.5},
    "tl.predict_modality": {"modality": "X_ssl"},
    "tl.modality_scores": {"true_key": "X_ssl", "pred_key": "X_ssl"},
    "tl.spatial_domains": {"n_domains": 2, "include_self": False},
    "pl.domain_composition": {"domain_key": "label", "label_key": "batch"},
    "pl.embedding": {"color": "label"},
    "pl.calibration": {"label_key": "label", "pred_key": "predicted"},
    "pl.paired_scatter": {"metric": "accuracy", "x": "scratch", "y": "pretrained"},
    "pl.metric_bars": {"metrics": "accuracy"},
    "pl.label_transfer": {"pred_key": "predicted"},
    "pl.batch_mixing": {"name_key": "arm"},
    "pl.modality_scores": {"true_key": "X_ssl", "pred_key": "X_ssl"},
    "pl.augmentations": {"augmentation": "clear"},
    "pl.impute_curve": {"scores": IMPUTED},
    "pl.ablation": {"x": "depth", "y": "width", "method": "a"},
    "pl.spatial": {"color": "label"},
}
# Columns of ``var`` that are documented under another name than the key.
COLUMNS = {"mouse_gene"}
# Where parameters go in ``uns``, if not under the key itself: in the layout of another package.
IN_UNS = {"pp.spatial_neighbors": "{}_neighbors"}

# A table of scores, as evaluations return it.
SCORES = pd.DataFrame(
    {
        "dataset": list("abab"),
        "arm": ["scratch", "scratch", "pretrained", "pretrained"],
        "seed": 0,
        "accuracy": [0.7, 0.9, 0.8, 0.85],
        "mixed": 0.5,
        "types_kept": 0.7,
    }
)

# A table of a benchmark.
RESULTS = pd.DataFrame(
    {
        "data": "data",
        "task": "few_labels",
        "method": list("ababab"),
        "arguments": '{"depth": 2, "width": 8}',
        "split": "cell",
        "fold": "",
        "seed": [0, 0, 1, 1, 2, 2],
        "n_labels": "5",
        "metric": "macro_f1",
        "value": [0.7, 0.9, 0.8, 0.85, 0.7, 0.8],
        "seconds": 1.0,
    }
)

every_function = pytest.mark.parametrize("name", FUNCTIONS)


def parameters(name):
    return inspect.signature(FUNCTIONS[name]).parameters


# What is given first: the AnnData under test, or what stands for it.
FIRST = {name: next(iter(parameters(name))) for name in FUNCTIONS}
TABLES = [name for name in FUNCTIONS if FUNCTIONS[name].__annotations__["return"] == "pd.DataFrame"]
# What a function returns instead of changing the AnnData it is given: a measure.
# What fits methods anew for hours writes to a folder, and not to the cells.
MEASURES = [
    name
    for name in TABLES
    if FIRST[name] == "adata" and name not in ("tl.benchmark", "tl.transfer_benchmark")
]


def arguments(name):
    """With which to call it, besides what is given first and the query of a reference."""
    needed = [
        p.name
        for p in list(parameters(name).values())[1:]
        if p.default is p.empty
        and p.kind is not p.VAR_KEYWORD
        and p.name not in ("query", "reference")
    ]
    given = CALLS.get(name, {})
    return {key: ARGUMENTS[key] for key in needed if key not in given} | given


def sections(name):
    """Sections of a numpydoc docstring by title."""
    text = inspect.getdoc(FUNCTIONS[name])
    parts = re.split(r"^(\w+)\n-{3,}\n", text, flags=re.MULTILINE)
    return {"Summary": parts[0], **dict(zip(parts[1::2], parts[2::2], strict=True))}


def documented(name, section):
    return re.findall(r"^(\*{0,2}\w+)(?:, \w+)*(?: :.*)?$", sections(name)[section], re.MULTILINE)


def test_every_public_function_is_called_here():
    assert set(CALLS) <= set(FUNCTIONS)
    assert all(arguments(name).keys() <= parameters(name).keys() for name in FUNCTIONS)
    assert all(isinstance(function, FunctionType) for function in FUNCTIONS.values())


def test_namespaces_list_all_they_have():
    for space in ("pp", "tl", "pl", "datasets", "hub"):
        namespace = getattr(scssl, space)
        public = {
            name
            for name, value in vars(namespace).items()
            if not name.startswith("_") and getattr(value, "__module__", "").startswith("scssl")
        }
        house = public - set(namespace.__all__)
        assert set(namespace.__all__) <= public
        # What is there for the house is used by another package of it, or by a benchmark.
        assert not house or space in {"hub", "tl"}
        source = Path(scssl.__file__).parent
        files = [*source.rglob("*.py"), *(Path(__file__).parents[1] / "benchmarks").glob("*.py")]
        others = [p.read_text() for p in files if source / space not in p.parents]
        assert all(any(re.search(rf"\b{name}\b", text) for text in others) for name in house)


@every_function
def test_signature(name):
    function, found = FUNCTIONS[name], parameters(name)
    kinds = [p.kind for p in found.values()]
    positional = [p for p in found.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert len(positional) <= 3
    assert inspect.Parameter.VAR_POSITIONAL not in kinds
    firsts = {"adata", "reference", "query", "datasets", "model", "scores", "results"}
    assert FIRST[name] in firsts
    assert {"random_state", "seed", "inplace", "key", "obsm_key", "use_obsm"}.isdisjoint(found)
    assert set(function.__annotations__) == {*found, "return"}, "annotated completely"
    assert function.__module__.startswith(f"scssl.{name.split('.')[0]}._"), (
        "defined in a private module"
    )


@every_function
def test_shared_parameters_have_the_same_default_everywhere(name):
    defaults = {"copy": False, "rng": 0, "show": None, "save": None, "ax": None, "use_rep": "X_ssl"}
    found = parameters(name)
    if name.startswith("pp."):
        del defaults["use_rep"]  # what prepares the data comes before any embedding by a model
    if name == "pl.label_transfer":
        del defaults["use_rep"]  # it draws what labels were transferred in
    for parameter, default in defaults.items():
        if parameter in found:
            assert found[parameter].default == default
            assert found[parameter].kind is inspect.Parameter.KEYWORD_ONLY or parameter == "use_rep"


@every_function
def test_expected_parameters_are_there(name):
    found = parameters(name)
    space = name.split(".")[0]
    if space == "pl":
        assert {"show", "save", "ax"} <= set(found)
        assert "copy" not in found
    elif name in TABLES:
        # A table of many data sets is written into none of them.
        assert ("key_added" in found) == (name in MEASURES)
        assert "copy" not in found
    elif name in NEW:
        assert "key_added" in found
        assert "copy" not in found
    else:
        assert {"copy", "key_added"} <= set(found)


@every_function
def test_key_added_says_where_results_go(name):
    """In the signature, or, where it is named after another argument, in the description."""
    found = parameters(name)
    if "key_added" not in found:
        return
    default = found["key_added"].default
    if default is not None:
        assert isinstance(default, str)
        assert default
        return
    text = re.search(r"^key_added\n((?: .*\n?)+)", sections(name)["Parameters"], re.MULTILINE)[1]
    assert re.search(r'``.*"`` (by default|for `)', " ".join(text.split()))


@every_function
def test_return_annotation(name):
    expected = {"AnnData"} if name in NEW else {"AnnData | None", "pd.DataFrame"}
    if name.startswith("pl."):
        expected = {"Axes | list[Axes] | None"}
    assert FUNCTIONS[name].__annotations__["return"] in expected


@every_function
def test_docstring(name):
    assert {"Parameters", "Returns", "Raises", "Examples"} <= set(sections(name))
    assert ">>> " in sections(name)["Examples"]
    expected = [
        ("**" if p.kind is p.VAR_KEYWORD else "") + p.name for p in parameters(name).values()
    ]
    assert documented(name, "Parameters") == expected
    for line in sections(name)["Parameters"].splitlines():
        assert not re.match(r"\w+ : ", line), "types belong in the signature"


# --- behaviour ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data():
    """Counts of two cell types, with what an analysis usually leaves beside them."""
    generator = np.random.default_rng(0)
    labels = np.repeat(["B", "T"], 30)
    rate = np.where((labels == "B")[:, None], np.linspace(0.2, 3, 40), np.linspace(3, 0.2, 40))
    adata = ad.AnnData(generator.poisson(rate).astype(np.float32))
    adata.var_names = [f"GENE{i}" for i in range(40)]
    adata.obs_names = [f"cell{i}" for i in range(60)]
    adata.obs["label"] = pd.Categorical(labels)
    adata.obs["batch"] = pd.Categorical(np.resize(["first", "second"], 60))
    adata.layers["other"] = adata.X.copy()
    adata.obsm["X_ssl"] = generator.normal(size=(60, 4)).astype(np.float32)
    adata.obsm["X_umap"] = np.zeros((60, 2), dtype=np.float32)
    adata.obsm["spatial"] = generator.random((60, 2))
    adata.uns["neighbors"] = {"mine": 1}
    scssl.pp.spatial_neighbors(adata)
    scssl.tl.n_domains(adata, [2, 3], n_repeats=2)
    scssl.tl.label_transfer(reference_of(adata), adata, "label", key_added="predicted")
    return adata


def reference_of(adata):
    """Other cells with the same labels."""
    other = adata.copy()
    other.obs_names = [f"reference {name}" for name in adata.obs_names]
    other.obsm["X_ssl"] = adata.obsm["X_ssl"][:, ::-1].copy()
    other.X = np.roll(adata.X, 1, axis=1)
    return other


@pytest.fixture(scope="module")
def model(data):
    adata = data.copy()
    scssl.model.MaskedAutoencoder.setup_anndata(adata)
    model = scssl.model.MaskedAutoencoder(adata, hidden_dims=[16], n_latent=4)
    model.train(max_epochs=2, progress=False)
    return model


def call(name, adata, model, **kwargs):
    kwargs |= {
        key: model if isinstance(value, str) and value == "model" else value
        for key, value in arguments(name).items()
    }
    if name.startswith("pl."):
        kwargs = {"show": False, **kwargs}
    first = FIRST[name]
    if first in ("reference", "query"):
        reference = reference_of(adata) if isinstance(adata, ad.AnnData) else adata
        pair = (reference, adata) if first == "reference" else (adata, reference)
        return FUNCTIONS[name](*pair, **kwargs)
    if first == "datasets":
        parts = {"first": adata[:40].copy(), "second": adata[20:].copy()}
        data = scssl.data.Datasets(parts, obs_keys=["label"])
        return FUNCTIONS[name](data, **kwargs)
    given = {"model": model, "scores": SCORES.copy(), "results": RESULTS.copy()}.get(first, adata)
    given = kwargs.pop(first, given)
    return FUNCTIONS[name](given, **kwargs)


def is_under(column, key):
    """Whether a column of ``obs`` or ``var`` or a graph belongs to a key: ``key`` itself and ``key_...``."""
    return key is not None and (column == key or column.startswith(f"{key}_"))


def assert_untouched(adata, before, *, except_key=None):
    """Nothing but what is written under one key, and colours, is new."""
    np.testing.assert_array_equal(adata.X, before.X)
    np.testing.assert_array_equal(adata.layers["other"], before.layers["other"])
    own = [column for column in adata.obs if is_under(column, except_key)]
    pd.testing.assert_frame_equal(adata.obs.drop(columns=own), before.obs)
    own = [c for c in adata.var if is_under(c, except_key) or (except_key and c in COLUMNS)]
    pd.testing.assert_frame_equal(adata.var.drop(columns=own), before.var)
    assert all(is_under(key, except_key) for key in set(adata.obsp) - set(before.obsp))
    for slot in ("obsm", "varm", "uns"):
        now, then = getattr(adata, slot), getattr(before, slot)
        new = {key for key in set(now) - set(then) if not key.endswith("_colors")}
        assert new <= {except_key, *(form.format(except_key) for form in IN_UNS.values())}
        for key in set(then) - {except_key}:
            assert_same(now[key], then[key])


def assert_same(one, other):
    """Equal, with all that may be written."""
    if isinstance(one, dict):
        assert set(one) == set(other)
        for key in one:
            assert_same(one[key], other[key])
    elif isinstance(one, pd.DataFrame):
        pd.testing.assert_frame_equal(one, other)
    elif hasattr(one, "toarray"):
        assert type(one) is type(other)
        np.testing.assert_array_equal(one.toarray(), other.toarray())
    else:
        np.testing.assert_equal(one, other)


def written(adata, key):
    """All that was written under a key."""
    slots = {slot: getattr(adata, slot).get(key) for slot in ("obsm", "varm", "uns")}
    slots |= {form: adata.uns.get(form.format(key)) for form in IN_UNS.values()}
    graphs = {name: graph for name, graph in adata.obsp.items() if is_under(name, key)}
    columns = [column for column in adata.obs if is_under(column, key)]
    return {**slots, "obsp": graphs, "obs": adata.obs[columns]}


adata_functions = pytest.mark.parametrize(
    "name", [n for n in FUNCTIONS if FIRST[n] not in ("model", "scores", "results", "datasets")]
)
WRITERS = [n for n in FUNCTIONS if "key_added" in parameters(n) and n not in NEW]
writers = pytest.mark.parametrize("name", WRITERS)


@pytest.mark.parametrize("name", [n for n in FUNCTIONS if "key_added" not in parameters(n)])
def test_without_a_key_nothing_is_written(name, data, model):
    adata = data.copy()
    call(name, adata, model)
    assert_untouched(adata, data)


@writers
def test_only_the_documented_key_is_written(name, data, model):
    adata = data.copy()
    call(name, adata, model, key_added="mine")
    assert_untouched(adata, data, except_key="mine")
    assert IN_UNS.get(name, "{}").format("mine") in adata.uns


@writers
def test_a_key_that_no_file_can_have_is_refused_before_the_work(name, data, model):
    adata = data.copy()
    with pytest.raises(ValueError, match="key_added='a/b' is no key .*: `key_added='a_b'`"):
        call(name, adata, model, key_added="a/b")
    assert_untouched(adata, data)


@pytest.mark.parametrize("name", [n for n in FUNCTIONS if "copy" in parameters(n)])
def test_copy(name, data, model):
    adata = data.copy()
    assert call(name, adata, model, key_added="mine") is None
    untouched = data.copy()
    result = call(name, untouched, model, key_added="mine", copy=True)
    assert isinstance(result, ad.AnnData)
    assert result is not untouched
    assert_untouched(untouched, data)
    for slot in ("obs", "obsm", "obsp", "varm", "uns"):
        assert set(getattr(result, slot)) == set(getattr(adata, slot))
    assert_same(written(result, "mine"), written(adata, "mine"))


@pytest.mark.parametrize("name", MEASURES)
def test_measures_return_a_row_and_write_it(name, data, model):
    adata = data.copy()
    result = call(name, adata, model, key_added="mine")
    assert isinstance(result, pd.DataFrame)
    assert len(result) == 1
    # Measures that also have a table of classes keep the row beside it.
    found = adata.uns["mine"]
    if "scores" in found:
        pd.testing.assert_frame_equal(found["scores"], result)
    else:
        assert {key: found[key] for key in result} == result.iloc[0].to_dict()


@pytest.mark.parametrize("name", [n for n in FUNCTIONS if n.startswith("pl.")])
def test_plots_return_axes_unless_shown(name, data, model, monkeypatch):
    adata = data.copy()
    drawn = call(name, adata, model)
    assert all(isinstance(ax, plt.Axes) for ax in (drawn if isinstance(drawn, list) else [drawn]))
    monkeypatch.setattr(plt, "show", lambda: None)
    assert call(name, adata, model, show=True) is None


@pytest.mark.parametrize("name", sorted(NEW))
def test_new_data(name, data, model, tmp_path):
    adata = data.copy()
    results = [call(name, adata, model, key_added="mine", rng=3) for _ in range(2)]
    assert_untouched(adata, data)
    assert_same(*(one.uns["mine"] for one in results))
    np.testing.assert_array_equal(*(one.X.toarray() for one in results))
    assert results[0].obs_names.equals(adata.obs_names)
    assert set(results[0].var) <= {"mine", "mine_pearson"}
    results[0].write_h5ad(tmp_path / "adata.h5ad")
    assert set(ad.read_h5ad(tmp_path / "adata.h5ad").uns["mine"]) == set(results[0].uns["mine"])


@pytest.mark.parametrize("name", [n for n in WRITERS if "rng" in parameters(n)])
def test_same_seed_same_result(name, data, model):
    results = []
    for rng in (3, 3):
        adata = data.copy()
        call(name, adata, model, key_added="mine", rng=rng)
        results.append(written(adata, "mine"))
    assert_same(*results)


@writers
def test_results_can_be_written_and_read(name, data, model, tmp_path):
    adata = data.copy()
    call(name, adata, model, key_added="mine")
    adata.write_h5ad(tmp_path / "adata.h5ad")
    key = IN_UNS.get(name, "{}").format("mine")
    assert set(ad.read_h5ad(tmp_path / "adata.h5ad").uns[key]) == set(adata.uns[key])


@adata_functions
def test_what_is_not_an_anndata_is_refused(name, model):
    with pytest.raises(TypeError, match=f"`{FIRST[name]}` must be an AnnData, found DataFrame"):
        call(name, pd.DataFrame(), model)
