"""Small data of users."""

from __future__ import annotations

import functools

import anndata
import numpy as np
import pandas as pd

import scssl


def cells(n_cells: int = 60, n_genes: int = 30, seed: int = 0) -> anndata.AnnData:
    """Counts of three types in two batches, with an embedding that tells the types apart."""
    rng = np.random.default_rng(seed)
    kind = np.arange(n_cells) % 3
    rate = np.where(np.arange(n_genes) % 3 == kind[:, None], 4.0, 1.0)
    adata = anndata.AnnData(rng.poisson(rate).astype(np.float32))
    adata.X[:, 0] += 1
    adata.obs_names = [f"cell{seed}_{i}" for i in range(n_cells)]
    adata.var_names = [f"GENE{i}" for i in range(n_genes)]
    adata.obs["type"] = pd.Categorical.from_codes(kind, ["B", "NK", "T"])
    adata.obs["batch"] = pd.Categorical.from_codes(np.arange(n_cells) // 3 % 2, ["one", "two"])
    adata.obsm["X_ssl"] = (kind[:, None] == np.arange(3)) + rng.normal(0, 0.2, (n_cells, 3))
    return adata


@functools.cache
def model() -> scssl.model.MaskedAutoencoder:
    """A model of such cells, hardly trained; nothing may change it."""
    adata = cells()
    scssl.model.MaskedAutoencoder.setup_anndata(adata, labels_key="type")
    made = scssl.model.MaskedAutoencoder(adata, hidden_dims=(8,), n_latent=4)
    made.train(max_epochs=1, progress=False)
    return made
