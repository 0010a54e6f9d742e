"""Classifiers equal scikit-learn on the same cells, and their scores are independent computations."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy.stats import mannwhitneyu
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import cohen_kappa_score, f1_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

import scssl
from scssl._errors import ScsslWarning
from scssl._linear import temperature_of
from scssl._random import derive_seed
from scssl._scores import kappa_of, ranking_table

CLASSIFIERS = ["svm", "rf", "lr", "knn"]
each = pytest.mark.parametrize("classifier", CLASSIFIERS)


def make(sizes=(120, 80, 40), shift=1.0, n_dims=5, seed=0):
    generator = np.random.default_rng(seed)
    codes = generator.permutation(np.repeat(np.arange(len(sizes)), sizes))
    centers = shift * generator.normal(size=(len(sizes), n_dims))
    values = centers[codes] + generator.normal(size=(len(codes), n_dims))
    # Scales and means that matter to what is not standardised.
    values = 3 + values * np.array([0.1, 1, 1, 1, 10])[:n_dims]
    obs = pd.DataFrame({"label": pd.Categorical([f"type {code}" for code in codes])})
    obs.index = [f"cell{i}" for i in range(len(codes))]
    return ad.AnnData(obs=obs, obsm={"X_ssl": values.astype(np.float32)})


def halves(adata, seed=0):
    rows = np.random.default_rng(seed).permutation(adata.n_obs)
    return np.sort(rows[: len(rows) // 2]), np.sort(rows[len(rows) // 2 :])


def run(adata, classifier="lr", **kwargs):
    out = scssl.tl.classify(
        adata, "label", classifier=classifier, key_added="out", copy=True, **kwargs
    )
    return out, out.uns["out"]


class OneFactor(StandardScaler):
    """All dimensions divided by the same: their mean variance becomes 1."""

    def fit(self, x, y=None):
        super().fit(x)
        self.scale_ = np.full(x.shape[1], np.sqrt(self.var_.mean()))
        return self


def reference_estimator(classifier, seed=0):
    state = derive_seed(seed, "classifier") % 2**32
    return {
        "svm": make_pipeline(OneFactor(), LinearSVC(random_state=state, max_iter=10_000)),
        "rf": RandomForestClassifier(500, random_state=state),
        "lr": make_pipeline(OneFactor(), LogisticRegression(max_iter=10_000)),
        "knn": KNeighborsClassifier(15),
    }[classifier]


def pairs_won(is_label, scores):
    """Share of pairs of a cell of the label and another in which the first is higher: AUROC."""
    inside, outside = scores[is_label], scores[~is_label]
    return mannwhitneyu(inside, outside).statistic / (len(inside) * len(outside))


def mean_precision(is_label, scores):
    """Precision at every threshold, weighted by the recall that it adds: AUPRC."""
    total, before = 0.0, 0
    for threshold in np.unique(scores)[::-1]:
        above = scores >= threshold
        hits = (is_label & above).sum()
        total += (hits - before) / is_label.sum() * hits / above.sum()
        before = hits
    return total


# --- against scikit-learn -------------------------------------------------------------------------


@each
@pytest.mark.parametrize("sizes", [(120, 80, 40), (90, 60)], ids=["three types", "two types"])
def test_labels_and_scores_equal_scikit_learn(classifier, sizes):
    adata = make(sizes, shift=0.7)
    train, test = halves(adata)
    out, written = run(adata, classifier, split=(train, test))
    labels, values = adata.obs["label"].astype(str).to_numpy(), adata.obsm["X_ssl"]
    model = reference_estimator(classifier).fit(values[train].astype(float), labels[train])
    predicted = model.predict(values.astype(float))
    np.testing.assert_array_equal(out.obs["out"].astype(str), predicted)
    if classifier == "svm":
        scores = model.decision_function(values[test].astype(float))
        scores = np.stack([-scores, scores], axis=1) if scores.ndim == 1 else scores
    else:
        scores = model.predict_proba(values[test].astype(float))
        np.testing.assert_allclose(out.obsm["out"][test], scores, atol=1e-4)
    row, per_class = written["scores"].iloc[0], written["per_class"].set_index("label")
    names = [f"type {i}" for i in range(len(sizes))]
    for place, name in enumerate(names):
        is_label = labels[test] == name
        assert per_class.loc[name, "auroc"] == pytest.approx(pairs_won(is_label, scores[:, place]))
        assert per_class.loc[name, "auprc"] == pytest.approx(
            mean_precision(is_label, scores[:, place])
        )
        f1 = f1_score(labels[test], predicted[test], labels=[name], average=None)[0]
        assert per_class.loc[name, "f1"] == pytest.approx(f1)
        assert per_class.loc[name, "n_train"] == (labels[train] == name).sum()
    assert row["macro_auroc"] == pytest.approx(per_class["auroc"].mean())
    assert row["macro_auprc"] == pytest.approx(per_class["auprc"].mean())
    assert row["macro_f1"] == pytest.approx(
        f1_score(labels[test], predicted[test], average="macro")
    )
    assert row["accuracy"] == pytest.approx((labels[test] == predicted[test]).mean())
    assert row["cohen_kappa"] == pytest.approx(cohen_kappa_score(labels[test], predicted[test]))
    assert 0.3 < row["macro_f1"] < 0.97, "the comparison must not be trivial"


def test_knn_agrees_with_the_probe():
    adata = make()
    _, written = run(adata, "knn", rng=3)
    probe = scssl.tl.knn_probe(adata, "label", rng=3)
    same = ["n_train", "n_test", "macro_f1", "balanced_accuracy", "weighted_f1", "accuracy"]
    assert written["scores"].loc[0, same].to_dict() == pytest.approx(probe.loc[0, same].to_dict())


@pytest.mark.parametrize("n", [1, 4])
def test_knn_of_few_labels_agrees_with_the_probe(n):
    adata = make()
    _, written = run(adata, "knn", n_labels_per_class=n)
    probe = scssl.tl.knn_probe(adata, "label", n_labels_per_class=n)
    assert written["params"]["options"] == {"n_neighbors": str(n)}
    row = written["scores"].iloc[0]
    assert row["accuracy"] == pytest.approx(probe.loc[0, "accuracy"])
    # One vote is a prediction and ranks nothing.
    assert np.isnan([row["macro_auroc"], row["macro_auprc"]]).all() == (n == 1)


def test_options_reach_the_classifier():
    adata = make()
    train, test = halves(adata)
    out, written = run(adata, "lr", split=(train, test), C=0.01)
    labels, values = adata.obs["label"].astype(str), adata.obsm["X_ssl"].astype(float)
    model = make_pipeline(OneFactor(), LogisticRegression(C=0.01, max_iter=10_000))
    expected = model.fit(values[train], labels.iloc[train]).predict_proba(values)
    np.testing.assert_allclose(out.obsm["out"], expected, atol=1e-4)
    assert written["params"]["options"] == {"C": "0.01", "max_iter": "10000"}


def test_labels_are_ranked_by_scores_and_not_by_predictions():
    """Scores that are right in order but never win still have the full area."""
    truth = np.repeat([0, 1], [90, 10])
    scores = np.stack([np.full(100, 0.9), np.where(truth == 1, 0.2, 0.1)], axis=1)
    table = ranking_table(truth, scores, ["A", "B"])
    assert table.set_index("label").loc["B"].tolist() == [1.0, 1.0]
    assert table.set_index("label").loc["A", "auroc"] == 0.5


def test_kappa_with_predictions_that_are_no_label():
    generator = np.random.default_rng(0)
    truth, predicted = generator.integers(0, 3, 200), generator.integers(0, 5, 200)
    predicted = np.where(generator.random(200) < 0.6, truth, predicted)
    found = kappa_of(truth, np.where(predicted < 4, predicted, -1))
    # In its own words, and not by scikit-learn, which it calls.
    agreed = (truth == predicted).mean()
    chance = sum((truth == i).mean() * (predicted == i).mean() for i in range(5))
    assert found == pytest.approx((agreed - chance) / (1 - chance))
    assert np.isnan(kappa_of(np.zeros(3, int), np.zeros(3, int)))


# --- probabilities --------------------------------------------------------------------------------


@each
def test_probabilities_belong_to_the_labels(classifier):
    out, written = run(make(), classifier)
    labels = written["labels"]
    assert labels.tolist() == ["type 0", "type 1", "type 2"]
    np.testing.assert_allclose(out.obsm["out"].sum(axis=1), 1, atol=1e-5)
    np.testing.assert_array_equal(out.obs["out"].astype(str), labels[out.obsm["out"].argmax(1)])
    np.testing.assert_allclose(out.obs["out_confidence"], out.obsm["out"].max(1), atol=1e-6)


def test_temperature_makes_distances_probabilities():
    """Scores of a known model, multiplied by five, are divided by five."""
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(20_000, 4))
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    codes = (generator.random((20_000, 1)) > probabilities.cumsum(axis=1)).sum(axis=1)
    assert temperature_of(5 * logits, codes) == pytest.approx(5, rel=0.05)


def test_confidence_of_the_svm_is_better_with_the_temperature():
    adata = make((1500, 1000, 500))
    _, fitted = run(adata, "svm", test_size=0.5)
    assert fitted["params"]["probabilities"] == "softmax, temperature fitted"
    assert fitted["scores"].loc[0, "ece"] < 0.05
    _, alone = run(adata, "svm", test_size=0.5, n_labels_per_class=1)
    assert alone["params"]["probabilities"] == "softmax, not fitted"


def test_separate_types():
    for classifier in CLASSIFIERS:
        row = run(make(shift=30.0), classifier)[1]["scores"].iloc[0]
        names = ["accuracy", "cohen_kappa", "macro_f1", "macro_auroc", "macro_auprc"]
        assert row[names].tolist() == [1] * 5


def test_noise_scores_as_chance():
    adata = make((1000, 600, 400), shift=0.0)
    row = run(adata, "lr", test_size=0.5)[1]["scores"].iloc[0]
    assert abs(row["macro_auroc"] - 0.5) < 0.05
    assert abs(row["macro_auprc"] - 1 / 3) < 0.05
    assert abs(row["cohen_kappa"]) < 0.05


# --- the cells ------------------------------------------------------------------------------------


def test_parts():
    adata = make((100, 50, 7))
    out, written = run(adata, n_labels_per_class=5)
    parts = pd.crosstab(out.obs["label"], out.obs["out_part"])
    assert parts["test"].tolist() == [20, 10, 1]
    assert parts["train"].tolist() == [5, 5, 5]
    assert parts["other"].tolist() == [75, 35, 1]
    row = written["scores"].iloc[0]
    assert row[["n_train", "n_test", "n_labels"]].tolist() == [15, 31, 3]


def test_features_are_scaled_on_the_training_part_alone():
    adata = make()
    train, test = halves(adata)
    moved = adata.copy()
    moved.obsm["X_ssl"][test] += 1000
    for options in ({}, {"n_labels_per_class": 3}):
        one, other = (run(a, "lr", split=(train, test), **options)[0] for a in (adata, moved))
        np.testing.assert_array_equal(one.obsm["out"][train], other.obsm["out"][train])


def test_cells_without_a_label_are_labelled_and_not_used():
    adata = make()
    labels = adata.obs["label"].astype(object)
    labels.iloc[::4] = np.nan
    adata.obs["label"] = labels
    known = labels.notna().to_numpy()
    out, written = run(adata, "lr", rng=1)
    assert set(out.obs["out_part"][~known]) == {"other"}
    assert out.obs["out"].notna().all()
    inside, expected = run(adata[known].copy(), "lr", rng=1)
    pd.testing.assert_frame_equal(written["scores"], expected["scores"])
    np.testing.assert_array_equal(out.obsm["out"][known], inside.obsm["out"])
    # Rows of all cells, of which some have no label.
    train, test = halves(adata)
    given, written = run(adata, "lr", split=(train, test))
    used = np.flatnonzero(given.obs["out_part"] == "train")
    np.testing.assert_array_equal(used, np.intersect1d(train, np.flatnonzero(known)))
    used = np.flatnonzero(given.obs["out_part"] == "test")
    np.testing.assert_array_equal(used, np.intersect1d(test, np.flatnonzero(known)))


def test_all_labelled_cells_can_be_trained_on():
    adata = make()
    out, written = run(adata, "lr", test_size=0)
    assert set(out.obs["out_part"]) == {"train"}
    assert {"scores", "per_class"}.isdisjoint(written)
    model = reference_estimator("lr").fit(adata.obsm["X_ssl"].astype(float), adata.obs["label"])
    expected = model.predict_proba(adata.obsm["X_ssl"].astype(float))
    np.testing.assert_allclose(out.obsm["out"], expected, atol=1e-4)
    out, _ = run(adata, "lr", test_size=0, n_labels_per_class=4)
    assert (out.obs["label"][out.obs["out_part"] == "train"].value_counts() == 4).all()


def test_labels_absent_from_the_test_part_are_skipped_and_counted():
    adata = make((60, 40, 20, 10))
    labels = adata.obs["label"].astype(str).to_numpy()
    adata.obs["split"] = np.where(np.arange(adata.n_obs) % 2, "train", "test")
    adata.obs.loc[labels == "type 3", "split"] = "train"
    for classifier in CLASSIFIERS:
        out, written = run(adata, classifier, split="split")
        row = written["scores"].iloc[0]
        assert row[["n_labels", "n_labels_skipped"]].tolist() == [3, 1]
        assert written["per_class"]["label"].tolist() == ["type 0", "type 1", "type 2"]
        assert np.isfinite(row[["macro_auroc", "macro_auprc", "macro_f1"]].astype(float)).all()
        assert out.obsm["out"].shape == (130, 4)


def test_labels_absent_from_the_training_part_are_left_out():
    adata = make((60, 40, 20))
    labels = adata.obs["label"].astype(str).to_numpy()
    train = np.flatnonzero((np.arange(adata.n_obs) % 2 == 1) & (labels != "type 2"))
    test = np.setdiff1d(np.arange(adata.n_obs), train)
    with pytest.warns(ScsslWarning, match=r"20 test cells are left out: .* 'type 2' \(20\)"):
        out, written = run(adata, split=(train, test))
    assert written["left_out"] == {"type 2": 20}
    assert set(out.obs["out_part"][labels == "type 2"]) == {"other"}
    assert written["labels"].tolist() == ["type 0", "type 1"]


def test_one_label_in_the_test_part_cannot_be_ranked():
    adata = make((60, 40))
    labels = adata.obs["label"].astype(str).to_numpy()
    test = np.flatnonzero(labels == "type 0")[:10]
    train = np.setdiff1d(np.arange(adata.n_obs), test)
    row = run(adata, split=(train, test))[1]["scores"].iloc[0]
    assert np.isnan(row["macro_auroc"])
    assert np.isnan(row["macro_auprc"])
    assert row["n_labels_skipped"] == 1


# --- errors ---------------------------------------------------------------------------------------


def test_what_is_refused():
    adata = make()
    classify = scssl.tl.classify
    with pytest.raises(ValueError, match="`classifier` must be 'svm', 'rf', 'lr' or 'knn'"):
        classify(adata, "label", classifier="mlp")
    with pytest.raises(TypeError, match="LogisticRegression has no option 'n_trees'; it has C,"):
        classify(adata, "label", classifier="lr", n_trees=3)
    with pytest.raises(TypeError, match="Give the seed as `rng`, not as `random_state`"):
        classify(adata, "label", classifier="rf", random_state=3)
    with pytest.raises(ValueError, match="key_added='label' would overwrite 'label'"):
        classify(adata, "label", key_added="label")
    with pytest.raises(ValueError, match="would overwrite 'X_ssl', which is read"):
        classify(adata, "label", key_added="X_ssl")
    with pytest.raises(ValueError, match="n_neighbors=15 is more than the 6 training cells"):
        classify(adata, "label", classifier="knn", n_labels_per_class=2, n_neighbors=15)
    with pytest.raises(ValueError, match="training part of `split` has no cell with a label"):
        partly = adata.copy()
        partly.obs["label"] = partly.obs["label"].where(np.arange(adata.n_obs) > 9)
        classify(partly, "label", split=(np.arange(10), np.arange(10, 100)))
    with pytest.raises(ValueError, match="are in both parts of `split`"):
        classify(adata, "label", split=([0, 1], [1, 2]))
    adata.obs["one"], adata.obs["none"] = "T", np.nan
    with pytest.raises(ValueError, match=r"Needs at least two labels.*'T'"):
        classify(adata, "one", test_size=0)
    with pytest.raises(ValueError, match="missing for all 240 cells"):
        classify(adata, "none")
    with pytest.raises(KeyError, match="adata.obsm has no 'X_pca'"):
        classify(adata, "label", use_rep="X_pca")
    assert list(adata.obsm) == ["X_ssl"], "nothing is written by what fails"


def test_warns_of_a_fit_that_did_not_converge():
    adata = make()
    with pytest.warns(ScsslWarning, match=r"LogisticRegression did not converge in 1 .*C=0.1"):
        scssl.tl.classify(adata, "label", classifier="lr", max_iter=1)


# --- real data ------------------------------------------------------------------------------------


@pytest.mark.realdata
@pytest.mark.slow
def test_real_cells(data_file):
    """All classifiers read the types of blood cells from PCA; clusters agree with them in part."""
    import scanpy as sc

    adata = ad.read_h5ad(data_file("pbmc3k.h5ad"))
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    sc.pp.highly_variable_genes(adata, n_top_genes=2000)
    sc.pp.pca(adata, n_comps=50, random_state=0)
    for classifier in CLASSIFIERS:
        scssl.tl.classify(adata, "cell_type", use_rep="X_pca", classifier=classifier)
        row = adata.uns[f"{classifier}_label"]["scores"].iloc[0]
        assert row["cohen_kappa"] > 0.8
        assert row["macro_auroc"] > 0.98
        assert row["macro_auprc"] > 0.9
    svm, forest = (adata.uns[f"{name}_label"]["scores"].loc[0, "ece"] for name in ("svm", "rf"))
    assert svm < 0.05 < forest, "the temperature is fitted, votes of trees are not"
    row = scssl.tl.cluster_metrics(adata, "cell_type", use_rep="X_pca", n_repeats=3).iloc[0]
    assert row["leiden_nmi"] > 0.7
    assert row["kmeans_nmi"] > 0.7
