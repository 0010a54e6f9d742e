"""Figures of labels show the shares and errors that are in the data, in an order one can read."""

from __future__ import annotations

import inspect

import anndata as ad
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import confusion_matrix as expected_matrix
from sklearn.metrics import f1_score

import scssl


def make(known, found):
    obs = pd.DataFrame({"known": known, "found": found})
    obs.index = [f"cell{i}" for i in range(len(obs))]
    return ad.AnnData(obs=obs)


def drawn(ax):
    """Labels, predictions and shares of a drawn matrix."""
    rows = [text.get_text() for text in ax.get_yticklabels()]
    columns = [text.get_text() for text in ax.get_xticklabels()]
    return rows, columns, np.asarray(ax.get_images()[0].get_array())


# --- confusion matrix -----------------------------------------------------------------------------


def test_shares_equal_scikit_learn():
    generator = np.random.default_rng(0)
    known, found = generator.choice(list("ABC"), 80), generator.choice(list("ABC"), 80)
    adata = make(known, found)
    ax = scssl.pl.confusion_matrix(adata, "known", "found", show=False)
    rows, columns, shares = drawn(ax)
    np.testing.assert_allclose(shares, expected_matrix(known, found, normalize="true"))
    assert columns == list("ABC")
    assert rows == [f"{name} ({(known == name).sum()})" for name in "ABC"]
    assert (ax.get_ylabel(), ax.get_xlabel()) == ("known", "found")


def test_order_of_labels_and_predictions():
    known = [f"cluster_{i}" for i in (1, 2, 10, 10, 2, 1)]
    found = ["unknown", "cluster_2", "cluster_10", "new b", "new a", "cluster_2"]
    rows, columns, shares = drawn(
        scssl.pl.confusion_matrix(make(known, found), "known", "found", show=False)
    )
    assert rows == ["cluster_1 (2)", "cluster_2 (2)", "cluster_10 (2)"]
    # All labels first, in their order, predicted or not; what is no label by the label it is most of;
    # unknown last.
    assert columns == ["cluster_1", "cluster_2", "cluster_10", "new a", "new b", "unknown"]
    np.testing.assert_allclose(
        shares, [[0, 0.5, 0, 0, 0, 0.5], [0, 0.5, 0, 0.5, 0, 0], [0, 0, 0.5, 0, 0.5, 0]]
    )


def test_predictions_that_are_no_labels_have_the_only_columns():
    adata = make(list("AABB"), ["2", "unknown", "1", "1"])
    _, columns, shares = drawn(scssl.pl.confusion_matrix(adata, "known", "found", show=False))
    assert columns == ["2", "1", "unknown"]
    np.testing.assert_allclose(shares, [[0.5, 0, 0.5], [0, 1, 0]])


def test_order_of_categories_is_kept():
    known = pd.Categorical(list("ABCA"), categories=["stem", "C", "A", "B"], ordered=True)
    rows, columns, _ = drawn(
        scssl.pl.confusion_matrix(make(known, list("ABCC")), "known", "found", show=False)
    )
    assert rows == ["C (1)", "A (2)", "B (1)"]
    assert columns == ["C", "A", "B"]


def test_numbers_are_written_where_they_fit():
    adata = make(list("AAAB"), list("AABB"))
    ax = scssl.pl.confusion_matrix(adata, "known", "found", show=False)
    assert sorted(text.get_text() for text in ax.texts) == [".33", ".67", "1"]
    ax = scssl.pl.confusion_matrix(adata, "known", "found", numbers=False, show=False)
    assert not ax.texts
    many = [f"type {i}" for i in range(25)]
    ax = scssl.pl.confusion_matrix(make(many, many), "known", "found", show=False)
    assert not ax.texts


def test_confusion_matrix_of_what_is_not_there():
    adata = make(["A", None], list("AB"))
    with pytest.raises(KeyError, match="adata.obs has no 'pred'"):
        scssl.pl.confusion_matrix(adata, "found", "pred")
    with pytest.raises(ValueError, match=r"adata.obs\['known'\] is missing for 1 of 2 cells"):
        scssl.pl.confusion_matrix(adata, "known", "found")


def test_confusion_matrix_on_given_axes_and_saved(tmp_path):
    adata = make(list("AAB"), list("ABB"))
    _, ax = plt.subplots()
    assert scssl.pl.confusion_matrix(adata, "known", "found", ax=ax) is ax
    scssl.pl.confusion_matrix(adata, "known", "found", save=tmp_path / "new" / "matrix.png")
    assert (tmp_path / "new" / "matrix.png").stat().st_size > 5000


# --- calibration ----------------------------------------------------------------------------------


@pytest.fixture
def labelled():
    """A query of two overlapping types, labelled."""
    generator = np.random.default_rng(0)
    parts = []
    for name in ("reference", "query"):
        codes = generator.integers(0, 2, 300)
        obs = pd.DataFrame({"label": np.array(["B", "T"])[codes]})
        obs.index = [f"{name}{i}" for i in range(300)]
        values = generator.normal(size=(300, 3)) + codes[:, None]
        parts.append(ad.AnnData(obs=obs, obsm={"X_ssl": values.astype(np.float32)}))
    reference, query = parts
    scssl.tl.label_transfer(reference, query, "label")
    return query


def points(ax):
    return np.asarray(ax.collections[1].get_offsets())


def test_calibration_of_held_out_cells(labelled):
    ax = scssl.pl.calibration(labelled, show=False)
    bins = labelled.uns["ssl_label"]["calibration"]["bins"]
    filled = bins["n_cells"] > 0
    np.testing.assert_allclose(
        points(ax), np.stack([bins["confidence"][filled], bins["accuracy"][filled]], axis=1)
    )
    error = labelled.uns["ssl_label"]["calibration"]["ece"]
    assert ax.get_title().startswith("300 held-out cells of the reference")
    assert ax.get_title().endswith(f"expected calibration error {error:.3f}")
    sizes = ax.collections[1].get_sizes()
    np.testing.assert_allclose((sizes - 12) / (sizes - 12).sum(), bins["n_cells"][filled] / 300)


def test_calibration_against_known_labels(labelled):
    ax = scssl.pl.calibration(labelled, "label", show=False)
    right = (labelled.obs["ssl_label"].astype(str) == labelled.obs["label"].astype(str)).to_numpy()
    confidence = labelled.obs["ssl_label_confidence"].to_numpy()
    for x, y in points(ax):
        i = np.ceil(x * 15)
        inside = (confidence > (i - 1) / 15) & (confidence <= i / 15)
        assert x == pytest.approx(confidence[inside].mean())
        assert y == pytest.approx(right[inside].mean())
    score = scssl.tl.score_labels(
        labelled, "label", "ssl_label", confidence_key="ssl_label_confidence"
    )
    assert ax.get_title().endswith(f"error {score.loc[0, 'ece']:.3f}")


def test_calibration_of_a_file(labelled, tmp_path):
    before = points(scssl.pl.calibration(labelled, show=False))
    labelled.write_h5ad(tmp_path / "query.h5ad")
    read = ad.read_h5ad(tmp_path / "query.h5ad")
    np.testing.assert_allclose(points(scssl.pl.calibration(read, show=False)), before)


def test_calibration_that_is_not_there(labelled):
    with pytest.raises(KeyError, match=r"adata.uns\['mine'\] has no calibration.*key_added='mine'"):
        scssl.pl.calibration(labelled, pred_key="mine")
    with pytest.raises(KeyError, match="adata.obs has no 'cell_type'"):
        scssl.pl.calibration(labelled, "cell_type")


def test_calibration_on_given_axes_and_saved(labelled, tmp_path):
    _, ax = plt.subplots()
    assert scssl.pl.calibration(labelled, ax=ax) is ax
    scssl.pl.calibration(labelled, save=tmp_path / "calibration.svg")
    assert (tmp_path / "calibration.svg").stat().st_size > 5000


def test_predictions_come_after_labels_in_all_figures(labelled):
    for draw in (scssl.pl.confusion_matrix, scssl.pl.per_class_f1, scssl.pl.calibration):
        assert list(inspect.signature(draw).parameters)[:3] == ["adata", "label_key", "pred_key"]
        assert draw(labelled, "label", "ssl_label", show=False) is not None


# --- F1 by label ----------------------------------------------------------------------------------


def two_predictions():
    generator = np.random.default_rng(0)
    known = generator.choice(list("ABCD"), 200, p=[0.5, 0.3, 0.15, 0.05])
    obs = pd.DataFrame({"known": known})
    for name, right in (("good", 0.8), ("bad", 0.4)):
        other = generator.choice([*"ABCD", "unknown"], 200)
        obs[name] = np.where(generator.random(200) < right, known, other)
    obs.index = [f"cell{i}" for i in range(200)]
    return ad.AnnData(obs=obs)


def test_f1_of_labels_equals_scikit_learn():
    adata = two_predictions()
    ax = scssl.pl.per_class_f1(adata, "known", ["good", "bad"], names=["new", "old"], show=False)
    names = list("ABCD")
    f1 = {
        key: f1_score(adata.obs["known"], adata.obs[key], labels=names, average=None)
        for key in ("good", "bad")
    }
    order = np.argsort((f1["good"] + f1["bad"]) / 2)
    sizes = adata.obs["known"].value_counts()
    expected = [f"{names[i]} ({sizes[names[i]]})" for i in order]
    assert [text.get_text() for text in ax.get_yticklabels()] == expected
    for drawn, key, name in zip(ax.collections[1:], ("good", "bad"), ("new", "old"), strict=True):
        np.testing.assert_allclose(np.asarray(drawn.get_offsets())[:, 0], f1[key][order])
        assert drawn.get_label() == f"{name} (macro {f1[key].mean():.3f})"


def test_f1_of_one_prediction(tmp_path):
    adata = two_predictions()
    ax = scssl.pl.per_class_f1(adata, "known", "good", show=False)
    f1 = f1_score(adata.obs["known"], adata.obs["good"], labels=list("ABCD"), average="macro")
    assert ax.get_title() == f"macro-F1 {f1:.3f}"
    assert ax.get_legend() is None
    scssl.pl.per_class_f1(adata, "known", "good", save=tmp_path / "f1.png")
    assert (tmp_path / "f1.png").stat().st_size > 5000
    _, ax = plt.subplots()
    assert scssl.pl.per_class_f1(adata, "known", "good", ax=ax) is ax


def test_per_class_f1_refuses():
    adata = two_predictions()
    with pytest.raises(ValueError, match="one name for each of the 2 predictions, found"):
        scssl.pl.per_class_f1(adata, "known", ["good", "bad"], names=["one"])
    with pytest.raises(KeyError, match="adata.obs has no 'ugly'"):
        scssl.pl.per_class_f1(adata, "known", "ugly")
    with pytest.raises(ValueError, match="has no cells"):
        scssl.pl.per_class_f1(adata[:0], "known", "good")


def test_three_labels_have_squares_that_the_scale_fits_beside():
    adata = scssl.datasets.simulated(60, 10, n_types=3)
    ax = scssl.pl.confusion_matrix(adata, "cell_type", "region", show=False)
    box = ax.get_position()
    width, height = ax.get_figure().get_size_inches()
    assert height > 2.4
    assert box.height * height > 1.2
    assert box.width * width > 1.2
