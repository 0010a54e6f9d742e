"""How well spatial domains agree with annotated regions, and how connected they are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from scssl._checks import check_adata, check_destination, get_column, get_labels, whole_numbers
from scssl._places import graph_of, sample_codes
from scssl._scores import agreement_of

from ._common import write_scores

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData


def domain_scores(
    adata: AnnData,
    domain_key: str = "spatial_domain",
    truth_key: str | None = None,
    *,
    sample_key: str | None = None,
    connectivity_key: str | None = "spatial_connectivities",
    key_added: str = "domain_scores",
) -> pd.DataFrame:
    """Score spatial domains, section by section.

    With the annotated regions they are compared by the Rand index adjusted for chance (ARI
    :cite:p:`Hubert1985`), by normalised mutual information (NMI, arithmetic mean) and by homogeneity, the
    share of the entropy of the regions that domains explain, which more domains can only raise. The
    share of neighbours of the same domain needs no annotation: 1 where domains are of one piece, and the
    sum of their squared shares by chance. A high one is no merit of its own, as blocks of
    space have it too.

    Parameters
    ----------
    adata
        Cells with domains. Only `adata.uns` is changed.
    domain_key
        Column of `adata.obs` with the domain of every cell.
    truth_key
        Column of `adata.obs` with the annotated regions; cells without one are left out of the
        comparison. Without the column there is none.
    sample_key
        Column of `adata.obs` with the section of each cell: one row of the result for each. Without it
        all cells are one.
    connectivity_key
        Entry of `adata.obsp` with the neighbours of each cell, as :func:`scssl.pp.spatial_neighbors` or
        squidpy writes it; `None` to leave out the share of neighbours.
    key_added
        Entry of `adata.uns` for the result.

    Returns
    -------
    pandas.DataFrame
        One row for each section: ``sample`` if there is a `sample_key`, ``n_cells``, ``n_domains``; with a
        `truth_key` also ``n_labelled``, ``n_regions``, ``ari``, ``nmi`` and ``homogeneity`` (NaN where no
        cell is labelled); and ``same_domain_neighbors``, the mean over cells with neighbours. The columns
        are in ``adata.uns[key_added]["scores"]`` as well.

    Raises
    ------
    KeyError
        If a column or the graph is not in `adata`.
    ValueError
        If a cell has no domain or section, no cell has a region, or neighbours are of different sections.

    Examples
    --------
    >>> import scanpy as sc, scssl
    >>> adata = scssl.datasets.pbmc68k_reduced()
    >>> sc.pp.pca(adata)
    >>> adata.obsm["spatial"] = adata.obsm["X_pca"][:, :2]
    >>> scssl.pp.spatial_neighbors(adata)
    >>> scores = scssl.tl.domain_scores(adata, "louvain", "bulk_labels")
    >>> bool(scores["same_domain_neighbors"][0] > 0.5)
    True
    """
    import pandas as pd
    from sklearn.metrics import homogeneity_score

    check_adata(adata)
    check_destination(adata, key_added)
    domains = pd.factorize(get_labels(adata, domain_key, "domain_key"))[0]
    samples = sample_codes(adata, sample_key)
    regions = None
    if truth_key is not None:
        regions = pd.factorize(whole_numbers(get_column(adata, truth_key, "truth_key")))[0]
        if (regions < 0).all():
            raise ValueError(f"adata.obs[{truth_key!r}] is missing for all cells.")
    shares = None
    if connectivity_key is not None:
        shares = same_domain(graph_of(adata, connectivity_key, sample_key, samples), domains)
    rows = []
    for code in range(samples.max() + 1):
        own = np.flatnonzero(samples == code)
        row: dict[str, Any] = {}
        if sample_key is not None:
            row["sample"] = str(adata.obs[sample_key].iloc[own[0]])
        row |= {"n_cells": len(own), "n_domains": len(np.unique(domains[own]))}
        if regions is not None:
            known = own[regions[own] >= 0]
            row |= {"n_labelled": len(known), "n_regions": len(np.unique(regions[known]))}
            row |= dict.fromkeys(("ari", "nmi", "homogeneity"), np.nan)
            if len(known):
                agreement = agreement_of(regions[known], domains[known])
                row |= {"ari": agreement["ari"], "nmi": agreement["nmi"]}
                row["homogeneity"] = float(homogeneity_score(regions[known], domains[known]))
        if shares is not None:
            known_shares = shares[own][~np.isnan(shares[own])]
            row["same_domain_neighbors"] = (
                float(known_shares.mean()) if len(known_shares) else np.nan
            )
        rows.append(row)
    scores = pd.DataFrame(rows)
    params = {"domain_key": domain_key, "truth_key": truth_key, "sample_key": sample_key}
    params = {name: value for name, value in params.items() if value is not None}
    return write_scores(adata, key_added, scores, {}, params=params)


def same_domain(graph: Any, domains: np.ndarray) -> np.ndarray:
    """Share of the neighbours of each cell that have its domain; NaN of a cell without neighbours."""
    degrees = np.diff(graph.indptr)
    rows = np.repeat(np.arange(len(domains)), degrees)
    same = np.bincount(rows, domains[rows] == domains[graph.indices], minlength=len(domains))
    with np.errstate(invalid="ignore"):
        found: np.ndarray = same / degrees
    return found
