"""Genes that a panel lacks, imputed from cells in which they were measured.

For each data set and seed the cells are halved, by slice where there are several: the reference has all genes,
the query lacks a fifth of them (folds of the genes: five seeds impute each gene once). Baselines impute a
query cell by the mean of its 15 nearest reference cells, on principal components or the scVI latent
space of the shared genes. Scores per gene over the query cells, of log1p of counts scaled to the median: Pearson,
cosine, RMSE; mean over genes. No study of ``scssl benchmark``, where all cells have the same genes.

    SCSSL_DATA_DIR=... python benchmarks/cellplm_imputation.py --out imputation.jsonl
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
from _common import data_dir, lognorm, machine, read, table
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors

import scssl

DATA = ["starmap_mpfc_3slices", "osmfish_ss_cortex"]
ROWS = ["mean of the reference", "kNN on PCA", "kNN on scVI", "CellPLM", "CellPLM, positions"]


def load(name: str, seed: int) -> tuple[anndata.AnnData, anndata.AnnData, np.ndarray]:
    """Reference, query without the genes of this fold, and the counts of these in the query."""
    adata = anndata.read_h5ad(data_dir() / f"{name}.h5ad")
    rng = np.random.default_rng(0)
    if "batch" in adata.obs and adata.obs["batch"].nunique() > 1:
        query = (adata.obs["batch"] == adata.obs["batch"].unique()[-1]).to_numpy()
    else:
        # Left and right of a section, so that no cell of the one lies among those of the other.
        x = np.asarray(adata.obsm["spatial"])[:, 0]
        query = x > np.median(x)
    fold = np.arange(adata.n_vars)[rng.permutation(adata.n_vars) % 5 == seed % 5]
    reference, whole = adata[~query].copy(), adata[query].copy()
    truth = whole[:, fold].X
    truth = truth.toarray() if hasattr(truth, "toarray") else np.asarray(truth)
    kept = np.setdiff1d(np.arange(adata.n_vars), fold)
    return reference, whole[:, kept].copy(), truth


def scaled(values: np.ndarray, library: np.ndarray) -> np.ndarray:
    """log1p of counts at the median depth of the query, by what it shares with the reference."""
    factor = np.median(library) / np.maximum(library, 1)
    result: np.ndarray = np.log1p(values * factor[:, None])
    return result


def sums(adata: anndata.AnnData) -> np.ndarray:
    return np.asarray(adata.X.sum(1)).ravel()


def impute(
    row: str, reference: anndata.AnnData, query: anndata.AnnData, seed: int
) -> tuple[np.ndarray, list[str]]:
    """Expected counts of the genes that the query lacks, and their names."""
    genes = [g for g in reference.var_names if g not in set(query.var_names)]
    shared = reference[:, query.var_names].copy()
    depth = sums(query)[:, None]
    share = reference[:, genes].X
    share = share.toarray() if hasattr(share, "toarray") else np.asarray(share)
    share = share / np.maximum(sums(shared), 1)[:, None]
    if row == "mean of the reference":
        return np.repeat(share.mean(0)[None], query.n_obs, axis=0) * depth, genes
    if row.startswith("CellPLM"):
        positions = row != "CellPLM"
        datasets = scssl.data.Datasets({"reference": reference, "query": query}, "union")
        has = "batch" in reference.obs
        scssl.model.CellPLM.setup_datasets(
            datasets,
            sample_key="batch" if has else None,
            spatial_key="spatial" if positions else None,
        )
        model = scssl.model.CellPLM(datasets, rng=seed)
        model.train(rng=seed, progress=False)
        rows = np.arange(reference.n_obs, reference.n_obs + query.n_obs)
        found = model.get_imputed_expression(indices=rows, genes=genes, as_batch="reference")
        return found.to_numpy(), genes
    if row == "kNN on PCA":
        x = [lognorm(part.X).toarray() for part in (shared, query)]
        pca = PCA(min(30, shared.n_vars - 1), random_state=seed).fit(np.vstack(x))
        one, other = (pca.transform(part) for part in x)
    else:
        import scvi

        scvi.settings.seed = seed
        both = anndata.concat({"reference": shared, "query": query}, label="half", index_unique="-")
        scvi.model.SCVI.setup_anndata(both, batch_key="half")
        model = scvi.model.SCVI(both, n_latent=30)
        model.train(
            100,
            train_size=0.9,
            early_stopping=True,
            early_stopping_patience=20,
            enable_progress_bar=False,
        )
        z = model.get_latent_representation()
        one, other = z[: shared.n_obs], z[shared.n_obs :]
    nearest = NearestNeighbors(n_neighbors=15).fit(one).kneighbors(other, return_distance=False)
    return share[nearest].mean(1) * depth, genes


def score(truth: np.ndarray, found: np.ndarray, library: np.ndarray) -> dict[str, float]:
    cells = anndata.AnnData(np.zeros((len(truth), 0), dtype=np.float32))
    cells.obsm["measured"], cells.obsm["imputed"] = scaled(truth, library), scaled(found, library)
    scores = scssl.tl.modality_scores(cells, "measured", "imputed")
    # What is the same for all cells tells nothing of them.
    pearson = np.nan_to_num(scores.attrs["per_feature"]["pearson"]).mean()
    row = scores.iloc[0]
    return {
        "Pearson": float(pearson),
        "cosine": float(row["cosine_per_feature"]),
        "RMSE": float(row["rmse_per_feature"]),
    }


def show(out: Path) -> None:
    frame = pd.DataFrame(read(out))
    rows = []
    for name in [n for n in DATA if n in set(frame["data"])]:
        for row in ROWS:
            own = frame[(frame["data"] == name) & (frame["row"] == row)]
            if not len(own):
                continue
            line: dict[str, object] = {"data": name, "": row, "n": len(own)}
            for column in ("Pearson", "cosine", "RMSE"):
                sd = f" ± {own[column].std(ddof=1):.3f}" if len(own) > 1 else ""
                line[column] = f"{own[column].mean():.3f}{sd}"
            rows.append(line)
    print(table(rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--data", nargs="+", default=DATA)
    parser.add_argument("--rows", nargs="+", default=ROWS)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(5)))
    parser.add_argument("--out", type=Path, default=Path("cellplm_imputation.jsonl"))
    parser.add_argument("--table", action="store_true", help="print what is in --out and stop")
    args = parser.parse_args()
    logging.getLogger("scssl").setLevel("ERROR")
    warnings.filterwarnings("ignore")
    if not args.table:
        print(machine(), flush=True)
        for seed in args.seeds:
            for name in args.data:
                done = {(r["data"], r["seed"], r["row"]) for r in read(args.out)}
                for row in args.rows:
                    if (name, seed, row) in done:
                        continue
                    reference, query, truth = load(name, seed)
                    found, genes = impute(row, reference, query, seed)
                    result = {"data": name, "seed": seed, "row": row, "genes": len(genes)}
                    result |= score(truth, found, sums(query))
                    with args.out.open("a") as file:
                        file.write(json.dumps(result) + "\n")
                    print(result, flush=True)
    show(args.out)


if __name__ == "__main__":
    main()
