"""Real cells that come with scanpy."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from anndata import AnnData


def pbmc68k_reduced() -> AnnData:
    """700 blood cells of a healthy donor, with ten cell types; no download.

    A part of the 68,000 peripheral blood mononuclear cells of Zheng et al. (2017), as it comes
    with scanpy: :func:`scanpy.datasets.pbmc68k_reduced`. What scanpy keeps in ``.raw`` are the
    values of this AnnData; results of earlier analyses are left out.

    Returns
    -------
    anndata.AnnData
        700 cells × 765 genes, log-normalised, sparse. ``obs["bulk_labels"]`` are cell types
        transferred from sorted populations, ``obs["phase"]`` phases of the cell cycle and
        ``obs["louvain"]`` clusters.

    Examples
    --------
    >>> import scssl
    >>> adata = scssl.datasets.pbmc68k_reduced()
    >>> adata.shape
    (700, 765)
    """
    import scanpy as sc
    from anndata import AnnData

    full = sc.datasets.pbmc68k_reduced()
    colors = {key: value for key, value in full.uns.items() if key.endswith("_colors")}
    return AnnData(full.raw.X.copy(), obs=full.obs.copy(), var=full.raw.var.copy(), uns=colors)
