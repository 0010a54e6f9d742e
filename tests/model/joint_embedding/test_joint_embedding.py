"""What joint-embedding models do beyond the contract of all models."""

from __future__ import annotations

import re
import warnings

import anndata
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from scipy import sparse

import scssl
from scssl._errors import BundleError, ScsslWarning
from scssl.augment import (
    Augmentation,
    BinomialThinning,
    Compose,
    CrossOver,
    Mask,
    MutualNeighborMix,
    NeighborMix,
    RandomApply,
)
from scssl.model import JointEmbedding
from scssl.train._devices import bfloat16_works

from ..conftest import TRAIN, make_counts

METHODS = [
    name
    for name in scssl.model.list_models()
    if issubclass(scssl.model.get_model_class(name), JointEmbedding)
]
SMALL = {"hidden_dims": (32,), "n_latent": 8}


def make(name, adata, setup=None, **kwargs):
    model_class = scssl.model.get_model_class(name)
    model_class.setup_anndata(adata, **(setup or {}))
    return model_class(adata, **{**SMALL, **kwargs})


def with_graph(adata, name="near", seed=0):
    """Two random neighbours of the same type for each cell."""
    rng = np.random.default_rng(seed)
    n = adata.n_obs
    rows = np.repeat(np.arange(n), 2)
    columns = (rows + 3 * rng.integers(1, n // 3, len(rows))) % n
    adata.obsp[name] = sparse.csr_matrix((np.ones(len(rows)), (rows, columns)), shape=(n, n))
    return adata


@torch.no_grad()
def contrast(model):
    """Cosine of two views of the same cell, less that of views of different cells."""
    module = model.module.eval()
    rng = torch.Generator().manual_seed(0)
    x = torch.from_numpy(model.adata.X.toarray())
    x = torch.log1p(1e4 * x / x.sum(1, keepdim=True))
    z = []
    for _ in range(2):
        seen = x * (torch.rand(x.shape, generator=rng) < 0.5)
        z.append(module.embed({"X": seen.to_sparse_csr()}))
    z = [part - torch.cat(z).mean(0) for part in z]
    one, two = (torch.nn.functional.normalize(part, dim=1) for part in z)
    cosine = one @ two.T
    n = len(cosine)
    return float(cosine.diagonal().mean() - (cosine.sum() - cosine.diagonal().sum()) / (n * n - n))


@pytest.mark.parametrize("name", METHODS)
def test_training_brings_views_of_a_cell_together(name):
    options = {"momentum": 0.9} if name in ("MoCo", "BYOL", "DINO") else {}
    model = make(name, make_counts(n_cells=300), **options)
    before = contrast(model)
    model.train(max_epochs=15, batch_size=32, lr=3e-3, progress=False)
    assert contrast(model) > before + 0.05


@pytest.mark.parametrize("name", METHODS)
def test_dimensions_stay_in_use(name):
    model = make(name, make_counts(n_cells=300))
    model.train(max_epochs=10, batch_size=64, progress=False)
    assert model.history["effective_rank"].iloc[-1, 0] > 3


def test_monitor_sees_a_collapse():
    # Nothing but equal views: every cell in the same place is a perfect solution.
    model = make(
        "VICReg",
        make_counts(),
        invariance=100.0,
        variance=1e-8,
        covariance=1e-8,
        batch_norm=False,
    )
    with pytest.warns(ScsslWarning, match="have collapsed"):
        model.train(max_epochs=60, batch_size=32, lr=1e-2, weight_decay=10.0, progress=False)
    assert model.history["latent_std"].iloc[-1, 0] < model.history["latent_std"].iloc[0, 0] / 10


def collapses_unseen_by_the_encoder(name, adata, patch=None, **kwargs):
    model = make(name, adata, hidden_dims=(128,), n_latent=64, **kwargs)
    if patch is not None:
        model.module.compare = patch.__get__(model.module)
    with pytest.warns(ScsslWarning, match="The projections have collapsed, although") as caught:
        model.train(max_epochs=20, batch_size=64, lr=1e-2, progress=False)
    last = {name: float(frame.iloc[-1, 0]) for name, frame in model.history.items()}
    assert last["effective_rank"] > 3
    assert last["latent_std"] > 0.1
    return last, str(caught[0].message)


def test_monitor_sees_projections_that_are_one_point():
    weights = {"invariance": 100.0, "variance": 1e-8, "covariance": 1e-8}
    last, said = collapses_unseen_by_the_encoder("VICReg", make_counts(n_cells=400), **weights)
    assert last["projection_std"] < 0.03
    assert "projection_std" in said


def test_monitor_sees_projections_on_a_line():
    def compare(self, one, two, *, learn):
        z = [self.projector(h) for h in self.encode_views(one, two)]
        return -torch.nn.functional.cosine_similarity(*z).mean()

    adata = scssl.datasets.pbmc68k_reduced()
    last, said = collapses_unseen_by_the_encoder("SimSiam", adata, compare)
    # Batch normalisation keeps it from being a point.
    assert last["projection_spread"] > 0.5
    assert last["projection_dimensions"] < 1.05
    assert "on which two kinds of cells at most" in said


@pytest.mark.parametrize("name", METHODS)
def test_healthy_training_is_not_called_a_collapse(name, recwarn):
    model = make(name, make_counts(n_cells=300))
    model.train(max_epochs=10, batch_size=64, progress=False)
    assert not [w for w in recwarn if "collapsed" in str(w.message)]
    assert model.history["projection_spread"].iloc[-1, 0] > 0.1


def test_contrast_without_the_positive_in_the_denominator(tmp_path):
    models = [make("SimCLR", make_counts(n_cells=300), loss=loss) for loss in ("dcl", "nt_xent")]
    before = contrast(models[0])
    for model in models:
        model.train(max_epochs=15, batch_size=32, lr=3e-3, progress=False)
    assert contrast(models[0]) > before + 0.05
    a, b = (model.get_latent_representation() for model in models)
    assert not np.allclose(a, b, atol=1e-2)
    # DCL has no bound at zero, and is below.
    assert models[0].history["train_loss"].iloc[-1, 0] < models[1].history["train_loss"].iloc[-1, 0]
    models[0].save(tmp_path / "model")
    loaded = scssl.model.SimCLR.load(tmp_path / "model", adata=models[0].adata)
    np.testing.assert_array_equal(loaded.get_latent_representation(), a)
    assert loaded.module.objective is scssl.objective.dcl
    assert models[1].module.objective is scssl.objective.nt_xent


class Watch(Callback):
    def __init__(self):
        self.targets, self.online = [], []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.look(pl_module.module)

    def look(self, module):
        self.targets.append(module.target_encoder.gene_encoder.weight.detach().clone())
        self.online.append(module.encoder.gene_encoder.weight.detach().clone())


@pytest.mark.parametrize("name", ["MoCo", "BYOL", "DINO"])
def test_target_moves_in_training(name):
    model, watch = make(name, make_counts(), momentum=0.8), Watch()
    model.train(**TRAIN, callbacks=[watch])
    n = len(watch.targets)
    assert n > 5
    watch.look(model.module)
    assert torch.equal(watch.targets[0], watch.online[0])
    for step in range(n):
        m = 1 - 0.2 * (np.cos(np.pi * step / (n - 1)) + 1) / 2
        expected = m * watch.targets[step] + (1 - m) * watch.online[step + 1]
        torch.testing.assert_close(watch.targets[step + 1], expected, rtol=1e-4, atol=1e-6)
    assert not torch.equal(watch.targets[0], watch.targets[1])


@pytest.mark.parametrize("name", ["MoCo", "NNCLR"])
def test_queue_is_saved(name, tmp_path):
    model = make(name, make_counts(), queue_size=64)
    start = model.module.queue.values.clone()
    model.train(**TRAIN)
    assert not torch.equal(model.module.queue.values, start)
    model.save(tmp_path / "model")
    loaded = type(model).load(tmp_path / "model")
    assert torch.equal(loaded.module.queue.values, model.module.queue.values)
    assert torch.equal(loaded.module.queue.pointer, model.module.queue.pointer)


def test_last_weights_stay_where_the_target_moves():
    model = make("BYOL", make_counts())
    model.train(max_epochs=6, batch_size=32, progress=False)
    assert model.training_["best_epoch"] == 5
    assert model.training_["early_stopping"] is False
    assert "validation_loss" in model.history


@pytest.mark.parametrize("name", METHODS)
def test_output_of_the_projector(name, adata):
    model = make(name, adata)
    model.train(**TRAIN)
    z = model.get_latent_representation(layer="projector")
    assert z.shape == (adata.n_obs, model.module.projected_width)
    again = model.get_latent_representation(adata[:, ::-1].copy(), layer="projector", batch_size=7)
    np.testing.assert_array_equal(again, z)
    with pytest.raises(ValueError, match="found 'head'"):
        model.get_latent_representation(layer="head")


def test_views_by_a_graph():
    adata = with_graph(make_counts())
    model = make("SimCLR", adata, augmentation=[NeighborMix("near", p=1.0), Mask(0.2)])
    model.train(**TRAIN)
    assert np.isfinite(model.get_latent_representation()).all()
    # Other cells can be embedded without the graph.
    other = make_counts(seed=3)
    assert model.get_latent_representation(other).shape == (150, 8)


def test_partners_are_cells_to_train_on():
    seen = []

    class Spy(NeighborMix):
        def transform(self, x, applied, rng, context):
            if x.n_cells and torch.is_grad_enabled():
                seen.append(context.partner(("near",), x).to_dense())
            return super().transform(x, applied, rng, context)

    adata = with_graph(make_counts())
    # Each cell has one gene of its own, which tells whose expression a partner's is.
    marks = np.arange(150)
    own = sparse.csr_matrix((np.full(150, 3.0), (marks, marks)), shape=(150, 150))
    marked = anndata.AnnData(sparse.csr_matrix(own.astype(np.float32)), obs=adata.obs)
    marked.var_names = [f"GENE{i}" for i in range(150)]
    marked.obsp["near"] = adata.obsp["near"]
    model = make("SimCLR", marked, augmentation=Spy("near", p=1.0))
    model.train(**TRAIN)
    found = {int(cell) for batch in seen for cell in batch.argmax(1)}
    assert found <= set(model.train_indices_.tolist())
    assert len(found) > 100


def test_mutual_neighbours():
    adata = with_graph(with_graph(make_counts(), "mnn"), "mnn_within", seed=1)
    model = make("VICReg", adata, augmentation=MutualNeighborMix(p=1.0))
    model.train(**TRAIN)
    assert np.isfinite(model.get_latent_representation()).all()


def message(call, error):
    with pytest.raises(error) as caught:
        call()
    return caught.value.args[0]


@pytest.mark.parametrize("names", [(), ("pairs", "pairs_within"), ("pairs", "near_own")])
def test_what_the_message_says_makes_graphs_for_mutual_neighbours(names):
    adata = make_counts()
    views = [MutualNeighborMix(*names, p=1.0), Mask(0.2)]
    # Where the batches are known, what has the usual names is made.
    setup = {"batch_key": "batch"} if names else {}
    said = message(lambda: make("VICReg", adata, setup, augmentation=views), KeyError)
    line = re.search(r"scssl\.pp\.cross_batch_neighbors\(.*?\)", said)[0]
    assert "(adata, 'batch', " in line
    exec(line, {"scssl": scssl, "adata": adata})
    if "near_own" in names:
        views[0] = eval(re.search(r"MutualNeighborMix\('pairs'.*?\)", said.split("Make it")[1])[0])
    model = make("VICReg", adata, {"batch_key": "batch"}, augmentation=views)
    model.train(**TRAIN)
    batch = adata.obs["batch"].to_numpy()
    mutual, within = (adata.obsp[name].tocoo() for name in (views[0].mutual, views[0].within))
    assert (batch[mutual.row] != batch[mutual.col]).all()
    assert (batch[within.row] == batch[within.col]).all()


@pytest.mark.parametrize("known", ["setup", "uns"])
@pytest.mark.parametrize("wrong", ["mutual", "within"])
def test_graphs_that_are_not_of_mutual_neighbours_are_refused(known, wrong):
    adata = make_counts()
    setup = {"batch_key": "batch"} if known == "setup" else {}
    for options in ({"method": "mnn"}, {"key_added": "mixed"}):
        scssl.pp.cross_batch_neighbors(adata, "batch", **options)
    if known == "setup":
        adata.uns.clear()
    views = MutualNeighborMix(**{wrong: "mixed"})
    which = "between batches only" if wrong == "mutual" else "within batches only"
    with pytest.raises(ValueError, match=rf"{which}.*obsp\['mixed'\].*method='mnn'"):
        make("VICReg", adata, setup, augmentation=[Mask(0.2), views])
    make("VICReg", adata, setup, augmentation=[Mask(0.2), MutualNeighborMix()])


def test_a_missing_graph_of_one_kind_is_not_made_by_the_recipe_of_another():
    adata = make_counts()
    scssl.pp.cross_batch_neighbors(adata, "batch", method="mnn")
    said = message(
        lambda: make("VICReg", adata, augmentation=[MutualNeighborMix(), NeighborMix()]), KeyError
    )
    assert "(adata, 'batch', key_added='cross_batch_neighbors')`" in said


def test_mutual_partners_are_cells_to_train_on_of_the_right_batch():
    seen = {0: [], 1: []}

    class Spy(MutualNeighborMix):
        def transform(self, x, applied, rng, context):
            if torch.is_grad_enabled():
                own = x.to_dense().argmax(1)
                for walk in self.walks(context.view):
                    found = context.partner(walk, x).to_dense().argmax(1)
                    seen[context.view].append((len(walk), walk[0], own, found))
            return super().transform(x, applied, rng, context)

    adata = make_counts()
    scssl.pp.cross_batch_neighbors(adata, "batch", method="mnn", n_neighbors=5)
    # Each cell has one gene of its own, which tells whose expression a partner's is.
    marked = anndata.AnnData(sparse.identity(150, np.float32, "csr") * 3, obs=adata.obs)
    marked.var_names = [f"GENE{i}" for i in range(150)]
    graphs = {name: adata.obsp[name] for name in ("mnn", "mnn_within")}
    for name, graph in graphs.items():
        marked.obsp[name] = graph
    model = make("SimCLR", marked, augmentation=Spy(p=1.0))
    model.train(**TRAIN)
    trained = set(model.train_indices_.tolist())
    mutual, within = (graph.toarray() > 0 for graph in graphs.values())
    batch = adata.obs["batch"].to_numpy()
    crossed = 0
    for view, found in seen.items():
        assert len(found) > 5
        for steps, first, own, partner in found:
            own, partner = own.numpy(), partner.numpy()
            assert {*partner.tolist()} <= trained
            moved = own != partner
            if view == 0:
                assert first == "mnn_within"
                assert within[own[moved], partner[moved]].all()
            elif steps == 1:
                assert mutual[own[moved], partner[moved]].all()
                assert (batch[own[moved]] != batch[partner[moved]]).all()
                crossed += int(moved.sum())
                anchor = partner
            else:
                # The neighbour in view 1 is one of the anchor, not of the cell.
                onward = anchor != partner
                assert within[anchor[onward], partner[onward]].all()
                assert (batch[anchor] == batch[partner]).all()
    assert crossed > 100


def test_resume_draws_the_same_partners(tmp_path):
    class Crash(Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            if trainer.current_epoch == 1:
                raise RuntimeError("down")

    def build():
        views = [NeighborMix("near", p=1.0), CrossOver(0.25, within="batch"), Mask(0.2)]
        return make("MoCo", with_graph(make_counts()), {"batch_key": "batch"}, augmentation=views)

    straight, stopped, resumed = build(), build(), build()
    straight.train(**{**TRAIN, "max_epochs": 3})
    with pytest.raises(RuntimeError, match="down"):
        stopped.train(**{**TRAIN, "max_epochs": 3}, checkpoint_dir=tmp_path, callbacks=[Crash()])
    resumed.train(**{**TRAIN, "max_epochs": 3}, resume_from=tmp_path)
    for name, value in straight.module.state_dict().items():
        assert torch.equal(value, resumed.module.state_dict()[name]), name


def test_run_of_another_length_is_not_resumed(tmp_path):
    make("BYOL", make_counts()).train(**TRAIN, lr_schedule="constant", checkpoint_dir=tmp_path)
    with pytest.raises(ValueError, match="max_epochs"):
        make("BYOL", make_counts()).train(
            **{**TRAIN, "max_epochs": 4}, lr_schedule="constant", resume_from=tmp_path
        )


def test_absent_graph(adata):
    with pytest.raises(KeyError, match=r"(?s)adata.obsp\['near'\].*cross_batch_neighbors"):
        make("SimCLR", adata, augmentation=NeighborMix("near"))


def test_graph_that_is_gone_is_refused(adata):
    with_graph(adata)
    model = make("SimCLR", adata, augmentation=NeighborMix("near"))
    del adata.obsp["near"]
    with pytest.raises(KeyError, match="near"):
        model.train(**TRAIN)


def test_graph_of_other_cells_is_noticed(adata):
    adata.obsm["X_pca"] = np.random.default_rng(0).normal(size=(adata.n_obs, 5))
    scssl.pp.cross_batch_neighbors(adata, "batch", n_neighbors=3, key_added="near")
    other = adata[np.random.default_rng(1).permutation(adata.n_obs)].copy()
    # Sorting sorts the graph along.
    make("SimCLR", other, augmentation=NeighborMix("near"))
    other.obsp["near"], other.uns["near"] = adata.obsp["near"].copy(), adata.uns["near"]
    with pytest.warns(ScsslWarning, match="of these cells in another order"):
        make("SimCLR", other, augmentation=NeighborMix("near"))


def test_name_of_neighbours_of_scanpy(adata):
    import scanpy as sc

    sc.pp.neighbors(adata, n_neighbors=5, use_rep="X")
    with pytest.raises(KeyError, match=r"That of uns\['neighbors'\] is 'connectivities'"):
        make("SimCLR", adata, augmentation=NeighborMix("neighbors"))
    make("SimCLR", adata, augmentation=NeighborMix("connectivities"))


def test_resampling_counts_needs_counts(adata):
    adata.layers["log"] = adata.X.log1p()
    with pytest.raises(ValueError, match=r"needs counts, but adata.layers\[\"log\"\]"):
        make("SimCLR", adata, {"layer": "log", "input": "lognorm"}, augmentation=BinomialThinning())


def test_own_augmentation_is_left_behind(adata, tmp_path):
    class Double(Augmentation):
        def transform(self, x, applied, rng, context):
            return x.to_dense() * 2

    model = make("SimCLR", adata, augmentation=Compose([Double(), Mask(0.5)]))
    model.train(**TRAIN)
    with pytest.warns(
        ScsslWarning,
        match=r"Double' is not one of scssl.* No views are saved\. The loaded model embeds",
    ):
        model.save(tmp_path / "model")
    loaded = scssl.model.SimCLR.load(tmp_path / "model", adata)
    z = model.get_latent_representation()
    np.testing.assert_array_equal(loaded.get_latent_representation(), z)
    with pytest.raises(ValueError, match=r"has no augmentation, .*model\.augmentation = "):
        loaded.train(**TRAIN)
    for one in (model, loaded):
        tuned = scssl.model.CellTypeClassifier.from_ssl_model(one, adata.copy(), "cell_type")
        np.testing.assert_array_equal(tuned.get_latent_representation(), z)
    loaded.augmentation = Double()
    loaded.train(**TRAIN)
    assert not np.array_equal(loaded.get_latent_representation(), z)


def test_views_that_are_set_are_those_of_the_model(adata, tmp_path):
    model = make("SimCLR", adata, augmentation="mask")
    model.train(**TRAIN)
    model.augmentation = ["gene_swap", Mask(0.3)]
    assert "views by Compose([GeneSwap(" in repr(model)
    model.save(tmp_path / "model")
    loaded = scssl.model.SimCLR.load(tmp_path / "model", adata)
    assert repr(loaded.augmentation) == repr(model.augmentation)
    for wrong, error in ((NeighborMix("near"), KeyError), ("blur", ValueError)):
        with pytest.raises(error):
            model.augmentation = wrong
        assert repr(loaded.augmentation) == repr(model.augmentation)


@pytest.mark.parametrize("way", ["constructor", "setter", "module"])
def test_run_with_other_views_is_not_resumed(way, tmp_path):
    make("SimCLR", make_counts()).train(**TRAIN, checkpoint_dir=tmp_path)
    options = {"augmentation": "gene_swap"} if way == "constructor" else {}
    other = make("SimCLR", make_counts(), **options)
    if way == "setter":
        other.augmentation = "gene_swap"
    elif way == "module":
        other.module.augmentation = scssl.augment.augmentation("gene_swap")
    with pytest.raises(ValueError, match="another run: its model"):
        other.train(**{**TRAIN, "max_epochs": 3}, resume_from=tmp_path)


def test_run_with_another_graph_is_not_resumed(tmp_path):
    def build(seed):
        return make(
            "SimCLR", with_graph(make_counts(), seed=seed), augmentation=NeighborMix("near")
        )

    build(0).train(**TRAIN, checkpoint_dir=tmp_path)
    with pytest.raises(ValueError, match="another run: its graphs is {'near'"):
        build(1).train(**TRAIN, resume_from=tmp_path)
    build(0).train(**TRAIN, resume_from=tmp_path)


def test_coverage_of_training_cells_is_said(caplog):
    adata = with_graph(make_counts())
    caplog.set_level("INFO", "scssl")
    make("SimCLR", adata, augmentation=NeighborMix("near")).train(**TRAIN)
    assert re.search(r"\d+\.\d % of the 135 cells .* in the graph 'near'", caplog.text)
    few = sparse.lil_matrix((150, 150))
    few[:40, 140] = few[:60, 141] = 1.0
    adata.obsp["few"] = few.tocsr()
    model = make("SimCLR", adata, augmentation=[NeighborMix("few", p=1.0), Mask(0.2)])
    with pytest.warns(ScsslWarning, match=r"Only \d+\.\d % of the 135 cells .* graph 'few'"):
        model.train(**TRAIN)
    held_out = set(model.validation_indices_.tolist())
    reach = {0: 40, 1: 60}
    ends = [i for i, end in enumerate((140, 141)) if end not in held_out]
    reached = set(range(max((reach[i] for i in ends), default=0))) - held_out
    share = 100 * len(reached) / 135
    assert f"{share:.1f} % of the 135 cells to train on" in caplog.text


def test_cells_without_a_partner_of_another_batch_that_have_one_of_their_own_are_no_news():
    adata = make_counts()
    few = sparse.lil_matrix((150, 150))
    few[0, 1] = few[1, 0] = 1.0
    own = sparse.diags([np.ones(148), np.ones(148)], [2, -2])
    adata.obsp["mnn"], adata.obsp["mnn_within"] = few.tocsr(), own.tocsr()
    with warnings.catch_warnings():
        warnings.simplefilter("error", ScsslWarning)
        make("SimCLR", adata, augmentation="integration").train(**TRAIN)


@pytest.mark.parametrize(
    "views",
    [
        Mask(0.5, p=0),
        [Mask(0.5, p=0), BinomialThinning(1.0)],
        RandomApply(Mask(0.5), 0),
        RandomApply(Mask(0.5, p=0), 1),
    ],
)
def test_views_that_change_nothing_are_noticed(adata, views):
    model = make("SimCLR", adata, augmentation=views)
    with pytest.warns(ScsslWarning, match="two views of a cell never differ"):
        model.train(**{**TRAIN, "max_epochs": 1})


@pytest.mark.parametrize("freeze", ["none", "encoder", 1])
def test_fine_tuning(adata, freeze):
    source = make("VICReg", adata)
    source.train(**TRAIN)
    before = {k: v.clone() for k, v in source.module.encoder.state_dict().items()}
    model = scssl.model.CellTypeClassifier.from_ssl_model(source, adata, "cell_type", freeze=freeze)
    np.testing.assert_array_equal(
        model.get_latent_representation(), source.get_latent_representation()
    )
    # With cells held out it would go back to where it started, if these said so.
    model.train(**TRAIN, train_size=1.0)
    after = model.module.backbone.encoder.state_dict()
    moved = {name for name, value in before.items() if not torch.equal(value, after[name])}
    frozen = {"gene_encoder.weight", "rest.0.weight", "rest.0.running_mean", "rest.0.running_var"}
    if freeze == "encoder":
        assert not moved
    elif freeze == 1:
        # Also the statistics of the batch norm behind a frozen layer stay.
        assert not moved & frozen
        assert "rest.2.weight" in moved
    else:
        assert frozen <= moved
    assert (model.predict() == adata.obs["cell_type"]).mean() > 0.5


def test_protein_predictor_starts_from_it(adata):
    source = make("BarlowTwins", adata)
    source.train(**TRAIN)
    model = scssl.model.ProteinPredictor.from_ssl_model(source, adata, n_components=5)
    model.train(**TRAIN)
    assert model.predict().shape == (150, 4)


def test_lone_cell_at_the_end_of_an_epoch():
    model = make("SimCLR", make_counts(n_cells=13))
    # Batches of 2 would leave one of 13 cells alone.
    model.train(2, batch_size=2, train_size=1.0, progress=False)
    assert np.isfinite(model.history["train_loss"]).all().all()
    with pytest.raises(ValueError, match="at least 2 are needed per step, found batch_size=1"):
        model.train(1, batch_size=1, progress=False)


@pytest.mark.parametrize("name", ["MoCo", "DINO"])
def test_lone_cell_without_batch_normalisation(name):
    model = make(name, make_counts(n_cells=13), batch_norm=False)
    seen = []

    class Sizes(Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            seen.append(batch["X"].shape[0])

    model.train(2, batch_size=2, train_size=1.0, progress=False, callbacks=[Sizes()])
    assert seen == [2] * 12
    with pytest.raises(ValueError, match="at least 2 are needed per step, found batch_size=1"):
        model.train(1, batch_size=1, progress=False)


def test_loss_of_one_cell_reaches_every_weight():
    model = make("VICReg", make_counts())
    batch = next(iter(model._training_data().loader(np.arange(1), 1)))
    found = model.module.train().loss(batch)
    assert found.n_obs_minibatch == 0
    found.loss.backward()
    gradients = [p.grad for p in model.module.parameters() if p.requires_grad]
    assert all(g is not None and not g.any() for g in gradients)


def test_encoder_of_the_masked_autoencoder(adata, tmp_path):
    options = {"hidden_dims": (32, 16), "batch_norm": False, "activation": "selu", "dropout": 0.1}
    model = make("SimCLR", adata, **options)
    model.train(**TRAIN)
    scssl.model.MaskedAutoencoder.setup_anndata(adata)
    autoencoder = scssl.model.MaskedAutoencoder(adata, hidden_dims=(32, 16), n_latent=8)
    linear = [tuple(p.shape) for p in autoencoder.module.gene_encoder.parameters()]
    linear += [tuple(p.shape) for p in autoencoder.module.encoder.parameters()]
    assert [tuple(p.shape) for p in model.module.encoder.parameters()] == linear
    model.save(tmp_path / "model")
    loaded = scssl.model.SimCLR.load(tmp_path / "model")
    np.testing.assert_array_equal(
        loaded.get_latent_representation(adata), model.get_latent_representation()
    )


@pytest.mark.parametrize(
    ("name", "options", "match"),
    [
        ("SimCLR", {"temperature": 0}, "temperature"),
        ("SimCLR", {"loss": "mse"}, "nt_xent"),
        ("MoCo", {"queue_size": 0}, "queue_size"),
        ("BYOL", {"momentum": 1.5}, "momentum"),
        ("VICReg", {"variance": -1}, "variance"),
        ("SimSiam", {"n_latent": 0}, "`n_latent` must be a whole number of at least 1, found 0"),
        ("SimSiam", {"n_latent": 16.7}, "`n_latent` must be a whole number .* found 16.7"),
        ("SimCLR", {"hidden_dims": 128}, r"`hidden_dims` must be a list .* \(128,\); found 128"),
        ("SimCLR", {"hidden_dims": (16, 2.5)}, r"`hidden_dims\[1\]` must be a whole number"),
        ("SimCLR", {"projector_dims": 64}, "`projector_dims` must be a list .* found 64"),
        ("BYOL", {"predictor_dims": 64}, "`predictor_dims` must be a list .* found 64"),
        ("DINO", {"n_prototypes": 0.5}, "`n_prototypes` must be a whole number .* found 0.5"),
        ("SimCLR", {"augmentation": CrossOver(within="batch")}, r"needs a batch .*batch_key="),
        (
            "SimCLR",
            {"augmentation": ["mask", RandomApply(CrossOver(within="batch"))]},
            "needs a batch of each cell",
        ),
        ("SimCLR", {"dropout": 1.0}, "dropout"),
        ("SimCLR", {"projector_dims": ()}, "at least one layer"),
        ("SimCLR", {"augmentation": "blur"}, "blur"),
    ],
)
def test_bad_arguments(adata, name, options, match):
    with pytest.raises(ValueError, match=match):
        make(name, adata, **options)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize(
    "covariates",
    [{"categorical_covariate_keys": ["batch"]}, {"continuous_covariate_keys": ["age"]}],
)
def test_covariates_are_refused(name, adata, covariates):
    with pytest.raises(ValueError, match=f"{name} has no decoder .*{next(iter(covariates))}"):
        scssl.model.get_model_class(name).setup_anndata(adata, **covariates)


def test_genes_to_predict_are_refused(adata):
    with pytest.raises(ValueError, match="predicts no genes, found n_output_genes=5"):
        make("SimCLR", adata).train(**TRAIN, n_output_genes=5)


def test_untrained_projector_warns(adata):
    with pytest.warns(ScsslWarning, match="not trained"):
        make("SimCLR", adata).get_latent_representation(layer="projector")


@pytest.mark.parametrize("name", METHODS)
def test_mixed_precision(name):
    if not bfloat16_works():
        pytest.skip("needs ONEDNN_MAX_CPU_ISA=AVX512_CORE here")
    model = make(name, make_counts())
    model.train(1, batch_size=64, precision="bf16-mixed", accelerator="cpu", progress=False)
    assert np.isfinite(model.get_latent_representation()).all()
    assert np.isfinite(model.history["train_loss"]).all().all()


@pytest.mark.parametrize("name", ["VICReg", "BYOL"])
def test_one_cell_held_out_is_no_validation(name, caplog):
    model = make(name, make_counts(n_cells=12))
    model.train(3, train_size=0.9, progress=False)
    assert len(model.validation_indices_) == 1
    assert "There is no validation" in caplog.text
    assert "validation_loss" not in model.history
    assert model.training_["best_epoch"] == 2


def test_lone_cell_in_validation_does_not_count():
    model = make("VICReg", make_counts(n_cells=600, n_genes=20))
    data = model._training_data()
    found = [
        model.module.eval().loss(batch).n_obs_minibatch
        for batch in data.loader(np.arange(513), 512)
    ]
    assert found == [512, 0]


def test_unknown_argument(adata):
    with pytest.raises(TypeError, match="temprature"):
        make("SimCLR", adata, temprature=0.1)


def test_bundle_with_a_foreign_augmentation_is_refused(adata, tmp_path):
    from scssl.hub import read_bundle, write_bundle

    model = make("SimCLR", adata)
    model.train(**TRAIN)
    model.save(tmp_path / "model")
    bundle = read_bundle(tmp_path / "model")
    bundle.config["arguments"]["augmentation"] = {"name": "os.system"}
    write_bundle(
        tmp_path / "other", tensors=bundle.tensors, config=bundle.config, genes=bundle.genes
    )
    with pytest.raises(BundleError, match="os.system"):
        scssl.model.SimCLR.load(tmp_path / "other")


@pytest.mark.slow
@pytest.mark.realdata
@pytest.mark.parametrize("name", METHODS)
def test_no_collapse_with_defaults_on_pbmc3k(name, data_file):
    adata = anndata.read_h5ad(data_file("pbmc3k.h5ad"))
    model_class = scssl.model.get_model_class(name)
    model_class.setup_anndata(adata)
    model = model_class(adata)
    model.train(progress=False)
    assert model.history["effective_rank"].iloc[-1, 0] >= 8


def test_of_batches_is_said_what_brings_them_together(adata, caplog):
    with caplog.at_level("INFO", logger="scssl"):
        make("SimCLR", adata)
        assert "stay apart" not in caplog.text
        make("SimCLR", adata, {"batch_key": "batch"})
    assert "stay apart" in caplog.text
    given = re.search(r"bring them together: `augmentation='(.*?)'`", caplog.text).group(1)
    model = make("SimCLR", adata, {"batch_key": "batch"}, augmentation=given)
    model.train(**TRAIN)
    assert np.isfinite(model.get_latent_representation()).all()


@pytest.mark.parametrize("layer", [None, "counts"])
def test_a_graph_that_is_not_there_is_made_as_pp_makes_it(adata, caplog, layer):
    adata = adata.copy()
    adata.layers["counts"] = adata.X.copy()
    setup = {"batch_key": "batch", "layer": layer}
    with caplog.at_level("INFO", logger="scssl"):
        own = make("VICReg", adata, setup, augmentation="integration")
        own.train(**TRAIN)
    assert not list(adata.obsp), "nothing is written"
    assert "mnn" not in adata.uns
    made = re.findall(r"made for this model, as by `(.*?)`", caplog.text)
    assert len(made) == 1, "said, and done, once"
    exec(made[0], {"scssl": scssl, "adata": adata})
    given = make("VICReg", adata, setup, augmentation="integration")
    given.train(**TRAIN)
    assert (own.get_latent_representation() == given.get_latent_representation()).all()


def test_a_graph_is_made_only_of_known_batches_and_by_its_own_name(adata):
    with pytest.raises(KeyError, match=r"Make it: `scssl.pp.cross_batch_neighbors\("):
        make("SimCLR", adata, augmentation="integration")
    mix = scssl.augment.NeighborMix("of_mine")
    with pytest.raises(KeyError, match="of_mine"):
        make("SimCLR", adata, {"batch_key": "batch"}, augmentation=[mix])
    make("SimCLR", adata, {"batch_key": "batch"}, augmentation=[scssl.augment.NeighborMix()])
    adata = adata.copy()
    scssl.pp.cross_batch_neighbors(adata, "batch", method="mnn")
    del adata.obsp["mnn_within"]
    with pytest.raises(KeyError, match="mnn_within"):
        make("SimCLR", adata, {"batch_key": "batch"}, augmentation="integration")


def test_attached_cells_get_a_graph_of_their_own(adata, tmp_path):
    model = make("SimCLR", adata, {"batch_key": "batch"}, augmentation="integration")
    model.train(**TRAIN)
    others = adata[: adata.n_obs // 2].copy()
    model.attach(others)
    model.train(**TRAIN)
    assert model.get_latent_representation().shape == (others.n_obs, model.n_latent)
