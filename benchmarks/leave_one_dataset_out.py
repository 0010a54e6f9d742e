"""What pretraining on other data sets is worth: leave one data set out, few labels, real data.

Human data sets with symbols, and mouse ones through one-to-one orthologs, with all genes that any of them has.
``scssl.tl.leave_one_dataset_out`` pretrains on all but one and compares a classifier that starts from there with
the same network from new weights and with logistic regression on principal components, on the same cells.
Rows are appended to ``--out``; what is there is not run again. ``--table`` only prints.

    SCSSL_DATA_DIR=... python benchmarks/leave_one_dataset_out.py --out lodo.jsonl
"""

from __future__ import annotations

import argparse
import logging
import warnings
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
from _common import data_dir, machine, table

import scssl

LABELS = "cell_type"
HUMAN = [
    "pbmc3k",
    "kang_ifnb",
    "scmixology_10x5cl_hvg500",
    "her2st_8sections",
    "pbmc_cite_2batch_400",
]
MOUSE = ["mouse_pancreas_endocrinogenesis", "visium_mouse_cortex_lr648", "st_olfactory_bulb"]
ORTHOLOGS = "resources/orthologs_mouselemur_human_mouse_one2one.csv"
# Both species of one study: its other half is no other data set.
GROUPS = {"baron_human": "baron", "baron_mouse": "baron"}
ARMS = ["pretrained", "scratch", "PCA + LR"]


def labelled(adata: anndata.AnnData) -> anndata.AnnData:
    """Cells of types with at least 10 cells."""
    if LABELS not in adata.obs:
        return adata
    sizes = adata.obs[LABELS].value_counts()
    adata = adata[adata.obs[LABELS].isin(sizes.index[sizes >= 10]).to_numpy()].copy()
    adata.obs[LABELS] = adata.obs[LABELS].astype(str)
    return adata


def load() -> scssl.data.Datasets:
    found = {name: anndata.read_h5ad(data_dir() / f"{name}.h5ad") for name in (*HUMAN, *MOUSE)}
    both = anndata.read_h5ad(data_dir() / "baron_human_mouse_328.h5ad")
    for species in ("human", "mouse"):
        # Symbols of both are those of human here already.
        found[f"baron_{species}"] = both[(both.obs["species"] == species).to_numpy()].copy()
    for name in MOUSE:
        scssl.pp.map_orthologs(
            found[name], data_dir() / ORTHOLOGS, from_species="mouse", to_species="human"
        )
    return scssl.data.Datasets({name: labelled(adata) for name, adata in found.items()}, "union")


def show(frame: pd.DataFrame) -> None:
    for metric in ("macro_f1", "accuracy", "macro_auroc"):
        print(f"\n{metric}, mean ± sd of seeds\n")
        rows = []
        by = ["dataset", "n_labels_per_class", "arm"]
        cells = frame.groupby(by)[metric].agg(["mean", "std", "count"])
        for name in frame["dataset"].unique():
            for budget in (1, 5, 20, 0):
                row: dict[str, object] = {"data": name, "labels per type": budget or "60 %"}
                for arm in ARMS:
                    if (name, budget, arm) in cells.index:
                        mean, sd, n = cells.loc[(name, budget, arm)]
                        row[arm] = f"{mean:.3f}" + (f" ± {sd:.3f}" if n > 1 else "")
                row["seeds"] = frame[frame["dataset"] == name]["seed"].nunique()
                rows.append(row)
        print(table(rows))
    wins = frame.pivot_table(
        index=["dataset", "n_labels_per_class"], columns="arm", values="macro_f1"
    )
    for other in ARMS[1:]:
        gain = (wins["pretrained"] - wins[other]).unstack()
        text = ", ".join(
            f"{'60 %' if b == 0 else b}: {np.nanmean(gain[b]):+.3f} ({int((gain[b] > 0).sum())} of {gain[b].notna().sum()})"
            for b in gain
        )
        print(
            f"\npretrained - {other}, macro-F1, mean (data sets that gain) by labels per type: {text}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--hold-out", nargs="+")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(5)))
    parser.add_argument("--out", type=Path, default=Path("leave_one_dataset_out.jsonl"))
    parser.add_argument("--table", action="store_true", help="print what is in --out and stop")
    args = parser.parse_args()
    logging.getLogger("scssl").setLevel("ERROR")
    warnings.filterwarnings("ignore")
    before = pd.read_json(args.out, lines=True) if args.out.exists() else pd.DataFrame()
    if not args.table:
        print(machine(), flush=True)
        datasets = load()
        print(datasets.report().to_string(), flush=True)
        names = [n for n, adata in datasets.items() if LABELS in adata.obs]
        for seed in args.seeds:
            for name in args.hold_out or names:
                if len(before) and ((before["dataset"] == name) & (before["seed"] == seed)).any():
                    continue
                found = scssl.tl.leave_one_dataset_out(
                    datasets, LABELS, hold_out=[name], groups=GROUPS, n_repeats=1, rng=seed
                )
                found["seed"] = seed
                with args.out.open("a") as file:
                    file.write(found.to_json(orient="records", lines=True))
                print(found.drop(columns="split").round(3).to_string(), flush=True)
    show(pd.read_json(args.out, lines=True))


if __name__ == "__main__":
    main()
