"""A summary of a benchmark has the intervals, tests and ranks of its definitions, and hides no failure."""

from __future__ import annotations

import logging

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

import scssl
from scssl._errors import ScsslWarning

# Values of five seeds by method: b beats a in every seed, c is level with b on average.
VALUES = {
    "a": [0.70, 0.72, 0.71, 0.74, 0.73],
    "b": [0.75, 0.78, 0.76, 0.79, 0.77],
    "c": [0.73, 0.80, 0.74, 0.80, 0.76],
}


def table(values=None, **columns):
    """Results of one score, one row a seed, in the columns of `tl.benchmark`."""
    rows = [
        {"method": method, "seed": seed, "value": value}
        for method, of_method in (VALUES if values is None else values).items()
        for seed, value in enumerate(of_method)
    ]
    fixed = {
        **{"data": "pbmc", "task": "embedding", "arguments": "{}", "split": "cell", "fold": ""},
        **{"n_labels": "", "metric": "knn_macro_f1", "seconds": 2.0, "transductive": False},
        "error": "",
    }
    return pd.DataFrame(rows).assign(**(fixed | columns))


def summary_of(results, **arguments):
    found = scssl.tl.benchmark_summary(results, **{"baseline": "a", "simple": ["a"], **arguments})
    return found.set_index("method")


def test_means_and_intervals_are_those_of_student():
    found = summary_of(table(), level=0.9)
    for method, values in VALUES.items():
        row = found.loc[method]
        assert row["mean"] == pytest.approx(np.mean(values))
        expected = stats.t.interval(0.9, 4, np.mean(values), stats.sem(values))
        assert (row["low"], row["high"]) == pytest.approx(expected)
        assert (row["n"], row["n_failed"], row["seconds"]) == (5, 0, 2.0)


def test_intervals_end_where_scores_do():
    """Of two values 12.7 standard errors to each side reach beyond any score; differences may be negative."""
    two = {"a": [0.1, 0.3], "b": [0.9, 0.95]}
    found = summary_of(table(two))
    assert (found.loc["a", "low"], found.loc["b", "high"]) == (0, 1)
    assert found.loc["b", "difference_low"] < 0
    free = summary_of(table(two, metric="rmse"))
    assert free.loc["a", "low"] < -1


def test_differences_are_paired():
    found = summary_of(table())
    for method in "bc":
        expected = stats.ttest_rel(VALUES[method], VALUES["a"])
        row = found.loc[method]
        assert row["difference"] == pytest.approx(np.subtract(VALUES[method], VALUES["a"]).mean())
        assert row["p_value"] == pytest.approx(expected.pvalue)
        interval = expected.confidence_interval(0.95)
        assert (row["difference_low"], row["difference_high"]) == pytest.approx(tuple(interval))
    assert found.loc["a", ["difference", "p_value"]].tolist() == [0, 1]
    none = summary_of(table(), baseline=None)
    assert none[["difference", "difference_low", "p_value"]].isna().all(axis=None)


def test_pairs_are_of_the_same_fold_and_seed():
    """In whatever order rows are, and only where both have a value."""
    folds = pd.concat([table(fold="one"), table({"a": [0.5, 0.6], "b": [0.9, 0.8]}, fold="two")])
    with pytest.warns(ScsslWarning, match="2 values of 'c' are absent that other methods have"):
        found = summary_of(folds[::-1], repeat_keys=("fold", "seed"))
    apart = np.subtract(VALUES["b"], VALUES["a"]).tolist() + [0.4, 0.2]
    assert found.loc["b", "difference"] == pytest.approx(np.mean(apart))
    assert found.loc["b", "p_value"] == pytest.approx(stats.ttest_1samp(apart, 0).pvalue)
    assert found.loc["c", "difference"] == pytest.approx(
        np.subtract(VALUES["c"], VALUES["a"]).mean()
    )
    # Its mean is of one fold alone.
    assert found.loc["c", "rank"] == 3


def test_ranks_have_ties_where_differences_are_uncertain():
    found = summary_of(table())
    assert list(found.index) == ["b", "c", "a"]
    assert found["rank"].tolist() == [1, 1, 3]
    assert found["tied_with_best"].tolist() == [True, True, False]
    wide = summary_of(table(), level=0.999999)
    assert wide["rank"].tolist() == [1, 1, 1]


def test_what_seeds_share_blurs_no_difference():
    """Intervals of the means overlap by far, those of the paired differences exclude 0."""
    shared = np.array([0.3, 0.5, 0.7, 0.4, 0.6])
    step = np.array([0.0, 0.001, -0.001, 0.002, 0.0])
    found = summary_of(table({"a": shared, "b": shared + 0.02 + step}))
    assert found.loc["a", "high"] > found.loc["b", "low"] + 0.1
    assert found["rank"].tolist() == [1, 2]
    assert found["tied_with_best"].tolist() == [True, False]


def test_a_tie_is_with_the_first_of_a_rank_and_not_with_the_one_before():
    """a is tied with b and b with c, but c is worse than a: it does not share its rank."""
    steps = np.array([0.0, 0.01, -0.01, 0.02, -0.02])
    found = summary_of(
        table({"a": 0.9 + steps, "b": 0.893 - steps, "c": 0.88 + steps + steps[::-1] / 10})
    )
    assert found["rank"].tolist() == [1, 1, 3]


def test_less_is_better_where_it_is():
    found = summary_of(table(metric="ece"))
    assert list(found.index) == ["a", "c", "b"]
    assert found["rank"].tolist() == [1, 2, 2]
    assert found.loc["b", "difference"] > 0


def test_scaled_between_the_methods():
    """Integration as published tables have it: lowest 0, highest 1, totals of what is scaled."""
    rng = np.random.default_rng(0)
    bio, batch = ["kmeans_nmi", "clisi_knn", "silhouette_label"], ["bras", "ilisi_knn"]
    raw = pd.DataFrame(rng.random((3, 5)), list("abc"), bio + batch)
    raw["clisi_knn"] = 1.0
    rows = raw.assign(bio_conservation=0.9, batch_correction=0.1, total=0.5).stack().reset_index()
    rows.columns = ["method", "metric", "value"]
    about = {k: table().iloc[0][k] for k in table() if k not in rows} | {"seed": 0}
    rows = rows.assign(**about).assign(task="integration", n_labels="all", split="none")
    found = scssl.tl.benchmark_summary(rows, baseline=None, scaled=True)
    found = found.pivot(index="method", columns="metric", values="mean")
    expected = (raw - raw.min()) / (raw.max() - raw.min())
    expected["clisi_knn"] = 0.5
    expected["bio_conservation"] = expected[bio].mean(axis=1)
    expected["batch_correction"] = expected[batch].mean(axis=1)
    expected["total"] = 0.6 * expected["bio_conservation"] + 0.4 * expected["batch_correction"]
    pd.testing.assert_frame_equal(found[expected.columns], expected, check_names=False)
    plain = summary_of(table(), scaled=True)
    means = pd.Series({method: np.mean(values) for method, values in VALUES.items()})
    np.testing.assert_allclose(
        plain["mean"][means.index], (means - means.min()) / (means.max() - means.min()), atol=1e-12
    )


def test_what_failed_is_counted_and_ranked_last():
    """However good the other values are."""
    results = table()
    results.loc[(results["method"] == "b") & (results["seed"] == 1), "value"] = np.nan
    found = summary_of(results)
    assert list(found.index) == ["c", "a", "b"]
    assert found.loc["b", "mean"] == found["mean"].max()
    assert found.loc["b", ["n", "n_failed", "rank"]].tolist() == [4, 1, 3]
    assert found["tied_with_best"].tolist() == [True, False, False]
    results.loc[results["method"] == "b", "value"] = np.inf
    found = summary_of(results)
    assert found.loc["b", ["n", "n_failed"]].tolist() == [0, 5]
    assert found.loc["b"][["mean", "low", "rank", "difference"]].isna().all()


def test_a_run_that_failed_before_any_score_failed_in_all():
    scores = [
        table({"a": VALUES["a"]}, metric=m, n_labels=n) for m in ("macro_f1", "ece") for n in "15"
    ]
    failed = table(
        {"b": [np.nan] * 5}, metric="", n_labels=["", "", "", "1", "1"], error="no memory"
    )
    with pytest.warns(ScsslWarning, match="4 values of 'b' are absent"):
        found = scssl.tl.benchmark_summary(pd.concat([*scores, failed]), baseline="a")
    assert len(found) == 8
    own = found[found["method"] == "b"].set_index(["n_labels", "metric"])["n_failed"]
    assert own.to_dict() == {
        ("1", "macro_f1"): 5,
        ("1", "ece"): 5,
        ("5", "macro_f1"): 3,
        ("5", "ece"): 3,
    }
    other = table({"b": [np.nan] * 5}, metric=np.nan, task="integration", error="no batches")
    with pytest.warns(
        ScsslWarning, match="Every run of 'integration' on 'pbmc' failed, the first with: no b"
    ):
        found = scssl.tl.benchmark_summary(pd.concat([table(), other]), baseline="a")
    assert set(found["task"]) == {"embedding"}
    with (
        pytest.warns(ScsslWarning, match="Every run"),
        pytest.raises(ValueError, match="`results` has no value: every run failed"),
    ):
        scssl.tl.benchmark_summary(other, baseline=None)


def test_a_run_that_failed_late_has_the_scores_it_had():
    parts = [table(metric=metric, task="integration") for metric in ("bio_conservation", "total")]
    parts[1] = parts[1][(parts[1]["method"] != "b") | (parts[1]["seed"] != 0)]
    failed = table({"b": [np.nan]}, metric="", task="integration", error="no memory")
    found = scssl.tl.benchmark_summary(pd.concat([*parts, failed]), baseline="a")
    counts = found.set_index(["metric", "method"])[["n", "n_failed", "n_absent"]].T
    assert counts["bio_conservation", "b"].tolist() == [5, 0, 0]
    assert counts["total", "b"].tolist() == [4, 1, 0]


def test_one_value_has_no_interval():
    found = summary_of(table({name: values[:1] for name, values in VALUES.items()}))
    assert found["rank"].tolist() == [1, 2, 3]
    assert found["tied_with_best"].isna().tolist() == [False, True, True]
    assert found[["low", "high", "difference_low", "p_value"]].isna().all(axis=None)
    equal = scssl.tl.benchmark_summary(
        table({"a": [0.5], "b": [0.5], "c": [0.4]}), baseline="a", simple="a"
    )
    assert equal["rank"].tolist() == [1, 1, 3]
    assert "cannot be said" in equal.attrs["sentence"]


def test_equal_values_are_tied():
    found = summary_of(table({"a": [0.5, 0.6], "b": [0.5, 0.6]}))
    assert found["rank"].tolist() == [1, 1]
    assert found.loc["b", ["difference", "difference_low", "p_value"]].tolist() == [0, 0, 1]


def test_values_are_averaged_over_what_is_no_repeat():
    sets = {"one": 0.0, "two": 0.04, "three": 0.06}
    results = pd.concat(
        [
            table({m: np.add(v, up * (m == "b")) for m, v in VALUES.items()}, data=data, fold=fold)
            for data, up in sets.items()
            for fold in ("x", "y")
        ]
    )
    found = summary_of(results, repeat_keys=("data",))
    assert set(found["data"]) == {"all"}
    means = [np.mean(VALUES["b"]) + up for up in sets.values()]
    row = found.loc["b"]
    assert row["n"] == 3
    expected = stats.t.interval(0.95, 2, np.mean(means), stats.sem(means))
    assert (row["low"], row["high"]) == pytest.approx(expected)
    assert row["p_value"] == pytest.approx(
        stats.ttest_rel(means, [np.mean(VALUES["a"])] * 3).pvalue
    )
    assert (
        "over data sets a is as good"
        in scssl.tl.benchmark_summary(results, baseline="a", simple="a", repeat_keys="data").attrs[
            "sentence"
        ]
    )
    assert summary_of(results, repeat_keys="seed")["n"].tolist() == [5] * 9
    assert summary_of(results, repeat_keys=("fold", "seed"))["n"].tolist() == [10] * 9
    assert summary_of(results)["n"].tolist() == [2] * 9, "seeds of one fold are no values"


def test_bootstrap():
    g = np.random.default_rng(0)
    values = {"a": g.normal(0.5, 0.1, 200), "b": g.normal(0.53, 0.1, 200)}
    found = summary_of(table(values), interval="bootstrap", rng=1)
    students = summary_of(table(values))
    columns = ["low", "high", "difference_low", "difference_high"]
    np.testing.assert_allclose(found[columns], students[columns], atol=0.003)
    assert found.loc["b", "p_value"] == pytest.approx(students.loc["b", "p_value"], abs=0.01)
    again = summary_of(table(values)[::-1], interval="bootstrap", rng=1)
    pd.testing.assert_frame_equal(found, again, check_exact=True)
    assert not found.equals(summary_of(table(values), interval="bootstrap", rng=2))
    far = {"a": g.random(20), "b": 2 + g.random(20)}
    assert summary_of(table(far), interval="bootstrap").loc["b", "p_value"] == pytest.approx(
        2 / 10_001
    )
    with pytest.warns(ScsslWarning, match="Bootstrap intervals of 5 values are too narrow"):
        summary_of(table(), interval="bootstrap")


def test_methods_are_named_with_the_arguments_that_differ():
    given = ['{"n_latent": 8, "loss": "mse"}', '{"n_latent": 8, "loss": "nb"}', '{"n_latent": 8}']
    parts = [table({"net": VALUES["a"]}, arguments=text) for text in given]
    found = summary_of(pd.concat([*parts, table()]))
    assert set(found.index) == {"net", "net (loss=mse)", "net (loss=nb)", "a", "b", "c"}
    both = pd.concat([table(), table({"b": VALUES["b"]}, transductive=True)])
    found = summary_of(both)
    assert set(found.index) == {"a", "b", "c", "b, transductive"}
    assert found["transductive"].to_dict()["b, transductive"]


def test_the_sentence_says_where_simple_methods_are_as_good():
    names = {"a": "PCA", "b": "SimCLR", "c": "scVI"}
    values = {names[m]: v for m, v in VALUES.items()}
    other = dict(zip(values, [VALUES["b"], VALUES["c"], VALUES["a"]], strict=True))
    results = pd.concat(
        [
            table(values),
            table(other, task="few_labels", metric="macro_f1", n_labels="1"),
            table(other, data="kang"),
        ]
    )
    assert scssl.tl.benchmark_summary(results).attrs["sentence"] == (
        "By 95% intervals of paired differences, on kang PCA is as good as the best of 3 methods in 1 of 1 "
        "scores (embedding: kNN macro-F1) and scVI in none of 1; on pbmc PCA is as good as the best of 3 "
        "methods in 1 of 2 scores (few_labels: macro-F1 with 1 label) and scVI in 1 of 2 (embedding: kNN "
        "macro-F1)."
    )
    alone = scssl.tl.benchmark_summary(table({"PCA": [0.1, 0.2]})).attrs["sentence"]
    assert alone == "One method alone cannot be compared."
    absent = scssl.tl.benchmark_summary(table(), baseline="a").attrs["sentence"]
    assert absent == "How good PCA or scVI would be is not known: not run."


def test_the_sentence_is_logged(caplog):
    with caplog.at_level(logging.INFO, "scssl"):
        found = scssl.tl.benchmark_summary(table(), baseline="a", simple="b")
    assert caplog.messages == [found.attrs["sentence"]]
    assert "b is as good as the best of 3 methods in 1 of 1 scores" in caplog.text


def test_order_of_scores_is_that_of_tasks_labels_and_metrics():
    parts = [("few_labels", "all"), ("few_labels", "20"), ("few_labels", "5"), ("embedding", "")]
    results = pd.concat([table(task=task, n_labels=n, metric="macro_f1") for task, n in parts])
    found = scssl.tl.benchmark_summary(results, baseline="a")
    assert (
        list(found[["task", "n_labels"]].drop_duplicates().itertuples(index=False)) == parts[::-1]
    )


def test_what_was_written_and_read_says_the_same(tmp_path):
    parts = [table(), table(task="few_labels", metric="macro_f1", n_labels="5")]
    results = pd.concat([*parts, table(task="annotation", metric="macro_f1", fold="1")])
    results.to_csv(tmp_path / "results.csv", index=False)
    read = pd.read_csv(tmp_path / "results.csv")
    assert read["n_labels"].dtype.kind == "f"
    one, other = (scssl.tl.benchmark_summary(r, baseline="a") for r in (results, read))
    pd.testing.assert_frame_equal(one, other)


@settings(deadline=None, max_examples=8)
@given(
    order=st.permutations(range(30)),
    values=st.lists(st.one_of(st.floats(0, 1), st.just(float("nan"))), min_size=30, max_size=30),
)
def test_the_order_of_rows_changes_nothing(order, values):
    results = pd.concat([table(), table(metric="ece")], ignore_index=True).assign(value=values)
    found = scssl.tl.benchmark_summary(results, baseline="b")
    again = scssl.tl.benchmark_summary(results.iloc[list(order)], baseline="b")
    pd.testing.assert_frame_equal(found, again, check_exact=True)
    known = found[found["n_failed"] == 0]
    # The mean is within its interval, and no method that failed stands before one that did not.
    assert (known["low"] <= known["mean"]).all()
    for _, rows in found.groupby("metric"):
        assert (rows["n_failed"] > 0).is_monotonic_increasing
        assert rows["rank"].dropna().is_monotonic_increasing
    assert results["value"].isna().sum() == found["n_failed"].sum()


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"baseline": "PCA"}, ValueError, r"no method 'PCA' .* but 'a', 'b', 'c'.*`baseline='a'`"),
        ({"level": 95}, ValueError, "`level` must be a number in"),
        ({"interval": "sd"}, ValueError, "`interval` must be 't' or 'bootstrap'"),
        ({"repeat_keys": ["batch"]}, ValueError, "`repeat_keys` must be 'data', 'fold' or 'seed'"),
        ({"repeat_keys": []}, ValueError, "`repeat_keys` must be"),
        ({"n_bootstrap": 10}, ValueError, "`n_bootstrap` must be a whole number of at least 100"),
    ],
)
def test_bad_arguments_are_refused(arguments, error, match):
    with pytest.raises(error, match=match):
        summary_of(table(), **arguments)


def test_bad_tables_are_refused():
    summary = scssl.tl.benchmark_summary
    with pytest.raises(TypeError, match="`results` must be a pandas.DataFrame, found dict"):
        summary({})
    with pytest.raises(KeyError, match="`results` has no column 'fold'; it has 'method'"):
        summary(table().drop(columns="fold"))
    with pytest.raises(ValueError, match="`results` has no rows"):
        summary(table()[:0])
    with pytest.raises(
        ValueError, match="has 15 values twice, such as 'knn_macro_f1' of 'a' on 'pbmc'"
    ):
        summary(pd.concat([table(), table()]))
    with pytest.raises(ValueError, match="'knn_macro' in column 'metric' .* Is it 'knn_macro_f1'"):
        summary(table(metric="knn_macro"), baseline="a")
    with pytest.raises(TypeError, match="Column 'value' of `results` must be numbers"):
        summary(table().astype({"value": object}).replace({"value": {0.7: "bad"}}), baseline="a")
    with pytest.raises(ValueError, match="'arguments' of `results` must be JSON"):
        summary(table(arguments="n_latent=8"), baseline="a")
