"""knn_score agrees with scikit-learn, knows its null, and refuses what it cannot score."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import accuracy_score, f1_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.neighbors import KNeighborsClassifier

import scssl
from scssl._errors import ScsslWarning
from scssl._random import derive_seed
from scssl.tl._probes import _permuted
from scssl.tl._protocol import make_folds

# Of the version that the published figures are by.
PINNED = {
    "label": {
        "macro_f1": 0.9000374243258119,
        "accuracy": 0.912,
        "null_macro_f1_mean": 0.3275941210453194,
        "null_macro_f1_sd": 0.03476815764700406,
        "null_accuracy_mean": 0.4304,
        "p_value": 0.047619047619047616,
    },
    "ordered": {
        "macro_f1": 0.8951849094068006,
        "accuracy": 0.904,
        "null_macro_f1_mean": 0.3249440656402746,
        "null_macro_f1_sd": 0.04215466665096947,
        "null_accuracy_mean": 0.40560000000000007,
        "p_value": 0.047619047619047616,
    },
    "number": {
        "macro_f1": 0.9000374243258119,
        "accuracy": 0.912,
        "null_macro_f1_mean": 0.3275941210453194,
        "null_macro_f1_sd": 0.03476815764700406,
        "null_accuracy_mean": 0.4304,
        "p_value": 0.047619047619047616,
    },
}


def make(sizes=(60, 40, 25), shift=1.0, n_dims=5, seed=0):
    labels = np.repeat([f"type {i}" for i in range(len(sizes))], sizes)
    generator = np.random.default_rng(seed)
    order = generator.permutation(len(labels))
    centers = shift * generator.normal(size=(len(sizes), n_dims))
    values = generator.normal(size=(len(labels), n_dims)) + np.repeat(centers, sizes, axis=0)
    obs = pd.DataFrame({"label": pd.Categorical(labels[order])})
    obs.index = [f"cell{i}" for i in range(len(labels))]
    return ad.AnnData(obs=obs, obsm={"X_ssl": values[order].astype(np.float32)})


@pytest.mark.parametrize(("n_neighbors", "n_splits", "seed"), [(15, 5, 0), (1, 2, 3), (4, 10, 7)])
def test_equals_scikit_learn(n_neighbors, n_splits, seed):
    adata = make()
    score = scssl.tl.knn_score(
        adata, "label", n_neighbors=n_neighbors, n_splits=n_splits, n_permutations=0, rng=seed
    )
    folds = StratifiedKFold(n_splits, shuffle=True, random_state=derive_seed(seed, "folds") % 2**32)
    labels = adata.obs["label"].to_numpy()
    predicted = cross_val_predict(
        KNeighborsClassifier(n_neighbors), adata.obsm["X_ssl"], labels, cv=folds
    )
    assert score.loc[0, "macro_f1"] == pytest.approx(f1_score(labels, predicted, average="macro"))
    assert score.loc[0, "accuracy"] == pytest.approx(accuracy_score(labels, predicted))
    assert 0.4 < score.loc[0, "macro_f1"] < 1, "the comparison must not be trivial"
    assert score[["null_macro_f1_mean", "null_macro_f1_sd", "p_value"]].isna().all(axis=None)


def test_separate_types_score_one_and_beat_the_null():
    row = scssl.tl.knn_score(make(shift=50.0), "label", n_permutations=49).iloc[0]
    assert row["macro_f1"] == row["accuracy"] == 1
    assert row["p_value"] == 1 / 50
    assert row["null_macro_f1_mean"] < 0.5


def test_noise_scores_as_its_null():
    p_values = [
        scssl.tl.knn_score(make(shift=0.0, seed=seed), "label", n_permutations=39).loc[0, "p_value"]
        for seed in range(20)
    ]
    assert min(p_values) > 0
    assert 0.2 < np.mean(p_values) < 0.8


def test_permutations_keep_the_folds():
    adata = make()
    protocol = make_folds(adata.obs["label"], label_key="label", n_splits=5, seed=0)
    truth = protocol.codes
    permuted = list(_permuted(protocol, 3, 0))
    assert len(permuted) == 3
    for codes in permuted:
        assert not np.array_equal(codes, truth)
        for fold in range(5):
            inside = protocol.fold == fold
            np.testing.assert_array_equal(np.sort(codes[inside]), np.sort(truth[inside]))


@pytest.mark.parametrize("kind", ["label", "ordered", "number"])
def test_scores_are_those_of_before(kind):
    """Published figures are made of them: the same seed must give the same folds, votes and null."""
    adata = make()
    order = ["type 2", "type 0", "type 1"]
    adata.obs["ordered"] = adata.obs["label"].cat.set_categories(order)
    adata.obs["number"] = adata.obs["label"].cat.codes * 7 + 2
    row = scssl.tl.knn_score(adata, kind, n_permutations=20, n_neighbors=4, rng=3).iloc[0]
    assert row.iloc[4:].to_dict() == pytest.approx(PINNED[kind], abs=1e-12)


def test_result_is_returned_and_written(tmp_path):
    adata = make()
    before = adata.obsm["X_ssl"].copy()
    score = scssl.tl.knn_score(adata, "label", n_permutations=2)
    assert list(score.columns) == [
        *("use_rep", "label_key", "n_cells", "n_labels", "macro_f1", "accuracy"),
        *("null_macro_f1_mean", "null_macro_f1_sd", "null_accuracy_mean", "p_value"),
    ]
    written = adata.uns["X_ssl_knn_score"]
    assert {key: written[key] for key in score.columns} == score.iloc[0].to_dict()
    assert written["params"] == {"n_neighbors": 15, "n_splits": 5, "n_permutations": 2, "seed": 0}
    np.testing.assert_array_equal(adata.obsm["X_ssl"], before)
    scssl.tl.knn_score(adata, "label", n_permutations=2, key_added="mine")
    adata.write_h5ad(tmp_path / "adata.h5ad")
    read = ad.read_h5ad(tmp_path / "adata.h5ad").uns["mine"]
    assert read["macro_f1"] == written["macro_f1"]


def test_same_seed_same_score():
    adata = make(shift=0.5)
    first, again, other = (scssl.tl.knn_score(adata, "label", rng=rng) for rng in (1, 1, 2))
    pd.testing.assert_frame_equal(first, again)
    assert not first.equals(other)


def test_rare_labels_are_left_out_with_a_warning():
    adata = make(sizes=(60, 40, 4), shift=50.0)
    with pytest.warns(ScsslWarning, match=r"4 cells are left out: 1 of 3 labels.*'type 2' \(4\)"):
        score = scssl.tl.knn_score(adata, "label", n_permutations=0)
    assert score.loc[0, ["n_cells", "n_labels"]].tolist() == [100, 2]
    assert score.loc[0, "macro_f1"] == 1
    assert adata.uns["X_ssl_knn_score"]["left_out"] == {"type 2": 4}


@pytest.mark.parametrize("kind", ["str", "category", "int", "bool"])
def test_any_kind_of_label(kind):
    adata = make(sizes=(30, 30), shift=50.0)
    codes = adata.obs["label"].cat.codes
    values = {
        "str": codes.map(str),
        "category": codes.astype("category"),
        "int": codes,
        "bool": codes == 1,
    }
    adata.obs["label"] = values[kind]
    assert scssl.tl.knn_score(adata, "label", n_permutations=0).loc[0, "macro_f1"] == 1


def test_unused_categories_are_no_labels():
    adata = make(sizes=(30, 30), shift=50.0)
    adata.obs["label"] = adata.obs["label"].cat.add_categories("absent")
    assert scssl.tl.knn_score(adata, "label", n_permutations=0).loc[0, "n_labels"] == 2


@pytest.mark.parametrize("kind", ["frame", "int", "fortran"])
def test_any_dense_embedding(kind):
    adata = make()
    values = adata.obsm["X_ssl"]
    expected = scssl.tl.knn_score(adata, "label", n_permutations=0)
    if kind == "int":
        adata.obsm["X_ssl"] = np.rint(values * 1e4).astype(np.int64)
    elif kind == "frame":
        adata.obsm["X_ssl"] = pd.DataFrame(values, index=adata.obs_names, columns=list("abcde"))
    else:
        adata.obsm["X_ssl"] = np.asfortranarray(values)
    score = scssl.tl.knn_score(adata, "label", n_permutations=0)
    assert score.loc[0, "macro_f1"] == pytest.approx(expected.loc[0, "macro_f1"], abs=0.02)


def test_missing_keys_name_what_there_is():
    adata = make()
    with pytest.raises(KeyError, match=r"adata.obs has no 'cell_type'; it has 'label'"):
        scssl.tl.knn_score(adata, "cell_type")
    with pytest.raises(
        KeyError, match=r"no 'X_pca'; it has 'X_ssl'.*tl.embed\(adata, model, key_added='X_pca'"
    ):
        scssl.tl.knn_score(adata, "label", use_rep="X_pca")


def test_missing_labels():
    adata = make()
    adata.obs.loc["cell3", "label"] = np.nan
    with pytest.raises(ValueError, match=r"missing for 1 of 125 cells.*notna\(\)\].copy\(\)"):
        scssl.tl.knn_score(adata, "label")


def test_broken_embedding_names_the_cell():
    adata = make()
    adata.obsm["X_ssl"][7, 1] = np.inf
    with pytest.raises(ValueError, match=r"NaN or infinite in 1 of 125 cells \(first: 'cell7'\)"):
        scssl.tl.knn_score(adata, "label")


def test_embedding_of_the_wrong_kind():
    from scipy import sparse

    adata = make()
    adata.obsm["empty"] = np.zeros((125, 0))
    adata.obsm["cube"] = np.zeros((125, 2, 2))
    adata.obsm["sparse"] = sparse.csr_matrix(np.eye(125))
    for key in ("empty", "cube"):
        with pytest.raises(ValueError, match=r"must be \(cells, dimensions\), found shape \(125"):
            scssl.tl.knn_score(adata, "label", use_rep=key)
    with pytest.raises(TypeError, match="must be a dense matrix of numbers, found csr_matrix"):
        scssl.tl.knn_score(adata, "label", use_rep="sparse")


def test_labels_that_cannot_be_scored():
    adata = make()
    adata.obs["one"] = "same"
    adata.obs["unique"] = adata.obs_names
    for key, found in (("one", "1 among 1"), ("unique", "0 among 125")):
        with pytest.raises(
            ValueError, match=f"at least two labels with 5 cells or more.*has {found}"
        ):
            scssl.tl.knn_score(adata, key)


@pytest.mark.parametrize(
    "parameters",
    [
        {"n_neighbors": 0},
        {"n_splits": 1},
        {"n_permutations": -1},
        {"n_neighbors": 1.5},
        {"n_splits": True},
    ],
)
def test_parameters_out_of_range(parameters):
    with pytest.raises(
        ValueError, match=f"`{next(iter(parameters))}` must be a whole number of at least"
    ):
        scssl.tl.knn_score(make(), "label", **parameters)


def test_more_neighbors_than_cells():
    with pytest.raises(ValueError, match="n_neighbors=101 is more than the 100 cells of 4 folds"):
        scssl.tl.knn_score(make(), "label", n_neighbors=101)


def test_not_an_anndata():
    with pytest.raises(TypeError, match="`adata` must be an AnnData, found ndarray"):
        scssl.tl.knn_score(np.eye(3), "label")
