"""Draw the figure of the landing page: batches before and after `scssl.tl.integrate`, on real cells."""

from __future__ import annotations

import sys

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import scanpy as sc

import scssl


def main(file: str) -> None:
    """Integrate the cells of Kang et al. (2018), and save the figure."""
    adata = scssl.datasets.kang_ifnb()
    scssl.tl.integrate(adata, "batch")
    plain = adata.copy()
    sc.pp.normalize_total(plain)
    sc.pp.log1p(plain)
    sc.pp.pca(plain, n_comps=30)
    adata.obsm["X_pca"] = plain.obsm["X_pca"]
    _, axes = plt.subplots(1, 3, figsize=(11, 3.1), layout="constrained")
    shown = [
        ("X_pca", "batch", "PCA: samples apart", "none"),
        ("X_integrated", "batch", "scssl.tl.integrate: together", "right margin"),
        ("X_integrated", "cell_type", "and the types are kept", "right margin"),
    ]
    for ax, (rep, color, title, legend) in zip(axes, shown, strict=True):
        scssl.pl.embedding(
            adata,
            rep,
            color,
            ax=ax,
            show=False,
            size=14,
            frameon=False,
            title=title,
            legend_loc=legend,
        )
    plt.savefig(file, dpi=90)


if __name__ == "__main__":
    main(sys.argv[1])
