"""A store of many cells: to build it, to read it, to train on it, to embed it, and to kill all of that.

``python benchmarks/atlas.py --cells 100000 --genes 2000`` prints a table. Counts are generated, sorted by donor
and type as atlases are, into an .h5ad file. Every part runs in a process of its own, whose peak of memory is
above that of its imports; cells per second are of CPU time, of all threads, median of ``--repeats`` runs in turn.
Data and stores stay in ``--folder``. Needs the extra ``atlas``.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata
import h5py
import numpy as np
import pandas as pd
from _common import synthetic_counts
from scipy import sparse

N_TYPES, N_DONORS, BATCH = 20, 10, 1024
SIZE: dict[str, Any] = {"hidden_dims": (512, 512, 256, 256), "n_latent": 64}


def means_of(path: Path, n_genes: int) -> np.ndarray:
    """Means of the genes of a file, at as many quantiles as there are to be genes."""
    means = np.asarray(anndata.read_h5ad(path).X.mean(0)).ravel()
    return np.quantile(means[means > 0], np.linspace(0, 1, n_genes))


def generate(path: Path, n_cells: int, n_genes: int, density: float, like: Path | None) -> None:
    """Counts of cells like some of their type, in blocks, sorted by donor and type."""
    rng = np.random.default_rng(0)
    means = None if like is None else means_of(like, n_genes)
    some = synthetic_counts(500 * N_TYPES, n_genes, density, means=means)
    group = np.sort(rng.integers(0, N_DONORS * N_TYPES, n_cells))
    donor, kind = np.divmod(group, N_TYPES)
    obs = pd.DataFrame(
        {
            "cell_type": pd.Categorical.from_codes(kind, [f"type {i}" for i in range(N_TYPES)]),
            "donor": pd.Categorical.from_codes(donor, [f"donor {i}" for i in range(N_DONORS)]),
        },
        index=[f"cell{i}" for i in range(n_cells)],
    )
    var = pd.DataFrame(index=[f"GENE{i}" for i in range(n_genes)])
    empty = sparse.csr_matrix((n_cells, n_genes), dtype=np.float32)
    anndata.AnnData(empty, obs=obs, var=var).write_h5ad(path)
    with h5py.File(path, "r+") as file:
        group, ends = file["X"], [np.zeros(1, dtype=np.int64)]
        for name in ("data", "indices", "indptr"):
            del group[name]
        sizes = {"chunks": (2**17,), "maxshape": (None,)}
        data = group.create_dataset("data", (0,), np.float32, **sizes)
        indices = group.create_dataset("indices", (0,), np.int32, **sizes)
        for start in range(0, n_cells, 10_000):
            kinds = kind[start : start + 10_000]
            block = some[kinds * 500 + rng.integers(0, 500, len(kinds))]
            block.data = rng.poisson(block.data).astype(np.float32)
            block.eliminate_zeros()
            n = len(data)
            for stored, values in ((data, block.data), (indices, block.indices)):
                stored.resize((n + block.nnz,))
                stored[n:] = values
            ends.append(n + block.indptr[1:].astype(np.int64))
        group["indptr"] = np.concatenate(ends)


class Measured:
    """CPU time, and memory above what was taken before."""

    def __enter__(self) -> Measured:
        self.before, self.peak, self.done = _rss(), 0.0, False
        self.cpu, self.wall = time.process_time(), time.perf_counter()
        self.watch = threading.Thread(target=self._watch, daemon=True)
        self.watch.start()
        return self

    def _watch(self) -> None:
        while not self.done:
            self.peak = max(self.peak, _rss())
            time.sleep(0.02)

    def __exit__(self, *_: object) -> None:
        self.cpu, self.wall = time.process_time() - self.cpu, time.perf_counter() - self.wall
        self.done = True

    def of(self, n_cells: int) -> dict[str, float]:
        return {
            "cells/s of CPU": n_cells / self.cpu,
            "cells/s": n_cells / self.wall,
            "extra MB": self.peak - self.before,
            "peak MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        }


def _rss() -> float:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096 / 2**20


# --- the parts, each in a process of its own -----------------------------------------------------


def build(cells: Path, store: Path) -> dict[str, float]:
    from scssl.data import build_store

    shutil.rmtree(store, ignore_errors=True)
    with Measured() as measured:
        made = build_store(cells, store, obs_keys=["cell_type", "donor"])
    return measured.of(made.n_cells)


def _some_batches(batches: Any, size: Callable[[Any], int], most: int = 60_000) -> dict[str, float]:
    n = 0
    with Measured() as measured:
        for batch in batches:
            n += size(batch)
            if n >= most:
                break
    return measured.of(n)


def _batches_of(store: Path, kind: Any) -> dict[str, float]:
    from scssl.data import CellLoader, ChunkPlan, Store

    found = Store(store)
    # Shards are opened when a cell of them is asked for, and those of annbatch before it starts.
    found.rows.read(found.shards[:, 0])
    loader = CellLoader(found.rows, ChunkPlan(found.n_cells, BATCH), input_kind=kind)
    return _some_batches(loader, lambda batch: len(batch["indices"]))


def load_raw(cells: Path, store: Path) -> dict[str, float]:
    # Values that are logarithms already are left as they are.
    return _batches_of(store, "lognorm")


def load_store(cells: Path, store: Path) -> dict[str, float]:
    return _batches_of(store, "counts")


def _annbatch(store: Path) -> Any:
    import annbatch
    import zarr
    from anndata.io import sparse_dataset

    zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"})
    collection = annbatch.DatasetCollection(store / "cells.zarr", mode="r")
    return annbatch.Loader(
        chunk_size=256,
        preload_nchunks=32,
        batch_size=BATCH,
        shuffle=True,
        preload_to_gpu=False,
        rng=np.random.default_rng(0),
    ).add_datasets([sparse_dataset(group["X"]) for group in collection])


def load_annbatch_raw(cells: Path, store: Path) -> dict[str, float]:
    return _some_batches(_annbatch(store), lambda batch: batch["X"].shape[0])


def load_annbatch(cells: Path, store: Path) -> dict[str, float]:
    from scssl.data import normalize_rows

    # It gives counts as they are stored; a step needs them normalised.
    normalised = (
        normalize_rows(batch["X"].astype(np.float32), input_kind="counts")
        for batch in _annbatch(store)
    )
    return _some_batches(normalised, lambda batch: batch[0].shape[0])


def load_h5ad(cells: Path, store: Path) -> dict[str, float]:
    from scssl.data import CellLoader, ShuffledPlan, open_rows

    rows = open_rows(anndata.read_h5ad(cells, backed="r").X)
    loader = CellLoader(rows, ShuffledPlan(rows.shape[0], BATCH), input_kind="counts")
    return _some_batches(loader, lambda batch: len(batch["indices"]))


def _model(data: Any) -> Any:
    import scssl

    made = scssl.model.MaskedAutoencoder
    made.setup_store(data) if hasattr(data, "shards") else made.setup_anndata(data, input="counts")
    return made(data, **SIZE)


def _trained(data: Any, steps: int = 40) -> dict[str, float]:
    from lightning.pytorch.callbacks import Callback

    class Stop(Callback):
        n, loss = 0, 0.0

        def on_train_batch_end(
            self, trainer: Any, module: Any, outputs: Any, batch: Any, i: int
        ) -> None:
            if i == 1:
                self.measured = Measured().__enter__()
            elif i > 1:
                self.n += len(batch["indices"])
            self.loss += float(outputs["loss"])
            if i > steps:
                self.measured.__exit__()
                raise _Enough

    stop, model = Stop(), _model(data)
    given = {"max_epochs": 1, "batch_size": BATCH, "accelerator": "cpu", "progress": False}
    try:
        model.train(**given, callbacks=(stop,))
    except _Enough:
        return stop.measured.of(stop.n) | {"sum of losses": stop.loss}
    raise SystemExit("Too few cells for as many steps.")


class _Enough(Exception):
    pass


def train_store(cells: Path, store: Path) -> dict[str, float]:
    from scssl.data import Store

    return _trained(Store(store))


def train_memory(cells: Path, store: Path) -> dict[str, float]:
    """The same cells in the same order."""
    from scssl.data import Store, open_rows

    found = Store(store)
    found.__dict__["rows"] = open_rows(found.rows.read(np.arange(found.n_cells)))
    return _trained(found)


def embed(cells: Path, store: Path) -> dict[str, float]:
    from scssl.data import Store

    found = Store(store)
    model = _model(found)
    model.is_trained_ = True
    with tempfile.TemporaryDirectory() as folder, Measured() as measured:
        model.embed_store(found, folder)
    adata = anndata.read_h5ad(cells, backed="r")
    with Measured() as few:
        model.get_latent_representation(adata, indices=np.arange(100))
    with Measured() as few_of_store:
        model.get_latent_representation(found, indices=np.arange(100))
    return measured.of(found.n_cells) | {
        "s for 100 cells of the h5ad": few.wall,
        "s for 100 cells of the store": few_of_store.wall,
    }


def mixing(cells: Path, store: Path) -> dict[str, float]:
    """Chi-square per degree of freedom of batches, by type and donor."""
    from scssl.data import ChunkPlan, ShuffledPlan, Store

    found = Store(store)
    kinds = found.column("cell_type").astype(int) * N_DONORS + found.column("donor")
    given = anndata.read_h5ad(cells, backed="r").obs
    sorted_kinds = given["cell_type"].cat.codes.to_numpy().astype(int) * N_DONORS
    sorted_kinds += given["donor"].cat.codes.to_numpy()
    plans = {
        "batches of the store": (ChunkPlan(found.n_cells, BATCH), kinds),
        "truly random": (ShuffledPlan(found.n_cells, BATCH), kinds),
        "runs of the sorted file": (ChunkPlan(found.n_cells, BATCH), sorted_kinds),
    }
    return {name: _chi_square(plan, codes) for name, (plan, codes) in plans.items()}


def _chi_square(plan: Any, codes: np.ndarray, most: int = 300) -> float:
    n = N_TYPES * N_DONORS
    share = np.bincount(codes, minlength=n) / len(codes)
    found = []
    for (rows, _), _ in zip(plan.batches(0), range(most), strict=False):
        expected = share * len(rows)
        apart = (np.bincount(codes[rows], minlength=n) - expected) ** 2
        there = expected > 0
        found.append((apart[there] / expected[there]).sum() / (there.sum() - 1))
    return float(np.mean(found))


def kills(cells: Path, store: Path, n: int) -> dict[str, float]:
    """Kill a build, a training and an embedding `n` times at random: is the end the same to the bit?"""
    import scssl
    from scssl.data import Store, build_store, read_embedding

    with tempfile.TemporaryDirectory(dir=store.parent) as name:
        folder = Path(name)
        given = {"obs_keys": ["cell_type", "donor"], "memory": "64MB"}

        def train(place: Path, data: Any) -> None:
            model = _model(data)
            more = {"max_epochs": 3, "early_stopping": False, "progress": False}
            run, started = place / "run", any(place.glob("run/*"))
            where = {"resume_from": run} if started else {"checkpoint_dir": run}
            model.train(**more, batch_size=BATCH, accelerator="cpu", **where)
            model.save(place / "model")

        def embed(place: Path, data: Any) -> None:
            scssl.model.MaskedAutoencoder.load(folder / "trained" / "model").embed_store(
                data, place
            )

        def rebuilt(place: Path, data: Any) -> None:
            build_store(cells, place, **given)

        whole: Any = None
        found: dict[str, float] = {}
        rng = np.random.default_rng(0)
        jobs = {
            "build": (rebuilt, "built"),
            "train": (train, "trained"),
            "embed": (embed, "embedded"),
        }
        for what, (job, called) in jobs.items():
            started = time.perf_counter()
            job(folder / called, whole)
            seconds = time.perf_counter() - started
            whole = Store(folder / "built") if whole is None else whole
            again, killed, ended = folder / f"{called} again", 0, 0

            def is_same(again: Path = again, one: Path = folder / called, what: str = what) -> bool:
                if what == "build":
                    return _digests(again) == _digests(one)
                if what == "train":
                    return len({_hash(place / "model") for place in (again, one)}) == 1
                z = [read_embedding(place).obsm["X_ssl"] for place in (again, one)]
                return bool((z[0] == z[1]).all())

            same = True
            while killed < n:
                if _killed(job, again, whole, float(rng.uniform(0, seconds))):
                    killed += 1
                else:
                    ended, same = ended + 1, same and is_same()
                    shutil.rmtree(again)
            if not again.exists() or what != "build":
                job(again, whole)
            found[f"kills of {what}"], found[f"ends of {what}"] = killed, ended + 1
            found[f"same bits of {what}"] = float(same and is_same())
    return found


def _hash(folder: Path) -> str:
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def _killed(job: Callable[..., None], place: Path, data: Any, seconds: float) -> bool:
    """Whether a job, in a process of its own, was killed after so many seconds."""
    child = os.fork()  # What it needs is imported here already; Linux.
    if not child:
        code = 1
        try:
            job(place, data)
            code = 0
        finally:
            os._exit(code)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            if status:
                raise SystemExit("The job failed.")
            return False
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    return os.waitpid(child, 0)[1] == signal.SIGKILL


def _digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and "building" not in path.parts
    }


PARTS: dict[str, Callable[..., dict[str, float]]] = {
    one.__name__: one
    for one in (
        build,
        load_raw,
        load_annbatch_raw,
        load_store,
        load_annbatch,
        load_h5ad,
        train_store,
        train_memory,
        embed,
    )
} | {"mixing": mixing, "kills": kills}
# Not compared with another part, so run once.
ONCE = {"build", "embed", "mixing", "kills"}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--cells", type=int, default=100_000)
    parser.add_argument("--genes", type=int, default=2000)
    parser.add_argument("--density", type=float, default=0.1)
    parser.add_argument(
        "--like", type=Path, help="an .h5ad file of counts; gene means are as in it"
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "scssl_atlas")
    parser.add_argument("--parts", nargs="*", choices=PARTS, default=[*PARTS])
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    name = f"{given.cells}x{given.genes}"
    cells, store = given.folder / f"{name}.h5ad", given.folder / name
    if given.part is not None:
        warnings.simplefilter("ignore")
        more = {"n": given.kills} if given.part == "kills" else {}
        print("\n" + json.dumps(PARTS[given.part](cells, store, **more)))
        return
    given.folder.mkdir(parents=True, exist_ok=True)
    if not cells.exists():
        generate(cells, given.cells, given.genes, given.density, given.like)
    found: dict[str, list[dict[str, float]]] = {}
    for repeat in range(given.repeats):
        for part in given.parts:
            if (repeat and part in ONCE) or (part == "kills" and not given.kills):
                continue
            words = [sys.executable, __file__, "--part", part, *sys.argv[1:]]
            done = subprocess.run(words, capture_output=True, text=True, check=False)
            if done.returncode:
                sys.exit(f"{part} failed:\n{done.stderr[-2000:]}")
            found.setdefault(part, []).append(json.loads(done.stdout.splitlines()[-1]))
            print(part, found[part][-1], flush=True)
    rows = {part: pd.DataFrame(runs).median() for part, runs in found.items()}
    print(f"\n{given.cells:,} cells × {given.genes:,} genes, {os.cpu_count()} cores")
    for part, values in rows.items():
        print(f"{part:14s} " + ", ".join(f"{name} {value:,.4g}" for name, value in values.items()))
    for one, other in (
        ("load_raw", "load_annbatch_raw"),
        ("load_store", "load_annbatch"),
        ("load_store", "load_h5ad"),
        ("train_store", "train_memory"),
    ):
        if one in rows and other in rows:
            ratio = rows[one]["cells/s of CPU"] / rows[other]["cells/s of CPU"]
            print(f"{one} / {other}: {ratio:.2f} in cells/s of CPU")


if __name__ == "__main__":
    main()
