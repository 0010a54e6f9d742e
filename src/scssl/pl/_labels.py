"""Names beside dots, where they cover nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_GAP = 4.0  # points between a dot and its name
_N_STEPS = 12


def label_dots(ax: Axes, points: np.ndarray, names: Sequence[str]) -> None:
    """Write names beside dots: each at the nearest place that no name or other dot is at.

    Places are right and left of the dot, and above and below those in growing steps; names that are
    not beside their dot have a thin line to it.
    """
    figure = ax.get_figure(root=True)
    assert figure is not None
    # The layout moves the axes when the figure is drawn first.
    figure.draw_without_rendering()
    dots = ax.transData.transform(np.asarray(points, dtype=float).reshape(-1, 2))
    pixels = figure.dpi / 72
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
                cost = (covered, beyond, abs(step), side == "right")
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


def _overlaps(place: np.ndarray, others: np.ndarray) -> int:
    """Number of rectangles (left, bottom, right, top) that one lies on."""
    apart = (
        (others[:, 2] <= place[0])
        | (others[:, 0] >= place[2])
        | (others[:, 3] <= place[1])
        | (others[:, 1] >= place[3])
    )
    return int((~apart).sum())
