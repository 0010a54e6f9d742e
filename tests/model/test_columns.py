"""Columns of `obs`: of any type, in memory or not, and never read as something else."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest
import torch

import scssl
from scssl.model.base import DataSetup

from .conftest import SETUP, TRAIN, arguments_of, make_counts

MODEL = scssl.model.MaskedAutoencoder
ODD = np.arange(150) % 2 == 1


def column_key(model_class):
    """The argument that names a column of groups."""
    return {"CellTypeClassifier": "labels_key", "PseudoLabel": "dataset_key"}.get(
        model_class.__name__, "batch_key"
    )


@pytest.mark.parametrize(("other", "categorical"), [(1, True), (True, False)])
def test_groups_of_several_types(adata, model_class, build, other, categorical):
    values = np.where(ODD, np.array(other, dtype=object), np.array("b", dtype=object))
    adata.obs["x"] = pd.Series(values, index=adata.obs_names, dtype=object)
    if categorical:
        adata.obs["x"] = adata.obs["x"].astype("category")
    model = build(adata, setup={column_key(model_class): "x"})
    assert model.setup.categories["x"] == [str(other), "b"]
    np.testing.assert_array_equal(model.setup.codes(adata, "x"), (~ODD).astype(int))


def test_groups_of_one_name_are_not_one_group(adata, model_class, build):
    adata.obs["x"] = pd.Series(["1", 1] * 75, index=adata.obs_names, dtype=object)
    if model_class is not MODEL:
        adata.obs["x"] = adata.obs["x"].astype("category")
    with pytest.raises(ValueError, match=r"all written '1', of the types 'int', 'str'"):
        build(adata, setup={column_key(model_class): "x"})


@pytest.mark.parametrize("name", ["MaskedAutoencoder", "ProteinPredictor", "PseudoLabel"])
def test_columns_that_are_read_lazily(adata, name, tmp_path):
    model_class = scssl.model.get_model_class(name)
    pytest.importorskip("xarray")
    adata.obs["batch"] = adata.obs["batch"].astype("category")
    adata.write_zarr(tmp_path / "cells.zarr")
    lazy = anndata.experimental.read_lazy(tmp_path / "cells.zarr")
    setup = {"labels_key": "cell_type"} | ({"batch_key": "batch"} if model_class is MODEL else {})
    models = []
    for one in (adata, lazy):
        model_class.setup_anndata(one, **setup)
        models.append(model_class(one, **arguments_of(model_class)))
    assert models[1].setup == models[0].setup
    if model_class is MODEL:
        for model in models:
            model.train(**TRAIN)
        expected, found = (model.get_latent_representation() for model in models)
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_several_columns_for_one_and_names_that_exist_twice(adata):
    with pytest.raises(
        TypeError, match=r"one column of adata.obs.*`batch_key=\"batch_cell_type\"`"
    ):
        MODEL.setup_anndata(adata, batch_key=["batch", "cell_type"])
    with pytest.raises(TypeError, match=r"Pass `batch_key=\"batch\"`"):
        MODEL.setup_anndata(adata, batch_key=["batch"])
    with pytest.raises(TypeError, match="`layer` must be a string"):
        MODEL.setup_anndata(adata, layer=["counts"])
    adata.obs = pd.concat([adata.obs, adata.obs[["batch"]]], axis=1)
    with pytest.raises(ValueError, match="2 columns of the name 'batch'"):
        MODEL.setup_anndata(adata, batch_key="batch")


def test_a_covariate_that_is_named_twice_is_told_once(adata):
    MODEL.setup_anndata(
        adata,
        batch_key="batch",
        categorical_covariate_keys=["batch", "cell_type", "cell_type"],
        continuous_covariate_keys=["age", "age"],
    )
    model = MODEL(adata, **arguments_of(MODEL))
    assert model.setup.categorical_keys == ("batch", "cell_type")
    assert model.setup.continuous_keys == ("age",)
    model.train(**TRAIN)


@pytest.mark.parametrize("kind", [np.int8, np.uint8])
def test_small_integers_as_rows(adata, build, kind):
    model = build(adata)
    model.is_trained_ = True
    rows = np.array([3, 120, 7], dtype=kind)
    wanted = model.get_latent_representation(indices=[3, 120, 7])
    np.testing.assert_array_equal(model.get_latent_representation(indices=rows), wanted)
    if kind is np.int8:
        last = model.get_latent_representation(indices=np.array([-1], dtype=kind))
        np.testing.assert_array_equal(last, model.get_latent_representation(indices=[149]))


@pytest.mark.parametrize(
    ("values", "what"),
    [
        (pd.date_range("2020-01-01", periods=150), "dates"),
        (pd.timedelta_range("1D", periods=150), "durations"),
        (np.arange(150) + 1j, "complex numbers"),
        (pd.Categorical(pd.date_range("2020-01-01", periods=150)), "dates"),
        (pd.array([None, *range(149)], dtype="Int64"), "1 values that are not finite"),
        (np.r_[1e39, np.arange(149.0)], "1 values that are not finite numbers in float32"),
    ],
)
def test_no_numbers_as_a_covariate(adata, values, what):
    adata.obs["x"] = values
    with pytest.raises(ValueError, match=what):
        MODEL.setup_anndata(adata, continuous_covariate_keys=["x"])


def told(scale, shift=0.0, **setup):
    adata = make_counts()
    adata.obs["age"] = adata.obs["age"] * scale + shift
    MODEL.setup_anndata(adata, continuous_covariate_keys=["age"], **setup)
    return adata, MODEL(adata, **arguments_of(MODEL), encode_covariates=True)


def test_units_of_a_covariate_make_no_difference(caplog, tmp_path):
    with caplog.at_level("INFO", logger="scssl"):
        (adata, model), (_, other) = told(1.0), told(1000.0, 5e4)
    assert "'age' is standardised for the model" in caplog.text
    for one in (model, other):
        one.train(**TRAIN)
    expected = model.get_latent_representation()
    np.testing.assert_allclose(other.get_latent_representation(), expected, atol=1e-3)
    # Other cells are told on the scale of the training cells.
    few = adata[:20].copy()
    few.obs["age"] += 3
    mean, spread = model.setup.continuous_scale["age"]
    found = model.setup.continuous(few)[:, 0]
    np.testing.assert_allclose(found, (few.obs["age"] - mean) / spread, rtol=1e-6)
    model.save(tmp_path / "model")
    loaded = MODEL.load(tmp_path / "model")
    assert loaded.setup == model.setup
    np.testing.assert_array_equal(loaded.get_latent_representation(adata), expected)


def test_models_of_before_read_covariates_as_they_are():
    adata, model = told(1000.0)
    content = model.setup.to_dict()
    del content["continuous_scale"]
    before = DataSetup.from_dict(content)
    np.testing.assert_allclose(before.continuous(adata)[:, 0], adata.obs["age"], rtol=1e-6)


def test_weights_of_a_covariate_move_to_another_scale():
    adata, model = told(1.0)
    model.train(**TRAIN)
    expected = model.get_latent_representation()[:50]
    # Half of the cells have another mean and spread.
    few = adata[:50].copy()
    few.obs["age"] = np.sort(few.obs["age"]) * 1.0
    expected = model.get_latent_representation(few)
    adapted = MODEL.from_ssl_model(model, few, continuous_covariate_keys=["age"])
    assert adapted.setup.continuous_scale != model.setup.continuous_scale
    np.testing.assert_allclose(adapted.get_latent_representation(), expected, atol=1e-4)
    few.obs["kind"] = few.obs["cell_type"].astype(str)
    tuned = scssl.model.CellTypeClassifier.from_ssl_model(model, few, labels_key="kind")
    np.testing.assert_allclose(tuned.get_latent_representation(), expected, atol=1e-5)


def test_places_in_two_columns(adata):
    xy = np.random.default_rng(0).random((150, 2))
    xy[:5] = np.nan
    adata.obsm["spatial"], adata.obs[["x", "y"]] = xy, xy
    latent = []
    for key in ("spatial", ["x", "y"]):
        scssl.model.CellPLM.setup_anndata(adata, spatial_key=key)
        model = scssl.model.CellPLM(adata, **arguments_of(scssl.model.CellPLM))
        model.is_trained_ = True
        latent.append(model.get_latent_representation())
    np.testing.assert_array_equal(*latent)
    with pytest.raises(ValueError, match="must name an x and a y column"):
        scssl.model.CellPLM.setup_anndata(adata, spatial_key=["x", "y", "x"])


def test_proteins_by_number(adata):
    model_class = scssl.model.ProteinPredictor
    adata.obsm["protein"] = adata.obsm["protein"].set_axis(range(4), axis=1)
    model_class.setup_anndata(adata)
    model = model_class(adata, **arguments_of(model_class))
    model.train(**TRAIN)
    assert list(model.predict().columns) == ["0", "1", "2", "3"]


@pytest.mark.parametrize("change", ["bool", "int64"])
def test_weights_that_are_no_numbers_with_a_fraction(trained, tmp_path, change, monkeypatch):
    state = trained.module.state_dict()
    name = next(name for name, value in state.items() if value.is_floating_point())
    cast = {**state, name: state[name].to(getattr(torch, change))}
    monkeypatch.setattr(trained.module, "state_dict", lambda: cast)
    trained.save(tmp_path / "model")
    with pytest.raises(scssl._errors.BundleError, match=rf"{name} is torch.{change}"):
        type(trained).load(tmp_path / "model")


def test_an_embedding_that_is_not_finite(trained, adata):
    with torch.no_grad():
        for value in trained.module.parameters():
            value.fill_(1e38)
    with pytest.raises(ValueError, match=r"no finite numbers of .* go up to 1e\+38"):
        trained.get_latent_representation()


@pytest.mark.parametrize("number", [2.5, True, "2"])
def test_whole_numbers_of_training(adata, number):
    MODEL.setup_anndata(adata)
    model = MODEL(adata, **arguments_of(MODEL))
    for name in ("max_epochs", "batch_size", "patience"):
        with pytest.raises(ValueError, match=f"`{name}` must be a whole number"):
            model.train(**{"max_epochs": 1, "progress": False, name: number})
    model.train(max_epochs=1.0, batch_size=32.0, progress=False)


def test_setup_of_other_models_stays(adata):
    """What a model cannot be set up without is asked for by name."""
    for name, setup in SETUP.items():
        key, value = next(iter(setup.items()))
        with pytest.raises(KeyError, match=rf"Did you mean `{key}=\"{value}\"`"):
            scssl.model.get_model_class(name).setup_anndata(adata, **{key: value + "s"})
