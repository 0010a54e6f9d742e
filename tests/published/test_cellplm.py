"""A published CellPLM embeds as its own network does, whatever order and names the genes have."""

from __future__ import annotations

import json
import logging

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse

import scssl
from scssl._errors import BundleError, GeneMismatchError
from scssl.model import CellPLM, CellTypeClassifier
from scssl.nn import FlowAttention

G = 40
VARIANTS = ("gmvae", "vae", "ae")


@pytest.fixture(scope="module")
def ids(cellplm):
    return cellplm.ensembl_ids(G)


@pytest.fixture(scope="module")
def cells(ids):
    """Three samples whose cells lie in disorder, with coordinates that must make no difference."""
    rng = np.random.default_rng(0)
    counts = rng.poisson(rng.gamma(1, 1.5, G), (90, G)).astype(np.float32)
    obs = {"slice": rng.choice(["a", "b", "c"], 90), "type": rng.choice(["x", "y"], 90)}
    names = [f"cell{i}" for i in range(90)]
    adata = anndata.AnnData(
        sparse.csr_matrix(counts),
        obs=pd.DataFrame(obs, index=names).astype("category"),
        var=pd.DataFrame(index=ids),
    )
    adata.obsm["spatial"] = rng.uniform(0, 500, (90, 2))
    return adata


@pytest.fixture
def read(tmp_path, cellplm):
    """Write a checkpoint and load it: model, configuration and tensors."""

    def make(latent, *, options=None, **kwargs):
        config, state = cellplm.checkpoint(tmp_path / "ckpt", "one", latent, G, **kwargs)
        model = CellPLM.from_pretrained(tmp_path / "ckpt" / "one", **(options or {}))
        return model, config, state

    return make


def assert_same(found, expected):
    """float32 against float64: to 1e-5."""
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def by_sample(cellplm, config, state, adata):
    """Embedding where each slice is a sequence."""
    counts, slices = adata.X.toarray(), adata.obs["slice"].to_numpy()
    out = np.zeros((len(counts), config["post_latent_dim"]))
    for name in np.unique(slices):
        out[slices == name] = cellplm.embedding(config, state, counts[slices == name])
    return out


# --- the same numbers as the published network ----------------------------------------------------


@pytest.mark.parametrize("latent", VARIANTS)
@pytest.mark.parametrize("chunk_size", [1, 7, 64, 4096])
def test_embedding_equals_the_published_network(latent, chunk_size, read, cellplm, cells):
    model, config, state = read(latent)
    n_set = 0
    for module in model.module.modules():
        if isinstance(module, FlowAttention):
            module.chunk_size = chunk_size
            n_set += 1
    assert n_set == config["enc_layers"]
    expected = cellplm.embedding(config, state, cells.X.toarray())
    found = model.get_latent_representation(cells)
    assert_same(found, expected)
    # Not because both are nothing: cells differ, and see each other.
    assert expected.std(axis=0).min() > 0.05
    alone = cellplm.embedding(config, state, cells.X.toarray()[:1])
    assert np.abs(alone - expected[:1]).max() > 1e-3


@pytest.mark.parametrize("latent", VARIANTS)
@pytest.mark.parametrize("batch_size", [None, 1, 40])
def test_samples_are_sequences(latent, batch_size, read, cellplm, cells):
    model, config, state = read(latent, options={"sample_key": "slice"})
    expected = by_sample(cellplm, config, state, cells)
    assert_same(model.get_latent_representation(cells, batch_size=batch_size), expected)
    rows = np.array([50, 3, 17])
    assert_same(model.get_latent_representation(cells, rows), expected[rows])
    whole = cellplm.embedding(config, state, cells.X.toarray())
    assert np.abs(whole - expected).max() > 1e-3


def test_a_network_of_published_depth(tmp_path, cellplm):
    """Four layers with heads of their published number, and as the file was saved on several devices."""
    sizes = {"enc_hid": 128, "dec_hid": 128, "enc_layers": 4, "post_latent_dim": 64}
    config = cellplm.configuration(300, "gmvae", **sizes)
    del config["enc_head"]
    state = cellplm.state_dict(config, seed=4)
    cellplm.write(tmp_path, "deep", config, state, module=True)
    rng = np.random.default_rng(2)
    counts = sparse.random(200, 300, 0.2, "csr", np.float32, rng=rng)
    counts.data = np.ceil(counts.data * 30)
    adata = anndata.AnnData(counts, var=pd.DataFrame(index=config["gene_list"]))
    model = CellPLM.from_pretrained(tmp_path)
    expected = cellplm.embedding({**config, "enc_head": 8}, state, counts.toarray())
    assert_same(model.get_latent_representation(adata), expected)
    assert len(np.unique(cellplm.clusters({**config, "enc_head": 8}, state, counts.toarray()))) > 1


def test_the_mixture_is_deterministic(read, cellplm, cells):
    model, config, state = read("gmvae")
    first = model.get_latent_representation(cells)
    torch.manual_seed(1)
    np.testing.assert_array_equal(model.get_latent_representation(cells), first)
    assert len(np.unique(cellplm.clusters(config, state, cells.X.toarray()))) > 1
    order = np.random.default_rng(3).permutation(90)
    assert_same(model.get_latent_representation(cells[order].copy()), first[order])


@pytest.mark.parametrize("latent", ["gmvae", "vae"])
def test_imputation_equals_the_published_decoder(latent, read, cellplm, cells, ids):
    model, config, state = read(latent)
    counts = cells.X.toarray()
    mean, dispersion = cellplm.decoded(state, cellplm.embedding(config, state, counts))
    scaled = mean * counts.sum(1, keepdims=True) / mean.sum(1, keepdims=True)
    found = model.get_imputed_expression(cells)
    np.testing.assert_allclose(found, scaled, rtol=1e-4, atol=1e-5)
    assert found.columns.tolist() == ids
    np.testing.assert_allclose(
        model.module.log_dispersion.detach().clamp(np.log(1e-4), np.log(1e4)).exp(),
        dispersion,
        rtol=1e-5,
    )
    # Of genes that were not measured, on the scale of those that were.
    part = cells[:, 8:].copy()
    counts[:, :8] = 0
    mean, _ = cellplm.decoded(state, cellplm.embedding(config, state, counts))
    scaled = mean * counts.sum(1, keepdims=True) / mean[:, 8:].sum(1, keepdims=True)
    found = model.get_imputed_expression(part, genes=ids[:8])
    np.testing.assert_allclose(found, scaled[:, :8], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("latent", VARIANTS)
@pytest.mark.parametrize("sizes", [{"dec_hid": 24}, {"dec_hid": 8, "post_latent_dim": 7}])
def test_other_widths_than_the_released(latent, sizes, tmp_path, cellplm, cells):
    """The published code takes any width of the decoder and of the latent space."""
    config, state = cellplm.checkpoint(tmp_path, "own", latent, len(cells.var_names), **sizes)
    model = CellPLM.from_pretrained(tmp_path)
    counts = cells.X.toarray()
    z = cellplm.embedding(config, state, counts)
    assert_same(model.get_latent_representation(cells), z)
    mean, _ = cellplm.decoded(state, z)
    scaled = mean * counts.sum(1, keepdims=True) / mean.sum(1, keepdims=True)
    found = model.get_imputed_expression(cells)
    np.testing.assert_allclose(found, scaled, rtol=1e-4, atol=1e-5)
    model.save(tmp_path / "saved")
    again = CellPLM.load(tmp_path / "saved").get_imputed_expression(cells)
    np.testing.assert_array_equal(again, found)


def test_positions_are_off(read, cells):
    model, *_ = read("vae", options={"spatial_key": "spatial", "context": "tiles", "halo": 0})
    without, *_ = read("vae")
    assert model.module.encoder.position is None
    # A tile of all cells is the whole, wherever the cells lie.
    expected = without.get_latent_representation(cells)
    assert_same(model.get_latent_representation(cells), expected)
    other = cells.copy()
    other.obsm["spatial"] = other.obsm["spatial"][::-1].copy()
    assert_same(model.get_latent_representation(other), expected)
    # Smaller ones are sequences of their own.
    small = {"spatial_key": "spatial", "context": "tiles", "context_size": 30, "halo": 0}
    model, *_ = read("vae", options=small)
    assert np.abs(model.get_latent_representation(cells) - expected).max() > 1e-3


# --- genes ----------------------------------------------------------------------------------------


def test_names_and_order_of_the_genes_make_no_difference(read, cells, ids):
    model, *_ = read("vae")
    expected = model.get_latent_representation(cells)
    order = np.random.default_rng(1).permutation(G)
    shuffled = cells[:, order].copy()
    np.testing.assert_array_equal(model.get_latent_representation(shuffled), expected)
    shuffled.var_names = [f"{name}.{i % 7 + 1}" for i, name in enumerate(shuffled.var_names)]
    np.testing.assert_array_equal(model.get_latent_representation(shuffled), expected)
    alignment = model.genes.align(shuffled.var_names)
    assert (alignment.n_matched, alignment.n_by_alias) == (G, G)


def test_genes_of_the_data_only_and_of_the_model_only(read, cellplm, cells):
    model, config, state = read("gmvae")
    extra = anndata.AnnData(
        sparse.csr_matrix(np.full((90, 4), 9, dtype=np.float32)),
        obs=pd.DataFrame(index=cells.obs_names),
        var=pd.DataFrame(index=[f"ENSG{i:011d}" for i in range(9000, 9004)]),
    )
    more = anndata.concat([cells, extra], axis="var", merge="first")
    np.testing.assert_array_equal(
        model.get_latent_representation(more), model.get_latent_representation(cells)
    )
    counts = cells.X.toarray()
    counts[:, :15] = 0
    expected = cellplm.embedding(config, state, counts)
    part = more[:, 15:].copy()
    assert_same(model.get_latent_representation(part), expected)
    few = more[:, 35:].copy()
    with pytest.raises(GeneMismatchError, match="Only 5 of the 40 genes .*; min_overlap=0.5 asks"):
        model.get_latent_representation(few)
    counts[:, :35] = 0
    found = model.get_latent_representation(few, min_overlap=0)
    assert_same(found, cellplm.embedding(config, state, counts))


def test_symbols_are_refused_with_the_line_to_type(read, cells, ids):
    model, *_ = read("vae")
    symbols = [f"SYM{'ABCDEFGHIJ'[i % 10]}{i}" for i in range(G)]
    other = cells.copy()
    other.var_names = symbols
    with pytest.raises(GeneMismatchError) as error:
        model.get_latent_representation(other)
    said = str(error.value)
    assert "The model knows Ensembl ids, the data has gene symbols" in said
    assert "a column of adata.var, make that column the names of the genes" in said
    assert "`scssl.pp.match_genes(adata, model, synonyms=TABLE)`" in said
    expected = model.get_latent_representation(cells)
    scssl.pp.match_genes(other, model, synonyms=dict(zip(symbols, ids, strict=True)))
    np.testing.assert_array_equal(model.get_latent_representation(other), expected)


@pytest.mark.parametrize("kind", ["file", "columns", "index"])
def test_symbols_by_a_table(kind, read, cells, ids, tmp_path):
    symbols = [f"SYM{i}" for i in range(G)]
    # In another order, with genes that the model does not know, and one without a symbol.
    table = pd.DataFrame({"feature_id": ids, "feature_name": ["", *symbols[1:]]}).iloc[::-1]
    table = pd.concat([table, pd.DataFrame({"feature_id": ["ENSG99"], "feature_name": ["NEW"]})])
    if kind == "file":
        table.to_csv(tmp_path / "genes.csv", index=False)
        table = tmp_path / "genes.csv"
    elif kind == "index":
        table = table.set_index("feature_id").rename_axis(None)
    model, *_ = read("vae", options={"symbols": table})
    other = cells.copy()
    other.var_names = symbols
    counts = cells.copy()
    counts.X = counts.X.toarray() * (np.arange(G) > 0)
    np.testing.assert_array_equal(
        model.get_latent_representation(other), model.get_latent_representation(counts)
    )
    assert model.genes.align(other.var_names).n_matched == G - 1
    assert model.source["genes"]["symbols"]["n"] == G - 1
    assert model.get_imputed_expression(other, genes=["SYM3"]).columns.tolist() == [ids[3]]


def test_tables_of_symbols_that_are_refused(read, ids):
    with pytest.raises(GeneMismatchError, match="has no 'feature_name', but 'feature_id'"):
        read("vae", options={"symbols": pd.DataFrame({"feature_id": ids})})
    table = pd.DataFrame({"feature_id": ["ENSMUSG00000000001"], "feature_name": ["Gnai3"]})
    with pytest.raises(
        GeneMismatchError, match="has none of the 40 genes, .*its ids are like 'ENSMUSG"
    ):
        read("vae", options={"symbols": table})
    with pytest.raises(GeneMismatchError, match="has no .*'feature_id'"):
        read("vae", options={"symbols": table.rename(columns={"feature_id": "id"})})


def test_only_raw_counts(read, cells):
    model, *_ = read("vae")
    other = cells.copy()
    other.layers["raw"] = other.X.copy()
    other.X = sparse.csr_matrix(np.log1p(other.X.toarray()))
    with pytest.raises(ValueError, match="counts"):
        model.get_latent_representation(other)
    layered, *_ = read("vae", options={"layer": "raw"})
    np.testing.assert_array_equal(
        layered.get_latent_representation(other), model.get_latent_representation(cells)
    )
    assert (model.setup.input_kind, model.setup.target_sum) == ("counts", None)


# --- the model ------------------------------------------------------------------------------------


@pytest.mark.parametrize("latent", VARIANTS)
def test_saved_and_loaded(latent, read, cells, tmp_path):
    model, _, state = read(latent, options={"sample_key": "slice"})
    model.save(tmp_path / "model")
    for loaded in (
        CellPLM.load(tmp_path / "model"),
        CellPLM.from_pretrained(tmp_path / "model", adata=cells.copy()),
    ):
        np.testing.assert_array_equal(
            loaded.get_latent_representation(cells), model.get_latent_representation(cells)
        )
        assert loaded.source == model.source
        assert loaded.is_trained_
    versions = cells.copy()
    versions.var_names = [f"{name}.2" for name in cells.var_names]
    scssl.tl.embed(versions, tmp_path / "model")
    np.testing.assert_allclose(
        versions.obsm["X_ssl"], model.get_latent_representation(cells), rtol=0, atol=1e-6
    )
    assert set(loaded.source["used"]) | set(loaded.source["unused"]) == set(state)


def test_what_is_said(read, caplog):
    with caplog.at_level(logging.INFO, logger="scssl"):
        model, *_ = read("gmvae")
    assert "one.best.ckpt is a CellPLM with a mixture of Gaussians" in caplog.text
    assert "69 tensors used, 4 not used. The 7 rows of the batch covariate" in caplog.text
    assert "weights of one.best.ckpt from a folder: a CellPLM with a mixture" in repr(model)
    source = model.source
    assert (source["variant"], source["prefix"]) == ("gmvae", "one")
    assert source["genes"] == {"n": G, "symbols": None}
    assert source["config"]["lamda"] == 5.0
    assert "positions are off" in source["unused"]["embedder.pe_enc.missing_pe"]
    assert model.genes.species == "human"


def test_nothing_of_the_user_is_touched_or_kept(read, cells, tmp_path):
    before = dict(CellPLM._setup_adata_manager_store)
    model, *_ = read("vae", options={"sample_key": "slice", "spatial_key": "spatial"})
    assert before == CellPLM._setup_adata_manager_store
    assert model.adata is None
    assert str(tmp_path) not in str(model.source)
    adata = cells.copy()
    model.get_latent_representation(adata)
    assert not adata.uns
    assert list(adata.obs) == ["slice", "type"]


def test_training_goes_on_from_the_weights(read, cells):
    model, *_ = read("gmvae")
    assert (model._options.kl_weight, model._options.free_bits) == (5.0, 5.0)
    assert int(model.module.warmup) == model._options.warmup_steps == 10_000
    model.attach(cells.copy())
    before = {k: v.clone() for k, v in model.module.state_dict().items()}
    z = model.get_latent_representation()
    model.train(max_epochs=1, batch_size=90, lr=1e-4, progress=False)
    moved = np.abs(model.get_latent_representation() - z).max()
    assert 1e-6 < moved < 0.5
    for name, tensor in model.module.state_dict().items():
        if tensor.is_floating_point():
            # No layer has been started anew.
            assert (tensor - before[name]).abs().max() < 1e-2, name
    assert model.source["variant"] == "gmvae"


def test_fine_tuning_starts_from_it(read, cells):
    model, *_ = read("vae")
    expected = model.get_latent_representation(cells)
    adata = cells.copy()
    tuned = CellPLM.from_ssl_model(model, adata, objective="cross_entropy", labels_key="type")
    assert_same(tuned.get_latent_representation(), expected)
    versions = cells[:, :30].copy()
    versions.var_names = [f"{name}.1" for name in versions.var_names]
    tuned = CellPLM.from_ssl_model(model, versions, objective="supcon", labels_key="type")
    assert_same(
        tuned.get_latent_representation(),
        model.get_latent_representation(versions),
    )
    classifier = CellTypeClassifier.from_ssl_model(model, adata, labels_key="type")
    classifier.train(max_epochs=1, progress=False)
    assert set(classifier.predict(adata)) <= {"x", "y"}


def test_an_annotation_model_embeds_and_does_no_more(read, cells, cellplm, tmp_path):
    model, config, state = read("ae", n_classes=6)
    expected = cellplm.embedding(config, state, cells.X.toarray())
    assert_same(model.get_latent_representation(cells), expected)
    with pytest.raises(ValueError, match="no decoder"):
        model.get_imputed_expression(cells)
    model.save(tmp_path / "model")
    assert_same(CellPLM.load(tmp_path / "model").get_latent_representation(cells), expected)
    adata = cells.copy()
    classifier = CellTypeClassifier.from_ssl_model(model, adata, labels_key="type")
    # The published head is not that of these labels, and none is made up.
    assert classifier.classes == ["x", "y"]
    assert not classifier.is_trained_


def test_an_embedder_of_the_mixture(read, cells, cellplm):
    model, config, state = read("gmvae", decoder=False)
    expected = cellplm.embedding(config, state, cells.X.toarray())
    assert_same(model.get_latent_representation(cells), expected)


def test_arguments_that_the_weights_leave_open(read, cells):
    model, *_ = read("vae", options={"context": "random", "context_size": 30, "kl_weight": 0.5})
    assert (model.module.context.mode, model.module.context.size) == ("random", 30)
    assert model._options.kl_weight == 0.5
    with pytest.raises(TypeError, match="no argument 'surprise'"):
        read("vae", options={"surprise": 1})
    for argument in ({"n_hidden": 32}, {"position": "sinusoidal"}):
        with pytest.raises(TypeError, match=f"`{next(iter(argument))}` is no argument here"):
            read("vae", options=argument)


# --- where files are ------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path, cellplm):
    """A folder with two checkpoints."""
    cellplm.checkpoint(tmp_path / "ckpt", "20230926_85M", "gmvae", G)
    cellplm.checkpoint(tmp_path / "ckpt", "20231027_85M", "vae", G)
    return tmp_path / "ckpt"


def variant_of(*args, **kwargs):
    return CellPLM.from_pretrained(*args, **kwargs).source["variant"]


def test_files_in_a_folder(folder, monkeypatch):
    assert variant_of(folder / "20230926_85M") == "gmvae"
    assert variant_of(folder, prefix="20231027_85M") == "vae"
    assert variant_of(folder, prefix="20231027_85M.best.ckpt") == "vae"
    assert variant_of(folder / "20231027_85M.best.ckpt") == "vae"
    assert variant_of(str(folder / "20230926_85M.config.json"), variant="gmvae") == "gmvae"
    monkeypatch.chdir(folder.parent)
    assert variant_of("ckpt/20231027_85M") == "vae"
    assert variant_of(".", prefix="ckpt/20231027_85M") == "vae"
    monkeypatch.chdir(folder)
    assert variant_of("20231027_85M") == "vae"
    with pytest.raises(ValueError, match=r"holds several .*\(20230926_85M, 20231027_85M\)\. Say"):
        CellPLM.from_pretrained(folder)
    with pytest.raises(ValueError, match="is a file. Pass its folder, or leave out `prefix`"):
        CellPLM.from_pretrained(folder / "20231027_85M.best.ckpt", prefix="20231027_85M")
    with pytest.raises(ValueError, match="has no revisions"):
        CellPLM.from_pretrained(folder, prefix="20231027_85M", revision="main")


def test_files_that_are_not_there(folder):
    with pytest.raises(
        BundleError, match=r"no file other\.config\.json in .*ckpt, which holds '2023"
    ):
        CellPLM.from_pretrained(folder, prefix="other")
    with pytest.raises(BundleError, match="There is no folder .*absent"):
        CellPLM.from_pretrained(folder / "absent", prefix="one")
    (folder / "20230926_85M.best.ckpt").unlink()
    with pytest.raises(BundleError, match=r"no file 20230926_85M\.best\.ckpt in"):
        CellPLM.from_pretrained(folder / "20230926_85M")
    (folder / "20231027_85M.config.json").unlink()
    with pytest.raises(
        BundleError, match=r"two files, 20231027_85M\.config\.json .*pkl is not read"
    ):
        CellPLM.from_pretrained(folder / "20231027_85M")
    with pytest.raises(BundleError, match=r"no file absent\.config\.json"):
        CellPLM.from_pretrained(folder / "absent.best.ckpt")


def test_the_configuration_of_the_other_checkpoint(folder):
    (folder / "20230926_85M.config.json").rename(folder / "20231027_85M.config.json")
    with pytest.raises(BundleError, match=r"says 'gmvae', but .* 'vae'.* same: `variant=\"vae\"`"):
        CellPLM.from_pretrained(folder / "20231027_85M")
    assert variant_of(folder / "20231027_85M", variant="vae") == "vae"


def test_digest(folder):
    model = CellPLM.from_pretrained(folder / "20231027_85M")
    digest = model.source["sha256"]
    assert variant_of(folder / "20231027_85M", sha256=digest) == "vae"
    with pytest.raises(BundleError, match="is another file: its sha256 is"):
        CellPLM.from_pretrained(folder / "20230926_85M", sha256=digest)


def test_on_the_hub(hub, folder):
    repo = "lab/cellplm"
    files = {f"ckpt/{path.name}": path.read_bytes() for path in folder.iterdir()}
    commit = hub.add(repo, files).branches["main"]
    model = CellPLM.from_pretrained(repo, prefix="ckpt/20231027_85M")
    assert (model.source["source"], model.source["revision"]) == (repo, commit)
    assert model.source["variant"] == "vae"
    assert "from lab/cellplm" in repr(model)
    with pytest.raises(FileNotFoundError, match="A checkpoint is two files"):
        CellPLM.from_pretrained(repo, prefix="absent")


def test_a_wrong_configuration_is_found_before_the_weights_are_fetched(folder, monkeypatch):
    path = folder / "20231027_85M.config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "enc_mod": "performer"}))
    monkeypatch.setattr(
        "scssl.published._checkpoint.read_checkpoint", lambda *_, **__: pytest.fail("read")
    )
    with pytest.raises(BundleError, match="enc_mod='performer'"):
        CellPLM.from_pretrained(folder / "20231027_85M")


def test_own_models_are_loaded_as_ever(read, tmp_path):
    model, *_ = read("vae")
    model.save(tmp_path / "own")
    # A checkpoint in the same folder does not take its place.
    (tmp_path / "own" / "x.config.json").write_text("{}")
    assert CellPLM.from_pretrained(tmp_path / "own").source == model.source
    for argument in (
        {"variant": "vae"},
        {"sample_key": "slice"},
        {"layer": "counts"},
        {"context": "tiles"},
        {"sha256": "0" * 64},
    ):
        with pytest.raises(ValueError, match=f"`{next(iter(argument))}` is for checkpoints"):
            CellPLM.from_pretrained(tmp_path / "own", **argument)
    with pytest.raises(BundleError):
        CellPLM.from_pretrained(tmp_path)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("latent", VARIANTS)
def test_on_a_gpu(latent, read, cellplm, cells):
    model, config, state = read(latent, options={"device": "cuda"})
    expected = cellplm.embedding(config, state, cells.X.toarray())
    np.testing.assert_allclose(model.get_latent_representation(cells), expected, atol=1e-4)
