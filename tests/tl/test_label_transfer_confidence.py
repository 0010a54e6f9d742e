"""Confidences of transferred labels are probabilities, and cells of no known type are found."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from sklearn.covariance import LedoitWolf
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import KNeighborsClassifier

import scssl
from scssl._errors import ScsslWarning
from scssl._scores import calibration_error, reliability
from scssl.tl._label_transfer import Centres, Platt, Reference, Regression, tail_share


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


# --- confidence -----------------------------------------------------------------------------------


@pytest.mark.parametrize("shift", [0.3, 0.7, 1.5])
def test_confidences_are_probabilities(shift):
    sizes = (900, 600, 300)
    reference, query = make(sizes, shift, seed=1), make(sizes, shift, seed=2)
    found = transfer(reference, query)
    right = (found["ssl_label"].astype(str) == query.obs["label"].astype(str)).to_numpy()
    error = calibration_error(reliability(found["ssl_label_confidence"].to_numpy(), right))
    assert error < 0.05
    own = query.uns["ssl_label"]["calibration"]
    assert own["ece"] < 0.05
    assert own["accuracy"] == pytest.approx(right.mean(), abs=0.04)


def test_confidences_mend_votes_that_claim_too_much():
    sizes = (900, 600, 300)
    reference, query = make(sizes, 0.2, seed=1), make(sizes, 0.2, seed=2)
    transfer(reference, query, n_neighbors=3)
    own = query.uns["ssl_label"]["calibration"]
    assert own["ece_of_votes"] > 0.15
    assert own["ece"] < 0.03


def test_more_votes_are_more_confidence():
    share = np.linspace(0.1, 1, 50)
    generator = np.random.default_rng(0)
    platt = Platt.fit(share.repeat(20), generator.random(1000) < share.repeat(20), 15)
    assert (np.diff(platt(share)) > 0).all()
    np.testing.assert_allclose(platt(share), share, atol=0.1)


@pytest.mark.parametrize("right", [True, False])
def test_confidence_where_all_are_right_or_none(right):
    platt = Platt.fit(np.full(100, 1.0), np.full(100, right), 15)
    confidence = platt(np.array([1.0]))[0]
    assert 0 < confidence < 1
    assert confidence == pytest.approx(101 / 102 if right else 1 / 102, abs=0.01)


def test_confidence_never_falls_with_votes():
    share = np.linspace(0.3, 1, 200)
    platt = Platt.fit(share, share < 0.6, 15)
    assert platt.slope == 0
    assert platt(share)[0] == pytest.approx((share < 0.6).mean(), abs=0.02)


def test_calibration_is_of_cells_held_out(pair):
    """What is written is what a leave-one-out loop over the reference finds."""
    reference, query = pair
    transfer(reference, query, n_neighbors=5)
    values, labels = reference.obsm["X_ssl"], reference.obs["label"].astype(str).to_numpy()
    right = []
    for cell in range(len(values)):
        others = np.arange(len(values)) != cell
        classifier = KNeighborsClassifier(5, weights="distance")
        classifier.fit(values[others], labels[others])
        right.append(classifier.predict(values[[cell]])[0] == labels[cell])
    written = query.uns["ssl_label"]["calibration"]
    assert written["accuracy"] == pytest.approx(np.mean(right))
    bins = written["bins"]
    assert bins["n_cells"].sum() == written["n_cells"] == len(values)
    filled = bins["n_cells"] > 0
    n_right = (bins["accuracy"] * bins["n_cells"])[filled].sum()
    assert n_right == pytest.approx(np.sum(right))
    assert written["ece"] == pytest.approx(calibration_error(bins))


def test_reliability_is_of_cells_that_were_not_fitted_on(pair, monkeypatch):
    found = Reference(
        pair[0].obsm["X_ssl"],
        pair[0].obs["label"].cat.codes.to_numpy(dtype=int),
        3,
        n_neighbors=5,
        exact=True,
        seed=0,
    )
    # Of every cell another, by which it is known again.
    found.share = np.linspace(0.3, 0.99, len(found.share))
    asked = []

    class Watched(Platt):
        @classmethod
        def fit(cls, share, correct, n_votes):
            fitted = super().fit(share, correct, n_votes)
            fitted.seen = set(share)
            return fitted

        def __call__(self, share):
            assert not self.seen & set(share)
            asked.extend(share)
            return super().__call__(share)

    monkeypatch.setattr("scssl.tl._label_transfer.Platt", Watched)
    found.calibration()
    assert sorted(asked) == found.share.tolist()


@pytest.mark.parametrize("held_out_by", ["cells", "batches"])
def test_a_regression_labels_and_is_calibrated_on_cells_it_was_not_fitted_to(held_out_by):
    sizes = (400, 300, 200)
    reference, query = make(sizes, 0.9, seed=1), make(sizes, 0.9, seed=2)
    # As for any cells that batches have nothing to do with, which fold is held out tells nothing.
    reference.obs["run"] = np.resize(list("abc"), reference.n_obs)
    # Distances are mostly those in dimensions that tell nothing, which a regression leaves out.
    for seed, one in enumerate((reference, query)):
        noise = 2 * np.random.default_rng(seed).normal(size=(one.n_obs, 30))
        one.obsm["X_ssl"] = np.hstack([one.obsm["X_ssl"], noise]).astype(np.float32)
    options = {"batch_key": "run"} if held_out_by == "batches" else {}
    vote = transfer(reference, query.copy(), **options)
    found = transfer(reference, query, classifier="lr", **options)
    known = query.obs["label"].astype(str)
    right = found["ssl_label"].astype(str) == known
    assert right.mean() > (vote["ssl_label"].astype(str) == known).mean() + 0.1
    own = query.uns["ssl_label"]
    assert own["params"]["classifier"] == "lr"
    # Held-out cells are labelled by fewer than all.
    assert -0.06 < own["calibration"]["accuracy"] - right.mean() < 0.04
    confidence = found["ssl_label_confidence"].to_numpy()
    assert calibration_error(reliability(confidence, right.to_numpy())) < 0.06
    x = reference.obsm["X_ssl"].astype(float)
    scale = np.sqrt(x.var(axis=0).mean())
    by_hand = LogisticRegression(C=0.1, max_iter=10_000).fit(
        (x - x.mean(axis=0)) / scale, reference.obs["label"]
    )
    expected = by_hand.predict((query.obsm["X_ssl"] - x.mean(axis=0)) / scale)
    assert (found["ssl_label"].astype(str) == expected).mean() > 0.999
    # Novelty is that of the neighbours all the same.
    np.testing.assert_array_equal(found["ssl_label_novelty"], vote["ssl_label_novelty"])


def test_a_regression_knows_what_to_say_of_one_label():
    codes = np.array([2] * 5)
    winner, share = Regression(np.eye(5), codes, 0)(np.ones((3, 5)))
    assert (winner.tolist(), share.tolist()) == ([2, 2, 2], [1, 1, 1])
    with pytest.raises(ValueError, match="`classifier` must be 'knn' or 'lr', found 'svm'"):
        transfer(make(seed=1), make(seed=2), classifier="svm")


def test_a_regression_of_many_cells_is_of_some_of_every_label(monkeypatch):
    monkeypatch.setattr("scssl.tl._label_transfer._MOST_FITTED", 40)
    seen = []
    monkeypatch.setattr(
        "scssl.tl._label_transfer.trained", lambda model, x, codes: seen.append(codes)
    )
    Regression(np.zeros((300, 2)), np.repeat([0, 1, 2], [280, 15, 5]), 0)
    assert np.bincount(seen[0]).tolist() == [20, 15, 5]


# --- novelty --------------------------------------------------------------------------------------


def test_a_type_that_the_reference_lacks_is_novel_and_unknown():
    reference, query = make((300, 200, 150), 3.0, seed=1), make((300, 200, 150), 3.0, seed=2)
    reference = reference[reference.obs["label"] != "type 1"].copy()
    with pytest.warns(
        ScsslWarning, match=r"of the 650 cells of `query` \(34%\) are called unknown"
    ):
        found = transfer(reference, query)
    new = (query.obs["label"] == "type 1").to_numpy()
    assert roc_auc_score(new, found["ssl_label_novelty"]) > 0.99
    assert (found["ssl_label_call"][new] == "unknown").mean() > 0.95
    assert (found["ssl_label_call"][~new] == "unknown").mean() < 0.1
    assert "unknown" not in found["ssl_label"].cat.categories
    called = found[found["ssl_label_call"] != "unknown"]
    assert (called["ssl_label_call"].astype(str) == called["ssl_label"].astype(str)).all()


def of_a_reference(reference, values, **about):
    names, codes = np.unique(reference.obs["label"].astype(str), return_inverse=True)
    known = np.asarray(reference.obsm["X_ssl"])
    fitted = Reference(known, codes, len(names), n_neighbors=15, exact=True, seed=0)
    return fitted.transfer(np.asarray(values, dtype=np.float32), **about)[2], fitted.shift


def test_a_batch_that_lies_farther_is_measured_by_its_nearest_quarter():
    reference, query = make((300, 200, 150), 4.0, seed=1), make((300, 200, 150), 4.0, seed=2)
    reference = reference[reference.obs["label"] != "type 1"].copy()
    new = (query.obs["label"] == "type 1").to_numpy()
    # Another technology: noise of its own in dimensions that it shares.
    values = query.obsm["X_ssl"] + np.random.default_rng(0).normal(0, 1, query.obsm["X_ssl"].shape)
    before, none = of_a_reference(reference, values)
    after, shift = of_a_reference(reference, values, is_new=True)
    assert (none == 1).all() and (shift > 1.1).all()
    assert (before[~new] >= 0.95).mean() > 0.3 > 0.12 > (after[~new] >= 0.95).mean()
    assert (after[new] >= 0.95).mean() > 0.95
    # One that lies no farther stays as it is, and of few cells nothing is measured.
    same, shift = of_a_reference(reference, query.obsm["X_ssl"][~new], is_new=True)
    assert (shift < 1.1).all()
    np.testing.assert_allclose(
        same, of_a_reference(reference, query.obsm["X_ssl"][~new])[0], atol=0.1
    )
    assert (of_a_reference(reference, values[:19], is_new=True)[1] == 1).all()


def test_a_query_of_other_types_does_not_pass_for_a_batch():
    reference, query = make(shift=4.0, seed=1), make((200, 100), 4.0, seed=2, centers_seed=9)
    novelty, shift = of_a_reference(reference, query.obsm["X_ssl"], is_new=True)
    assert (shift == 2).all(), "as much as a batch may"
    assert (novelty >= 0.95).mean() > 0.9


@pytest.mark.parametrize("share", [0.01, 0.05, 0.2])
def test_share_of_known_cells_called_unknown(share):
    shares = [
        (
            transfer(make(seed=10 + i), make(seed=50 + i), max_false_unknown=share)[
                "ssl_label_call"
            ]
            == "unknown"
        ).mean()
        for i in range(8)
    ]
    assert np.mean(shares) == pytest.approx(share, abs=0.02 + share / 4)


def test_no_cell_is_unknown_when_none_may_be(pair):
    reference, query = pair
    query.obsm["X_ssl"] += 100
    found = transfer(reference, query, max_false_unknown=0)
    assert (found["ssl_label_call"] != "unknown").all()
    assert (found["ssl_label_novelty"] > 0.99).all()


def test_novelty_against_a_slow_version(pair):
    reference, query = pair
    values, new = (a.obsm["X_ssl"].astype(np.float64) for a in pair)
    codes = reference.obs["label"].cat.codes.to_numpy()
    model = Reference(reference.obsm["X_ssl"], codes, 3, n_neighbors=5, exact=True, seed=0)

    # How far the neighbours are, relative to how far theirs are.
    def near(x, rows):
        distance = np.sqrt(((values[rows] - x) ** 2).sum(axis=1))
        order = np.argsort(distance)[:5]
        return distance[order], rows[order]

    everyone = np.arange(len(values))
    spread = np.array([near(values[i], everyone[everyone != i])[0].mean() for i in everyone])
    local = []
    for x in new[:20]:
        distance, rows = near(x, everyone)
        local.append(distance.mean() / spread[rows].mean())
    distances, rows = model.index.query(query.obsm["X_ssl"][:20], 5)
    np.testing.assert_allclose(model._local(distances, rows), local, rtol=1e-5)
    # How far the nearest mean is.
    means = np.stack([values[codes == c].mean(axis=0) for c in range(3)])
    within = LedoitWolf(assume_centered=True).fit(values - means[codes]).covariance_
    inverse = np.linalg.inv(within)
    expected = [min(np.sqrt((x - m) @ inverse @ (x - m)) for m in means) for x in new[:20]]
    central = model.centres.distance(query.obsm["X_ssl"][:20])
    np.testing.assert_allclose(central, expected, rtol=1e-4)
    # Tail shares, their product, and its share.
    held = [np.sort(values) for values in model._sorted]
    total = [
        -np.log((1 + (held[0] >= a).sum()) / (1 + len(held[0])))
        - np.log((1 + (held[1] >= b).sum()) / (1 + len(held[1])))
        for a, b in zip(model._local(distances, rows), central, strict=True)
    ]
    expected = [1 - (1 + (model._sorted_both[0] >= t).sum()) / (1 + len(values)) for t in total]
    np.testing.assert_allclose(model.transfer(query.obsm["X_ssl"][:20])[2], expected, atol=0.004)


def test_tail_shares():
    ordered = np.array([1.0, 2, 2, 3])
    np.testing.assert_allclose(
        tail_share(ordered, np.array([0, 2, 2.5, 9])), [5 / 5, 4 / 5, 2 / 5, 1 / 5]
    )
    np.testing.assert_allclose(tail_share(ordered, ordered, member=True), [1, 3 / 4, 3 / 4, 1 / 4])


def test_means_do_not_hang_on_the_cells_they_are_measured_with():
    """The spread of held-out cells is that of new ones, also with many dimensions and few cells."""
    generator = np.random.default_rng(0)
    scale = np.linspace(1, 10, 40)
    values = (scale * generator.normal(size=(120, 40))).astype(np.float32)
    codes = np.repeat(np.arange(12), 10)
    model = Reference(values, codes, 12, n_neighbors=5, exact=True, seed=0)
    others = (scale * generator.normal(size=(2000, 40))).astype(np.float32)
    new = np.median(model.centres.distance(others))
    # Of four fifths of the cells the means are a little less sure: the errors are on the safe side.
    assert new < np.median(model._sorted[1]) < 1.06 * new
    inside = np.median(Centres(values, codes, 12).distance(values))
    assert inside < 0.9 * new, "or the test shows nothing"


def test_equal_embeddings_do_not_break():
    reference, query = make(seed=1), make(seed=2)
    for adata in (reference, query):
        adata.obsm["X_ssl"][:] = 1
    with (
        pytest.warns(ScsslWarning, match="310 of 310 cells of `query` have exactly the embedding"),
        pytest.warns(ScsslWarning, match="Half of the query is less novel"),
    ):
        found = transfer(reference, query)
    assert found["ssl_label_novelty"].between(0, 1).all()
    assert (found["ssl_label_call"] != "unknown").all()


# --- cells that the embedding was not fitted to ---------------------------------------------------


@pytest.fixture
def overfitted():
    """A reference whose cells lie closer together than new ones, but for those set aside."""
    reference, query = make((300, 200, 150), seed=1), make((300, 200, 150), seed=2)
    reference.obs["aside"] = np.arange(reference.n_obs) % 4 == 0
    far = query.obsm["X_ssl"]
    noise = np.random.default_rng(0).normal(size=far.shape) * 1.5
    query.obsm["X_ssl"] = (far + noise).astype(np.float32)
    aside = reference.obs["aside"].to_numpy()
    noise = np.random.default_rng(1).normal(size=(aside.sum(), far.shape[1])) * 1.5
    reference.obsm["X_ssl"][aside] += noise.astype(np.float32)
    return reference, query


@pytest.mark.parametrize("key", [None, "aside"])
def test_cells_set_aside_stand_for_new_ones(overfitted, key):
    reference, query = overfitted
    found = transfer(reference, query, held_out_key=key)
    unknown = (found["ssl_label_call"] == "unknown").mean()
    written = query.uns["ssl_label"]
    assert written["params"]["held_out_key"] == (key or "none")
    right = (found["ssl_label"].astype(str) == query.obs["label"].astype(str)).mean()
    gap = abs(written["calibration"]["accuracy"] - right)
    if key is None:
        assert unknown > 0.1
        assert gap > 0.05
    else:
        assert written["novelty"]["n_held_out"] == reference.obs["aside"].sum()
        assert unknown == pytest.approx(0.05, abs=0.04)
        assert gap < 0.05


def test_a_query_that_is_too_familiar_is_warned_about():
    reference, query = make(shift=0, seed=1), make(shift=0, seed=2)
    query.obsm["X_ssl"] *= 0.3
    with pytest.warns(ScsslWarning, match=r"Half of the query is less novel than .*`held_out_key`"):
        transfer(reference, query)
    reference.obs["aside"] = True
    with pytest.warns(ScsslWarning, match="was not fitted to the cells of `held_out_key`"):
        transfer(reference, query, held_out_key="aside")


def test_cells_set_aside_that_are_refused(pair):
    reference, query = pair
    reference.obs["aside"] = "yes"
    with pytest.raises(TypeError, match=r"reference.obs\['aside'\] must be true or false"):
        transfer(reference, query, held_out_key="aside")
    reference.obs["aside"] = np.arange(310) < 19
    with pytest.raises(ValueError, match="is true for 19 cells; 20 or more are needed"):
        transfer(reference, query, held_out_key="aside")
    with pytest.raises(KeyError, match="reference.obs has no 'other'"):
        transfer(reference, query, held_out_key="other")


# --- batches --------------------------------------------------------------------------------------


def batches(seed, names):
    """Batches of the same cells, each shifted by its own vector."""
    parts = []
    for i, name in enumerate(names):
        part = make(seed=seed + i)
        shift = np.random.default_rng(int(name)).normal(size=6)
        part.obsm["X_ssl"] += (2.0 * shift).astype(np.float32)
        part.obs["batch"] = name
        parts.append(part)
    return ad.concat(parts)


def test_with_batches_a_new_batch_is_less_often_unknown():
    reference, query = batches(1, "1234"), batches(20, "5")
    with pytest.warns(ScsslWarning, match="are called unknown. Unless so many are of types"):
        plain = (transfer(reference, query.copy())["ssl_label_call"] == "unknown").mean()
    grouped = transfer(reference, query, batch_key="batch")["ssl_label_call"]
    assert plain > 0.3
    assert (grouped == "unknown").mean() < plain / 2
    assert query.uns["ssl_label"]["params"]["batch_key"] == "batch"


def test_with_batches_neighbors_are_of_other_batches():
    reference = batches(1, "123")
    groups = reference.obs["batch"].astype(int).to_numpy() - 1
    codes = reference.obs["label"].astype("category").cat.codes.to_numpy()
    values = reference.obsm["X_ssl"]
    model = Reference(values, codes, 3, n_neighbors=4, groups=groups, exact=True, seed=0)
    distances, rows = model._held_out_neighbors()
    assert (groups[rows] != groups[:, None]).all()
    for cell in (0, 200, 700):
        others = np.flatnonzero(groups != groups[cell])
        expected = np.sort(np.linalg.norm(values[others] - values[cell], axis=1))[:4]
        np.testing.assert_allclose(distances[cell], expected, rtol=1e-5)


def test_a_label_in_one_batch_only_is_no_error_of_the_others():
    reference, query = batches(1, "12"), make(seed=9)
    lonely = (reference.obs["label"] == "type 2") & (reference.obs["batch"] == "1")
    reference = reference[~lonely].copy()
    transfer(reference, query, batch_key="batch")
    n_rare = int((reference.obs["label"] == "type 2").sum())
    assert query.uns["ssl_label"]["calibration"]["n_cells"] == reference.n_obs - n_rare


# --- real data ------------------------------------------------------------------------------------


def halves(labels, seed):
    generator = np.random.default_rng(seed)
    query = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        rows = generator.permutation(np.flatnonzero(labels == label))
        query[rows[: max(1, round(0.3 * len(rows)))]] = len(rows) > 1
    return np.flatnonzero(~query), np.flatnonzero(query)


@pytest.fixture(scope="module")
def embedded(data_file):
    """PCA of real cells, with their labels."""
    import scanpy as sc

    def read(name):
        adata = ad.read_h5ad(data_file(f"{name}.h5ad"))
        sc.pp.normalize_total(adata, target_sum=1e4)
        sc.pp.log1p(adata)
        sc.pp.pca(adata, n_comps=50, random_state=0)
        obs = pd.DataFrame({"label": adata.obs["cell_type"].astype(str)})
        return ad.AnnData(obs=obs, obsm={"X_ssl": adata.obsm["X_pca"]})

    return read


@pytest.mark.realdata
@pytest.mark.slow
@pytest.mark.parametrize("name", ["pbmc3k", "mouse_bladder"])
def test_calibration_and_novelty_of_real_cells(embedded, name):
    adata = embedded(name)
    check_bars(adata)


@pytest.mark.realdata
@pytest.mark.slow
@pytest.mark.parametrize("name", ["pbmc3k", "mouse_bladder"])
def test_calibration_and_novelty_of_an_autoencoder(data_file, name):
    adata = ad.read_h5ad(data_file(f"{name}.h5ad"))
    scssl.model.MaskedAutoencoder.setup_anndata(adata)
    model = scssl.model.MaskedAutoencoder(adata)
    model.train(progress=False)
    obs = pd.DataFrame({"label": adata.obs["cell_type"].astype(str)})
    check_bars(ad.AnnData(obs=obs, obsm={"X_ssl": model.get_latent_representation()}))


def check_bars(adata, n_seeds=3):
    labels = adata.obs["label"].to_numpy()
    errors, false, areas = [], [], []
    for seed in range(n_seeds):
        reference, query = (adata[rows].copy() for rows in halves(labels, seed))
        found = transfer(reference, query)
        right = found["ssl_label"].astype(str).to_numpy() == query.obs["label"].to_numpy()
        errors.append(
            calibration_error(reliability(found["ssl_label_confidence"].to_numpy(), right))
        )
        false.append((found["ssl_label_call"] == "unknown").mean())
        for left in np.unique(labels):
            new = (query.obs["label"] == left).to_numpy()
            found = transfer(reference[reference.obs["label"] != left].copy(), query.copy())
            areas.append(roc_auc_score(new, found["ssl_label_novelty"]))
    assert np.mean(errors) <= 0.05, errors
    assert max(errors) <= 0.05, errors
    assert np.mean(false) <= 0.07, false
    assert np.mean(areas) >= 0.85, areas
