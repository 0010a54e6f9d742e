"""Known labels against predictions."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from matplotlib.axes import Axes

# Above this many labels the numbers do not fit in their squares.
_MAX_NUMBERS = 20


def confusion_matrix(
    adata: AnnData,
    label_key: str,
    pred_key: str,
    *,
    unknown_label: str = "unknown",
    numbers: bool | None = None,
    show: bool | None = None,
    save: str | Path | None = None,
    ax: Axes | None = None,
) -> Axes | list[Axes] | None:
    """Draw what cells of each label were predicted to be.

    Each row is a label and adds to 1: the share of its cells by prediction. Labels are sorted, numbers
    in them by value, unless their categories have an order of another kind. Where predictions are
    labels, all labels have a column, those never predicted too, in the same order: what is right is on
    the diagonal. Other predictions follow, each by the label that has the largest share of it, and
    `unknown_label` comes last.

    Parameters
    ----------
    adata
        Cells with both columns. Nothing is changed.
    label_key
        Column of `adata.obs` with the known labels.
    pred_key
        Column of `adata.obs` with the predictions.
    unknown_label
        Prediction that stands for no prediction.
    numbers
        Write the shares into the squares; by default for up to 20 labels.
    show
        Show the figure. By default shown, unless `save` or `ax` is given or scanpy's ``autoshow``
        is off.
    save
        File to save the figure in; its ending is the format.
    ax
        Axes to draw in.

    Returns
    -------
    matplotlib.axes.Axes or list of matplotlib.axes.Axes or None
        The axes; `None` when the figure is shown.

    Raises
    ------
    KeyError
        If a column is not in `adata.obs`.
    ValueError
        If a label or prediction is missing.

    Examples
    --------
    >>> import scssl
    >>> adata = scssl.datasets.pbmc68k_reduced()
    >>> ax = scssl.pl.confusion_matrix(adata, "bulk_labels", "louvain", show=False)
    >>> ax.get_ylabel()
    'bulk_labels'
    """
    import matplotlib.pyplot as plt

    from scssl._checks import check_adata, check_key, get_labels

    from ._finish import finish

    check_adata(adata)
    check_key(unknown_label, "unknown_label")
    known = get_labels(adata, label_key)
    found = get_labels(adata, pred_key, "pred_key")
    shares, sizes = _shares(known, found, unknown_label)
    n_rows, n_columns = shares.shape
    names = [f"{name} ({size:,})" for name, size in zip(shares.index, sizes, strict=True)]
    if ax is None:
        # A square per pair of labels, and room for the longest names beside them.
        letters = [0.08 * max(map(len, group)) for group in (names, shares.columns)]
        size = (1.4 + letters[0] + 0.36 * n_columns, 0.7 + letters[1] + 0.36 * n_rows)
        _, ax = plt.subplots(figsize=size, layout="constrained")
    else:
        show = bool(show)
    image = ax.imshow(shares.to_numpy(), vmin=0, vmax=1, cmap="Blues", aspect="auto")
    ax.set_yticks(range(n_rows), names)
    ax.set_xticks(range(n_columns), list(shares.columns), rotation=90)
    ax.set_ylabel(label_key)
    ax.set_xlabel(pred_key)
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)
    if numbers is None:
        numbers = max(n_rows, n_columns) <= _MAX_NUMBERS
    if numbers:
        _write(ax, shares)
    figure = ax.get_figure()
    if figure is not None:
        figure.colorbar(image, ax=ax, label="share of the label's cells", shrink=0.8)
    drawn = finish([ax], show=show, save=save)
    return None if drawn is None else drawn[0]


def _shares(
    known: pd.Series[Any], found: pd.Series[Any], unknown_label: str
) -> tuple[pd.DataFrame, Any]:
    """Shares by label and prediction, in the order they are drawn, and cells by label."""
    import numpy as np
    import pandas as pd

    counts = pd.crosstab(
        known.astype(str).to_numpy(), found.astype(str).to_numpy(), dropna=False
    ).astype(np.int64)
    rows = [name for name in _order(known) if name in counts.index]
    same = [name for name in rows if name != unknown_label]
    if not any(name in counts.columns for name in same):
        same = []  # of clusters, for instance
    counts = counts.reindex(
        columns=[*counts, *(name for name in same if name not in counts)], fill_value=0
    )
    shares = counts.loc[rows].div(counts.loc[rows].sum(axis=1), axis=0)
    place = {name: int(np.argmax(shares[name].to_numpy())) for name in counts.columns}
    others = [name for name in _order(found) if name in counts.columns and name not in same]
    others.sort(key=lambda name: (name == unknown_label, place[name]))
    return shares[[*same, *others]], counts.loc[rows].sum(axis=1).to_numpy()


def _order(values: pd.Series[Any]) -> list[str]:
    """Names in the order of categories that were put in order, else sorted with numbers by value."""
    names = sorted(set(values.astype(str)))
    if values.dtype == "category":
        categories = [str(name) for name in values.cat.categories]
        # AnnData makes categories of strings, in the order of their letters: nobody chose that.
        if categories != sorted(categories):
            return categories
    return sorted(names, key=_by_value)


def _by_value(name: str) -> list[tuple[int, int, str]]:
    parts = re.split(r"(\d+)", name)
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in parts if part]


def _write(ax: Axes, shares: pd.DataFrame) -> None:
    for row, values in enumerate(shares.to_numpy()):
        for column, value in enumerate(values):
            if value >= 0.005:
                text = "1" if value > 0.995 else f"{value:.2f}"[1:]
                color = "white" if value > 0.5 else "black"
                ax.text(column, row, text, ha="center", va="center", color=color, fontsize=7)
