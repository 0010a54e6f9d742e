"""What a GPU does with the package: is it right, what waits for it, and how many cells a second; at most 8 minutes.

``python benchmarks/gpu.py`` prints three tables in Markdown. For each family: whether embeddings are those of the
CPU and the same for any size of batch; the lines of a step at which the CPU waits for the GPU, as
``torch.cuda.set_sync_debug_mode`` tells them; cells per second of training and of embedding, with the reading, beside
a dense autoencoder written in plain PyTorch and SCVI of scvi-tools. ``--device cpu`` tries the script without a GPU.
"""

from __future__ import annotations

import argparse
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from _common import (
    SIZES,
    DenseAutoencoder,
    dense_step,
    lognorm,
    machine,
    synthetic_counts,
    table,
    to_anndata,
)
from lightning.pytorch.callbacks import Callback

import scssl

Job = Callable[[], dict[str, object]]

FAMILIES = ("MaskedAutoencoder", "SimCLR", "BarlowTwins", "PseudoLabel", "CellPLM")
DENSITY = {2000: 0.10, 20_000: 0.06}
# Steps until memory is allocated and kernels are chosen.
WARM_UP = 5


class Enough(Exception):
    """Training has been watched for long enough."""


class Watch(Callback):
    """Cells per second of training after the first steps, or the lines of one step that wait for the device."""

    def __init__(self, device: str, seconds: float, *, waits: bool = False) -> None:
        self.device, self.seconds, self.waits = device, seconds, waits
        self.n, self.cells, self.losses, self.lines = 0, 0, [], set[str]()

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, i: int) -> None:
        if self.waits and self.n == WARM_UP:
            self.recorded = warnings.catch_warnings(record=True)
            self.found = self.recorded.__enter__()
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")

    def on_train_batch_end(
        self, trainer: Any, module: Any, outputs: Any, batch: Any, i: int
    ) -> None:
        if self.waits and self.n == WARM_UP:
            torch.cuda.set_sync_debug_mode("default")
            self.recorded.__exit__(None, None, None)
            told = [one for one in self.found if "synchroniz" in str(one.message)]
            self.lines = {f"{one.filename.rpartition('/')[2]}:{one.lineno}" for one in told}
            raise Enough
        self.n += 1
        self.losses.append(outputs["loss"].detach() if isinstance(outputs, dict) else outputs)
        if self.n == WARM_UP:
            settle(self.device)
            self.started = time.perf_counter()
        elif self.n > WARM_UP:
            # Of SCVI a batch is a dict too.
            self.cells += len(
                batch["X"] if isinstance(batch["X"], torch.Tensor) else batch["indices"]
            )
            if time.perf_counter() - self.started > self.seconds:
                settle(self.device)
                self.rate = self.cells / (time.perf_counter() - self.started)
                raise Enough


def settle(device: str) -> None:
    """Wait until the device has done all that it was told."""
    if device == "cuda":
        torch.cuda.synchronize()


def until_enough(train: Callable[[Callback], Any], watch: Watch) -> Watch:
    """Train until the watch has seen enough."""
    try:
        while True:
            train(watch)
    except Enough:
        return watch


class Bench:
    """All that is measured on one device."""

    def __init__(self, given: argparse.Namespace) -> None:
        self.given, self.device = given, given.device
        self.accelerator = "gpu" if given.device == "cuda" else given.device

    def data(self, genes: int) -> Any:
        """Counts, in memory."""
        counts = synthetic_counts(self.given.cells, genes, DENSITY.get(genes, 0.1))
        adata = to_anndata(counts)
        adata.obs["batch"] = np.arange(adata.n_obs) % 2
        adata.obs["batch"] = adata.obs["batch"].astype(str).astype("category")
        return adata

    def model(self, name: str, adata: Any) -> Any:
        """A model of a family, as its defaults are."""
        cls = scssl.model.get_model_class(name)
        cls.setup_anndata(adata, input="counts")
        return cls(adata)

    def train(self, model: Any, watch: Watch, precision: str | None = None) -> Watch:
        """Train it for a while."""

        def once(callback: Callback) -> None:
            model.train(
                max_epochs=1000,
                batch_size=self.given.batch,
                early_stopping=False,
                train_size=1.0,
                accelerator=self.accelerator,
                precision=precision,
                progress=False,
                callbacks=(callback,),
            )

        return until_enough(once, watch)

    # --- what is printed -----------------------------------------------------------------------

    def contract(self, name: str, adata: Any) -> dict[str, object]:
        """Embeddings of one set of weights, here and on the CPU, and losses of some steps."""
        model = self.model(name, adata)
        model.is_trained_ = True
        rows = np.arange(min(600, adata.n_obs))
        expected = model.get_latent_representation(indices=rows)
        model.module.to(self.device)
        here = [model.get_latent_representation(indices=rows, batch_size=n) for n in (7, 64, 2048)]
        apart = float(np.abs(here[0] - expected).max() / np.abs(expected).max())
        watch = self.train(self.model(name, adata), Watch(self.device, self.given.seconds / 3))
        losses = torch.stack([one.float().cpu() for one in watch.losses]).numpy()
        return {
            "model": name,
            "largest difference to the CPU": f"{apart:.1e}",
            "same bits at any batch size": all((one == here[0]).all() for one in here),
            "losses finite": bool(np.isfinite(losses).all()),
            "loss of the first and last steps": f"{losses[:3].mean():.4g}, {losses[-3:].mean():.4g}",
            "lines of a step that wait": self.waits(name, adata),
        }

    def waits(self, name: str, adata: Any) -> str:
        """Lines at which a step waits for a GPU of NVIDIA."""
        if self.device != "cuda":
            return "not told on this device"
        watch = self.train(self.model(name, adata), Watch(self.device, 0, waits=True))
        return ", ".join(sorted(watch.lines)) or "none"

    def speed(self, name: str, adata: Any, precision: str | None) -> dict[str, object]:
        """Cells per second of one family."""
        model = self.model(name, adata)
        trained = self.train(model, Watch(self.device, self.given.seconds), precision).rate
        model.is_trained_ = True
        model.module.to(self.device)
        model.get_latent_representation(indices=np.arange(min(4096, adata.n_obs)))
        started = time.perf_counter()
        model.get_latent_representation()
        embedded = adata.n_obs / (time.perf_counter() - started)
        return self.row(name, adata, precision or "float32", trained, embedded)

    def dense(self, adata: Any, precision: str | None) -> dict[str, object]:
        """The dense autoencoder, with whole batches from the same matrix."""
        x, batch = lognorm(adata.X), self.given.batch
        net = DenseAutoencoder(x.shape[1], SIZES["small" if x.shape[1] <= 5000 else "large"])
        net.to(self.device)
        optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3, fused=self.device == "cuda")
        rng = np.random.default_rng(0)

        def next_batch() -> torch.Tensor:
            rows = rng.choice(x.shape[0], batch, replace=False)
            return torch.from_numpy(x[rows].toarray()).to(self.device)

        def measured(step: Callable[[], Any]) -> float:
            for _ in range(WARM_UP):
                step()
            settle(self.device)
            n, started = 0, time.perf_counter()
            while time.perf_counter() - started < self.given.seconds:
                step()
                n += batch
            settle(self.device)
            return n / (time.perf_counter() - started)

        kind = torch.bfloat16 if precision else torch.float32
        with torch.autocast(self.device, kind, enabled=precision is not None):
            trained = measured(lambda: dense_step(net, optimizer, next_batch()))
            with torch.inference_mode():
                embedded = measured(lambda: net.encoder(next_batch()).float().cpu())
        return self.row("dense loop", adata, precision or "float32", trained, embedded)

    def scvi(self, adata: Any) -> dict[str, object]:
        """SCVI of scvi-tools, as its defaults are but for the size of batches."""
        import scvi

        scvi.model.SCVI.setup_anndata(adata)
        model = scvi.model.SCVI(adata)
        watch = Watch(self.device, self.given.seconds)
        until_enough(
            lambda callback: model.train(
                max_epochs=1000,
                batch_size=self.given.batch,
                accelerator=self.accelerator,
                devices=1,
                train_size=1.0,
                enable_progress_bar=False,
                callbacks=[callback],
            ),
            watch,
        )
        model.is_trained_ = True
        model.to_device(self.device)
        started = time.perf_counter()
        model.get_latent_representation(batch_size=2048)
        embedded = adata.n_obs / (time.perf_counter() - started)
        return self.row("scvi-tools SCVI", adata, "float32", watch.rate, embedded)

    @staticmethod
    def row(
        name: str, adata: Any, precision: str, trained: float, embedded: float
    ) -> dict[str, object]:
        """One of the table of speeds."""
        return {
            "genes": f"{adata.n_vars:,}",
            "model": name,
            "precision": precision,
            "training, cells/s": f"{trained:,.0f}",
            "embedding, cells/s": f"{embedded:,.0f}",
        }


def main(words: Sequence[str] | None = None) -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--device", default="cuda", help="cuda, mps or cpu")
    parser.add_argument("--genes", type=int, nargs="+", default=[2000, 20_000])
    parser.add_argument("--cells", type=int, default=10_000)
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--seconds", type=float, default=5, help="of each measurement")
    parser.add_argument(
        "--minutes", type=float, default=8, help="after which nothing more is begun"
    )
    parser.add_argument("--families", nargs="+", default=list(FAMILIES))
    given = parser.parse_args(words)
    warnings.simplefilter("ignore")
    bench, ends = Bench(given), time.monotonic() + 60 * given.minutes
    name = torch.cuda.get_device_name() if given.device == "cuda" else given.device
    print(f"{name}; {machine()}; {given.cells:,} cells, batches of {given.batch:,}\n")
    for genes in given.genes:
        adata = bench.data(genes)
        if genes == given.genes[0]:
            attempt([(f, partial(bench.contract, f, adata)) for f in given.families], ends)
        jobs: list[tuple[str, Job]] = [("SCVI", partial(bench.scvi, adata.copy()))]
        for precision in (None, "bf16-mixed"):
            jobs.append(("dense loop", partial(bench.dense, adata, precision)))
            jobs += [(f, partial(bench.speed, f, adata, precision)) for f in given.families]
        attempt(jobs, ends)


def attempt(jobs: Sequence[tuple[str, Job]], ends: float) -> None:
    """Do what there is time for; what fails is told and does not end the others."""
    rows: list[dict[str, object]] = []
    for name, job in jobs:
        if time.monotonic() > ends:
            print(f"No time was left for {name}.")
            continue
        try:
            rows.append(job())
        except Exception:  # noqa: BLE001 - the other models are of interest all the same
            print(f"{name} failed:\n{traceback.format_exc(limit=-4)}")
    if rows:
        print(table(rows), flush=True)
        print()


if __name__ == "__main__":
    main()
