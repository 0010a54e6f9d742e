"""Clusters are compared with labels as the definitions say, from seeds, and blind to the labels."""

from __future__ import annotations

from math import comb

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from scipy.spatial.distance import cdist

import scssl
from scssl._random import derive_seed
from scssl.tl import _cluster_metrics
from scssl.tl._cluster_metrics import _agreement, clusterings, silhouette_of


def make(sizes=(60, 40, 20), shift=3.0, n_dims=4, seed=0):
    generator = np.random.default_rng(seed)
    codes = generator.permutation(np.repeat(np.arange(len(sizes)), sizes))
    values = generator.normal(size=(len(codes), n_dims))
    values += shift * generator.normal(size=(len(sizes), n_dims))[codes]
    obs = pd.DataFrame({"label": [f"type {code}" for code in codes]})
    obs.index = [f"cell{i}" for i in range(len(codes))]
    return ad.AnnData(
        obs=obs, obsm={"X_ssl": values, "X_noise": generator.normal(size=(len(codes), 3))}
    )


def ari(one, other):
    """Adjusted Rand index from pairs of cells."""
    table = pd.crosstab(one, other).to_numpy()
    both = sum(comb(int(n), 2) for n in table.ravel())
    rows = sum(comb(int(n), 2) for n in table.sum(1))
    columns = sum(comb(int(n), 2) for n in table.sum(0))
    expected = rows * columns / comb(len(one), 2)
    return (both - expected) / ((rows + columns) / 2 - expected)


def nmi(one, other):
    joint = pd.crosstab(one, other).to_numpy() / len(one)

    def entropy(p):
        p = p[p > 0]
        return -(p * np.log(p)).sum()

    a, b = entropy(joint.sum(1)), entropy(joint.sum(0))
    return (a + b - entropy(joint.ravel())) / ((a + b) / 2)


def silhouette(values, codes):
    distance, found = cdist(values, values), []
    for i, code in enumerate(codes):
        mean = {
            c: distance[i, codes == c].sum() / ((codes == c).sum() - (c == code))
            for c in np.unique(codes)
        }
        a, b = mean.pop(code), min(mean.values())
        found.append((b - a) / max(a, b))
    return np.mean(found)


def test_agreement_equals_the_definitions():
    generator = np.random.default_rng(0)
    one = generator.integers(0, 4, 100)
    other = np.where(generator.random(100) < 0.6, one, generator.integers(0, 6, 100))
    found = _agreement(one, other, "leiden", 0)
    assert found["ari"] == pytest.approx(ari(one, other))
    assert found["nmi"] == pytest.approx(nmi(one, other))
    assert found["n_clusters"] == len(set(other))


def test_silhouette_equals_the_definition():
    adata = make(shift=1.0)
    codes = adata.obs["label"].str[-1].astype(int).to_numpy()
    found = scssl.tl.cluster_metrics(adata, "label", n_repeats=1).loc[0, "silhouette"]
    assert found == pytest.approx(silhouette(adata.obsm["X_ssl"], codes))
    assert 0.01 < found < 0.9


def test_leiden_equals_scanpy():
    adata = make(shift=1.0)
    found = [c for m, _, c in clusterings(adata.obsm["X_ssl"], 3, 0.7, 10, 2, 5) if m == "leiden"]
    state = derive_seed(5, "graph") % 2**31
    sc.pp.neighbors(adata, 10, use_rep="X_ssl", random_state=state)
    for repeat in range(2):
        state = derive_seed(5, "leiden", repeat) % 2**31
        options = {"flavor": "igraph", "n_iterations": 2, "directed": False}
        sc.tl.leiden(adata, 0.7, random_state=state, **options)
        assert ari(found[repeat], adata.obs["leiden"].astype(int)) == 1


def test_rows_summarise_the_repeats():
    adata = make(shift=1.0)
    scores = scssl.tl.cluster_metrics(adata, "label", use_rep=["X_ssl", "X_noise"], n_repeats=4)
    repeats = pd.DataFrame(scores.attrs["repeats"])
    assert repeats.groupby(["use_rep", "method"]).size().tolist() == [4] * 4
    for place, key in enumerate(["X_ssl", "X_noise"]):
        for method in ("leiden", "kmeans"):
            rows = repeats[(repeats["use_rep"] == key) & (repeats["method"] == method)]
            for name in ("ari", "nmi", "n_clusters"):
                row = scores.loc[place]
                assert row[f"{method}_{name}"] == pytest.approx(rows[name].mean())
                assert row[f"{method}_{name}_sd"] == pytest.approx(np.std(rows[name], ddof=1))
    assert scores["kmeans_n_clusters"].tolist() == [3, 3], "as many as labels"
    assert scores.loc[0, "kmeans_ari_sd"] > 0, "repeats differ"
    pd.testing.assert_frame_equal(adata.uns["cluster_metrics"]["scores"], scores)


def test_separate_types_and_noise():
    adata = make(shift=30.0)
    scores = scssl.tl.cluster_metrics(
        adata, "label", use_rep=["X_ssl", "X_noise"], resolution=0.1, n_repeats=3
    )
    assert scores.loc[0, ["leiden_ari", "leiden_nmi"]].tolist() == pytest.approx([1, 1])
    assert pd.DataFrame(scores.attrs["repeats"])["ari"].max() == 1, "of k-means too"
    assert scores.loc[0, "silhouette"] > 0.8
    assert abs(scores.loc[1, "kmeans_ari"]) < 0.1
    assert abs(scores.loc[1, "silhouette"]) < 0.1


def test_clusters_do_not_depend_on_the_labels(monkeypatch):
    """Other labels, the same in number: the same clusters, whatever they agree with."""
    seen = []

    def remember(codes, clusters, method, repeat):
        seen.append(clusters)
        return _agreement(codes, clusters, method, repeat)

    monkeypatch.setattr(_cluster_metrics, "_agreement", remember)
    adata = make(shift=1.0)
    adata.obs["shuffled"] = np.random.default_rng(1).permutation(adata.obs["label"])
    true = scssl.tl.cluster_metrics(adata, "label", n_repeats=2)
    false = scssl.tl.cluster_metrics(adata, "shuffled", n_repeats=2)
    assert len(seen) == 8
    for one, other in zip(seen[:4], seen[4:], strict=True):
        np.testing.assert_array_equal(one, other)
    assert true.loc[0, "leiden_ari"] > false.loc[0, "leiden_ari"] + 0.1


def test_resolution_makes_clusters():
    adata = make(shift=1.0)
    few, many = (
        scssl.tl.cluster_metrics(adata, "label", resolution=r, n_repeats=1) for r in (0.1, 3)
    )
    assert few.loc[0, "leiden_n_clusters"] < many.loc[0, "leiden_n_clusters"]
    assert np.isnan(few.loc[0, "leiden_ari_sd"])


def test_silhouette_of_a_draw(monkeypatch):
    values = np.random.default_rng(0).normal(size=(1200, 3))
    codes = (values[:, 0] > 0).astype(int)
    whole, n = silhouette_of(values, codes, 0)
    assert n == 1200
    monkeypatch.setattr(_cluster_metrics, "_SILHOUETTE_CELLS", 600)
    part, n = silhouette_of(values, codes, 0)
    assert n == 600
    assert part == pytest.approx(whole, abs=0.03)
    assert part != whole
    assert np.isnan(silhouette_of(values, np.zeros(1200, int), 0)[0])


def test_what_is_refused():
    adata = make()
    metrics = scssl.tl.cluster_metrics
    with pytest.raises(ValueError, match="`resolution` must be a positive number, found 0"):
        metrics(adata, "label", resolution=0)
    with pytest.raises(ValueError, match="each once, found \\['X_ssl', 'X_ssl'\\]"):
        metrics(adata, "label", use_rep=["X_ssl", "X_ssl"])
    with pytest.raises(ValueError, match="n_neighbors=120 is more than the 119 other cells"):
        metrics(adata, "label", n_neighbors=120)
    adata.obs["one"], adata.obs["own"] = "T", adata.obs_names
    for key in ("one", "own"):
        with pytest.raises(ValueError, match="Needs at least two labels and more cells"):
            metrics(adata, key)
    assert not adata.uns
