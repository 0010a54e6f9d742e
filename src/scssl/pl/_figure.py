"""What all figures have in common: where they are drawn, their colours, saving and showing."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Colours that colour-blind readers tell apart (Okabe and Ito), those that print best first.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
_DOCUMENTED = {
    "{figure}": """show
    Show the figure. By default shown, unless `save` or `ax` is given or scanpy's ``autoshow``
    is off.
save
    File to save the figure in; its ending is the format.
ax
    Axes to draw in; for one panel only.""",
    "{axes}": """Returns
-------
matplotlib.axes.Axes or list of matplotlib.axes.Axes or None
    The axes, a list for several panels; `None` when the figure is shown.""",
}


def figure[F: Callable[..., Any]](function: F) -> F:
    """Document what all figures take and return, where a docstring says ``{figure}`` and ``{axes}``."""
    text = inspect.getdoc(function) or ""
    for place, words in _DOCUMENTED.items():
        text = text.replace(place, words)
    function.__doc__ = text
    return function


def make_panels(
    number: int, ax: Axes | None, size: tuple[float, float], advice: str = ""
) -> list[Axes]:
    """Axes side by side in a new figure of this size, or the one axes that the user gave."""
    import matplotlib.pyplot as plt

    if ax is None:
        _, grid = plt.subplots(1, number, figsize=size, squeeze=False, layout="constrained")
        return list(grid[0])
    if number > 1:
        raise ValueError(f"{number} panels do not fit in one `ax`: {advice}, or give no `ax`.")
    return [ax]


def finish(
    axes: list[Axes], ax: Axes | None, *, show: bool | None, save: str | Path | None
) -> Axes | list[Axes] | None:
    """Save and show the figure of ``axes``; return them when it is not shown."""
    import matplotlib.pyplot as plt
    import scanpy as sc

    whole = axes[0].get_figure(root=True)
    if save is not None and whole is not None:
        Path(save).parent.mkdir(parents=True, exist_ok=True)
        whole.savefig(save, dpi=150, bbox_inches="tight")
    if show is None:
        show = save is None and ax is None and sc.settings.autoshow
    if show:
        plt.show()
        return None
    return axes[0] if len(axes) == 1 else axes
