"""Cells per second of embedding, against scvi-tools' SCVI on the same cells.

The two take turns, and both are given the same widths: two hidden layers of 256 and 128 (SCVI: two
of 256) and 64 latent dimensions. Training is one epoch; weights do not matter to speed.

    python benchmarks/embedding_throughput.py --genes 2000 19331
"""

from __future__ import annotations

import argparse
import logging
import time
import warnings

import numpy as np
from _common import machine, synthetic_counts, table, to_anndata

import scssl


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--genes", nargs="+", type=int, default=[2000, 19_331])
    parser.add_argument("--cells", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    import scvi

    print(machine())
    rows = []
    for genes in args.genes:
        density = 0.10 if genes <= 5000 else 0.07
        ours = to_anndata(synthetic_counts(args.cells, genes, density))
        theirs = ours.copy()
        scssl.model.MaskedAutoencoder.setup_anndata(ours, input="counts")
        mae = scssl.model.MaskedAutoencoder(ours, hidden_dims=(256, 128))
        mae.train(1, batch_size=1024, progress=False)
        scvi.model.SCVI.setup_anndata(theirs)
        other = scvi.model.SCVI(theirs, n_hidden=256, n_layers=2, n_latent=64)
        other.train(1, batch_size=1024, enable_progress_bar=False, accelerator="cpu")
        arms = {
            "scssl": mae.get_latent_representation,
            "SCVI": other.get_latent_representation,
            "SCVI, batch 1,024": lambda model=other: model.get_latent_representation(
                batch_size=1024
            ),
        }
        times: dict[str, list[float]] = {name: [] for name in arms}
        for round_ in range(args.rounds + 1):
            for name, embed in arms.items():
                start = time.perf_counter()
                embed()
                if round_:
                    times[name].append(time.perf_counter() - start)
        base = np.array(times["SCVI"])
        for name, seconds in times.items():
            ratio = base / np.array(seconds)
            rows.append(
                {
                    "genes": genes,
                    "model": name,
                    "cells/s": f"{args.cells / np.median(seconds):,.0f}",
                    "ratio, median (min - max)": (
                        f"{np.median(ratio):.2f} ({ratio.min():.2f} - {ratio.max():.2f})"
                    ),
                }
            )
    print(table(rows))


if __name__ == "__main__":
    main()
