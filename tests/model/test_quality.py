"""Embeddings of real cells against PCA: all genes, defaults, 15-NN 5-fold macro-F1."""

from __future__ import annotations

from contextlib import nullcontext

import anndata
import numpy as np
import pytest

import scssl
from scssl._errors import ScsslWarning

pytestmark = pytest.mark.realdata

# Macro-F1 of PCA-50 on the same log-normalised genes, by the same protocol.
PCA = {"pbmc3k": 0.913, "mouse_bladder": 0.848, "cbmc_cite": 0.900, "kang_ifnb": 0.898}


def macro_f1(adata, seed):
    scssl.model.MaskedAutoencoder.setup_anndata(adata)
    model = scssl.model.MaskedAutoencoder(adata, rng=seed)
    model.train(rng=seed, progress=False)
    scssl.tl.embed(adata, model)
    score = scssl.tl.knn_score(adata, "cell_type", use_rep="X_ssl", n_permutations=1)
    return float(score["macro_f1"].iloc[0])


def test_one_seed_on_kang(data_file):
    adata = anndata.read_h5ad(data_file("kang_ifnb.h5ad"))
    assert macro_f1(adata, 0) > PCA["kang_ifnb"] - 0.03


@pytest.mark.slow
@pytest.mark.parametrize("name", list(PCA))
def test_five_seeds(data_file, name):
    adata = anndata.read_h5ad(data_file(f"{name}.h5ad"))
    scores = [macro_f1(adata, seed) for seed in range(5)]
    print(name, np.round(scores, 3), f"mean {np.mean(scores):.3f}", f"PCA {PCA[name]}")
    assert np.mean(scores) > PCA[name] - 0.03, scores


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("pbmc3k", "counts"),
        ("kang_ifnb", "counts"),
        ("pollen_log", "logarithms of base 10 of raw counts"),
        (
            "merfish_hypothalamus_3slices",
            "logarithms of base 2 of normalised values that sum to 249",
        ),
    ],
)
def test_input_is_recognised(data_file, name, form):
    adata = anndata.read_h5ad(data_file(f"{name}.h5ad"))
    said = nullcontext() if form == "counts" else pytest.warns(ScsslWarning, match=form)
    with said:
        scssl.model.MaskedAutoencoder.setup_anndata(adata)
    setup = scssl.model.MaskedAutoencoder(adata, hidden_dims=(8,)).setup
    assert setup.input_kind == ("counts" if form == "counts" else "lognorm")
    assert str(setup.expected).startswith(form)
