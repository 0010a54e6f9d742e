"""Cells per second of a SimCLR step with two views, against the per-sample way of the field.

Baseline: a map-style Dataset whose ``__getitem__`` makes the cell dense and augments it twice with NumPy,
gathered by a DataLoader, and the same network in plain PyTorch: Linear-BatchNorm-ReLU-Linear-BatchNorm,
projector, NT-Xent, fused AdamW. scssl: the whole of ``model.train()`` with the same views, widths and batch
size. The arms take turns; ratios are of neighbouring runs.

    python benchmarks/view_throughput.py
"""

from __future__ import annotations

import argparse
import time
import warnings

import anndata
import numpy as np
import torch
from _common import lognorm, machine, synthetic_counts, table
from torch import nn
from torch.nn import functional

import scssl

N_LATENT, HIDDEN, TEMPERATURE = 64, 128, 0.5


class PerSample(torch.utils.data.Dataset):
    """A cell and its two views, one cell at a time."""

    def __init__(self, x, views, seed=0):
        self.x, self.views, self.rng = x, views, np.random.default_rng(seed)

    def __len__(self):
        return self.x.shape[0]

    def __getitem__(self, i):
        cell = self.x[i].toarray().ravel()
        return [torch.from_numpy(self.augment(cell)) for _ in range(2)]

    def augment(self, cell):
        """The steps of the preset in its order, each with its probability."""
        cell, n, rng = cell.copy(), len(cell), self.rng
        for name, share, p in self.views:
            if rng.random() >= p:
                continue
            k = int(share * n)
            genes = rng.choice(n, k, replace=False)
            if name == "mask":
                cell[genes] = 0
            elif name == "noise":
                cell[genes] += rng.normal(0, 0.2, k).astype(np.float32)
            elif name == "swap":
                half = k // 2
                one, two = genes[:half], genes[half : 2 * half]
                cell[one], cell[two] = cell[two], cell[one]
            elif name == "cross":
                other = self.x[rng.integers(len(self))].toarray().ravel()
                cell[genes] = other[genes]
        return cell


VIEWS = {
    "mask": [("mask", 0.5, 1.0)],
    "scsslbench": [("mask", 0.5, 0.5), ("noise", 0.3, 0.5), ("swap", 0.3, 0.5)],
    "clear": [("mask", 0.2, 0.5), ("noise", 0.8, 0.5), ("swap", 0.1, 0.5), ("cross", 0.25, 0.5)],
}


class Plain(nn.Module):
    def __init__(self, n_genes):
        super().__init__()
        d = N_LATENT
        self.encoder = nn.Sequential(
            nn.Linear(n_genes, HIDDEN),
            nn.BatchNorm1d(HIDDEN),
            nn.ReLU(),
            nn.Linear(HIDDEN, d),
            nn.BatchNorm1d(d),
        )
        self.projector = nn.Sequential(
            nn.Linear(d, d), nn.BatchNorm1d(d), nn.ReLU(), nn.Linear(d, d), nn.BatchNorm1d(d)
        )

    def loss(self, one, two):
        z = torch.cat([self.projector(self.encoder(view)) for view in (one, two)])
        z = functional.normalize(z, dim=1)
        logits = (z @ z.T / TEMPERATURE).fill_diagonal_(float("-inf"))
        n = len(one)
        target = torch.cat([torch.arange(n, 2 * n), torch.arange(n)]).to(z.device)
        return functional.cross_entropy(logits, target)


def per_sample(x, views, batch_size, workers, device, seconds):
    loader = torch.utils.data.DataLoader(
        PerSample(x, VIEWS[views]),
        batch_size=batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        persistent_workers=workers > 0,
    )
    torch.manual_seed(0)
    model = Plain(x.shape[1]).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    cells, start, warm = 0, None, 3
    while True:
        for one, two in loader:
            loss = model.loss(one.to(device), two.to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if warm:
                warm -= 1
                start = time.perf_counter()
                continue
            cells += len(one)
            if time.perf_counter() - start > seconds:
                if device == "cuda":
                    torch.cuda.synchronize()
                return cells / (time.perf_counter() - start)


def ours(adata, views, batch_size, device, epochs):
    name = {"mask": scssl.augment.Mask(0.5, p=1.0)}.get(views, views)
    model = scssl.model.SimCLR(adata, augmentation=name, temperature=TEMPERATURE)
    model.train(
        epochs,
        batch_size=batch_size,
        train_size=1.0,
        accelerator="gpu" if device == "cuda" else "cpu",
        progress=False,
    )
    # The first epoch has compilation and first touches in it.
    return float(np.median(model.history["cells_per_second"].iloc[1:, 0]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--cells", type=int, default=8192)
    parser.add_argument("--genes", type=int, default=4000)
    parser.add_argument("--density", type=float, default=0.12)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2])
    parser.add_argument("--views", nargs="+", default=list(VIEWS))
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    scssl.settings.verbosity = "error"
    print(machine())
    counts = synthetic_counts(args.cells, args.genes, args.density)
    x = lognorm(counts)
    adata = anndata.AnnData(counts)
    scssl.model.SimCLR.setup_anndata(adata, input="counts")
    rows = []
    for views in args.views:
        for workers in args.workers:
            pairs = []
            for _ in range(args.repeats):
                slow = per_sample(x, views, args.batch_size, workers, args.device, args.seconds)
                pairs.append((slow, ours(adata, views, args.batch_size, args.device, epochs=6)))
            slow, fast = np.median(pairs, axis=0)
            ratios = [b / a for a, b in pairs]
            rows.append(
                {
                    "views": views,
                    "batch": args.batch_size,
                    "baseline's workers": workers,
                    "per sample, cells/s": f"{slow:,.0f}",
                    "scssl, cells/s": f"{fast:,.0f}",
                    "ratio": f"{np.median(ratios):.1f} ({min(ratios):.1f}-{max(ratios):.1f})",
                }
            )
            print(rows[-1], flush=True)
    print(f"\n{args.cells:,} cells, {args.genes:,} genes, {args.density:.0%} stored\n")
    print(table(rows))


if __name__ == "__main__":
    main()
