"""Figures of scores show the means, intervals and counts that are in the table."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from scipy import stats

import scssl
from scssl._errors import ScsslWarning


@pytest.fixture
def scores():
    """Two arms and a third, five data sets, three seeds, two numbers of labels."""
    generator = np.random.default_rng(0)
    rows = [
        {"dataset": dataset, "arm": arm, "seed": seed, "n_labels": n}
        for dataset in "abcde"
        for arm in ("scratch", "pretrained", "PCA")
        for seed in range(3)
        for n in (20, 5)
    ]
    table = pd.DataFrame(rows)
    return table.assign(f1=generator.random(len(table)), ari=generator.random(len(table)))


def dots(ax):
    return np.asarray(ax.collections[-1].get_offsets())


# --- paired scatter -------------------------------------------------------------------------------


def test_dots_are_means_of_the_arms(scores):
    one = scores[scores["n_labels"] == 5]
    ax = scssl.pl.paired_scatter(one, "f1", x="scratch", y="pretrained", show=False)
    expected = [
        [one[(one["arm"] == arm) & (one["dataset"] == name)]["f1"].mean() for arm in arms]
        for arms in [("scratch", "pretrained")]
        for name in "abcde"
    ]
    np.testing.assert_allclose(dots(ax), expected)
    above = sum(y > x for x, y in expected)
    assert ax.get_title() == f"above: {above} of 5 ({above / 5:.0%})"
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("F1, scratch", "F1, pretrained")
    assert ax.get_xlim() == ax.get_ylim()
    diagonal = ax.get_lines()[0]
    np.testing.assert_array_equal(diagonal.get_xdata(), diagonal.get_ydata())


def test_thin_lines_are_standard_deviations(scores):
    one = scores[scores["n_labels"] == 5]
    ax = scssl.pl.paired_scatter(one, "f1", x="scratch", y="pretrained", show=False)
    (bars,) = ax.containers
    horizontal = bars.lines[2][0].get_segments()
    first = one[(one["arm"] == "scratch") & (one["dataset"] == "a")]["f1"]
    width = horizontal[0][1][0] - horizontal[0][0][0]
    assert width == pytest.approx(2 * np.std(first, ddof=1))
    single = one[one["seed"] == 0]
    ax = scssl.pl.paired_scatter(single, "f1", x="scratch", y="pretrained", show=False)
    assert not ax.containers


def test_panels_of_a_column(scores):
    axes = scssl.pl.paired_scatter(
        scores, "f1", x="scratch", y="PCA", panel_key="n_labels", names=True, show=False
    )
    titles = [ax.get_title().split("\n") for ax in axes]
    assert [title[0] for title in titles] == ["labels: 5", "labels: 20"]
    assert all(title[1].startswith("above: ") for title in titles)
    assert axes[0].get_xlim() == axes[1].get_xlim()
    assert sorted(text.get_text() for text in axes[0].texts if text.get_text()) == list("abcde")
    assert not np.array_equal(dots(axes[0]), dots(axes[1]))


def test_equal_scores_are_not_above():
    table = pd.DataFrame({"dataset": list("abab"), "arm": list("xxyy"), "f1": [0.5, 0.6, 0.5, 0.4]})
    ax = scssl.pl.paired_scatter(table, "f1", x="x", y="y", show=False)
    assert ax.get_title() == "above: 0 of 2 (0%), equal: 1"


def test_pairs_that_are_none(scores):
    scores = scores[scores["n_labels"] == 5].copy()
    lacking = scores.drop(scores.index[(scores["dataset"] == "b")][0])
    with pytest.raises(ValueError, match="'b' has no seed 0 of 'scratch', but of 'pretrained'"):
        scssl.pl.paired_scatter(lacking, "f1", x="scratch", y="pretrained")
    absent = scores[(scores["dataset"] != "c") | (scores["arm"] != "pretrained")]
    with pytest.raises(ValueError, match="'c' has no seed 0, 1, 2 of 'pretrained', but of 'scra"):
        scssl.pl.paired_scatter(absent, "f1", x="scratch", y="pretrained")
    scores.loc[(scores["dataset"] == "d") & (scores["seed"] == 1), "f1"] = np.nan
    with pytest.warns(ScsslWarning, match="1 of 5 data sets are left out, their 'f1' is NaN"):
        ax = scssl.pl.paired_scatter(scores, "f1", x="scratch", y="pretrained", show=False)
    assert len(dots(ax)) == 4


def test_pairs_have_the_same_seeds():
    """As many rows of both arms are not enough."""
    table = pd.DataFrame({"dataset": "a", "arm": list("xxxyyy"), "f1": np.linspace(0, 1, 6)})
    draw = scssl.pl.paired_scatter
    with pytest.raises(ValueError, match="'a' has no seed 3 of 'x', but of 'y'"):
        draw(table.assign(seed=[0, 1, 2, 0, 1, 3]), "f1", x="x", y="y")
    with pytest.raises(ValueError, match="'a' has 2 rows of 'x' with seed 0, and no column says"):
        draw(table.assign(seed=[0, 0, 2, 0, 1, 2]), "f1", x="x", y="y")
    with pytest.raises(ValueError, match="'a' has 3 rows of 'x', and no column .* `repeat_key`"):
        draw(table, "f1", x="x", y="y")
    runs = table.assign(run=[0, 1, 2, 2, 1, 0])
    with pytest.raises(ValueError, match="If they are repeats: `repeat_key='run'`"):
        draw(runs, "f1", x="x", y="y")
    ax = draw(runs, "f1", x="x", y="y", repeat_key="run", show=False)
    np.testing.assert_allclose(dots(ax), [[0.2, 0.8]])
    with pytest.raises(KeyError, match=r"no column 'rnu' \(`repeat_key`\)"):
        draw(runs, "f1", x="x", y="y", repeat_key="rnu")


def test_numbers_of_labels_are_not_averaged(scores):
    """The message has what to type, and what it says works."""
    with pytest.raises(
        ValueError, match="2 rows of 'scratch' with seed 0 that differ in"
    ) as caught:
        scssl.pl.paired_scatter(scores, "f1", x="scratch", y="pretrained")
    assert "`panel_key='n_labels'`" in str(caught.value)
    assert "`scores = scores[scores['n_labels'] == 20]`" in str(caught.value)
    chosen = scores[scores["n_labels"] == 20]
    scssl.pl.paired_scatter(chosen, "f1", x="scratch", y="pretrained", show=False)


@pytest.mark.parametrize("where", ["heap", "line", "corner"])
def test_names_do_not_cover_each_other(where):
    generator = np.random.default_rng(0)
    xy = {
        "heap": generator.normal(0.5, 0.01, (12, 2)),
        "line": np.stack([np.linspace(0.4, 0.6, 12), np.full(12, 0.5)], axis=1),
        "corner": np.concatenate([generator.normal(0.9, 0.004, (11, 2)), [[0.1, 0.1]]]),
    }[where]
    names = [f"a long name {i}" for i in range(12)]
    table = pd.DataFrame({"dataset": names * 2, "arm": ["x"] * 12 + ["y"] * 12, "f1": xy.T.ravel()})
    ax = scssl.pl.paired_scatter(table, "f1", x="x", y="y", names=True, show=False)
    ax.figure.canvas.draw()
    boxes = {t.get_text(): t.get_window_extent() for t in ax.texts if t.get_text()}
    assert set(boxes) == set(names)
    drawn = list(boxes.values())
    for i, one in enumerate(drawn):
        for other in drawn[i + 1 :]:
            overlap = [
                min(one.x1, other.x1) - max(one.x0, other.x0),
                min(one.y1, other.y1) - max(one.y0, other.y0),
            ]
            assert min(overlap) < 1  # pixel


def test_all_comes_after_the_numbers(scores):
    """Of a column of numbers and "all", as evaluations write it, in whatever order rows are."""
    mixed = scores.assign(n_labels=scores["n_labels"].astype(object).replace({5: "all"}))
    mixed = pd.concat([mixed, scores[scores["n_labels"] == 5].assign(n_labels=3)])
    mixed = mixed.sort_values("n_labels", key=lambda column: column.astype(str), ascending=False)
    assert mixed["n_labels"].iloc[0] == "all"
    ax = scssl.pl.metric_bars(mixed, "f1", group_key="n_labels", show=False)
    assert [text.get_text() for text in ax.get_xticklabels()] == ["3", "20", "all"]


def test_paired_scatter_refuses(scores):
    draw = scssl.pl.paired_scatter
    with pytest.raises(ValueError, match="y='tuned' is no arm in 'arm'; there are 'scratch',"):
        draw(scores, "f1", x="scratch", y="tuned")
    with pytest.raises(KeyError, match=r"no column 'task' \(`dataset_key`\); it has 'dataset'"):
        draw(scores, "f1", x="scratch", y="PCA", dataset_key="task")
    with pytest.raises(KeyError, match=r"no column 'kappa' \(`metric`\)"):
        draw(scores, "kappa", x="scratch", y="PCA")
    with pytest.raises(TypeError, match="Column 'dataset' of `scores` must be numbers"):
        draw(scores, "dataset", x="scratch", y="PCA")
    with pytest.raises(TypeError, match="`scores` must be a pandas.DataFrame, found dict"):
        draw({}, "f1", x="scratch", y="PCA")
    _, ax = plt.subplots()
    with pytest.raises(ValueError, match="2 panels do not fit in one `ax`"):
        draw(scores, "f1", x="scratch", y="PCA", panel_key="n_labels", ax=ax)


# --- bars -----------------------------------------------------------------------------------------


def expected_bars(scores, metric):
    """Mean and confidence interval over seeds of the means over the rows of a seed."""
    found = []
    for arm in ("scratch", "pretrained", "PCA"):
        rows = scores[scores["arm"] == arm]
        values = [rows[rows["seed"] == seed][metric].mean() for seed in range(3)]
        low, high = stats.t.interval(0.9, 2, loc=np.mean(values), scale=stats.sem(values))
        found.append((np.mean(values), low, high, sorted(values)))
    return found


def intervals(ax):
    """Ends of the lines of all intervals by arm."""
    lines = [c for c in ax.containers if type(c).__name__ == "ErrorbarContainer"]
    return [[s[:, 1].tolist() for s in one.lines[2][0].get_segments()] for one in lines]


def test_bars_are_means_with_intervals(scores):
    ax = scssl.pl.metric_bars(scores, ["f1", "ari"], interval=0.9, show=False)
    assert [text.get_text() for text in ax.get_xticklabels()] == ["F1", "ARI"]
    bars = [c for c in ax.containers if type(c).__name__ == "BarContainer"]
    for place, metric in enumerate(["f1", "ari"]):
        for number, (mean, low, high, _) in enumerate(expected_bars(scores, metric)):
            assert bars[number].patches[place].get_height() == pytest.approx(mean)
            assert intervals(ax)[number][place] == pytest.approx([low, high])
    _, labels = ax.get_legend_handles_labels()
    assert labels == ["scratch", "pretrained", "PCA"]


def test_small_dots_are_the_repeats(scores):
    ax = scssl.pl.metric_bars(scores, "f1", show=False)
    for drawn, (*_, values) in zip(ax.collections[::2], expected_bars(scores, "f1"), strict=True):
        np.testing.assert_allclose(sorted(np.asarray(drawn.get_offsets())[:, 1]), values)


def test_groups_and_points(scores):
    axes = scssl.pl.metric_bars(scores, ["f1", "ari"], group_key="n_labels", bars=False, show=False)
    assert [ax.get_ylabel() for ax in axes] == ["F1", "ARI"]
    assert axes[0].get_xlabel() == "labels"
    assert [text.get_text() for text in axes[0].get_xticklabels()] == ["5", "20"]
    assert not axes[0].patches
    means = [c for c in axes[0].collections if c.get_label() == "PCA"]
    rows = scores[(scores["arm"] == "PCA")].groupby("n_labels")["f1"].mean()
    np.testing.assert_allclose(np.asarray(means[0].get_offsets())[:, 1], rows)


def test_one_repeat_has_no_interval(scores):
    ax = scssl.pl.metric_bars(scores[scores["seed"] == 0], "f1", show=False)
    assert intervals(ax) == [[], [], []]
    assert len(ax.patches) == 3


def test_every_row_can_be_a_repeat(scores):
    ax = scssl.pl.metric_bars(scores, "f1", repeat_key=None, show=False)
    assert len(ax.collections[0].get_offsets()) == 30


def test_rows_without_a_score(scores):
    scores.loc[0, "f1"] = np.nan
    with pytest.warns(ScsslWarning, match="1 of 30 rows have no 'f1' and are left out"):
        ax = scssl.pl.metric_bars(scores, "f1", show=False)
    assert ax.patches[0].get_height() > 0


def test_metric_bars_refuses(scores):
    with pytest.raises(KeyError, match=r"no column 'run' \(`repeat_key`\)"):
        scssl.pl.metric_bars(scores, "f1", repeat_key="run")
    with pytest.raises(ValueError, match=r"`interval` must be a number in \(0, 1\)"):
        scssl.pl.metric_bars(scores, "f1", interval=95)
    with pytest.raises(ValueError, match="There is nothing to draw"):
        scssl.pl.metric_bars(scores, [])
    _, ax = plt.subplots()
    with pytest.raises(ValueError, match="2 panels do not fit in one `ax`"):
        scssl.pl.metric_bars(scores, ["f1", "ari"], group_key="n_labels", ax=ax)
    assert scssl.pl.metric_bars(scores, "f1", ax=ax) is ax


def test_names_keep_off_the_lines_of_the_standard_deviation():
    rows = [
        {"dataset": name, "arm": arm, "seed": seed, "f1": 0.5 + 0.1 * i + 0.03 * seed}
        for i, name in enumerate(["one", "two", "three"])
        for arm in ("a", "b")
        for seed in range(3)
    ]
    ax = scssl.pl.paired_scatter(pd.DataFrame(rows), "f1", x="a", y="b", names=True, show=False)
    ax.get_figure().draw_without_rendering()
    bars = [
        ax.transData.transform(segment)
        for lines in ax.collections
        if hasattr(lines, "get_segments")
        for segment in lines.get_segments()
    ]
    assert len(bars) == 6
    named = [text for text in ax.texts if text.get_text()]
    assert len(named) == 3
    for text in named:
        box = text.get_window_extent()
        for (x0, y0), (x1, y1) in bars:
            assert x1 < box.x0 or x0 > box.x1 or y1 < box.y0 or y0 > box.y1, text.get_text()
