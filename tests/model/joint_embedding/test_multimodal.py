"""Joint-embedding models of a MuData."""

from __future__ import annotations

import warnings

import anndata
import mudata
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from scipy import sparse

import scssl
from scssl._errors import GeneMismatchError, ScsslWarning
from scssl.augment import BinomialThinning, Mask, NeighborMix
from scssl.data.keys import PRESENT
from scssl.model import JointEmbedding

from ..conftest import TRAIN, make_counts, make_proteins
from .test_joint_embedding import METHODS, with_graph

SMALL = {"hidden_dims": (16,), "n_latent": 8}
FUSIONS = ("concat", "add", "mean", "clip")


def make_atac(rna, n_peaks=80):
    rng = np.random.default_rng(9)
    kind = rna.obs["cell_type"].cat.codes.to_numpy()
    rate = rng.gamma(0.5, 0.5, (3, n_peaks))[kind]
    atac = anndata.AnnData(sparse.csr_matrix(rng.poisson(rate).astype(np.float32)), obs=rna.obs[[]])
    atac.var_names = [f"chr1:{i}" for i in range(n_peaks)]
    return atac


def make_mdata(*, mosaic=True, protein=True, atac=False, n_cells=150):
    """Three types of cells; in a mosaic the first 20 lack proteins and the last 20 RNA."""
    rna = make_counts(n_cells)
    mods = {"rna": rna}
    if protein:
        mods["prot"] = anndata.AnnData(
            make_proteins(rna).astype(np.float32), obs=rna.obs[["batch"]]
        )
    if atac:
        mods["atac"] = make_atac(rna)
    if mosaic:
        mods["rna"] = rna[:-20].copy()
        mods = {name: mod if name == "rna" else mod[20:].copy() for name, mod in mods.items()}
    return mudata.MuData(mods)


def make(name="SimCLR", mdata=None, setup=None, **kwargs):
    model_class = scssl.model.get_model_class(name)
    mdata = make_mdata() if mdata is None else mdata
    model_class.setup_mudata(mdata, **(setup or {}))
    extra = {"projector_dims": (8, 8)} if name == "VICReg" else {}
    return model_class(mdata, **{**SMALL, **extra, **kwargs})


def trained(name="SimCLR", mdata=None, setup=None, train=None, **kwargs):
    model = make(name, mdata, setup, **kwargs)
    model.train(**{**TRAIN, **(train or {})})
    return model


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("name", METHODS)
def test_every_method_with_every_fusion(name, fusion, tmp_path):
    mdata = make_mdata()
    model = trained(name, mdata, {"labels_key": "cell_type"}, fusion=fusion)
    z = model.get_latent_representation()
    width = 16 if fusion == "concat" else 8
    assert z.shape == (150, width)
    assert model.n_latent == model.module.n_latent == width
    assert z.dtype == np.float32
    assert np.isfinite(z).all()
    assert z.std(0).min() > 0
    model.save(tmp_path / "model")
    loaded = JointEmbedding.load(tmp_path / "model")
    np.testing.assert_array_equal(loaded.get_latent_representation(mdata), z)
    assert repr(loaded) == repr(model)
    projected = model.get_latent_representation(layer="projector")
    assert projected.shape == (150, model.module.projected_width)
    # What heads, copies and queues are fed with has the fused width.
    first = next(model.module.projector.parameters())
    assert first.shape[1] == width


@pytest.mark.parametrize("name", ["MoCo", "NNCLR"])
def test_queue_is_as_wide_as_the_projections(name, tmp_path):
    model = make(name, fusion="concat", queue_size=64)
    start = model.module.queue.values.clone()
    assert start.shape == (64, 16)
    model.train(**TRAIN)
    moved = (model.module.queue.values != start).any(1)
    assert moved.all()
    model.save(tmp_path / "model")
    loaded = type(model).load(tmp_path / "model")
    assert torch.equal(loaded.module.queue.values, model.module.queue.values)


@pytest.mark.parametrize("name", ["MoCo", "VICReg"])
@pytest.mark.parametrize("fusion", ["concat", "clip"])
def test_training_separates_the_types(name, fusion):
    mdata = make_mdata(n_cells=300)
    model = make(name, mdata, fusion=fusion)
    model.train(max_epochs=15, batch_size=32, lr=3e-3, progress=False)
    cells = anndata.AnnData(obs=mdata.obs[[]])
    cells.obs["kind"] = np.resize(["a", "b", "c"], 300)
    cells.obsm["X_ssl"] = model.get_latent_representation()
    # Also of the cells with one modality only.
    assert scssl.tl.knn_score(cells, "kind", n_permutations=0).loc[0, "macro_f1"] > 0.9


@pytest.mark.parametrize("name", ["SimCLR", "BYOL"])
def test_same_seed_same_bits(name):
    def run(seed):
        model = trained(name, train={"rng": seed}, rng=seed, fusion="clip")
        return model.get_latent_representation()

    np.testing.assert_array_equal(run(1), run(1))
    assert not np.array_equal(run(1), run(2))


@pytest.mark.parametrize("modality", ["joint", "rna", "protein", "atac"])
def test_embedding_does_not_depend_on_the_batch_size(modality):
    model = trained(mdata=make_mdata(atac=True), fusion="mean")
    z = model.get_latent_representation(modality=modality)
    for batch_size in (1, 7, 1000):
        again = model.get_latent_representation(batch_size=batch_size, modality=modality)
        np.testing.assert_array_equal(again, z)
    some = model.get_latent_representation(indices=[140, 3, 3], modality=modality)
    np.testing.assert_array_equal(some, z[[140, 3, 3]])
    named = model.get_latent_representation(indices=["cell140", "cell3"], modality=modality)
    np.testing.assert_array_equal(named, z[[140, 3]])


def test_resumed_run_equals_the_straight_one(tmp_path):
    class Crash(Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            if trainer.current_epoch == 2:
                raise RuntimeError("down")

    options = {**TRAIN, "max_epochs": 4}
    straight, stopped, resumed = (
        make("MoCo", make_mdata(atac=True), fusion="clip") for _ in range(3)
    )
    straight.train(**options)
    with pytest.raises(RuntimeError, match="down"):
        stopped.train(**options, checkpoint_dir=tmp_path, callbacks=[Crash()])
    resumed.train(**options, resume_from=tmp_path)
    for name, value in straight.module.state_dict().items():
        assert torch.equal(value, resumed.module.state_dict()[name]), name


def test_order_of_features_and_modalities_makes_no_difference():
    mdata = make_mdata(atac=True)
    model = trained(mdata=mdata)
    z = model.get_latent_representation()
    rng = np.random.default_rng(0)
    mods = {
        name: mod[:, rng.permutation(mod.n_vars)].copy()
        for name, mod in reversed(list(mdata.mod.items()))
    }
    other = mudata.MuData(mods)
    found = model.get_latent_representation(other)
    order = other.obs_names.get_indexer(mdata.obs_names)
    np.testing.assert_array_equal(found[order], z)
    # More genes and proteins that the model does not know.
    more = mudata.MuData(
        {
            "rna": anndata.concat([mdata["rna"], make_counts(150, 70)[:130, 60:]], axis=1),
            "prot": mdata["prot"],
            "atac": mdata["atac"],
        }
    )
    np.testing.assert_array_equal(model.get_latent_representation(more), z)


def test_order_of_cells_makes_no_difference():
    mdata = make_mdata()
    model = trained(mdata=mdata)
    z = model.get_latent_representation()
    order = np.random.default_rng(0).permutation(150)
    shuffled = mdata[order].copy()
    found = model.get_latent_representation(shuffled)
    place = mdata.obs_names.get_indexer(shuffled.obs_names)
    np.testing.assert_array_equal(found, z[place])


def test_fewer_proteins():
    mdata = make_mdata(mosaic=False)
    model = trained(mdata=mdata)
    fewer = mudata.MuData({"rna": mdata["rna"], "prot": mdata["prot"][:, [3, 0]].copy()})
    found = model.get_modality(fewer)
    assert found.columns.tolist() == ["CD3", "CD4", "CD8", "CD19"]
    assert found[["CD4", "CD8"]].isna().all(axis=None)
    two = mdata["prot"].X[:, [0, 3]]
    expected = np.log1p(two / np.exp(np.log1p(two).mean(1, keepdims=True)))
    np.testing.assert_allclose(found[["CD3", "CD19"]], expected, rtol=1e-5)
    assert np.isfinite(model.get_latent_representation(fewer)).all()
    single = mdata["prot"][:, [0]].copy()
    single.X = single.X + 1  # a cell without any would be reported
    one = mudata.MuData({"rna": mdata["rna"], "prot": single})
    with pytest.raises(GeneMismatchError, match=r'(?s)In mdata.mod\["prot"\].*CD4'):
        model.get_latent_representation(one)
    model.get_latent_representation(one, min_overlap=0.2)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_cells_without_a_modality(fusion):
    """What a cell without proteins gets is written out from the embedding of its RNA."""
    mdata = make_mdata()
    model = trained(mdata=mdata, fusion=fusion)
    joint = model.get_latent_representation()
    rna = model.get_latent_representation(modality="rna")
    protein = model.get_latent_representation(modality="protein")
    assert np.isnan(protein[:20]).all()
    assert np.isnan(rna[-20:]).all()
    shift = {
        name: model.module.encoder.encoders[name].rest[3].bias.detach().numpy()
        for name in ("rna", "protein")
    }
    filled = [
        np.where(np.isnan(z), shift[name], z) for name, z in (("rna", rna), ("protein", protein))
    ]
    if fusion == "concat":
        expected = np.hstack(filled)
    elif fusion == "add":
        expected = filled[0] + filled[1]
    else:
        expected = np.nanmean([rna, protein], axis=0)
    np.testing.assert_allclose(joint, expected, rtol=1e-6, atol=1e-7)
    # The same cells as an AnnData, or as a MuData without the modality.
    alone = mdata["rna"][:20].copy()
    np.testing.assert_array_equal(model.get_latent_representation(alone), joint[:20])
    np.testing.assert_array_equal(
        model.get_latent_representation(mudata.MuData({"rna": alone})), joint[:20]
    )
    without_rna = mudata.MuData({"prot": mdata["prot"][-20:].copy()})
    np.testing.assert_array_equal(model.get_latent_representation(without_rna), joint[-20:])
    with pytest.raises(ValueError, match="None of the cells has the modality 'protein'"):
        model.get_latent_representation(alone, modality="protein")


def test_embedding_of_rna_is_that_of_its_encoder():
    mdata = make_mdata(mosaic=False)
    model = trained(mdata=mdata)
    encoder = model.module.encoder.encoders["rna"].eval()
    x = mdata["rna"].X.toarray()
    x = torch.from_numpy(np.log1p(1e4 * x / x.sum(1, keepdims=True)))
    with torch.no_grad():
        expected = encoder(x).numpy()
    found = model.get_latent_representation(modality="rna")
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_no_cell_is_encoded_without_its_modality():
    seen = []

    class Watch(Callback):
        def on_train_start(self, trainer, pl_module):
            def look(module, arguments, output):
                seen.append(len(output))

            pl_module.module.encoder.encoders["protein"].register_forward_hook(look)

    mdata = make_mdata()
    model = make(mdata=mdata)
    model.train(max_epochs=1, batch_size=1000, train_size=1.0, progress=False, callbacks=[Watch()])
    # Two views of the 130 cells with proteins.
    assert seen == [130, 130]


def test_one_cell_with_proteins():
    mdata = make_mdata(mosaic=False)
    few = mudata.MuData({"rna": mdata["rna"], "prot": mdata["prot"][:1].copy()})
    for fusion in FUSIONS:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            model = trained(mdata=few, fusion=fusion)
        assert np.isfinite(model.get_latent_representation()).all()
        # One pair of modalities has nothing to be told apart from.
        told = any("1 of 150 cells have two" in str(one.message) for one in caught)
        assert told == (fusion == "clip")


@pytest.mark.parametrize("name", ["SimCLR", "MoCo"])
def test_clip_term(name):
    """The part of the loss that contrasts modalities, written out."""
    model = make(
        name, fusion="clip", augmentation={"rna": Mask(0.3, p=0), "protein": Mask(0.3, p=0)}
    )
    module = model.module.eval()
    data = model._training_data()
    batch = next(iter(data.loader(np.arange(150), 150)))
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        whole = module.loss(batch, rng=rng).loss
        contrast, module.contrast = module.contrast, None
        rest = module.loss(batch, rng=torch.Generator().manual_seed(0)).loss
        both = np.arange(20, 130)
        z = []
        for kind in ("rna", "protein"):
            embedded = module.embed_modality(batch, kind)[both]
            z.append(torch.nn.functional.normalize(embedded @ contrast.heads[kind].weight.T, dim=1))
        logits = (z[0] @ z[1].T) / 0.07
        own = logits.diagonal()
        term = (logits.logsumexp(1) - own).mean() / 2 + (logits.logsumexp(0) - own).mean() / 2
    # Nothing is augmented, so both views have the same term.
    torch.testing.assert_close(whole - rest, 2 * term, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("n_shared", [0, 1, 5])
def test_every_weight_of_the_clip_term_has_a_gradient(n_shared):
    model = make(fusion="clip", mdata=make_mdata(atac=True))
    data = model._training_data()
    # With 0: the first cells, which have RNA and peaks lack proteins.
    rows = np.concatenate([np.arange(130, 150), np.arange(20, 20 + n_shared)])
    batch = next(iter(data.loader(rows, len(rows))))
    batch[PRESENT][:20, 2] = 0
    model.module.train().loss(batch).loss.backward()
    contrast = model.module.contrast
    gradients = {name: p.grad for name, p in contrast.named_parameters()}
    assert all(g is not None for g in gradients.values()), gradients
    assert all(bool(g.any()) == (n_shared > 1) for g in gradients.values())


def test_clip_without_pairs_warns():
    mdata = make_mdata(mosaic=False)
    apart = mudata.MuData({"rna": mdata["rna"][:75].copy(), "prot": mdata["prot"][75:].copy()})
    with pytest.warns(ScsslWarning, match="0 of 150 cells have two"):
        make(mdata=apart, fusion="clip")


def test_scale_of_the_clip_term_is_bounded():
    model = make(fusion="clip")
    with torch.no_grad():
        model.module.contrast.log_scale.fill_(9.0)
    model.train(**TRAIN)
    assert float(model.module.contrast.log_scale.detach()) < np.log(100) + 0.1


def test_clip_brings_modalities_together():
    mdata = make_mdata(n_cells=300, mosaic=False)
    agreement = {}
    for fusion in ("mean", "clip"):
        model = make(mdata=mdata, fusion=fusion)
        model.train(max_epochs=20, batch_size=64, lr=3e-3, progress=False)
        z = [model.get_latent_representation(modality=kind) for kind in ("rna", "protein")]
        if fusion == "clip":
            heads = model.module.contrast.heads
            z = [
                x @ heads[kind].weight.detach().numpy().T
                for kind, x in zip(("rna", "protein"), z, strict=True)
            ]
        z = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in z]
        kind = np.arange(300) % 3
        nearest = (z[0] @ z[1].T).argmax(1)
        agreement[fusion] = (kind[nearest] == kind).mean()
    assert agreement["clip"] > 0.9


# --- normalisation --------------------------------------------------------------------------------


def test_clr_of_the_model():
    mdata = make_mdata()
    values = make(mdata=mdata).get_modality(mdata, "protein")
    x = mdata["prot"].X
    expected = np.log1p(x / np.exp(np.log1p(x).mean(1, keepdims=True)))
    np.testing.assert_allclose(values.loc[mdata["prot"].obs_names], expected, rtol=1e-5)
    assert values.loc[mdata.obs_names.difference(mdata["prot"].obs_names)].isna().all(axis=None)


def test_idf_is_that_of_the_training_cells(tmp_path):
    mdata = make_mdata(atac=True)
    model = trained(mdata=mdata)
    place = mdata["atac"].obs_names.get_indexer(mdata.obs_names[model.train_indices_])
    x = mdata["atac"].X.toarray()
    used = x[place[place >= 0]]
    with np.errstate(divide="ignore"):
        idf = np.where(used.sum(0) > 0, len(used) / used.sum(0), 0)
    np.testing.assert_allclose(model.module.idf, idf, rtol=1e-6)
    tf = x / np.maximum(x.sum(1, keepdims=True), 1)
    values = model.get_modality(mdata, "atac").loc[mdata["atac"].obs_names]
    np.testing.assert_allclose(values, np.log1p(1e4 * tf * idf), rtol=1e-4, atol=1e-6)
    # It stays with the model: of other cells, when it is saved, and when training goes on.
    few = mudata.MuData({"rna": mdata["rna"][30:40].copy(), "atac": mdata["atac"][10:20].copy()})
    np.testing.assert_array_equal(model.get_modality(few, "atac"), values.iloc[10:20])
    model.save(tmp_path / "model")
    loaded = scssl.model.SimCLR.load(tmp_path / "model", mdata)
    np.testing.assert_array_equal(loaded.get_modality(few, "atac"), values.iloc[10:20])
    loaded.train(**TRAIN, rng=5)
    np.testing.assert_allclose(loaded.module.idf, idf, rtol=1e-6)


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ({"atac_normalization": "binary"}, lambda x: x > 0),
        ({"protein_normalization": "log1p"}, np.log1p),
    ],
)
def test_other_normalisations(option, expected):
    mdata = make_mdata(atac=True, mosaic=False)
    kind = next(iter(option)).split("_")[0]
    name = {"atac": "atac", "protein": "prot"}[kind]
    values = make(mdata=mdata, setup=option).get_modality(mdata, kind)
    x = mdata[name].X
    x = x.toarray() if sparse.issparse(x) else x
    np.testing.assert_allclose(values, expected(x), rtol=1e-6)


def test_proteins_that_are_normalised_already():
    mdata = make_mdata(mosaic=False)
    mdata["prot"].layers["dsb"] = np.random.default_rng(0).normal(size=mdata["prot"].shape)
    setup = {"protein_normalization": "none", "protein_layer": "dsb"}
    model = trained(mdata=mdata, setup=setup)
    values = model.get_modality(mdata, "protein")
    np.testing.assert_allclose(values, mdata["prot"].layers["dsb"], rtol=1e-6)
    assert np.isfinite(model.get_latent_representation()).all()


def test_log_normalised_rna():
    mdata = make_mdata(mosaic=False)
    mdata["rna"].layers["log"] = (0.37 * mdata["rna"].X).log1p()
    model = make(mdata=mdata, setup={"rna_layer": "log"})
    values = model.get_modality(mdata, "rna")
    np.testing.assert_allclose(values, mdata["rna"].layers["log"].toarray(), rtol=1e-6)


def test_three_modalities_and_two_without_rna():
    for mdata, setup, kinds in (
        (make_mdata(atac=True), {}, ("rna", "protein", "atac")),
        (make_mdata(atac=True), {"protein": None}, ("rna", "atac")),
        (make_mdata(atac=True, mosaic=False), {"rna": None}, ("protein", "atac")),
    ):
        model = trained(mdata=mdata, setup=setup, fusion="clip")
        assert model.modalities == kinds
        assert np.isfinite(model.get_latent_representation()).all()
    with pytest.raises(ValueError, match="reads no RNA"):
        model.get_latent_representation(make_counts())


# --- views ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["rna", "mdata"])
def test_neighbours_are_cells_with_rna(where):
    mdata = make_mdata()
    seen = []

    class Spy(NeighborMix):
        def transform(self, x, applied, rng, context):
            if torch.is_grad_enabled():
                partner = context.partner(("near",), x)
                assert partner.n_genes == 60
                seen.append(partner.to_dense().sum(1))
            return super().transform(x, applied, rng, context)

    if where == "rna":
        with_graph(mdata["rna"])
    else:
        mdata.obsp["near"] = with_graph(make_counts()).obsp["near"]
    model = make(mdata=mdata, augmentation={"rna": [Spy("near", p=1.0), Mask(0.2)]})
    model.train(**TRAIN)
    assert len(seen) > 5
    # A partner without RNA would be empty.
    assert all((total > 0).all() for total in seen)
    assert np.isfinite(model.get_latent_representation()).all()


def test_absent_graph():
    with pytest.raises(
        KeyError, match=r"(?s)NeighborMix.*draws other cells from mdata.obsp.*cross_batch_neighbors"
    ):
        make(augmentation=NeighborMix("near"))


def test_counts_are_resampled_with_the_library_of_rna():
    mdata = make_mdata(mosaic=False)
    seen = []

    class Spy(Mask):
        def transform(self, x, applied, rng, context):
            seen.append((context.input_kind, context.library))
            return super().transform(x, applied, rng, context)

    views = {"rna": [BinomialThinning(), Spy(0.2)], "protein": Spy(0.2)}
    model = make(mdata=mdata, augmentation=views)
    data = model._training_data()
    batch = next(iter(data.loader(np.arange(150), 150)))
    model.module.loss(batch)
    rna, protein = mdata["rna"].X.sum(1).A1, mdata["prot"].X.sum(1)
    assert [kind for kind, _ in seen] == ["counts", "counts", "lognorm", "lognorm"]
    for (_, library), expected in zip(seen, (rna, rna, protein, protein), strict=True):
        np.testing.assert_array_equal(library, expected)


@pytest.mark.parametrize(
    ("views", "match"),
    [
        ({"adt": "mask"}, "for 'adt'; there are 'rna', 'protein'"),
        ({"protein": BinomialThinning()}, "resamples counts, which is for RNA only"),
        ({"protein": NeighborMix("near")}, "draws neighbours from a graph, which is for RNA only"),
    ],
)
def test_views_that_do_not_fit(views, match):
    with pytest.raises(ValueError, match=match):
        make(augmentation=views)


def test_views_are_saved(tmp_path):
    model = trained(augmentation={"rna": ["mask", "gene_swap"], "protein": Mask(0.1)})
    model.save(tmp_path / "model")
    loaded = scssl.model.SimCLR.load(tmp_path / "model")
    assert repr(loaded.module.augmentation) == repr(model.module.augmentation)
    assert repr(loaded.module.augmentation["protein"]) == repr(Mask(0.1))


def test_views_that_are_set_are_used():
    class Boom(Mask):
        def transform(self, x, applied, rng, context):
            raise RuntimeError("used")

    model = make()
    model.augmentation = {"protein": Boom()}
    assert repr(model.augmentation["rna"]) == repr(make().augmentation["rna"])
    assert "fusion concat" in repr(model)
    with pytest.raises(RuntimeError, match="used"):
        model.train(**TRAIN)


def test_own_views_are_left_behind(tmp_path):
    class Own(Mask):
        pass

    mdata = make_mdata()
    model = trained(mdata=mdata, augmentation={"rna": Own(0.3)})
    with pytest.warns(ScsslWarning, match=r"Own' is not one of scssl.* No views are saved"):
        model.save(tmp_path / "model")
    loaded = scssl.model.SimCLR.load(tmp_path / "model", mdata)
    z = model.get_latent_representation()
    np.testing.assert_array_equal(loaded.get_latent_representation(), z)
    with pytest.raises(ValueError, match=r"has no augmentation, .*model\.augmentation = "):
        loaded.train(**TRAIN)
    rna = mdata["rna"].copy()
    tuned = scssl.model.CellTypeClassifier.from_ssl_model(loaded, rna, "cell_type")
    assert tuned.get_latent_representation().shape == (130, 8)
    loaded.augmentation = "mask"
    loaded.train(**TRAIN)
    assert not np.array_equal(loaded.get_latent_representation(), z)


# --- what comes after -----------------------------------------------------------------------------


def test_untrained_warns():
    with pytest.warns(ScsslWarning, match="not trained"):
        make().get_latent_representation(modality="rna")


def test_embed():
    mdata = make_mdata()
    model = trained(mdata=mdata)
    scssl.tl.embed(mdata, model)
    np.testing.assert_array_equal(mdata.obsm["X_ssl"], model.get_latent_representation())
    alone = mdata["rna"][:, 5:].copy()
    scssl.tl.embed(alone, model)
    assert alone.uns["X_ssl"]["n_genes_matched"] == 55
    assert alone.obsm["X_ssl"].shape == (130, 16)


def test_fine_tuning_starts_from_the_rna_encoder():
    mdata = make_mdata(mosaic=False)
    source = trained("VICReg", mdata)
    adata = make_counts()
    model = scssl.model.CellTypeClassifier.from_ssl_model(source, adata, "cell_type")
    np.testing.assert_array_equal(
        model.get_latent_representation(), source.get_latent_representation(modality="rna")
    )
    model.train(**TRAIN)
    assert (model.predict() == adata.obs["cell_type"]).mean() > 0.5
    without = trained(mdata=make_mdata(atac=True, mosaic=False), setup={"rna": None})
    with pytest.raises(ValueError, match="Only the RNA encoder"):
        scssl.model.CellTypeClassifier.from_ssl_model(without, adata, "cell_type")


def test_card():
    mdata = make_mdata(atac=True)
    card = trained(mdata=mdata).make_card("owner/name", {"license": "cc-by-4.0"})
    assert 'adata = mudata.read_h5mu("cells.h5mu")' in card
    assert '- It reads `mdata.mod["prot"].X`: protein, raw counts, of which the model takes' in card
    assert (
        '- It reads `mdata.mod["atac"].X`: atac, raw counts, of which the model takes TF-IDF'
        in card
    )


def test_hash_of_the_encoders():
    """Of all modalities, and of the weights of peaks, which are no parameters."""
    model = trained(mdata=make_mdata(atac=True))
    told, z = model.encoder_hash, model.get_latent_representation()
    seen = set()
    for name, value in model.module.state_dict().items():
        before = value.clone()
        value.add_(1).mul_(2)
        moved = not np.array_equal(model.get_latent_representation(), z)
        assert (model.encoder_hash != told) == moved, name
        if moved:
            seen |= {part for part in ("rna", "protein", "atac", "idf") if part in name}
        value.copy_(before)
    assert seen == {"rna", "protein", "atac", "idf"}
