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
from scssl.cli._convert import CONVERT_OPTIONS
from scssl.hub._gene_table import GeneOrder
from scssl.model import CellTypeClassifier, MaskedAutoencoder

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
    for module in ("_published", "_published_classifier"):
        place = getattr(scssl.model, module)
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

    monkeypatch.setattr(scssl.model._published, "fetch_file", fetch_file)
    repo = ("--repo", "TillR/sc_pretrained", "--revision", "v1")
    assert convert(*repo, "--file", "GPMask.ckpt") == 0
    assert asked == [("TillR/sc_pretrained", "Pretrained Models/GPMask.ckpt", "v1")]


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
    assert "Reading var.parquet needs pyarrow: pip install pyarrow" in capsys.readouterr().err


def test_a_model_is_replaced_only_when_asked(folder, published, capsys):
    published.checkpoint(folder / "a.ckpt", "autoencoder", G)
    assert convert("--file", "a.ckpt") == 0
    assert convert("--file", "a.ckpt") == 2
    assert "model exists already. Give another --out, or --overwrite" in capsys.readouterr().err
    assert convert("--file", "a.ckpt", "--overwrite") == 0


def test_options_are_those_of_the_python_api():
    autoencoder = inspect.signature(MaskedAutoencoder.from_pretrained).parameters
    classifier = inspect.signature(CellTypeClassifier.from_pretrained).parameters
    not_typed = {"source", "file", "classes", "adata", "device", "token"}
    assert set(CONVERT_OPTIONS) == (set(autoencoder) | set(classifier)) - not_typed
    assert classifier["labels_key"].default == "cell_type"


def test_help(capsys):
    with pytest.raises(SystemExit):
        main(["convert", "--help"])
    text = capsys.readouterr().out
    assert "scssl convert --file RandomMask.ckpt --genes var.parquet --out random_mask" in text
