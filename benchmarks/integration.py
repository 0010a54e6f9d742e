"""Batches before and after batch-aware fine-tuning, by scib-metrics.

A masked autoencoder is pretrained without batches, then adapted with ``from_ssl_model(batch_key=...)``: all
weights, or ("shallow") only the decoder and what the encoder is told of the batch. PCA and scVI on the same
cells stand beside it. Needs ``pip install "scssl[benchmark]"``.

    SCSSL_DATA_DIR=... python benchmarks/integration.py
"""

from __future__ import annotations

import argparse
import logging
import warnings

import anndata
import numpy as np
import pandas as pd
from _common import data_dir, lognorm, machine, table
from _scib import scib
from sklearn.decomposition import PCA

import scssl

DATA = ["kang_ifnb", "scmixology_5batch"]
BATCH, LABELS = "batch", "cell_type"


def embeddings(adata: anndata.AnnData, seed: int) -> list[str]:
    x = lognorm(adata.X)
    adata.obsm["PCA-50"] = PCA(50, random_state=seed).fit_transform(x.toarray()).astype(np.float32)
    model_class = scssl.model.MaskedAutoencoder
    model_class.setup_anndata(adata, input="counts")
    model = model_class(adata, rng=seed)
    model.train(rng=seed, progress=False)
    adata.obsm["pretrained"] = model.get_latent_representation()
    for name, freeze in (("fine-tuned, shallow", "encoder"), ("fine-tuned", "none")):
        own = adata.copy()
        tuned = model_class.from_ssl_model(model, own, batch_key=BATCH, freeze=freeze, rng=seed)
        tuned.train(rng=seed, progress=False)
        adata.obsm[name] = tuned.get_latent_representation()
    import scvi

    scvi.settings.seed = seed
    own = adata.copy()
    scvi.model.SCVI.setup_anndata(own, batch_key=BATCH)
    vae = scvi.model.SCVI(own, n_latent=64)
    vae.train(100, early_stopping=True, early_stopping_patience=20, enable_progress_bar=False)
    adata.obsm["scVI"] = vae.get_latent_representation()
    return ["PCA-50", "pretrained", "fine-tuned, shallow", "fine-tuned", "scVI"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", nargs="+", default=DATA)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    args = parser.parse_args()
    logging.getLogger("scssl").setLevel("WARNING")
    warnings.filterwarnings("ignore")
    print(machine(), flush=True)
    for name in args.data:
        frames = []
        for seed in args.seeds:
            adata = anndata.read_h5ad(data_dir() / f"{name}.h5ad")
            keys = embeddings(adata, seed)
            frames.append(scib(adata, keys, batch_key=BATCH, label_key=LABELS))
        mean, sd = (getattr(pd.concat(frames).groupby(level=0), f)() for f in ("mean", "std"))
        print(f"\n{name}: mean ± sd of {len(frames)} seeds\n")
        print(
            table(
                [
                    {
                        "embedding": key,
                        **{c: f"{mean.loc[key, c]:.3f} ± {sd.loc[key, c]:.3f}" for c in mean},
                    }
                    for key in keys
                ]
            ),
            flush=True,
        )


if __name__ == "__main__":
    main()
