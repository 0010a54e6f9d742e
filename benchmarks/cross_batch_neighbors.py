"""Neighbours across batches: time and memory of `scssl.pp.cross_batch_neighbors`.

Beside it, in turn and each in a process of its own: scikit-learn's exact search in every batch for a
part of the cells, scaled to all of them; and the way of BBKNN in scanpy, which writes one symmetrised
graph. Cells are drawn around 20 centres in 50 dimensions, in five batches that are shifted against each
other. Memory is the peak of the process during the search, less what it had before.

    python benchmarks/cross_batch_neighbors.py
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
from _common import machine, table

N_BATCHES, N_DIMENSIONS, N_TYPES = 5, 50, 20
K = 5
SAMPLE = 2000
WAYS = ("bbknn", "mnn", "scikit-learn", "symmetrised")


def cells(n: int) -> ad.AnnData:
    """Cells of 20 types in five batches."""
    generator = np.random.default_rng(0)
    centres = generator.normal(0, 2, (N_TYPES, N_DIMENSIONS))
    shifts = generator.normal(0, 0.5, (N_BATCHES, N_DIMENSIONS))
    kind, batch = generator.integers(N_TYPES, size=n), generator.integers(N_BATCHES, size=n)
    values = centres[kind] + shifts[batch] + generator.normal(size=(n, N_DIMENSIONS))
    obs = pd.DataFrame({"batch": pd.Categorical(batch.astype(str))}, index=np.arange(n).astype(str))
    return ad.AnnData(obs=obs, obsm={"X_pca": values.astype(np.float32)})


def exact_sample(adata: ad.AnnData) -> dict[int, np.ndarray]:
    """Nearest cells of every batch to a sample of cells, by scikit-learn."""
    from sklearn.neighbors import NearestNeighbors

    values, batch = adata.obsm["X_pca"], adata.obs["batch"].to_numpy()
    sample = np.random.default_rng(1).choice(len(values), min(SAMPLE, len(values)), replace=False)
    found = {int(cell): [] for cell in sample}
    for name in np.unique(batch):
        members = np.flatnonzero(batch == name)
        index = NearestNeighbors(n_neighbors=K + 1, algorithm="brute").fit(values[members])
        nearest = members[index.kneighbors(values[sample], return_distance=False)]
        for cell, row in zip(sample, nearest, strict=True):
            found[int(cell)].append(row[row != cell][:K])
    return {cell: np.concatenate(rows) for cell, rows in found.items()}


def symmetrised(adata: ad.AnnData) -> None:
    """One pynndescent index per batch, all cells queried, fuzzy union: what BBKNN does."""
    from pynndescent import NNDescent
    from umap.umap_ import fuzzy_simplicial_set

    values, batch = adata.obsm["X_pca"], adata.obs["batch"].to_numpy()
    rows, distances = [], []
    for name in np.unique(batch):
        members = np.flatnonzero(batch == name)
        index = NNDescent(values[members], n_neighbors=30, random_state=0)
        found, distance = index.query(values, k=K)
        rows.append(members[found])
        distances.append(distance)
    indices, lengths = np.hstack(rows), np.hstack(distances)
    order = np.argsort(lengths, axis=1)
    adata.obsp["symmetrised"] = fuzzy_simplicial_set(
        values,
        indices.shape[1],
        None,
        "euclidean",
        knn_indices=np.take_along_axis(indices, order, 1),
        knn_dists=np.take_along_axis(lengths, order, 1),
    )[0]


def peak_mb(*, reset: bool = False) -> float:
    """Peak memory of this process since it was reset (Linux)."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 2**10


def measure(way: str, n: int) -> dict[str, float]:
    """Seconds, memory and what came of it, with everything compiled before."""
    import scssl

    def run(adata: ad.AnnData) -> dict[int, np.ndarray]:
        if way == "scikit-learn":
            return exact_sample(adata)
        if way == "symmetrised":
            symmetrised(adata)
            return {}
        scssl.pp.cross_batch_neighbors(
            adata,
            "batch",
            method=way,
            n_neighbors=K if way == "bbknn" else None,
            metric="euclidean",
            exact=None if n > 45_000 else True,
        )
        return {}

    if way == "symmetrised" or n > 45_000:
        warm = cells(6000)
        # pynndescent compiles at its first use: 5,000 cells of one batch are enough.
        warm.obs["batch"] = pd.Categorical(np.where(np.arange(6000) < 5000, "0", "1"))
        if way == "symmetrised":
            symmetrised(warm)
        elif way != "scikit-learn":
            scssl.pp.cross_batch_neighbors(warm, "batch", method=way, exact=False, n_neighbors=K)
    else:
        run(cells(2000))
    adata = cells(n)
    before = peak_mb(reset=True)
    start = time.perf_counter()
    sample = run(adata)
    seconds = time.perf_counter() - start
    result = {"seconds": seconds, "memory": peak_mb() - before}
    if way == "scikit-learn":
        result["seconds"] *= n / len(sample)
    elif way == "symmetrised":
        graph = adata.obsp["symmetrised"]
        result["entries"] = graph.nnz / n
        result["most"] = int(graph.getnnz(axis=1).max())
    else:
        key = "cross_batch_neighbors" if way == "bbknn" else "mnn"
        graph = adata.obsp[key]
        result["entries"], result["most"] = graph.nnz / n, int(graph.getnnz(axis=1).max())
        result["coverage"] = adata.uns[key]["coverage"]
        if way == "bbknn":
            exact = exact_sample(adata)
            hits = [
                len(np.intersect1d(graph.indices[graph.indptr[c] : graph.indptr[c + 1]], right))
                for c, right in exact.items()
            ]
            result["recall"] = sum(hits) / sum(map(len, exact.values()))
    return result


def main() -> None:
    """Every way at every size, each in a fresh process."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n-cells", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--one", nargs=2, metavar=("WAY", "N"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.one[0], int(options.one[1]))))
        return
    print(machine(), "\n")
    rows = []
    for n in options.n_cells:
        for way in WAYS:
            command = [sys.executable, __file__, "--one", way, str(n)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            found = json.loads(done.stdout.splitlines()[-1])
            rows.append(
                {
                    "cells": f"{n:,}",
                    "way": way,
                    "s": f"{found['seconds']:.1f}",
                    "MB": "" if way == "scikit-learn" else f"{found['memory']:.0f}",
                    "entries per cell": f"{found['entries']:.1f}" if "entries" in found else "",
                    "most of a cell": f"{found['most']}" if "most" in found else "",
                    "coverage": f"{found['coverage']:.3f}" if "coverage" in found else "",
                    "recall": f"{found['recall']:.3f}" if "recall" in found else "",
                }
            )
            print(table(rows[-1:]), flush=True)
    print("\n" + table(rows))


if __name__ == "__main__":
    main()
