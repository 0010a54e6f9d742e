"""Which augmentations help: alone and in pairs, three methods, data sets with batches.

Everything else is the default of the package, and the neighbour graphs are those of
``scssl.pp.cross_batch_neighbors`` on the cells' PCA, tested to hold the right neighbours. Scores per run:
macro-F1 of types by nearest neighbours, macro-F1 when a batch is left out (its cells are called by those
of the other batches), and with ``--scib`` the unscaled metrics of scib-metrics. The table gives the mean of
each augmentation over methods, data sets and seeds as a difference to PCA on the same cells, with a 95 %
bootstrap interval over runs.

    SCSSL_DATA_DIR=... python benchmarks/augmentation_study.py --out augmentations.jsonl
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import warnings
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
from _common import lognorm, machine, table
from _scib import scib
from joint_embedding_study import BATCH, LABELS, load, read
from sklearn.decomposition import PCA
from sklearn.metrics import f1_score
from sklearn.neighbors import KNeighborsClassifier

import scssl
from scssl.augment import CrossOver, GaussianNoise, GeneSwap, Mask, MutualNeighborMix, NeighborMix

DATA = ["kang_ifnb", "scmixology_5batch"]
METHODS = ["SimCLR", "VICReg", "BYOL"]
# In the order in which they are applied: those that replace a cell come first.
SINGLE = {
    "MNN": lambda: MutualNeighborMix(p=0.8),
    "BBKNN": lambda: NeighborMix(p=0.8),
    "mask": lambda: Mask(0.5, p=0.8, rescale=True),
    "noise": lambda: GaussianNoise(0.8, 0.2, p=0.8),
    "swap": lambda: GeneSwap(0.1, p=0.8),
    "crossover": lambda: CrossOver(0.25, p=0.8),
}


def prepared(name: str) -> anndata.AnnData:
    adata = load(name)
    pca = PCA(50, random_state=0).fit_transform(lognorm(adata.X).toarray())
    adata.obsm["PCA-50"] = pca.astype(np.float32)
    for method in ("bbknn", "mnn"):
        scssl.pp.cross_batch_neighbors(adata, BATCH, use_rep="PCA-50", method=method)
    return adata


def scores(adata: anndata.AnnData, embedding: np.ndarray, with_scib: bool) -> dict[str, float]:
    adata.obsm["found"] = np.asarray(embedding, dtype=np.float32)
    probe = scssl.tl.knn_probe(adata, LABELS, use_rep=["found"], test_size=0.2, rng=0).iloc[0]
    labels, batch = adata.obs[LABELS].to_numpy(), adata.obs[BATCH].to_numpy()
    left_out = []
    for one in np.unique(batch):
        query = batch == one
        knn = KNeighborsClassifier(15).fit(embedding[~query], labels[~query])
        left_out.append(f1_score(labels[query], knn.predict(embedding[query]), average="macro"))
    found = {"kNN": float(probe["macro_f1"]), "batch left out": float(np.mean(left_out))}
    if with_scib:
        metrics = scib(adata, ["found"], batch_key=BATCH, label_key=LABELS).loc["found"]
        found |= {key: float(value) for key, value in metrics.items()}
    return found


def study(name: str, seed: int, methods: list[str], out: Path, with_scib: bool) -> None:
    done = {(r["data"], r["seed"], r["method"], r["views"]) for r in read(out)}
    views = [(one,) for one in SINGLE] + list(itertools.combinations(SINGLE, 2))
    runs = [("PCA", "none"), *itertools.product(methods, ("+".join(v) for v in views))]
    runs = [run for run in runs if (name, seed, *run) not in done]
    if not runs:
        return
    adata = prepared(name)
    for method, chosen in runs:
        if method == "PCA":
            embedding = adata.obsm["PCA-50"]
        else:
            model_class = scssl.model.get_model_class(method)
            model_class.setup_anndata(adata, batch_key=BATCH, input="counts")
            pipeline = [SINGLE[part]() for part in chosen.split("+")]
            model = model_class(adata, augmentation=pipeline, rng=seed)
            model.train(rng=seed, progress=False)
            embedding = model.get_latent_representation()
        row = {"data": name, "seed": seed, "method": method, "views": chosen}
        row |= scores(adata, embedding, with_scib)
        with out.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(row, flush=True)


def interval(values: np.ndarray, n: int = 2000) -> tuple[float, float]:
    draws = np.random.default_rng(0).choice(values, (n, len(values))).mean(1)
    low, high = np.quantile(draws, [0.025, 0.975])
    return float(low), float(high)


def show(out: Path) -> None:
    frame = pd.DataFrame(read(out))
    metrics = [c for c in frame.columns if c not in ("data", "seed", "method", "views")]
    metrics = [
        m
        for m in ("kNN", "batch left out", "Bio conservation", "Batch correction", "Total")
        if m in metrics
    ]
    base = frame[frame["method"] == "PCA"].groupby("data")[metrics].mean()
    trained = frame[frame["method"] != "PCA"].copy()
    rows = []
    for views, part in trained.groupby("views", sort=False):
        row = {"views": views, "runs": len(part)}
        for metric in metrics:
            gain = (part[metric] - part["data"].map(base[metric])).dropna().to_numpy()
            if len(gain):
                low, high = interval(gain)
                row[metric] = f"{gain.mean():+.3f} ({low:+.3f} to {high:+.3f})"
        rows.append((np.nanmean(part["batch left out"]), row))
    print("\ndifference to PCA on the same cells, mean and 95 % interval over runs\n")
    print(table([row for _, row in sorted(rows, key=lambda item: -item[0])]))
    print("\nPCA\n")
    print(base.round(3).to_string())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--data", nargs="+", default=DATA)
    parser.add_argument("--methods", nargs="+", default=METHODS)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(3)))
    parser.add_argument("--out", type=Path, default=Path("augmentation_study.jsonl"))
    parser.add_argument("--scib", action="store_true", help="with scib-metrics (slow)")
    parser.add_argument("--table", action="store_true", help="print what is in --out and stop")
    args = parser.parse_args()
    logging.getLogger("scssl").setLevel("ERROR")
    warnings.filterwarnings("ignore")
    if not args.table:
        print(machine(), flush=True)
        for seed in args.seeds:
            for name in args.data:
                study(name, seed, args.methods, args.out, args.scib)
    show(args.out)


if __name__ == "__main__":
    main()
