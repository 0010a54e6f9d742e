"""Scores of one arm against those of another, data set by data set."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes


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
    show
        Show the figure. By default shown, unless `save` or `ax` is given or scanpy's ``autoshow``
        is off.
    save
        File to save the figure in; its ending is the format.
    ax
        Axes to draw in; for one panel only.

    Returns
    -------
    matplotlib.axes.Axes or list of matplotlib.axes.Axes or None
        The axes, a list for several panels; `None` when the figure is shown.

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
    import matplotlib.pyplot as plt
    import pandas as pd

    from ._finish import finish
    from ._labels import label_dots
    from ._pairs import pairs_of
    from ._score_tables import check_scores, in_order, name_of

    keys = {"arm_key": arm_key, "dataset_key": dataset_key, "panel_key": panel_key}
    if repeat_key == "seed" and isinstance(scores, pd.DataFrame) and "seed" not in scores:
        repeat_key = None
    check_scores(scores, [metric], {**keys, "repeat_key": repeat_key})
    arms = list(scores[arm_key].unique())
    for name, arm in (("x", x), ("y", y)):
        if arm not in arms:
            raise ValueError(
                f"{name}={arm!r} is no arm in {arm_key!r}; there are {', '.join(map(repr, arms))}."
            )
    panels: dict[Any, pd.DataFrame] = {None: scores}
    if panel_key is not None:
        panels = {
            value: scores[scores[panel_key] == value] for value in in_order(scores[panel_key])
        }
    pairs = {
        value: pairs_of(rows, metric, x, y, arm_key, dataset_key, repeat_key)
        for value, rows in panels.items()
    }
    if ax is not None:
        if len(pairs) > 1:
            raise ValueError(
                f"{len(pairs)} panels do not fit in one `ax`: choose the rows of one, or give no `ax`."
            )
        axes, show = [ax], bool(show)
    else:
        size = (3.6 * len(pairs) + 0.2, 3.9)
        _, grid = plt.subplots(1, len(pairs), figsize=size, squeeze=False, layout="constrained")
        axes = list(grid[0])
    limits = _limits(list(pairs.values()))
    for panel, (value, points) in zip(axes, pairs.items(), strict=True):
        _draw(panel, points, limits)
        panel.set(xlabel=f"{name_of(metric)}, {x}", ylabel=f"{name_of(metric)}, {y}")
        title = [] if value is None else [f"{name_of(str(panel_key))}: {value}"]
        panel.set_title("\n".join([*title, _count(points)]), fontsize="medium")
    if names:
        for panel, points in zip(axes, pairs.values(), strict=True):
            label_dots(panel, points[["x", "y"]].to_numpy(), [str(name) for name in points.index])
    drawn = finish(axes, show=show, save=save)
    return drawn[0] if drawn is not None and len(drawn) == 1 else drawn


def _limits(points: list[pd.DataFrame]) -> tuple[float, float]:
    """The same limits for both axes and all panels."""
    import numpy as np

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
    from ._score_tables import PALETTE

    ax.plot(limits, limits, color="0.6", linewidth=1, zorder=0)
    if points[["x_sd", "y_sd"]].notna().to_numpy().any():
        ax.errorbar(
            points["x"],
            points["y"],
            xerr=points["x_sd"],
            yerr=points["y_sd"],
            fmt="none",
            ecolor="0.75",
            elinewidth=0.8,
            zorder=1,
        )
    ax.scatter(points["x"], points["y"], s=30, color=PALETTE[0], alpha=0.85, linewidth=0, zorder=2)
    ax.set(xlim=limits, ylim=limits, aspect="equal")
    ax.spines[["top", "right"]].set_visible(False)
