"""Small data of users."""

from __future__ import annotations

import functools
import importlib.util
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd

import scssl

#: Hubs that were started for the cases, see `with_a_hub`.
ON_LOOPBACK: list[Any] = []


@functools.cache
def beside(name: str) -> Any:
    """A module of the other tests, which are no package."""
    path = Path(__file__).parents[1] / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"beside_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@contextmanager
def with_a_hub() -> Iterator[None]:
    """Have the client of the Hugging Face Hub talk to one on this machine."""
    with beside("hub/server").on_loopback(Path(folder())) as server:
        ON_LOOPBACK.append(server)
        yield
    ON_LOOPBACK.pop()


def cells(n_cells: int = 60, n_genes: int = 30, seed: int = 0) -> anndata.AnnData:
    """Counts of three types in two batches, with an embedding that tells the types apart."""
    rng = np.random.default_rng(seed)
    kind = np.arange(n_cells) % 3
    rate = np.where(np.arange(n_genes) % 3 == kind[:, None], 4.0, 1.0)
    adata = anndata.AnnData(rng.poisson(rate).astype(np.float32))
    adata.X[:, 0] += 1
    adata.obs_names = [f"cell{seed}_{i}" for i in range(n_cells)]
    adata.var_names = [f"GENE{i}" for i in range(n_genes)]
    adata.obs["type"] = pd.Categorical.from_codes(kind, ["B", "NK", "T"])
    adata.obs["batch"] = pd.Categorical.from_codes(np.arange(n_cells) // 3 % 2, ["one", "two"])
    adata.obsm["X_ssl"] = (kind[:, None] == np.arange(3)) + rng.normal(0, 0.2, (n_cells, 3))
    return adata


@functools.cache
def model() -> scssl.model.MaskedAutoencoder:
    """A model of such cells, hardly trained; nothing may change it."""
    adata = cells()
    scssl.model.MaskedAutoencoder.setup_anndata(adata, labels_key="type")
    made = scssl.model.MaskedAutoencoder(adata, hidden_dims=(8,), n_latent=4)
    made.train(max_epochs=1, progress=False)
    return made


def set_up(name: str, adata: Any = None, **arguments: Any) -> Any:
    """Such cells, set up for a model."""
    adata = cells() if adata is None else adata
    made = getattr(scssl.model, name)
    (made.setup_mudata if hasattr(adata, "mod") else made.setup_anndata)(adata, **arguments)
    return adata


def small(name: str, adata: Any, **arguments: Any) -> Any:
    """A model of data that are set up, with few weights."""
    few: dict[str, Any] = {"hidden_dims": (8,), "n_latent": 4}
    if name in ("STAGATE", "GraphST"):
        few = {"n_latent": 4}
    if name == "CellPLM":
        few = {"n_hidden": 16, "n_heads": 2, "n_layers": 1, "n_latent": 4}
    return hurried(getattr(scssl.model, name)(adata, **few, **arguments))


def hurried(model: Any) -> Any:
    """Train in one epoch by default, so that tests are short."""
    usual = model._train_defaults
    model._train_defaults = lambda n_cells: {**usual(n_cells), "max_epochs": 1}
    return model


def folder() -> str:
    """A place for files, another one each time."""
    return tempfile.mkdtemp(prefix="scssl-messages-")


def hub() -> Any:
    """The Hugging Face Hub that cases talk to, with no repository."""
    ON_LOOPBACK[-1].repos.clear()
    return ON_LOOPBACK[-1]


def mdata(seed: int = 0) -> Any:
    """RNA of such cells, and three proteins of them."""
    import mudata

    rna = cells(seed=seed)
    rng = np.random.default_rng(seed)
    proteins = anndata.AnnData(rng.poisson(5.0, (rna.n_obs, 3)).astype(np.float32))
    proteins.obs_names, proteins.var_names = rna.obs_names, ["CD3", "CD19", "CD56"]
    return mudata.MuData({"rna": rna, "prot": proteins})
