"""Map a batch that was not trained on: leave one batch out, embed it, transfer labels.

For each batch of each data set: variable genes, embedding and reference are those of the other batches; the
held-out batch is aligned by gene name, embedded by the trained model, and labelled by
``scssl.tl.label_transfer``. scVI maps by surgery, which trains on the query. Rows are appended to ``--out``;
what is there is not run again. pbmc_cite_2batch_400 has no types: its cells are called by leiden clusters of
both batches' proteins.

    SCSSL_DATA_DIR=... python benchmarks/query_mapping.py --out query.jsonl
"""

from __future__ import annotations

import argparse
import json
import logging
import warnings
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import scanpy as sc
from _common import data_dir, machine, table
from joint_embedding_study import BATCH, LABELS, MIXED, fit, read, variable

import scssl

DATA = ["scmixology_5batch", "kang_ifnb", "pbmc_cite_2batch_400"]
ROWS = ["PCA-50", "scVI", "MaskedAutoencoder", "SimCLR", "VICReg", "BarlowTwins"]
ROWS += ["SimCLR, integration", "VICReg, integration"]


def labelled(name: str) -> anndata.AnnData:
    adata = anndata.read_h5ad(data_dir() / f"{name}.h5ad")
    if LABELS not in adata.obs:
        proteins = np.log1p(np.asarray(adata.obsm["protein"], dtype=float))
        # Centred in each batch, so that a cluster is a type and not a batch.
        for batch in adata.obs[BATCH].unique():
            own = (adata.obs[BATCH] == batch).to_numpy()
            proteins[own] -= proteins[own].mean(0)
        cells = anndata.AnnData(proteins)
        sc.pp.neighbors(cells, use_rep="X", random_state=0)
        sc.tl.leiden(cells, 0.5, flavor="igraph", n_iterations=2, random_state=0)
        adata.obs[LABELS] = cells.obs["leiden"].to_numpy()
    return adata[adata.obs[LABELS].notna()].copy()


def study(name: str, seed: int, rows: list[str], out: Path) -> None:
    done = {(r["data"], r["batch"], r["seed"], r["row"]) for r in read(out)}
    whole = labelled(name)
    whole.obs[BATCH] = whole.obs[BATCH].astype(str)
    whole.obs[LABELS] = whole.obs[LABELS].astype(str)
    for batch in sorted(whole.obs[BATCH].unique()):
        missing = [row for row in rows if (name, batch, seed, row) not in done]
        if not missing:
            continue
        out_of_batch = (whole.obs[BATCH] != batch).to_numpy()
        # Genes are chosen on the reference alone.
        reference = variable(whole[out_of_batch].copy())
        query = whole[~out_of_batch, reference.var_names].copy()
        shared = query.obs[LABELS].isin(reference.obs[LABELS].unique()).to_numpy()
        query = query[shared].copy()
        if reference.obs[BATCH].nunique() < 2:
            # There is no other batch to take partners from.
            missing = [row for row in missing if row not in MIXED]
        for row in missing:
            embedding, _, mapped = fit(row, reference, seed, query=query)
            assert mapped is not None
            reference.obsm["found"] = embedding.astype(np.float32)
            query.obsm["found"] = np.asarray(mapped, dtype=np.float32)
            scssl.tl.label_transfer(reference, query, LABELS, use_rep="found", key_added="call")
            scores = scssl.tl.score_labels(query, LABELS, "call").iloc[0]
            result = {"data": name, "batch": batch, "seed": seed, "row": row}
            result |= {k: float(scores[k]) for k in ("macro_f1", "accuracy")}
            with out.open("a") as file:
                file.write(json.dumps(result) + "\n")
            print(result, flush=True)


def show(out: Path) -> None:
    frame = pd.DataFrame(read(out))
    # Mean over batches for each seed, then mean and spread over seeds.
    per_seed = frame.groupby(["row", "data", "seed"])[["macro_f1", "accuracy"]].mean()
    cells = per_seed.groupby(["row", "data"]).agg(["mean", "std", "count"])
    rows = []
    for row in [r for r in ROWS if r in set(frame["row"])]:
        line = {"": row}
        for name in [n for n in DATA if n in set(frame["data"])]:
            for score in ("macro_f1", "accuracy"):
                if (row, name) in cells.index:
                    mean, sd, n = cells.loc[(row, name), score]
                    line[f"{name}, {score}"] = f"{mean:.3f}" + (f" ± {sd:.3f}" if n > 1 else "")
        rows.append(line)
    print(table(rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--data", nargs="+", default=DATA)
    parser.add_argument("--rows", nargs="+", default=ROWS)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(3)))
    parser.add_argument("--out", type=Path, default=Path("query_mapping.jsonl"))
    parser.add_argument("--table", action="store_true", help="print what is in --out and stop")
    args = parser.parse_args()
    logging.getLogger("scssl").setLevel("ERROR")
    warnings.filterwarnings("ignore")
    if not args.table:
        print(machine(), flush=True)
        for seed in args.seeds:
            for name in args.data:
                study(name, seed, args.rows, args.out)
    show(args.out)


if __name__ == "__main__":
    main()
