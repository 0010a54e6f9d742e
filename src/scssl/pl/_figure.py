"""What figures have in common: axes, colours, names of scores, saving and showing."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from scssl._checks import some
from scssl._errors import MissingKeyError
from scssl._io import check_place
from scssl.tl import METRICS, tidy_results

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from matplotlib.axes import Axes

# Colours that colour-blind readers tell apart (Okabe and Ito), those that print best first.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
# Kinds of lines and dots, so that colour is never all that tells one from another.
_LINES = ("-", "--", "-.", ":")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_SHORT = {"f1": "F1", "ari": "ARI", "nmi": "NMI", "kmeans": "k-means", "leiden": "Leiden"}
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
    """Check where a figure is to be saved before it is drawn.

    What all figures take and return is documented where a docstring says ``{figure}`` and ``{axes}``.
    """
    text = inspect.getdoc(function) or ""
    for place, words in _DOCUMENTED.items():
        text = text.replace(place, words)
    function.__doc__ = text

    @functools.wraps(function)
    def drawn(*args: Any, save: str | Path | None = None, **kwargs: Any) -> Any:
        return function(*args, save=None if save is None else _check_format(save), **kwargs)

    return cast("F", drawn)


def _check_format(save: str | Path) -> Path:
    from matplotlib.backend_bases import FigureCanvasBase

    path = check_place(save, "save")
    known = FigureCanvasBase.get_supported_filetypes()
    if path.suffix.removeprefix(".").lower() not in {"", *known}:
        new = path.with_suffix(".png")
        raise ValueError(
            f"`save` {path} is no kind of figure, which are {', '.join(known)}. Pass `save={str(new)!r}`."
        )
    return path


def make_panels(
    number: int,
    ax: Axes | None,
    size: tuple[float, float],
    advice: str = "",
    *,
    n_columns: int | None = None,
) -> list[Axes]:
    """Axes side by side in a new figure of this size, or the one axes that the user gave.

    All are in one row, or `n_columns` in each.
    """
    import matplotlib.pyplot as plt

    if ax is None:
        across = n_columns or number
        rows = -(-number // across)
        _, grid = plt.subplots(rows, across, figsize=size, squeeze=False, layout="constrained")
        for unused in grid.ravel()[number:]:
            unused.set_axis_off()
        return list(grid.ravel()[:number])
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


def line_style(number: int) -> dict[str, Any]:
    """Colour, line and marker of the line of this number; no two of the first 28 are the same."""
    return {
        "color": PALETTE[number % len(PALETTE)],
        "linestyle": _LINES[number % len(_LINES)],
        "marker": _MARKERS[number % len(_MARKERS)],
    }


def category_colors(adata: AnnData, key: str | None, categories: Any) -> dict[str, str]:
    """Colour of every category: those left with the data, or scanpy's, which are left there for `key`."""
    from scanpy.pl import palettes

    n = len(categories)
    colors = [] if key is None else list(adata.uns.get(f"{key}_colors", ()))
    if len(colors) < n:
        known = (palettes.default_20, palettes.default_28, palettes.default_102)
        colors = next((one[:n] for one in known if len(one) >= n), ["gray"] * n)
        if key is not None:
            adata.uns[f"{key}_colors"] = list(colors)
    return dict(zip(map(str, categories), colors, strict=False))


def legend_beside(ax: Axes, colors: dict[str, str], title: str | None = None) -> None:
    """A legend to the right of a panel."""
    for name, value in colors.items():
        ax.scatter([], [], color=value, label=name)
    n_columns = 1 + (len(colors) > 14) + (len(colors) > 30)
    ax.legend(
        frameon=False, loc="center left", bbox_to_anchor=(1, 0.5), ncol=n_columns, title=title
    )


def legend_width(column: pd.Series[Any] | None) -> float:
    """Inches that the legend of a column takes, or the scale of its numbers."""
    if column is None or column.dtype != "category":
        return 0.6
    names = [len(str(name)) for name in column.cat.categories]
    return (1 + (len(names) > 14) + (len(names) > 30)) * (0.4 + 0.09 * max(names, default=0))


def name_of(metric: str) -> str:
    """Name of a column, of scores or of what they are grouped by, as it is written in a figure."""
    if metric in METRICS:
        return METRICS[metric].label
    return " ".join(_SHORT.get(word, word) for word in metric.removeprefix("n_").split("_"))


def check_scores(scores: Any, metrics: Sequence[str], keys: dict[str, str | None]) -> None:
    """Raise unless `scores` is a frame with columns of numbers and the columns that arguments name."""
    import pandas as pd

    if not isinstance(scores, pd.DataFrame):
        raise TypeError(f"`scores` must be a pandas.DataFrame, found {type(scores).__name__}.")
    wanted = {"metric": list(metrics)} | {name: [key] for name, key in keys.items() if key}
    for argument, columns in wanted.items():
        for column in columns:
            if column not in scores:
                found = ", ".join(map(repr, scores.columns)) or "no columns"
                raise MissingKeyError(
                    f"`scores` has no column {column!r} (`{argument}`); it has {found}."
                )
    for metric in metrics:
        if not pd.api.types.is_numeric_dtype(scores[metric]):
            found = scores[metric].dtype
            raise TypeError(f"Column {metric!r} of `scores` must be numbers, found {found}.")


def in_order(values: pd.Series[Any]) -> list[Any]:
    """Each value once: in the order of categories, or numbers by size and then others as they come.

    So "all" comes after the numbers of labels.
    """
    import pandas as pd

    if values.dtype == "category":
        return [name for name in values.cat.categories if (values == name).any()]
    found = list(pd.unique(values.dropna()))
    numbers = [one for one in found if isinstance(one, (int, float, np.number))]
    return [*sorted(numbers), *(one for one in found if one not in numbers)]


def choose(results: Any, **chosen: Any) -> pd.DataFrame:
    """Rows of a benchmark with a value, or one of a list of values, in each of these columns.

    With `None` there must be one value only. Where nothing stands, a run failed before it was known what would.
    """
    results = tidy_results(results)
    for column, value in chosen.items():
        found = [one for one in results[column].unique() if one]
        if value is None and len(found) > 1:
            raise ValueError(
                f"`results` has several values of {column!r}, {some(found)}. Choose one: "
                f"`{column}={found[0]!r}`."
            )
        if value is None:
            continue
        wanted = [str(one) for one in ([value] if isinstance(value, (str, int)) else value)]
        absent = [one for one in wanted if one not in found]
        if absent or not wanted:
            what = f"no {column} {absent[0]!r}" if absent else f"nothing of {column}=[]"
            raise ValueError(f"`results` has {what}, but {some(found, 20) or 'none'}.")
        results = results[results[column].isin([*wanted, ""])]
    return results
