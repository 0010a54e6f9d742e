"""Embedding blocks of a dask array."""

from __future__ import annotations

import anndata
import numpy as np
import pytest
from scipy import sparse

import scssl
from scssl._checks import get_embedding
from scssl._errors import BundleError, GeneMismatchError
from scssl.model.base import _dask

from .conftest import arguments_of, make_counts

da = pytest.importorskip("dask.array")

MODEL = scssl.model.MaskedAutoencoder
COLUMNS = {"batch_key": "batch", "continuous_covariate_keys": ["age"]}


@pytest.fixture(scope="module")
def cells():
    return make_counts(150)


@pytest.fixture(scope="module")
def told(cells):
    """A model of which the encoder is told columns, and its embedding."""
    MODEL.setup_anndata(cells, **COLUMNS)
    model = MODEL(cells, **arguments_of(MODEL), encode_covariates=True)
    model.is_trained_ = True
    return model, model.get_latent_representation()


@pytest.fixture(scope="module", params=["zarr", "h5ad"])
def file(request, cells, tmp_path_factory):
    path = tmp_path_factory.mktemp("lazy") / f"cells.{request.param}"
    getattr(cells, f"write_{request.param}")(path)
    return path


def in_blocks(cells, n_rows=40, n_genes=-1, sparsely=True):
    lazy = cells.copy()
    dense = cells.X.toarray() if sparse.issparse(cells.X) else cells.X
    blocks = da.from_array(dense, chunks=(n_rows, n_genes))
    lazy.X = blocks.map_blocks(sparse.csr_matrix) if sparsely else blocks
    return lazy


def test_lazily_read_cells_to_the_bit(file, told, tmp_path):
    model, expected = told
    lazy = anndata.experimental.read_lazy(file)
    found = model.embed_dask(lazy, batch_size=7)
    assert (found.shape, found.dtype) == ((150, model.n_latent), np.float32)
    np.testing.assert_array_equal(found.compute(), expected)
    few = found[[3, 1]].compute()
    np.testing.assert_array_equal(few, expected[[3, 1]])


def test_everything_else_takes_lazily_read_cells(file, cells, told, tmp_path):
    lazy = anndata.experimental.read_lazy(file)
    MODEL.setup_anndata(lazy, **COLUMNS)
    model = MODEL(lazy, **arguments_of(MODEL), encode_covariates=True)
    model.is_trained_ = True
    np.testing.assert_array_equal(model.get_latent_representation(), told[1])
    scssl.tl.embed(lazy, model)
    np.testing.assert_array_equal(lazy.obsm["X_ssl"], told[1])
    np.testing.assert_array_equal(get_embedding(lazy, "spatial"), cells.obsm["spatial"])
    model.save(tmp_path / "model", save_anndata=True)
    saved = anndata.read_h5ad(tmp_path / "model" / "adata.h5ad")
    assert (saved.X != cells.X).nnz == 0
    assert saved.obs_names.equals(cells.obs_names)
    assert saved.obs["cell_type"].equals(cells.obs["cell_type"])
    np.testing.assert_array_equal(saved.obsm["X_ssl"], told[1])


@pytest.mark.parametrize("sparsely", [True, False])
@pytest.mark.parametrize("n_genes", [-1, 25])
def test_blocks_of_any_form(cells, told, sparsely, n_genes):
    model, expected = told
    found = model.embed_dask(in_blocks(cells, n_genes=n_genes, sparsely=sparsely))
    assert found.chunks == ((40, 40, 40, 30), (model.n_latent,))
    np.testing.assert_array_equal(found.compute(), expected)


def test_a_layer_and_other_genes(cells, told):
    lazy = in_blocks(cells)
    lazy.layers["counts"] = lazy.X
    lazy.X = None
    MODEL.setup_anndata(lazy, layer="counts")
    model = MODEL(lazy, **arguments_of(MODEL))
    model.is_trained_ = True
    fewer = lazy[:, ::-1][:, 10:]
    expected = model.get_latent_representation(fewer)
    np.testing.assert_array_equal(model.embed_dask(fewer).compute(), expected)
    with pytest.raises(GeneMismatchError):
        model.embed_dask(lazy[:, :5])


def test_a_worker_loads_the_model_once_from_its_folder(cells, told, tmp_path, monkeypatch):
    model, expected = told
    _dask._loaded.cache_clear()
    loads = []
    load = scssl.model.SSLModel.load
    monkeypatch.setattr(
        scssl.model.SSLModel,
        "load",
        lambda *given, **more: loads.append(given) or load(*given, **more),
    )
    found = model.embed_dask(in_blocks(cells, 10), folder=tmp_path / "model")
    assert not loads
    np.testing.assert_array_equal(found.compute(scheduler="threads", num_workers=4), expected)
    assert loads == [(str(tmp_path / "model"),)]
    # Saved there before: that one is taken.
    model.embed_dask(in_blocks(cells), folder=tmp_path / "model")


def test_folders_that_do_not_hold_the_model(cells, told, tmp_path):
    model, _ = told
    other = MODEL(cells, **arguments_of(MODEL), encode_covariates=True, rng=1)
    other.is_trained_ = True
    other.save(tmp_path / "other")
    with pytest.raises(ValueError, match="holds another model, with encoder"):
        model.embed_dask(in_blocks(cells), folder=tmp_path / "other")
    _dask._loaded.cache_clear()
    found = model.embed_dask(in_blocks(cells), folder=tmp_path / "model")
    (tmp_path / "model").rename(tmp_path / "moved")
    with pytest.raises(BundleError, match="does not see .*model.*`folder` on a disk that all have"):
        found.compute()
    (tmp_path / "other").rename(tmp_path / "model")
    with pytest.raises(BundleError, match="was replaced"):
        found.compute()


def test_values_are_checked_block_by_block_and_told_by_their_row(cells, told):
    model, _ = told
    bad = cells.copy()
    bad.X = np.asarray(cells.X.toarray() if sparse.issparse(cells.X) else cells.X).copy()
    bad.X[57, 3] = np.nan
    found = model.embed_dask(in_blocks(bad))
    found[:40].compute()
    with pytest.raises(ValueError, match="cell '57'"):
        found.compute()


def test_columns_that_are_refused_before_anything_is_computed(cells, told):
    model, _ = told
    lazy = in_blocks(cells)
    lazy.obs["batch"] = "new"
    with pytest.raises(ValueError, match="1 categories that the model was not trained with"):
        model.embed_dask(lazy)
    del lazy.obs["batch"]
    with pytest.raises(KeyError, match="no 'batch'"):
        model.embed_dask(lazy)


@pytest.mark.slow
def test_on_a_cluster(cells, told, tmp_path):
    distributed = pytest.importorskip("distributed")
    model, expected = told
    cells.write_zarr(tmp_path / "cells.zarr")
    lazy = anndata.experimental.read_lazy(tmp_path / "cells.zarr")
    with (
        distributed.LocalCluster(2, threads_per_worker=1, dashboard_address=None) as cluster,
        distributed.Client(cluster) as client,
    ):
        model.embed_dask(lazy, folder=tmp_path / "model").to_zarr(str(tmp_path / "z.zarr"))
        loads = client.run(lambda: __import__("scssl").model.base._dask._loaded.cache_info().misses)
    np.testing.assert_array_equal(da.from_zarr(str(tmp_path / "z.zarr")).compute(), expected)
    assert set(loads.values()) <= {0, 1}
    assert sum(loads.values())
