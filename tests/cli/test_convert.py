"""``scssl convert`` makes of a published checkpoint a model that ``scssl embed`` takes."""

from __future__ import annotations

import inspect
from functools import partial

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import scssl
from scssl.cli import main
from scssl.cli._commands import COMMANDS
from scssl.model import CellPLM, CellTypeClassifier, MaskedAutoencoder
from scssl.published._gene_table import GeneOrder

G = 60


@pytest.fixture
def folder(tmp_path, published, monkeypatch):
    """A checkpoint of few genes, their table, and cells."""
    ids = published.ensembl_ids(G)
    symbols = [f"SYM{i}" for i in range(G)]
    pd.DataFrame({"feature_id": ids, "feature_name": symbols}).to_csv(tmp_path / "var.csv")
    counts = np.random.default_rng(0).poisson(1.5, (30, G)).astype(np.float32)
    ad.AnnData(counts, var=pd.DataFrame(index=symbols)).write_h5ad(tmp_path / "cells.h5ad")
    order = GeneOrder(G, tuple(ids[:5]), tuple(ids[-5:]))
    place = scssl.published._ssl_in_scg
    monkeypatch.setattr(place, "open_published", partial(place.open_published, order=order))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def convert(*arguments):
    return main(["convert", "--genes", "var.csv", "--out", "model", *arguments])


def test_convert_and_embed(folder, published, capsys):
    state = published.checkpoint(folder / "BYOL.ckpt", "byol", G)
    assert convert("--file", "BYOL.ckpt", "--pretext", "noise") == 0
    said = capsys.readouterr().out
    assert "weights of BYOL.ckpt from a folder: an encoder trained by BYOL" in said
    assert "tensors used: 8" in said
    assert "tensors not used: 20 (the same as others)" in said
    assert "tensors not used: 2 (untrained: the loss saw the layer before it)" in said
    assert "note: There is no decoder." in said
    assert "scssl embed cells.h5ad --model model --out embedded.h5ad" in said

    assert main(["embed", "cells.h5ad", "--model", "model", "--out", "embedded.h5ad"]) == 0
    embedded = ad.read_h5ad("embedded.h5ad")
    x = published.normalize(np.asarray(embedded.X, dtype=np.float64))
    expected = published.embedding(state, "byol", x)
    np.testing.assert_allclose(embedded.obsm["X_ssl"], expected, rtol=0, atol=2e-6)
    assert embedded.uns["X_ssl"]["n_genes_matched"] == G
    assert MaskedAutoencoder.load("model").source["pretext"] == "noise"


def test_legacy_output(folder, published):
    state = published.checkpoint(folder / "a.ckpt", "autoencoder", G)
    assert convert("--file", "a.ckpt", "--legacy-output") == 0
    adata = ad.read_h5ad("cells.h5ad")
    x = published.normalize(np.asarray(adata.X, dtype=np.float64))
    found = MaskedAutoencoder.load("model").get_reconstruction(adata)
    np.testing.assert_allclose(found, published.reconstruction(state, x), rtol=0, atol=1e-6)


def test_classifier(folder, published):
    published.checkpoint(folder / "c.ckpt", "classifier", G)
    names = [f"type {i:03d}" for i in range(164)]
    (folder / "types.txt").write_text("\n".join(names) + "\n\n")
    assert convert("--file", "c.ckpt", "--classes", "types.txt", "--labels-key", "kind") == 0
    model = CellTypeClassifier.load("model")
    assert model.classes == names
    assert model.setup.labels_key == "kind"
    # Without names, the encoder is what there is to convert.
    assert convert("--file", "c.ckpt", "--overwrite") == 0
    assert MaskedAutoencoder.load("model").source["family"] == "classifier"


def test_from_the_hub(folder, published, monkeypatch):
    published.checkpoint(folder / "a.ckpt", "autoencoder", G)
    asked = []

    def fetch_file(repo_id, filename, **kwargs):
        asked.append((repo_id, filename, kwargs["revision"]))
        return folder / "a.ckpt"

    monkeypatch.setattr(scssl.published._place, "fetch_file", fetch_file)
    repo = ("--repo", "TillR/sc_pretrained", "--revision", "v1")
    assert convert(*repo, "--file", "GPMask.ckpt") == 0
    assert asked == [("TillR/sc_pretrained", "Pretrained Models/GPMask.ckpt", "v1")]


def test_a_cellplm(tmp_path, cellplm, capsys, monkeypatch):
    config, state = cellplm.checkpoint(tmp_path / "ckpt", "20231027_85M", "vae", G)
    symbols = [f"SYM{i}" for i in range(G)]
    table = pd.DataFrame({"feature_id": config["gene_list"], "feature_name": symbols})
    table.to_csv(tmp_path / "genes.csv", index=False)
    counts = np.random.default_rng(0).poisson(1.5, (30, G)).astype(np.float32)
    ad.AnnData(counts, var=pd.DataFrame(index=symbols)).write_h5ad(tmp_path / "cells.h5ad")
    monkeypatch.chdir(tmp_path)
    file = ["convert", "--file", "ckpt/20231027_85M.best.ckpt", "--out", "model"]
    assert main([*file, "--symbols", "genes.csv", "--variant", "vae"]) == 0
    said = capsys.readouterr().out
    assert "weights of 20231027_85M.best.ckpt from a folder: a CellPLM with a Gaussian" in said
    assert "tensors used: 61" in said
    assert "tensors not used: 2 (positional encoding, which is replaced by zero" in said
    assert main(["embed", "cells.h5ad", "--model", "model", "--out", "embedded.h5ad"]) == 0
    expected = cellplm.embedding(config, state, counts)
    found = ad.read_h5ad("embedded.h5ad").obsm["X_ssl"]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)

    capsys.readouterr()
    assert main([*file, "--overwrite", "--variant", "gmvae"]) == 2
    assert "has the tensors of variant='vae', not 'gmvae'" in capsys.readouterr().err
    for option in (["--pretext", "x"], ["--legacy-output"], ["--classes", "genes.csv"]):
        assert main([*file, "--overwrite", *option]) == 2
        assert f"{option[0]} does not apply: ckpt/20231027" in capsys.readouterr().err
    assert main(["convert", "--file", "cells.h5ad", "--out", "m", "--variant", "vae"]) == 2
    assert "--variant does not apply: cells.h5ad is no CellPLM" in capsys.readouterr().err


def test_a_cellplm_of_the_hub(tmp_path, cellplm, hub, monkeypatch):
    cellplm.checkpoint(tmp_path / "ckpt", "one", "gmvae", G)
    files = {path.name: path.read_bytes() for path in (tmp_path / "ckpt").iterdir()}
    commit = hub.add("lab/cellplm", files).branches["main"]
    monkeypatch.chdir(tmp_path)
    file = ["--repo", "lab/cellplm", "--file", "one.best.ckpt"]
    assert main(["convert", *file, "--out", "model"]) == 0
    assert CellPLM.load("model").source["revision"] == commit


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--file", "absent.ckpt"], "There is no file absent.ckpt."),
        (["--file", "cells.h5ad"], "is not a checkpoint of torch"),
        (["--file", "a.ckpt", "--sha256", "00"], "is another file"),
        (["--file", "a.ckpt", "--classes", "absent.txt"], "There is no file absent.txt."),
        (["--file", "a.ckpt", "--classes", "var.csv"], "is no classifier: it is an autoencoder"),
        (["--file", "a.ckpt", "--classes", "a.ckpt"], "a.ckpt is no text"),
        (["--file", "a.ckpt", "--classes", "var.csv", "--legacy-output"], "for autoencoders"),
        (["--file", "a.ckpt", "--labels-key", "x"], "pass --classes too"),
    ],
)
def test_errors_are_one_message_and_nothing_is_written(
    arguments, message, folder, published, capsys
):
    published.checkpoint(folder / "a.ckpt", "autoencoder", G)
    before = set(folder.iterdir())
    assert convert(*arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("scssl: error: ")
    assert message in error
    assert set(folder.iterdir()) == before


def test_without_pyarrow_the_message_says_what_to_install(folder, published, capsys, monkeypatch):
    published.checkpoint(folder / "a.ckpt", "autoencoder", G)
    (folder / "var.parquet").write_bytes(b"PAR1")

    def fail(path):
        raise ImportError(path)

    monkeypatch.setattr(pd, "read_parquet", fail)
    assert main(["convert", "--file", "a.ckpt", "--out", "model"]) == 2
    assert (
        "Reading var.parquet needs pyarrow: `pip install 'scssl[published]'`"
        in capsys.readouterr().err
    )


def test_a_model_is_replaced_only_when_asked(folder, published, capsys):
    published.checkpoint(folder / "a.ckpt", "autoencoder", G)
    assert convert("--file", "a.ckpt") == 0
    assert convert("--file", "a.ckpt") == 2
    assert (
        "model exists already. Give another --out, or replace it: `--overwrite`"
        in capsys.readouterr().err
    )
    assert convert("--file", "a.ckpt", "--overwrite") == 0


def test_options_are_those_of_the_python_api():
    models = (MaskedAutoencoder, CellTypeClassifier, CellPLM)
    not_typed = {"source", "file", "prefix", "classes", "adata", "device", "token", "kwargs"}
    taken = {n for one in models for n in inspect.signature(one.from_pretrained).parameters}
    groups = COMMANDS["convert"].options(["--file", "a.ckpt"])
    assert {name for group in groups.values() for name in group} == taken - not_typed
    classifier = inspect.signature(CellTypeClassifier.from_pretrained).parameters
    assert classifier["labels_key"].default == "cell_type"


def test_help(capsys):
    with pytest.raises(SystemExit):
        main(["convert", "--help"])
    text = capsys.readouterr().out
    assert "scssl convert --file RandomMask.ckpt --genes var.parquet --out random_mask" in text
    with pytest.raises(SystemExit):
        main(["convert", "--file", "a.ckpt", "--help"])
    text = capsys.readouterr().out
    assert "CellPLM.from_pretrained:" in text
    assert "--variant auto|gmvae|vae|ae" in text
