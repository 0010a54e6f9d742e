"""Speed and memory of CellPLM by the number of cells that see each other.

One synthetic tissue of every size, in a process of its own: all cells are one sequence. Embedding by flow attention, whose
cost should be linear in the number of cells, and by softmax attention, whose cost is not; and an epoch of training.
Seconds are of CPU time on one thread, so that it matters less what else the machine does; on a GPU those of the clock.
Peak memory is that of the process beyond what it had with the data read.

    python benchmarks/cellplm_throughput.py --cells 1000 3000 10000 30000 100000
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
import warnings

import numpy as np
from _common import machine, peak_rss_gb, synthetic_counts, table, to_anndata

import scssl


def run(n_cells: int, n_genes: int, attention: str, train: bool, device: str) -> dict[str, float]:
    """In this process: seconds and memory."""
    warnings.simplefilter("ignore")
    scssl.settings.verbosity = "error"
    adata = to_anndata(synthetic_counts(n_cells, n_genes, 0.1))
    adata.obsm["spatial"] = np.random.default_rng(0).uniform(size=(n_cells, 2))
    scssl.model.CellPLM.setup_anndata(adata, spatial_key="spatial")
    model = scssl.model.CellPLM(adata, attention=attention)
    model.to_device(device)
    before = peak_rss_gb()
    clock = time.process_time if device == "cpu" else time.perf_counter
    started = clock()
    model.get_latent_representation()
    found = {"embed, s": clock() - started, "embed, GB": peak_rss_gb() - before}
    if train:
        started = clock()
        accelerator = "cpu" if device == "cpu" else "gpu"
        model.train(1, progress=False, accelerator=accelerator)
        found["epoch, s"] = clock() - started
        found["epoch, GB"] = peak_rss_gb() - before
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument(
        "--cells", type=int, nargs="+", default=[1000, 3000, 10_000, 30_000, 100_000]
    )
    parser.add_argument("--genes", type=int, default=2000)
    parser.add_argument("--softmax-up-to", type=int, default=30_000)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        n, attention, train = int(args.one[0]), args.one[1], args.one[2] == "True"
        print(json.dumps(run(n, args.genes, attention, train, args.device)))
        return
    print(machine(), flush=True)
    rows = []
    for n in args.cells:
        row: dict[str, object] = {"cells": f"{n:,}"}
        for attention in ("flow", "softmax"):
            if attention == "softmax" and n > args.softmax_up_to:
                continue
            options = [str(n), attention, str(attention == "flow")]
            command = [
                sys.executable,
                __file__,
                "--genes",
                str(args.genes),
                "--device",
                args.device,
            ]
            done = subprocess.run(
                [*command, "--one", *options],
                capture_output=True,
                text=True,
                check=True,
                env={"NUMBA_NUM_THREADS": "1", **os.environ, "OMP_NUM_THREADS": "1"},
            )
            found = json.loads(done.stdout.splitlines()[-1])
            row |= {f"{attention}: {k}": f"{v:.2f}" for k, v in found.items()}
            if attention == "flow":
                row["flow: cells/s"] = f"{n / found['embed, s']:,.0f}"
        rows.append(row)
        print(row, flush=True)
    print(table(rows))


if __name__ == "__main__":
    main()
