"""What batches of training are made of, and which cells are validated on, in memory and from a store."""

from __future__ import annotations

import numpy as np
import pytest
from lightning.pytorch.callbacks import Callback

import scssl
from scssl.data import build_store
from scssl.model.base import _stores

from .conftest import arguments_of, make_counts
from .test_stores import same_weights

pytest.importorskip("annbatch", reason="stores need annbatch, of the extra atlas")

TRAIN = {"max_epochs": 2, "batch_size": 24, "progress": False, "lr_schedule": "constant"}


class Seen(Callback):
    """The cells of each batch."""

    def __init__(self):
        self.batches = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.batches.append(batch["indices"].numpy())


class Ends(Callback):
    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step == 9:
            raise RuntimeError("ends")


def cells(n=150, seed=0):
    adata = make_counts(n, seed=seed)
    # One in ten is rare.
    adata.obs["kind"] = np.where(np.arange(n) % 10, "common", "rare")
    return adata


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    out = tmp_path_factory.mktemp("store") / "atlas"
    inputs = {"one": cells(), "two": cells(100, seed=1)}
    return build_store(inputs, out, obs_keys=["kind", "batch", "age"])


@pytest.fixture(params=["memory", "store"])
def data(request):
    """Cells, how they are set up, and their columns."""
    if request.param == "store":
        store = request.getfixturevalue("store")
        return store, "setup_store", store.obs()
    adata = cells()
    return adata, "setup_anndata", adata.obs


def build(data, name="MaskedAutoencoder", **setup):
    cls = scssl.model.get_model_class(name)
    getattr(cls, data[1])(data[0], **setup)
    return cls(data[0], **arguments_of(cls))


def train(data, **given):
    model, seen = build(data), Seen()
    model.train(**TRAIN, callbacks=[seen], **given)
    return model, seen.batches


def test_as_many_of_each_category(data):
    model, batches = train(data, balance_key="kind")
    kind = data[2]["kind"].to_numpy()
    n = len(model.train_indices_)
    assert sum(map(len, batches)) == 2 * n
    assert all(abs(2 * sum(kind[rows] == "rare") - len(rows)) <= 2 for rows in batches)
    assert set(np.concatenate(batches)) <= set(model.train_indices_)


def test_twice_as_many_of_one_category(data):
    model, batches = train(data, balance_key="kind", balance_weights={"rare": 3})
    kind = data[2]["kind"].to_numpy()
    for rows in batches:
        assert abs(sum(kind[rows] == "rare") - 0.75 * len(rows)) <= 2
    assert model.training_["n_cells"] == len(data[2])


def test_batches_of_one_category(data):
    model, batches = train(data, separate_key="kind")
    kind = data[2]["kind"].to_numpy()
    assert {len(set(kind[rows])) for rows in batches} == {1}
    half = np.concatenate(batches[: len(batches) // 2])
    assert sorted(half) == sorted(model.train_indices_)


@pytest.mark.parametrize("names", ["b", ["b"]])
def test_validation_on_whole_categories(data, names):
    model, batches = train(data, hold_out={"batch": names})
    batch = data[2]["batch"].to_numpy()
    assert sorted(model.validation_indices_) == np.flatnonzero(batch == "b").tolist()
    assert set(batch[np.concatenate(batches)]) == {"a"}
    assert model.training_["train_size"] == pytest.approx(np.mean(batch == "a"))


def test_of_a_store_some_of_them_are_enough(store, monkeypatch):
    monkeypatch.setattr(_stores, "_MOST_HELD_OUT", 20)
    model, batches = train((store, "setup_store", None), hold_out={"dataset": "two"})
    dataset = store.obs(None, ["dataset"])["dataset"].to_numpy()
    assert len(model.validation_indices_) == 20
    assert set(dataset[np.asarray(model.validation_indices_)]) == {"two"}
    assert set(dataset[np.concatenate(batches)]) == {"one"}


def test_pseudo_labels_of_a_store_balance_its_data_sets(store):
    model, seen = build((store, "setup_store", None), "PseudoLabel", batch_key="dataset"), Seen()
    model.train(**TRAIN, callbacks=[seen])
    dataset = store.obs(None, ["dataset"])["dataset"].to_numpy()
    for rows in seen.batches:
        assert abs(2 * sum(dataset[rows] == "two") - len(rows)) <= 2
    whole = build((store, "setup_store", None), "PseudoLabel", batch_key="dataset")
    with pytest.raises(ValueError, match="all cells of 'two' are held out"):
        whole.train(**TRAIN, hold_out={"dataset": ["two"]})


@pytest.mark.parametrize("weights", [None, {"rare": 3.0}])
def test_it_goes_on_within_an_epoch(data, tmp_path, weights):
    given = {**TRAIN, "balance_key": "kind", "balance_weights": weights}
    straight, stopped, resumed = build(data), build(data), build(data)
    straight.train(**given)
    with pytest.raises(RuntimeError, match="ends"):
        stopped.train(**given, checkpoint_dir=tmp_path, checkpoint_every=2, callbacks=[Ends()])
    resumed.train(**given, resume_from=tmp_path)
    assert same_weights(straight, resumed)
    with pytest.raises(ValueError, match="its balance_weights is .*, of this one {'rare': 2"):
        build(data).train(**{**given, "balance_weights": {"rare": 2}}, resume_from=tmp_path)
    with pytest.raises(ValueError, match="its balance_key is 'kind', of this one 'batch'"):
        other = {"balance_key": "batch", "balance_weights": None}
        build(data).train(**{**given, **other}, resume_from=tmp_path)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"balance_key": "kind", "separate_key": "kind"}, ValueError, "give `balance_key` or"),
        ({"balance_key": "age"}, ValueError, "holds numbers, and no categories"),
        ({"separate_key": "donor"}, KeyError, "donor"),
        ({"balance_weights": {"rare": 2}}, ValueError, "Name it in `balance_key`"),
        ({"balance_key": "kind", "balance_weights": 2}, TypeError, "must be numbers by category"),
        (
            {"balance_key": "kind", "balance_weights": {"rare": -1}},
            ValueError,
            "must be a positive number, found -1",
        ),
        (
            {"balance_key": "kind", "balance_weights": {"odd": 2}},
            ValueError,
            r"`balance_weights=\{'common': 2.0\}`",
        ),
        ({"hold_out": "b"}, TypeError, "must be categories by column"),
        ({"hold_out": {"batch": "c"}}, ValueError, r"`hold_out=\{'batch': \['a'\]\}`"),
        ({"hold_out": {"batch": ["a", "b"]}}, ValueError, "is all cells"),
        ({"hold_out": {"batch": "b"}, "train_size": 0.8}, ValueError, "`train_size=None`"),
    ],
)
def test_what_is_refused(data, given, error, message):
    with pytest.raises(error, match=message):
        build(data).train(**TRAIN, **given)


def test_cells_that_see_each_other_go_by_their_contexts():
    model = build((cells(), "setup_anndata", None), "CellPLM")
    with pytest.raises(ValueError, match="Cells see each other .*`balance_key`"):
        model.train(**TRAIN, balance_key="kind")
