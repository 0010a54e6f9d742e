"""Predicted labels against known ones: which, how well, and how well the confidence knows."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from scssl._checks import check_adata, check_key, get_column, get_labels
from scssl._errors import MissingKeyError
from scssl._scores import calibration_error, class_table, reliability

from ._figure import PALETTE, figure, finish, make_panels

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes

# Inches of the squares of few labels together, beside which the scale of shares can be read.
_LEAST_SIDE = 1.8
# Above this many labels the numbers do not fit in their squares.
_MAX_NUMBERS = 20


@figure
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
    {figure}

    {axes}

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
    check_adata(adata)
    check_key(unknown_label, "unknown_label")
    known = get_labels(adata, label_key)
    found = get_labels(adata, pred_key, "pred_key")
    shares, sizes = _shares(known, found, unknown_label)
    n_rows, n_columns = shares.shape
    names = [f"{name} ({size:,})" for name, size in zip(shares.index, sizes, strict=True)]
    # A square per pair of labels, and room for the longest names beside them.
    letters = [0.08 * max(map(len, group)) for group in (names, shares.columns)]
    side = max(0.36, _LEAST_SIDE / max(n_rows, n_columns))
    size = (1.4 + letters[0] + side * n_columns, 0.7 + letters[1] + side * n_rows)
    [panel] = make_panels(1, ax, size)
    image = panel.imshow(shares.to_numpy(), vmin=0, vmax=1, cmap="Blues", aspect="auto")
    panel.set_yticks(range(n_rows), names)
    panel.set_xticks(range(n_columns), list(shares.columns), rotation=90)
    panel.set_ylabel(label_key)
    panel.set_xlabel(pred_key)
    panel.spines[:].set_visible(False)
    panel.tick_params(length=0)
    if numbers is None:
        numbers = max(n_rows, n_columns) <= _MAX_NUMBERS
    if numbers:
        _write_numbers(panel, shares)
    whole = panel.get_figure()
    if whole is not None:
        whole.colorbar(image, ax=panel, label="share of the label's cells", shrink=0.8)
    return finish([panel], ax, show=show, save=save)


def _shares(
    known: pd.Series[Any], found: pd.Series[Any], unknown_label: str
) -> tuple[pd.DataFrame, Any]:
    """Shares by label and prediction, in the order they are drawn, and cells by label."""
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


def _write_numbers(ax: Axes, shares: pd.DataFrame) -> None:
    for row, values in enumerate(shares.to_numpy()):
        for column, value in enumerate(values):
            if value >= 0.005:
                text = "1" if value > 0.995 else f"{value:.2f}"[1:]
                color = "white" if value > 0.5 else "black"
                ax.text(column, row, text, ha="center", va="center", color=color, fontsize=7)


@figure
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
    {figure}

    {axes}

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
    keys = [pred_key] if isinstance(pred_key, str) else list(pred_key)
    shown = keys if names is None else list(names)
    if not keys or len(shown) != len(keys):
        raise ValueError(
            f"`names` must have one name for each of the {len(keys)} predictions, found {shown}."
        )
    table = _table(adata, label_key, keys)
    places = range(len(table))
    letters = 0.08 * max(map(len, table.index))
    size = (3.6 + letters, 1.0 + 0.26 * len(table) + 0.22 * len(keys) * (len(keys) > 1))
    [panel] = make_panels(1, ax, size)
    panel.hlines(places, table.min(axis=1), table.max(axis=1), color="0.8", linewidth=3, zorder=1)
    for number, (key, name) in enumerate(zip(keys, shown, strict=True)):
        color = PALETTE[number % len(PALETTE)]
        mean = float(table[key].mean())
        panel.axvline(mean, color=color, linewidth=1, linestyle=":", zorder=0)
        label = f"{name} (macro {mean:.3f})" if len(keys) > 1 else None
        # Beside each other, where two are equal.
        dodge = 0.0 if len(keys) == 1 else 0.3 * ((len(keys) - 1) / 2 - number) / (len(keys) - 1)
        panel.scatter(
            table[key], np.arange(len(table)) + dodge, s=32, color=color, label=label, zorder=2
        )
    if len(keys) == 1:
        panel.set_title(f"macro-F1 {table[keys[0]].mean():.3f}", fontsize="medium")
    else:
        panel.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0)
    panel.set_yticks(places, list(table.index))
    panel.set_ylim(-0.6, len(table) - 0.4)
    panel.set(xlabel="F1", xlim=(-0.03, 1.03))
    panel.spines[["top", "right"]].set_visible(False)
    return finish([panel], ax, show=show, save=save)


def _table(adata: AnnData, label_key: str, keys: list[str]) -> pd.DataFrame:
    """F1 by label and prediction, from the lowest mean to the highest; the index is what is written."""
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


@figure
def calibration(
    adata: AnnData,
    label_key: str | None = None,
    pred_key: str = "ssl_label",
    *,
    show: bool | None = None,
    save: str | Path | None = None,
    ax: Axes | None = None,
) -> Axes | list[Axes] | None:
    """Draw the share of right labels against their confidence: a reliability diagram.

    Cells are put in 15 bins of confidence of equal width. On the diagonal the confidence is what it
    says; below it the labels are less often right than they claim. The area of a point is its share
    of the cells, and the expected calibration error :cite:p:`Naeini2015` is the mean distance from
    the diagonal, weighted by cells.

    Parameters
    ----------
    adata
        Cells that :func:`scssl.tl.label_transfer` labelled. Nothing is changed.
    label_key
        Column of `adata.obs` with the known labels of these cells, if there are any. Without it, the
        held-out cells of the reference are drawn, which the confidence was not fitted on.
    pred_key
        The `key_added` of the label transfer.
    {figure}

    {axes}

    Raises
    ------
    KeyError
        If there is no label transfer under `pred_key`, or no column `label_key`.

    Examples
    --------
    >>> import scanpy as sc, scssl
    >>> adata = scssl.datasets.pbmc68k_reduced()
    >>> sc.pp.pca(adata)
    >>> reference, query = adata[:500].copy(), adata[500:].copy()
    >>> scssl.tl.label_transfer(reference, query, "bulk_labels", use_rep="X_pca")
    >>> ax = scssl.pl.calibration(query, "bulk_labels", show=False)
    >>> ax.get_xlabel()
    'confidence'
    """
    check_adata(adata)
    bins, title = _bins(adata, label_key, pred_key)
    [panel] = make_panels(1, ax, (4.9, 3.8))
    filled = bins["n_cells"] > 0
    share = bins["n_cells"][filled] / bins["n_cells"].sum()
    panel.plot([0, 1], [0, 1], color="0.6", linewidth=1, linestyle=":", zorder=0)
    x, y = bins["confidence"][filled], bins["accuracy"][filled]
    panel.vlines(x, x, y, color=PALETTE[1], linewidth=1, zorder=1)
    style: Any = {"color": PALETTE[0], "alpha": 0.8, "linewidth": 0}
    panel.scatter(x, y, s=_area(share), zorder=2, **style)
    for part in (0.05, 0.25, 0.5):
        panel.scatter([], [], s=_area(part), label=f"{part:.0%}", **style)
    panel.legend(
        title="share of cells",
        frameon=False,
        loc="center left",
        bbox_to_anchor=(1, 0.5),
        labelspacing=1,
    )
    panel.set(xlabel="confidence", ylabel="share of right labels", title=title)
    panel.set(xlim=(-0.02, 1.05), ylim=(-0.02, 1.05), aspect="equal")
    panel.spines[["top", "right"]].set_visible(False)
    return finish([panel], ax, show=show, save=save)


def _area(share: Any) -> Any:
    """Size of the point of a share of the cells; the least is that of a visible point."""
    return 12 + 500 * share


def _bins(
    adata: AnnData, label_key: str | None, pred_key: str
) -> tuple[dict[str, np.ndarray], str]:
    check_key(pred_key, "pred_key")
    written = adata.uns.get(pred_key)
    if not isinstance(written, dict) or "calibration" not in written:
        raise MissingKeyError(
            f"adata.uns[{pred_key!r}] has no calibration. Make it: `scssl.tl.label_transfer(reference, "
            f"adata, label_key, key_added={pred_key!r})`."
        )
    if label_key is None:
        bins = {name: np.asarray(values) for name, values in written["calibration"]["bins"].items()}
        cells = "held-out cells of the reference"
    else:
        known = get_labels(adata, label_key).astype(str).to_numpy()
        found = get_labels(adata, pred_key, "pred_key").astype(str).to_numpy()
        confidence = get_column(adata, f"{pred_key}_confidence", "pred_key").to_numpy()
        bins, cells = reliability(confidence, known == found), "cells"
    error = calibration_error(bins)
    return bins, f"{int(bins['n_cells'].sum()):,} {cells}\nexpected calibration error {error:.3f}"
