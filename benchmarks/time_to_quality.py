"""Wall-clock time to equal quality: scssl against a plain dense PyTorch loop.

Both train the same layers on the same split with the same batch size, learning rate and weight
decay. After each epoch, off the clock, both are measured in the same way: masked validation loss on
the same cells with the same dense masks, and 15-NN 5-fold macro-F1 of all cells. The target is what
the dense loop has at its end; the time of an arm is when it first has reached both, validation loss
and macro-F1, at once. No study of ``scssl benchmark``: the dense loop is a measure of speed, and no method that anyone
uses. Quality by epochs is ``studies/training.yaml``.

    SCSSL_DATA_DIR=... python benchmarks/time_to_quality.py --data pbmc3k mouse_bladder --seeds 5
"""

from __future__ import annotations

import argparse
import logging
import time
import warnings

import anndata
import numpy as np
import torch
from _common import SIZES, DenseAutoencoder, data_dir, dense_step, lognorm, machine, table
from lightning.pytorch.callbacks import Callback

import scssl
from scssl.data import train_validation_split

EPOCHS, BATCH, LR, DECAY = 30, 256, 1e-3, 1e-2
# Name, genes decoded per step, mask signal. "published": the widths of the paper; "default": those
# that scssl takes by default for data sets of this size.
ARMS = {
    "published": [("sparse in", None, None), ("sparse in, sampled out", 2048, None)],
    "default": [("default", None, "rescale")],
}


class Measure:
    """Validation loss and kNN score of an arm, after each epoch and off the clock."""

    def __init__(self, adata: anndata.AnnData, rows: np.ndarray) -> None:
        self.adata = anndata.AnnData(obs=adata.obs[["cell_type"]].copy())
        self.x = torch.from_numpy(lognorm(adata.X)[rows].toarray())
        self.mask = torch.rand(self.x.shape, generator=torch.Generator().manual_seed(0)) < 0.5
        self.log: list[tuple[float, float, float]] = []
        self.clock = 0.0
        self.started = 0.0

    def start(self) -> None:
        self.started = time.perf_counter()

    def stop(self) -> None:
        self.clock += time.perf_counter() - self.started

    @torch.no_grad()
    def record(self, reconstruct, embed) -> None:
        error = (reconstruct(self.x * ~self.mask) - self.x) ** 2
        self.adata.obsm["X_ssl"] = embed()
        score = scssl.tl.knn_score(self.adata, "cell_type", use_rep="X_ssl", n_permutations=1)
        loss = float(error[self.mask].mean())
        self.log.append((self.clock, loss, float(score["macro_f1"].iloc[0])))

    def reached(self, loss: float, score: float) -> tuple[float, int]:
        for epoch, (seconds, found_loss, found_score) in enumerate(self.log, 1):
            if found_loss <= loss and found_score >= score:
                return seconds, epoch
        return float("nan"), -1


def run_dense(adata, seed: int, rows, held_out, hidden) -> Measure:
    measure, x = Measure(adata, held_out), lognorm(adata.X)
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    measure.start()
    net = DenseAutoencoder(adata.n_vars, hidden)
    optimizer = torch.optim.AdamW(net.parameters(), lr=LR, weight_decay=DECAY, fused=True)
    everything = lambda: np.concatenate(
        [
            net.encoder(torch.from_numpy(x[i : i + 512].toarray())).numpy()
            for i in range(0, len(adata), 512)
        ]
    )
    for _ in range(EPOCHS):
        order = rng.permutation(rows)
        for i in range(0, len(order) - BATCH + 1, BATCH):
            dense_step(net, optimizer, torch.from_numpy(x[order[i : i + BATCH]].toarray()))
        measure.stop()
        net.eval()
        measure.record(lambda v: net.decoder(net.encoder(v)), everything)
        net.train()
        measure.start()
    return measure


class _Clock(Callback):
    """Stops the clock while an arm is measured, and for validation, which the dense loop has not."""

    def __init__(self, measure: Measure, model) -> None:
        self.measure, self.model = measure, model

    def on_validation_start(self, trainer, pl_module) -> None:
        self.measure.stop()

    def on_validation_end(self, trainer, pl_module) -> None:
        self.measure.start()

    def on_train_epoch_end(self, trainer, pl_module) -> None:
        self.measure.stop()
        module = self.model.module

        def reconstruct(v):
            # A model that divides by the visible share in training expects that here as well.
            batch = {"X": v * 2 if module.mask_signal == "rescale" else v}
            return module.generative(batch, module.embed(batch))["x_hat"]

        trained, self.model.is_trained_ = self.model.is_trained_, True
        module.eval()
        self.measure.record(reconstruct, self.model.get_latent_representation)
        module.train()
        self.model.is_trained_ = trained
        self.measure.start()


def run_scssl(adata, seed: int, hidden, n_output_genes, signal) -> Measure:
    model_class = scssl.model.MaskedAutoencoder
    model_class.setup_anndata(adata, input="counts")
    model = model_class(adata, hidden_dims=hidden, mask_signal=signal, rng=seed)
    measure = Measure(adata, split(adata, seed)[1])
    measure.start()
    model.train(
        EPOCHS,
        batch_size=BATCH,
        lr=LR,
        weight_decay=DECAY,
        n_output_genes=n_output_genes,
        early_stopping=False,
        rng=seed,
        progress=False,
        callbacks=[_Clock(measure, model)],
    )
    return measure


def split(adata, seed: int):
    """The split that ``train(rng=seed)`` makes."""
    from scssl._random import derive_seed

    return train_validation_split(adata.n_obs, seed=derive_seed(seed, "split"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", nargs="+", default=["pbmc3k", "mouse_bladder"])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--arms", choices=list(ARMS), default="published")
    args = parser.parse_args()
    logging.getLogger("scssl").setLevel("WARNING")
    warnings.filterwarnings("ignore", module="anndata")
    print(machine(), flush=True)
    summary = []
    for name in args.data:
        adata = anndata.read_h5ad(data_dir() / f"{name}.h5ad")
        hidden = SIZES["small" if args.arms == "default" else "large"]
        ratios: dict[str, list[float]] = {}
        rows = []
        for seed in range(args.seeds):
            train_rows, held_out = split(adata, seed)
            dense = run_dense(adata, seed, train_rows, held_out, hidden)
            total, loss, score = dense.log[-1]
            base, base_epoch = dense.reached(loss, score)
            row = {
                "data": name,
                "seed": seed,
                "target loss": f"{loss:.4f}",
                "target F1": f"{score:.3f}",
                "dense": f"{base:.1f} s ({base_epoch} ep; 30 ep {total:.1f} s)",
            }
            for arm, n_output, signal in ARMS[args.arms]:
                found = run_scssl(adata, seed, hidden, n_output, signal)
                seconds, epoch = found.reached(loss, score)
                ratios.setdefault(arm, []).append(base / seconds)
                end = found.log[-1]
                row[arm] = (
                    f"{seconds:.1f} s ({epoch} ep), {base / seconds:.1f}x; 30 ep {end[0]:.1f} s, "
                    f"{end[1]:.4f}, {end[2]:.3f}"
                )
            rows.append(row)
            print(table(rows[-1:]), flush=True)
        print(table(rows))
        for arm, values in ratios.items():
            summary.append(
                {
                    "data": name,
                    "genes": adata.n_vars,
                    "arm": arm,
                    "median time ratio": f"{np.median(values):.1f}x",
                    "min - max": f"{np.min(values):.1f} - {np.max(values):.1f}",
                }
            )
    print(machine())
    print(table(summary))


if __name__ == "__main__":
    main()
