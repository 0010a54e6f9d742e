"""A published checkpoint embeds as its own network does, whatever order and names the genes have."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import replace
from functools import partial

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import scssl
from scssl._errors import BundleError, GeneMismatchError
from scssl.model import MaskedAutoencoder
from scssl.published import _ssl_in_scg as module
from scssl.published._gene_table import SCTAB, GeneOrder
from scssl.published._ssl_in_scg import masked_autoencoder_from

G = 60
FAMILIES = ["autoencoder", "nb_autoencoder", "byol", "simsiam", "barlow_twins", "barlow_twins_raw"]
FAMILIES += ["classifier"]


@pytest.fixture(scope="module")
def ids(published):
    return published.ensembl_ids(G)


@pytest.fixture(scope="module")
def table(ids):
    return pd.DataFrame({"feature_id": ids, "feature_name": [f"SYM{i}" for i in range(G)]})


@pytest.fixture(scope="module")
def order(ids):
    return GeneOrder(G, tuple(ids[:5]), tuple(ids[-5:]))


@pytest.fixture(scope="module")
def cells(ids):
    counts = np.random.default_rng(0).poisson(1.5, (30, G)).astype(np.float32)
    return anndata.AnnData(sparse.csr_matrix(counts), var=pd.DataFrame(index=ids))


@pytest.fixture
def read(tmp_path, published, table, order):
    """Write a checkpoint of a family and make a model of it; model and tensors."""

    def make(family, **kwargs):
        state = published.checkpoint(tmp_path / "any.ckpt", family, G)
        model = masked_autoencoder_from(
            MaskedAutoencoder, tmp_path, "any.ckpt", table, order=order, **kwargs
        )
        return model, state

    return make


def normalized(published, adata):
    return published.normalize(adata.X.toarray().astype(np.float64))


def assert_same(found, expected):
    """float32 against float64: to 1e-6 of the range of the values, where that is more than 1."""
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6 * max(1, np.abs(expected).max()))


# --- the same numbers as the published networks ---------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_embedding_equals_the_published_network(family, read, published, cells):
    model, state = read(family)
    expected = published.embedding(state, family, normalized(published, cells))
    embedded = model.get_latent_representation(cells)
    assert embedded.shape == (30, 256 if family in ("byol", "simsiam") else 64)
    assert_same(embedded, expected)
    # Not because both are nothing: cells differ, and by more than the tolerance.
    assert embedded.std(axis=0).mean() > 1e-3


def test_19331_genes(tmp_path, published):
    """The real size, through the public method and files alone."""
    n = 19_331
    middle = [f"ENSG9{i:010d}" for i in range(n - 10)]
    ids = [*SCTAB.first, *middle, *SCTAB.last]
    state = published.checkpoint(tmp_path / "weights.ckpt", "autoencoder", n, seed=1)
    pd.DataFrame({"feature_id": ids, "feature_name": ids}).to_csv(tmp_path / "var.csv")
    # The ids between are made up here, so their digest is the one thing that is not checked.
    order = replace(SCTAB, first_sha256=None)
    model = masked_autoencoder_from(
        MaskedAutoencoder, tmp_path, "weights.ckpt", "var.csv", order=order, legacy_output=True
    )
    counts = sparse.random(12, n, 0.1, "csr", np.float32, rng=np.random.default_rng(3))
    counts.data = np.ceil(counts.data * 20)
    adata = anndata.AnnData(counts, var=pd.DataFrame(index=ids))
    x = normalized(published, adata)
    embedded = model.get_latent_representation(adata)
    assert_same(embedded, published.embedding(state, "autoencoder", x))
    assert_same(model.get_reconstruction(adata), published.reconstruction(state, x))
    with pytest.raises(GeneMismatchError, match="the first 1,000 rows are not those expected"):
        MaskedAutoencoder.from_pretrained(tmp_path, file="weights.ckpt", genes="var.csv")


@pytest.mark.parametrize("family", FAMILIES)
def test_genes_of_ones_own(family, tmp_path, published):
    """The published code, trained on other data: a table as long as its first layer says which genes."""
    names = [f"GENE{i}" for i in range(41)]
    state = published.checkpoint(tmp_path / "own.ckpt", family, len(names))
    pd.DataFrame({"feature_id": names}).to_csv(tmp_path / "genes.csv")
    model = MaskedAutoencoder.from_pretrained(tmp_path, file="own.ckpt", genes="genes.csv")
    counts = np.random.default_rng(0).poisson(1.5, (30, 41)).astype(np.float32)
    cells = anndata.AnnData(sparse.csr_matrix(counts), var=pd.DataFrame(index=names))
    expected = published.embedding(state, family, normalized(published, cells))
    assert_same(model.get_latent_representation(cells[:, ::-1].copy()), expected)
    assert any("genes.csv" in note for note in model.source["notes"])
    for few in (names[:40], [*names, "MORE"]):
        with pytest.raises(BundleError, match=f"takes 41 inputs .* has {len(few)}.*Pass the table"):
            MaskedAutoencoder.from_pretrained(tmp_path, file="own.ckpt", genes=few)


def test_reconstruction(read, published, cells):
    x = normalized(published, cells)
    model, state = read("autoencoder", legacy_output=True)
    found = model.get_reconstruction(cells)
    assert_same(found, published.reconstruction(state, x))
    assert found.min() >= 0
    assert found.max() <= 1
    assert "sigmoid of the published code, which ends at 1" in " ".join(model.source["notes"])
    model, state = read("autoencoder")
    expected = published.reconstruction(state, x, sigmoid=False)
    assert_same(model.get_reconstruction(cells), expected)
    error = ((expected - x) ** 2).mean(axis=1)
    np.testing.assert_allclose(model.get_reconstruction_error(cells), error, rtol=1e-4)


def test_genes_to_reconstruct_may_be_symbols(read, cells, ids):
    model, _ = read("autoencoder", legacy_output=True)
    expected = model.get_reconstruction(cells, genes=[ids[3], ids[1]])
    found = model.get_reconstruction(cells, genes=["SYM3", ids[1]])
    np.testing.assert_array_equal(found, expected)
    with pytest.raises(KeyError, match="'NEW'"):
        model.get_reconstruction(cells, genes=["SYM3", "NEW"])


@pytest.mark.parametrize("family", [f for f in FAMILIES if f != "autoencoder"])
def test_without_a_decoder(family, read, cells):
    model, _ = read(family)
    with pytest.raises(ValueError, match="decoder"):
        model.get_reconstruction(cells)
    model.attach(cells.copy())
    with pytest.raises(ValueError, match="decoder"):
        model.train(max_epochs=1, progress=False)


def test_pretraining_can_go_on(read, cells):
    model, _ = read("autoencoder")
    before = model.get_latent_representation(cells)
    model.attach(cells.copy())
    model.train(max_epochs=2, batch_size=10, progress=False)
    assert np.abs(model.get_latent_representation(cells) - before).max() > 1e-3
    assert model.source["family"] == "autoencoder"
    assert "trained: 2 epochs" in repr(model)


# --- genes ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def names(ids):
    """Ways in which data may call the genes."""
    return {
        "ids": ids,
        "symbols": [f"SYM{i}" for i in range(G)],
        "versions": [f"{name}.{i % 9 + 1}" for i, name in enumerate(ids)],
        "mixed": [f"SYM{i}" if i % 2 else name for i, name in enumerate(ids)],
    }


@pytest.mark.parametrize("kind", ["ids", "symbols", "versions", "mixed"])
@pytest.mark.parametrize("permuted", [False, True])
def test_names_and_order_of_the_genes_make_no_difference(kind, permuted, read, cells, names):
    model, _ = read("autoencoder")
    expected = model.get_latent_representation(cells)
    other = cells.copy()
    other.var_names = names[kind]
    if permuted:
        other = other[:, np.random.default_rng(1).permutation(G)].copy()
    np.testing.assert_array_equal(model.get_latent_representation(other), expected)
    alignment = model.genes.align(other.var_names)
    assert alignment.n_matched == G
    assert alignment.n_by_alias == {"ids": 0, "mixed": G // 2}.get(kind, G)


def test_genes_are_never_matched_by_position(read, cells):
    model, _ = read("autoencoder")
    other = cells.copy()
    other.var_names = [f"gene{i}" for i in range(G)]
    with pytest.raises(GeneMismatchError, match="Only 0 of the 60 genes"):
        model.get_latent_representation(other)


def test_library_is_over_the_genes_of_the_model(read, published, cells):
    """Other genes of the data change nothing; absent genes are zero."""
    model, state = read("autoencoder")
    more = anndata.concat(
        [cells, anndata.AnnData(sparse.csr_matrix(np.full((30, 4), 9.0, dtype=np.float32)))],
        axis="var",
        merge="first",
    )
    more.obs_names = cells.obs_names
    np.testing.assert_array_equal(
        model.get_latent_representation(more), model.get_latent_representation(cells)
    )
    part = cells[:, 10:].copy()
    counts = cells.X.toarray().astype(np.float64)
    counts[:, :10] = 0
    expected = published.embedding(state, "autoencoder", published.normalize(counts))
    assert_same(model.get_latent_representation(part), expected)


def test_ambiguous_symbols_are_reported(tmp_path, published, table, order, cells, caplog):
    published.checkpoint(tmp_path / "a.ckpt", "autoencoder", G)
    twice = table.assign(feature_name=["SAME", "SAME", *table.feature_name[2:]])
    model = masked_autoencoder_from(MaskedAutoencoder, tmp_path, "a.ckpt", twice, order=order)
    other = cells.copy()
    other.var_names = ["SAME", "OTHER", *table.feature_name[2:]]
    with caplog.at_level(logging.INFO, logger="scssl"):
        model.get_latent_representation(other)
    assert "58 of 60 genes of the model found" in caplog.text
    assert "58 of these by symbol" in caplog.text
    assert "1 of these fit no gene alone ('SAME')" in caplog.text


def test_log_normalised_data_are_refused(read, cells):
    model, _ = read("autoencoder")
    other = cells.copy()
    other.X = sparse.csr_matrix(np.log1p(other.X.toarray()))
    with pytest.raises(ValueError, match="counts"):
        model.get_latent_representation(other)


def test_counts_in_a_layer(read, cells):
    expected = read("autoencoder")[0].get_latent_representation(cells)
    model, _ = read("autoencoder", layer="counts")
    other = cells.copy()
    other.layers["counts"] = other.X.copy()
    other.X = sparse.csr_matrix(np.log1p(other.X.toarray()))
    np.testing.assert_array_equal(model.get_latent_representation(other), expected)


# --- the model ------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_saved_and_loaded(family, read, cells, tmp_path):
    model, state = read(family, pretext="random mask")
    model.save(tmp_path / "model")
    loaded = MaskedAutoencoder.load(tmp_path / "model")
    other = cells.copy()
    other.var_names = [f"SYM{i}" for i in range(G)]
    np.testing.assert_array_equal(
        loaded.get_latent_representation(other), model.get_latent_representation(cells)
    )
    assert loaded.source == model.source
    assert set(loaded.source["used"]) | set(loaded.source["unused"]) == set(state)
    assert loaded.source["pretext"] == "random mask"
    assert loaded.source["genes"] == {"source": "DataFrame", "sha256": None, "n": G}
    assert loaded.genes.aliases.tolist() == model.genes.aliases.tolist()
    assert loaded.genes.species == "human"
    assert loaded.is_trained_
    scssl.tl.embed(other, tmp_path / "model")
    assert other.uns["X_ssl"]["n_genes_matched"] == G


def test_what_is_said(read, caplog):
    with caplog.at_level(logging.INFO, logger="scssl"):
        model, _ = read("byol")
    assert "any.ckpt is an encoder trained by BYOL: 8 tensors used" in caplog.text
    assert "256 dimensions" in caplog.text
    text = repr(model)
    assert "weights of any.ckpt from a folder: an encoder trained by BYOL" in text
    assert "not trained" not in text
    assert "60-512-512-256-256" in text


def test_own_models_have_no_source(cells):
    MaskedAutoencoder.setup_anndata(adata := cells.copy())
    assert MaskedAutoencoder(adata, hidden_dims=(8,), n_latent=4).source is None


def test_nothing_of_the_user_is_touched_or_kept(read, cells):
    before = dict(MaskedAutoencoder._setup_adata_manager_store)
    model, _ = read("autoencoder")
    assert before == MaskedAutoencoder._setup_adata_manager_store
    assert model.adata is None
    assert model.setup.input_kind == "counts"
    assert model.setup.target_sum == 1e4
    adata = cells.copy()
    model.get_latent_representation(adata)
    assert not adata.uns
    assert not adata.obs.columns.size


# --- where files are ------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path, published, table, order, monkeypatch):
    """A copy of the repository, of few genes."""
    for name in ("Pretrained Models/RandomMask.ckpt", "Finetuned Models/Cell Type/HLCA_SSL.ckpt"):
        (tmp_path / "copy" / name).parent.mkdir(parents=True)
        kind = "autoencoder" if "Random" in name else "classifier"
        published.checkpoint(tmp_path / "copy" / name, kind, G)
    table.to_csv(tmp_path / "copy" / "var.csv", index=False)
    monkeypatch.setattr(module, "open_published", partial(module.open_published, order=order))
    return tmp_path / "copy"


@pytest.fixture
def read_file(folder, cells):
    """Read one of its files; how wide the embedding is and where it ends tell which one it was."""

    def read(*args, **kwargs):
        model = MaskedAutoencoder.from_pretrained(*args, **kwargs)
        return "classifier" if model.get_latent_representation(cells).min() == 0 else "autoencoder"

    return read


def test_files_in_a_folder(folder, read_file, monkeypatch):
    deep = "Finetuned Models/Cell Type/HLCA_SSL.ckpt"
    genes = {"genes": "var.csv"}
    assert read_file(folder, file="RandomMask.ckpt", **genes) == "autoencoder"
    assert read_file(str(folder), file=deep, **genes) == "classifier"
    assert read_file(folder, file=folder / deep, **genes) == "classifier"
    pretrained = folder / "Pretrained Models" / "RandomMask.ckpt"
    assert read_file(pretrained, genes=folder / "var.csv") == "autoencoder"
    monkeypatch.chdir(folder.parent)
    assert read_file("copy", file=deep, genes="copy/var.csv") == "classifier"
    assert read_file(f"copy/{deep}", genes="copy/var.csv") == "classifier"
    (folder / "var.csv").rename(folder / "var.parquet")
    with pytest.raises((ImportError, BundleError), match="parquet"):
        read_file("copy", file=deep)


def test_files_that_are_not_there(folder):
    read = MaskedAutoencoder.from_pretrained
    with pytest.raises(BundleError, match="no file GPMask.ckpt in .*copy, which holds 'Finetuned"):
        read(folder, file="GPMask.ckpt", genes="var.csv")
    with pytest.raises(BundleError, match=r"no file var\.parquet in .*copy, which holds"):
        read(folder, file="RandomMask.ckpt")
    with pytest.raises(BundleError, match="There is no folder .*absent. Pass a folder, or a repos"):
        read(folder / "absent", file="RandomMask.ckpt")
    with pytest.raises(ValueError, match="is a file: pass its folder, or leave out `file`"):
        read(folder / "var.csv", file="x.ckpt")


def test_files_on_the_hub(folder, read_file, monkeypatch):
    asked = []

    def fetch_file(repo_id, filename, *, revision=None, token=None, expected_sha256=None):
        asked.append((repo_id, filename, revision, token, expected_sha256))
        return folder / filename

    monkeypatch.setattr("scssl.published._place.fetch_file", fetch_file)
    monkeypatch.chdir(folder)
    repo, deep = "TillR/sc_pretrained", "Finetuned Models/Cell Type/HLCA_SSL.ckpt"
    digest = hashlib.sha256((folder / deep).read_bytes()).hexdigest()
    options = {"genes": "./var.csv", "revision": "v1", "token": "t"}
    assert read_file(repo, file="RandomMask.ckpt", **options) == "autoencoder"
    assert read_file(repo, file=deep, sha256=digest, **options) == "classifier"
    assert asked == [
        (repo, "Pretrained Models/RandomMask.ckpt", "v1", "t", None),
        (repo, deep, "v1", "t", digest),
    ]
    # The table too is that of the repository, even where there is one of this name here.
    (folder / "var.parquet").write_bytes(b"not this one")
    asked.clear()
    with pytest.raises((ImportError, BundleError), match="parquet"):
        read_file(repo, file="BYOL.ckpt")
    assert asked == [(repo, "var.parquet", None, None, None)]
    model = MaskedAutoencoder.from_pretrained(repo, file="RandomMask.ckpt", **options)
    assert (model.source["source"], model.source["revision"]) == (repo, "v1")
    assert "weights of RandomMask.ckpt from TillR/sc_pretrained" in repr(model)


@pytest.mark.parametrize("revision", [None, "main"])
def test_the_commit_that_was_fetched_is_recorded(hub, folder, monkeypatch, revision):
    """And all files are of that one, even if the branch moves meanwhile."""
    repo = "lab/published"
    files = {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*.*")}
    files = {name: content for name, content in files.items() if (folder / name).is_file()}
    commit = hub.add(repo, files).branches["main"]
    read_table = module.read_gene_table

    def then_the_branch_moves(path, **kwargs):
        hub.repos[repo].commit("main", dict.fromkeys(files, b"other"), "other")
        return read_table(path, **kwargs)

    monkeypatch.setattr(module, "read_gene_table", then_the_branch_moves)
    options = {"file": "RandomMask.ckpt", "genes": "var.csv"}
    model = MaskedAutoencoder.from_pretrained(repo, **options, revision=revision)
    assert model.source["revision"] == commit
    monkeypatch.setattr(module, "read_gene_table", read_table)
    again = MaskedAutoencoder.from_pretrained(repo, **options, revision=commit)
    assert again.source == model.source


def test_paths_of_the_user_are_not_in_the_report(folder):
    model = MaskedAutoencoder.from_pretrained(folder, file="RandomMask.ckpt", genes="var.csv")
    assert str(folder) not in str(model.source)


def test_data_can_be_attached(folder, cells):
    model = MaskedAutoencoder.from_pretrained(
        folder, file="RandomMask.ckpt", genes="var.csv", adata=cells, legacy_output=True
    )
    assert model.get_reconstruction().shape == (30, G)


def test_wrong_digest(folder):
    with pytest.raises(BundleError, match="is another file: its sha256 is"):
        MaskedAutoencoder.from_pretrained(
            folder, file="RandomMask.ckpt", genes="var.csv", sha256="0" * 64
        )


def test_own_models_are_loaded_as_ever(read, cells, tmp_path):
    model, _ = read("autoencoder")
    model.save(tmp_path / "own")
    loaded = MaskedAutoencoder.from_pretrained(tmp_path / "own", adata=cells)
    np.testing.assert_array_equal(
        loaded.get_latent_representation(), model.get_latent_representation(cells)
    )
    for argument in ({"genes": "var.csv"}, {"legacy_output": True}, {"pretext": "x"}):
        with pytest.raises(ValueError, match=f"`{next(iter(argument))}` is for checkpoints"):
            MaskedAutoencoder.from_pretrained(tmp_path / "own", **argument)
