"""Cell type classifier: what the contract of all models does not say."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.special import softmax
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression

import scssl
from scssl._errors import BundleError, GeneMismatchError, ScsslWarning
from scssl._linear import chosen_logistic, held_out_distances, temperature_of
from scssl.hub import read_bundle, write_bundle
from scssl.objective import SUPCON_TEMPERATURE

from ..conftest import TRAIN, make_counts

SMALL = {"hidden_dims": (32, 16), "n_latent": 8}
MODEL = scssl.model.CellTypeClassifier
FIT = {"progress": False, "max_epochs": 15}


@pytest.fixture(scope="module")
def source():
    adata = make_counts(n_cells=300)
    scssl.model.MaskedAutoencoder.setup_anndata(adata, batch_key="batch")
    model = scssl.model.MaskedAutoencoder(adata, **SMALL)
    model.train(max_epochs=20, batch_size=32, progress=False)
    return model


def finetuned(source, adata, labels_key="cell_type", train=FIT, **kwargs):
    model = MODEL.from_ssl_model(source, adata, labels_key, **kwargs)
    model.train(**train)
    return model


def from_scratch(adata, labels_key="cell_type", unlabeled_category=None, **kwargs):
    MODEL.setup_anndata(adata, labels_key=labels_key, unlabeled_category=unlabeled_category)
    return MODEL(adata, **{**SMALL, **kwargs})


def accuracy(model, adata):
    truth = adata.obs["cell_type"].astype(str)
    return (model.predict(adata) == truth).mean()


def as_object(adata):
    adata.obs["cell_type"] = adata.obs["cell_type"].astype(object)
    return adata


@pytest.mark.parametrize("kwargs", [{}, {"head": "mlp"}, {"loss": "supcon"}, {"freeze": "encoder"}])
def test_learns_classes(source, adata, kwargs):
    model = finetuned(source, adata, **kwargs)
    other = make_counts(n_cells=90, seed=0)[30:].copy()
    assert accuracy(model, other) > 0.75
    history = model.history
    assert history["validation_accuracy"].iloc[-1, 0] > 0.8
    assert (history["validation_macro_f1"].to_numpy() <= 1).all()


def test_starts_from_the_source_and_leaves_it_alone(source, adata):
    weights = {name: value.clone() for name, value in source.module.state_dict().items()}
    z = source.get_latent_representation(adata)
    model = MODEL.from_ssl_model(source, adata, "cell_type")
    # No warning either: these are no random projections.
    np.testing.assert_array_equal(model.get_latent_representation(), z)
    model.train(**FIT)
    assert not np.array_equal(model.get_latent_representation(), z)
    for name, value in source.module.state_dict().items():
        assert torch.equal(value, weights[name]), name
    np.testing.assert_array_equal(source.get_latent_representation(adata), z)
    assert not any("decoder" in name for name in model.module.state_dict())
    assert "pretrained encoder of MaskedAutoencoder" in repr(model)


def test_frozen_encoder_keeps_the_embedding(source, adata):
    z = source.get_latent_representation(adata)
    model = finetuned(source, adata, freeze="encoder", train={**FIT, "weight_decay": 1.0})
    np.testing.assert_array_equal(model.get_latent_representation(), z)


def test_frozen_layers_keep_their_weights(source, adata):
    train = {**FIT, "weight_decay": 1.0, "train_size": 1.0}
    model = finetuned(source, adata, freeze=2, train=train)
    parts, start = model.module.encoder_parts(), source.module.encoder_parts()
    same = [torch.equal(a.weight, b.weight) for a, b in zip(parts, start, strict=True)]
    assert same == [True, True, False]


def test_from_a_folder(source, adata, tmp_path):
    source.save(tmp_path / "ssl")
    a = MODEL.from_ssl_model(tmp_path / "ssl", adata, "cell_type")
    b = MODEL.from_ssl_model(source, adata.copy(), "cell_type")
    for model in (a, b):
        model.train(**FIT)
    np.testing.assert_array_equal(a.predict(soft=True), b.predict(soft=True))


def test_labels_are_those_of_the_source_by_default(source, adata, tmp_path):
    with pytest.raises(ValueError, match="Say which column .*`labels_key='cell_type'`"):
        MODEL.from_ssl_model(source, adata)
    scssl.model.MaskedAutoencoder.setup_anndata(adata, labels_key="cell_type")
    labelled = scssl.model.MaskedAutoencoder(adata, **SMALL)
    labelled.train(max_epochs=1, progress=False)
    labelled.save(tmp_path / "ssl")
    for one in (labelled, tmp_path / "ssl"):
        assert MODEL.from_ssl_model(one, adata).classes == ["type 0", "type 1", "type 2"]
    assert MODEL.from_ssl_model(labelled, adata, "batch").classes == ["a", "b"]


def test_from_a_fine_tuned_model(source, adata):
    first = finetuned(source, adata)
    with pytest.warns(ScsslWarning, match="not trained: embeddings"):
        from_scratch(adata).get_latent_representation()
    second = MODEL.from_ssl_model(first, adata, "batch")
    np.testing.assert_array_equal(
        second.get_latent_representation(), first.get_latent_representation()
    )
    assert second.classes == ["a", "b"]


def test_an_untrained_source_is_said(adata):
    scssl.model.MaskedAutoencoder.setup_anndata(adata)
    source = scssl.model.MaskedAutoencoder(adata, **SMALL)
    with pytest.warns(ScsslWarning, match=r"not trained.*Call `model.train\(\)` first"):
        a = MODEL.from_ssl_model(source, adata.copy(), "cell_type")
    b = from_scratch(adata)
    for model in (a, b):
        model.train(**TRAIN)
    np.testing.assert_array_equal(a.predict(soft=True), b.predict(soft=True))


def test_not_a_model(adata):
    with pytest.raises(TypeError, match="must be a model of scssl, the folder of one or its name"):
        MODEL.from_ssl_model({}, adata, "cell_type")


def test_from_scratch_is_the_same_network(source, adata):
    model = from_scratch(adata)
    kept = {n: v for n, v in source.module.state_dict().items() if "decoder" not in n}
    assert {n: v.shape for n, v in model.module.backbone.state_dict().items()} == {
        n: v.shape for n, v in kept.items()
    }
    by_dict = MODEL(adata, backbone_arguments=SMALL)
    assert torch.equal(
        by_dict.module.backbone.gene_encoder.weight, model.module.backbone.gene_encoder.weight
    )


def test_genes_and_input_are_those_of_the_source(source, adata, caplog):
    fewer = adata[:, 5:][:, ::-1].copy()
    with caplog.at_level("INFO", logger="scssl"):
        model = finetuned(source, fewer)
    assert "5 missing" in caplog.text
    assert model.genes == source.genes
    # What was learnt does not depend on the order of the genes.
    zeroed = adata.copy()
    zeroed.X.data[zeroed.X.indices < 5] = 0
    zeroed.X.eliminate_zeros()
    expected = finetuned(source, zeroed)
    np.testing.assert_array_equal(
        model.predict(adata, soft=True), expected.predict(adata, soft=True)
    )
    lognorm = adata.copy()
    lognorm.X.data = np.log1p(lognorm.X.data * 0.37)
    with pytest.raises(ValueError, match="looks log-normalised"):
        MODEL.from_ssl_model(source, lognorm, "cell_type")


def test_min_overlap(source, adata, tmp_path):
    few = adata[:, :20].copy()
    with pytest.raises(GeneMismatchError):
        MODEL.from_ssl_model(source, few, "cell_type")
    model = finetuned(source, few, min_overlap=0.3)
    p = model.predict(soft=True)
    model.save(tmp_path / "model")
    loaded = MODEL.load(tmp_path / "model", few)
    np.testing.assert_array_equal(loaded.predict(soft=True), p)
    with pytest.raises(GeneMismatchError):
        model.predict(few.copy())
    np.testing.assert_array_equal(model.predict(few.copy(), soft=True, min_overlap=0.3), p)


@pytest.mark.parametrize("missing", [None, np.nan, "Unknown"])
def test_only_labelled_cells_are_learnt_from(source, missing):
    adata = as_object(make_counts())
    truth = adata.obs["cell_type"].copy()
    hidden = np.arange(150) % 5 == 0
    adata.obs.loc[hidden, "cell_type"] = missing
    unlabeled = missing if isinstance(missing, str) else None
    model = finetuned(source, adata, unlabeled_category=unlabeled)
    assert model.classes == ["type 0", "type 1", "type 2"]
    used = np.concatenate([model.train_indices_, model.validation_indices_])
    assert sorted(used) == np.flatnonzero(~hidden).tolist()
    assert "on 120 cells" in repr(model)
    assert (model.predict()[hidden] == truth[hidden]).mean() > 0.9
    # Whatever label stands in for none, of the other cells only the expression is used.
    other = as_object(make_counts())
    other.obs.loc[hidden, "cell_type"] = "type 9"
    other = finetuned(source, other, unlabeled_category="type 9")
    np.testing.assert_array_equal(model.predict(soft=True), other.predict(soft=True))


def test_few_labels_are_all_trained_on(source):
    adata = as_object(make_counts())
    adata.obs.iloc[9:, 0] = None
    model = finetuned(source, adata, train={"progress": False})
    assert len(model.train_indices_) == 9
    assert len(model.validation_indices_) == 0
    assert model.training_["stopped_by"] == "max_epochs"
    assert accuracy(model, make_counts()) > 0.9
    model = finetuned(source, adata, train={**FIT, "train_size": 0.6})
    assert len(model.validation_indices_) == 4


def test_prediction(source, adata):
    model = finetuned(source, adata)
    p, names = model.predict(soft=True), model.predict()
    assert isinstance(p, pd.DataFrame)
    assert p.columns.tolist() == model.classes
    np.testing.assert_allclose(p.to_numpy().sum(1), 1, rtol=1e-6)
    assert isinstance(names, pd.Series)
    assert names.index.equals(adata.obs_names)
    assert p.index.equals(adata.obs_names)
    assert names.tolist() == p.idxmax(axis=1).tolist()
    for batch_size in (1, 7, 1000):
        np.testing.assert_array_equal(model.predict(soft=True, batch_size=batch_size), p)
    some = model.predict(adata, ["cell9", "cell2"])
    assert some.tolist() == names[["cell9", "cell2"]].tolist()
    assert model.predict(indices=[]).shape == (0,)
    adata.obs["predicted"] = names
    bare = make_counts()
    del bare.obs["cell_type"]
    np.testing.assert_array_equal(model.predict(bare, soft=True), p)


def test_untrained_refuses_to_predict(source, adata):
    for model in (from_scratch(adata), MODEL.from_ssl_model(source, adata, "cell_type")):
        with pytest.raises(ValueError, match=r"not trained.*model\.train\(\)"):
            model.predict()


def test_save_and_load(source, adata, tmp_path):
    for i, kwargs in enumerate(({"head": "mlp", "class_weight": {"type 1": 3.0}}, {"freeze": 1})):
        model = finetuned(source, adata, unlabeled_category="type 0", **kwargs)
        model.save(tmp_path / f"model{i}")
        config = json.loads((tmp_path / f"model{i}" / "config.json").read_text())
        assert config["arguments"]["classes"] == ["type 1", "type 2"]
        loaded = MODEL.load(tmp_path / f"model{i}")
        assert loaded.classes == model.classes
        np.testing.assert_array_equal(loaded.predict(adata, soft=True), model.predict(soft=True))
        assert repr(loaded) == repr(model)
        loaded.attach(adata)
        loaded.train(**TRAIN)
        assert accuracy(loaded, adata[adata.obs["cell_type"] != "type 0"]) > 0.9


@pytest.mark.parametrize(
    "spoil",
    [
        lambda c: c["arguments"]["classes"].reverse(),
        lambda c: c["arguments"]["backbone"].update(model_class="os.system"),
        lambda c: c["arguments"].update(freeze=9),
        lambda c: c["arguments"]["backbone"]["arguments"].update(hidden_dims=[7]),
    ],
)
def test_nonsense_in_a_folder(source, adata, tmp_path, spoil):
    finetuned(source, adata, train=TRAIN).save(tmp_path / "model")
    bundle = read_bundle(tmp_path / "model")
    config = json.loads(json.dumps(bundle.config))
    spoil(config)
    write_bundle(tmp_path / "bad", tensors=bundle.tensors, config=config, genes=bundle.genes)
    with pytest.raises(BundleError, match="does not fit"):
        MODEL.load(tmp_path / "bad")


def test_temperature_of_the_contrast_is_saved(source, adata, tmp_path):
    model = MODEL.from_ssl_model(source, adata, "cell_type", loss="supcon")
    assert model.module.temperature == SUPCON_TEMPERATURE
    model = MODEL.from_ssl_model(source, adata, "cell_type", loss="supcon", supcon_temperature=0.5)
    assert model.module.temperature == 0.5
    model.save(tmp_path / "model")
    assert MODEL.load(tmp_path / "model").module.temperature == 0.5


def test_folder_of_an_earlier_version(source, adata, tmp_path):
    """It does not say what heads had then: a temperature of 0.1, no components, no unit length."""
    model = MODEL.from_ssl_model(source, adata, "cell_type", n_components=0, unit_length=False)
    model.train(**TRAIN)
    model.save(tmp_path / "model")
    bundle = read_bundle(tmp_path / "model")
    for name in ("supcon_temperature", "n_components", "unit_length"):
        del bundle.config["arguments"][name]
    write_bundle(tmp_path / "old", tensors=bundle.tensors, config=bundle.config, genes=bundle.genes)
    old = MODEL.load(tmp_path / "old")
    assert old.module.temperature == 0.1
    np.testing.assert_array_equal(old.predict(adata, soft=True), model.predict(soft=True))


def test_class_weights(source):
    adata = make_counts(n_cells=300)
    keep = np.flatnonzero((adata.obs["cell_type"] != "type 2") | (np.arange(300) < 60))
    adata = adata[keep].copy()
    adata.obs["cell_type"] = adata.obs["cell_type"].cat.remove_unused_categories()
    model = finetuned(source, adata, class_weight="balanced", train={**TRAIN, "train_size": 1.0})
    count = adata.obs["cell_type"].value_counts().sort_index().to_numpy()
    expected = len(adata) / (3 * count)
    np.testing.assert_allclose(model.module.class_weights, expected, rtol=1e-6)
    model = finetuned(source, adata, class_weight={"type 2": 4}, train=TRAIN)
    assert model.module.class_weights.tolist() == [1, 1, 4]


@pytest.mark.parametrize("key", ["batch", "cell_type"])
def test_starts_as_the_linear_probe(source, adata, key):
    """One factor for the embedding, one for the components, cells of unit length, penalty and temperature."""
    model = MODEL.from_ssl_model(source, adata, key, freeze="encoder", n_components=5)
    model.train(max_epochs=1, lr=1e-12, train_size=1.0, progress=False)
    counts = adata.X.toarray().astype(float)
    x = np.log1p(counts / counts.sum(1, keepdims=True) * model.setup.target_sum)
    parts = (
        source.get_latent_representation(adata),
        PCA(5, svd_solver="full").fit_transform(x),
    )
    z = np.hstack([(p - p.mean(0)) / np.sqrt(p.var(0).sum()) for p in parts])
    z /= np.sqrt(np.square(z).mean(1, keepdims=True))
    y = adata.obs[key].cat.codes.to_numpy() if key == "cell_type" else (adata.obs[key] == "b")
    y = np.asarray(y, dtype=int)

    def make(strength):
        return LogisticRegression(C=strength, max_iter=10_000)

    strength = chosen_logistic(z, y, 0)[0]
    fitted = make(strength).fit(z, y)
    scores, truth = held_out_distances(lambda: make(strength), z, y, 0)
    logits = fitted.decision_function(z)
    if key == "batch":
        logits, scores = np.stack([-logits, logits], 1) / 2, scores / 2
    expected = softmax(logits / temperature_of(scores, truth), axis=1)
    np.testing.assert_allclose(model.predict(soft=True), expected, atol=2e-3)


@pytest.mark.parametrize(
    ("after", "kept"), [((0.2, 0.9), True), ((0.2, 0.7), False), ((0.4, 0.9), False)]
)
def test_fine_tuning_is_kept_where_held_out_cells_say_so(
    source, adata, monkeypatch, caplog, after, kept
):
    """By both, loss and accuracy; 0.3 and 0.8 before."""
    judgements = iter([after, (0.3, 0.8)])
    monkeypatch.setattr(MODEL, "_judged", lambda *_: next(judgements))
    with caplog.at_level("INFO", logger="scssl"):
        model = finetuned(source, adata, train=TRAIN)
    assert (model.encoder_hash != source.encoder_hash) == kept
    assert model.training_["head"] == ("fine-tuned" if kept else "logistic regression")
    assert ("log loss" in caplog.text) != kept
    if kept:
        return
    assert "0.300 before; accuracy" in caplog.text
    assert "logistic regression of 150 cells" in caplog.text
    # That of all labels, as a model has it that holds none out and learns nothing further.
    start = {**TRAIN, "max_epochs": 1, "lr": 1e-12, "train_size": 1.0}
    expected = finetuned(source, make_counts(), freeze="encoder", train=start)
    np.testing.assert_allclose(model.predict(soft=True), expected.predict(soft=True), atol=1e-4)


def test_held_out_cells_judge_a_classifier(source, adata):
    """What training ruins is not kept, and what is kept has the temperature that they ask for."""
    ruined = finetuned(source, adata, train={**FIT, "lr": 10.0})
    assert ruined.training_["head"] == "logistic regression"
    assert ruined.encoder_hash == source.encoder_hash
    assert accuracy(ruined, make_counts()) > 0.9
    model = from_scratch(adata)
    model.train(**FIT)
    data = model._training_data()
    assert model._held_out_logits(data, model.validation_indices_)[2] == pytest.approx(1, rel=0.01)


def test_few_labels_leave_the_encoder_alone(source, caplog):
    adata = as_object(make_counts())
    adata.obs.iloc[9:, 0] = None
    with caplog.at_level("INFO", logger="scssl"):
        model = finetuned(source, adata, train={"progress": False})
    assert model.encoder_hash == source.encoder_hash
    assert model.training_["head"] == "logistic regression"
    assert "So few cells have classes that none was held out" in caplog.text
    asked = finetuned(source, adata, train=TRAIN)
    assert asked.encoder_hash != source.encoder_hash
    assert asked.training_["head"] == "fine-tuned"


def test_resumed_run_is_the_straight_run(source, tmp_path):
    def start():
        return MODEL.from_ssl_model(source, make_counts(), "cell_type", head="mlp")

    straight, first, second = start(), start(), start()
    fit = {"batch_size": 32, "progress": False}
    straight.train(4, **fit)
    first.train(2, **fit, checkpoint_dir=tmp_path)
    second.train(4, **fit, resume_from=tmp_path)
    np.testing.assert_array_equal(second.predict(soft=True), straight.predict(soft=True))
    with pytest.raises(ValueError, match="another run: its backbone_lr"):
        start().train(4, **fit, backbone_lr=0.01, resume_from=tmp_path)


def test_encoder_that_is_told_the_batch(adata, tmp_path):
    scssl.model.MaskedAutoencoder.setup_anndata(adata, batch_key="batch")
    source = scssl.model.MaskedAutoencoder(adata, **SMALL, encode_covariates=True)
    source.train(**TRAIN)
    # Of batch b only: its code is still that of the source.
    query = make_counts()[::2].copy()
    assert set(query.obs["batch"]) == {"b"}
    model = MODEL.from_ssl_model(source, query, "cell_type")
    np.testing.assert_array_equal(
        model.get_latent_representation(), source.get_latent_representation(query)
    )
    model.train(**TRAIN)
    model.save(tmp_path / "model")
    np.testing.assert_array_equal(
        MODEL.load(tmp_path / "model").predict(query, soft=True), model.predict(soft=True)
    )
    query.obs["batch"] = "c"
    with pytest.raises(ValueError, match="'c'"):
        model.predict(query.copy())


def test_labels_that_cannot_be_learnt(adata):
    adata.obs["one"] = "T"
    adata.obs["none"] = None
    adata.obs["score"] = np.linspace(0, 1, 150)
    adata.obs["n_counts"] = np.arange(150)
    for kwargs, message in (
        ({}, "such as `labels_key='cell_type'`; there are: 'cell_type'"),
        ({"labels_key": "one"}, r"one class only \('T', 150 cells\)"),
        ({"labels_key": "none"}, "No cell has a label"),
        ({"labels_key": "one", "unlabeled_category": "T"}, "No cell has a label.*'T'"),
        ({"labels_key": "score"}, r"holds numbers.*astype\(.string.\)`"),
        ({"labels_key": "n_counts"}, "holds numbers"),
    ):
        with pytest.raises(ValueError, match=message):
            MODEL.setup_anndata(adata, **kwargs)
    with pytest.raises(KeyError, match=r"adata.obs has no .*celltype.*Did you mean `labels_key="):
        MODEL.setup_anndata(adata, labels_key="celltype")


def test_codes_and_unused_categories_are_fine(adata):
    adata.obs["code"] = np.arange(150) % 3
    adata.obs["float code"] = (np.arange(150) % 3).astype(float)
    adata.obs.loc["cell4", "float code"] = np.nan
    adata.obs["categorical"] = adata.obs["float code"].astype("category")
    for key in ("code", "float code", "categorical"):
        model = from_scratch(adata, key)
        model.train(**TRAIN)
        assert model.classes == ["0", "1", "2"]
        # The three are one column, whatever pandas made of it.
        adata.obs["call"] = model.predict()
        known = adata[adata.obs["float code"].notna()].copy()
        scores = [
            scssl.tl.score_labels(known, one, "call").iloc[0] for one in known.obs if "code" in one
        ]
        assert scores[0]["accuracy"] == scores[1]["accuracy"] > 0
    adata.obs["cell_type"] = adata.obs["cell_type"].cat.add_categories(["unused"])
    assert from_scratch(adata).classes == ["type 0", "type 1", "type 2"]


def test_unknown_labels_when_training_on(source, adata, tmp_path):
    finetuned(source, adata).save(tmp_path / "model")
    other = as_object(make_counts())
    other.obs.loc["cell3", "cell_type"] = "B cell"
    loaded = MODEL.load(tmp_path / "model", other)
    with pytest.raises(ValueError, match="1 classes that the model does not have: 'B cell'"):
        loaded.train(**TRAIN)


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        ({"head": "deep"}, ValueError, "`head` must be 'linear' or 'mlp', found 'deep'"),
        ({"loss": "mse"}, ValueError, "`loss` must be 'ce' or 'supcon'"),
        ({"supcon_temperature": 0}, ValueError, "`supcon_temperature` must be a positive number"),
        ({"freeze": 7}, ValueError, "0 to 3 layers, found 7"),
        ({"n_components": -1}, ValueError, "`n_components` must be"),
        ({"unit_length": "yes"}, ValueError, "`unit_length` must be True or False"),
        (
            {"class_weight": "even"},
            ValueError,
            "must be None, 'balanced' or a dict of weights by class",
        ),
        ({"class_weight": {"B": 1}}, ValueError, "names 'B', which is no class; there are"),
        ({"class_weight": {"type 1": -1}}, ValueError, "must be a positive number"),
        ({"backbone": "BERT"}, ValueError, "`backbone` must be .* or .*, found 'BERT'"),
        ({"backbone": "CellTypeClassifier"}, ValueError, "is not self-supervised"),
        ({"hidden": 3}, TypeError, "hidden"),
    ],
)
def test_bad_arguments(adata, kwargs, error, message):
    MODEL.setup_anndata(adata, labels_key="cell_type")
    with pytest.raises(error, match=message):
        MODEL(adata, **kwargs)


def test_bad_learning_rate(adata):
    with pytest.raises(ValueError, match=r"`backbone_lr` must be a number in \[0, inf\)"):
        from_scratch(adata).train(backbone_lr=-1)


@pytest.mark.parametrize("freeze", ["encoder", 3])
def test_nothing_is_contrasted_in_a_frozen_encoder(source, adata, freeze):
    with pytest.raises(ValueError, match=r'pass `freeze="none"` or `loss="ce"`'):
        MODEL.from_ssl_model(source, adata, "cell_type", loss="supcon", freeze=freeze)


def test_a_random_head_is_plain_fine_tuning(source, adata):
    """What was trained is kept, whatever held-out cells say, and of nothing else differs from scratch."""
    kwargs = {"n_components": 0, "unit_length": False, "head_start": "random"}
    models = [MODEL.from_ssl_model(source, adata, "cell_type", **kwargs)]
    with pytest.warns(ScsslWarning, match="from scratch"):
        models.append(MODEL.from_ssl_model(source.untrained(1), adata, "cell_type", **kwargs))
    weights = [model.module.head.state_dict() for model in models]
    for name, value in weights[0].items():
        np.testing.assert_array_equal(value, weights[1][name])
    assert models[0].n_trainable == models[1].n_trainable
    for model in models:
        model.train(max_epochs=1, lr=1e-6, backbone_lr=1e-6, progress=False)
        assert model.training_["head"] == "fine-tuned"
