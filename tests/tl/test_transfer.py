"""Arms of a transfer study differ in what they are named for, and a study of other data is refused."""

from __future__ import annotations

import json

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from scipy.spatial import cKDTree

import scssl
from scssl._errors import ScsslWarning
from scssl.tl._benchmark import _declared
from scssl.tl._benchmark._cells import Cells, block_splits
from scssl.tl._benchmark._methods import Transfer

ABOUT = {"seeds": 1, "progress": False, "arguments": {"max_epochs": 2}}
TRAINED = ["linear probe", "last 1 layer", "last 2 layers", "all layers"]
SCRATCH = ["scratch, last 1 layer", "scratch, last 2 layers", "scratch, all layers"]


@pytest.fixture(scope="module")
def cells():
    """Three types of cells in two sections; the model learns from others, with a gene that these lack."""
    rng = np.random.default_rng(0)
    n, n_genes = 300, 41
    types = rng.integers(0, 3, n)
    means = rng.gamma(0.5, 1, (3, n_genes))
    means[np.arange(3)[:, None], np.arange(15).reshape(3, 5)] += 4
    adata = ad.AnnData(sparse.csr_matrix(rng.poisson(means[types]), dtype=np.float32))
    adata.obs_names = [f"cell{i}" for i in range(n)]
    adata.var_names = [f"GENE{i}" for i in range(n_genes)]
    adata.obs["cell_type"] = pd.Categorical(np.array(list("abc"))[types])
    adata.obs["section"] = pd.Categorical(np.array(["one", "two"])[rng.integers(0, 2, n)])
    adata.obsm["spatial"] = rng.random((n, 2))
    return adata


@pytest.fixture(scope="module")
def model(cells):
    others = cells[150:].copy()
    scssl.model.MaskedAutoencoder.setup_anndata(others)
    model = scssl.model.MaskedAutoencoder(others, hidden_dims=(16, 12), n_latent=8, dropout=0.1)
    model.train(max_epochs=3, progress=False)
    return model


@pytest.fixture(scope="module")
def adata(cells):
    return cells[:150, :40].copy()


@pytest.fixture(scope="module")
def results(adata, model):
    arms = [arm for arm in scssl.tl._transfer.ARMS if arm != "scVI"]
    return scssl.tl.transfer_benchmark(
        adata, model, "cell_type", arms=arms, n_last=[1, 2], batch_key="section", **ABOUT
    )


def values_of(results):
    return results.pivot_table("value", "method", "metric")


def test_arms(results, adata, model):
    assert not results["error"].any(), results["error"].unique()
    assert set(results["method"]) == {*TRAINED, *SCRATCH, "zero-shot", "untrained", "PCA"}
    assert (results["task"] == "few_labels").all() and (results["n_labels"] == "all").all()
    assert results["split_hash"].nunique() == results["data_hash"].nunique() == 1
    assert (results["classes"] == 3).all()
    one = results.drop_duplicates("method").set_index("method")
    assert (one["genes_matched"] == 40).all()
    weights = one["trainable_weights"]
    assert weights[["zero-shot", "untrained"]].tolist() == [0, 0] and np.isnan(weights["PCA"])
    for name in TRAINED[1:]:
        assert weights[name] == weights[f"scratch, {name}"]
    head, last = 8 * 3 + 3, 12 * 8 + 8
    assert weights["linear probe"] == head
    assert weights["last 1 layer"] == head + last
    assert weights["last 1 layer"] < weights["last 2 layers"] < weights["all layers"]
    assert weights["all layers"] > 41 * 16, "genes that are not there count as well"
    assert json.loads(one.loc["PCA", "arguments"]) == {"n_comps": model.n_latent}
    values = values_of(results)
    # A head moves no embedding.
    knn = values["knn_macro_f1"]
    assert knn["linear probe"] == knn["zero-shot"]
    assert knn["zero-shot"] > knn["untrained"]


def test_zero_shot_is_the_encoder_of_the_user(results, adata, model):
    own = adata.copy()
    scssl.tl.embed(own, model)
    expected = scssl.tl.knn_probe(own, "cell_type", rng=0).iloc[0]
    assert values_of(results).loc["zero-shot", "knn_macro_f1"] == expected["macro_f1"]


def test_arms_are_trained_alike(adata, model, monkeypatch):
    """Nothing but the weights and what is frozen differs between two classifiers."""
    made, trained = [], []
    of, train = scssl.model.CellTypeClassifier.from_ssl_model, scssl.model.CellTypeClassifier.train

    def see(source, *args, **kwargs):
        made.append((source.is_trained_, kwargs))
        return of(source, *args, **kwargs)

    def look(self, *args, **kwargs):
        head = {name: value.clone() for name, value in self.module.head.state_dict().items()}
        trained.append((kwargs, head, self.module.backbone))
        return train(self, *args, **kwargs)

    monkeypatch.setattr(scssl.model.CellTypeClassifier, "from_ssl_model", see)
    monkeypatch.setattr(scssl.model.CellTypeClassifier, "train", look)
    arms = ["linear probe", "last layers", "all layers", "scratch"]
    scssl.tl.transfer_benchmark(adata, model, "cell_type", arms=arms, **ABOUT)
    assert [is_trained for is_trained, _ in made] == [True] * 3 + [False] * 2
    frozen = [kwargs.pop("freeze") for _, kwargs in made]
    assert frozen == ["encoder", 2, "none", 2, "none"]
    for (_, kwargs), (options, head, backbone) in zip(made[1:], trained[1:], strict=True):
        assert kwargs == made[0][1] and options == trained[0][0]
        for name, value in head.items():
            np.testing.assert_array_equal(value, trained[0][1][name])
        rates = [one.p for one in backbone.modules() if hasattr(one, "p")]
        assert rates == [one.p for one in trained[0][2].modules() if hasattr(one, "p")]
    assert options["backbone_lr"] == options["lr"]


def test_a_study_goes_on_where_it_stopped(adata, model, tmp_path, monkeypatch):
    model.save(tmp_path / "model")
    about = ABOUT | {"arms": ["zero-shot", "scratch"], "out": tmp_path / "out"}
    first = scssl.tl.transfer_benchmark(adata, tmp_path / "model", "cell_type", **about)
    values = ["method", "metric", "value", "seconds", "genes_matched", "trainable_weights"]
    with monkeypatch.context() as context:
        context.setattr(Transfer, "fit", lambda *args: pytest.fail("it is done"))
        again = scssl.tl.transfer_benchmark(adata, tmp_path / "model", "cell_type", **about)
        pd.testing.assert_frame_equal(again[values], first[values], check_dtype=False)
        left = scssl.tl.transfer_benchmark(
            adata, tmp_path / "model", "cell_type", **about, dry_run=True
        )
        assert left["n_done"].sum() == 2
        # Another encoder in the same folder is another study.
        model.untrained(5).save(tmp_path / "model", overwrite=True)
        with pytest.warns(ScsslWarning, match="not trained"):
            left = scssl.tl.transfer_benchmark(
                adata, tmp_path / "model", "cell_type", **about, dry_run=True
            )
    assert left["n_done"].sum() == 0
    summary = scssl.tl.benchmark_summary(tmp_path / "out", baseline="zero-shot", simple=[])
    assert set(summary["method"]) == {"zero-shot", "scratch, all layers"}


def test_sections_and_a_layer(adata, model):
    """Each section is left out, by values that the model finds in a layer of another name."""
    own = adata.copy()
    own.layers["raw"], own.X = own.X, None
    about = ABOUT | {"arms": ["zero-shot", "linear probe"], "split": "batch"}
    found = scssl.tl.transfer_benchmark(
        own, model, "cell_type", split_key="section", layer="raw", **about
    )
    assert set(found["fold"]) == {"one", "two"} and not found["error"].any(), found[
        "error"
    ].unique()
    expected = scssl.tl.transfer_benchmark(adata, model, "cell_type", split_key="section", **about)
    np.testing.assert_array_equal(found["value"], expected["value"])


def test_what_was_declared(adata, model, results):
    row = results.iloc[0]
    declared = {
        "data_hash": row["data_hash"],
        "classes": ["c", "a", "b"],
        "genes_matched": 40,
        "trainable_weights": {"linear probe": 27, "zero-shot": 0},
    }
    about = ABOUT | {"arms": ["zero-shot", "linear probe"], "batch_key": "section"}

    def study(of=adata, **more):
        return scssl.tl.transfer_benchmark(
            of, model, "cell_type", declared=declared | more, **about
        )

    assert not study()["error"].any()
    with pytest.raises(ValueError, match=f"hash '{row['data_hash']}', and 'abc' is declared"):
        study(data_hash="abc")
    with pytest.raises(
        ValueError, match="3 classes .* and 3 .* \\(missing: 'd'; not declared: 'c'\\)"
    ):
        study(classes=["a", "b", "d"])
    with pytest.raises(ValueError, match="no method"):
        study(trainable_weights={"probe": 27})
    with pytest.raises(ValueError, match="genes_matched"):
        study(genes=40)
    for wrong in ({"classes": "abc"}, {"trainable_weights": 27}):
        with pytest.raises(TypeError, match="must have"):
            study(**wrong)
    with pytest.raises(TypeError, match="must be a dict"):
        scssl.tl.transfer_benchmark(adata, model, "cell_type", declared=["abc"], **about)
    swapped = adata.copy()
    swapped.obs["cell_type"] = swapped.obs["cell_type"].cat.rename_categories({"a": "b", "b": "a"})
    with pytest.raises(ValueError, match="hash"):
        study(swapped)
    refused = study(genes_matched=41)
    assert refused["value"].isna().all() and len(refused) == 2
    assert refused["error"].str.contains("finds 40 of its genes in the data, and 41 are").all()
    refused = study(trainable_weights={"linear probe": 28}).set_index("method")
    assert refused.loc[["linear probe"], "value"].isna().all()
    assert (
        "trains 27 weights, and 28 are declared of 'linear probe'"
        in refused.loc["linear probe", "error"]
    )
    assert refused.loc["zero-shot", "value"].notna().all()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"arms": "finetuned"}, ValueError, "arms"),
        ({"n_last": 0}, ValueError, "n_last"),
        ({"arguments": {"epochs": 2}}, TypeError, "max_epochs"),
        ({"arguments": {"freeze": 2}}, TypeError, "no argument 'freeze'"),
        ({"model": "/no/such/folder"}, Exception, "/no/such/folder"),
        ({"model": None}, TypeError, "must be a model"),
    ],
)
def test_bad_arguments(adata, model, arguments, error, message):
    about = {"model": model, "label_key": "cell_type", **ABOUT, **arguments}
    with pytest.raises(error, match=message):
        scssl.tl.transfer_benchmark(adata, **about)


def test_more_layers_than_there_are(adata, model):
    found = scssl.tl.transfer_benchmark(
        adata, model, "cell_type", arms="last layers", n_last=4, **ABOUT
    )
    assert found["error"].str.contains("has 3 layers, and the last 4").all()


def test_few_genes_are_told(adata, model):
    found = scssl.tl.transfer_benchmark(
        adata[:, :10].copy(), model, "cell_type", arms=["zero-shot", "all layers"], **ABOUT
    )
    assert found["error"].str.contains("10 of").all()


@pytest.mark.parametrize(
    ("text", "given", "same"),
    [
        ("0012345678901234", 12345678901234, True),
        ("12345678901e0034", 12345678901e34, True),
        ("0012345678901234", 12345678901235, False),
        ("abcdef", 12.0, False),
    ],
)
def test_a_hash_that_a_file_gives_as_a_number(text, given, same):
    assert _declared._is(text, given) is same


def test_a_method_of_any_study(adata):
    """As a study in a file names it, which has no other place for a model than its folder."""
    with pytest.raises(ValueError, match="`model`"):
        scssl.tl.benchmark(adata, {"mine": {"method": "transfer"}}, label_key="cell_type")
    with pytest.raises(ValueError, match="trainable"):
        Transfer(trainable=0)
    assert scssl.tl.takes_argument("transfer", "model")
    assert not scssl.tl.takes_argument("transfer", "n_latent")


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    n=st.integers(60, 250),
    # Clumps far from each other, cells on a grid and cells on a line, on any scale.
    kind=st.sampled_from(["uniform", "clumps", "grid", "line"]),
    scale=st.sampled_from([1e-3, 1.0, 1e5]),
    n_sections=st.integers(1, 2),
    lone=st.booleans(),
)
def test_no_neighbour_of_a_held_out_cell_is_learned_from(seed, n, kind, scale, n_sections, lone):
    rng = np.random.default_rng(seed)
    places = rng.random((n, 2))
    if kind == "clumps":
        places = places**6 + 20 * rng.integers(0, 3, (n, 2))
    elif kind == "grid":
        places = np.stack(np.divmod(np.arange(n), 12), axis=1).astype(float)
    elif kind == "line":
        places[:, 1] = 0
    adata = ad.AnnData(sparse.csr_matrix(rng.poisson(2, (n, 3)), dtype=np.float32))
    adata.obsm["spatial"] = scale * places
    sections = rng.integers(0, n_sections, n)
    if lone:
        sections[0] = n_sections
    adata.obs["section"] = sections.astype(str)
    about = {"layer": None, "modality_key": None, "spatial_key": "spatial", "min_cells": 2}
    own = Cells(adata, "data", None, None, split_key="section", **about)
    try:
        (split,) = block_splits(own, [seed])
    except ValueError as error:
        assert "leave" in str(error)
        return
    is_train, is_test = (np.isin(np.arange(n), rows) for rows in (split.train, split.test))
    assert not (is_train & is_test).any() and is_train.any() and is_test.any()
    for section in range(n_sections + 1):
        rows = np.flatnonzero(sections == section)
        train, test = is_train[rows], is_test[rows]
        if not (train.any() and test.any()):
            continue
        here = adata.obsm["spatial"][rows]
        distance, near = cKDTree(here).query(here, k=min(7, len(rows)))
        margin = 2 * np.median(distance[:, -1])
        assert cKDTree(here[test]).query(here[train])[0].min() > margin
        # Neither is a cell among the six nearest of one on the other side.
        assert not test[near[train]].any() and not train[near[test]].any()
