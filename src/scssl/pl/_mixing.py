"""How well batches are mixed against how well types are kept."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ._figure import check_scores, figure, finish, line_style, make_panels

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

# Least length of an axis of scores.
_LEAST = 0.2


@figure
def batch_mixing(
    scores: pd.DataFrame,
    *,
    name_key: str = "use_rep",
    show: bool | None = None,
    save: str | Path | None = None,
    ax: Axes | None = None,
) -> Axes | list[Axes] | None:
    """Draw how well embeddings mix batches against how well they keep types.

    Each embedding is a point with its name. Up and to the right is better; what moved to the right and
    down was mixed at the cost of types.

    Parameters
    ----------
    scores
        What :func:`scssl.tl.batch_mixing` returned, with labels, for several embeddings; or several of
        these tables, one below the other.
    name_key
        Column with what a point is called.
    {figure}

    {axes}

    Raises
    ------
    KeyError
        If a column is not in `scores`.
    ValueError
        If types were not scored.

    Examples
    --------
    >>> import numpy as np, scanpy as sc, scssl
    >>> adata = scssl.datasets.pbmc68k_reduced()
    >>> sc.pp.pca(adata)
    >>> adata.obs["batch"] = np.resize(["a", "b"], adata.n_obs)
    >>> scores = scssl.tl.batch_mixing(adata, "batch", "bulk_labels", use_rep="X_pca")
    >>> ax = scssl.pl.batch_mixing(scores, show=False)
    >>> ax.get_xlabel(), ax.get_ylabel()
    ('batches mixed', 'types kept')
    """
    check_scores(scores, ["mixed", "types_kept"], {"name_key": name_key})
    if not len(scores) or scores["types_kept"].isna().any():
        raise ValueError(
            "There is nothing to draw mixing against: `scores` has no scores of types. Give the labels: "
            "`scores = scssl.tl.batch_mixing(adata, batch_key, label_key)`."
        )
    [panel] = make_panels(1, ax, (3.9, 3.3))
    for number, (name, x, y) in enumerate(
        zip(scores[name_key], scores["mixed"], scores["types_kept"], strict=True)
    ):
        style = {**line_style(number), "linestyle": "none"}
        panel.plot([x], [y], markersize=9, label=str(name), **style)
    panel.set(xlabel="batches mixed", ylabel="types kept")
    panel.set(xlim=_around(scores["mixed"]), ylim=_around(scores["types_kept"]))
    panel.spines[["top", "right"]].set_visible(False)
    panel.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return finish([panel], ax, show=show, save=save)


def _around(values: pd.Series[float]) -> tuple[float, float]:
    """Limits that leave room, and never blow up a difference of a hundredth."""
    middle = (values.min() + values.max()) / 2
    half = max(0.65 * (values.max() - values.min()), _LEAST / 2)
    return float(middle - half), float(middle + half)
