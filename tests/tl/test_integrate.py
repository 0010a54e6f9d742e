"""Batches come together in one call, by a method that suits the number of cells."""

from __future__ import annotations

import logging

import anndata as ad
import numpy as np
import pytest
from scipy import sparse
from sklearn.decomposition import PCA

import scssl
from scssl.tl._common import nearest
from scssl.tl._integrate import moved_together
from scssl.tl._mixing import inverse_simpson
from scssl.tl._recommended import plan_for


def make(n_cells: int, seed: int = 0, n_genes: int = 40) -> ad.AnnData:
    """Counts of three types in two batches, in the second of which half of the genes count double."""
    rng = np.random.default_rng(seed)
    kind = rng.integers(3, size=n_cells)
    second = rng.random(n_cells) < 0.4
    rate = np.where(np.arange(n_genes) % 3 == kind[:, None], 6.0, 1.0)
    rate[second, : n_genes // 2] *= 2.5
    adata = ad.AnnData(sparse.csr_matrix(rng.poisson(rate).astype(np.float32)))
    adata.obs_names = [f"cell{seed}_{i}" for i in range(n_cells)]
    adata.var_names = [f"GENE{i}" for i in range(n_genes)]
    adata.obs["kind"] = np.array(["B", "NK", "T"])[kind]
    adata.obs["run"] = np.where(second, "two", "one")
    return adata


def test_few_cells_are_corrected_and_it_is_said_why(caplog):
    adata = make(200)
    before = (adata.X.copy(), list(adata.uns), list(adata.obsp))
    with caplog.at_level(logging.INFO, logger="scssl"):
        scssl.tl.integrate(adata, "run")
    assert "MNN: 200 cells of 2 batches are too few for a network" in caplog.text
    written = adata.uns.pop("X_integrated")
    assert written["method"] == "MNN"
    assert "too few" in written["reason"]
    assert (adata.X != before[0]).nnz == 0
    assert (list(adata.uns), list(adata.obsp)) == before[1:]
    again = scssl.tl.integrate(make(200), "run", copy=True)
    np.testing.assert_array_equal(again.obsm["X_integrated"], adata.obsm["X_integrated"])
    dense = adata.X.toarray()
    sums = dense.sum(axis=1, keepdims=True)
    lognorm = np.log1p(np.median(sums) * dense / sums)
    adata.obsm["X_before"] = PCA(20, random_state=0).fit_transform(lognorm)
    second = (adata.obs["run"] == "two").to_numpy(dtype=int)
    kind = adata.obs["kind"].to_numpy()
    mixed = []
    for key in ("X_before", "X_integrated"):
        near = nearest(adata.obsm[key], adata.obsm[key], 16)[:, 1:]
        mixed.append(inverse_simpson(second[near], 2))
    assert mixed[1] > mixed[0] + 0.15
    assert (kind[near] == kind[:, None]).mean() > 0.9


def test_more_cells_are_embedded_by_a_network():
    adata = make(1000)
    scssl.tl.integrate(adata, "run", max_epochs=1, key_added="X_two")
    assert adata.uns["X_two"]["method"] == "SimCLR"
    assert adata.uns["X_two"]["params"]["n_genes"] == 40
    # The same as the steps by hand.
    own = make(1000)
    scssl.pp.cross_batch_neighbors(own, "run", method="mnn")
    scssl.model.SimCLR.setup_anndata(own, batch_key="run")
    model = scssl.model.SimCLR(own, augmentation="integration", negatives="own_batch", rng=0)
    model.train(max_epochs=1, progress=False, rng=0)
    np.testing.assert_array_equal(adata.obsm["X_two"], model.get_latent_representation())


def test_any_model_can_be_named_and_variable_genes_are_used():
    adata = make(120)
    adata.layers["counts"], adata.X = adata.X, None
    adata.var["highly_variable"] = np.arange(40) < 30
    scssl.tl.integrate(adata, "run", method="MaskedAutoencoder", layer="counts", max_epochs=1)
    written = adata.uns["X_integrated"]
    assert (written["method"], written["params"]["n_genes"]) == ("MaskedAutoencoder", 30)
    with pytest.raises(ValueError, match="adata.X is empty.*`layer='counts'`"):
        scssl.tl.integrate(adata, "run")


@pytest.mark.parametrize("method", ["MNN", "VICReg"])
def test_what_values_are_is_doubted_once_and_under_the_name_of_the_user(method):
    adata = scssl.datasets.simulated(120, 30, n_batches=2)
    shares = adata.X.toarray() / adata.X.sum(axis=1)
    adata.layers["log2"] = np.log2(1 + 1e4 * np.asarray(shares))
    with pytest.warns(scssl.ScsslWarning, match="logarithms of base 2") as told:
        scssl.tl.integrate(adata, "batch", method=method, layer="log2", max_epochs=1)
    told = [str(one.message) for one in told if "base 2" in str(one.message)]
    assert len(told) == 1
    assert told[0].startswith('adata.layers["log2"] holds')
    # It takes no such argument.
    assert "input=" not in told[0]


def test_what_cannot_be_integrated_is_refused():
    adata = make(60)
    with pytest.raises(ValueError, match="Did you mean `method='SimCLR'`"):
        scssl.tl.integrate(adata, "run", method="SimCRL")
    with pytest.raises(ValueError, match="`method` must be .*found 'CellTypeClassifier'"):
        scssl.tl.integrate(adata, "run", method="CellTypeClassifier")
    adata.obs["run"] = "one"
    with pytest.raises(ValueError, match="only the batch 'one'"):
        scssl.tl.integrate(adata, "run")


def test_plan_is_by_the_number_of_cells_and_of_batches():
    assert plan_for("auto", 999, 2).method == plan_for("auto", 999, 40).method == "MNN"
    assert plan_for("auto", 1000, 2).method == plan_for("auto", 1000, 16).method == "SimCLR"
    assert plan_for("auto", 1000, 17).method == "VICReg"
    assert "17 batches, of which a step" in plan_for("auto", 1000, 17).reason
    assert plan_for("BYOL", 10, 2).method == "BYOL"


def test_cells_move_half_the_way_of_those_near_them_by_hand():
    rng = np.random.default_rng(0)
    codes = np.repeat([0, 1, 2], (12, 20, 4))
    values = rng.normal(size=(36, 3)).astype(np.float32)
    linked = np.zeros((36, 36))
    for a, b in [(0, 12), (0, 13), (3, 20), (5, 31), (7, 14)]:
        linked[a, b] = linked[b, a] = rng.random()
    expected = values.astype(float)
    for _ in range(3):
        now = expected.copy()
        for cell in range(36):
            anchors = [c for c in np.flatnonzero(codes == codes[cell]) if linked[c].any()]
            if not anchors:
                continue
            distance = {
                (i, j): ((values[i].astype(float) - values[j]) ** 2).sum()
                for i in np.flatnonzero(codes == codes[cell])
                for j in anchors
            }
            k = min(15, len(anchors)) - 1
            width = np.median(
                [
                    sorted(distance[i, j] for j in anchors)[k]
                    for i in np.flatnonzero(codes == codes[cell])
                ]
            )
            weight = np.array([np.exp(-distance[cell, j] / width) for j in anchors])
            ways = [now[linked[j] > 0].mean(axis=0) - now[j] for j in anchors]
            expected[cell] = now[cell] + (weight[:, None] * ways).sum(axis=0) / weight.sum() / 2
    found = moved_together(values, codes, sparse.csr_matrix(linked))
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_array_equal(found[32:], values[32:])
