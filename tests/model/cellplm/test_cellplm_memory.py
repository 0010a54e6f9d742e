"""CellPLM never makes an array of all cells by all genes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import sparse
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from scssl.data import Datasets
from scssl.model import CellPLM

from .test_cellplm import SMALL, make

N_CELLS, N_GENES = 600, 200


class Largest(TorchDispatchMode):
    """Number of elements of the largest tensor that any operation gives, autograd's included."""

    def __init__(self):
        super().__init__()
        self.found, self.by = 0, None

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for one in tree_leaves(out):
            if isinstance(one, torch.Tensor) and one.layout == torch.strided:
                # A view of one number is no memory.
                size = min(one.numel(), one.untyped_storage().nbytes() // one.element_size())
                if size > self.found:
                    self.found, self.by = size, func
        return out


@pytest.fixture(scope="module")
def tissue():
    """One sample, whose genes are mostly zero."""
    adata = make(N_CELLS, N_GENES, n_samples=1)
    counts = adata.X.toarray()
    counts *= np.random.default_rng(0).random(counts.shape) < 0.15
    counts[:, 0] = 1
    adata.X = sparse.csr_matrix(counts)
    return adata


@pytest.fixture(scope="module")
def model(tissue):
    CellPLM.setup_anndata(tissue, sample_key="slice", spatial_key="spatial")
    model = CellPLM(tissue, **SMALL)
    model.train(max_epochs=1, batch_size=64, progress=False)
    return model


def test_the_measure_sees_what_is_dense(tissue):
    parts = (tissue.X.indptr, tissue.X.indices, tissue.X.data)
    x = torch.sparse_csr_tensor(*parts, tissue.shape, check_invariants=True)
    with Largest() as largest:
        x.to_dense()
    assert largest.found == N_CELLS * N_GENES


def test_embedding_makes_nothing_of_all_cells_by_all_genes(model):
    with Largest() as largest:
        model.get_latent_representation()
    # Values that are stored; what is as wide as a token.
    assert largest.found < N_CELLS * N_GENES / 3, largest.by


@pytest.mark.parametrize("genes", [None, ["GENE0", "GENE7"]])
def test_a_few_cells_are_imputed_without_decoding_the_others(model, genes):
    with Largest() as largest:
        found = model.get_imputed_expression(indices=[5, 300], genes=genes)
    assert found.shape == (2, N_GENES if genes is None else 2)
    assert largest.found < N_CELLS * N_GENES / 3, largest.by
    whole = model.get_imputed_expression(genes=genes)
    np.testing.assert_allclose(found, whole.iloc[[5, 300]], rtol=1e-5)
    with Largest() as largest:
        model.get_imputed_expression(genes=["GENE0", "GENE7"])
    # All cells, some of them at a time.
    assert largest.found <= 512 * N_GENES, largest.by


@pytest.mark.parametrize("several", [False, True])
def test_a_step_decodes_the_cells_of_a_batch_and_the_genes_that_were_drawn(tissue, several):
    if several:
        panel = tissue[:, ::2].copy()
        panel.obs_names = [f"other {name}" for name in panel.obs_names]
        datasets = Datasets({"all": tissue, "panel": panel}, "union")
        CellPLM.setup_datasets(datasets, sample_key="slice", spatial_key="spatial")
        model = CellPLM(datasets, **SMALL)
    else:
        CellPLM.setup_anndata(tissue, sample_key="slice", spatial_key="spatial")
        model = CellPLM(tissue, **SMALL)
    data = model._training_data()
    batch = next(iter(data.loader(np.arange(data.n_cells), 64, role="training", seed=0)))
    n_cells = len(batch["library"])
    model.train(max_epochs=1, batch_size=64, progress=False, n_output_genes=50)
    model.module.train()
    with Largest() as largest:
        loss = model.module.loss(batch, rng=torch.Generator().manual_seed(0), full=False)
        loss.loss.backward()
    assert largest.found < n_cells * N_GENES, largest.by
