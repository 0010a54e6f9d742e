"""The demo leaves what it says it leaves, and its table says what was measured."""

from __future__ import annotations

import anndata as ad
import pytest

import scssl
from scssl.cli import main
from scssl.cli._demo import EMBEDDINGS, _verdict


def _compared(benchmark):
    """The benchmark, whose arguments are told apart by nothing."""
    found = []

    def compare(*args, **kwargs):
        if not found:
            found.append(benchmark(*args, **kwargs))
        return found[0]

    return compare


@pytest.fixture
def quick(monkeypatch):
    """Two epochs instead of a whole training."""
    Model = scssl.model.MaskedAutoencoder
    train = Model.train
    monkeypatch.setattr(
        Model, "train", lambda self, **kwargs: train(self, **{"max_epochs": 2, **kwargs})
    )


def test_demo(quick, tmp_path, capsys, monkeypatch):
    # What is compared is the same in a second run.
    monkeypatch.setattr(scssl.tl, "benchmark", _compared(scssl.tl.benchmark))
    out = tmp_path / "demo"
    assert main(["demo", "--out", str(out)]) == 0
    text = capsys.readouterr().out
    assert {f.name for f in out.iterdir()} == {"adata.h5ad", "model", "history.png", "umap.png"}
    adata = ad.read_h5ad(out / "adata.h5ad")
    assert set(EMBEDDINGS) <= set(adata.obsm)
    for key, name in EMBEDDINGS.items():
        found = [
            scssl.tl.knn_probe(adata, "bulk_labels", use_rep=key, rng=seed)["macro_f1"][0]
            for seed in range(5)
        ]
        (line,) = (line for line in text.splitlines() if line.strip().startswith(name + " "))
        assert line.removeprefix(f"  {name}").split()[0] == f"{sum(found) / 5:.3f}"
    assert "scssl train cells.h5ad --out my_model" in text
    loaded = scssl.tl.embed(adata, out / "model", copy=True)
    assert (loaded.obsm["X_ssl"] == adata.obsm["X_ssl"]).all()
    assert main(["demo", "--out", str(out)]) == 0, "a second run replaces the first"


def test_demo_leaves_folders_of_others_alone(tmp_path, capsys):
    (tmp_path / "thesis.txt").write_text("years of work")
    assert main(["demo", "--out", str(tmp_path)]) == 2
    assert "holds other files" in capsys.readouterr().err
    assert main(["demo", "--out", str(tmp_path / "thesis.txt")]) == 2
    assert "is a file, and should be a folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("paired", "words"),
    [
        ((0.1, 0.05, 0.15), "The trained encoder is 0.100 above PCA"),
        ((-0.12, -0.2, -0.04), "PCA is 0.120 above the trained encoder"),
        ((0.03, -0.01, 0.07), "are level"),
    ],
)
def test_verdict_is_honest(paired, words):
    assert words in _verdict(*paired)
