"""Cells with RNA and proteins: cell types from the fused embedding, proteins of cells that have none.

A fifth of the cells, drawn by the seed, are stripped of their proteins. Every model is trained once on
what is left (a mosaic); PCA and models of RNA alone see the RNA of all cells. Cell types: macro-F1 of
the k-nearest-neighbour probe on the cells with both modalities. Proteins: Pearson correlation per
protein on the cells without, mean over proteins, by the mean of the five nearest cells (cosine) or by a
ridge regression, on the embedding of RNA in each case. Mean and standard deviation over seeds.

    SCSSL_DATA_DIR=/path/to/data python benchmarks/multimodal.py --out results.jsonl
    python benchmarks/multimodal.py --out results.jsonl --table
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from pathlib import Path
from typing import Any

import anndata
import mudata
import numpy as np
import pandas as pd
import scanpy as sc
from _common import data_dir, machine, table

import scssl
from scssl.augment import Compose, GaussianNoise, Mask

DATA = ("cbmc_cite", "pbmc_cite_2batch_400")
METHODS = ("SimCLR", "VICReg")
FUSIONS = ("concat", "add", "mean", "clip")
VIEWS = {
    "light": Compose([Mask(0.2), GaussianNoise(0.8, 0.2)]),
    "noise": GaussianNoise(0.8, 0.2),
    "mask .2": Mask(0.2),
    "mask .5": Mask(0.5, p=1.0),
    "mask .8": Mask(0.8, p=1.0),
}


def load(name: str) -> tuple[mudata.MuData, str]:
    """Cells with both modalities, without the mouse cells and those that nobody named."""
    adata = anndata.read_h5ad(data_dir() / f"{name}.h5ad")
    if "cell_type" in adata.obs:
        adata = adata[~adata.obs["cell_type"].isin(["Mouse", "Unknown"])].copy()
        adata.obs["cell_type"] = adata.obs["cell_type"].astype(str)
    values = np.asarray(adata.obsm["protein"], dtype=np.float32)
    proteins = anndata.AnnData(values, obs=adata.obs[[]])
    proteins.var_names = [str(protein) for protein in adata.uns["protein_names"]]
    del adata.obsm["protein"]
    counts = values.min() >= 0 and bool((values == values.round()).all())
    return mudata.MuData({"rna": adata, "prot": proteins}), "clr" if counts else "none"


def pca(rna: anndata.AnnData) -> np.ndarray:
    """50 components of log-normalised genes, of the 2,000 most variable where there are more."""
    rna = rna.copy()
    sc.pp.normalize_total(rna, target_sum=1e4)
    sc.pp.log1p(rna)
    if rna.n_vars > 2000:
        sc.pp.highly_variable_genes(rna, n_top_genes=2000)
        rna = rna[:, rna.var["highly_variable"]].copy()
    sc.pp.pca(rna, n_comps=50)
    return np.asarray(rna.obsm["X_pca"])


def clr(values: np.ndarray) -> np.ndarray:
    """As the models normalise counts of proteins."""
    normalised: np.ndarray = np.log1p(values / np.exp(np.log1p(values).mean(axis=1, keepdims=True)))
    return normalised


def scores(
    cells: anndata.AnnData, has: np.ndarray, joint: np.ndarray, rna: np.ndarray, seed: int
) -> dict[str, float]:
    """Cell types of the cells with both modalities, proteins of the others."""
    cells.obsm["joint"], cells.obsm["rna"] = joint, rna
    both, without = cells[has].copy(), cells[~has].copy()
    found: dict[str, float] = {}
    if "cell_type" in cells.obs:
        for seen in ("joint", "rna"):
            if np.isfinite(both.obsm[seen]).all():
                probe = scssl.tl.knn_probe(both, "cell_type", use_rep=seen, rng=seed)
                found[f"macro-F1 {seen}"] = float(probe.loc[0, "macro_f1"])
    for method in ("neighbors", "head"):
        scssl.tl.predict_modality(
            both, without, "protein", use_rep="rna", method=method, key_added=method
        )
        row = scssl.tl.modality_scores(without, "protein", method).loc[0]
        found[f"Pearson {method}"] = float(row["pearson_per_feature"])
        found[f"per cell {method}"] = float(row["pearson_per_cell"])
    return found


def run(name: str, seed: int, methods: list[str], views: bool, write: Any) -> None:
    """All rows of a data set and a seed."""
    whole, normalization = load(name)
    n = whole.n_obs
    has = np.ones(n, dtype=bool)
    has[np.random.default_rng(seed).choice(n, n // 5, replace=False)] = False
    rna = whole["rna"]
    values = np.asarray(whole["prot"].X)
    values = clr(values) if normalization == "clr" else values
    cells = anndata.AnnData(obs=rna.obs.copy())
    cells.obsm["protein"] = pd.DataFrame(
        values, index=cells.obs_names, columns=whole["prot"].var_names
    )

    def report(row: str, fusion: str, joint: np.ndarray, own: np.ndarray, seconds: float) -> None:
        found = scores(cells.copy(), has, joint, own, seed)
        write({"data": name, "seed": seed, "row": row, "fusion": fusion, **found, "s": seconds})

    if "PCA" in methods:
        x = pca(rna)
        report("PCA of RNA", "", x, x, 0.0)
        # Each block with a total variance of 1.
        blocks = [block - block.mean(0) for block in (x, values)]
        blocks = [block / np.sqrt(np.square(block).sum(1).mean()) for block in blocks]
        report("PCA of RNA + proteins", "", np.hstack(blocks), x, 0.0)
    for method in methods:
        if method == "PCA":
            continue
        model_class: Any = scssl.model.get_model_class(method)
        start = time.perf_counter()
        model_class.setup_anndata(rna)
        model = model_class(rna, rng=seed)
        model.train(rng=seed, progress=False)
        z = model.get_latent_representation()
        report(f"{method} of RNA", "", z, z, time.perf_counter() - start)
        variants: list[tuple[str, dict[str, Any]]] = [(f, {"fusion": f}) for f in FUSIONS]
        if views:
            variants = [
                (f"concat, {v}", {"augmentation": {"protein": a}}) for v, a in VIEWS.items()
            ]
        for label, options in variants:
            mdata = mudata.MuData({"rna": rna.copy(), "prot": whole["prot"][has].copy()})
            start = time.perf_counter()
            model_class.setup_mudata(mdata, protein_normalization=normalization)
            model = model_class(mdata, rng=seed, **options)
            model.train(rng=seed, progress=False)
            order = mdata.obs_names.get_indexer(cells.obs_names)
            joint = model.get_latent_representation()[order]
            own = model.get_latent_representation(modality="rna")[order]
            report(method, label, joint, own, time.perf_counter() - start)


def summary(path: Path) -> None:
    """Mean and standard deviation over the seeds."""
    frame = pd.DataFrame([json.loads(line) for line in path.read_text().splitlines()])
    frame = frame.drop_duplicates(["data", "seed", "row", "fusion"], keep="last")
    for name, part in frame.groupby("data"):
        print(f"\n{name}, {part['seed'].nunique()} seeds\n")
        rows = []
        for (row, fusion), group in part.groupby(["row", "fusion"], sort=False):
            cell: dict[str, object] = {"": row, "fusion": fusion, "n": len(group)}
            for column in group.columns[4:-1]:
                if group[column].notna().any():
                    sd = group[column].std(ddof=1)
                    cell[column] = f"{group[column].mean():.3f} ± {sd:.3f}"
            cell["s"] = f"{group['s'].mean():.0f}"
            rows.append(cell)
        print(table(rows))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", nargs="+", default=list(DATA))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--methods", nargs="+", default=["PCA", *METHODS])
    parser.add_argument("--views", action="store_true", help="views of proteins, not fusions")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    if arguments.table:
        summary(arguments.out)
        return
    warnings.simplefilter("ignore")
    print(machine())

    def write(row: dict[str, Any]) -> None:
        with arguments.out.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(row, flush=True)

    for name in arguments.data:
        for seed in arguments.seeds:
            run(name, seed, arguments.methods, arguments.views, write)


if __name__ == "__main__":
    main()
