"""How imputation depends on the genes to impute from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ._figure import check_scores, figure, finish, in_order, line_style, make_panels

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

_LABELS = {
    "pearson": "correlation of genes set aside",
    "spearman": "rank correlation of genes set aside",
    "rmse": "RMSE of genes set aside",
}


@figure
def impute_curve(
    scores: pd.DataFrame,
    metric: str = "pearson",
    *,
    show: bool | None = None,
    save: str | Path | None = None,
    ax: Axes | None = None,
) -> Axes | list[Axes] | None:
    """Draw how imputation gets worse with fewer genes to impute from.

    One line a method, the mean over repeats, with every repeat as a thin line of the same colour.

    Parameters
    ----------
    scores
        Rows of :func:`scssl.tl.impute_curve`.
    metric
        Column to draw: ``"pearson"``, ``"spearman"`` or ``"rmse"``.
    {figure}

    {axes}

    Raises
    ------
    KeyError
        If a column is not in `scores`.

    Examples
    --------
    >>> import pandas as pd, scssl
    >>> scores = pd.DataFrame(
    ...     {
    ...         "method": "pca_knn",
    ...         "dropped": [0, 0.8],
    ...         "seed": 0,
    ...         "n_genes": [80, 16],
    ...         "pearson": [0.4, 0.3],
    ...     }
    ... )
    >>> ax = scssl.pl.impute_curve(scores, show=False)
    >>> [text.get_text() for text in ax.get_xticklabels()]
    ['0 %', '80 %']
    """
    check_scores(scores, [metric], {name: name for name in ("method", "dropped", "seed")})
    [panel] = make_panels(1, ax, (4.6, 3.2))
    shares = in_order(scores["dropped"])
    for number, method in enumerate(in_order(scores["method"])):
        table = scores[scores["method"] == method].pivot(
            index="dropped", columns="seed", values=metric
        )
        table, style = table.reindex(shares), line_style(number)
        panel.plot(table.index, table, color=style["color"], alpha=0.25, linewidth=0.8)
        mean = table.mean(axis=1)
        panel.plot(mean.index, mean, label=method, markersize=4, linewidth=1.4, **style)
    panel.set_xticks(shares, [f"{100 * share:g} %" for share in shares])
    panel.set_xlabel("genes dropped")
    panel.set_ylabel(_LABELS.get(metric, metric))
    panel.spines[["top", "right"]].set_visible(False)
    panel.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    return finish([panel], ax, show=show, save=save)
