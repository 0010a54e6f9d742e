"""Means of scores with intervals, arm by arm."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scssl._checks import check_number
from scssl._errors import warn

from ._figure import PALETTE, check_scores, figure, finish, in_order, make_panels, name_of

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes


@figure
def metric_bars(
    scores: pd.DataFrame,
    metrics: str | Sequence[str],
    *,
    arm_key: str = "arm",
    repeat_key: str | None = "seed",
    group_key: str | None = None,
    interval: float = 0.95,
    bars: bool = True,
    show: bool | None = None,
    save: str | Path | None = None,
    ax: Axes | None = None,
) -> Axes | list[Axes] | None:
    """Draw the mean score of each arm with the interval that its repeats leave for it.

    The rows of one repeat, such as those of several data sets with one seed, are averaged first. The
    bar is the mean over repeats, the line its confidence interval by Student's t, and the small dots
    are the repeats. The interval tells what other seeds would give, not what other data sets would.

    Parameters
    ----------
    scores
        One row for each arm and repeat, or several.
    metrics
        Column with the score, or several, side by side.
    arm_key
        Column with the arm; the arms are told apart by colour.
    repeat_key
        Column with the repeat; with `None` every row is one.
    group_key
        Column with what stands side by side instead, such as the number of labels. Each of `metrics`
        then has a panel.
    interval
        Level of the confidence interval.
    bars
        Draw bars, which start at zero, or only points, whose axis starts where they do.
    {figure}

    {axes}

    Raises
    ------
    KeyError
        If a column is not in `scores`.
    ValueError
        If `interval` is out of range, there is nothing to draw, or there are several panels for one
        `ax`.

    Examples
    --------
    >>> import pandas as pd, scssl
    >>> scores = pd.DataFrame(
    ...     {"arm": ["PCA", "PCA", "SSL", "SSL"], "seed": [0, 1, 0, 1], "ari": [0.5, 0.4, 0.6, 0.5]}
    ... )
    >>> ax = scssl.pl.metric_bars(scores, "ari", show=False)
    >>> [round(float(bar.get_height()), 2) for bar in ax.patches]
    [0.45, 0.55]
    """
    names = [metrics] if isinstance(metrics, str) else list(metrics)
    keys = {"arm_key": arm_key, "repeat_key": repeat_key, "group_key": group_key}
    check_scores(scores, names, keys)
    check_number("interval", interval, "(0, 1)")
    if not names or not len(scores):
        raise ValueError("There is nothing to draw: `metrics` or `scores` is empty.")
    drawn: list[dict[str, tuple[pd.DataFrame, str]]]
    if group_key is None:
        drawn = [{name_of(name): (scores, name) for name in names}]
    else:
        groups = {str(g): scores[scores[group_key] == g] for g in in_order(scores[group_key])}
        drawn = [{group: (rows, name) for group, rows in groups.items()} for name in names]
    arms = in_order(scores[arm_key])
    width = 1.1 + len(drawn[0]) * (0.35 + 0.3 * len(arms))
    # A panel of few bars is no taller than it is wide.
    height = min(3.2, max(2.2, width))
    size = (width * len(drawn) + 0.11 * max(len(str(arm)) for arm in arms) + 0.3, height)
    axes = make_panels(len(drawn), ax, size, "give one of `metrics`")
    for panel, groups_of in zip(axes, drawn, strict=True):
        _draw(panel, groups_of, scores, arm_key, repeat_key, interval, bars=bars)
    for panel, name in zip(axes, names, strict=False):
        single = group_key is not None or len(names) == 1
        panel.set_ylabel(name_of(name) if single else "score")
        if group_key is not None:
            panel.set_xlabel(name_of(group_key))
        elif single:
            panel.set_xticks([])
    axes[-1].legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    return finish(axes, ax, show=show, save=save)


def _draw(
    ax: Axes,
    groups: dict[str, tuple[pd.DataFrame, str]],
    scores: pd.DataFrame,
    arm_key: str,
    repeat_key: str | None,
    interval: float,
    *,
    bars: bool,
) -> None:
    arms = in_order(scores[arm_key])
    width = 0.8 / len(arms)
    for number, arm in enumerate(arms):
        color = PALETTE[number % len(PALETTE)]
        places, means, halves = [], [], []
        for group, (rows, metric) in enumerate(groups.values()):
            values = _repeats(rows[rows[arm_key] == arm], metric, repeat_key)
            if not len(values):
                continue
            place = group + (number - (len(arms) - 1) / 2) * width
            places.append(place)
            means.append(float(values.mean()))
            halves.append(_half_interval(values, interval))
            # Beside the line of the interval, in the order of the repeats.
            spread = np.linspace(-0.25, 0.25, len(values)) if len(values) > 1 else [0.0]
            dots = place + width * np.asarray(spread)
            ax.scatter(
                dots, values, s=7, color="0.25" if bars else color, alpha=0.6, linewidth=0, zorder=3
            )
        label = str(arm)
        if bars:
            ax.bar(places, means, 0.9 * width, color=color, alpha=0.75, label=label, zorder=1)
        else:
            ax.scatter(places, means, s=36, color=color, label=label, zorder=4)
        known = ~np.isnan(halves)
        ax.errorbar(
            np.asarray(places)[known],
            np.asarray(means)[known],
            np.asarray(halves)[known],
            fmt="none",
            ecolor="black" if bars else color,
            elinewidth=1.2,
            capsize=2,
            zorder=2,
        )
    ax.set_xticks(range(len(groups)), list(groups))
    ax.set_xlim(-0.6, len(groups) - 0.4)
    ax.spines[["top", "right"]].set_visible(False)


def _repeats(rows: pd.DataFrame, metric: str, repeat_key: str | None) -> Any:
    """Score of each repeat, the mean of its rows."""
    values = rows[metric]
    if values.isna().any():
        warn(
            f"{int(values.isna().sum())} of {len(values)} rows have no {metric!r} and are left out."
        )
    if repeat_key is None:
        return values.dropna().to_numpy(dtype=np.float64)
    found = values.groupby(rows[repeat_key], observed=True).mean().dropna()
    return found.to_numpy(dtype=np.float64)


def _half_interval(values: Any, level: float) -> float:
    """Half the width of the confidence interval of the mean; NaN for one value."""
    from scipy.stats import t

    n = len(values)
    if n < 2:
        return float("nan")
    return float(t.ppf((1 + level) / 2, n - 1) * values.std(ddof=1) / n**0.5)
