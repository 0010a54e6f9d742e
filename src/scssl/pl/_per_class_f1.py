"""F1 of every label."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from matplotlib.axes import Axes


def per_class_f1(
    adata: AnnData,
    label_key: str,
    pred_key: str | Sequence[str],
    *,
    names: Sequence[str] | None = None,
    show: bool | None = None,
    save: str | Path | None = None,
    ax: Axes | None = None,
) -> Axes | list[Axes] | None:
    """Draw the F1 of every label, for one prediction or several beside each other.

    Labels are sorted by their mean F1, the best at the top, each with its number of cells. A dotted
    line is the mean over labels: macro-F1.

    Parameters
    ----------
    adata
        Cells with the columns. Nothing is changed. Of a classifier draw the cells that it was not
        trained on: ``adata[adata.obs["svm_label_part"] == "test"]``.
    label_key
        Column of `adata.obs` with the known labels.
    pred_key
        Column of `adata.obs` with the predictions, or several to compare. A prediction that no cell has
        as its label, such as ``"unknown"``, is an error.
    names
        What each of `pred_key` is called in the legend.
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
        If a label or prediction is missing, or `names` and `pred_key` differ in number.

    Examples
    --------
    >>> import scanpy as sc, scssl
    >>> adata = scssl.datasets.pbmc68k_reduced()
    >>> sc.pp.pca(adata)
    >>> scssl.tl.classify(adata, "bulk_labels", use_rep="X_pca", classifier="lr")
    >>> test = adata[adata.obs["lr_label_part"] == "test"]
    >>> ax = scssl.pl.per_class_f1(test, "bulk_labels", "lr_label", show=False)
    >>> ax.get_xlabel()
    'F1'
    """
    import matplotlib.pyplot as plt
    import numpy as np

    from ._finish import finish
    from ._score_tables import PALETTE

    keys = [pred_key] if isinstance(pred_key, str) else list(pred_key)
    shown = keys if names is None else list(names)
    if not keys or len(shown) != len(keys):
        raise ValueError(
            f"`names` must have one name for each of the {len(keys)} predictions, found {shown}."
        )
    table = _table(adata, label_key, keys)
    places = range(len(table))
    if ax is None:
        letters = 0.08 * max(map(len, table.index))
        size = (3.6 + letters, 1.0 + 0.26 * len(table) + 0.22 * len(keys) * (len(keys) > 1))
        _, ax = plt.subplots(figsize=size, layout="constrained")
    else:
        show = bool(show)
    ax.hlines(places, table.min(axis=1), table.max(axis=1), color="0.8", linewidth=3, zorder=1)
    for number, (key, name) in enumerate(zip(keys, shown, strict=True)):
        color = PALETTE[number % len(PALETTE)]
        mean = float(table[key].mean())
        ax.axvline(mean, color=color, linewidth=1, linestyle=":", zorder=0)
        label = f"{name} (macro {mean:.3f})" if len(keys) > 1 else None
        # Beside each other, where two are equal.
        dodge = 0.0 if len(keys) == 1 else 0.3 * ((len(keys) - 1) / 2 - number) / (len(keys) - 1)
        ax.scatter(
            table[key], np.arange(len(table)) + dodge, s=32, color=color, label=label, zorder=2
        )
    if len(keys) == 1:
        ax.set_title(f"macro-F1 {table[keys[0]].mean():.3f}", fontsize="medium")
    else:
        ax.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0)
    ax.set_yticks(places, list(table.index))
    ax.set_ylim(-0.6, len(table) - 0.4)
    ax.set(xlabel="F1", xlim=(-0.03, 1.03))
    ax.spines[["top", "right"]].set_visible(False)
    drawn = finish([ax], show=show, save=save)
    return None if drawn is None else drawn[0]


def _table(adata: AnnData, label_key: str, keys: list[str]) -> pd.DataFrame:
    """F1 by label and prediction, from the lowest mean to the highest; the index is what is written."""
    import numpy as np
    import pandas as pd

    from scssl._checks import check_adata, get_labels
    from scssl._scores import class_table

    check_adata(adata)
    known = get_labels(adata, label_key).astype(str).to_numpy()
    labels, truth = np.unique(known, return_inverse=True)
    if not len(labels):
        raise ValueError("`adata` has no cells to draw.")
    columns = {}
    for key in keys:
        found = get_labels(adata, key, "pred_key").astype(str).to_numpy()
        one = class_table(truth, pd.Index(labels).get_indexer(found), labels)
        columns[key] = one["f1"].to_numpy()
    index = [f"{name} ({n:,})" for name, n in zip(labels, np.bincount(truth), strict=True)]
    table = pd.DataFrame(columns, index=index)
    return table.iloc[np.argsort(table.mean(axis=1), kind="stable")]
