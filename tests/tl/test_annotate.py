"""From two matrices to labels in one call, with what is doubtful said."""

from __future__ import annotations

import logging

import anndata as ad
import numpy as np
import pytest
from scipy import sparse

import scssl
from scssl import GeneMismatchError, ScsslWarning
from scssl.tl._common_axes import common_axes

KINDS = np.array(["B", "DC", "NK", "T"])


def make(n_cells, kinds, *, seed, run=0, n_genes=48):
    """Counts of some types in a batch of its own, which multiplies genes by factors of its own."""
    rng = np.random.default_rng(seed)
    kind = rng.choice(kinds, n_cells)
    rate = np.where(np.arange(n_genes) % 4 == np.searchsorted(KINDS, kind)[:, None], 8.0, 1.0)
    rate = rate * np.random.default_rng(run).lognormal(0, 0.3 if run else 0, n_genes)
    adata = ad.AnnData(sparse.csr_matrix(rng.poisson(rate).astype(np.float32)))
    adata.obs_names = [f"cell{seed}_{i}" for i in range(n_cells)]
    adata.var_names = [f"GENE{i}" for i in range(n_genes)]
    adata.obs["kind"] = kind
    adata.obs["run"] = f"run{run}"
    return adata


@pytest.fixture
def pair():
    """A reference without dendritic cells, and a query of another batch with its genes in another order."""
    reference = make(150, ["B", "NK", "T"], seed=1)
    query = make(100, KINDS, seed=2, run=1)[:, ::-1].copy()
    return reference, query[:, 3:].copy()


def share_right(query):
    known = query.obs["kind"] != "DC"
    return (query.obs["ssl_label"].astype(str) == query.obs["kind"])[known].mean()


def test_labels_of_a_query_from_another_batch(pair, caplog):
    reference, query = pair
    before = reference.copy()
    with caplog.at_level(logging.INFO, logger="scssl"):
        assert scssl.tl.annotate(reference, query, "kind") is None
    assert share_right(query) > 0.95
    unknown = query.obs["ssl_label_call"] == "unknown"
    assert unknown[query.obs["kind"] == "DC"].mean() > 0.6
    assert unknown[query.obs["kind"] != "DC"].mean() < 0.15
    assert list(query.obs.columns[2:]) == [
        "ssl_label",
        "ssl_label_confidence",
        "ssl_label_novelty",
        "ssl_label_call",
    ]
    assert query.obsm["ssl_label"].shape == (100, 20)
    summary = query.uns["ssl_label"]["summary"]
    assert summary["share_unknown"] == pytest.approx(unknown.mean())
    assert (summary["n_cells"], summary["n_reference"], summary["n_labels_found"]) == (100, 150, 3)
    lines = next(one.getMessage() for one in caplog.records if "labelled by" in one.getMessage())
    assert len(lines.split("\n")) == 4
    assert f"Unknown: {unknown.mean():.1%} ({unknown.sum()} cells)" in lines
    assert list(reference.obs) == list(before.obs)
    assert not list(reference.obsm)
    assert not reference.uns
    assert "45 genes are in both" in caplog.text


def test_the_same_seed_gives_the_same_bits_and_a_copy_leaves_the_query(pair):
    reference, query = pair
    first = scssl.tl.annotate(reference, query, "kind", copy=True)
    assert list(query.obs) == ["kind", "run"]
    scssl.tl.annotate(reference, query, "kind")
    np.testing.assert_array_equal(first.obsm["ssl_label"], query.obsm["ssl_label"])
    assert first.obs.equals(query.obs)


def test_with_a_trained_model_nothing_is_trained(pair, tmp_path):
    reference, query = pair
    cells = ad.concat([reference, query[:, query.var_names]], join="inner")
    scssl.model.MaskedAutoencoder.setup_anndata(cells)
    model = scssl.model.MaskedAutoencoder(cells, hidden_dims=(32,), n_latent=8)
    model.train(max_epochs=30, progress=False)
    model.save(tmp_path / "model")
    scssl.tl.annotate(reference, query, "kind", model=tmp_path / "model", max_false_unknown=0)
    assert share_right(query) > 0.9
    assert query.uns["ssl_label"]["summary"]["method"] == "MaskedAutoencoder"
    by_hand = [cells_of.copy() for cells_of in (reference, query)]
    for one in by_hand:
        scssl.tl.embed(one, model)
    np.testing.assert_array_equal(by_hand[1].obsm["X_ssl"], query.obsm["ssl_label"])
    assert not reference.uns


def test_a_network_is_trained_where_there_are_cells_enough():
    reference, query = make(950, ["B", "T"], seed=1), make(60, ["B", "T"], seed=2, run=1)
    scssl.tl.annotate(reference, query, "kind", max_epochs=1, max_false_unknown=0, key_added="mine")
    assert query.uns["mine"]["summary"]["method"] == "SimCLR, trained on both"
    assert query.obsm["mine"].shape == (60, 64)


def test_batches_of_the_reference_are_held_out_as_a_whole_from_a_model_that_is_there(caplog):
    parts = [make(70, ["B", "NK", "T"], seed=i, run=i) for i in (1, 2, 3)]
    reference, query = ad.concat(parts[:2]), parts[2]
    scssl.model.MaskedAutoencoder.setup_anndata(reference)
    model = scssl.model.MaskedAutoencoder(reference, hidden_dims=(32,), n_latent=8)
    model.train(max_epochs=30, progress=False)
    options = {"batch_key": "run", "max_false_unknown": 0}
    with caplog.at_level(logging.INFO, logger="scssl"):
        scssl.tl.annotate(reference, query, "kind", model=model, **options)
    assert query.uns["ssl_label"]["params"]["batch_key"] == "run"
    assert "Calibrated on whole batches" in caplog.text
    assert share_right(query) > 0.9
    # Of a batch that the reference has, single cells tell more; so do they where all are trained together.
    same = make(40, ["B", "NK", "T"], seed=9, run=2)
    scssl.tl.annotate(reference, same, "kind", model=model, **options)
    assert same.uns["ssl_label"]["params"]["batch_key"] == "none"
    scssl.tl.annotate(reference, query, "kind", **options)
    assert query.uns["ssl_label"]["params"]["batch_key"] == "none"
    assert share_right(query) > 0.95


def told(said):
    """The value that a warning tells to pass."""
    text = next(str(one.message) for one in said if one.category is ScsslWarning)
    return text.rpartition("`max_false_unknown=")[2].partition("`")[0]


def test_too_many_unknown_and_none_are_warned_of():
    reference = make(150, ["B", "T"], seed=1)
    query = make(80, ["B", "T"], seed=2, run=1)
    with pytest.warns(
        ScsslWarning, match="are called unknown. Unless .* the query as a whole differs"
    ) as said:
        scssl.tl.annotate(reference, query, "kind", max_false_unknown=0.7)
    line = told(said)
    scssl.tl.annotate(reference, query, "kind", max_false_unknown=float(line))
    assert 0.2 < (query.obs["ssl_label_call"] == "unknown").mean() <= 0.3
    plain = make(80, ["B", "T"], seed=3, run=1)
    with pytest.warns(
        ScsslWarning, match="None of the 80 cells .* though they are of a new batch"
    ) as said:
        scssl.tl.annotate(reference, plain, "kind", max_false_unknown=1e-9)
    line = told(said)
    scssl.tl.annotate(reference, plain, "kind", max_false_unknown=float(line))
    assert (plain.obs["ssl_label_call"] == "unknown").any()


def test_a_query_of_other_types_is_warned_of():
    reference = make(150, ["B", "NK", "T"], seed=1)
    query = make(120, KINDS, seed=2, run=1)
    rng = np.random.default_rng(3)
    # Types of its own, by blocks of genes instead of every fourth.
    rate = np.where(np.arange(48) // 12 == rng.integers(4, size=120)[:, None], 8.0, 1.0)
    query.X = sparse.csr_matrix(rng.poisson(rate).astype(np.float32))
    with pytest.warns(
        ScsslWarning, match="`query` varies along other axes than `reference`: those"
    ):
        scssl.tl.annotate(reference, query, "kind", max_false_unknown=0)


def test_axes_are_common_where_types_are():
    def share(first, second):
        x = sparse.vstack([first.X, second.X], format="csr")
        return common_axes(x, "counts", np.arange(x.shape[0]) >= first.n_obs, 0)

    reference = make(150, ["B", "NK", "T"], seed=1)
    same = make(120, ["B", "NK", "T"], seed=2, run=1)
    assert share(reference, same) == share(reference, same) > 0.8
    # Other cells of one type have no axes of their own to be explained.
    assert share(reference, make(120, ["NK"], seed=2, run=1)) > 0.5
    other = same.copy()
    other.X = same.X[:, np.random.default_rng(0).permutation(48)]
    assert share(reference, other) < 0.45
    assert np.isnan(share(reference, same[:39]))


def test_what_cannot_be_compared_is_refused(pair):
    reference, query = pair
    with pytest.raises(KeyError, match="'cell_type'"):
        scssl.tl.annotate(reference, query, "cell_type")
    other = query.copy()
    other.var_names = [f"other{i}" for i in range(other.n_vars)]
    with pytest.raises(GeneMismatchError):
        scssl.tl.annotate(reference, other, "kind")
    lognorm = query.copy()
    lognorm.X = (lognorm.X.multiply(1e4 / lognorm.X.sum(axis=1))).tocsr().log1p()
    with pytest.raises(ValueError, match=r"`reference` holds counts and `query` log-normalised"):
        scssl.tl.annotate(reference, lognorm, "kind")
    with pytest.raises(ValueError, match="are in `reference` too"):
        scssl.tl.annotate(reference, reference.copy(), "kind")
