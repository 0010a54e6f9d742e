"""What every figure does when it is drawn."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def finish(axes: list[Axes], *, show: bool | None, save: str | Path | None) -> list[Axes] | None:
    """Save and show the figure of ``axes``; return them when it is not shown."""
    import matplotlib.pyplot as plt
    import scanpy as sc

    figure = axes[0].get_figure(root=True)
    if save is not None and figure is not None:
        Path(save).parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(save, dpi=150, bbox_inches="tight")
    if show is None:
        show = save is None and sc.settings.autoshow
    if show:
        plt.show()
        return None
    return axes
