from __future__ import annotations

import hashlib
import sys
from types import SimpleNamespace

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import scssl
from scssl.datasets._real import _MERFISH, _PBMC3K, _PBMC_CITE

REAL = sorted(set(scssl.datasets.__all__) - {"pbmc68k_reduced", "simulated"})


@pytest.fixture(autouse=True)
def no_folder(monkeypatch):
    monkeypatch.delenv("SCSSL_DATA_DIR", raising=False)
    yield
    scssl.settings.data_dir = None


@pytest.fixture
def kang(tmp_path):
    cells = scssl.datasets.simulated(20, 10)
    cells.write_h5ad(tmp_path / "kang_ifnb.h5ad")
    return tmp_path / "kang_ifnb.h5ad"


def with_pooch(monkeypatch, retrieve):
    """A pooch that retrieves nothing from anywhere."""
    fake = SimpleNamespace(retrieve=retrieve, os_cache=lambda name: f"/nowhere/{name}")
    monkeypatch.setitem(sys.modules, "pooch", fake)


def deposited(monkeypatch, tmp_path, **files):
    """Have what is downloaded be these files, by the names that they are kept under."""
    asked = {}

    def retrieve(url, known_hash, *, fname, path, progressbar):
        asked[fname] = url, known_hash
        return str(files[fname.partition(".")[0]])

    with_pooch(monkeypatch, retrieve)
    return asked


# --- local files ------------------------------------------------------------------------------


def test_a_file_is_found_by_its_path_its_folder_and_the_setting(kang):
    by_path = scssl.datasets.kang_ifnb(kang)
    by_folder = scssl.datasets.kang_ifnb(str(kang.parent))
    with scssl.settings.override(data_dir=kang.parent):
        by_setting = scssl.datasets.kang_ifnb()
    for found in (by_path, by_folder, by_setting):
        assert found.shape == (20, 10)
        assert found.uns["source"].startswith("Kang et al. 2018, GEO GSE96583 (https://")


def test_the_layout_has_categories_and_a_table_of_proteins(tmp_path):
    cells = scssl.datasets.simulated(20, 10, n_proteins=2)
    cells.obs["batch"] = cells.obs["batch"].astype(str)
    cells.obsm["protein"] = cells.obsm["protein"].to_numpy()
    cells.uns |= {
        "protein_names": ["CD3_TotalSeqB", "CD4"],
        "species": "human",
        "x_is_counts": True,
    }
    cells.write_h5ad(tmp_path / "pbmc_cite_2batch_400.h5ad")
    found = scssl.datasets.pbmc_cite(tmp_path)
    assert isinstance(found.obs["batch"].dtype, pd.CategoricalDtype)
    assert list(found.obsm["protein"].columns) == ["CD3", "CD4"]
    assert (found.obsm["protein"].to_numpy() == cells.obsm["protein"]).all()
    assert (found.obsm["protein"].index == found.obs_names).all()
    assert set(found.uns) == {"source", "species"}


def test_a_path_that_names_nothing_is_never_replaced_by_a_download(monkeypatch, tmp_path):
    asked = deposited(monkeypatch, tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no file .*pbmc3k\.h5ad"):
        scssl.datasets.pbmc3k(tmp_path)
    assert not asked


@pytest.mark.parametrize("name", REAL)
def test_every_data_set_is_downloaded_with_a_checksum_or_says_where_it_is(name, monkeypatch):
    asked = []

    def retrieve(url, known_hash, **kwargs):
        asked.append((url, known_hash))
        raise OSError

    with_pooch(monkeypatch, retrieve)
    with pytest.raises((FileNotFoundError, ConnectionError)) as error:
        getattr(scssl.datasets, name)()
    assert "https://" in str(error.value) or "http://" in str(error.value)
    for url, known_hash in asked:
        kind, digest = known_hash.split(":")
        assert url.startswith("https://")
        assert len(digest) == hashlib.new(kind).digest_size * 2
    assert bool(asked) == isinstance(error.value, ConnectionError)


@pytest.mark.realdata
@pytest.mark.parametrize("name", REAL)
def test_the_files_of_the_folder_have_what_the_docstring_says(name, data_dir):
    cells = getattr(scssl.datasets, name)(data_dir)
    said = getattr(scssl.datasets, name).__doc__
    assert f"{cells.n_obs:,}" in said
    spatial = "spatial" in cells.obsm
    assert spatial == ('obsm["spatial"]' in said)
    assert ("protein" in cells.obsm) == ('obsm["protein"]' in said)
    counts = not (np.asarray(cells.X[:50].todense()) % 1).any()
    assert counts == ("not counts" not in said)
    for column in cells.obs:
        if cells.obs[column].dtype == "category":
            assert column in said


# --- downloads --------------------------------------------------------------------------------


def test_pbmc3k_has_the_counts_of_one_file_and_the_types_of_the_other(monkeypatch, tmp_path):
    counts = np.array([[5, 0, 1], [4, 0, 2], [3, 1, 0], [2, 1, 0]], dtype="float32")
    names, genes = [f"c{i}" for i in range(4)], pd.DataFrame(index=["A", "B", "C"])
    raw = ad.AnnData(sparse.csr_matrix(counts), pd.DataFrame(index=names), genes)
    raw.write_h5ad(tmp_path / "raw.h5ad")
    labels = pd.DataFrame({"louvain": pd.Categorical(["T", "B", "B"])}, index=["c3", "c0", "c1"])
    ad.AnnData(np.zeros((3, 1), "float32"), labels).write_h5ad(tmp_path / "processed.h5ad")
    files = {"pbmc3k_raw": tmp_path / "raw.h5ad", "pbmc3k_processed": tmp_path / "processed.h5ad"}
    asked = deposited(monkeypatch, tmp_path, **files)
    cells = scssl.datasets.pbmc3k()
    assert asked == _PBMC3K.files
    # Of the genes only the first is in three cells.
    assert list(cells.var_names) == ["A"]
    assert cells.X.toarray().ravel().tolist() == [2, 5, 4]
    assert cells.obs["cell_type"].tolist() == ["T", "B", "B"]


def test_merfish_has_slices_as_batches_and_no_blank_genes(monkeypatch, tmp_path):
    obs = pd.DataFrame({"Cell_class": ["a", "b"], "batch": ["0", "1"], "Bregma": [1.0, 2.0]})
    obs.index = ["c0", "c1"]
    cells = ad.AnnData(np.ones((2, 2), "float32"), obs, pd.DataFrame(index=["Ace2", "Blank_1"]))
    cells.obsm = {"spatial": np.eye(2), "spatial3d": np.ones((2, 3))}
    cells.write_h5ad(tmp_path / "merfish.h5ad")
    asked = deposited(monkeypatch, tmp_path, merfish=tmp_path / "merfish.h5ad")
    found = scssl.datasets.merfish_hypothalamus()
    assert asked == _MERFISH.files
    assert list(found.var_names) == ["Ace2"]
    assert list(found.obs) == ["cell_type", "batch"]
    assert list(found.obsm) == ["spatial"]


def test_pbmc_cite_parts_proteins_from_genes(monkeypatch, tmp_path):
    import scanpy as sc

    both = ad.AnnData(sparse.csr_matrix(np.arange(6, dtype="float32").reshape(2, 3)))
    both.var_names = ["GENE", "GENE", "CD3_TotalSeqB"]
    both.var["feature_types"] = ["Gene Expression", "Gene Expression", "Antibody Capture"]
    monkeypatch.setattr(sc, "read_10x_h5", lambda file, gex_only: both)
    [name] = _PBMC_CITE.files
    asked = deposited(monkeypatch, tmp_path, **{name.partition(".")[0]: "file"})
    found = scssl.datasets.pbmc_cite()
    assert asked == _PBMC_CITE.files
    assert list(found.var_names) == ["GENE", "GENE-1"]
    assert found.obsm["protein"]["CD3"].tolist() == [2, 5]


def test_without_a_network_it_says_what_to_put_where(monkeypatch):
    def retrieve(*args, **kwargs):
        raise OSError("no route to host")

    with_pooch(monkeypatch, retrieve)
    with pytest.raises(ConnectionError, match=r"put it at /nowhere/scssl/pbmc3k_raw\.h5ad"):
        scssl.datasets.pbmc3k()


def test_pooch_refuses_what_has_another_checksum(monkeypatch, tmp_path):
    """The real pooch, on a server of this machine."""
    pooch = pytest.importorskip("pooch")
    import threading
    from functools import partial
    from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    (tmp_path / "there").mkdir()
    scssl.datasets.simulated(10, 5).write_h5ad(tmp_path / "there" / "merfish.h5ad")
    digest = hashlib.sha256((tmp_path / "there" / "merfish.h5ad").read_bytes()).hexdigest()
    monkeypatch.setattr(pooch, "os_cache", lambda name: tmp_path / name)
    with ThreadingHTTPServer(
        ("127.0.0.1", 0), partial(Quiet, directory=tmp_path / "there")
    ) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/merfish.h5ad"
        with scssl.settings.override(progress=False):
            monkeypatch.setitem(_MERFISH.files, "merfish.h5ad", (url, f"sha256:{'0' * 64}"))
            with pytest.raises(ValueError, match="is not the file that was published"):
                _MERFISH._fetch("merfish.h5ad")
            assert not (tmp_path / "scssl" / "merfish.h5ad").exists()
            monkeypatch.setitem(_MERFISH.files, "merfish.h5ad", (url, f"sha256:{digest}"))
            first = _MERFISH._fetch("merfish.h5ad")
            server.shutdown()
            # Of the second call there is no server to ask.
            assert _MERFISH._fetch("merfish.h5ad") == first


# --- simulated cells --------------------------------------------------------------------------


def test_simulated_cells_are_counts_of_types_batches_and_layers():
    cells = scssl.datasets.simulated(300, 50, n_types=4, n_batches=3, n_proteins=5)
    assert sparse.issparse(cells.X)
    assert not (cells.X.data % 1).any()
    assert (cells.X.sum(axis=1) > 0).all()
    assert cells.obs["batch"].value_counts().tolist() == [100] * 3
    assert cells.obs["cell_type"].nunique() == 4
    assert cells.obs["region"].nunique() == 3
    assert cells.obsm["protein"].shape == (300, 5)
    same = scssl.datasets.simulated(300, 50, n_types=4, n_batches=3, n_proteins=5, rng=0)
    assert (cells.X != same.X).nnz == 0
    assert (cells.X != scssl.datasets.simulated(300, 50, rng=1).X).nnz


def test_simulated_types_can_be_told_apart_and_batches_too():
    import scanpy as sc

    cells = scssl.datasets.simulated()
    sc.pp.normalize_total(cells)
    sc.pp.log1p(cells)
    sc.pp.pca(cells, n_comps=20)
    scores = scssl.tl.knn_score(cells, "cell_type", use_rep="X_pca")
    assert scores.loc[0, "accuracy"] > 0.9
    assert scssl.tl.knn_score(cells, "batch", use_rep="X_pca").loc[0, "accuracy"] > 0.7


@pytest.mark.parametrize("wrong", [{"n_cells": 0}, {"n_types": 0}, {"n_proteins": 300}])
def test_simulated_refuses_what_cannot_be_made(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        scssl.datasets.simulated(**wrong)
