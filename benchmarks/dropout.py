"""Dropout of scssl against PyTorch's own, in a training step of SimCLR.

The same network, twice: as it is, and with the layer of PyTorch in the place of ours. Both take turns with
the same batches, one step each, so that whatever else the machine does befalls both; what is printed is CPU
time per step and the median of the ratios of neighbouring steps. ``--dropout`` is that of the encoder.

    python benchmarks/dropout.py --batch 128 256 1024
"""

from __future__ import annotations

import argparse
import copy
import time

import anndata
import numpy as np
import torch
from _common import machine, synthetic_counts, table
from torch import nn

import scssl
from scssl.nn import Dropout
from scssl.train import RowAdamW


def with_layers_of_pytorch(module: nn.Module) -> nn.Module:
    """A copy with PyTorch's dropout, and the same weights."""
    module = copy.deepcopy(module)
    for parent in list(module.modules()):
        for name, child in parent.named_children():
            if isinstance(child, Dropout):
                setattr(parent, name, nn.Dropout(child.p))
    return module


def measure(counts, batch: int, dropout: float, n_steps: int) -> dict[str, float]:
    adata = anndata.AnnData(counts)
    scssl.model.SimCLR.setup_anndata(adata, input="counts")
    model = scssl.model.SimCLR(adata, dropout=dropout)
    modules = [model.module.train(), with_layers_of_pytorch(model.module).train()]
    optimizers = [RowAdamW(m.parameters(), lr=1e-3, weight_decay=1e-2) for m in modules]
    loader = model._training_data().loader(np.arange(adata.n_obs), batch, role="training")
    rngs = [torch.Generator().manual_seed(0) for _ in modules]
    seconds: tuple[list[float], list[float]] = ([], [])
    while len(seconds[0]) < n_steps:
        for tensors in loader:
            # Whoever comes second finds the batch in the cache.
            first = len(seconds[0]) % 2
            for i in (first, 1 - first):
                start = time.process_time()
                optimizers[i].zero_grad()
                modules[i].loss(tensors, rng=rngs[i]).loss.backward()
                optimizers[i].step()
                seconds[i].append(time.process_time() - start)
    # Kernels are compiled, or read from the cache, in the first steps.
    ours, theirs = (np.array(times[10 : len(times) // 2 * 2]) for times in seconds)
    pairs = np.log(theirs / ours)
    # Of two neighbouring steps each was second once.
    ratio = float(np.exp(np.median((pairs[0::2] + pairs[1::2]) / 2)))
    return {
        "ms (ours)": 1e3 * float(np.median(ours)),
        "ms (PyTorch)": 1e3 * float(np.median(theirs)),
        "PyTorch / ours": ratio,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--genes", type=int, default=2000)
    parser.add_argument("--batch", nargs="+", type=int, default=[128, 256, 1024])
    parser.add_argument("--dropout", nargs="+", type=float, default=[0.1, 0.3])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    scssl.settings.verbosity = "error"
    print(machine())
    counts = synthetic_counts(max(4 * max(args.batch), 2000), args.genes, 0.1)
    rows = [
        {"batch": batch, "dropout": dropout, **measure(counts, batch, dropout, args.steps)}
        for batch in args.batch
        for dropout in args.dropout
    ]
    print(table(rows))


if __name__ == "__main__":
    main()
