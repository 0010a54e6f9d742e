"""Calibration and novelty of ``tl.label_transfer`` on held-out cells and left-out types.

For each seed 30 % of the cells of every type are the query, the others the reference.

Calibration: expected calibration error of the query's confidence against its known labels, and the
share of the query that is called unknown although its types are in the reference.

Novelty: one type at a time is taken out of the reference. AUROC of the novelty, cells of that type
against the other cells of the query; ``found`` is the share of the type that is called unknown.
No score is chosen or fitted with cells of the type that is left out. The embeddings of "PCA-50" and
"autoencoder" are made once from all cells, with no labels, as one embeds a query together with its
reference; "PCA-50, reference only" is fitted for each split on the reference alone, which has no cell
of the type left out, and the query is projected on it.

Batches: each batch in turn is the query, the others the reference, with and without `batch_key`.

    SCSSL_DATA_DIR=... python benchmarks/label_transfer.py --data pbmc3k mouse_bladder --cache /tmp/lt

The labels of these data sets are clusters of the same cells, made from principal components.
"""

from __future__ import annotations

import argparse
import logging
import warnings
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
from _common import data_dir, lognorm, machine, table
from scipy import sparse
from sklearn.decomposition import PCA
from sklearn.metrics import roc_auc_score

import scssl

STRICT = "PCA-50, reference only"


def held_out(labels: np.ndarray, seed: int, share: float = 0.3) -> np.ndarray:
    """Mask of the query: `share` of every type, one cell at least, but never all."""
    rng = np.random.default_rng(seed)
    query = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        rows = rng.permutation(np.flatnonzero(labels == label))
        query[rows[: max(1, round(share * len(rows)))]] = len(rows) > 1
    return query


def pca(train: sparse.csr_matrix, *others: sparse.csr_matrix) -> list[np.ndarray]:
    """Fifty principal components of the first matrix, of all."""
    fitted = PCA(50, svd_solver="arpack", random_state=0).fit(train)
    return [fitted.transform(x).astype(np.float32) for x in (train, *others)]


def autoencoder(adata: anndata.AnnData) -> np.ndarray:
    """Embedding by a masked autoencoder with defaults, seed 0."""
    adata = adata.copy()
    scssl.model.MaskedAutoencoder.setup_anndata(adata)
    model = scssl.model.MaskedAutoencoder(adata, rng=0)
    model.train(rng=0, progress=False)
    return model.get_latent_representation()


def embeddings(name: str, adata: anndata.AnnData, wanted: list[str], cache: Path | None):
    """Embeddings of all cells by name, kept in the folder `cache`."""
    found = {}
    for arm in wanted:
        file = None if cache is None else cache / f"{name}_{arm}.npy"
        if file is not None and file.exists():
            found[arm] = np.load(file)
            continue
        found[arm] = pca(lognorm(adata.X))[0] if arm == "pca" else autoencoder(adata)
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            np.save(file, found[arm])
    return found


def light(adata: anndata.AnnData, values: np.ndarray, rows: np.ndarray) -> anndata.AnnData:
    """Annotation and embedding of some cells, without their expression."""
    return anndata.AnnData(obs=adata.obs.iloc[rows].copy(), obsm={"X_ssl": values})


def transfer(
    reference: anndata.AnnData, query: anndata.AnnData, seed: int, **kwargs
) -> pd.DataFrame:
    """What label transfer writes into the query's ``obs``, the true label and whether it was right."""
    scssl.tl.label_transfer(reference, query, "cell_type", rng=seed, **kwargs)
    scores = scssl.tl.score_labels(
        query, "cell_type", "ssl_label", confidence_key="ssl_label_confidence"
    ).iloc[0]
    return query, scores


def calibration(adata, values, labels, seeds: int) -> dict[str, str]:
    rows = []
    for seed in range(seeds):
        query = held_out(labels, seed)
        parts = [np.flatnonzero(part) for part in (~query, query)]
        out, scores = transfer(*(light(adata, values[p], p) for p in parts), seed)
        own = out.uns["ssl_label"]["calibration"]
        kept = out.obs["ssl_label_call"] != "unknown"
        right = out.obs["ssl_label"].astype(str) == out.obs["cell_type"].astype(str)
        rows.append(
            {
                "accuracy": scores["accuracy"],
                "macro-F1": scores["macro_f1"],
                "ECE of votes, reference": own["ece_of_votes"],
                "ECE, reference": own["ece"],
                "ECE, query": scores["ece"],
                "unknown": 1 - kept.mean(),
                "accuracy of the rest": right[kept].mean(),
            }
        )
    frame = pd.DataFrame(rows)
    return {
        column: f"{frame[column].mean():.3f} ± {frame[column].std(ddof=1):.3f}" for column in frame
    }


def novelty(adata, values: np.ndarray | None, labels, seeds: int) -> pd.DataFrame:
    """AUROC and calls by left-out type; without `values`, PCA fitted on the reference alone."""
    rows = []
    x = None if values is not None else lognorm(adata.X)
    for seed in range(seeds):
        query = held_out(labels, seed)
        for left in np.unique(labels):
            parts = [np.flatnonzero(~query & (labels != left)), np.flatnonzero(query)]
            embedded = pca(*(x[p] for p in parts)) if values is None else [values[p] for p in parts]
            out, _ = transfer(
                *(light(adata, v, p) for v, p in zip(embedded, parts, strict=True)), seed
            )
            new = labels[parts[1]] == left
            unknown = (out.obs["ssl_label_call"] == "unknown").to_numpy()
            rows.append(
                {
                    "left out": left,
                    "seed": seed,
                    "cells": int(new.sum()),
                    "AUROC": roc_auc_score(new, out.obs["ssl_label_novelty"]),
                    "found": unknown[new].mean(),
                    "false": unknown[~new].mean(),
                }
            )
    return pd.DataFrame(rows)


def batches(adata, values, labels) -> dict[str, str]:
    """Every batch in turn as the query, cells of types that the others have."""
    batch = adata.obs["batch"].astype(str).to_numpy()
    rows = []
    for name in np.unique(batch):
        reference = np.flatnonzero(batch != name)
        shared = np.isin(labels, labels[reference])
        query = np.flatnonzero((batch == name) & shared)
        row = {}
        for title, key in (("", None), (", batch_key", "batch")):
            parts = (light(adata, values[p], p) for p in (reference, query))
            out, scores = transfer(*parts, 0, batch_key=key)
            row |= {
                "accuracy": scores["accuracy"],
                f"ECE{title}": scores["ece"],
                f"unknown{title}": (out.obs["ssl_label_call"] == "unknown").mean(),
            }
        rows.append(row)
    frame = pd.DataFrame(rows)
    return {"batches": len(frame), **{c: f"{frame[c].mean():.3f}" for c in frame}}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", nargs="+", default=["pbmc3k", "mouse_bladder"])
    parser.add_argument("--batch-data", nargs="*", default=[])
    parser.add_argument("--embeddings", nargs="+", default=["pca", "autoencoder"])
    parser.add_argument("--strict", action="store_true", help="also PCA of the reference alone")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--cache", type=Path, help="folder to keep embeddings in")
    args = parser.parse_args()
    warnings.filterwarnings("ignore", module="anndata")
    logging.getLogger("scssl").setLevel("WARNING")
    print(machine(), flush=True)
    titles = {"pca": "PCA-50", "autoencoder": "autoencoder"}
    calibrated, by_type, means = [], [], []
    for name in args.data:
        adata = anndata.read_h5ad(data_dir() / f"{name}.h5ad")
        labels = adata.obs["cell_type"].astype(str).to_numpy()
        arms = {
            titles[k]: v for k, v in embeddings(name, adata, args.embeddings, args.cache).items()
        }
        columns = {}
        for arm, values in {**arms, **({STRICT: None} if args.strict else {})}.items():
            if values is not None:
                result = calibration(adata, values, labels, args.seeds)
                calibrated.append({"data": name, "embedding": arm, **result})
            frame = novelty(adata, values, labels, args.seeds)
            by_seed = frame.groupby("seed")[["AUROC", "found", "false"]].mean()
            means.append(
                {
                    "data": name,
                    "embedding": arm,
                    "types": frame["left out"].nunique(),
                    **{
                        c: f"{by_seed[c].mean():.3f} ± {by_seed[c].std(ddof=1):.3f}"
                        for c in by_seed
                    },
                }
            )
            columns[arm] = frame.groupby("left out")[["cells", "AUROC", "found"]].mean()
        for left in next(iter(columns.values())).index:
            by_type.append(
                {
                    "data": name,
                    "left out": left,
                    "cells": int(next(iter(columns.values())).loc[left, "cells"]),
                    **{
                        f"{arm}: AUROC, found": f"{f.loc[left, 'AUROC']:.3f}, {f.loc[left, 'found']:.2f}"
                        for arm, f in columns.items()
                    },
                }
            )
        print(f"{name} done", flush=True)
    print(
        "Calibration",
        table(calibrated),
        "Novelty",
        table(means),
        "By type",
        table(by_type),
        sep="\n\n",
    )
    rows = []
    for name in args.batch_data:
        adata = anndata.read_h5ad(data_dir() / f"{name}.h5ad")
        labels = adata.obs["cell_type"].astype(str).to_numpy()
        found = embeddings(name, adata, args.embeddings, args.cache)
        rows += [
            {"data": name, "embedding": titles[k], **batches(adata, v, labels)}
            for k, v in found.items()
        ]
    if rows:
        print("Batches", table(rows), sep="\n\n")


if __name__ == "__main__":
    main()
