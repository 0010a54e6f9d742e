"""Scores of one arm against those of another, data set by data set."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from scssl._checks import some
from scssl._errors import warn

from ._figure import PALETTE, check_scores, figure, finish, in_order, make_panels, name_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_GAP = 4.0  # points between a dot and its name
_N_STEPS = 12


@figure
def paired_scatter(
    scores: pd.DataFrame,
    metric: str,
    *,
    x: str,
    y: str,
    arm_key: str = "arm",
    dataset_key: str = "dataset",
    repeat_key: str | None = "seed",
    panel_key: str | None = None,
    names: bool = False,
    show: bool | None = None,
    save: str | Path | None = None,
    ax: Axes | None = None,
) -> Axes | list[Axes] | None:
    """Draw scores with something against scores without it, one dot for each data set.

    A dot above the diagonal is a data set on which `y` does better. How many are above is written over
    it. Several repeats of a data set are one dot at their mean, with their standard deviation both ways
    as thin lines.

    Parameters
    ----------
    scores
        One row for each data set, arm and repeat.
    metric
        Column with the score.
    x
        Arm on the horizontal axis, such as the network from scratch.
    y
        Arm on the vertical axis, such as the pretrained network.
    arm_key
        Column with the arm.
    dataset_key
        Column with the data set.
    repeat_key
        Column with the repeat, such as the seed. Each data set must have the same repeats of both arms,
        with one row each. Without such a column, or with `None`, it must have one row of each arm.
    panel_key
        Column with what is drawn in panels of its own, such as the number of labels.
    names
        Write the names of the data sets beside the dots.
    {figure}

    {axes}

    Raises
    ------
    KeyError
        If a column is not in `scores`.
    ValueError
        If an arm is not in its column, a data set does not have the same repeats of both, or has
        several rows of a repeat, such as those of several numbers of labels, or there are several
        panels for one `ax`.

    Examples
    --------
    >>> import pandas as pd, scssl
    >>> scores = pd.DataFrame(
    ...     {
    ...         "dataset": ["a", "b", "a", "b"],
    ...         "arm": ["scratch", "scratch", "pretrained", "pretrained"],
    ...         "accuracy": [0.7, 0.9, 0.8, 0.85],
    ...     }
    ... )
    >>> ax = scssl.pl.paired_scatter(scores, "accuracy", x="scratch", y="pretrained", show=False)
    >>> ax.get_title()
    'above: 1 of 2 (50%)'
    """
    keys = {"arm_key": arm_key, "dataset_key": dataset_key, "panel_key": panel_key}
    if repeat_key == "seed" and isinstance(scores, pd.DataFrame) and "seed" not in scores:
        repeat_key = None
    check_scores(scores, [metric], {**keys, "repeat_key": repeat_key})
    arms = list(scores[arm_key].unique())
    for name, arm in (("x", x), ("y", y)):
        if arm not in arms:
            there = ", ".join(map(repr, arms))
            raise ValueError(f"{name}={arm!r} is no arm in {arm_key!r}; there are {there}.")
    rows_of: dict[Any, pd.DataFrame] = {None: scores}
    if panel_key is not None:
        rows_of = {
            value: scores[scores[panel_key] == value] for value in in_order(scores[panel_key])
        }
    pairs = {
        value: _pairs_of(rows, metric, x, y, arm_key, dataset_key, repeat_key)
        for value, rows in rows_of.items()
    }
    size = (3.6 * len(pairs) + 0.2, 3.9)
    axes = make_panels(len(pairs), ax, size, "choose the rows of one")
    limits = _limits(list(pairs.values()))
    for panel, (value, points) in zip(axes, pairs.items(), strict=True):
        _draw(panel, points, limits)
        panel.set(xlabel=f"{name_of(metric)}, {x}", ylabel=f"{name_of(metric)}, {y}")
        title = [] if value is None else [f"{name_of(str(panel_key))}: {value}"]
        panel.set_title("\n".join([*title, _count(points)]), fontsize="medium")
    if names:
        for panel, points in zip(axes, pairs.values(), strict=True):
            _label_dots(panel, points)
    return finish(axes, ax, show=show, save=save)


def _pairs_of(
    rows: pd.DataFrame,
    metric: str,
    x: str,
    y: str,
    arm_key: str,
    dataset_key: str,
    repeat_key: str | None,
) -> pd.DataFrame:
    """Mean and standard deviation of both arms by data set."""
    rows = rows[rows[arm_key].isin([x, y])]
    keys = [dataset_key, arm_key, *([] if repeat_key is None else [repeat_key])]
    _check_one_row(rows, keys, repeat_key)
    for name, of_set in rows.groupby(dataset_key, observed=True, sort=False):
        # Without a key there is one repeat.
        repeats = of_set[repeat_key] if repeat_key is not None else of_set[arm_key].map(lambda _: 0)
        found = {arm: set(repeats[of_set[arm_key] == arm]) for arm in (x, y)}
        for arm, other in ((x, y), (y, x)):
            lacking = sorted(found[other] - found[arm], key=str)
            if lacking:
                what = "row" if repeat_key is None else f"{repeat_key} {_shown(lacking)}"
                raise ValueError(
                    f"Data set {name!r} has no {what} of {arm!r}, but of {other!r}. Leave it out: "
                    f"`scores = scores[scores[{dataset_key!r}] != {name!r}]`."
                )
    groups = rows.groupby([dataset_key, arm_key], observed=True, sort=False)[metric]
    mean, sd = groups.mean().unstack(), groups.std().unstack()
    broken = rows.loc[rows[metric].isna(), dataset_key].unique()
    if len(broken):
        left = f"{len(broken)} of {len(mean)} data sets are left out"
        warn(f"{left}, their {metric!r} is NaN in a run: {some(broken)}.")
    points = mean[[x, y]].set_axis(["x", "y"], axis=1)
    points[["x_sd", "y_sd"]] = sd[[x, y]].to_numpy()
    return points[~points.index.isin(broken)]


def _check_one_row(rows: pd.DataFrame, keys: list[str], repeat_key: str | None) -> None:
    """Raise where a data set has several rows of an arm and repeat, with what tells them apart."""
    twice = rows.duplicated(keys, keep=False)
    if not twice.any():
        return
    first = rows[twice].iloc[0]
    same = rows[(rows[keys] == first[keys]).all(axis=1)]
    dataset, arm = (first[key] for key in keys[:2])
    where = "" if repeat_key is None else f" with {repeat_key} {_shown([first[repeat_key]])}"
    # Scores differ too, but nobody chooses a row by them.
    apart = [
        column
        for column in rows
        if rows[column].dtype.kind != "f" and not rows.duplicated([*keys, column]).any()
    ]
    if apart:
        column, value = str(apart[0]), _shown([same[apart[0]].iloc[0]])
        why = f" that differ in {column!r}. Draw a panel for each of its values, `panel_key={column!r}`, "
        why += f"or choose one: `scores = scores[scores[{column!r}] == {value}]`."
        repeats = f" If they are repeats: `repeat_key={column!r}`."
    else:
        why = ", and no column says why. Keep one of them."
        repeats = " Of repeats, name the column as `repeat_key`."
    raise ValueError(
        f"Data set {dataset!r} has {len(same)} rows of {arm!r}{where}{why}"
        + (repeats if repeat_key is None else "")
    )


def _shown(values: list[Any]) -> str:
    """Values as they are typed."""
    plain = [value.item() if hasattr(value, "item") else value for value in values]
    return ", ".join(map(repr, plain[:5]))


def _limits(points: list[pd.DataFrame]) -> tuple[float, float]:
    """The same limits for both axes and all panels."""
    values = np.concatenate([one[["x", "y"]].to_numpy().ravel() for one in points])
    if not len(values):
        return 0, 1
    room = max(0.08 * float(values.max() - values.min()), 0.01)
    return float(values.min()) - room, float(values.max()) + room


def _count(points: pd.DataFrame) -> str:
    above, equal = int((points["y"] > points["x"]).sum()), int((points["y"] == points["x"]).sum())
    share = f" ({above / len(points):.0%})" if len(points) else ""
    return f"above: {above} of {len(points)}{share}" + (f", equal: {equal}" if equal else "")


def _draw(ax: Axes, points: pd.DataFrame, limits: tuple[float, float]) -> None:
    ax.plot(limits, limits, color="0.6", linewidth=1, zorder=0)
    if points[["x_sd", "y_sd"]].notna().to_numpy().any():
        style: Any = {"fmt": "none", "ecolor": "0.75", "elinewidth": 0.8, "zorder": 1}
        ax.errorbar(points["x"], points["y"], points["y_sd"], points["x_sd"], **style)
    ax.scatter(points["x"], points["y"], s=30, color=PALETTE[0], alpha=0.85, linewidth=0, zorder=2)
    ax.set(xlim=limits, ylim=limits, aspect="equal")
    ax.spines[["top", "right"]].set_visible(False)


def _label_dots(ax: Axes, table: pd.DataFrame) -> None:
    """Write names beside dots: each at the nearest place that no name, other dot or line of one is at.

    Places are beside the dot, and above and below in growing steps; farther names have a line to it.
    """
    whole = ax.get_figure(root=True)
    assert whole is not None
    # The layout moves the axes when the figure is drawn first.
    whole.draw_without_rendering()
    names, points = [str(name) for name in table.index], table[["x", "y"]].to_numpy(dtype=float)
    dots = ax.transData.transform(points.reshape(-1, 2))
    pixels = whole.dpi / 72
    lines = _error_bars(ax, table, pixels)
    around = np.concatenate([dots - 2.5 * pixels, dots + 2.5 * pixels], axis=1)
    taken = np.empty((0, 4))
    inside = ax.get_window_extent()
    # From above, so that names of a heap are stacked in the order of its dots.
    for number in np.argsort(-dots[:, 1], kind="stable"):
        text = ax.annotate(
            names[number],
            points[number],
            (0, 0),
            textcoords="offset points",
            fontsize=7,
            color="0.25",
            va="center",
            annotation_clip=False,
        )
        # Long names must not push panels apart.
        text.set_in_layout(False)
        box = text.get_window_extent()
        others = np.concatenate([np.delete(around, number, axis=0), taken])
        best = None
        for step in sorted(range(-_N_STEPS, _N_STEPS + 1), key=abs):
            for side in ("left", "right"):
                dx = _GAP if side == "left" else -_GAP
                low = dots[number, 0] + dx * pixels - (0 if side == "left" else box.width)
                middle = dots[number, 1] + step * 0.55 * box.height
                place = np.array(
                    [low, middle - box.height / 2, low + box.width, middle + box.height / 2]
                )
                covered = _overlaps(place, others)
                # Beyond the axes is better than over a name.
                beyond = place[0] < inside.x0 or place[2] > inside.x1
                crossed = _overlaps(place, lines)
                cost = (covered, beyond, crossed, abs(step), side == "right")
                if best is None or cost < best[0]:
                    best = cost, place, (dx, step * 0.55 * box.height / pixels), side
        assert best is not None
        _, place, offset, side = best
        taken = np.concatenate([taken, place[None]])
        text.set(ha=side, position=offset)
        if abs(offset[1]) > box.height / pixels:
            ax.annotate(
                "",
                points[number],
                offset,
                textcoords="offset points",
                arrowprops={"arrowstyle": "-", "color": "0.5", "linewidth": 0.5, "shrinkB": 2},
                zorder=1,
            )


def _error_bars(ax: Axes, table: pd.DataFrame, pixels: float) -> np.ndarray:
    """The standard deviations both ways, as thin rectangles on the screen."""
    spread = table[["x_sd", "y_sd"]].to_numpy(dtype=float, na_value=0.0)
    points = table[["x", "y"]].to_numpy(dtype=float)
    found = []
    for axis in (0, 1):
        half = spread * (np.arange(2) == axis)
        ends = [ax.transData.transform(points + sign * half) for sign in (-1, 1)]
        found.append(np.concatenate([ends[0] - 0.5 * pixels, ends[1] + 0.5 * pixels], axis=1))
    return np.concatenate(found)


def _overlaps(place: np.ndarray, others: np.ndarray) -> int:
    """Number of rectangles (left, bottom, right, top) that one lies on."""
    apart = (
        (others[:, 2] <= place[0])
        | (others[:, 0] >= place[2])
        | (others[:, 3] <= place[1])
        | (others[:, 1] >= place[3])
    )
    return int((~apart).sum())
