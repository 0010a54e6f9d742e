"""What is particular to pretraining on clusters."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from sklearn.metrics import normalized_mutual_info_score

import scssl
from scssl.data import Datasets
from scssl.data.keys import DATASET
from scssl.model import CellTypeClassifier, PseudoLabel

from ..conftest import make_counts

SMALL = {"hidden_dims": (32,), "n_latent": 8, "cells_per_cluster": (50, 25), "kmeans": "sklearn"}
TRAIN = {"max_epochs": 2, "batch_size": 32, "progress": False}


def build(adata, dataset_key=None, **options):
    PseudoLabel.setup_anndata(adata, dataset_key=dataset_key, input="counts")
    return PseudoLabel(adata, **{**SMALL, **options})


def test_rounds():
    model = build(make_counts(), n_rounds=3)
    model.train(**TRAIN)
    rounds = model.rounds_
    assert rounds["n_epochs"].tolist() == [2, 2, 2]
    assert np.isnan(rounds["agreement"][0])
    assert ((rounds["agreement"][1:] > 0) & (rounds["agreement"][1:] <= 1)).all()
    assert len(model.history["train_loss"]) == 6
    clusters = model.clusters_
    assert clusters.columns.tolist() == ["50 cells", "25 cells"]
    assert clusters.max().tolist() <= [2, 5]
    assert model.module.heads is None


def test_rounds_end_when_clusters_agree(monkeypatch):
    monkeypatch.setattr("scssl.model.pseudo_label._model.agreement", lambda one, other: 0.97)
    model = build(make_counts(), n_rounds=5)
    model.train(**TRAIN)
    assert len(model.rounds_) == 1


class _Spy(Callback):
    """Weights of the encoder when a round starts."""

    def __init__(self):
        self.first, self.heads = [], []

    def on_train_start(self, trainer, pl_module):
        module = pl_module.module
        self.first.append(module.encoder.gene_encoder.weight.detach().clone())
        self.heads.append(module.heads[0].weight.detach().clone())


def test_a_round_starts_from_the_encoder_of_the_one_before_with_new_heads():
    model, spy = build(make_counts(), n_rounds=2), _Spy()
    before = model.module.encoder.gene_encoder.weight.detach().clone()
    one = build(make_counts(), n_rounds=1)
    one.train(**TRAIN)
    model.train(**TRAIN, callbacks=[spy])
    assert torch.equal(spy.first[0], before)
    assert torch.equal(spy.first[1], one.module.encoder.gene_encoder.weight)
    assert not torch.equal(spy.heads[0], spy.heads[1])


def test_clusters_are_of_one_data_set_each():
    adata = make_counts()
    model = build(adata, "batch", n_rounds=1)
    assert model._sizes() == [[2, 3], [2, 3]]
    model.train(**TRAIN)
    clusters, batch = model.clusters_["25 cells"], adata.obs["batch"]
    for name in ("a", "b"):
        own = (batch == name).to_numpy()
        # The same as of the data set alone.
        alone = build(adata[own].copy(), n_rounds=1)
        alone.train(**TRAIN)
        assert normalized_mutual_info_score(clusters[own], alone.clusters_["25 cells"]) > 0.99


def test_heads_of_a_data_set_learn_from_its_cells_alone():
    adata = make_counts()
    model = build(adata, "batch", n_rounds=1)
    model._start(0, [], seed=0, engine="sklearn")
    model.module.start_round(model._sizes(), 0)
    data = model._training_data()
    rows = np.flatnonzero(adata.obs["batch"] == "a")[:20]
    batch = next(iter(data.loader(rows, 20)))
    model.module.train()
    model.module.loss(batch, full=False).loss.backward()
    assert model.module.heads[0].weight.grad.abs().max() > 0
    assert model.module.heads[1].weight.grad is None


def test_every_batch_has_as_many_cells_of_each_data_set():
    adata = make_counts()
    adata.obs["study"] = np.where(np.arange(adata.n_obs) < 110, "large", "small")
    model, batches = build(adata, "study", n_rounds=1), []

    class Count(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            batches.append(np.bincount(batch[DATASET].squeeze(1), minlength=2))

    model.train(**TRAIN, callbacks=[Count()])
    assert len(batches) == 2 * 5
    assert (np.ptp(batches, axis=1) <= 1).all()


def test_learns_clusters_that_are_easy():
    """Fails where logits are squashed before the cross-entropy."""
    model = build(make_counts(n_cells=300), n_rounds=1, cells_per_cluster=(100,), mask_rate=0)
    model.train(max_epochs=40, batch_size=32, lr=5e-3, patience=40, progress=False)
    assert model.history["train_loss"].min().item() < 0.1
    assert model.history["validation_accuracy"].max().item() > 0.95


class _Crash(Callback):
    """The machine goes down in a round and epoch."""

    def __init__(self, when):
        self.left = when

    def on_train_epoch_start(self, trainer, pl_module):
        if self.left == 0:
            raise RuntimeError("the machine went down")
        self.left -= 1


@pytest.mark.filterwarnings("default:Saving .* what it held before is back")
@pytest.mark.parametrize(("when", "killed"), [(1, None), (3, "last.ckpt"), (4, "start"), (5, None)])
def test_a_resumed_run_equals_the_straight_one(when, killed, tmp_path):
    straight, stopped, resumed = (build(make_counts(), "batch", n_rounds=3) for _ in range(3))
    straight.train(**TRAIN, rng=3)
    with pytest.raises(RuntimeError, match="went down"):
        stopped.train(**TRAIN, rng=3, checkpoint_dir=tmp_path, callbacks=[_Crash(when)])
    assert stopped.module.heads is None
    if killed is not None:
        # A process is killed while one of its folders takes the place of another.
        path = max(tmp_path.glob(f"round-*/{killed}"))
        path.rename(path.with_name(f".{killed}.previous-00"))
    resumed.train(**TRAIN, rng=3, resume_from=tmp_path)
    for name, value in straight.module.state_dict().items():
        assert torch.equal(value, resumed.module.state_dict()[name]), name
    assert straight.history.keys() == resumed.history.keys()
    for name, frame in straight.history.items():
        if name != "cells_per_second":
            np.testing.assert_array_equal(frame, resumed.history[name])
    assert straight.rounds_.equals(resumed.rounds_)
    np.testing.assert_array_equal(straight.clusters_, resumed.clusters_)


def test_rounds_of_another_run_are_kept(tmp_path):
    build(make_counts(), n_rounds=1).train(**TRAIN, checkpoint_dir=tmp_path)
    with pytest.raises(ValueError, match="holds the rounds of another run"):
        build(make_counts(), n_rounds=1).train(**TRAIN, checkpoint_dir=tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(scssl.BundleError, match="There are no rounds in"):
        build(make_counts(), n_rounds=1).train(**TRAIN, resume_from=tmp_path / "empty")


def test_training_again_clusters_embeddings():
    model = build(make_counts(), n_rounds=1)
    model.train(**TRAIN)
    seen = []
    original = model._to_cluster

    def spy(data, rows, seed):
        x = original(data, rows, seed)
        seen.append(x.shape[1])
        return x

    model._to_cluster = spy
    model.train(**TRAIN)
    assert seen == [8]


def test_published_preset():
    adata = make_counts()
    PseudoLabel.setup_anndata(adata, input="counts")
    model = PseudoLabel(adata, preset="scpretrain", n_rounds=1)
    weights = {name: tuple(w.shape) for name, w in model.module.named_parameters()}
    assert sorted(weights.values()) == [(200,), (200, 60)] or sorted(weights.values()) == [
        (60, 200),
        (200,),
    ]
    model.train(max_epochs=1, progress=False)
    assert model.training_["lr"] == 1e-4
    assert model.training_["patience"] == 5
    assert model.get_latent_representation().shape == (150, 200)


@pytest.mark.parametrize(
    ("given", "preset", "found"),
    [
        ("auto", "scpretrain", "sigmoid"),
        (None, "scpretrain", None),
        ("relu", "scpretrain", "relu"),
        ("auto", None, None),
        ("sigmoid", None, "sigmoid"),
    ],
)
def test_head_activation_replaces_that_of_the_preset(given, preset, found, tmp_path):
    adata = make_counts()
    PseudoLabel.setup_anndata(adata, input="counts")
    model = PseudoLabel(adata, preset=preset, head_activation=given)
    assert model.module.options.head_activation == found
    model.save(tmp_path / "model")
    assert PseudoLabel.load(tmp_path / "model").module.options.head_activation == found
    if given == "auto":
        assert PseudoLabel(adata, preset=preset).module.options.head_activation == found


def datasets(**options):
    whole = make_counts()
    one, other = whole[:80].copy(), whole[80:, ::-1].copy()
    other = other[:, :50].copy()
    return Datasets({"one": one, "other": other}, obs_keys=["cell_type"], **options)


@pytest.mark.parametrize("genes", ["intersection", "union"])
def test_several_anndata(genes, tmp_path):
    """They give what one AnnData of all gives, wherever they are."""
    data = datasets(genes=genes)
    same_sum = {"labels_key": "cell_type", "input": "counts", "target_sum": 1e4}
    PseudoLabel.setup_datasets(data, **same_sum)
    model = PseudoLabel(data, **SMALL, n_rounds=2)
    model.train(**TRAIN)
    assert len(model.genes) == (50 if genes == "intersection" else 60)
    z = model.get_latent_representation()
    assert z.shape == (150, 8)
    for i, (name, adata) in enumerate(data.items()):
        own = slice(*data.places()[i : i + 2])
        np.testing.assert_array_equal(model.get_latent_representation(adata), z[own], name)

    join = "inner" if genes == "intersection" else "outer"
    together = anndata.concat(dict(data.items()), join=join, label="dataset", fill_value=0)
    together = together[:, model.genes.names].copy()
    PseudoLabel.setup_anndata(together, dataset_key="dataset", **same_sum)
    same = PseudoLabel(together, **SMALL, n_rounds=2)
    same.train(**TRAIN)
    np.testing.assert_array_equal(same.get_latent_representation(), z)

    files = {}
    for name, adata in data.items():
        adata.write_h5ad(tmp_path / f"{name}.h5ad")
        files[name] = anndata.read_h5ad(tmp_path / f"{name}.h5ad", backed="r")
    on_disk = Datasets(files, genes, obs_keys=["cell_type"])
    PseudoLabel.setup_datasets(on_disk, **same_sum)
    backed = PseudoLabel(on_disk, **SMALL, n_rounds=2)
    backed.train(**TRAIN)
    np.testing.assert_array_equal(backed.get_latent_representation(), z)

    backed.save(tmp_path / "model")
    loaded = PseudoLabel.load(tmp_path / "model")
    np.testing.assert_array_equal(loaded.get_latent_representation(data), z)
    with pytest.raises(ValueError, match="There are no clusters"):
        _ = loaded.clusters_
    for adata in files.values():
        adata.file.close()


def test_data_sets_of_different_kinds_are_refused():
    data = datasets()
    logs = data.items()[1][1]
    logs.X.data = np.log1p(0.37 * logs.X.data)
    with pytest.raises(ValueError, match=r"not of the same kind .*counts: one; lognorm: other"):
        PseudoLabel.setup_datasets(data)
    with pytest.raises(TypeError, match="Make them of a dict of AnnData by name"):
        PseudoLabel.setup_datasets(make_counts())


def test_error_names_the_data_set():
    data = datasets()
    data.items()[1][1].X.data[0] = np.nan
    with pytest.raises(ValueError, match="NaN|nan") as caught:
        PseudoLabel.setup_datasets(data)
    assert "In data set 'other'." in caught.value.__notes__


def test_changed_data_are_noticed():
    data = datasets()
    PseudoLabel.setup_datasets(data, input="counts")
    model = PseudoLabel(data, **SMALL)
    data.items()[0][1].X.data[:] += 1
    with pytest.raises(ValueError, match="changed since"):
        model.train(**TRAIN)


def test_going_on_with_other_data(tmp_path):
    model = build(make_counts(), "batch", n_rounds=1)
    model.train(**TRAIN)
    model.save(tmp_path / "model")
    more = datasets()
    loaded = PseudoLabel.load(tmp_path / "model")
    loaded.attach(more)
    loaded.train(**TRAIN)
    assert loaded.get_latent_representation().shape == (150, 8)
    assert loaded._sizes() == [[2, 3], [2, 3]]


def test_an_anndata_without_the_column_of_data_sets():
    data = datasets()
    PseudoLabel.setup_datasets(data, input="counts")
    model = PseudoLabel(data, **SMALL, n_rounds=1)
    model.train(**TRAIN)
    adata = make_counts()
    with pytest.raises(KeyError, match="no column .*dataset.* there are: .*cell_type") as caught:
        model.attach(adata)
    for line in ('adata.obs["dataset"] = "mine"', "attach scssl.data.Datasets of them"):
        assert line in caught.value.args[0]
    assert model.get_latent_representation(adata).shape == (150, 8)
    adata.obs["dataset"] = pd.Categorical(["mine"] * 149 + [None])
    with pytest.raises(ValueError, match="missing"):
        model.attach(adata)
    adata.obs["dataset"] = "mine"
    model.attach(adata)
    model.train(**TRAIN)
    assert model._sizes() == [[3, 6]]


def test_data_sets_with_few_of_the_genes():
    strange, few = make_counts(), make_counts()
    strange.var_names = [f"Other{i}" for i in range(60)]
    few.var_names = [*few.var_names[:5], *strange.var_names[5:]]
    tenth = make_counts()[:, :6].copy()
    tenth = tenth[tenth.X.sum(1) > 0].copy()
    genes = make_counts().var_names.tolist()
    adata = make_counts()
    with pytest.raises(scssl.GeneMismatchError, match="'b' has 0 of the 60 genes .*map_orthologs"):
        PseudoLabel.setup_datasets(Datasets({"a": adata, "b": strange}, genes))
    with pytest.warns(scssl.ScsslWarning, match="Data set 'b' has 5 of the 60 genes") as caught:
        PseudoLabel.setup_datasets(Datasets({"a": adata, "b": few}, genes))
    assert [w.filename for w in caught if w.category is scssl.ScsslWarning] == [__file__]
    # A tenth is enough, and nothing is said: warnings are errors here.
    PseudoLabel.setup_datasets(Datasets({"a": adata, "b": tenth}, genes))


def test_fine_tuning():
    adata = make_counts()
    model = build(adata, "batch", n_rounds=2)
    model.train(**TRAIN)
    classifier = CellTypeClassifier.from_ssl_model(model, adata, "cell_type")
    classifier.train(max_epochs=20, progress=False)
    assert (classifier.predict().to_numpy() == adata.obs["cell_type"]).mean() > 0.9


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (
            {"cells_per_cluster": ()},
            r"must be a list of cells per cluster, one for each partition.*; found \(\)\.",
        ),
        (
            {"cells_per_cluster": 50},
            r"must be a list of cells per cluster, .* such as .*; found 50\.",
        ),
        ({"cells_per_cluster": "50"}, r"must be a list of cells per cluster, .*; found '50'\."),
        (
            {"cells_per_cluster": (1,)},
            r"`cells_per_cluster\[0\]` must be a whole number of at least 2, found 1",
        ),
        ({"n_rounds": 0}, "`n_rounds` must be a whole number of at least 1, found 0"),
        ({"hidden_dims": 128}, r"`hidden_dims` must be a list of widths"),
        (
            {"head_activation": "tanh"},
            "`head_activation` must be 'auto', 'sigmoid', 'relu' or None, found 'tanh'",
        ),
        ({"preset": "paper"}, "`preset` must be"),
        ({"kmeans": "cuml"}, "`kmeans` must be 'auto', 'sklearn' or 'faiss'"),
        ({"n_latent": 0}, "`n_latent` must be a whole number of at least 1, found 0"),
        ({"dropout": 1}, "`dropout` must be a number in"),
        ({"mask_rate": 1}, "`mask_rate` must be a number in"),
    ],
)
def test_bad_arguments(options, match):
    with pytest.raises(ValueError, match=match):
        build(make_counts(), **options)


def test_both_names_of_the_column():
    adata = make_counts()
    with pytest.raises(ValueError, match="another name of `dataset_key`"):
        PseudoLabel.setup_anndata(adata, dataset_key="batch", batch_key="cell_type")


def test_tiny_data_set():
    adata = make_counts()
    adata.obs["where"] = ["tiny"] * 3 + ["large"] * 147
    with pytest.raises(ValueError, match="Data set 'tiny' has 3 cells"):
        build(adata, "where").train(**TRAIN)


def test_genes_are_hidden_in_training_only():
    hidden, seen = (build(make_counts(), n_rounds=1, mask_rate=rate) for rate in (0.5, 0))
    assert "scpretrain" not in repr(hidden)
    for model in (hidden, seen):
        model._start(0, [], seed=0, engine="sklearn")
        model.module.start_round(model._sizes(), 0)
    hidden.module.load_state_dict(seen.module.state_dict())
    batch = next(iter(seen._training_data().loader(np.arange(40), 40)))

    def loss(model, seed):
        rng = torch.Generator().manual_seed(seed)
        return model.module.loss(batch, rng=rng, full=False).loss.item()

    for model in (hidden, seen):
        model.module.train()
    assert loss(hidden, 0) == loss(hidden, 0) != loss(hidden, 1)
    assert loss(seen, 0) == loss(seen, 1) != loss(hidden, 0)
    for model in (hidden, seen):
        model.module.eval()
    assert loss(hidden, 0) == loss(seen, 0)


def test_a_model_made_with_faiss_embeds_without(monkeypatch, tmp_path):
    adata = make_counts()
    with monkeypatch.context() as there:
        there.setattr("scssl.model.pseudo_label._model.resolve_engine", lambda engine: "sklearn")
        model = build(adata, n_rounds=1, kmeans="faiss")
        model.train(**TRAIN)
    model.save(tmp_path / "model")
    monkeypatch.setattr("scssl.model.pseudo_label._kmeans.find_spec", lambda name: None)
    loaded = PseudoLabel.load(tmp_path / "model", adata)
    np.testing.assert_array_equal(
        loaded.get_latent_representation(), model.get_latent_representation()
    )
    with pytest.raises(ImportError, match='faiss-cpu. Or take `kmeans="sklearn"`'):
        loaded.train(**TRAIN)


def test_every_value_is_looked_at_once_for_all_rounds(monkeypatch):
    model, opened = build(make_counts(), n_rounds=3), []
    read = model._read
    monkeypatch.setattr(model, "_read", lambda *args, **kw: opened.append(1) or read(*args, **kw))
    model.train(**TRAIN)
    assert len(model.rounds_) == 3
    assert len(opened) == 1
