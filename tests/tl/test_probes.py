"""Probes equal scikit-learn on the same split, test on no cell they learned from, and are seeded."""

from __future__ import annotations

import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from sklearn.linear_model import LogisticRegression, LogisticRegressionCV
from sklearn.metrics import balanced_accuracy_score, f1_score
from sklearn.neighbors import KNeighborsClassifier

import scssl
from scssl._errors import ScsslWarning
from scssl._linear import chosen_logistic, rank_in_class
from scssl._random import derive_generator
from scssl.tl._probes import _permuted
from scssl.tl._protocol import make_protocol

PROBES = [scssl.tl.linear_probe, scssl.tl.knn_probe]
both = pytest.mark.parametrize("probe", PROBES, ids=lambda probe: probe.__name__)
FIRST = ["use_rep", "label_key", "n_train", "n_test", "n_labels"]
SCORES = ["macro_f1", "balanced_accuracy", "weighted_f1", "accuracy"]

# Of the version that the published figures are by.
PINNED = {
    ("linear_probe", None): [
        0.6516754850088183,
        0.6319444444444445,
        0.6798941798941799,
        0.6875,
        1.0,
    ],
    ("knn_probe", None): [0.5051282051282051, 0.5, 0.5884615384615385, 0.625, 15.0],
    ("linear_probe", 5): [0.5863095238095238, 0.6875, 0.5744047619047619, 0.5833333333333334, 0.01],
    ("knn_probe", 5): [0.6695492662473793, 0.6597222222222222, 0.6848794549266247, 0.6875, 5.0],
}


def make(sizes=(120, 80, 40), shift=1.0, n_dims=5, seed=0):
    generator = np.random.default_rng(seed)
    codes = generator.permutation(np.repeat(np.arange(len(sizes)), sizes))
    centers = shift * generator.normal(size=(len(sizes), n_dims))
    values = centers[codes] + generator.normal(size=(len(codes), n_dims))
    obs = pd.DataFrame({"label": pd.Categorical([f"type {code}" for code in codes])})
    obs.index = [f"cell{i}" for i in range(len(codes))]
    obsm = {"X_ssl": values.astype(np.float32), "X_noise": generator.normal(size=values.shape)}
    return ad.AnnData(obs=obs, obsm=obsm)


def halves(adata, seed=0):
    rows = np.random.default_rng(seed).permutation(adata.n_obs)
    return rows[: len(rows) // 2], rows[len(rows) // 2 :]


def protocol_of(adata, **kwargs):
    options = {"split": None, "test_size": 0.2, "n_labels_per_class": None, "seed": 0, **kwargs}
    return make_protocol(adata, adata.obs["label"], label_key="label", **options)


# --- against scikit-learn -------------------------------------------------------------------------


@pytest.mark.parametrize("n_neighbors", [1, 15])
def test_knn_probe_equals_scikit_learn(n_neighbors):
    adata = make()
    train, test = halves(adata)
    row = scssl.tl.knn_probe(adata, "label", split=(train, test), n_neighbors=n_neighbors).iloc[0]
    labels, values = adata.obs["label"].astype(str).to_numpy(), adata.obsm["X_ssl"]
    classifier = KNeighborsClassifier(n_neighbors).fit(values[train], labels[train])
    predicted = classifier.predict(values[test])
    check_scores(row, labels[test], predicted)
    assert 0.4 < row["macro_f1"] < 0.97, "the comparison must not be trivial"


def test_linear_probe_equals_scikit_learn():
    adata = make()
    adata.obsm["X_ssl"] = 3 + adata.obsm["X_ssl"] * np.array([0.01, 1, 1, 1, 100])
    train, test = halves(adata)
    row = scssl.tl.linear_probe(adata, "label", split=(train, test)).iloc[0]
    labels, values = adata.obs["label"].astype(str).to_numpy(), adata.obsm["X_ssl"]
    # Cells of the training part in the order of their rows, as the folds are drawn.
    train = np.sort(train)
    center, factor = values[train].mean(0), np.sqrt(values[train].var(0).mean())
    x, y = (values[train] - center) / factor, labels[train]
    fold = rank_in_class(np.unique(y, return_inverse=True)[1], derive_generator(0, "folds")) % 5
    scores = {}
    for strength in (0.01, 0.1, 1.0, 10.0):
        predicted = np.empty_like(y)
        for i in range(5):
            fitted = LogisticRegression(C=strength, max_iter=1000).fit(x[fold != i], y[fold != i])
            predicted[fold == i] = fitted.predict(x[fold == i])
        scores[strength] = (y == predicted).mean()
    best = max(scores, key=lambda strength: (scores[strength], -strength))
    assert row["inverse_penalty"] == best
    final = LogisticRegression(C=best, max_iter=1000).fit(x, y)
    check_scores(row, labels[test], final.predict((values[test] - center) / factor))


@pytest.mark.parametrize("is_weighted", [False, True])
@pytest.mark.parametrize(("n_genes", "n_labels"), [(5, 2), (5, 4), (200, 2), (200, 4)])
def test_penalty_and_minimum_are_those_of_scikit_learn(n_genes, n_labels, is_weighted):
    """Of more cells than features and of fewer; one label has a single cell, which a fold is without."""
    rng = np.random.default_rng(n_genes)
    y = np.r_[rng.integers(0, n_labels, 90), [n_labels - 1] * 6]
    if n_labels > 2:
        y[(y == 0) & (np.arange(96) > np.flatnonzero(y == 0)[0])] = 1
    x = rng.normal(size=(96, n_genes)) * rng.gamma(1, 1, n_genes)
    x[np.arange(96), y] += 1.5
    weights = np.linspace(0.5, 2, n_labels) if is_weighted else None

    def make(strength):
        options = {"class_weight": dict(enumerate(weights))} if is_weighted else {}
        return LogisticRegression(C=strength, max_iter=100_000, tol=1e-8, **options)

    strength, coefficients, intercepts = chosen_logistic(x, y, 3, weights)
    folds = min(5, np.sort(np.bincount(y))[-2])
    fold = rank_in_class(y, derive_generator(3, "folds")) % folds
    parts = [(fold != i, fold == i) for i in range(folds)]
    right = [
        sum((make(one).fit(x[a], y[a]).predict(x[b]) == y[b]).sum() for a, b in parts)
        for one in (0.01, 0.1, 1.0, 10.0)
    ]
    # To the tolerance at which penalties are compared, a cell may be called otherwise.
    assert right[(0.01, 0.1, 1.0, 10.0).index(strength)] >= max(right) - 1
    assert min(right) < max(right) - 1
    expected, scores = make(strength).fit(x, y), x @ coefficients.T + intercepts
    probabilities = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(probabilities, expected.predict_proba(x), atol=1e-3)


def check_scores(row, known, predicted):
    expected = {
        "macro_f1": f1_score(known, predicted, average="macro"),
        "balanced_accuracy": balanced_accuracy_score(known, predicted),
        "weighted_f1": f1_score(known, predicted, average="weighted"),
        "accuracy": (known == predicted).mean(),
    }
    assert row[SCORES].to_dict() == pytest.approx(expected)


def test_the_nearest_cell_votes():
    """A test cell equal to a training cell is given its label, whatever else is near."""
    adata = make(shift=0.0)
    train, test = halves(adata)
    labels = adata.obs["label"].astype(str).to_numpy()
    adata.obsm["X_ssl"][test] = adata.obsm["X_ssl"][train]
    adata.obs["label"] = labels
    adata.obs.iloc[test, 0] = labels[train]
    score = scssl.tl.knn_probe(adata, "label", split=(train, test), n_neighbors=1)
    assert score.loc[0, "accuracy"] == 1


@both
def test_separate_types_score_one_and_noise_does_not(probe):
    adata = make(shift=30.0)
    scores = probe(adata, "label", use_rep=["X_ssl", "X_noise"])
    assert scores.loc[0, SCORES].tolist() == [1, 1, 1, 1]
    assert scores.loc[1, "balanced_accuracy"] < 0.6


# --- the split ------------------------------------------------------------------------------------


def test_seeded_split_is_stratified_and_disjoint():
    adata = make((100, 55, 7, 3, 2))
    protocol = protocol_of(adata)
    assert not np.intersect1d(protocol.pool, protocol.test).size
    assert len(protocol.pool) + len(protocol.test) == adata.n_obs
    codes = protocol.codes
    assert np.bincount(codes[protocol.test]).tolist() == [20, 11, 1, 1, 1]
    assert np.bincount(codes[protocol.pool]).tolist() == [80, 44, 6, 2, 1]
    np.testing.assert_array_equal(protocol_of(adata).test, protocol.test)
    assert not np.array_equal(protocol_of(adata, seed=1).test, protocol.test)


def test_a_label_of_one_cell_is_only_trained_on():
    protocol = protocol_of(make((50, 30, 1)))
    assert np.bincount(protocol.codes[protocol.pool]).tolist() == [40, 24, 1]
    assert np.bincount(protocol.codes[protocol.test]).tolist() == [10, 6]


@both
def test_ways_to_give_a_split(probe):
    adata = make()
    train, test = halves(adata)
    expected = probe(adata, "label", split=(train, test))[SCORES]
    mask = np.zeros(adata.n_obs, dtype=bool)
    mask[train] = True
    adata.obs["part"] = np.where(mask, "train", "test")
    names = adata.obs_names[train], list(adata.obs_names[test])
    for split in ("part", (mask, ~mask), names, [train.tolist(), test.tolist()]):
        pd.testing.assert_frame_equal(probe(adata, "label", split=split)[SCORES], expected)
    adata.obs["part"] = adata.obs["part"].astype("category")
    pd.testing.assert_frame_equal(probe(adata, "label", split="part")[SCORES], expected)


@both
def test_cells_outside_both_parts_are_not_used(probe):
    adata = make()
    train, test = halves(adata)
    adata.obs["part"] = pd.array([None] * adata.n_obs, dtype="string")
    adata.obs.iloc[train[:-20], 1] = "train"
    adata.obs.iloc[train[-20:], 1] = "validation"
    adata.obs.iloc[test[:50], 1] = "test"
    row = probe(adata, "label", split="part").iloc[0]
    assert row[["n_train", "n_test"]].tolist() == [100, 50]
    adata.obsm["X_ssl"][train[-20:]] = 1e6
    again = probe(adata, "label", split="part").iloc[0]
    pd.testing.assert_series_equal(row, again)


@both
def test_test_cells_do_not_shape_what_is_learned(probe):
    """Predictions for a test cell are the same whatever the other test cells are."""
    adata = make()
    train, test = halves(adata)
    before = probe(adata, "label", split=(train, test[:60]))
    adata.obsm["X_ssl"][test[60:]] *= 1000
    pd.testing.assert_frame_equal(probe(adata, "label", split=(train, test[:60])), before)
    protocol = protocol_of(adata, split=(train, test))
    np.testing.assert_array_equal(protocol.pool, np.sort(train))


@both
def test_a_split_that_overlaps_is_refused(probe):
    adata = make()
    rows = np.arange(adata.n_obs)
    with pytest.raises(
        ValueError, match=r"20 cells are in both parts of `split` \(first: 'cell100'\)"
    ):
        probe(adata, "label", split=(rows[:120], rows[100:]))


@pytest.mark.parametrize(
    ("split", "error", "message"),
    [
        ((np.arange(5),), TypeError, "or a pair .* found tuple"),
        (True, TypeError, "or a pair .* found bool"),
        (1, ValueError, "`split` must be a whole number of at least 2, found 1"),
        (2.5, ValueError, "`split` must be a whole number of at least 2, found 2.5"),
        ("part", KeyError, "adata.obs has no 'part'"),
        ("label", ValueError, "must say 'train' for some cells and 'test' .* found 'type 0', 'typ"),
        (
            ([], [1]),
            ValueError,
            "the training part of `split` must be a list of cells that is not em",
        ),
        (([1], [500]), ValueError, "the test part of `split` has row 500, but `adata` has 240"),
        (([-1], [5]), ValueError, "the training part of `split` has row -1"),
        (([1, 1], [5]), ValueError, "the training part of `split` has 1 cells more than once"),
        (
            (["cell1"], ["cellar"]),
            KeyError,
            "names cells that are not in `adata`, such as 'cellar'",
        ),
        ((np.ones(7, bool), [1]), ValueError, "is a mask of 7 cells, but `adata` has 240"),
        ((np.zeros(240, bool), [1]), ValueError, "the training part of `split` is empty"),
    ],
)
def test_splits_that_are_refused(split, error, message):
    with pytest.raises(error, match=message):
        scssl.tl.knn_probe(make(), "label", split=split)


def test_a_linear_probe_takes_no_folds():
    with pytest.raises(TypeError, match=r"or a pair .* found int"):
        scssl.tl.linear_probe(make(), "label", split=3)


def test_folds_are_those_of_knn_score():
    adata = make()
    options = {"n_neighbors": 7, "n_permutations": 9, "rng": 2}
    score = scssl.tl.knn_score(adata, "label", n_splits=4, **options).iloc[0]
    row = scssl.tl.knn_probe(adata, "label", split=4, **options).iloc[0]
    assert row[["n_train", "n_test", "n_labels"]].tolist() == [180, 240, 3]
    same = ["macro_f1", "accuracy", "null_macro_f1_mean", "null_macro_f1_sd", "p_value"]
    assert row[same].to_dict() == score[same].to_dict()
    assert adata.uns["knn_probe"]["params"]["split"] == "4 folds"
    several = scssl.tl.knn_probe(adata, "label", use_rep=["X_noise", "X_ssl"], split=4, **options)
    assert several.loc[1, same].to_dict() == score[same].to_dict()
    assert several["p_value"].tolist() == [several.loc[0, "p_value"], 0.1]
    with pytest.raises(ValueError, match=r"split=4 folds all labels .* Leave out `n_labels_per_cl"):
        scssl.tl.knn_probe(adata, "label", split=4, n_labels_per_class=5)


def test_null_of_a_split_permutes_within_both_parts():
    adata = make()
    protocol = protocol_of(adata, n_labels_per_class=30)
    for codes in _permuted(protocol, 3, 0):
        for rows in (protocol.train, protocol.test):
            assert not np.array_equal(codes[rows], protocol.codes[rows])
            np.testing.assert_array_equal(np.sort(codes[rows]), np.sort(protocol.codes[rows]))
    row = scssl.tl.knn_probe(adata, "label", n_permutations=19).iloc[0]
    assert row["p_value"] == 1 / 20
    assert row["null_accuracy_mean"] < row["accuracy"]
    noise = [
        scssl.tl.knn_probe(make(seed=seed), "label", use_rep="X_noise", n_permutations=19)
        for seed in range(10)
    ]
    assert 0.2 < np.mean([one.loc[0, "p_value"] for one in noise]) < 0.8


@pytest.mark.parametrize("few", [None, 5])
def test_scores_are_those_of_before(few):
    """Published figures are made of them: the same seed must give the same cells and predictions."""
    adata = make(shift=0.6)
    for probe in PROBES:
        row = probe(adata, "label", rng=3, n_labels_per_class=few).iloc[0]
        found = row[[*SCORES, row.index[-1]]].astype(float).tolist()
        assert found == pytest.approx(PINNED[probe.__name__, few], abs=1e-12)


@both
def test_labels_that_were_not_trained_on_are_left_out_with_a_warning(probe):
    adata = make(shift=30.0)
    is_last = (adata.obs["label"] == "type 2").to_numpy()
    train, test = halves(adata)
    with pytest.warns(ScsslWarning, match=r"test cells are left out: 1 of 3 labels.*'type 2' \("):
        row = probe(adata, "label", split=(train[~is_last[train]], test)).iloc[0]
    assert row["n_test"] == (~is_last[test]).sum()
    assert row["n_labels"] == 2
    assert row["macro_f1"] == 1
    written = adata.uns[probe.__name__]["left_out"]
    assert written == {"type 2": int(is_last[test].sum())}


# --- few labels -----------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 5, 20])
def test_few_labels_per_class(n):
    adata = make((100, 60, 12))
    protocol = protocol_of(adata, n_labels_per_class=n)
    drawn = np.bincount(protocol.codes[protocol.train]).tolist()
    assert drawn == [min(n, size) for size in (80, 48, 10)]
    assert np.isin(protocol.train, protocol.pool).all()
    full = protocol_of(adata)
    np.testing.assert_array_equal(protocol.test, full.test)
    np.testing.assert_array_equal(protocol.pool, full.pool)
    fewer = protocol_of(adata, n_labels_per_class=max(n - 1, 1))
    assert np.isin(fewer.train, protocol.train).all()
    other = protocol_of(adata, n_labels_per_class=n, seed=1)
    assert not np.array_equal(other.train, protocol.train)


@both
def test_more_labels_score_better(probe):
    mean = {
        n: np.mean(
            [
                probe(make(shift=1.5, seed=4), "label", n_labels_per_class=n, rng=rng)[
                    "balanced_accuracy"
                ].iloc[0]
                for rng in range(6)
            ]
        )
        for n in (1, 20, None)
    }
    assert mean[1] < mean[20] <= mean[None] + 0.05


def test_one_label_per_class():
    adata = make(shift=30.0)
    linear = scssl.tl.linear_probe(adata, "label", n_labels_per_class=1).iloc[0]
    assert linear[["n_train", "inverse_penalty", "accuracy"]].tolist() == [3, 0.1, 1]
    knn = scssl.tl.knn_probe(adata, "label", n_labels_per_class=1).iloc[0]
    assert knn[["n_train", "n_neighbors", "accuracy"]].tolist() == [3, 1, 1]
    assert scssl.tl.knn_probe(adata, "label", n_labels_per_class=20).loc[0, "n_neighbors"] == 15


# --- what is returned and written -----------------------------------------------------------------


@both
def test_result_is_returned_and_written(probe, tmp_path):
    adata = make()
    before = adata.copy()
    scores = probe(adata, "label", use_rep=["X_ssl", "X_noise"])
    own = "inverse_penalty" if probe is scssl.tl.linear_probe else "n_neighbors"
    assert list(scores.columns) == [*FIRST, *SCORES, own]
    assert scores["use_rep"].tolist() == ["X_ssl", "X_noise"]
    written = adata.uns[probe.__name__]
    pd.testing.assert_frame_equal(written["scores"], scores)
    table = written["per_class"]
    assert len(table) == 6
    means = table.groupby("use_rep", sort=False)[["f1", "recall"]].mean()
    np.testing.assert_allclose(means.to_numpy(), scores[["macro_f1", "balanced_accuracy"]])
    assert table["n_cells"].sum() == scores["n_test"].sum()
    pd.testing.assert_frame_equal(pd.DataFrame(scores.attrs["per_class"]), table)
    pd.testing.assert_frame_equal(adata.obs, before.obs)
    adata.write_h5ad(tmp_path / "adata.h5ad")
    read = ad.read_h5ad(tmp_path / "adata.h5ad").uns[probe.__name__]
    np.testing.assert_allclose(read["scores"]["macro_f1"], scores["macro_f1"])
    assert read["params"]["n_labels_per_class"] == "all"
    # Rows of several calls can be put together.
    assert len(pd.concat([scores, probe(adata, "label", rng=1)])) == 3


@both
def test_several_representations_are_as_one_by_one(probe):
    adata = make()
    together = probe(adata, "label", use_rep=["X_ssl", "X_noise"])
    for i, key in enumerate(("X_ssl", "X_noise")):
        alone = probe(adata, "label", use_rep=key)
        pd.testing.assert_series_equal(together.loc[i], alone.loc[0], check_names=False)


@both
def test_same_seed_same_score(probe):
    first, again, other = (probe(make(), "label", rng=rng) for rng in (1, 1, 2))
    pd.testing.assert_frame_equal(first, again)
    assert not first[SCORES].equals(other[SCORES])


@both
def test_constant_features_do_not_break(probe):
    adata = make()
    adata.obsm["X_ssl"][:, 2] = 7
    assert probe(adata, "label").notna().all(axis=None)


# --- refused --------------------------------------------------------------------------------------


@both
def test_input_that_is_refused(probe):
    adata = make()
    with pytest.raises(KeyError, match="adata.obsm has no 'X_pca'; it has 'X_ssl', 'X_noise'"):
        probe(adata, "label", use_rep=["X_ssl", "X_pca"])
    with pytest.raises(KeyError, match="adata.obs has no 'cell_type'"):
        probe(adata, "cell_type")
    for use_rep in ([], ["X_ssl", "X_ssl"]):
        with pytest.raises(ValueError, match="`use_rep` must name entries of adata.obsm"):
            probe(adata, "label", use_rep=use_rep)
    adata.obs["one"] = "same"
    with pytest.raises(ValueError, match="at least two labels with training cells.* has 1 among 1"):
        probe(adata, "one")
    adata.obsm["X_ssl"][3, 0] = np.nan
    with pytest.raises(ValueError, match=r"NaN or infinite in 1 of 240 cells \(first: 'cell3'\)"):
        probe(adata, "label")
    adata.obs.loc["cell3", "label"] = np.nan
    with pytest.raises(ValueError, match=r"adata.obs\['label'\] is missing for 1 of 240 cells"):
        probe(adata, "label")


@both
@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"test_size": 0}, "`test_size` must be a number in \\(0, 1\\), found 0"),
        ({"test_size": 1.0}, "`test_size` must be"),
        ({"n_labels_per_class": 0}, "`n_labels_per_class` must be a whole number of at least 1"),
        ({"n_labels_per_class": 2.5}, "`n_labels_per_class` must be"),
    ],
)
def test_parameters_out_of_range(probe, parameters, message):
    with pytest.raises(ValueError, match=message):
        probe(make(), "label", **parameters)


def test_more_neighbors_than_training_cells():
    with pytest.raises(ValueError, match="n_neighbors=193 is more than the 192 training cells"):
        scssl.tl.knn_probe(make(), "label", n_neighbors=193)


def test_no_test_cell_with_a_known_label():
    adata = make()
    last = (adata.obs["label"] == "type 2").to_numpy()
    with (
        pytest.warns(ScsslWarning, match="left out"),
        pytest.raises(ValueError, match="No test cell has a label that training cells have"),
    ):
        scssl.tl.knn_probe(adata, "label", split=(~last, last))


# --- real data ------------------------------------------------------------------------------------


@pytest.mark.realdata
@pytest.mark.slow
def test_pca_of_real_cells_beats_random_projections(data_file):
    import scanpy as sc

    adata = ad.read_h5ad(data_file("pbmc3k.h5ad"))
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    sc.pp.pca(adata, n_comps=50, random_state=0)
    adata.obsm["X_random"] = adata.X @ np.random.default_rng(0).normal(size=(adata.n_vars, 50))
    for probe in PROBES:
        full = probe(adata, "cell_type", use_rep=["X_pca", "X_random"])
        assert full.loc[0, "macro_f1"] > 0.85
        assert full.loc[0, "macro_f1"] > full.loc[1, "macro_f1"] + 0.1
        few = probe(adata, "cell_type", use_rep="X_pca", n_labels_per_class=5)
        assert 0.4 < few.loc[0, "macro_f1"] < full.loc[0, "macro_f1"]


def test_an_empty_key_is_refused():
    adata = ad.AnnData(obs=pd.DataFrame({"label": list("abababab")}, index=list("12345678")))
    adata.obsm["X_ssl"] = np.random.default_rng(0).normal(size=(8, 2))
    for probe in (scssl.tl.linear_probe, scssl.tl.knn_probe):
        with pytest.raises(TypeError, match="`key_added` must be a string that is not empty"):
            probe(adata, "label", key_added="")
    assert not adata.uns


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("n_labels", "n_seeds"), [(5, 5), (20, 5), pytest.param(None, 4, marks=pytest.mark.slow)]
)
def test_the_probe_does_principal_components_justice(data_file, n_labels, n_seeds):
    """As good as what their users do: scikit-learn's choice of a penalty on the raw components."""
    adata = ad.read_h5ad(data_file("pbmc3k.h5ad"))
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    sc.pp.highly_variable_genes(adata, n_top_genes=2000)
    sc.pp.pca(adata)
    values, labels = adata.obsm["X_pca"], adata.obs["cell_type"].astype(str).to_numpy()
    drawn = {"label_key": "cell_type", "split": None, "test_size": 0.2}
    probe, expected = [], []
    for seed in range(n_seeds):
        row = scssl.tl.linear_probe(
            adata, "cell_type", use_rep="X_pca", n_labels_per_class=n_labels, rng=seed
        )
        probe.append(row["macro_f1"][0])
        cells = make_protocol(
            adata, adata.obs["cell_type"], n_labels_per_class=n_labels, seed=seed, **drawn
        )
        with warnings.catch_warnings():
            # Of arguments whose defaults will change.
            warnings.simplefilter("ignore", FutureWarning)
            fitted = LogisticRegressionCV(cv=5, max_iter=10_000).fit(
                values[cells.train], labels[cells.train]
            )
        predicted = fitted.predict(values[cells.test])
        expected.append(f1_score(labels[cells.test], predicted, average="macro"))
    assert np.mean(probe) >= np.mean(expected) - 0.01, (probe, expected)
