"""One call compares methods: what each is given, how it is scored, and what is kept."""

from __future__ import annotations

import json
import sys
from dataclasses import replace

import anndata as ad
import joblib
import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from scipy.spatial import cKDTree
from sklearn.decomposition import PCA

import scssl
from scssl.tl._benchmark import _methods, _study, read_results
from scssl.tl._benchmark._cells import (
    Cells,
    block_splits,
    cell_splits,
    group_splits,
    without_a_type,
)
from scssl.tl._benchmark._methods import KNOWN, UNKNOWN, Method, Registered, TotalVI

VALUES = ["data", "task", "method", "fold", "seed", "n_labels", "metric", "value", "split_hash"]
KEYS = {"label_key": "cell_type", "batch_key": "batch", "progress": False}


@pytest.fixture(scope="module")
def adata():
    """Four types in three batches; the fourth is in two of them."""
    rng = np.random.default_rng(0)
    n, g = 240, 60
    types, batches = rng.integers(0, 4, n), rng.integers(0, 3, n)
    batches[(types == 3) & (batches == 2)] = 0
    means = rng.gamma(0.5, 1, (4, g))
    means[np.arange(4)[:, None], np.arange(20).reshape(4, 5)] += 4
    counts = rng.poisson(means[types] * rng.uniform(1, 3, (n, 1)))
    adata = ad.AnnData(sparse.csr_matrix(counts, dtype=np.float32))
    adata.obs_names = [f"cell{i}" for i in range(n)]
    adata.obs["cell_type"] = pd.Categorical(np.array(list("abcd"))[types])
    adata.obs["batch"] = pd.Categorical(np.array(["one", "two", "three"])[batches])
    adata.obsm["X_given"] = means[types][:, :10] + 0.3 * rng.normal(size=(n, 10))
    adata.obsm["spatial"] = rng.random((n, 2))
    adata.obsm["protein"] = means[types][:, :3] + 0.1 * rng.normal(size=(n, 3))
    return adata


@pytest.fixture
def cells(adata):
    about = {"layer": None, "modality_key": None, "spatial_key": "spatial", "split_key": None}
    return Cells(adata, "data", "cell_type", "batch", min_cells=5, **about)


class Spy(Method):
    """Remembers what it was given."""

    summary = "a spy"
    uses_labels = labels_cells = True
    seen: list = []

    def fit(self, cells, setting):
        self.seen.append((cells, setting))

    def embed(self, cells):
        return np.asarray(cells.obsm["X_given"])

    def predict(self, cells):
        names = sorted(set(self.seen[-1][0].obs[KNOWN]) - {UNKNOWN})
        return pd.DataFrame(1 / len(names), index=cells.obs_names, columns=names)


@pytest.fixture
def spy(monkeypatch):
    monkeypatch.setattr(Spy, "seen", [])
    monkeypatch.setitem(_methods.BASELINES, "spy", Spy)
    return Spy


def test_scores_are_those_of_the_probes(adata):
    found = scssl.tl.benchmark(
        adata, "X_given", ["embedding", "few_labels"], **KEYS, seeds=2, n_labels=[2, None]
    )
    assert list(found.columns) == _study.COLUMNS and not found["error"].any()
    assert found["transductive"].all(), "what an embedding was fitted to is not known"
    table = found.set_index(["task", "n_labels", "metric", "seed"])["value"]
    own = adata.copy()
    for seed in (0, 1):
        options = {"use_rep": "X_given", "rng": seed}
        knn = scssl.tl.knn_probe(own, "cell_type", **options).iloc[0]
        probe = scssl.tl.linear_probe(own, "cell_type", **options).iloc[0]
        few = scssl.tl.linear_probe(own, "cell_type", **options, n_labels_per_class=2).iloc[0]
        assert table["embedding", "all", "knn_macro_f1", seed] == knn["macro_f1"]
        assert table["embedding", "all", "probe_macro_f1", seed] == probe["macro_f1"]
        assert table["few_labels", "all", "macro_f1", seed] == probe["macro_f1"]
        assert table["few_labels", "2", "macro_f1", seed] == few["macro_f1"]


def test_what_is_recommended_is_what_the_functions_do(adata):
    own, about = adata.copy(), {"label_key": "cell_type", "seeds": 1, "progress": False}
    scssl.tl.integrate(own, "batch", key_added="X_moved")
    batches = {"batch_key": "batch", "transductive": True}
    found = scssl.tl.benchmark(own, ["recommended", "X_moved"], "embedding", **about, **batches)
    table = found.pivot_table("value", "metric", "method")
    assert len(table) == 4 and (table["recommended"] == table["X_moved"]).all()
    held_out = scssl.tl.benchmark(own, "recommended", "embedding", **KEYS, seeds=1)
    assert held_out["error"].str.contains("only the cells that are moved").all()

    few = own[:120].copy()
    found = scssl.tl.benchmark(few, "recommended", "embedding", **about, transductive=True)
    scssl.tl.embed(few, key_added="X_one")
    given = scssl.tl.benchmark(few, "X_one", "embedding", **about)
    assert found["value"].tolist() == given["value"].tolist()


def test_annotate_is_what_the_function_does(adata):
    found = scssl.tl.benchmark(adata, ["annotate", "PCA"], "annotation", **KEYS, seeds=1, folds=1)
    assert not found["error"].any()
    table = found.set_index(["method", "metric"])["value"]
    own = found[found["method"] == "annotate"]
    assert own["transductive"].all() and (own["cpu_seconds"] > 0).all()
    is_new = (adata.obs["batch"] == own["fold"].iloc[0]).to_numpy()
    query = adata[is_new].copy()
    scssl.tl.annotate(adata[~is_new].copy(), query, "cell_type", batch_key="batch")
    scores = scssl.tl.score_labels(query, "cell_type", "ssl_label").iloc[0]
    assert table["annotate", "macro_f1"] == pytest.approx(scores["macro_f1"], abs=1e-12)
    for method in ("annotate", "PCA"):
        shares = table[method][["unseen_found", "known_lost"]]
        assert shares.between(0, 1).all() and shares["unseen_found"] > shares["known_lost"]


def test_smoothing_knows_nothing_of_the_test_cells(adata, cells, monkeypatch):
    """As by the function, with the training part for a reference."""

    class Seen(Spy):
        uses_labels = labels_cells = False

    monkeypatch.setitem(_methods.BASELINES, "seen", Seen)
    about = {"label_key": "cell_type", "seeds": 1, "progress": False, "n_labels": 2}
    given = {"smoothed": {"method": "seen", "smoothing": 8}}
    found = scssl.tl.benchmark(adata, given, "few_labels", **about)
    split = next(cell_splits(cells, [0], 0.2))
    train, test = adata[split.train].copy(), adata[split.test].copy()
    scssl.tl.smooth(test, "X_given", reference=train, n_neighbors=8)
    scssl.tl.smooth(train, "X_given", n_neighbors=8)
    own = adata.copy()
    own.obsm["X_smooth"] = np.zeros((own.n_obs, 10), np.float32)
    own.obsm["X_smooth"][split.train] = train.obsm["X_smooth"]
    own.obsm["X_smooth"][split.test] = test.obsm["X_smooth"]
    same = scssl.tl.benchmark(own, ["X_smooth", "X_given"], "few_labels", **about)
    assert found["split_hash"].iloc[0] == split.hash
    values = same.groupby("method")["value"].apply(list)
    assert found["value"].tolist() == values["X_smooth"] != values["X_given"]
    with pytest.raises(ValueError, match="leave `smoothing` out"):
        scssl.tl.benchmark(adata, {"CellTypist": {"smoothing": 8}}, **about)


def test_two_modalities(adata):
    """Components and proteins, each with a total variance of 1 among the cells that were fitted."""
    own = adata.copy()
    own.obsm["counts"] = np.random.default_rng(0).poisson(5, (own.n_obs, 3))
    both = {
        "PCA": {"n_comps": 5, "with_modality": True},
        "SimCLR": {"with_modality": True, "max_epochs": 1, "n_latent": 4, "hidden_dims": [8]},
    }
    about = {"label_key": "cell_type", "seeds": 1, "progress": False}
    for key in ("protein", "counts"):
        tasks = ["embedding", "modality"] if key == "protein" else ["embedding"]
        found = scssl.tl.benchmark(own, both, tasks, modality_key=key, **about)
        values = found[found["task"] == "embedding"]
        assert not values["error"].any() and len(values) == 8
        refused = found[found["task"] == "modality"]["error"]
        assert refused.str.contains("part of what it embeds").all()
        counts = own.X.toarray()
        x = np.log1p(counts / counts.sum(axis=1, keepdims=True) * 1e4)
        train = np.setdiff1d(np.arange(own.n_obs), _test_rows(own))
        y = own.obsm[key].astype(float)
        if key == "counts":
            y = np.log1p(y / np.exp(np.log1p(y).mean(axis=1, keepdims=True)))
        blocks = [PCA(5).fit(x[train]).transform(x), y]
        blocks = [one / np.sqrt(one[train].var(axis=0).sum()) for one in blocks]
        own.obsm["X_both"] = np.hstack([one - one[train].mean(axis=0) for one in blocks])
        expected = scssl.tl.knn_probe(own, "cell_type", use_rep="X_both", rng=0).iloc[0]
        table = values.set_index(["method", "metric"])["value"]
        assert table["PCA", "knn_macro_f1"] == pytest.approx(expected["macro_f1"], abs=1e-9)
    alone = scssl.tl.benchmark(own, both, "embedding", **about)
    assert alone["error"].str.contains("modality_key").all()
    with pytest.raises(ValueError, match="embeds one modality"):
        scssl.tl.benchmark(own, {"PseudoLabel": {"with_modality": True}}, "embedding", **about)


def test_rna_embedded_by_a_model_of_both(adata):
    """What it learned from proteins is in the encoder; those of the cells that are scored are not looked at."""
    small = {"max_epochs": 1, "n_latent": 4, "hidden_dims": [8], "fusion": "clip"}
    one = {"method": "SimCLR", "with_modality": True, "embed_modality": "rna", **small}
    about = {"label_key": "cell_type", "modality_key": "protein", "seeds": 1, "progress": False}
    found = scssl.tl.benchmark(adata, {"RNA": one}, ["embedding", "modality"], **about)
    assert not found["error"].any() and set(found["task"]) == {"embedding", "modality"}
    own, other = adata.copy(), adata.copy()
    test = _test_rows(adata)
    own.obsm["protein"][test] = 0
    again = scssl.tl.benchmark(own, {"RNA": one}, "embedding", **about)
    assert list(again["value"]) == list(found.loc[found["task"] == "embedding", "value"])
    other.obsm["protein"][np.setdiff1d(np.arange(len(adata)), test)] = 0
    other = scssl.tl.benchmark(other, {"RNA": one}, "embedding", **about)
    assert list(other["value"]) != list(again["value"])
    with pytest.raises(ValueError, match="give `with_modality` too"):
        scssl.tl.benchmark(adata, {"SimCLR": {"embed_modality": "rna"}}, "embedding", **about)


@pytest.mark.parametrize("transductive", [False, True])
def test_a_predictor_of_proteins_is_scored_by_what_it_predicts(adata, monkeypatch, transductive):
    """It learns from proteins of the training part alone, also where it is given the cells of the other."""
    small = {
        "max_epochs": 2,
        "ssl_model": None,
        "n_latent": 4,
        "hidden_dims": [8],
        "n_components": 3,
    }
    about = {"modality_key": "protein", "label_key": "cell_type", "seeds": 1, "progress": False}
    about |= {"transductive": transductive}
    predicted, predict = [], Registered.predict_modality
    monkeypatch.setattr(
        Registered,
        "predict_modality",
        lambda self, cells: predicted.append(predict(self, cells)) or predicted[-1],
    )
    other, test = adata.copy(), _test_rows(adata)
    other.obsm["protein"][test] = np.random.default_rng(0).normal(size=(len(test), 3))
    found, _ = (
        scssl.tl.benchmark(own, {"ProteinPredictor": small}, "modality", **about)
        for own in (adata, other)
    )
    assert np.array_equal(*predicted)
    expected = np.mean(
        [
            np.corrcoef(*pair)[0, 1]
            for pair in zip(predicted[0].T, adata.obsm["protein"][test].T, strict=True)
        ]
    )
    value = found.set_index("metric")["value"]
    assert value["pearson"] == pytest.approx(expected, abs=1e-5) and expected > 0.3


def test_a_pretrained_predictor_of_proteins(adata):
    """Pretrained on the training part by default; nothing to learn without a second modality."""
    small = {"max_epochs": 1, "n_components": 3}
    about = {"label_key": "cell_type", "seeds": 1, "progress": False}
    both = {"pretrained": {"method": "ProteinPredictor", **small}}
    both["scratch"] = {**both["pretrained"], "ssl_model": None}
    found = scssl.tl.benchmark(adata, both, "modality", modality_key="protein", **about)
    assert not found["error"].any()
    table = found.set_index(["method", "metric"])["value"]
    assert table["pretrained", "pearson"] != table["scratch", "pearson"]
    alone = scssl.tl.benchmark(adata, both, "embedding", **about)
    assert alone["error"].str.contains("modality_key").all()


def test_totalvi_imputes_proteins_that_it_is_not_given(adata, monkeypatch):
    own = adata.copy()
    own.obsm["protein"] = np.rint(np.exp(own.obsm["protein"].clip(0, 4)))
    about = {"modality_key": "protein", "batch_key": "batch", "seeds": 1, "progress": False}
    about |= {"label_key": "cell_type"}
    predicted, predict = [], TotalVI.predict_modality
    monkeypatch.setattr(
        TotalVI,
        "predict_modality",
        lambda self, cells: predicted.append(predict(self, cells)) or predicted[-1],
    )
    few = {"totalVI": {"max_epochs": 2, "early_stopping": False}}
    found = scssl.tl.benchmark(own, few, ["modality", "embedding"], **about)
    test = _test_rows(own)
    assert found.loc[found["task"] == "embedding", "error"].str.contains("has no embedding").all()
    assert found["transductive"].all()
    value = found[found["task"] == "modality"].set_index("metric")["value"]
    error = np.sqrt(
        np.mean((predicted[0] - np.log1p(own.obsm["protein"][test])) ** 2, axis=0)
    ).mean()
    assert value["rmse"] == pytest.approx(error, abs=1e-5)
    own.obsm["protein"][test] = 1
    scssl.tl.benchmark(own, few, "modality", **about)
    assert np.array_equal(*predicted)
    normalised = scssl.tl.benchmark(adata, few, "modality", **about)["error"]
    assert normalised.str.contains("needs counts of proteins").all()


def test_components_beside_a_model(adata):
    """As `fuse` puts them side by side, with the scales of the cells that were fitted."""
    about = {"label_key": "cell_type", "seeds": 1, "progress": False}
    small = {"max_epochs": 1, "n_latent": 4, "hidden_dims": [8]}
    both = {"method": "MaskedAutoencoder", "with_components": 5, **small}
    found = scssl.tl.benchmark(adata, {"both": both}, "embedding", **about)
    rows = np.setdiff1d(np.arange(adata.n_obs), _test_rows(adata))
    train, own = adata[rows].copy(), adata.copy()
    scssl.model.MaskedAutoencoder.setup_anndata(train, input="counts")
    model = scssl.model.MaskedAutoencoder(train, n_latent=4, hidden_dims=[8], rng=0)
    model.train(max_epochs=1, rng=0, progress=False)
    counts = adata.X.toarray()
    x = np.log1p(counts / counts.sum(axis=1, keepdims=True) * 1e4)
    pca = PCA(5).fit(x[rows])
    for cells, values in ((train, x[rows]), (own, x)):
        cells.obsm["X_pca"] = pca.transform(values)
        scssl.tl.embed(cells, model)
    scssl.tl.fuse(train, ["X_pca", "X_ssl"])
    scssl.tl.fuse(own, ["X_pca", "X_ssl"], reference=train)
    expected = scssl.tl.knn_probe(own, "cell_type", use_rep="X_fused", rng=0).iloc[0]
    value = found.set_index("metric")["value"]
    assert value["knn_macro_f1"] == pytest.approx(expected["macro_f1"], abs=1e-9)


def _test_rows(adata):
    about = {"layer": None, "modality_key": None, "spatial_key": "spatial", "split_key": None}
    cells = Cells(adata, "data", "cell_type", None, min_cells=10, **about)
    return next(_study.cell_splits(cells, [0], 0.2)).test


def test_nothing_is_fitted_on_test_cells(adata, cells):
    """Principal components of the training part alone, by scikit-learn on dense values."""
    found = scssl.tl.benchmark(
        adata, {"PCA": {"n_comps": 5}}, "embedding", **KEYS, seeds=1, min_cells=5
    )
    counts = adata.X.toarray()
    x = np.log1p(counts / counts.sum(axis=1, keepdims=True) * 1e4)
    split = next(_study.cell_splits(cells, [0], 0.2))
    own = adata.copy()
    own.obsm["X_pca"] = PCA(5).fit(x[split.train]).transform(x)
    expected = scssl.tl.knn_probe(own, "cell_type", use_rep="X_pca", rng=0).iloc[0]
    value = found.set_index("metric")["value"]
    assert value["knn_macro_f1"] == pytest.approx(expected["macro_f1"], abs=1e-9)
    assert found["split_hash"].iloc[0] == split.hash


def test_labels_of_test_cells_are_not_given(adata, spy):
    scssl.tl.benchmark(
        adata, "spy", ["embedding", "few_labels", "annotation"], **KEYS, seeds=1, n_labels=[2, None]
    )
    assert spy.seen
    for given, setting in spy.seen:
        assert "cell_type" not in given.obs and setting.batch_key == "batch"
        assert given.n_obs < adata.n_obs and not setting.is_all
        truth = adata.obs["cell_type"].astype(str)[given.obs_names]
        known = given.obs[KNOWN] != UNKNOWN
        assert (given.obs[KNOWN][known] == truth[known]).all()
    sizes = [
        given.obs[KNOWN].value_counts().drop(UNKNOWN, errors="ignore") for given, _ in spy.seen
    ]
    few = [bool((one == 2).all()) for one in sizes]
    assert sum(few) == 1, "with two labels a class it was given two, and otherwise all"


def test_the_same_cells_for_all_methods(adata):
    found = scssl.tl.benchmark(
        adata,
        ["PCA", "untrained", "X_given"],
        ["embedding", "mapping", "annotation"],
        **KEYS,
        seeds=2,
    )
    for _, part in found.groupby(["task", "fold", "seed", "metric"]):
        assert part["split_hash"].nunique() == 1 and part["method"].nunique() == 3
    assert set(found.loc[found["task"] == "mapping", "fold"]) == {"one", "two", "three"}
    assert {"macro_f1", "accuracy", "ece", "unseen_auroc"} <= set(
        found.loc[found["task"] == "annotation", "metric"]
    )
    worth = found[(found["method"] == "X_given") & (found["metric"] == "macro_f1")]
    assert worth["value"].min() > 0.9
    assert found.loc[found["metric"] == "mixing", "value"].between(0, 1).all()


def test_group_splits(adata, cells):
    groups = adata.obs["batch"].astype(str).to_numpy()
    for split in group_splits(cells, [0, 1], None):
        assert set(groups[split.test]) == {split.fold}
        assert split.fold not in set(groups[split.train])
        other = without_a_type(cells, split, 5)
        labels = np.asarray(cells.labels)
        assert other is None or other.unseen not in set(labels[other.train])
        assert other is None or other.unseen in set(labels[other.test])
    assert len({split.fold for split in group_splits(cells, [0], 2)}) == 2


@pytest.mark.parametrize("seed", range(5))
def test_blocks_have_a_margin(adata, cells, seed):
    (split,) = block_splits(cells, [seed])
    places, batches = adata.obsm["spatial"], adata.obs["batch"].astype(str).to_numpy()
    assert 0.1 < len(split.test) / adata.n_obs < 0.3
    for batch in np.unique(batches):
        here = places[batches == batch]
        margin = 2 * np.median(cKDTree(here).query(here, k=7)[0][:, -1])
        train, test = (rows[batches[rows] == batch] for rows in (split.train, split.test))
        assert cKDTree(places[test]).query(places[train])[0].min() > margin


def test_tasks_of_expression_and_proteins(adata):
    found = scssl.tl.benchmark(
        adata,
        {"PCA": {"n_comps": 10}, "MAE": {"method": "MaskedAutoencoder", "max_epochs": 1}},
        ["modality", "reconstruction", "clustering"],
        **KEYS,
        modality_key="protein",
        seeds=1,
    )
    assert not found["error"].any(), found["error"].unique()
    value = found.set_index(["method", "metric"])["value"]
    assert value["PCA", "pearson"] > 0.5
    counts = adata.X.toarray()
    train, test = (np.isin(np.arange(adata.n_obs), rows) for rows in _first_split(adata))
    sums = counts.sum(axis=1, keepdims=True)
    x = np.log1p(counts / sums * np.median(sums[train]))
    pca = PCA(10).fit(x[train])
    left = (x[test] - pca.inverse_transform(pca.transform(x[test]))).var(axis=0)
    expected = 1 - left.sum() / x[test].var(axis=0).sum()
    assert value["PCA", "explained_variance_weighted"] == pytest.approx(expected, abs=1e-4)
    assert value["PCA", "leiden_nmi"] > 0.3
    assert np.isfinite(value["MAE", "mse"])


def _first_split(adata):
    about = {"layer": None, "modality_key": None, "spatial_key": "spatial", "split_key": None}
    cells = Cells(adata, "data", "cell_type", "batch", min_cells=10, **about)
    split = next(_study.cell_splits(cells, [0], 0.2))
    return split.train, split.test


def test_a_model_is_that_of_the_user(adata, cells):
    """What a row stands for is what its users would train on these cells."""
    arguments = {"max_epochs": 2, "n_latent": 8}
    found = scssl.tl.benchmark(
        adata, {"VICReg": arguments}, "embedding", label_key="cell_type", seeds=[3], progress=False
    )
    split = next(_study.cell_splits(cells, [3], 0.2))
    own, model_class = adata[split.train].copy(), scssl.model.VICReg
    model_class.setup_anndata(own)
    model = model_class(own, rng=3, n_latent=8)
    model.train(2, rng=3, progress=False)
    whole = adata.copy()
    whole.obsm["X"] = model.get_latent_representation(whole)
    expected = scssl.tl.linear_probe(whole, "cell_type", use_rep="X", rng=3).iloc[0]
    assert found.set_index("metric")["value"]["probe_macro_f1"] == expected["macro_f1"]
    assert json.loads(found["arguments"].iloc[0]) == arguments


def test_a_failure_is_a_row(adata, monkeypatch):
    def fail(self, *args, **kwargs):
        raise RuntimeError("out of luck")

    monkeypatch.setattr(scssl.model.SimCLR, "train", fail)
    monkeypatch.setitem(sys.modules, "harmonypy", None)
    methods = ["PCA", "SimCLR", "Harmony"]
    with pytest.warns(scssl.ScsslWarning, match="harmonypy is not installed: `pip install"):
        found = scssl.tl.benchmark(adata, methods, ["embedding", "clustering"], **KEYS, seeds=1)
    found = found.set_index("method")
    assert not found.loc["PCA", "error"].any()
    assert found.loc["SimCLR", "value"].isna().all() and len(found.loc["SimCLR"]) == 2
    assert found.loc["SimCLR", "error"].str.contains("RuntimeError: out of luck").all()
    assert found.loc["Harmony", "value"].isna().all()
    assert found.loc["Harmony", "error"].str.contains("`").all(), "a line to type"


def test_one_task_fails_alone(adata, monkeypatch):
    def fail(*args, **kwargs):
        raise RuntimeError("no clusters")

    broken = replace(_study.TASKS["clustering"], score=fail)
    monkeypatch.setitem(_study.TASKS, "clustering", broken)
    found = scssl.tl.benchmark(adata, "PCA", ["clustering", "embedding"], **KEYS, seeds=1)
    failed = found["task"] == "clustering"
    assert found.loc[failed, "error"].str.contains("no clusters").all()
    assert found.loc[~failed, "value"].notna().all()


def test_a_killed_study_goes_on(adata, tmp_path, monkeypatch):
    asked = (adata, ["PCA", "X_given"], ["embedding", "mapping"])
    whole = scssl.tl.benchmark(*asked, **KEYS, seeds=2)
    run, done = _study.run, []

    def stop(cells, job):
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(job)
        return run(cells, job)

    monkeypatch.setattr(_study, "run", stop)
    with pytest.raises(KeyboardInterrupt):
        scssl.tl.benchmark(*asked, **KEYS, seeds=2, out=tmp_path / "out")
    assert len(list((tmp_path / "out" / "rows").iterdir())) == 3
    again = []
    monkeypatch.setattr(_study, "run", lambda cells, job: again.append(job) or run(cells, job))
    found = scssl.tl.benchmark(*asked, **KEYS, seeds=2, out=tmp_path / "out")
    assert len(again) == len({str(job) for job in again})
    assert not {str(job) for job in again} & {str(job) for job in done}
    pd.testing.assert_frame_equal(found[VALUES], whole[VALUES])
    written = read_results(tmp_path / "out")
    assert sorted(written["value"]) == sorted(whole["value"])
    files = (tmp_path / "out" / "rows").iterdir()
    for row in (row for file in files for row in json.loads(file.read_text())["rows"]):
        assert 0 < row["overhead_seconds"] < 5 and row["scoring_seconds"] > 0
    again.clear()
    scssl.tl.benchmark(*asked, **KEYS, seeds=2, out=tmp_path / "out")
    assert not again, "what is there is not run again"
    other = adata.copy()
    other.X = other.X * 2
    plan = scssl.tl.benchmark(
        other, *asked[1:], **KEYS, seeds=2, out=tmp_path / "out", dry_run=True
    )
    assert not plan["n_done"].any(), "other values are other rows"


def test_a_plan_runs_nothing(adata, tmp_path, monkeypatch):
    monkeypatch.setattr(_study, "run", lambda *_: pytest.fail("it ran"))
    methods = {"PCA": {}, "SimCLR": {"sweep": {"temperature": [0.1, 0.2]}}}
    found = scssl.tl.benchmark(
        adata, methods, ["embedding", "few_labels"], **KEYS, out=tmp_path / "out", dry_run=True
    )
    assert list(found["method"]) == ["PCA", "SimCLR (temperature=0.1)", "SimCLR (temperature=0.2)"]
    assert (found["n_fits"] == 5).all() and (found["seconds"] > 0).all()
    assert not (tmp_path / "out").exists()


def _values(rows):
    return rows[VALUES].reset_index(drop=True)


@pytest.mark.parametrize("at_once", [True, False])
def test_in_parallel(adata, at_once, monkeypatch):
    """On backends that give results as they come, and on those that give them at the end, such as ray."""
    backend = type(joblib.Parallel(n_jobs=2)._backend)
    monkeypatch.setattr(backend, "supports_return_generator", at_once)
    asked = (adata, ["PCA", "X_given"], "embedding")
    one = scssl.tl.benchmark(*asked, **KEYS, seeds=2)
    two = scssl.tl.benchmark(*asked, **KEYS, seeds=2, n_jobs=2)
    pd.testing.assert_frame_equal(_values(one), _values(two))
    assert {"seconds", "cpu_seconds"} <= set(two) and (two["seconds"] > 0).all()


@pytest.mark.slow
def test_on_a_dask_cluster(adata):
    distributed = pytest.importorskip("distributed")
    asked = (adata, ["PCA", "X_given"], "embedding")
    one = scssl.tl.benchmark(*asked, **KEYS, seeds=2)
    with (
        distributed.LocalCluster(2, threads_per_worker=1, dashboard_address=None) as cluster,
        distributed.Client(cluster),
        joblib.parallel_config("dask"),
    ):
        two = scssl.tl.benchmark(*asked, **KEYS, seeds=2)
    pd.testing.assert_frame_equal(_values(one), _values(two))


@pytest.mark.slow
def test_on_ray(adata):
    ray = pytest.importorskip("ray")
    from ray.util.joblib import register_ray

    asked = (adata, ["PCA", "X_given"], "embedding")
    one = scssl.tl.benchmark(*asked, **KEYS, seeds=2)
    register_ray()
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        with joblib.parallel_config("ray", n_jobs=2):
            two = scssl.tl.benchmark(*asked, **KEYS, seeds=2)
    finally:
        ray.shutdown()
    pd.testing.assert_frame_equal(_values(one), _values(two))


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ({"methods": "SimCRL"}, ValueError, "Did you mean 'SimCLR'"),
        ({"methods": []}, ValueError, "empty"),
        ({"methods": ["PCA", "PCA"]}, ValueError, "twice"),
        ({"methods": {"SimCLR": {"temprature": 1}}}, TypeError, "temperature"),
        ({"methods": {"PCA": {"n_cmps": 1}}}, TypeError, "n_comps"),
        ({"methods": {"scVI": {"n_latnet": 1}}}, TypeError, "n_latent"),
        ({"n_labels": [5, 5]}, ValueError, "n_labels"),
        ({"batch_key": "cell_type"}, ValueError, "two columns"),
        ({"tasks": "embeding"}, ValueError, "embedding"),
        ({"tasks": "modality"}, ValueError, "modality_key"),
        ({"tasks": "mapping", "batch_key": None}, ValueError, "batch_key"),
        ({"label_key": "absent"}, KeyError, "absent"),
        ({"min_cells": 1000}, ValueError, "labels"),
        ({"seeds": [1, 1]}, ValueError, "seeds"),
        ({"split": "blok"}, ValueError, "block"),
        ({"modality_key": "absent", "tasks": "modality"}, KeyError, "absent"),
    ],
)
def test_what_is_wrong_is_said_before_anything_runs(adata, monkeypatch, change, error, said):
    monkeypatch.setattr(_study, "run", lambda *_: pytest.fail("it ran"))
    asked = {"methods": "PCA", "tasks": "embedding", **KEYS, **change}
    with pytest.raises(error, match=said):
        scssl.tl.benchmark(adata, **asked)


def test_the_data_are_not_changed(adata):
    before = adata.copy()
    scssl.tl.benchmark(adata, ["PCA", "X_given"], ["embedding", "annotation"], **KEYS, seeds=1)
    assert (adata.X != before.X).nnz == 0
    pd.testing.assert_frame_equal(adata.obs, before.obs)
    assert set(adata.obsm) == set(before.obsm) and not adata.uns


def test_batches_apart_do_not_mix(adata):
    """Also where a label has fewer cells than neighbours are looked at."""
    own, rng = adata[np.r_[0:60]].copy(), np.random.default_rng(0)
    own.obs["cell_type"] = np.array(list("ab"))[np.arange(60) % 2]
    own.obs["batch"] = np.array(["x", "y"])[(np.arange(60) >= 46).astype(int)]
    own.obsm["apart"] = rng.normal(size=(60, 3)) + 100 * (np.arange(60) >= 46)[:, None]
    own.obsm["mixed"] = rng.normal(size=(60, 3))
    found = scssl.tl.benchmark(own, ["apart", "mixed"], "mapping", **KEYS, seeds=1, min_cells=5)
    mixing = found[found["metric"] == "mixing"].set_index("method")["value"]
    assert (mixing["apart"] == 0).all() and mixing["mixed"].min() > 0.7


def test_unseen_cells_are_told_from_cells_that_were_learned(adata, spy, monkeypatch):
    """Cells of other types that only the left-out batch has are neither."""
    own = adata.copy()
    inside = (own.obs["batch"] == "one").to_numpy()
    rare = inside & (own.obs["cell_type"] == "a").to_numpy()
    own.obs["cell_type"] = own.obs["cell_type"].astype(str).where(~rare, "only there")

    def predict(self, cells):
        labels = own.obs["cell_type"][cells.obs_names]
        known = labels.isin(set(self.seen[-1][0].obs[KNOWN])).to_numpy()
        assert "only there" not in set(labels)
        return pd.DataFrame({"a": np.where(known, 0.9, 0.1)}, index=cells.obs_names)

    monkeypatch.setattr(spy, "predict", predict)
    found = scssl.tl.benchmark(own, "spy", "annotation", **KEYS, seeds=1, min_cells=5)
    unseen = found[(found["metric"] == "unseen_auroc") & (found["fold"] == "one")]
    assert unseen["value"].tolist() == [1.0]


def test_any_name_can_be_a_label(adata):
    own = adata.copy()
    named = {"a": "Unknown", "b": "None"}
    own.obs["cell_type"] = own.obs["cell_type"].astype(str).replace(named)
    asked = ("CellTypist", "embedding")
    one = scssl.tl.benchmark(adata, *asked, **KEYS, seeds=1)
    two = scssl.tl.benchmark(own, *asked, **KEYS, seeds=1)
    assert one["value"].min() > 0.9
    assert two["value"].min() > 0.9


def test_what_is_asked_more_is_run_more(adata, tmp_path, monkeypatch):
    run, ran = _study.run, []
    monkeypatch.setattr(_study, "run", lambda cells, job: ran.append(job) or run(cells, job))
    out = tmp_path / "out"
    asked = {**KEYS, "seeds": 1, "out": out}
    methods = ["PCA", "X_given"]
    scssl.tl.benchmark(adata, methods, "embedding", **asked)
    both = scssl.tl.benchmark(adata, methods, ["embedding", "reconstruction"], **asked)
    assert [job.tasks for job in ran] == [("embedding",)] * 2 + [("reconstruction",)] * 2
    assert set(both["task"]) == {"embedding", "reconstruction"}
    assert not read_results(out).duplicated(["task", "method", "metric", "seed"]).any()
    # What cannot be done is not tried again, and what failed otherwise is.
    ran.clear()
    scssl.tl.benchmark(adata, methods, ["embedding", "reconstruction"], **asked)
    assert not ran
    monkeypatch.setattr(_methods.PCA, "reconstruct", lambda *_: 1 / 0)
    for _ in range(2):
        scssl.tl.benchmark(adata, "PCA", "reconstruction", **{**asked, "out": tmp_path / "other"})
    assert len(ran) == 2


def test_another_embedding_is_scored_anew(adata, tmp_path):
    own = adata.copy()
    asked = {**KEYS, "seeds": 1, "out": tmp_path / "out"}
    one = scssl.tl.benchmark(own, "X_given", "embedding", **asked)
    own.obsm["X_given"] = np.random.default_rng(1).normal(size=(own.n_obs, 10))
    two = scssl.tl.benchmark(own, "X_given", "embedding", **asked)
    assert two["value"].max() < one["value"].min()
    summary = scssl.tl.benchmark_summary(tmp_path / "out", baseline=None)
    assert set(summary["mean"]) == set(two["value"]), "the newest of values of one name"


def test_generators_of_the_user_are_left_alone(adata, spy, monkeypatch):
    import random

    def fit(self, cells, setting):
        np.random.seed(0)  # noqa: NPY002
        random.seed(0)
        self.seen.append((cells, setting))

    monkeypatch.setattr(spy, "fit", fit)
    before = random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    scssl.tl.benchmark(adata, "spy", "embedding", **KEYS, seeds=1)
    assert before == (random.getstate(), np.random.get_state()[1].tolist())  # noqa: NPY002


def test_fits_do_not_share_a_process(adata):
    with (
        joblib.parallel_config("threading", n_jobs=2),
        pytest.raises(ValueError, match="processes"),
    ):
        scssl.tl.benchmark(adata, "PCA", "embedding", **KEYS, seeds=2)


def test_a_group_that_cannot_be_scored_is_not_left_out(adata, caplog):
    own = adata.copy()
    own.obs["cell_type"] = own.obs["cell_type"].astype(object)
    own.obs.loc[own.obs["batch"] == "two", "cell_type"] = None
    found = scssl.tl.benchmark(own, "X_given", "mapping", **KEYS, seeds=1, min_cells=5)
    assert set(found["fold"]) == {"one", "three"} and "1 of 3 groups" in caplog.text


def test_views_across_batches_need_no_graph(adata):
    """It is made of the training part alone."""
    methods = {"VICReg": {"augmentation": "integration", "max_epochs": 1, "n_latent": 4}}
    found = scssl.tl.benchmark(adata, methods, "embedding", **KEYS, seeds=1)
    assert not found["error"].any() and found["value"].notna().all()
    assert not adata.obsp
