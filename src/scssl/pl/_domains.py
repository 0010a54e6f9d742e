"""What spatial domains are made of, and how many there are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from scssl._checks import check_adata, check_key, get_column, get_labels
from scssl._errors import MissingKeyError

from ._embedding import drawable_column
from ._figure import (
    PALETTE,
    category_colors,
    figure,
    finish,
    legend_beside,
    legend_width,
    make_panels,
)

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes


@figure
def domain_composition(
    adata: AnnData,
    label_key: str,
    domain_key: str = "spatial_domain",
    *,
    show: bool | None = None,
    save: str | Path | None = None,
    ax: Axes | None = None,
) -> Axes | list[Axes] | None:
    """Draw what share of the cells of each domain is of which type.

    One bar for each domain, with the number of its cells above it. Cells without a label have a part of
    their own.

    Parameters
    ----------
    adata
        Cells with both columns. Nothing is changed but ``adata.uns[f"{label_key}_colors"]``, as scanpy
        does.
    label_key
        Column of `adata.obs` with the types of cells.
    domain_key
        Column of `adata.obs` with the domain of every cell.
    {figure}

    {axes}

    Raises
    ------
    KeyError
        If a column is not in `adata.obs`.
    ValueError
        If a cell has no domain.

    Examples
    --------
    >>> import scssl
    >>> adata = scssl.datasets.pbmc68k_reduced()
    >>> ax = scssl.pl.domain_composition(adata, "bulk_labels", "louvain", show=False)
    >>> bool(
    ...     abs(sum(bar.get_height() for bar in ax.patches) - adata.obs["louvain"].nunique()) < 1e-6
    ... )
    True
    """
    check_adata(adata)
    domains = drawable_column(get_labels(adata, domain_key, "domain_key").astype("category"))
    types = drawable_column(get_column(adata, label_key, "label_key").astype("category"))
    colors = category_colors(adata, label_key, types.cat.categories)
    if types.isna().any():
        types = types.cat.add_categories("NA").fillna("NA")
        colors["NA"] = "lightgray"
    counts = pd.crosstab(domains, types).reindex(columns=list(colors), fill_value=0)
    sizes = counts.sum(axis=1)
    shares = counts.div(sizes, axis=0)
    size = (1.2 + 0.4 * len(shares) + legend_width(types), 3.2)
    [panel] = make_panels(1, ax, size)
    bottom = np.zeros(len(shares))
    for name, color in colors.items():
        panel.bar(range(len(shares)), shares[name], 0.85, bottom=bottom, color=color)
        bottom += shares[name].to_numpy()
    for place, number in enumerate(sizes):
        panel.text(place, 1.01, f"{number:,}", ha="center", va="bottom", fontsize="x-small")
    panel.set_xticks(range(len(shares)), list(map(str, shares.index)))
    panel.set_xlabel(domain_key)
    panel.set_ylabel("share of the domain's cells")
    panel.set_ylim(0, 1.08)
    panel.spines[["top", "right"]].set_visible(False)
    legend_beside(panel, colors, label_key)
    return finish([panel], ax, show=show, save=save)


@figure
def n_domains(
    adata: AnnData,
    stability_key: str = "n_domains",
    *,
    show: bool | None = None,
    save: str | Path | None = None,
    ax: Axes | None = None,
) -> Axes | list[Axes] | None:
    """Draw how stable domains are by their number.

    The line is the mean agreement of two runs, the band its standard deviation, and the vertical line the
    number that was chosen.

    Parameters
    ----------
    adata
        Cells after :func:`scssl.tl.n_domains`, or :func:`scssl.tl.spatial_domains` without a number. Nothing
        is changed.
    stability_key
        Entry of `adata.uns` with what it wrote, its `key_added`.
    {figure}

    {axes}

    Raises
    ------
    KeyError
        If there is no such entry.

    Examples
    --------
    >>> import scanpy as sc, scssl
    >>> adata = scssl.datasets.pbmc68k_reduced()
    >>> sc.pp.pca(adata)
    >>> scssl.tl.n_domains(adata, [2, 5, 8], use_rep="X_pca", method="mixture", n_repeats=3)
    >>> ax = scssl.pl.n_domains(adata, show=False)
    >>> ax.get_xlabel()
    'number of domains'
    """
    check_adata(adata)
    check_key(stability_key, "stability_key")
    written = adata.uns.get(stability_key)
    if not isinstance(written, Mapping) or "stability" not in written:
        raise MissingKeyError(
            f'adata.uns has no stability of numbers of domains in "{stability_key}". To compute it: '
            f'`scssl.tl.n_domains(adata, key_added="{stability_key}")`'
        )
    table = written["stability"]
    number, mean, sd = (table[name].to_numpy() for name in ("n_domains", "stability", "sd"))
    [panel] = make_panels(1, ax, (4.2, 3.2))
    high = np.minimum(mean + sd, 1)
    panel.fill_between(number, mean - sd, high, color=PALETTE[0], alpha=0.2, linewidth=0)
    panel.plot(number, mean, marker="o", markersize=4, color=PALETTE[0])
    panel.axvline(written["n_domains"], color="0.5", linestyle=":")
    panel.set_xticks(number)
    panel.set_xlabel("number of domains")
    panel.set_ylabel("agreement of two runs (ARI)")
    panel.spines[["top", "right"]].set_visible(False)
    return finish([panel], ax, show=show, save=save)
