"""Predicted proteins, or other features, against measured ones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scssl._checks import check_adata, check_whole, some
from scssl._errors import MissingKeyError
from scssl.tl import modality_scores as score

from ._figure import PALETTE, figure, finish, make_panels

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes

# More panels than this are no longer looked at one by one.
_MOST = 8


@figure
def modality_scores(
    adata: AnnData,
    true_key: str,
    pred_key: str,
    *,
    features: str | Sequence[str] | None = None,
    indices: Sequence[int] | Sequence[str] | np.ndarray | None = None,
    n_columns: int = 4,
    show: bool | None = None,
    save: str | Path | None = None,
    ax: Axes | None = None,
) -> Axes | list[Axes] | None:
    """Draw predicted proteins, or other features, against measured ones, a panel for each.

    A point is a cell. Over each panel stands the Pearson correlation over its cells, as
    :func:`scssl.tl.modality_scores` computes it. A prediction that has the right order of cells but not
    the right scale lies along another line than the diagonal.

    Parameters
    ----------
    adata
        Cells with both. Not changed.
    true_key
        Entry of `adata.obsm` with the measured values, a frame.
    pred_key
        Entry of `adata.obsm` with the predicted values.
    features
        Columns to draw; by default those of the largest correlation first, up to eight.
    indices
        Rows, a boolean mask or cell names to draw, best those that nothing was learnt from; all by
        default.
    n_columns
        Panels in a row.
    {figure}

    {axes}

    Raises
    ------
    KeyError
        If an entry or a feature is not there.
    ValueError
        If there are several panels for one `ax`, or what :func:`scssl.tl.modality_scores` refuses.

    Examples
    --------
    >>> import numpy as np, pandas as pd, scssl
    >>> adata = scssl.datasets.simulated(n_proteins=3)
    >>> noise = np.random.default_rng(0).normal(scale=5, size=(adata.n_obs, 3))
    >>> adata.obsm["predicted"] = adata.obsm["protein"] + noise
    >>> axes = scssl.pl.modality_scores(adata, "protein", "predicted", show=False)
    >>> len(axes)
    3
    """
    from anndata import AnnData

    check_adata(adata)
    n_columns = check_whole("n_columns", n_columns)
    # Scores are written to the cells that they are of: to these, which are dropped.
    part = adata if indices is None else adata[indices]
    entries = {key: part.obsm[key] for key in (true_key, pred_key) if key in part.obsm}
    cells = AnnData(obs=part.obs[[]], obsm=entries)
    scored = score(cells, true_key, pred_key).attrs["per_feature"]
    correlation = dict(zip(scored["feature"], scored["pearson"], strict=True))
    if features is None:
        order = sorted(correlation, key=lambda name: -np.nan_to_num(correlation[name], nan=-2))
        names = order[:_MOST]
    else:
        names = [features] if isinstance(features, str) else list(features)
    absent = [name for name in names if name not in correlation]
    if absent or not names:
        raise MissingKeyError(
            f"adata.obsm[{true_key!r}] has no {some(absent) or 'features'}, but {some(correlation, 20)}."
        )
    across = min(n_columns, len(names))
    size = (2.3 * across, 2.4 * -(-len(names) // across))
    panels = make_panels(len(names), ax, size, "give one of `features`", n_columns=across)
    for panel, name in zip(panels, names, strict=True):
        x, y = (_values(entries[key], name, list(correlation)) for key in (true_key, pred_key))
        panel.scatter(x, y, s=6, color=PALETTE[0], alpha=0.5, linewidth=0, rasterized=True)
        low, high = np.nanmin([x, y]), np.nanmax([x, y])
        panel.plot([low, high], [low, high], color="0.6", linewidth=1, linestyle=":", zorder=0)
        panel.set_title(f"{name}, r = {correlation[name]:.2f}", fontsize="medium")
        panel.spines[["top", "right"]].set_visible(False)
    for panel in panels[-across:]:
        panel.set_xlabel("measured")
    for panel in panels[::across]:
        panel.set_ylabel("predicted")
    return finish(panels, ax, show=show, save=save)


def _values(table: Any, name: str, names: list[str]) -> np.ndarray:
    """A feature of an entry of `obsm`, by name, or by its number where columns have none."""
    if hasattr(table, "columns"):
        return table.iloc[:, list(map(str, table.columns)).index(name)].to_numpy(dtype=float)
    return np.asarray(table[:, names.index(name)], dtype=float)
