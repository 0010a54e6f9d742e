"""Batches on a device, as far as that can be told without one.

Tensors on PyTorch's device "meta" have no values: what would have to wait for one, as ``nonzero`` does, fails.
"""

from __future__ import annotations

import pytest
import torch

import scssl
from scssl.model.base import StoresMixin
from scssl.nn import GeneEncoder, SparseRows, to_device
from scssl.train._fit import _Loaders

from .conftest import MODELS, arguments_of, make_counts

META = torch.device("meta")
# CellPLM, whose cells see each other, reads whole samples and asks for their lengths.
ROWS = [
    n for n in MODELS if issubclass(scssl.model.get_model_class(n), StoresMixin) and n != "CellPLM"
]


@pytest.fixture(params=ROWS)
def model(request):
    cls = scssl.model.get_model_class(request.param)
    adata = make_counts()
    cls.setup_anndata(adata)
    made = cls(adata, **arguments_of(cls))
    made.is_trained_ = True
    return made


@pytest.fixture
def batch(model):
    return next(iter(model._read(None).loader(torch.arange(40).numpy(), 40)))


def test_sparse_cells_arrive_as_arrays_without_a_sparse_tensor(batch):
    moved = {name: to_device(value, META) for name, value in batch.items()}
    x = moved["X"]
    assert isinstance(x, SparseRows)
    assert (x.n_cells, x.n_genes, x.values.shape) == (40, 60, batch["X"].values().shape)
    assert {t.device for t in (x.pointers, x.columns, x.values, moved["library"])} == {META}
    assert not any(t.dtype == torch.float64 for t in (x.values, moved["library"]))
    there = {name: to_device(value, torch.device("cpu")) for name, value in batch.items()}
    assert all(there[name] is value for name, value in batch.items())


def test_a_batch_of_arrays_is_embedded_to_the_same_bits(model, batch):
    model.module.eval()
    arrays = {**batch, "X": SparseRows.from_tensor(batch["X"])}
    with torch.inference_mode():
        assert torch.equal(model.module.embed(arrays), model.module.embed(batch))


def test_embedding_waits_for_no_value(model, batch):
    model.module.eval()
    with torch.inference_mode():
        expected = model.module.embed(batch)
        on_meta = model.module.to("meta")
        z = on_meta.embed({name: to_device(value, META) for name, value in batch.items()})
    assert (z.shape, z.dtype, z.device) == (expected.shape, torch.float32, META)


def test_what_is_hidden_stays_stored_as_zeros_and_counts_for_nothing():
    x = SparseRows.from_tensor(torch.rand(40, 60, generator=torch.Generator().manual_seed(0)))
    visible = scssl.augment.RandomMask(rate=0.5).draw(x, torch.Generator().manual_seed(0)).visible
    layer = GeneEncoder(60, 8)
    zeroed = SparseRows(x.pointers, x.columns, x.values * visible, x.n_genes)
    torch.testing.assert_close(layer(x.hide(visible)), layer.dense(zeroed.to_dense()))
    there = x.to(META).hide(visible.to(META))
    assert there.n_stored == x.n_stored > x.hide(visible).n_stored
    assert layer.to("meta")(there).shape == (40, 8)


def test_batches_of_a_step_are_copied_in_that_way(batch):
    moved = _Loaders(None, None, None).transfer_batch_to_device(batch, META, 0)
    assert isinstance(moved["X"], SparseRows)
    assert moved["X"].values.device == META
