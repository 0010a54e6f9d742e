"""Pretraining on other data sets, scored on one that was left out."""

from __future__ import annotations

import functools

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import scssl
from scssl._errors import ScsslWarning
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
    assert table[table["n_labels_per_class"] == "all"].groupby("dataset")[
        "n_train"
    ].max().tolist() == [
        36,
        54,
    ]
    measures = ["accuracy", "macro_f1", "macro_auroc", "macro_auprc"]
    assert table[measures].apply(lambda x: x.between(0, 1)).all(axis=None)
    # Three types that differ much: whoever learns anything is right.
    whole = table[table["n_labels_per_class"] == "all"]
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
    one, other = (
        frame.astype({"n_labels_per_class": str}).sort_values(by, ignore_index=True)
        for frame in (table, pd.concat(apart))
    )
    pd.testing.assert_frame_equal(one, other, check_exact=True)


def test_pretraining_never_touches_what_is_held_out():
    """Its values would break pretraining, and its genes would change it: neither is looked at."""
    data = three(genes="union")
    held = data.items()[1][1]
    values = held.X.data.copy()
    reference = scssl.tl.leave_one_dataset_out(
        data, "type", hold_out=["b"], arms=["pretrained"], **OPTIONS
    )
    seen, trained = [], []
    original = scssl.model.PseudoLabel.setup_datasets.__func__
    train = scssl.model.PseudoLabel.train

    def spy(cls, datasets, *args, **kwargs):
        held.X.data[:] = np.nan
        seen.append(datasets)
        return original(cls, datasets, *args, **kwargs)

    def restored(self, *args, **kwargs):
        train(self, *args, **kwargs)
        # Poisoned till here, from where the classifier learns from it.
        trained.append(bool(np.isnan(held.X.data).all()))
        held.X.data[:] = values

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scssl.model.PseudoLabel, "setup_datasets", classmethod(spy))
        patch.setattr(scssl.model.PseudoLabel, "train", restored)
        held.X.data[:] = np.nan
        again = scssl.tl.leave_one_dataset_out(
            data, "type", hold_out=["b"], arms=["pretrained"], **OPTIONS
        )
    pd.testing.assert_frame_equal(reference, again)
    assert trained == [True, True]
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
    assert table[table["n_labels_per_class"] == "all"]["n_train"].tolist() == [30, 30]
    assert (table["n_test"] == 60).all()


def test_cells_without_a_label_are_neither_learnt_from_nor_tested_on():
    data = three()
    labels = data.items()[0][1].obs["type"].astype(object)
    labels.iloc[:12] = None
    data.items()[0][1].obs["type"] = pd.Categorical(labels)
    table = scssl.tl.leave_one_dataset_out(data, "type", hold_out=["a"], **OPTIONS)
    assert (table["n_test"] + table["n_train"])[table["n_labels_per_class"] == "all"].eq(48).all()


def test_all_labels_are_last(monkeypatch):
    """As a category, so that figures and tables have the numbers of labels in this order."""
    options = {**OPTIONS, "arms": "PCA + LR", "n_repeats": 1}
    options["n_labels_per_class"] = [None, 5, 2]
    table = scssl.tl.leave_one_dataset_out(three(), "type", hold_out="a", **options)
    assert table["n_labels_per_class"].tolist() == ["all", 5, 2]
    assert table["n_labels_per_class"].cat.categories.tolist() == [2, 5, "all"]
    assert table.sort_values("n_labels_per_class")["n_train"].tolist() == [6, 15, 36]
    ax = scssl.pl.metric_bars(table, "accuracy", group_key="n_labels_per_class", show=False)
    assert [text.get_text() for text in ax.get_xticklabels()] == ["2", "5", "all"]


def test_one_stands_for_a_list_of_one():
    options = {**OPTIONS, "n_repeats": 1}
    one, many = (
        scssl.tl.leave_one_dataset_out(
            three(),
            "type",
            **{**options, "hold_out": name, "arms": arms, "n_labels_per_class": number},
        )
        for name, arms, number in (("a", "PCA + LR", 5), (["a"], ["PCA + LR"], np.array([5])))
    )
    pd.testing.assert_frame_equal(one, many)
    whole = {**options, "hold_out": "a", "arms": "PCA + LR", "n_labels_per_class": None}
    assert scssl.tl.leave_one_dataset_out(three(), "type", **whole)["n_train"].tolist() == [36]


def interrupt_in(monkeypatch, number):
    """Ctrl-C in the training with this number, as the models take it: training ends, all goes on."""
    from scssl.model import SSLModel

    done, train = [], SSLModel.train

    @functools.wraps(train)
    def interrupted(self, *args, **kwargs):
        train(self, *args, **kwargs)
        done.append(type(self).__name__)
        if len(done) == number:
            self.training_["stopped_by"] = "interrupt"

    monkeypatch.setattr(SSLModel, "train", interrupted)
    return done


@pytest.mark.parametrize("number", [6, 7])
def test_interrupt_ends_the_study_and_keeps_what_is_done(monkeypatch, tmp_path, number):
    """Five models are trained for each data set: one is pretrained, four are fine-tuned."""
    options = {**OPTIONS, "n_repeats": 1}
    whole = scssl.tl.leave_one_dataset_out(three(), "type", **options)
    done, out = interrupt_in(monkeypatch, number), tmp_path / "rows.jsonl"
    with pytest.raises(KeyboardInterrupt) as caught:
        scssl.tl.leave_one_dataset_out(three(), "type", out=out, **options)
    assert len(done) == number
    assert done[-1] == ("PseudoLabel" if number == 6 else "CellTypeClassifier")
    table = caught.value.table
    assert table["dataset"].tolist() == ["a"] * 6
    pd.testing.assert_frame_equal(table, whole.iloc[:6])
    assert "Its 6 rows so far: sys.last_value.table, and in" in caught.value.__notes__[0]
    written = pd.read_json(out, lines=True)
    assert written["n_labels_per_class"].tolist() == [2] * 3 + ["all"] * 3
    assert written["accuracy"].to_numpy() == pytest.approx(table["accuracy"].to_numpy())


def test_what_cannot_be_scored_is_found_before_training(monkeypatch, caplog):
    """By default it is only pretrained on; where it is named, the error says which it is and why."""
    trained = interrupt_in(monkeypatch, 0)
    data = dict(three().items())
    data["c"].obs["type"] = "B"
    data["d"] = make(30, 4)
    data["d"].obs["type"] = ["T"] + ["B"] * 29
    data = Datasets(data)
    with pytest.raises(ValueError, match=r"Data set 'd' cannot be held out: obs\['type'\] has 1"):
        scssl.tl.leave_one_dataset_out(data, "type", hold_out=["a", "d"], **OPTIONS)
    options = {**OPTIONS, "arms": "PCA + LR"}
    with caplog.at_level("WARNING", logger="scssl"):
        table = scssl.tl.leave_one_dataset_out(data, "type", **options)
    assert table["dataset"].unique().tolist() == ["a", "b"]
    assert [record.args[0] for record in caplog.records] == ["c", "d"]
    # Two cells in all, one for each label, are too few for a network, not for a regression.
    two = dict(three().items())
    two["a"] = two["a"][two["a"].obs["type"].isin(["B", "T"]).to_numpy()].copy()
    options = {**OPTIONS, "n_labels_per_class": 1, "n_repeats": 1}
    with pytest.raises(
        ValueError, match=r"'a' cannot be held out: with n_labels_per_class=1 .* 2 c"
    ):
        scssl.tl.leave_one_dataset_out(Datasets(two), "type", hold_out="a", **options)
    options["arms"] = "PCA + LR"
    assert len(scssl.tl.leave_one_dataset_out(Datasets(two), "type", hold_out="a", **options)) == 1
    with pytest.raises(ValueError, match=r"No data set can be held out. 'c': obs\['type'\] has 1"):
        scssl.tl.leave_one_dataset_out(Datasets({"c": data.items()[2][1]}), "type", **OPTIONS)
    assert not trained


def test_genes_of_a_list_are_warned_of():
    data = three()
    listed = Datasets(dict(data.items()), data.genes)
    options = {**OPTIONS, "hold_out": "a", "n_repeats": 1, "n_labels_per_class": 2}
    with pytest.warns(ScsslWarning, match="genes from a list, which stays the same"):
        scssl.tl.leave_one_dataset_out(listed, "type", arms=["pretrained"], **options)
    scssl.tl.leave_one_dataset_out(listed, "type", arms="PCA + LR", **options)


def test_arguments_of_the_classifier_reach_both_arms(monkeypatch):
    made = []
    init = scssl.model.CellTypeClassifier.__init__

    @functools.wraps(init)
    def spy(self, *args, **kwargs):
        made.append((kwargs["head"], kwargs["class_weight"]))
        init(self, *args, **kwargs)

    monkeypatch.setattr(scssl.model.CellTypeClassifier, "__init__", spy)
    scssl.tl.leave_one_dataset_out(
        three(),
        "type",
        hold_out="a",
        arms=["pretrained", "scratch"],
        classifier_arguments={"head": "mlp", "class_weight": "balanced"},
        **{**OPTIONS, "n_repeats": 1, "n_labels_per_class": 2},
    )
    assert made == [("mlp", "balanced")] * 2


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"hold_out": ["c"]}, KeyError, r"no data set 'c' with labels 'type'.*\['a', 'b'\]"),
        ({"hold_out": ["a", "b", "a"]}, ValueError, "`hold_out` has 'a' more than once"),
        ({"hold_out": []}, ValueError, "`hold_out` is empty"),
        ({"hold_out": 1}, TypeError, "`hold_out` must be a name or a list of them, found 1"),
        ({"arms": ["SVM"]}, ValueError, "`arms` must be 'pretrained', .* found 'SVM'"),
        ({"arms": "SVM"}, ValueError, "`arms` must be 'pretrained', .* found 'SVM'"),
        ({"arms": []}, ValueError, "`arms` is empty"),
        (
            {"groups": {"a": "x", "bb": "x"}},
            KeyError,
            r"'bb', which is no data set.*\['a', 'b', 'c'\]",
        ),
        ({"groups": ["a", "b"]}, TypeError, "`groups` must be a dict .* found list"),
        ({"n_repeats": 0}, ValueError, "n_repeats"),
        ({"n_labels_per_class": []}, ValueError, "`n_labels_per_class` is empty"),
        ({"n_labels_per_class": [5, 5]}, ValueError, "`n_labels_per_class` has 5 more than once"),
        (
            {"n_labels_per_class": 0},
            ValueError,
            "`n_labels_per_class` must be a whole number of at",
        ),
        (
            {"n_labels_per_class": 0.5},
            TypeError,
            "`n_labels_per_class` must be a whole number, None",
        ),
        ({"n_labels_per_class": ["all"]}, TypeError, "must be a whole number, None .* found 'all'"),
        ({"test_size": 1.5}, ValueError, "`test_size` must be a number in \\(0, 1\\)"),
        ({"test_size": 0}, ValueError, "`test_size` must be a number in \\(0, 1\\)"),
        ({"test_size": -1}, ValueError, "`test_size` must be a number in \\(0, 1\\)"),
        (
            {"max_labels": 0},
            ValueError,
            "`max_labels` must be a whole number of at least 1 or None, found 0",
        ),
        (
            {"max_labels": -5},
            ValueError,
            "`max_labels` must be a whole number of at least 1 or None, found -5",
        ),
        ({"finetune_arguments": {"rng": 1}}, ValueError, "`finetune_arguments` has 'rng'"),
        (
            {"classifier_arguments": {"backbone": "x"}},
            ValueError,
            "takes 'freeze', .* found 'backb",
        ),
        ({"model": "SimCLR"}, ValueError, "SimCLR cannot be trained on several data sets"),
    ],
)
def test_bad_arguments(options, error, match):
    with pytest.raises(error, match=match):
        scssl.tl.leave_one_dataset_out(three(), "type", **{**OPTIONS, **options})


def test_not_data_sets():
    with pytest.raises(TypeError, match=r"Make them `datasets = scssl.data.Datasets\(datasets\)`"):
        scssl.tl.leave_one_dataset_out({"a": make(9, 0)}, "type")
