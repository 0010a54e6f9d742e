"""Pretraining on other data sets, scored on one that was left out."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import scssl
from scssl.data import Datasets

OPTIONS = {
    "n_labels_per_class": [2, None],
    "n_repeats": 2,
    "model_arguments": {"hidden_dims": (16,), "n_latent": 8, "n_rounds": 1},
    "train_arguments": {"max_epochs": 2},
    "finetune_arguments": {"max_epochs": 25},
}


def make(n_cells, seed, genes=40, *, labels=True):
    rng = np.random.default_rng(seed)
    kind = np.arange(n_cells) % 3
    mean = np.random.default_rng(0).gamma(0.5, 3.0, (3, 60))[:, :genes]
    x = rng.poisson(mean[kind] * rng.gamma(5, 0.2, (n_cells, 1))).astype(np.float32)
    adata = anndata.AnnData(sparse.csr_matrix(x))
    adata.var_names = [f"G{i}" for i in range(genes)]
    if labels:
        adata.obs["type"] = pd.Categorical(np.array(["B", "NK", "T"])[kind])
    return adata


def three(**options):
    data = {"a": make(60, 1), "b": make(90, 2, 50), "c": make(75, 3, labels=False)}
    return Datasets(data, obs_keys=["type"], **options)


def test_table():
    table = scssl.tl.leave_one_dataset_out(three(), "type", **OPTIONS)
    assert len(table) == 2 * 2 * 2 * 3
    assert sorted(table["dataset"].unique()) == ["a", "b"]
    by = ["dataset", "seed", "n_labels_per_class"]
    # All arms learn from the same cells and are tested on the same; seeds differ.
    assert (table.groupby(by)["split"].nunique() == 1).all()
    assert table.groupby(["dataset", "n_labels_per_class"])["split"].nunique().tolist() == [2] * 4
    few = table[table["n_labels_per_class"] == 2]
    assert (few["n_train"] == 6).all()
    assert table[table["dataset"] == "a"]["n_test"].unique().tolist() == [24]
    assert table[table["n_labels_per_class"] == 0].groupby("dataset")["n_train"].max().tolist() == [
        36,
        54,
    ]
    measures = ["accuracy", "macro_f1", "macro_auroc", "macro_auprc"]
    assert table[measures].apply(lambda x: x.between(0, 1)).all(axis=None)
    # Three types that differ much: whoever learns anything is right.
    whole = table[table["n_labels_per_class"] == 0]
    assert whole.groupby("arm")["accuracy"].mean().min() > 0.8
    again = scssl.tl.leave_one_dataset_out(three(), "type", **OPTIONS)
    pd.testing.assert_frame_equal(table, again)


def test_components_are_found_once_for_all_numbers_of_labels(monkeypatch):
    """And the scores are to the bit those of a run of its own for each number."""
    from sklearn.decomposition import PCA

    fitted, fit = [], PCA.fit
    monkeypatch.setattr(PCA, "fit", lambda self, x: fitted.append(x) or fit(self, x))
    budgets = [2, 5, None]
    options = {**OPTIONS, "arms": ["PCA + LR"], "test_size": 0.5}
    options["n_labels_per_class"] = budgets
    table = scssl.tl.leave_one_dataset_out(three(), "type", **options)
    assert len(fitted) == 2 * 2  # data sets with labels, seeds
    apart = [
        scssl.tl.leave_one_dataset_out(three(), "type", **{**options, "n_labels_per_class": [n]})
        for n in budgets
    ]
    assert len(fitted) == 4 + 3 * 4
    by = ["dataset", "seed", "n_labels_per_class"]
    pd.testing.assert_frame_equal(
        table.sort_values(by, ignore_index=True),
        pd.concat(apart).sort_values(by, ignore_index=True),
        check_exact=True,
    )


def test_pretraining_never_touches_what_is_held_out():
    """Values that would break pretraining, and genes that would change it, are not even looked at."""
    data = three(genes="union")
    held = data.items()[1][1]
    reference = scssl.tl.leave_one_dataset_out(
        data, "type", hold_out=["b"], arms=["pretrained"], **OPTIONS
    )
    seen = []
    original = scssl.model.PseudoLabel.setup_datasets.__func__

    def spy(cls, datasets, *args, **kwargs):
        seen.append(datasets)
        return original(cls, datasets, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scssl.model.PseudoLabel, "setup_datasets", classmethod(spy))
        again = scssl.tl.leave_one_dataset_out(
            data, "type", hold_out=["b"], arms=["pretrained"], **OPTIONS
        )
    pd.testing.assert_frame_equal(reference, again)
    assert len(seen) == 2
    for datasets in seen:
        assert [name for name, _ in datasets.items()] == ["a", "c"]
        assert all(adata is not held for _, adata in datasets.items())
        assert len(datasets.genes) == 40


def test_groups_are_left_out_together():
    seen = []

    class Spy(scssl.model.PseudoLabel):
        @classmethod
        def setup_datasets(cls, datasets, *args, **kwargs):
            seen.append([name for name, _ in datasets.items()])
            raise StopIteration

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("scssl.model.get_model_class", lambda name: Spy)
        with pytest.raises(StopIteration):
            scssl.tl.leave_one_dataset_out(
                three(), "type", hold_out=["a"], groups={"a": "x", "b": "x"}, **OPTIONS
            )
    assert seen == [["c"]]
    with pytest.raises(ValueError, match="nothing left to pretrain on without 'a'"):
        scssl.tl.leave_one_dataset_out(
            three(), "type", hold_out=["a"], groups=dict.fromkeys("abc", "x"), **OPTIONS
        )


def test_training_part_has_a_limit():
    table = scssl.tl.leave_one_dataset_out(
        three(), "type", hold_out=["b"], arms=["PCA + LR"], max_labels=30, **OPTIONS
    )
    assert table[table["n_labels_per_class"] == 0]["n_train"].tolist() == [30, 30]
    assert (table["n_test"] == 60).all()


def test_cells_without_a_label_are_neither_learnt_from_nor_tested_on():
    data = three()
    labels = data.items()[0][1].obs["type"].astype(object)
    labels.iloc[:12] = None
    data.items()[0][1].obs["type"] = pd.Categorical(labels)
    table = scssl.tl.leave_one_dataset_out(data, "type", hold_out=["a"], **OPTIONS)
    assert (table["n_test"] + table["n_train"])[table["n_labels_per_class"] == 0].eq(48).all()


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"hold_out": ["c"]}, KeyError, r"no data set 'c' with labels 'type'.*\['a', 'b'\]"),
        ({"arms": ["SVM"]}, ValueError, r"`arms` must be of .* found \['SVM'\]"),
        ({"n_repeats": 0}, ValueError, "n_repeats"),
        ({"model": "SimCLR"}, ValueError, "SimCLR cannot be trained on several data sets"),
    ],
)
def test_bad_arguments(options, error, match):
    with pytest.raises(error, match=match):
        scssl.tl.leave_one_dataset_out(three(), "type", **{**OPTIONS, **options})


def test_not_data_sets():
    with pytest.raises(TypeError, match="Make them: scssl.data.Datasets"):
        scssl.tl.leave_one_dataset_out({"a": make(9, 0)}, "type")
