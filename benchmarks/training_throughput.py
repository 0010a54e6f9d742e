"""Cells per second and peak memory of training steps, all modes in one run.

Each mode runs in a process of its own on the same synthetic counts: loading, normalising, masking,
forward, backward and optimiser, as in training. "model only" is the floor: dense layers on one fixed
batch, nothing loaded and nothing masked. Ratios are to the dense loop that loads whole batches.

    python benchmarks/training_throughput.py --genes 2000 19331 --batch 128 1024 4096
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
import warnings

import numpy as np
import torch
from _common import (
    SIZES,
    DenseAutoencoder,
    dense_step,
    lognorm,
    machine,
    peak_rss_gb,
    synthetic_counts,
    table,
)

MODES = {
    "per row": "dense loop, Dataset of single cells",
    "dense": "dense loop, whole batches",
    "model only": "dense, model only (no loading, no masks)",
    "sparse in": "scssl, sparse in",
    "sampled out": "scssl, sparse in, 2,048 genes out",
    "fastest": "scssl, sparse in, 512 genes out",
}
N_OUTPUT = {"sampled out": 2048, "fastest": 512}
DENSITY = {2000: 0.10, 19_331: 0.07}


def timed(step, batch: int, seconds: float) -> tuple[float, float]:
    """Cells per second of `step`, by the median, and the time of the median step."""
    step()
    times: list[float] = []
    while len(times) < 3 or sum(times) < seconds:
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    median = float(np.median(times))
    return batch / median, median


def endless(make):
    while True:
        yield from make()


def run_dense(mode: str, counts, batch: int, hidden, seconds: float) -> dict[str, float]:
    x = lognorm(counts)
    net = DenseAutoencoder(x.shape[1], hidden)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3, weight_decay=1e-2, fused=True)
    if mode == "model only":
        fixed = torch.from_numpy(x[:batch].toarray())

        def step() -> None:
            optimizer.zero_grad()
            torch.nn.functional.mse_loss(net.decoder(net.encoder(fixed)), fixed).backward()
            optimizer.step()

        return {"cells/s": timed(step, batch, seconds)[0], "loader": 0.0}
    if mode == "per row":

        class Rows(torch.utils.data.Dataset):
            def __len__(self) -> int:
                return x.shape[0]

            def __getitem__(self, i: int) -> np.ndarray:
                return x[i].toarray()[0]

        batches = endless(
            lambda: torch.utils.data.DataLoader(Rows(), batch, shuffle=True, drop_last=True)
        )
    else:
        rng = np.random.default_rng(0)

        def whole():
            order = rng.permutation(x.shape[0])
            for i in range(0, len(order) - batch + 1, batch):
                yield torch.from_numpy(x[order[i : i + batch]].toarray())

        batches = endless(whole)
    rate, median = timed(lambda: dense_step(net, optimizer, next(batches)), batch, seconds)
    _, load = timed(lambda: next(batches), batch, min(seconds, 1))
    return {"cells/s": rate, "loader": load / median}


def run_scssl(mode: str, counts, batch: int, hidden, seconds: float) -> dict[str, float]:
    from scssl.augment import RandomMask
    from scssl.data import CellLoader, ShuffledPlan, open_rows
    from scssl.data.matrix import gene_statistics
    from scssl.model.masked_autoencoder._network import MaskedAutoencoderModule
    from scssl.train import RowAdamW

    module = MaskedAutoencoderModule(
        counts.shape[1],
        hidden_dims=hidden,
        n_latent=64,
        dropout=0.1,
        activation="selu",
        masking=RandomMask(0.5),
        mask_signal=None,
        loss="mse",
        latent_activation=False,
        output_activation=None,
        decoder=True,
        encode_covariates=False,
        n_categories={},
        n_continuous=0,
    )
    plan = ShuffledPlan(counts.shape[0], batch, drop_last=True)
    loader = CellLoader(open_rows(counts), plan, input_kind="counts")
    statistics = gene_statistics(loader, max_cells=2000)
    n_output = N_OUTPUT.get(mode)
    module.begin_training(statistics, fresh=True, n_output_genes=n_output)
    optimizer = RowAdamW(module.parameters(), lr=1e-3, weight_decay=1e-2)
    batches, rng = endless(lambda: loader), torch.Generator().manual_seed(0)

    def step() -> None:
        optimizer.zero_grad()
        module.loss(next(batches), rng=rng, full=False).loss.backward()
        optimizer.step()

    rate, median = timed(step, batch, seconds)
    _, load = timed(lambda: next(batches), batch, min(seconds, 1))
    return {"cells/s": rate, "loader": load / median}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--genes", nargs="+", type=int, default=[2000, 19_331])
    parser.add_argument("--batch", nargs="+", type=int, default=[128, 512, 1024, 4096])
    parser.add_argument("--seconds", type=float, default=4.0, help="of each measurement")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        warnings.simplefilter("ignore")
        mode, genes, batch = json.loads(args.one)
        hidden = SIZES["small" if genes <= 5000 else "large"]
        counts = synthetic_counts(max(5000, 2 * batch), genes, DENSITY.get(genes, 0.07))
        before = peak_rss_gb()
        run = run_dense if mode in ("per row", "dense", "model only") else run_scssl
        found = run(mode, counts, batch, hidden, args.seconds)
        print(json.dumps({**found, "rss": peak_rss_gb() - before}))
        return
    print(machine())
    for genes in args.genes:
        rows = []
        for batch in args.batch:
            base = None
            found = {}
            for mode in MODES:
                if mode in N_OUTPUT and genes < 4096:
                    continue
                command = [sys.executable, __file__, "--seconds", str(args.seconds)]
                command += ["--one", json.dumps([mode, genes, batch])]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                found[mode] = json.loads(done.stdout.splitlines()[-1])
            base = found["dense"]["cells/s"]
            rows += [
                {
                    "genes": genes,
                    "batch": batch,
                    "mode": MODES[mode],
                    "cells/s": f"{values['cells/s']:,.0f}",
                    "ratio": f"{values['cells/s'] / base:.2f}",
                    "loader share": f"{values['loader']:.0%}",
                    "extra GB": f"{values['rss']:.2f}",
                }
                for mode, values in found.items()
            ]
        print(table(rows), flush=True)
    print(machine())


if __name__ == "__main__":
    main()
