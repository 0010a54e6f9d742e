from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse


def make(n_cells: int, genes: range, seed: int) -> anndata.AnnData:
    """Counts with a type and an age of each cell."""
    rng = np.random.default_rng(seed)
    counts = sparse.csr_matrix(rng.poisson(0.5, (n_cells, len(genes))).astype(np.float32))
    obs = pd.DataFrame(
        {"type": pd.Categorical(rng.choice(["B", "T"], n_cells)), "age": rng.random(n_cells)},
        index=[f"cell{seed}_{i}" for i in range(n_cells)],
    )
    var = pd.DataFrame(index=[f"GENE{i}" for i in genes])
    return anndata.AnnData(counts, obs=obs, var=var)


@pytest.fixture(scope="session")
def pieces():
    """Two data sets that share some of their genes."""
    return {"one": make(1000, range(400), 0), "two": make(700, range(300, 600), 1)}


@pytest.fixture(scope="session")
def files(pieces, tmp_path_factory):
    """The same as files."""
    folder = tmp_path_factory.mktemp("inputs")
    pieces["one"].write_h5ad(folder / "one.h5ad")
    pieces["two"].write_zarr(folder / "two.zarr")
    return [folder / "one.h5ad", folder / "two.zarr"]
