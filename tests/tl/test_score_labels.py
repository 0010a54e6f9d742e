"""Scores of labels equal scikit-learn's; with a hierarchy, descendants count and nothing else does."""

from __future__ import annotations

import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    f1_score,
    precision_recall_fscore_support,
)

import scssl
from scssl._checks import whole_numbers
from scssl._scores import calibration_error, reliability
from scssl.tl._score_labels import descendants

TABLE = {
    "blood": ["lymphocyte", "monocyte"],
    "lymphocyte": ["T", "B"],
    "T": ["CD4 T", "CD8 T"],
    "CD4 T": ["Treg"],
}


def make(known, found, **columns):
    obs = pd.DataFrame({"known": known, "found": found, **columns})
    obs.index = [f"cell{i}" for i in range(len(obs))]
    return ad.AnnData(obs=obs)


def random_labels(seed=0, n=300):
    generator = np.random.default_rng(seed)
    known = generator.choice(list("ABCDE"), n, p=[0.5, 0.2, 0.15, 0.1, 0.05])
    found = np.where(generator.random(n) < 0.6, known, generator.choice(list("ABCDF"), n))
    return known, found


@pytest.mark.parametrize("seed", range(3))
def test_equals_scikit_learn(seed):
    known, found = random_labels(seed)
    adata = make(known, found)
    row = scssl.tl.score_labels(adata, "known", "found").iloc[0]
    labels = sorted(set(known))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="y_pred contains classes not in y_true")
        expected = {
            "macro_f1": f1_score(known, found, labels=labels, average="macro", zero_division=0),
            "balanced_accuracy": balanced_accuracy_score(known, found),
            "weighted_f1": f1_score(
                known, found, labels=labels, average="weighted", zero_division=0
            ),
            "accuracy": accuracy_score(known, found),
        }
    assert row[list(expected)].to_dict() == pytest.approx(expected)
    assert row["accuracy"] == pytest.approx(f1_score(known, found, average="micro"))
    assert (row["n_cells"], row["n_labels"]) == (300, 5)
    table = adata.uns["found_scores"]["per_class"]
    parts = precision_recall_fscore_support(known, found, labels=labels, zero_division=0)
    assert table["label"].tolist() == labels
    for column, values in zip(("precision", "recall", "f1", "n_cells"), parts, strict=True):
        np.testing.assert_allclose(table[column], values)
    assert table["n_predicted"].tolist() == [(found == label).sum() for label in labels]


def test_unknown_is_an_error_and_its_share_is_told():
    adata = make(list("AABB"), ["A", "unknown", "B", "unknown"])
    row = scssl.tl.score_labels(adata, "known", "found").iloc[0]
    assert row[["accuracy", "unknown_share", "n_labels"]].tolist() == [0.5, 0.5, 2]
    assert row["macro_f1"] == pytest.approx(2 / 3)
    row = scssl.tl.score_labels(adata, "known", "found", unknown_label="none").iloc[0]
    assert row["unknown_share"] == 0


def test_categories_that_no_cell_has_and_predictions_that_are_no_label():
    known = pd.Categorical(list("AAB"), categories=list("ABC"))
    found = pd.Categorical(list("AZB"), categories=list("ABZ"))
    row = scssl.tl.score_labels(make(known, found), "known", "found").iloc[0]
    assert row["n_labels"] == 2
    assert row["balanced_accuracy"] == 0.75


def test_numbers_and_strings_are_the_same_names():
    row = scssl.tl.score_labels(make([0, 1, 1], ["0", "1", "0"]), "known", "found").iloc[0]
    assert row["accuracy"] == pytest.approx(2 / 3)


# --- hierarchy ------------------------------------------------------------------------------------


def test_descendants_count_ancestors_and_siblings_do_not():
    adata = make(
        known=["T", "T", "T", "T", "CD4 T", "B", "monocyte"],
        found=["T", "CD8 T", "Treg", "B", "T", "B", "blood"],
    )
    score = scssl.tl.score_labels(adata, "known", "found", children=TABLE)
    row = score.iloc[0]
    assert row["accuracy"] == pytest.approx(2 / 7)
    assert row["hierarchical_accuracy"] == pytest.approx(4 / 7)
    # Treg for T counts as T: of four T cells three are right, one is taken for B.
    table = adata.uns["found_scores"]["per_class"].set_index("label")
    assert table.loc["T", ["recall", "hierarchical_recall"]].tolist() == [0.25, 0.75]
    assert table.loc["T", "hierarchical_precision"] == pytest.approx(3 / 4)
    assert table.loc["B", "hierarchical_precision"] == pytest.approx(1 / 2)
    assert row["hierarchical_macro_f1"] == pytest.approx(table["hierarchical_f1"].mean())
    assert row["hierarchical_balanced_accuracy"] == pytest.approx((0.75 + 0 + 1 + 0) / 4)


def test_hierarchical_scores_against_a_loop():
    generator = np.random.default_rng(0)
    names = sorted(descendants(TABLE))
    known, found = generator.choice(names, 200), generator.choice(names, 200)
    row = scssl.tl.score_labels(make(known, found), "known", "found", children=TABLE).iloc[0]

    def is_below(name, other):
        return any(child == name or is_below(name, child) for child in TABLE.get(other, []))

    right = [a == b or is_below(b, a) for a, b in zip(known, found, strict=True)]
    assert row["hierarchical_accuracy"] == pytest.approx(np.mean(right))
    assert row["hierarchical_accuracy"] > row["accuracy"]


def test_a_table_without_relatives_changes_nothing():
    known, found = random_labels()
    table = {name: [] for name in "ABCDEF"}
    row = scssl.tl.score_labels(make(known, found), "known", "found", children=table).iloc[0]
    for name in ("macro_f1", "balanced_accuracy", "weighted_f1", "accuracy"):
        assert row[f"hierarchical_{name}"] == row[name]


def test_a_frame_is_the_same_table():
    frame = pd.DataFrame(
        [(parent, child) for parent, found in TABLE.items() for child in found],
        columns=["parent", "child"],
    )
    assert descendants(frame) == descendants(TABLE)
    assert descendants(TABLE)["lymphocyte"] == {"T", "B", "CD4 T", "CD8 T", "Treg"}
    assert descendants(TABLE)["Treg"] == frozenset()


def test_a_name_with_two_parents_and_a_deep_table():
    diamond = {"a": ["b", "c"], "b": ["d"], "c": ["d"]}
    assert descendants(diamond)["a"] == {"b", "c", "d"}
    chain = {str(i): [str(i + 1)] for i in range(3000)}
    assert len(descendants(chain)["0"]) == 3000


@pytest.mark.parametrize(
    ("table", "loop"),
    [
        ({"a": ["b"], "b": ["c"], "c": ["a"]}, "'a' → 'b' → 'c' → 'a'"),
        ({"a": ["a"]}, "'a' → 'a'"),
        ({"x": ["a"], "a": ["b"], "b": ["a"]}, "'a' → 'b' → 'a'"),
    ],
)
def test_circles_are_refused(table, loop):
    with pytest.raises(ValueError, match=f"goes in a circle.*{loop}"):
        descendants(table)


def test_names_that_the_table_does_not_know_are_refused():
    adata = make(["T", "B"], ["T", "NKT"])
    with pytest.raises(
        ValueError,
        match=r"does not know 1 of the labels in adata.obs\['found'\]: 'NKT'.*\['?NKT|NKT",
    ):
        scssl.tl.score_labels(adata, "known", "found", children=TABLE)
    adata = make(["T", "Bee"], ["T", "B"])
    with pytest.raises(ValueError, match=r"labels in adata.obs\['known'\]: 'Bee'"):
        scssl.tl.score_labels(adata, "known", "found", children=TABLE)
    # No prediction is no name.
    adata = make(["T", "B"], ["Treg", "unknown"])
    row = scssl.tl.score_labels(adata, "known", "found", children=TABLE).iloc[0]
    assert row["hierarchical_accuracy"] == 0.5


@pytest.mark.parametrize(
    ("table", "error", "message"),
    [
        (
            pd.DataFrame({"is_a": ["T"], "name": ["B"]}),
            ValueError,
            "needs the columns 'parent' and",
        ),
        (
            {"T": "CD4 T"},
            TypeError,
            r"found a string for 'T'. Write `children\['T'\] = \['CD4 T'\]`",
        ),
        ([("T", "CD4 T")], TypeError, "must be a dict of lists or a DataFrame .* found list"),
        ({"T": [1]}, TypeError, "must be strings that are not empty, found 1"),
        ({"T": [""]}, TypeError, "must be strings that are not empty, found ''"),
    ],
)
def test_other_tables_are_refused(table, error, message):
    with pytest.raises(error, match=message):
        descendants(table)


# --- confidence -----------------------------------------------------------------------------------


def slow_error(confidence, right, n_bins=15):
    total = 0.0
    for i in range(n_bins):
        low, high = i / n_bins, (i + 1) / n_bins
        inside = [(c, r) for c, r in zip(confidence, right, strict=True) if low < c <= high]
        if i == 0:
            inside += [(c, r) for c, r in zip(confidence, right, strict=True) if c == 0]
        if inside:
            c, r = np.mean(inside, axis=0)
            total += len(inside) / len(confidence) * abs(c - r)
    return total


def test_expected_calibration_error_against_a_loop():
    generator = np.random.default_rng(0)
    known, found = random_labels()
    confidence = generator.random(300)
    confidence[:3] = [0, 1, 0.2]
    adata = make(known, found, sure=confidence)
    row = scssl.tl.score_labels(adata, "known", "found", confidence_key="sure").iloc[0]
    assert row["ece"] == pytest.approx(slow_error(confidence, known == found))


def test_cells_that_were_given_no_label_are_no_part_of_the_calibration_error():
    """A cell called unknown is no label that was wrong, however sure the label that it lost was."""
    generator = np.random.default_rng(0)
    known, found = random_labels()
    confidence = generator.random(300)
    call = np.where(generator.random(300) < 0.3, "unknown", found)
    adata = make(known, found, sure=confidence, call=call)
    row = scssl.tl.score_labels(adata, "known", "call", confidence_key="sure").iloc[0]
    kept = call != "unknown"
    assert row["ece"] == pytest.approx(slow_error(confidence[kept], (known == found)[kept]))
    assert row["unknown_share"] == pytest.approx(1 - kept.mean())
    adata.obs["call"] = "unknown"
    row = scssl.tl.score_labels(adata, "known", "call", confidence_key="sure").iloc[0]
    assert np.isnan(row["ece"])


def test_calibration_error_of_known_cases():
    right = np.repeat([True, False], [80, 20])
    assert calibration_error(reliability(np.full(100, 0.8), right)) == pytest.approx(0)
    assert calibration_error(reliability(np.full(100, 1.0), right)) == pytest.approx(0.2)
    assert calibration_error(reliability(np.zeros(100), right)) == pytest.approx(0.8)


def test_confidences_that_are_no_probabilities():
    for wrong in (1.5, -0.1, np.nan):
        adata = make(list("AB"), list("AB"), sure=[0.5, wrong])
        with pytest.raises(
            ValueError, match=r"probabilities from 0 to 1, found .* in cell 'cell1'"
        ):
            scssl.tl.score_labels(adata, "known", "found", confidence_key="sure")


# --- the rest -------------------------------------------------------------------------------------


def test_result_is_returned_and_written(tmp_path):
    known, found = random_labels()
    adata = make(known, found)
    score = scssl.tl.score_labels(adata, "known", "found", key_added="mine")
    pd.testing.assert_frame_equal(adata.uns["mine"]["scores"], score)
    adata.write_h5ad(tmp_path / "adata.h5ad")
    read = ad.read_h5ad(tmp_path / "adata.h5ad").uns["mine"]
    assert read["scores"]["macro_f1"].iloc[0] == score["macro_f1"].iloc[0]
    assert read["per_class"]["label"].tolist() == list("ABCDE")


def test_missing_columns_and_labels():
    adata = make(list("AB"), ["A", None])
    with pytest.raises(KeyError, match="adata.obs has no 'pred'; it has 'known', 'found'"):
        scssl.tl.score_labels(adata, "known", "pred")
    with pytest.raises(ValueError, match=r"adata.obs\['found'\] is missing for 1 of 2 cells"):
        scssl.tl.score_labels(adata, "known", "found")
    with pytest.raises(KeyError, match="adata.obs has no 'sure'"):
        scssl.tl.score_labels(adata, "known", "known", confidence_key="sure")
    with pytest.raises(ValueError, match="has no cells"):
        scssl.tl.score_labels(adata[:0].copy(), "known", "known")


def test_whole_numbers_are_the_same_names_however_they_are_stored():
    known = np.random.default_rng(0).integers(0, 3, 60)
    strings = np.where(np.arange(60) < 50, known, (known + 1) % 3).astype(str)
    for column in (known, known.astype(float), pd.Categorical(known.astype(float))):
        scores = scssl.tl.score_labels(make(column, strings), "known", "found").iloc[0]
        assert scores["accuracy"] == pytest.approx(50 / 60)
    for fractions in ([0.5, 1.0, 1.5], [np.inf, 1.0, 2.0]):
        values = pd.Series(fractions)
        assert whole_numbers(values) is values
    found = whole_numbers(pd.Series([1.0, np.nan, 2.0]))
    assert found.dropna().astype(str).tolist() == ["1", "2"]
    assert found.isna().tolist() == [False, True, False]
