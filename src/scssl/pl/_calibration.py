"""Whether confidences are what they say."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from anndata import AnnData
    from matplotlib.axes import Axes


def calibration(
    adata: AnnData,
    label_key: str | None = None,
    *,
    pred_key: str = "ssl_label",
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
    import matplotlib.pyplot as plt

    from scssl._checks import check_adata

    from ._finish import finish

    check_adata(adata)
    bins, title = _bins(adata, label_key, pred_key)
    if ax is None:
        _, ax = plt.subplots(figsize=(3.8, 3.8), layout="constrained")
    else:
        show = bool(show)
    filled = bins["n_cells"] > 0
    share = bins["n_cells"][filled] / bins["n_cells"].sum()
    ax.plot([0, 1], [0, 1], color="0.6", linewidth=1, linestyle=":", zorder=0)
    x, y = bins["confidence"][filled], bins["accuracy"][filled]
    ax.vlines(x, x, y, color="#D55E00", linewidth=1, zorder=1)
    # The least size is that of a visible point.
    ax.scatter(x, y, s=12 + 500 * share, color="#0072B2", alpha=0.8, linewidth=0, zorder=2)
    ax.set(xlabel="confidence", ylabel="share of right labels", title=title)
    ax.set(xlim=(-0.02, 1.05), ylim=(-0.02, 1.05), aspect="equal")
    ax.spines[["top", "right"]].set_visible(False)
    drawn = finish([ax], show=show, save=save)
    return None if drawn is None else drawn[0]


def _bins(
    adata: AnnData, label_key: str | None, pred_key: str
) -> tuple[dict[str, np.ndarray], str]:
    import numpy as np

    from scssl._checks import check_key, get_column, get_labels
    from scssl._scores import calibration_error, reliability

    check_key(pred_key, "pred_key")
    written = adata.uns.get(pred_key)
    if not isinstance(written, dict) or "calibration" not in written:
        raise KeyError(
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
