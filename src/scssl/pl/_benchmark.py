"""A benchmark as a table of bars, by number of labels, and by two arguments."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from scssl._checks import some
from scssl._errors import MissingKeyError
from scssl._settings import settings
from scssl.tl import (
    METRICS,
    arguments_of,
    benchmark_summary,
    metric_of,
    score_label,
    tidy_results,
)

from ._figure import PALETTE, choose, figure, finish, line_style, make_panels

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from scssl.tl import Metric

# Of the table, in inches: it is drawn at the size at which it is printed.
_ROW, _LINE, _BAR, _NUMBER, _GAP, _LETTER = 0.22, 0.11, 0.27, 0.31, 0.06, 0.06
_SMALL, _MIDDLE, _TEXT = 6, 6.5, 7  # points
# Letters in a line of a method's name, and of the head of a column.
_NAME, _HEAD = 18, 10
_SCORE = ["task", "split", "n_labels", "metric"]
# What is drawn by the number of labels unless another score is asked for.
_BY_LABELS = "macro_f1"


class _Cell(NamedTuple):
    """A number in the table, and the bar beside it."""

    text: str
    mean: float = float("nan")
    low: float = float("nan")
    high: float = float("nan")
    bold: bool = False
    hatched: bool = False


class _Column(NamedTuple):
    """A column of the table, with a cell of each method and room for a bar in it."""

    group: str
    head: str
    color: str
    cells: dict[str, _Cell]
    bar: float = _BAR


@figure
def benchmark(
    results: pd.DataFrame,
    metrics: str | Sequence[str] | None = None,
    *,
    data: str | None = None,
    level: float = 0.95,
    show: bool | None = None,
    save: str | Path | None = None,
    ax: Axes | None = None,
) -> Axes | list[Axes] | None:
    """Draw a benchmark as a table: methods by scores, with a bar, an interval and a number in each cell.

    Bars start at 0 and end at the mean, lines are intervals as in
    :func:`scssl.tl.benchmark_summary`. Bold numbers are not told apart from the best of their column. An
    arrow down in the head of a column says that less is better. A cell whose runs all failed says so;
    where some failed, the bar is hatched and the number has a star.

    Methods are ordered by their overall mean: over tasks, of the mean of a task's scores (of the total
    where there is one; of 1 minus the score where less is better; without errors that have no upper
    limit). It is not computed for a method that lacks a score or of which a run failed: these stand below
    all others.

    The last column is the mean time of a run, in seconds. Of several data sets, cells are means over
    data sets, and intervals are over them: they tell what other data sets would give.

    Parameters
    ----------
    results
        Rows of ``scssl.tl.benchmark``.
    metrics
        Scores to draw; all by default. Two columns beside the means fit in the 89 mm of a journal's
        column.
    data
        Data set to draw; by default all.
    level
        Level of intervals.
    {figure}

    {axes}

    Raises
    ------
    KeyError
        If a column is not in `results`.
    ValueError
        If a score or data set is not in `results`, or they cannot be summarised.

    Examples
    --------
    >>> import pandas as pd, scssl
    >>> rows = [("PCA", 0, 0.80), ("PCA", 1, 0.82), ("SimCLR", 0, 0.85), ("SimCLR", 1, 0.87)]
    >>> results = pd.DataFrame(rows, columns=["method", "seed", "value"]).assign(
    ...     data="pbmc",
    ...     task="embedding",
    ...     metric="knn_macro_f1",
    ...     split="cell",
    ...     fold="",
    ...     n_labels="",
    ...     arguments="{}",
    ...     seconds=1.0,
    ... )
    >>> ax = scssl.pl.benchmark(results, show=False)
    >>> [text.get_text() for text in ax.texts if text.get_gid() == "method"]
    ['SimCLR', 'PCA']
    """
    given = {"metric": metrics, "data": data}
    rows = choose(results, **{key: value for key, value in given.items() if value is not None})
    n_sets = rows["data"].nunique()
    summary = _summary(rows, level, ("data",) if n_sets > 1 else None)
    methods, columns = _table_of(summary)
    names = ["\n".join(textwrap.wrap(method, _NAME)) for method in methods]
    tops = np.cumsum([0, *(_ROW + _LINE * name.count("\n") for name in names)])
    middles = (tops[1:] + tops[:-1]) / 2
    head = 1.3 * _ROW + _LINE * (1 + max(column.head.count("\n") for column in columns))
    notes = [f"mean of {n_sets} data sets" if n_sets > 1 else rows["data"].iloc[0]]
    notes.append("bold: not told apart from the best")
    if any(cell.hatched for column in columns for cell in column.cells.values()):
        notes.append("*: some runs failed")
    # Places, in inches from the left and from above the first row.
    begins = [i > 0 and column.group != columns[i - 1].group for i, column in enumerate(columns)]
    widths = [column.bar + _NUMBER for column in columns]
    left = 0.12 + _LETTER * max(len(line) for name in names for line in name.split("\n"))
    starts = left + np.cumsum([0, *widths[:-1]]) + _GAP * np.cumsum(begins)
    right, bottom = starts[-1] + widths[-1], tops[-1]
    (panel,) = make_panels(1, ax, (right, head + bottom + _ROW))
    panel.set(xlim=(0, right), ylim=(bottom + _ROW, -head))
    panel.axis("off")
    for number, name in enumerate(names):
        if number % 2 == 0:
            panel.axhspan(*tops[number : number + 2], color="0.94", linewidth=0, zorder=0)
        _write(panel, 0.03, middles[number], name, gid="method")
    for column, start, first in zip(columns, starts, [True, *begins[1:]], strict=True):
        _write(panel, start, -0.05, column.head, va="bottom", size=_SMALL, gid="head")
        if first:
            last = max(i for i, one in enumerate(columns) if one.group == column.group)
            end = starts[last] + widths[last] - 0.04
            panel.plot([start, end], [0.8 * _ROW - head] * 2, color=column.color, linewidth=2)
            style: Any = {"va": "baseline", "size": _MIDDLE, "gid": "group"}
            _write(panel, start, 0.5 * _ROW - head, column.group, **style)
        _draw_cells(panel, column, dict(zip(methods, middles, strict=True)), start)
    _write(panel, 0.03, bottom + 0.55 * _ROW, "; ".join(notes), size=_SMALL, color="0.3")
    return finish([panel], ax, show=show, save=save)


def _summary(rows: pd.DataFrame, level: float, repeat_keys: Any) -> pd.DataFrame:
    # A figure shows where methods are level, and need not say it too.
    with settings.override(verbosity="warning"):
        return benchmark_summary(rows, baseline=None, level=level, repeat_keys=repeat_keys)


def _table_of(summary: pd.DataFrame) -> tuple[list[str], list[_Column]]:
    """Methods in the order of their overall mean, and the columns of the table."""
    of = {
        (row["method"], *(row[name] for name in _SCORE)): row for row in summary.to_dict("records")
    }
    scores = list(dict.fromkeys(key[1:] for key in of))
    means, lacking = {}, {}
    for method in summary["method"].unique():
        own = {score: of[method, *score] for score in scores if (method, *score) in of}
        means[method] = _overall({score: row["mean"] for score, row in own.items()})
        lacking[method] = len(scores) - sum(row["n_failed"] == 0 for row in own.values())
    methods = sorted(means, key=lambda method: (lacking[method], -means[method], method))
    columns = []
    if len(scores) > 1 and any(METRICS[score[3]].bounded for score in scores):
        complete = {m: _Cell(_number(means[m]), means[m]) for m in methods if not lacking[m]}
        columns.append(_Column("overall", "mean of\ntasks", "0.35", complete))
    tasks = list(dict.fromkeys(score[:2] for score in scores))
    for score in scores:
        task, split, n_labels, metric = score
        # A split is named where a task has several.
        group = task.replace("_", " ")
        group += f", {split}" if sum(one[0] == task for one in tasks) > 1 else ""
        arrow = "" if METRICS[metric].higher_is_better else " ↓"
        # The number of labels has a line of its own.
        label = "\n".join(
            line
            for part in (score_label(metric, n_labels) + arrow).split(" with ")
            for line in textwrap.wrap(part, _HEAD, break_long_words=False)
        )
        cells = {m: _cell(of[m, *score]) for m in methods if (m, *score) in of}
        color = PALETTE[tasks.index(score[:2]) % len(PALETTE)]
        columns.append(_Column(group, label, color, cells))
    # Once for each task, of which each score has the same runs.
    seconds = summary.groupby(["method", *_SCORE[:2]])["seconds"].mean().groupby("method").mean()
    times = {m: _Cell(_time(value)) for m, value in seconds.items() if np.isfinite(value)}
    columns.append(_Column("", "seconds", "none", times, 0.12))
    return methods, columns


def _overall(means: Mapping[tuple[str, ...], float]) -> float:
    """Mean over tasks of their scores, more being better; -inf where there is none."""
    by_task: dict[tuple[str, ...], dict[str, list[float]]] = {}
    for (*task, _, name), mean in means.items():
        metric = METRICS[name]
        if np.isfinite(mean) and (metric.bounded or len(means) == 1):
            gains = by_task.setdefault(tuple(task), {})
            gains.setdefault(name, []).append(metric.gain(mean))
    found = [
        np.mean(
            gains["total"] if "total" in gains else [one for of in gains.values() for one in of]
        )
        for gains in by_task.values()
    ]
    return float(np.mean(found)) if found else float("-inf")


def _cell(row: Mapping[str, Any]) -> _Cell:
    """What is shown of a method's score."""
    if not row["n"]:
        return _Cell("failed")
    failed = row["n_failed"] > 0
    bold = row["tied_with_best"] is True or row["rank"] == 1
    text = _number(row["mean"]) + ("*" if failed else "")
    return _Cell(text, row["mean"], row["low"], row["high"], bold and not failed, failed)


def _number(value: float) -> str:
    """Three decimals without the 0 before them, or three digits of what is larger."""
    return f"{value:.3f}".replace("0.", ".", 1) if abs(value) < 1 else f"{value:.3g}"


def _time(seconds: float) -> str:
    return "<0.1" if seconds < 0.1 else f"{seconds:.1f}" if seconds < 10 else f"{seconds:,.0f}"


def _draw_cells(ax: Axes, column: _Column, places: Mapping[str, float], left: float) -> None:
    """Draw the cells of a column: bars from 0, as long as the longest of them is wide."""
    ends = [
        end for c in column.cells.values() for end in (c.mean, c.low, c.high) if np.isfinite(end)
    ]
    low, high = min([0.0, *ends]), max([0.0, *ends])
    scale = (column.bar - 0.05) / (high - low or 1)
    for method, middle in places.items():
        cell = column.cells.get(method, _Cell("–"))
        zero = left - low * scale
        if np.isfinite(cell.mean):
            ax.barh(
                middle,
                cell.mean * scale,
                0.6 * _ROW,
                zero,
                color="white" if cell.hatched else column.color,
                edgecolor=column.color,
                hatch="/////" if cell.hatched else None,
                linewidth=0.6,
                alpha=0.75,
                zorder=1,
            )
        if np.isfinite(cell.low):
            ax.errorbar(
                zero + cell.mean * scale,
                middle,
                xerr=[[(cell.mean - cell.low) * scale], [(cell.high - cell.mean) * scale]],
                fmt="none",
                ecolor="black",
                elinewidth=0.8,
                capsize=1.2,
                capthick=0.6,
                zorder=2,
            )
        options: dict[str, Any] = {"weight": "bold" if cell.bold else "normal", "size": _MIDDLE}
        place = left + column.bar
        if cell.text == "failed":
            options["style"], place = "italic", left
        _write(ax, place if column.group else left, middle, cell.text, gid="cell", **options)


def _write(ax: Axes, x: float, y: float, text: str, **options: Any) -> None:
    ax.text(x, y, text, **{"size": _TEXT, "va": "center", "linespacing": 1.1, **options})


@figure
def few_label_curve(
    results: pd.DataFrame,
    metric: str | None = None,
    *,
    data: str | Sequence[str] | None = None,
    split: str | None = None,
    level: float = 0.95,
    show: bool | None = None,
    save: str | Path | None = None,
    ax: Axes | None = None,
) -> Axes | list[Axes] | None:
    """Draw how good labels are that were learnt from few cells of each type.

    One line a method, in the order of the means with most labels, told apart by colour, dash and
    marker; the band is the interval of the mean as in :func:`scssl.tl.benchmark_summary`. Numbers of
    labels stand at equal distances. Of runs that failed, the legend says how many.

    Parameters
    ----------
    results
        Rows of ``scssl.tl.benchmark``, of which those of the task ``"few_labels"`` are drawn.
    metric
        Score to draw; ``"macro_f1"`` by default where it is there, else needed where there are several.
    data
        Data set to draw, or several, one panel each; by default all.
    split
        Kind of split; needed where there are several.
    level
        Level of intervals.
    {figure}

    {axes}

    Raises
    ------
    KeyError
        If a column is not in `results`.
    ValueError
        If there is no such score or data set, there are several and none is given, or there are several
        panels for one `ax`.

    Examples
    --------
    >>> import pandas as pd, scssl
    >>> rows = [("PCA", "1", 0.4), ("PCA", "5", 0.6), ("SimCLR", "1", 0.5), ("SimCLR", "5", 0.7)]
    >>> results = pd.DataFrame(rows, columns=["method", "n_labels", "value"]).assign(
    ...     data="pbmc",
    ...     task="few_labels",
    ...     metric="macro_f1",
    ...     split="cell",
    ...     fold="",
    ...     seed=0,
    ...     arguments="{}",
    ...     seconds=1.0,
    ... )
    >>> ax = scssl.pl.few_label_curve(results, show=False)
    >>> [text.get_text() for text in ax.get_xticklabels()]
    ['1', '5']
    """
    results = tidy_results(results)
    if metric is None and (results["metric"] == _BY_LABELS).any():
        metric = _BY_LABELS
    given = {"task": "few_labels", "metric": metric, "split": split}
    rows = choose(results, **given, **({} if data is None else {"data": data}))
    summary = _summary(rows, level, None)
    sets = dict(list(summary.groupby("data", sort=False)))
    advice = f"give `data={next(iter(sets))!r}`"
    axes = make_panels(len(sets), ax, (2.1 * len(sets) + 1.4, 2.3), advice)
    most = (
        summary[summary["n_labels"] == summary["n_labels"].iloc[-1]]
        .groupby("method")["mean"]
        .mean()
    )
    gain = METRICS[summary["metric"].iloc[0]].gain
    methods = sorted(most.index, key=lambda method: -np.nan_to_num(gain(most[method]), nan=-np.inf))
    n_failed = summary.groupby("method")["n_failed"].sum()
    for panel, (name, of_set) in zip(axes, sets.items(), strict=True):
        numbers = list(dict.fromkeys(of_set["n_labels"]))
        for number, method in enumerate(methods):
            own = of_set[of_set["method"] == method].set_index("n_labels").reindex(numbers)
            style = line_style(number)
            failed = f" ({n_failed[method]} failed)" if n_failed[method] else ""
            places = np.arange(len(numbers))
            panel.plot(
                places, own["mean"], label=method + failed, markersize=4, linewidth=1.2, **style
            )
            panel.fill_between(
                places, own["low"], own["high"], color=style["color"], alpha=0.15, linewidth=0
            )
        panel.set_xticks(range(len(numbers)), numbers)
        panel.set_xlabel("labels per cell type")
        panel.set_ylabel(score_label(of_set["metric"].iloc[0]))
        panel.set_title(name, fontsize="medium")
        panel.spines[["top", "right"]].set_visible(False)
    axes[-1].legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1), fontsize=_TEXT)
    return finish(axes, ax, show=show, save=save)


@figure
def ablation(
    results: pd.DataFrame,
    x: str,
    y: str | None = None,
    *,
    metric: str | None = None,
    method: str | None = None,
    task: str | None = None,
    n_labels: str | int | None = None,
    split: str | None = None,
    where: Mapping[str, Any] | None = None,
    show: bool | None = None,
    save: str | Path | None = None,
    ax: Axes | None = None,
) -> Axes | list[Axes] | None:
    """Draw the scores of a method by two of its arguments, or by pairs in one, as a heat map.

    A field is the mean over folds and seeds, and over data sets of their means. Lighter is better,
    also where less is; the best field has a frame. A field has a star where runs failed or were not
    made that others have, says so where all failed, and is then never the best.

    Parameters
    ----------
    results
        Rows of ``scssl.tl.benchmark`` in which a method was run with several values of arguments, as by a
        ``"sweep"``.
    x
        Argument along the horizontal axis.
    y
        Argument along the vertical axis. With `None`, values of `x` are lists of one or two, such as
        augmentations: the map is symmetric, with those alone on its diagonal.
    metric
        Score to draw; like `method`, `task`, `n_labels` and `split`, needed where there are several.
    method
        Method whose arguments are compared, without what the sweep added to its name.
    task
        Task of the score.
    n_labels
        Number of labels of the score.
    split
        Kind of split of the score.
    where
        Values of further arguments, of which several were run.
    {figure}

    {axes}

    Raises
    ------
    KeyError
        If a column is not in `results`, or no run has the argument `x` or `y`.
    ValueError
        If scores or other arguments differ and none is chosen, or values of `x` are no pairs.

    Examples
    --------
    >>> import json, pandas as pd, scssl
    >>> runs = [
    ...     (json.dumps({"temperature": t, "n_latent": n}), t + n / 100)
    ...     for t in (0.1, 0.5)
    ...     for n in (8, 32)
    ... ]
    >>> results = pd.DataFrame(runs, columns=["arguments", "value"]).assign(
    ...     data="pbmc",
    ...     task="embedding",
    ...     metric="knn_macro_f1",
    ...     split="cell",
    ...     fold="",
    ...     n_labels="",
    ...     method="SimCLR",
    ...     seed=0,
    ...     seconds=1.0,
    ... )
    >>> ax = scssl.pl.ablation(results, "temperature", "n_latent", show=False)
    >>> [text.get_text() for text in ax.get_xticklabels()]
    ['0.1', '0.5']
    """
    names = {"method": method, "task": task, "metric": metric, "split": split}
    results = tidy_results(results)
    # A sweep calls its runs "SimCLR (temperature=0.1)": here these are one method.
    results["method"] = results["method"].str.replace(r" \(\w+=.*\)$", "", regex=True)
    rows = choose(results, **names, n_labels=n_labels)
    if not np.isfinite(rows["value"]).any():
        raise ValueError("`results` has no value to draw: every run failed.")
    places = _places_of(rows, x, y, dict(where or {}))
    rows = rows.loc[places.index]
    n_runs = len(rows[["data", "fold", "seed"]].drop_duplicates())
    fields: dict[tuple[str, str], tuple[float, bool]] = {}
    for place, of in rows.groupby(places, sort=False):
        known = of["value"].where(np.isfinite(of["value"]))
        mean = float(known.groupby(of["data"]).mean().mean())
        fields[place] = mean, int(known.notna().sum()) < n_runs
    if y is None:
        # A pair that was run in both orders has a field of each.
        fields = {place[::-1]: field for place, field in fields.items()} | fields
    across = _in_order(one for one, _ in fields)
    down = _in_order(one for _, one in fields)
    size = 1.9 + 0.42 * len(across), max(2.2, 1.1 + 0.3 * len(down))
    (panel,) = make_panels(1, ax, size)
    shown = metric_of(next(name for name in rows["metric"] if name))
    _draw_fields(panel, fields, across, down, shown)
    panel.set_xlabel(x.replace("_", " "))
    panel.set_ylabel((x if y is None else y).replace("_", " "))
    sets = rows["data"].unique()
    where_from = sets[0] if len(sets) == 1 else f"mean of {len(sets)} data sets"
    panel.set_title(f"{rows['method'].iloc[0]}, {where_from}", fontsize="medium")
    return finish([panel], ax, show=show, save=save)


def _places_of(rows: pd.DataFrame, x: str, y: str | None, where: dict[str, Any]) -> pd.Series[Any]:
    """Of the rows that are drawn, the values of both arguments."""
    given = rows["arguments"].map(arguments_of(rows))
    known = sorted({name for one in given for name in one})
    for argument, name in (("x", x), ("y", y), *(("where", name) for name in where)):
        if name is not None and name not in known:
            found = some(known, 20) or "none"
            raise MissingKeyError(
                f"No run has an argument {name!r} (`{argument}`); they have {found}."
            )
    given = given[[all(one.get(n) == value for n, value in where.items()) for one in given]]
    if given.empty:
        raise ValueError(f"No run has the arguments {where} (`where`).")
    for name in known:
        values = {json.dumps(one.get(name)): one.get(name) for one in given}
        if name not in (x, y) and len(values) > 1:
            chosen = {**where, name: next(v for v in values.values() if v is not None)}
            raise ValueError(
                f"Runs differ in the argument {name!r} too, {', '.join(values)}. Choose one: `where={chosen}`."
            )
    if y is not None:
        return given.map(lambda one: (_shown(one.get(x)), _shown(one.get(y))))
    return given.map(lambda one: _pair(x, one.get(x)))


def _pair(name: str, value: Any) -> tuple[str, str]:
    items = value if isinstance(value, list) else [value]
    if len(items) not in (1, 2):
        raise ValueError(
            f"Values of {name!r} must be one or two to be drawn as pairs, found {value}. To draw it by another argument, "
            "give `y`."
        )
    return _shown(items[0]), _shown(items[-1])


def _shown(value: Any) -> str:
    """A value of an argument; one that was not given is the default."""
    return "default" if value is None else value if isinstance(value, str) else json.dumps(value)


def _in_order(values: Iterable[str]) -> list[str]:
    """Each once, numbers by size and others by name."""

    def key(text: str) -> tuple[bool, float, str]:
        try:
            return False, float(text), text
        except ValueError:
            return True, 0.0, text

    return sorted(set(values), key=key)


def _draw_fields(
    ax: Axes,
    fields: Mapping[tuple[str, str], tuple[float, bool]],
    across: Sequence[str],
    down: Sequence[str],
    metric: Metric,
) -> None:
    from matplotlib.patches import Rectangle

    values = np.full((len(down), len(across)), np.nan)
    for (column, row), (mean, _) in fields.items():
        values[down.index(row), across.index(column)] = mean
    # Light is better, whichever way is.
    colors = "cividis" if metric.higher_is_better else "cividis_r"
    lowest, highest = float(np.nanmin(values)), float(np.nanmax(values))
    image = ax.imshow(values, cmap=colors, aspect="auto")
    for (column, row), (mean, failed) in fields.items():
        light = (mean - lowest) / (highest - lowest or 1) > 0.5
        place = across.index(column), down.index(row)
        text = f"{_number(mean)}{'*' if failed else ''}" if np.isfinite(mean) else "failed"
        light = light if metric.higher_is_better else not light
        color = "black" if light or text == "failed" else "white"
        ax.text(*place, text, ha="center", va="center", fontsize=_TEXT, color=color)
    whole = {place: mean for place, (mean, failed) in fields.items() if not failed}
    if whole:
        column, row = max(whole, key=lambda place: metric.gain(whole[place]))
        corner = across.index(column) - 0.5, down.index(row) - 0.5
        ax.add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor=PALETTE[1], linewidth=2))
    turned: Any = (
        {"rotation": 40, "ha": "right", "rotation_mode": "anchor"}
        if max(map(len, across)) > 5
        else {}
    )
    ax.set_xticks(range(len(across)), across, **turned)
    ax.set_yticks(range(len(down)), down)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    figure_of = ax.get_figure()
    assert figure_of is not None
    bar = figure_of.colorbar(image, ax=ax, pad=0.02)
    bar.outline.set_visible(False)
    bar.set_label(metric.label + ("" if metric.higher_is_better else "\n(less is better)"))
