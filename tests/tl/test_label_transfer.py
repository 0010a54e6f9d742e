"""Labels by weighted neighbours: which cells vote, what is written, what is refused."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors

import scssl
from scssl._errors import ScsslWarning
from scssl._neighbors import Index
from scssl.tl._label_transfer import vote


def make(sizes=(150, 100, 60), shift=2.0, n_dims=6, seed=0, prefix="cell", centers_seed=0):
    """Gaussian clouds of a few types; the same centres for every seed of the cells."""
    centers = shift * np.random.default_rng(centers_seed).normal(size=(len(sizes), n_dims))
    generator = np.random.default_rng(1000 + seed)
    codes = generator.permutation(np.repeat(np.arange(len(sizes)), sizes))
    values = centers[codes] + generator.normal(size=(len(codes), n_dims))
    obs = pd.DataFrame({"label": pd.Categorical([f"type {code}" for code in codes])})
    obs.index = [f"{prefix}{seed}_{i}" for i in range(len(codes))]
    return ad.AnnData(obs=obs, obsm={"X_ssl": values.astype(np.float32)})


@pytest.fixture
def pair():
    return make(seed=1), make(seed=2)


def transfer(reference, query, **kwargs):
    scssl.tl.label_transfer(reference, query, "label", **kwargs)
    return query.obs


# --- labels ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_neighbors", [1, 5, 15])
def test_labels_equal_scikit_learn(n_neighbors):
    reference, query = make(shift=0.8, seed=1), make(shift=0.8, seed=2)
    found = transfer(reference, query, n_neighbors=n_neighbors)["ssl_label"]
    classifier = KNeighborsClassifier(n_neighbors, weights="distance")
    classifier.fit(reference.obsm["X_ssl"], reference.obs["label"].astype(str))
    expected = classifier.predict(query.obsm["X_ssl"])
    np.testing.assert_array_equal(found.astype(str), expected)
    accuracy = (expected == query.obs["label"].astype(str)).mean()
    assert 0.5 < accuracy < 0.95, "the comparison must not be trivial"


def test_an_exact_duplicate_is_given_the_label_of_the_reference(pair):
    reference, query = pair
    # One cell of another type in the midst of a cloud: all its other neighbours vote against it.
    odd = int(np.flatnonzero(reference.obs["label"] == "type 1")[0])
    center = reference.obsm["X_ssl"][reference.obs["label"] == "type 0"].mean(axis=0)
    reference.obsm["X_ssl"][odd] = query.obsm["X_ssl"][0] = center
    found = transfer(reference, query)
    assert found["ssl_label"].iloc[0] == "type 1"
    everything = reference.copy()
    everything.obs_names = [f"copy {name}" for name in reference.obs_names]
    with pytest.warns(ScsslWarning, match="have exactly the embedding of a cell of `reference`"):
        found = transfer(reference, everything)
    np.testing.assert_array_equal(
        found["ssl_label"].astype(str), reference.obs["label"].astype(str)
    )


def test_votes_against_a_loop():
    generator = np.random.default_rng(0)
    distances = np.sort(generator.random((50, 7)), axis=1)
    distances[:5, 0] = 0
    distances[:2, 1] = 0
    labels = generator.integers(0, 4, (50, 7))
    winner, share = vote(distances, labels, 4)
    for cell in range(50):
        votes = dict.fromkeys(range(4), 0.0)
        zero = (distances[cell] == 0).any()
        for d, label in zip(distances[cell], labels[cell], strict=True):
            votes[int(label)] += float(d == 0) if zero else 1 / d
        assert votes[int(winner[cell])] == pytest.approx(max(votes.values()))
        assert share[cell] == pytest.approx(max(votes.values()) / sum(votes.values()))


# --- search ---------------------------------------------------------------------------------------


def test_exact_search_equals_scikit_learn():
    generator = np.random.default_rng(0)
    values, new = (generator.normal(size=(n, 8)).astype(np.float32) for n in (300, 50))
    index = Index(values, exact=True, seed=0)
    for found, expected in (
        (index.query(new, 7), NearestNeighbors(n_neighbors=7).fit(values).kneighbors(new)),
        (index.own(7), NearestNeighbors(n_neighbors=7).fit(values).kneighbors(None)),
    ):
        np.testing.assert_array_equal(found[1], expected[1])
        np.testing.assert_allclose(found[0], expected[0], rtol=1e-5)


def test_equal_cells_are_at_distance_zero():
    """Distances from products of float32 would not be, far from the origin."""
    values = (1000 + np.random.default_rng(0).normal(size=(200, 20))).astype(np.float32)
    distances, rows = Index(values, exact=True, seed=0).query(values[:50], 3)
    np.testing.assert_array_equal(distances[:, 0], 0)
    np.testing.assert_array_equal(rows[:, 0], np.arange(50))
    assert (np.diff(distances, axis=1) >= 0).all()


def test_approximate_search_on_request(all_pairs):
    reference, query = make((90, 60, 30), seed=1), make((30, 20, 10), seed=2)
    exact = transfer(reference, query.copy(), exact=True)
    assert not all_pairs
    pd.testing.assert_frame_equal(transfer(reference, query, exact=False), exact)
    assert set(all_pairs) == {180}


@pytest.mark.slow
def test_approximate_search_finds_nearly_all():
    """Slow: pynndescent compiles itself."""
    reference, query = make((900, 600, 300), seed=1), make((300, 200, 100), seed=2)
    exact = transfer(reference, query.copy(), exact=True)
    found = transfer(reference, query, exact=False)
    assert (found["ssl_label"] == exact["ssl_label"]).mean() > 0.99
    np.testing.assert_allclose(
        found["ssl_label_confidence"], exact["ssl_label_confidence"], atol=0.2
    )
    assert np.corrcoef(found["ssl_label_novelty"], exact["ssl_label_novelty"])[0, 1] > 0.99
    again = query.copy()
    pd.testing.assert_frame_equal(transfer(reference, again, exact=False), found)
    values = reference.obsm["X_ssl"]
    index = Index(values, exact=False, seed=0)
    distances, rows = index.own(10)
    assert (rows != np.arange(len(rows))[:, None]).all()
    exact_rows = Index(values, exact=True, seed=0).own(10)[1]
    recall = np.mean([np.isin(a, b).mean() for a, b in zip(rows, exact_rows, strict=True)])
    assert recall > 0.98
    expected = np.linalg.norm(values[rows[5]] - values[5], axis=1)
    np.testing.assert_allclose(distances[5], expected, rtol=1e-5)


# --- what is written ------------------------------------------------------------------------------


def test_results_are_written_to_the_query_only(pair, tmp_path):
    reference, query = pair
    before = reference.copy()
    scssl.tl.label_transfer(reference, query, "label", key_added="mine", unknown_label="new")
    pd.testing.assert_frame_equal(reference.obs, before.obs)
    assert not reference.uns
    assert list(query.obs)[1:] == ["mine", "mine_confidence", "mine_novelty", "mine_call"]
    assert list(query.obs["mine"].cat.categories) == ["type 0", "type 1", "type 2"]
    assert list(query.obs["mine_call"].cat.categories)[-1] == "new"
    for column in ("mine_confidence", "mine_novelty"):
        assert query.obs[column].between(0, 1).all()
    written = query.uns["mine"]
    assert written["params"] == {
        "use_rep": "X_ssl",
        "classifier": "knn",
        "label_key": "label",
        "n_reference": 310,
        "n_neighbors": 15,
        "max_false_unknown": 0.05,
        "held_out_key": "none",
        "batch_key": "none",
        "unknown_label": "new",
        "exact": True,
        "seed": 0,
    }
    assert written["novelty"].pop("shift").tolist() == [1, 1]
    assert written["novelty"] == {"threshold": 0.95, "n_held_out": 310}
    query.write_h5ad(tmp_path / "query.h5ad")
    read = ad.read_h5ad(tmp_path / "query.h5ad")
    assert read.uns["mine"]["calibration"]["ece"] == written["calibration"]["ece"]
    np.testing.assert_array_equal(read.uns["mine"]["labels"], written["labels"])


def test_any_embedding_and_any_kind_of_label(pair):
    reference, query = pair
    expected = transfer(reference, query.copy())
    for adata in pair:
        adata.obsm["X_pca"] = pd.DataFrame(
            adata.obsm.pop("X_ssl"), index=adata.obs_names, columns=list("abcdef")
        )
    reference.obs["label"] = reference.obs["label"].cat.codes
    found = transfer(reference, query, use_rep="X_pca")
    np.testing.assert_array_equal(
        "type " + found["ssl_label"].astype(str), expected["ssl_label"].astype(str)
    )


def test_unused_categories_are_no_labels(pair):
    reference, query = pair
    reference.obs["label"] = reference.obs["label"].cat.add_categories("absent")
    assert "absent" not in transfer(reference, query)["ssl_label"].cat.categories


def test_a_label_of_one_cell_does_not_break(pair):
    reference, query = pair
    reference.obs["label"] = reference.obs["label"].astype(str)
    reference.obs.iloc[0, 0] = "single"
    transfer(reference, query)
    assert query.uns["ssl_label"]["calibration"]["n_cells"] == reference.n_obs - 1


# --- refused --------------------------------------------------------------------------------------


def test_cells_that_are_in_both_are_refused(pair):
    reference, query = pair
    both = ad.concat([query, reference[:3]])
    with pytest.raises(ValueError, match=r"3 of 313 cells of `query` are in `reference` too.*isin"):
        transfer(reference, both)
    with pytest.raises(ValueError, match="310 of 310 cells of `query` are in `reference`"):
        transfer(reference, reference)
    # The same name alone does not make the same cell.
    query.obs_names = reference.obs_names
    transfer(reference, query)


def test_the_same_cells_under_other_names_are_told(pair, recwarn):
    reference, query = pair
    for n in (0, 61, 63):
        both = query.copy()
        # In another order, and with a zero of the other sign.
        reference.obsm["X_ssl"][:n, 0] = 0.0
        both.obsm["X_ssl"][-n or 400 :] = reference.obsm["X_ssl"][:n][::-1]
        both.obsm["X_ssl"][-n or 400 :, 0] *= -1
        recwarn.clear()
        transfer(reference, both)
        told = [str(one.message) for one in recwarn if "exactly the embedding" in str(one.message)]
        assert [one[:19] for one in told] == (["63 of 310 cells of "] if n == 63 else [])


def test_embeddings_of_two_models_are_refused(pair):
    reference, query = pair
    for adata, digest in zip(pair, "ab", strict=True):
        adata.uns["X_ssl"] = {"vocabulary_hash": digest}
    with pytest.raises(ValueError, match="by models of different genes"):
        transfer(reference, query)
    for adata, digest in zip(pair, "ab", strict=True):
        adata.uns["X_ssl"] = {"vocabulary_hash": "same", "encoder_hash": digest}
    with pytest.raises(ValueError, match=r"different weights.*embed\(query, model, key_added='X_"):
        transfer(reference, query)
    # Of an earlier version, which did not write it.
    del query.uns["X_ssl"]["encoder_hash"]
    transfer(reference, query.copy())
    query.obsm["X_ssl"] = query.obsm["X_ssl"][:, :4]
    with pytest.raises(ValueError, match="6 dimensions in `reference` and 4 in `query`"):
        transfer(reference, query)


def test_missing_keys_name_the_data_set(pair):
    reference, query = pair
    with pytest.raises(KeyError, match="reference.obs has no 'cell_type'; it has 'label'"):
        scssl.tl.label_transfer(reference, query, "cell_type")
    del query.obsm["X_ssl"]
    with pytest.raises(KeyError, match=r"query.obsm has no 'X_ssl'.*tl.embed\(query, model"):
        transfer(reference, query)


def test_incomplete_input_is_refused(pair):
    reference, query = pair
    query.obsm["X_ssl"][4, 0] = np.nan
    with pytest.raises(ValueError, match=r"query.obsm\['X_ssl'\] is NaN or infinite in 1 of 310"):
        transfer(reference, query)
    reference.obs.loc[reference.obs_names[:2], "label"] = np.nan
    with pytest.raises(ValueError, match=r"reference.obs\['label'\] is missing for 2 of 310"):
        transfer(reference, query)


def test_labels_that_decide_nothing_are_refused(pair):
    reference, query = pair
    reference.obs["label"] = "unknown"
    with pytest.raises(ValueError, match=r"reference.obs\['label'\] has 1 label"):
        transfer(reference, query)
    reference.obs["label"] = ["unknown", "T"] * 155
    with pytest.raises(
        ValueError, match=r"has a label 'unknown'.*`unknown_label=\"unknown_cell\"`"
    ):
        transfer(reference, query)
    transfer(reference, query, unknown_label="novel")


def test_batches_that_cannot_be_held_out_are_refused(pair):
    reference, query = pair
    reference.obs["batch"] = "one"
    with pytest.raises(ValueError, match=r"reference.obs\['batch'\] has one batch"):
        transfer(reference, query, batch_key="batch")
    reference.obs["batch"] = ["one"] * 300 + ["two"] * 10
    with pytest.raises(
        ValueError, match="n_neighbors=15 is more than the 10 cells of `reference` ou"
    ):
        transfer(reference, query, batch_key="batch")
    with pytest.raises(KeyError, match="reference.obs has no 'donor'"):
        transfer(reference, query, batch_key="donor")
    reference.obs["batch"] = reference.obs["label"].astype(str)
    with pytest.raises(ValueError, match="No cell of `reference` can be held out"):
        transfer(reference, query, batch_key="batch")


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"n_neighbors": 0}, "`n_neighbors` must be a whole number of at least 1, found 0"),
        ({"n_neighbors": 310}, "n_neighbors=310 is more than the 309 cells"),
        ({"max_false_unknown": 1.0}, "`max_false_unknown` must be a number in \\[0, 1\\)"),
        ({"max_false_unknown": True}, "`max_false_unknown` must be"),
    ],
)
def test_parameters_out_of_range(pair, parameters, message):
    with pytest.raises(ValueError, match=message):
        transfer(*pair, **parameters)
