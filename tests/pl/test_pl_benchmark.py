"""Figures of a benchmark show its numbers, and what failed in it; they look as they did."""

from __future__ import annotations

import json
import os
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.text import Text
from scipy import stats

import scssl
from scssl.pl._figure import PALETTE, line_style

BASELINES = Path(__file__).parent / "baselines"
# By which images may differ (root mean square of 0 to 255): a bar less is more.
TOLERANCE = 4
METHODS = {"PCA": 0.80, "scVI": 0.82, "Harmony": 0.79, "SimCLR": 0.84}
SCORES = [
    ("embedding", "cell", "", "knn_macro_f1", 0.0),
    ("annotation", "batch", "", "macro_f1", 0.02),
    ("annotation", "batch", "", "ece", -0.7),
    *(
        ("few_labels", "cell", n, "macro_f1", 0.1 * i - 0.3)
        for i, n in enumerate(("1", "5", "all"))
    ),
]


def make(data="pbmc", up=0.0, n_seeds=4):
    """Results of four methods; Harmony failed in some."""
    rows = [
        {
            **{"data": data, "task": task, "split": split, "n_labels": n, "metric": metric},
            **{"method": method, "seed": seed, "seconds": 10.0**i / 5, "error": ""},
            "value": level + shift + up + 0.01 * ((seed * (i + 1)) % 5) - 0.02,
        }
        for task, split, n, metric, shift in SCORES
        for i, (method, level) in enumerate(METHODS.items())
        for seed in range(n_seeds)
    ]
    table = pd.DataFrame(rows).assign(arguments="{}", fold="", transductive=False)
    harmony = table["method"] == "Harmony"
    table.loc[harmony & (table["task"] == "few_labels"), "value"] = np.nan
    table.loc[harmony & (table["metric"] == "ece") & (table["seed"] == 1), "value"] = np.nan
    return table


@pytest.fixture
def results():
    return make()


@pytest.fixture
def runs():
    """One method with two arguments and with pairs."""

    def table(arguments, values):
        rows = [
            (json.dumps(a), v, s) for a, v in zip(arguments, values, strict=True) for s in (0, 1)
        ]
        made = pd.DataFrame(rows, columns=["arguments", "value", "seed"])
        made["value"] += 0.1 * made["seed"]
        return made.assign(
            **{"data": "pbmc", "task": "embedding", "metric": "knn_macro_f1", "split": "cell"},
            **{"fold": "", "n_labels": "", "method": "SimCLR", "seconds": 1.0},
        )

    return table


def texts(ax, gid):
    return [text.get_text() for text in ax.texts if text.get_gid() == gid]


def cells(ax, n_methods=4):
    """Numbers of the table by method and head of the column."""
    found = np.reshape(texts(ax, "cell"), (-1, n_methods))
    return pd.DataFrame(dict(zip(texts(ax, "head"), found, strict=True)), index=texts(ax, "method"))


# --- table ----------------------------------------------------------------------------------------


def test_the_table_has_the_numbers_of_the_summary(results):
    ax = scssl.pl.benchmark(results, show=False)
    table = cells(ax)
    assert texts(ax, "group") == ["overall", "embedding", "few labels", "annotation", ""]
    assert list(table) == [
        *("mean of\ntasks", "kNN\nmacro-F1", "macro-F1\n1 label", "macro-F1\n5 labels"),
        *("macro-F1\nall labels", "macro-F1", "calibration\nerror ↓", "seconds"),
    ]
    summary = scssl.tl.benchmark_summary(results).set_index(["metric", "n_labels", "method"])
    for head, score in (
        ("kNN\nmacro-F1", ("knn_macro_f1", "")),
        ("macro-F1\n5 labels", ("macro_f1", "5")),
    ):
        for method in ("PCA", "scVI", "SimCLR"):
            assert float(table.loc[method, head]) == pytest.approx(
                summary.loc[(*score, method), "mean"], abs=0.0005
            )
    assert table["seconds"].to_dict() == {
        "PCA": "0.2",
        "scVI": "2.0",
        "Harmony": "20",
        "SimCLR": "200",
    }


def test_methods_are_ordered_by_their_overall_mean_and_failures_stand_last(results):
    ax = scssl.pl.benchmark(results, show=False)
    table = cells(ax)
    assert list(table.index) == ["SimCLR", "scVI", "PCA", "Harmony"]
    means = (
        results[results["method"] == "scVI"].groupby(["task", "metric", "n_labels"])["value"].mean()
    )
    tasks = [
        means["embedding"].mean(),
        means["few_labels"].mean(),
        (means["annotation"]["macro_f1"].item() + 1 - means["annotation"]["ece"].item()) / 2,
    ]
    assert float(table.loc["scVI", "mean of\ntasks"]) == pytest.approx(np.mean(tasks), abs=0.0005)
    assert table.loc["Harmony", "mean of\ntasks"] == "–"
    assert table.loc["Harmony", "macro-F1\n1 label"] == "failed"
    assert table.loc["Harmony", "calibration\nerror ↓"].endswith("*")
    assert "some runs failed" in ax.texts[-1].get_text()
    # However good the rest of it is.
    results.loc[results["method"] == "Harmony", "value"] += 0.15
    assert cells(scssl.pl.benchmark(results, show=False)).index[-1] == "Harmony"


def test_total_is_the_score_of_its_task(results):
    parts = [
        results[results["metric"] == "macro_f1"].assign(
            task="integration", n_labels="", split="none"
        )
    ]
    parts = [
        parts[0].drop_duplicates(["method", "seed"]).assign(metric=m)
        for m in ("batch_correction", "total")
    ]
    parts[0]["value"] = 0.0
    ax = scssl.pl.benchmark(pd.concat(parts), show=False)
    table = cells(ax)
    assert list(table["mean of\ntasks"]) == list(table["total"])


def test_bars_and_lines_are_means_and_intervals(results):
    ax = scssl.pl.benchmark(results, "knn_macro_f1", level=0.9, show=False)
    assert texts(ax, "group") == ["embedding", ""]
    values = results[results["metric"] == "knn_macro_f1"].groupby("method")["value"].apply(list)
    order = texts(ax, "method")
    bars = [patch for patch in ax.patches if patch.get_width() < 0.5]
    widths = np.array([bar.get_width() for bar in bars])
    means = np.array([np.mean(values[method]) for method in order])
    np.testing.assert_allclose(widths / widths[0], means / means[0])
    scale = widths[0] / means[0]
    zero = bars[0].get_x()
    lines = [c for c in ax.containers if isinstance(c, ErrorbarContainer)]
    for method, line in zip(order, lines, strict=True):
        (segment,) = line.lines[2][0].get_segments()
        expected = stats.t.interval(0.9, 3, np.mean(values[method]), stats.sem(values[method]))
        np.testing.assert_allclose((segment[:, 0] - zero) / scale, expected)


def test_bold_is_what_is_not_told_apart_from_the_best(results):
    ax = scssl.pl.benchmark(results, "knn_macro_f1", show=False)
    bold = [t.get_text() for t in ax.texts if t.get_weight() == "bold"]
    summary = scssl.tl.benchmark_summary(results)
    of_score = summary[summary["metric"] == "knn_macro_f1"]
    assert len(bold) == of_score["tied_with_best"].sum() < 4
    assert bold[0] == f"{of_score['mean'].max():.3f}"[1:]


def test_several_data_sets_are_averaged_with_intervals_over_them():
    both = pd.concat([make(), make("kang", 0.05), make("worm", -0.03)])
    ax = scssl.pl.benchmark(both, "knn_macro_f1", show=False)
    assert "mean of 3 data sets" in ax.texts[-1].get_text()
    found = scssl.tl.benchmark_summary(both, repeat_keys="data").set_index(["metric", "method"])
    mean = found.loc[("knn_macro_f1", "PCA"), "mean"]
    assert cells(ax).loc["PCA", "kNN\nmacro-F1"] == f"{mean:.3f}"[1:]
    one = scssl.pl.benchmark(both, "knn_macro_f1", data="kang", show=False)
    alone = scssl.pl.benchmark(make("kang", 0.05), "knn_macro_f1", show=False)
    assert cells(one).equals(cells(alone))


def test_two_columns_fit_in_a_column_of_a_journal(results):
    ax = scssl.pl.benchmark(results, ["knn_macro_f1", "ece"], show=False)
    figure = ax.get_figure()
    assert figure.get_size_inches()[0] <= 89 / 25.4
    figure.draw_without_rendering()
    assert min(text.get_fontsize() for text in ax.texts) >= 6
    boxes = [t.get_window_extent() for t in ax.texts if t.get_text()]
    edges = figure.bbox
    assert all(edges.x0 <= box.x0 and box.x1 <= edges.x1 + 1 for box in boxes)
    overlaps = [
        (one, other)
        for i, one in enumerate(boxes)
        for other in boxes[i + 1 :]
        if min(one.x1, other.x1) - max(one.x0, other.x0) > 1
        and min(one.y1, other.y1) - max(one.y0, other.y0) > 1
    ]
    assert not overlaps


def test_errors_without_a_limit_are_shown_and_not_in_the_overall_mean(results):
    errors = results[results["metric"] == "knn_macro_f1"].assign(metric="rmse", task="modality")
    both = pd.concat([results[results["metric"] == "knn_macro_f1"], errors])
    table = cells(scssl.pl.benchmark(both, show=False))
    assert list(table["mean of\ntasks"]) == list(table["kNN\nmacro-F1"])
    alone = cells(scssl.pl.benchmark(errors, show=False))
    assert list(alone.index) == ["Harmony", "PCA", "scVI", "SimCLR"]


def test_the_table_refuses(results):
    with pytest.raises(ValueError, match="`results` has no metric 'ari', but 'knn_macro_f1'"):
        scssl.pl.benchmark(results, ["ari"])
    with pytest.raises(ValueError, match="`results` has no data 'kang', but 'pbmc'"):
        scssl.pl.benchmark(results, data="kang")
    with pytest.raises(ValueError, match=r"nothing of metric=\[\]"):
        scssl.pl.benchmark(results, [])
    with pytest.raises(TypeError, match="`results` must be a pandas.DataFrame"):
        scssl.pl.benchmark({})


# --- few labels -----------------------------------------------------------------------------------


def test_curves_are_means_with_bands(results):
    ax = scssl.pl.few_label_curve(results, level=0.9, show=False)
    assert [text.get_text() for text in ax.get_xticklabels()] == ["1", "5", "all"]
    assert (ax.get_ylabel(), ax.get_title()) == ("macro-F1", "pbmc")
    rows = results[results["task"] == "few_labels"]
    lines = {line.get_label(): line for line in ax.get_lines()}
    assert list(lines) == ["SimCLR", "scVI", "PCA", "Harmony (12 failed)"]
    for number, (method, line) in enumerate(list(lines.items())[:3]):
        own = rows[rows["method"] == method].groupby("n_labels")["value"]
        np.testing.assert_allclose(line.get_ydata(), own.mean()[["1", "5", "all"]])
        band = ax.collections[number].get_paths()[0].vertices
        first = own.get_group("1")
        low, high = stats.t.interval(0.9, 3, first.mean(), stats.sem(first))
        edge = band[band[:, 0] == 0, 1]
        assert (edge.min(), edge.max()) == pytest.approx((low, high))
    assert np.isnan(lines["Harmony (12 failed)"].get_ydata()).all()


def test_colour_is_never_all_that_tells_lines_apart(results):
    ax = scssl.pl.few_label_curve(results, show=False)
    looks = [(line.get_linestyle(), line.get_marker()) for line in ax.get_lines()]
    assert len(set(looks)) == 4
    styles = [line_style(number) for number in range(28)]
    assert len({(one["linestyle"], one["marker"]) for one in styles}) == 28
    assert {one["color"] for one in styles} == set(PALETTE)


def test_a_panel_of_each_data_set():
    both = pd.concat([make(), make("kang", 0.05)])
    axes = scssl.pl.few_label_curve(both, show=False)
    assert [ax.get_title() for ax in axes] == ["kang", "pbmc"]
    one = scssl.pl.few_label_curve(both, data="kang", show=False)
    np.testing.assert_array_equal(
        axes[0].get_lines()[0].get_ydata(), one.get_lines()[0].get_ydata()
    )
    _, ax = plt.subplots()
    with pytest.raises(ValueError, match="2 panels do not fit in one `ax`: give `data='kang'`"):
        scssl.pl.few_label_curve(both, ax=ax)


def test_the_curve_refuses(results):
    few = results[results["task"] == "few_labels"]
    both = pd.concat([few.assign(metric=name) for name in ("accuracy", "knn_accuracy")])
    with pytest.raises(
        ValueError, match="several values of 'metric'.* Choose one: `metric='accuracy'`"
    ):
        scssl.pl.few_label_curve(both)
    # Macro-F1 is what is drawn unless another score is asked for.
    axes = scssl.pl.few_label_curve(pd.concat([both, few]), show=False)
    assert axes.get_ylabel() == "macro-F1"
    with pytest.raises(ValueError, match="has no task 'few_labels', but 'embedding', 'annotation'"):
        scssl.pl.few_label_curve(results[results["task"] != "few_labels"])


# --- arguments ------------------------------------------------------------------------------------


GRID = [{"temperature": t, "n_latent": n, "loss": "nt_xent"} for t in (0.5, 0.1) for n in (32, 8)]


def drawn(ax):
    """Numbers of the fields, row by row."""
    shape = len(ax.get_yticks()), len(ax.get_xticks())
    found = np.full(shape, "", dtype=object)
    for text in ax.texts:
        column, row = text.get_position()
        found[row, column] = text.get_text()
    return found.tolist()


def frame(ax):
    (patch,) = ax.patches
    assert to_hex(patch.get_edgecolor()) == PALETTE[1].lower()
    return patch.get_x() + 0.5, patch.get_y() + 0.5


def test_fields_are_means_by_two_arguments(runs):
    ax = scssl.pl.ablation(runs(GRID, [0.1, 0.2, 0.3, 0.4]), "temperature", "n_latent", show=False)
    assert [t.get_text() for t in ax.get_xticklabels()] == ["0.1", "0.5"]
    assert [t.get_text() for t in ax.get_yticklabels()] == ["8", "32"]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("temperature", "n latent")
    assert drawn(ax) == [[".450", ".250"], [".350", ".150"]]
    assert frame(ax) == (0, 0)


def test_runs_of_a_sweep_are_one_method():
    cells = scssl.datasets.simulated(80, 40, n_types=3)
    methods = {"genes": {}, "PCA": {"sweep": {"n_comps": [2, 3], "n_top_genes": [10, 40]}}}
    table = scssl.tl.benchmark(
        cells, methods, "embedding", label_key="cell_type", seeds=1, progress=False
    )
    options = {"method": "PCA", "metric": "knn_accuracy", "show": False}
    ax = scssl.pl.ablation(table, "n_comps", "n_top_genes", **options)
    assert [t.get_text() for t in ax.get_yticklabels()] == ["10", "40"]
    assert ax.get_title().startswith("PCA, ")
    value = table[table["metric"] == "knn_accuracy"].set_index("method")["value"]
    there = [value[f"PCA (n_comps={n}, n_top_genes=40)"] for n in (2, 3)]
    assert [float(text) for text in drawn(ax)[1]] == pytest.approx(there, abs=6e-4)


def test_light_is_better_also_where_less_is(runs):
    table = runs(GRID, [0.1, 0.2, 0.3, 0.4])
    for metric, best in (("knn_macro_f1", (0, 0)), ("ece", (1, 1))):
        ax = scssl.pl.ablation(table.assign(metric=metric), "temperature", "n_latent", show=False)
        assert frame(ax) == best
        image = ax.get_images()[0]
        colors = image.cmap(image.norm(image.get_array()))[..., :3].sum(-1)
        assert np.unravel_index(colors.argmax(), (2, 2)) == best[::-1]


def test_pairs_are_symmetric_with_those_alone_on_the_diagonal(runs):
    pairs = [["mask"], ["swap", "mask"], "swap"]
    table = runs([{"augmentation": pair} for pair in pairs], [0.1, 0.3, 0.2])
    ax = scssl.pl.ablation(table, "augmentation", show=False)
    assert [t.get_text() for t in ax.get_yticklabels()] == ["mask", "swap"]
    assert drawn(ax) == [[".150", ".350"], [".350", ".250"]]
    table = runs([{"augmentation": ["a", "b", "c"]}, {"augmentation": "a"}], [0.1, 0.2])
    with pytest.raises(ValueError, match="one or two to be drawn as pairs, found .*'c'"):
        scssl.pl.ablation(table, "augmentation")


def test_a_field_whose_runs_failed_is_never_the_best(runs):
    table = runs(GRID, [0.1, 0.2, 0.3, 0.9])
    table.loc[7, "value"] = np.nan
    table.loc[:1, ["value", "metric"]] = np.nan, ""
    ax = scssl.pl.ablation(table, "temperature", "n_latent", show=False)
    assert drawn(ax) == [[".900*", ".250"], [".350", "failed"]]
    assert frame(ax) == (0, 1)
    with pytest.raises(ValueError, match="no value to draw: every run failed"):
        scssl.pl.ablation(table[:2], "temperature", "n_latent")


def test_a_field_without_runs_that_others_have_is_never_the_best(runs):
    """Its mean is one of fewer seeds or of fewer data sets."""
    table = runs(GRID, [0.1, 0.2, 0.3, 0.9])
    ax = scssl.pl.ablation(table[:-1], "temperature", "n_latent", show=False)
    assert drawn(ax) == [[".900*", ".250"], [".350", ".150"]]
    assert frame(ax) == (0, 1)


def test_a_pair_in_both_orders_has_a_field_of_each(runs):
    pairs = [["mask", "swap"], ["swap", "mask"], ["mask"]]
    ax = scssl.pl.ablation(
        runs([{"views": pair} for pair in pairs], [0.1, 0.3, 0.5]), "views", show=False
    )
    # Along the horizontal axis the first of a pair.
    assert drawn(ax) == [[".550", ".350"], [".150", ""]]


def test_data_sets_weigh_the_same(runs):
    one, other = runs(GRID, [0.1, 0.2, 0.3, 0.4]), runs(GRID, [0.5, 0.6, 0.7, 0.8])
    both = pd.concat([one, other[other["seed"] == 0].assign(data="kang")])
    # Two seeds of one set and one of the other.
    ax = scssl.pl.ablation(both, "temperature", "n_latent", show=False)
    assert drawn(ax)[1][1] == f"{(0.15 + 0.5) / 2:.3f}"[1:]
    assert ax.get_title() == "SimCLR, mean of 2 data sets"


def test_other_arguments_are_chosen_and_not_averaged_over(runs):
    grid = [*GRID, *({**one, "loss": "dcl"} for one in GRID)]
    table = runs(grid, np.linspace(0, 0.7, 8))
    with pytest.raises(
        ValueError, match="differ in the argument 'loss' too.*`where={'loss': 'nt_xent'}`"
    ):
        scssl.pl.ablation(table, "temperature", "n_latent")
    ax = scssl.pl.ablation(table, "temperature", "n_latent", where={"loss": "dcl"}, show=False)
    assert drawn(ax) == [[".750", ".550"], [".650", ".450"]]
    with pytest.raises(ValueError, match="No run has the arguments {'loss': 'vicreg'}"):
        scssl.pl.ablation(table, "temperature", "n_latent", where={"loss": "vicreg"})
    with pytest.raises(KeyError, match=r"argument 'tau' \(`x`\); they have 'loss', 'n_latent'"):
        scssl.pl.ablation(table, "tau", "n_latent")
    others = pd.concat([table, table.assign(method="VICReg")])
    with pytest.raises(ValueError, match="several values of 'method', 'SimCLR', 'VICReg'"):
        scssl.pl.ablation(others, "temperature", "n_latent")


# --- images ---------------------------------------------------------------------------------------


def picture(draw, size=(3.5, 2.3)):
    """Grey values of a figure without its text, whose shape differs between machines."""
    figure = Figure(figsize=size, dpi=60)
    canvas = FigureCanvasAgg(figure)
    ax = figure.add_axes((0.03, 0.03, 0.94, 0.94))
    draw(ax)
    for one in figure.axes:
        one.tick_params(labelbottom=False, labelleft=False, labelright=False)
        if one.get_legend():
            one.get_legend().set_visible(False)
    for text in figure.findobj(Text):
        text.set_visible(False)
    return figure, grey(canvas)


def grey(canvas):
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].mean(axis=-1)


def curves():
    epochs = np.arange(12)
    for rate in (0.1, 0.3, 0.6):
        loss = np.exp(-rate * epochs) + 0.02 * rate * epochs
        yield {"validation_loss": pd.DataFrame({"loss": loss})}


FIGURES = {
    "benchmark": lambda ax: scssl.pl.benchmark(make(), ax=ax),
    "few_label_curve": lambda ax: scssl.pl.few_label_curve(make(), ax=ax),
    "ablation": lambda ax: scssl.pl.ablation(
        make()[:4].assign(
            arguments=[json.dumps({"a": a, "b": b}) for a in (1, 2) for b in (1, 2)],
            value=[0.1, 0.4, 0.2, 0.3],
            **{"method": "net", "seed": 0},
        ),
        *("a", "b"),
        ax=ax,
    ),
    "history": lambda ax: scssl.pl.history(list(curves()), "validation_loss", ax=ax),
}


def distance(one, other):
    return np.sqrt(((one - other) ** 2).mean())


@pytest.mark.parametrize("name", FIGURES)
def test_figures_look_as_they_did(name):
    """Written again with SCSSL_WRITE_BASELINES=1; to be looked at before they are committed."""
    figure, pixels = picture(FIGURES[name])
    path = BASELINES / f"{name}.png"
    if os.environ.get("SCSSL_WRITE_BASELINES"):
        plt.imsave(path, pixels, cmap="gray", vmin=0, vmax=255)
    before = plt.imread(path)[..., 0] * 255
    assert before.shape == pixels.shape
    assert distance(before, pixels) < TOLERANCE
    # What is no longer drawn is seen.
    ax = figure.axes[0]
    for artist in list(ax.patches or ax.get_lines())[-4:]:
        artist.set_visible(False)
    assert distance(before, grey(figure.canvas)) > TOLERANCE
