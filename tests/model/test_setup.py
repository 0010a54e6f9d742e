"""The setup methods of all models: one implementation, one name for one thing, complete documentation."""

from __future__ import annotations

import inspect
import re
from typing import get_type_hints

import anndata
import numpy as np
import pytest

import scssl
from scssl.data import scan_matrix
from scssl.model.base import DatasetsMixin, SetupArgument
from scssl.nn import Activation

from .conftest import MODELS, make_counts

METHODS = ("setup_anndata", "setup_datasets", "setup_mudata")
FOUND = [
    (name, method)
    for name in MODELS
    for method in METHODS
    if hasattr(scssl.model.get_model_class(name), method)
]


def parameters(name, method):
    return inspect.signature(getattr(scssl.model.get_model_class(name), method)).parameters


@pytest.mark.parametrize(("name", "method"), FOUND)
def test_all_but_data_and_layer_come_by_name(name, method):
    found = list(parameters(name, method).values())
    positional = [one.name for one in found if one.kind is one.POSITIONAL_OR_KEYWORD]
    first = {"setup_anndata": "adata", "setup_datasets": "datasets", "setup_mudata": "mdata"}
    expected = [first[method], "layer"] if method != "setup_mudata" else [first[method]]
    assert positional == expected
    assert {"labels_key", "input", "target_sum"} <= set(parameters(name, method))


@pytest.mark.parametrize(("name", "method"), FOUND)
def test_every_argument_is_annotated_and_documented(name, method):
    function = getattr(scssl.model.get_model_class(name), method)
    text = inspect.getdoc(function)
    section = re.search(r"Parameters\n-+\n(.*?)\n\nRaises\n", text, re.DOTALL)[1]
    documented = re.findall(r"^(\S.*)$", section, re.MULTILINE)
    names = [one.lstrip("*") for line in documented for one in line.split(", ")]
    assert names == list(parameters(name, method))
    assert max(map(len, text.splitlines())) <= 110
    hints = get_type_hints(function)
    assert set(hints) == {*names, "return"}


def test_one_name_means_one_thing():
    kinds: dict[str, set[str]] = {}
    for name, method in FOUND:
        function = getattr(scssl.model.get_model_class(name), method)
        for argument, hint in get_type_hints(function).items():
            kinds.setdefault(argument, set()).add(str(hint))
    # What counts are scaled to is for some models a choice.
    several = {name: found for name, found in kinds.items() if len(found) > 1}
    assert set(several) <= {"target_sum", "adata"}, several


def test_examples_of_the_base_are_in_no_other_documentation():
    assert ">>>" in scssl.model.SSLModel.setup_anndata.__doc__
    assert ">>>" in DatasetsMixin.setup_datasets.__doc__
    for name in MODELS:
        for method, owner in (
            ("setup_anndata", scssl.model.SSLModel),
            ("setup_datasets", DatasetsMixin),
        ):
            own = vars(scssl.model.get_model_class(name)).get(method)
            assert own is None or owner.__name__ == name or ">>>" not in own.__func__.__doc__


def test_by_position_is_refused(model_class):
    adata = make_counts()
    with pytest.raises(TypeError, match="positional argument"):
        model_class.setup_anndata(adata, None, "batch")
    assert "_scvi_uuid" not in adata.uns


def test_unknown_and_text_for_a_list(model_class):
    adata = make_counts()
    with pytest.raises(TypeError, match=r"setup_anndata\(\) has no argument 'batch'"):
        model_class.setup_anndata(adata, batch="batch")
    if "categorical_covariate_keys" in inspect.signature(model_class.setup_anndata).parameters:
        with pytest.raises((TypeError, ValueError, KeyError), match="Pass|labels|protein"):
            model_class.setup_anndata(adata, categorical_covariate_keys="batch")


def test_what_was_asked_for_is_recorded(adata):
    scssl.model.CellPLM.setup_anndata(adata, sample_key="batch")
    model = scssl.model.CellPLM(adata, n_hidden=8, n_layers=1, n_heads=2, n_latent=4)
    told = model.registry["setup_args"]
    assert told["sample_key"] == "batch"
    assert told["target_sum"] is None
    # As scvi-tools sets up other data like those of a model.
    other = anndata.AnnData(adata.X, obs=adata.obs.copy(), var=adata.var)
    scssl.model.CellPLM.setup_anndata(other, source_registry=model.registry, **told)
    assert scssl.model.CellPLM(other, n_hidden=8, n_heads=2).setup == model.setup


@pytest.mark.parametrize("name", scssl.model.list_models())
def test_types_in_signatures_can_be_resolved(name):
    """What documentation and command line read: a type that is imported for checkers only is none."""
    model_class = scssl.model.get_model_class(name)
    methods = inspect.getmembers(model_class, callable)
    own = [f for n, f in methods if n[0] != "_" and f.__module__.startswith("scssl")]
    assert model_class.train.__name__ in {method.__name__ for method in own}
    for method in [*own, model_class.__init__]:
        get_type_hints(method)


def test_activations_are_offered():
    for model_class in (scssl.model.MaskedAutoencoder, scssl.model.SimCLR, scssl.model.PseudoLabel):
        assert get_type_hints(model_class.__init__)["activation"] is Activation


def test_a_method_that_a_class_writes_itself_stays():
    class Own(scssl.model.PseudoLabel):
        _setup_takes = {"mine": SetupArgument("What is mine.", str | None)}

        @classmethod
        def setup_anndata(cls, adata, layer=None, **kwargs):
            return "anndata"

        @classmethod
        def setup_datasets(cls, datasets, layer=None, **kwargs):
            return "datasets"

    class Heir(Own):
        pass

    assert Own.setup_anndata(None) == Heir.setup_anndata(None) == "anndata"
    assert Own.setup_datasets(None) == Heir.setup_datasets(None) == "datasets"
    assert {"mine", "dataset_key"} <= set(Heir._setup_takes)


@pytest.fixture
def scanned(monkeypatch):
    """How many cells each scan of a matrix looks at."""
    from scssl.model.base import _setup

    looked_at = []

    def scan(X, *, rows=None, **kwargs):
        looked_at.append(X.shape[0] if rows is None else len(rows))
        return scan_matrix(X, rows=rows, **kwargs)

    monkeypatch.setattr(_setup, "scan_matrix", scan)
    return looked_at


def test_a_file_is_scanned_once(tmp_path, scanned):
    make_counts().write_h5ad(tmp_path / "cells.h5ad")
    adata = anndata.read_h5ad(tmp_path / "cells.h5ad", backed="r")
    scssl.model.MaskedAutoencoder.setup_anndata(adata)
    model = scssl.model.MaskedAutoencoder(adata, hidden_dims=(8,), n_latent=4)
    model.train(max_epochs=1, progress=False)
    whole = model.get_latent_representation()
    assert scanned == [150]
    other = anndata.read_h5ad(tmp_path / "cells.h5ad", backed="r")
    part = model.get_latent_representation(other, indices=[7, 3])
    assert scanned == [150, 2]
    assert (part == whole[[7, 3]]).all()


def test_a_file_that_changed_is_refused(tmp_path):
    path = tmp_path / "cells.h5ad"
    make_counts().write_h5ad(path)
    adata = anndata.read_h5ad(path, backed="r+")
    scssl.model.MaskedAutoencoder.setup_anndata(adata)
    model = scssl.model.MaskedAutoencoder(adata, hidden_dims=(8,), n_latent=4)
    adata.file._file["X/data"][:10] = 7
    with pytest.raises(ValueError, match="changed since setup_anndata .*values of some cells"):
        model.train(max_epochs=1, progress=False)


def test_what_is_embedded_is_looked_at_and_no_more(scanned):
    adata = make_counts()
    scssl.model.MaskedAutoencoder.setup_anndata(adata, input="counts")
    model = scssl.model.MaskedAutoencoder(adata, hidden_dims=(8,), n_latent=4)
    model.train(max_epochs=1, progress=False)
    adata.X[5, adata.X[5].indices[0]] = 0.5
    assert len(model.get_latent_representation(indices=[1, 2])) == 2
    with pytest.raises(ValueError, match="0.5 in cell 'cell5'"):
        model.get_latent_representation(indices=[1, 5])
    assert scanned == [150, 150, 2, 2]


@pytest.mark.parametrize("n_genes", [40, 1200])
def test_a_panel_is_normalised_to_the_median_of_its_cells(n_genes):
    """Over the genes to learn from."""
    rng = np.random.default_rng(0)
    counts = rng.poisson(2.0, (60, n_genes)).astype(np.float32)
    adata = anndata.AnnData(counts)
    expected = np.median(counts.sum(axis=1)) if n_genes == 40 else 1e4
    scssl.model.MaskedAutoencoder.setup_anndata(adata)
    model = scssl.model.MaskedAutoencoder(adata, hidden_dims=(4,), n_latent=2)
    assert model.setup.target_sum == expected
    wide = anndata.AnnData(np.hstack([counts, np.full((60, 1500), 9.0, dtype=np.float32)]))
    both = scssl.data.Datasets({"panel": adata, "wide": wide})
    scssl.model.PseudoLabel.setup_datasets(both, input="counts")
    together = scssl.model.PseudoLabel(both, hidden_dims=(4,), n_latent=2)
    assert together.setup.target_sum == expected
