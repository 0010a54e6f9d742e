"""Train small models in one process and in several: ``python processes.py FOLDER CASE:N ...``.

Everything is imported once, and each process is a fork that takes itself for one that torchrun, or of four srun, has
started.
"""

from __future__ import annotations

import os
import socket
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import scssl
from scssl.augment import (
    BinomialThinning,
    Compose,
    CrossOver,
    Dropout,
    GaussianNoise,
    GeneProgramMask,
    GenePrograms,
    GeneSwap,
    GPToGPMask,
    GPToTFMask,
    Mask,
    MutualNeighborMix,
    NegativeBinomialNoise,
    NeighborMix,
    PanelMask,
    PoissonResample,
    RandomApply,
)

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.model.conftest import SETUP, arguments_of, make_counts, make_proteins

# 110 cells to learn from: batches of 37, 37 and 36, of all processes.
N_CELLS, BATCH = 122, 48
#: What a run is of: model, and its arguments; methods of a mask or a view are those of `n_genes`.
PROGRAMS = GenePrograms(
    ["a", "b", "c"], [[0, 1, 2, 9], [9, 20, 21], [40, 41, 50]], 60, targets=[0, 20, 41]
)
Case = Callable[[], tuple[Any, dict[str, Any]]]


def plain(name: str, adata: Any = None, **arguments: Any) -> Case:
    def build() -> tuple[Any, dict[str, Any]]:
        data = make_counts(N_CELLS) if adata is None else adata()
        data.obsm["protein"] = make_proteins(data)
        kind = scssl.model.get_model_class(name)
        setup = {"batch_key": "batch"} if name != "PseudoLabel" else {"dataset_key": "batch"}
        kind.setup_anndata(data, **{**SETUP.get(name, {}), **setup})
        small = arguments_of(kind, dropout=0.1, **arguments)
        return kind(data, **{**small, **arguments}), {}

    return build


def masked(masking: Any, **arguments: Any) -> Case:
    return plain("MaskedAutoencoder", masking=masking, **arguments)


def viewed(*steps: Any, name: str = "SimCLR", adata: Any = None) -> Case:
    return plain(name, adata, augmentation=Compose(list(steps)))


def with_graphs() -> Any:
    adata = make_counts(N_CELLS)
    scssl.pp.cross_batch_neighbors(adata, "batch", method="mnn")
    scssl.pp.cross_batch_neighbors(adata, "batch")
    return adata


def multimodal(fusion: str) -> Case:
    def build() -> tuple[Any, dict[str, Any]]:
        import anndata
        import mudata

        rna = make_counts(N_CELLS)
        protein = anndata.AnnData(make_proteins(rna).astype(np.float32))
        # Of few cells, so that there are processes without any in a batch.
        mdata = mudata.MuData({"rna": rna[:-20].copy(), "prot": protein[N_CELLS - 32 :].copy()})
        kind = scssl.model.VICReg
        kind.setup_mudata(mdata)
        return kind(mdata, fusion=fusion, **arguments_of(kind, dropout=0.1)), {}

    return build


def finetuned(name: str, adata: Any = None, **arguments: Any) -> Case:
    def build() -> tuple[Any, dict[str, Any]]:
        model, _ = plain(name, adata, head="mlp", **arguments)()
        return model, {"lr": 1e-3}

    return build


def trained_with(case: Case, **train: Any) -> Case:
    def build() -> tuple[Any, dict[str, Any]]:
        model, more = case()
        return model, {**more, **train}

    return build


def from_store() -> tuple[Any, dict[str, Any]]:
    folder = Path(tempfile.mkdtemp())
    make_counts(1200).write_h5ad(folder / "cells.h5ad")
    store = scssl.data.build_store([folder / "cells.h5ad"], folder / "store", memory="0.2GB")
    kind = scssl.model.MaskedAutoencoder
    kind.setup_store(store)
    return kind(store, **arguments_of(kind, dropout=0.1)), {"batch_size": 90, "max_epochs": 1}


EVERY = [*scssl.model.list_models()]
CASES: dict[str, Case] = {
    **{name: plain(name) for name in EVERY},
    "last batch of one cell": trained_with(
        plain("MaskedAutoencoder", lambda: make_counts(14)), batch_size=4
    ),
    "indicator": masked("random", mask_signal="indicator"),
    "panels": masked(PanelMask(PROGRAMS)),
    "programs": masked(GeneProgramMask(PROGRAMS, 0.5)),
    "programs of a batch": masked(GeneProgramMask(PROGRAMS, 0.5, per="batch")),
    "gp to gp": masked(GPToGPMask(PROGRAMS, hide_fraction=0.5)),
    "gp to tf": masked(GPToTFMask(PROGRAMS)),
    "zinb, some genes": trained_with(masked("random", loss="zinb"), n_output_genes=20),
    "clear": viewed(Mask(0.2), GaussianNoise(0.8, 0.2), GeneSwap(0.1), CrossOver(0.25)),
    "sparse views": viewed(
        GeneSwap(0.3),
        CrossOver(0.25, within="batch"),
        Dropout(),
        GaussianNoise(0.8, 0.2, on="expressed"),
        RandomApply(Mask(0.3)),
    ),
    "counts": viewed(
        PoissonResample(), NegativeBinomialNoise(), BinomialThinning(), Mask(0.3, rescale=True)
    ),
    "neighbors": viewed(
        MutualNeighborMix(mix=("int", "geo", "exc")),
        NeighborMix(mix=("exc", "int")),
        Mask(0.2),
        adata=with_graphs,
    ),  # fmt: skip
    "store": from_store,
    "clip": multimodal("clip"),
    "concat": multimodal("concat"),
    "supcon": finetuned("CellTypeClassifier", loss="supcon", class_weight="balanced"),
    "batch norm": finetuned("CellTypeClassifier", backbone="SimCLR"),
    "clipped, cosine": trained_with(
        plain("MaskedAutoencoder"), gradient_clip=0.1, lr_schedule="cosine"
    ),
}


def run(case: str, n: int, folder: Path) -> None:
    """Train, and keep what is left, in a process of its own."""
    model, more = CASES[case]()
    batch_size = -(-more.pop("batch_size", BATCH) // n)
    model.train(
        **{"max_epochs": 3, "lr": 1e-2, "accelerator": "cpu", "progress": False, **more},
        batch_size=batch_size,
    )
    found = {f"module.{k}": v.numpy() for k, v in model.module.state_dict().items()}
    for name, values in model.history.items():
        if name != "cells_per_second":
            found[f"history.{name}"] = values.to_numpy()
    rank = os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0"))
    np.savez(folder / f"{case}-{n}-{rank}.npz", **found)


def by_torchrun(n: int, rank: int) -> dict[str, str]:
    """What a process of one machine is told."""
    own, size = str(rank), str(n)
    return {
        "TORCHELASTIC_RUN_ID": "tests", "RANK": own, "LOCAL_RANK": own, "WORLD_SIZE": size,
        "LOCAL_WORLD_SIZE": size,
    }  # fmt: skip


def by_srun(n: int, rank: int) -> dict[str, str]:
    """What a process of one of two machines is told, which are both this one."""
    node, local = divmod(rank, n // 2)
    told = {
        "STEP_NUM_TASKS": n, "NTASKS": n, "NTASKS_PER_NODE": n // 2, "NNODES": 2, "PROCID": rank,
        "LOCALID": local, "NODEID": node, "JOB_ID": 1,
    }  # fmt: skip
    return {f"SLURM_{name}": str(value) for name, value in told.items()}


def fork(case: str, n: int, rank: int, port: int, folder: Path) -> int:
    """Number of a process that trains."""
    pid = os.fork()
    if pid:
        return pid
    if n > 1:
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        os.environ |= by_torchrun(n, rank) if n == 2 else by_srun(n, rank)
    try:
        run(case, n, folder)
    except BaseException:  # noqa: BLE001 - told by a file
        (folder / f"{case}-{n}-{rank}.txt").write_text(traceback.format_exc())
        os._exit(1)
    os._exit(0)


def main(folder: Path, wanted: list[str]) -> None:
    warnings.simplefilter("ignore")
    for one in wanted:
        case, _, n = one.rpartition(":")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        pids = [fork(case, int(n), rank, port, folder) for rank in range(int(n))]
        for pid in pids:
            os.waitpid(pid, 0)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
