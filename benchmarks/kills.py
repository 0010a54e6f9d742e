"""Kill processes while they train, save and embed, and fill the disk: is anything lost?

``python benchmarks/kills.py --kills 100`` prints a table. Each process is forked from this one, which has
imported everything, and killed (SIGKILL) at a random moment of the time that the job takes. For a full
disk the size of files is limited instead, at ten points up to that of the largest. Afterwards either what
was there before or what was to be written must load, whole, and training must go on to the same bits.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import signal
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import anndata
import numpy as np
import torch

import scssl
from scssl.cli import main as command

Model = scssl.model.MaskedAutoencoder
SIZE = {"hidden_dims": (256, 64), "n_latent": 16}
TRAIN = {"batch_size": 64, "progress": False, "early_stopping": False, "max_epochs": 12}


def cells(seed: int) -> anndata.AnnData:
    """Counts of 400 cells; the seed is their mark."""
    counts = np.random.default_rng(seed).poisson(1.0, (400, 500)).astype("f4")
    adata = anndata.AnnData(counts, uns={"mark": seed})
    Model.setup_anndata(adata, input="counts")
    return adata


def forked(job: Callable[[], object], *, seconds: float | None = None, largest: int | None = None):
    """Whether a job was ended early, by SIGKILL after so many seconds or by files that grow too large."""
    child = os.fork()
    if not child:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)
        status = 1
        try:
            if largest is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))
            status = int(job() or 0)
        finally:
            os._exit(status)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    return os.waitpid(child, 0)[1] != 0


class Training:
    """``train(checkpoint_dir=)``, and going on with it."""

    largest = 4_000_000

    def __init__(self, folder: Path) -> None:
        self.folder, self.straight = folder / "run", self.model()
        self.straight.train(**TRAIN)

    def model(self):
        """A new one."""
        return Model(cells(0), **SIZE)

    def prepare(self) -> None:
        """Nothing is there before."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def job(self) -> None:
        """What is killed."""
        self.model().train(**TRAIN, checkpoint_dir=self.folder)

    def check(self) -> str:
        """The checkpoint, or none, leads to the same bits."""
        model, there = self.model(), self.folder
        try:
            model.train(**TRAIN, checkpoint_dir=there)
            found = "nothing yet"
        except ValueError:
            model.train(**TRAIN, resume_from=there)
            found = "a checkpoint"
        for name, value in self.straight.module.state_dict().items():
            assert torch.equal(value, model.module.state_dict()[name]), name
        return found


class Saving:
    """``save(overwrite=True)`` of another model, without data or with them."""

    largest = 2_000_000

    save_anndata = False

    def __init__(self, folder: Path) -> None:
        self.path = folder / "model"
        self.models = {
            name: Model(cells(i), **SIZE, rng=i) for i, name in enumerate(["old", "new"])
        }
        for model in self.models.values():
            model.is_trained_ = True

    def prepare(self) -> None:
        """A model is there before."""
        self.models["old"].save(self.path, overwrite=True, save_anndata=True)

    def job(self) -> None:
        """What is killed."""
        self.models["new"].save(self.path, overwrite=True, save_anndata=self.save_anndata)

    def check(self) -> str:
        """One of them is there, with its data."""
        loaded = Model.load(self.path)
        hashes = {model.encoder_hash: name for name, model in self.models.items()}
        found = hashes[loaded.encoder_hash]
        adata = anndata.read_h5ad(self.path / "adata.h5ad")
        assert adata.uns["mark"] == (found == "new" and self.save_anndata)
        return found


class SavingWithData(Saving):
    """The same with ``save_anndata=True``."""

    save_anndata = True


class TrainCommand:
    """``scssl train --overwrite``."""

    largest = 2_000_000

    def __init__(self, folder: Path) -> None:
        self.file, self.path = folder / "cells.h5ad", folder / "trained"
        cells(0).write_h5ad(self.file)
        self.hashes = {}
        for name, seed in (("old", 1), ("new", 0)):
            self.run(seed)
            self.hashes[Model.load(self.path).encoder_hash] = name
            if name == "old":
                shutil.copytree(self.path, folder / "trained before")

    def run(self, seed: int) -> int:
        """The command."""
        words = ["--hidden-dims", "256", "--n-latent", "16", "--max-epochs", "2", "--no-progress"]
        where = [str(self.file), "--out", str(self.path), "--overwrite"]
        return command(["train", *where, *words, "--rng", str(seed)])

    def prepare(self) -> None:
        """A model is there before."""
        shutil.rmtree(self.path)
        shutil.copytree(self.path.with_name("trained before"), self.path)

    def job(self) -> int:
        """What is killed."""
        return self.run(0)

    def check(self) -> str:
        """One of them is there."""
        return self.hashes[Model.load(self.path).encoder_hash]


class EmbedCommand:
    """``scssl embed --overwrite`` of a file onto itself."""

    largest = 2_000_000

    def __init__(self, folder: Path) -> None:
        self.source, self.file, self.model = (folder / name for name in ("a.h5ad", "b.h5ad", "m"))
        cells(0).write_h5ad(self.source)
        model = Model(cells(0), **SIZE)
        model.train(**{**TRAIN, "max_epochs": 1})
        model.save(self.model)

    def prepare(self) -> None:
        """The cells are there before."""
        shutil.copyfile(self.source, self.file)

    def job(self) -> int:
        """What is killed."""
        words = [str(self.file), "--model", str(self.model), "--out", str(self.file)]
        return command(["embed", *words, "--overwrite"])

    def check(self) -> str:
        """They are there still, with the embedding or without."""
        adata = anndata.read_h5ad(self.file)
        assert adata.shape == (400, 500)
        return "new" if "X_ssl" in adata.obsm else "old"


def main(n_kills: int) -> None:
    """Print what was found after each kind of end, and how often."""
    warnings.simplefilter("ignore", scssl.ScsslWarning)
    rng = np.random.default_rng(0)
    jobs = (Training, Saving, SavingWithData, TrainCommand, EmbedCommand)
    print("| job | end | ended early | found | stale files |\n|---|---|---|---|---|")
    for kind in jobs:
        with tempfile.TemporaryDirectory() as folder, scssl.settings.override(verbosity="error"):
            one = kind(Path(folder))
            one.prepare()
            start = time.perf_counter()
            assert not forked(one.job)
            takes = time.perf_counter() - start
            for end in ("SIGKILL", "disk full"):
                tried, early, found = 0, 0, {}
                while early < n_kills // len(jobs) if end == "SIGKILL" else tried < 10:
                    one.prepare()
                    if end == "SIGKILL":
                        early += forked(one.job, seconds=rng.uniform(0, takes))
                    else:
                        early += forked(one.job, largest=1 + tried * one.largest // 9)
                    tried, state = tried + 1, one.check()
                    found[state] = found.get(state, 0) + 1
                # The next to write cleans up.
                one.prepare()
                assert not forked(one.job)
                stale = sum(
                    ".saving-" in p.name or ".previous-" in p.name for p in Path(folder).rglob("*")
                )
                states = ", ".join(f"{n} {state}" for state, n in sorted(found.items()))
                print(
                    f"| {kind.__name__} | {end} | {early}/{tried} | {states} | {stale} |",
                    flush=True,
                )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    main(parser.parse_args().kills)
