"""scib-metrics of embeddings, unscaled."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd


def scib(
    adata: anndata.AnnData, keys: list[str], *, batch_key: str | None, label_key: str
) -> pd.DataFrame:
    """Bio conservation, batch correction and total of each embedding, and all single metrics.

    Unscaled: a value does not depend on what else is compared. Without batches there is only bio
    conservation. Isolated labels are left out, since most sets have every type in every batch, and
    principal component regression, which compares with an embedding before integration.
    """
    try:
        from scib_metrics.benchmark import BatchCorrection, Benchmarker, BioConservation
    except ImportError as error:
        msg = 'This benchmark needs scib-metrics: pip install "scssl[benchmark]"'
        raise SystemExit(msg) from error
    own = anndata.AnnData(
        obs=adata.obs[[label_key]].astype(str).astype("category"),
        obsm={key: np.asarray(adata.obsm[key], dtype=np.float32) for key in keys},
    )
    own.obs["batch"] = "one" if batch_key is None else adata.obs[batch_key].astype(str)
    own.obs["batch"] = own.obs["batch"].astype("category")
    bench = Benchmarker(
        own,
        batch_key="batch",
        label_key=label_key,
        embedding_obsm_keys=keys,
        bio_conservation_metrics=BioConservation(
            isolated_labels=False, nmi_ari_cluster_labels_leiden=False
        ),
        batch_correction_metrics=None
        if batch_key is None
        else BatchCorrection(pcr_comparison=False),
        pre_integrated_embedding_obsm_key=keys[0],
        n_jobs=1,
        progress_bar=False,
    )
    bench.benchmark()
    found = bench.get_results(min_max_scale=False).drop(index="Metric Type").astype(float)
    return found.loc[keys]
