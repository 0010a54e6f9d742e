"""A masked autoencoder on one process, and on two that share its batches.

``python benchmarks/processes.py --cells 20000 --genes 2000`` prints a table. Each process has one thread. Runs of one
and of two processes take turns; an epoch of each that is not counted comes first. Wall time is what the user waits for
where the machine is idle, CPU time what is spent, waiting processes included; beside them stands how long the sums
of gradients alone take.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
import warnings
from statistics import median
from typing import Any

BATCH = 1024


def train(n_cells: int, n_genes: int, batch: int) -> None:
    """In a process that torchrun has started: an epoch, and one that is measured."""
    warnings.simplefilter("ignore")
    import anndata
    import pandas as pd
    import torch
    from _common import synthetic_counts
    from lightning.pytorch.callbacks import Callback

    import scssl

    class Clock(Callback):
        def on_train_epoch_start(self, *_: Any) -> None:
            self.wall, self.cpu = time.perf_counter(), time.process_time()

        def on_train_batch_end(self, trainer: Any, plan: Any, *_: Any) -> None:
            self.found = time.perf_counter() - self.wall, time.process_time() - self.cpu
            self.n_steps = trainer.num_training_batches

    adata = anndata.AnnData(synthetic_counts(n_cells, n_genes, 0.1))
    adata.obs_names = [f"cell{i}" for i in range(n_cells)]
    adata.var = pd.DataFrame(index=[f"GENE{i}" for i in range(n_genes)])
    scssl.model.MaskedAutoencoder.setup_anndata(adata)
    model = scssl.model.MaskedAutoencoder(adata, hidden_dims=(512, 512, 256, 256), n_latent=64)
    clock, n = Clock(), int(os.environ["WORLD_SIZE"])
    model.train(
        2, batch_size=batch // n, train_size=1, accelerator="cpu", progress=False, callbacks=[clock]
    )
    sums = 0.0
    if n > 1:
        decoded = model.module.decoded_in_part()
        whole = [p for name, p in model.module.named_parameters() if name not in decoded]
        flat = torch.zeros(sum(p.numel() for p in whole))
        torch.distributed.barrier()
        sums = time.perf_counter()
        for _ in range(10):
            torch.distributed.all_reduce(flat)
        sums = (time.perf_counter() - sums) / 10
    found = {"wall": clock.found[0], "cpu": clock.found[1], "steps": clock.n_steps, "sums": sums}
    # In one piece: the processes write into one pipe.
    os.write(1, f"{json.dumps(found)}\n".encode())


def measure(n: int, options: argparse.Namespace) -> dict[str, float]:
    """A run of `n` processes."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += [f"--nproc-per-node={n}", __file__, "--worker"]
    command += [f"--{name}={getattr(options, name)}" for name in ("cells", "genes", "batch")]
    done = subprocess.run(
        command,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"},
    )
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert len(lines) == n
    cpu, wall = sum(one["cpu"] for one in lines), max(one["wall"] for one in lines)
    sums = max(one["sums"] * one["steps"] for one in lines)
    return {"wall": wall, "cpu": cpu, "slowest": max(one["cpu"] for one in lines), "sums": sums}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", type=int, default=20_000)
    parser.add_argument("--genes", type=int, default=2000)
    parser.add_argument("--batch", type=int, default=BATCH)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--worker", action="store_true")
    options = parser.parse_args()
    if options.worker:
        train(options.cells, options.genes, options.batch)
        return
    runs: dict[int, list[dict[str, float]]] = {1: [], 2: []}
    for _ in range(options.repeats):
        for n, found in runs.items():
            found.append(measure(n, options))
    print(f"{options.cells:,} cells x {options.genes:,} genes, batches of {options.batch}")
    print("processes  wall s   CPU s  of the slowest  sums of gradients s")
    middle = {}
    for n, found in runs.items():
        middle[n] = one = {name: median(run[name] for run in found) for name in found[0]}
        print("{:>9}  {wall:6.2f}  {cpu:6.2f}  {slowest:14.2f}  {sums:19.2f}".format(n, **one))
    for name, part in (("wall", "wall"), ("cpu", "slowest")):
        print(f"1 to 2 by {name}: {middle[1][name] / middle[2][part]:.2f} times as fast")


if __name__ == "__main__":
    main()
