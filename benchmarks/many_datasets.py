"""Memory and speed of training on many data sets that are on disk.

Writes data sets as files, opens them with ``backed="r"`` and trains ``PseudoLabel`` on all of them for one
round, in a process of its own for every number of data sets. Memory should follow the batch and not the number of
data sets. Baseline: the same cells as one AnnData in memory.

    python benchmarks/many_datasets.py --datasets 5 60 --cells 15000
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import anndata
from _common import machine, peak_rss_gb, synthetic_counts, table, to_anndata

import scssl


def write(folder: Path, n_datasets: int, n_cells: int, n_genes: int) -> None:
    for i in range(n_datasets):
        path = folder / f"{i:03d}.h5ad"
        if not path.exists():
            to_anndata(synthetic_counts(n_cells, n_genes, 0.1, seed=i)).write_h5ad(path)


def run(folder: Path, n_datasets: int, epochs: int, where: str) -> dict[str, float]:
    """In this process: peak memory and speed."""
    warnings.simplefilter("ignore")
    scssl.settings.verbosity = "error"
    started_with = peak_rss_gb()
    files = sorted(folder.glob("*.h5ad"))[:n_datasets]
    model_class = scssl.model.PseudoLabel
    started = time.perf_counter()
    if where == "disk":
        data = scssl.data.Datasets({f.stem: anndata.read_h5ad(f, backed="r") for f in files})
        model_class.setup_datasets(data, input="counts")
        model = model_class(data, n_rounds=1)
    else:
        adata = anndata.concat({f.stem: anndata.read_h5ad(f) for f in files}, label="dataset")
        adata.obs_names_make_unique()
        model_class.setup_anndata(adata, dataset_key="dataset", input="counts")
        model = model_class(adata, n_rounds=1)
    setup = time.perf_counter() - started
    started = time.perf_counter()
    model.train(epochs, progress=False, early_stopping=False)
    seconds = time.perf_counter() - started
    speed = float(model.history["cells_per_second"].iloc[-1, 0])
    n_cells = model.training_["n_cells"]
    return {
        "cells": n_cells,
        "setup, s": setup,
        "clusters, s": seconds - epochs * n_cells / speed,
        "cells/s": speed,
        "peak over start, GB": peak_rss_gb() - started_with,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--datasets", type=int, nargs="+", default=[5, 60])
    parser.add_argument("--cells", type=int, default=15_000, help="of each data set")
    parser.add_argument("--genes", type=int, default=2000)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="where the files are kept")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(run(args.folder, int(args.one[0]), args.epochs, args.one[1])))
        return
    print(machine(), flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        folder.mkdir(exist_ok=True, parents=True)
        write(folder, max(args.datasets), args.cells, args.genes)
        rows = []
        for n in args.datasets:
            for where in ("disk", "memory"):
                command = [
                    sys.executable,
                    __file__,
                    "--folder",
                    str(folder),
                    "--one",
                    str(n),
                    where,
                ]
                command += ["--epochs", str(args.epochs)]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                found = json.loads(done.stdout.splitlines()[-1])
                row = {"data sets": n, "where": where}
                row |= {k: f"{v:,.2f}" if "GB" in k else f"{v:,.0f}" for k, v in found.items()}
                rows.append(row)
                print(row, flush=True)
    print(f"\n{args.cells:,} cells and {args.genes:,} genes each\n")
    print(table(rows))


if __name__ == "__main__":
    main()
