from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score

from scssl.augment import RandomMask
from scssl.data.keys import PROTEINS
from scssl.model.finetune._classifier import CellTypeClassifierModule
from scssl.model.finetune._protein import ProteinPredictorModule
from scssl.model.masked_autoencoder._network import MaskedAutoencoderModule
from scssl.train import RowAdamW


def backbone(dropout=0.5):
    torch.manual_seed(0)
    return MaskedAutoencoderModule(
        20,
        hidden_dims=(12, 10),
        n_latent=4,
        dropout=dropout,
        activation="selu",
        masking=RandomMask(0.5),
        mask_signal=None,
        loss="mse",
        latent_activation=False,
        output_activation=None,
        decoder=False,
        encode_covariates=False,
        n_categories={},
        n_continuous=0,
    )


def batch(n=16, seed=0):
    rng = np.random.default_rng(seed)
    x = torch.from_numpy(rng.poisson(1.0, (n, 20)).astype("f4"))
    return {"X": x.to_sparse_csr(), "labels": torch.from_numpy(rng.integers(0, 3, (n, 1)))}


def build(**kwargs):
    options = {"loss": "ce", "temperature": 0.1, "head": "linear", "freeze": "none", **kwargs}
    return CellTypeClassifierModule(
        backbone(), n_genes=20, n_latent=4, n_components=0, n_classes=3, **options
    )


def steps(module, n=5, **kwargs):
    """Steps with heavy weight decay, by the package's optimiser on the module's groups."""
    optimizer = RowAdamW(module.parameter_groups(), lr=1e-2, weight_decay=10.0)
    module.train()
    for seed in range(n):
        optimizer.zero_grad()
        module.loss(batch(seed=seed), full=False).loss.backward()
        optimizer.step()
    module.eval()


@pytest.mark.parametrize(
    ("freeze", "n_frozen"), [("none", 0), (1, 1), (2, 2), (3, 3), ("encoder", 3)]
)
@pytest.mark.parametrize("loss", ["ce", "supcon"])
def test_what_is_frozen_does_not_drift(freeze, n_frozen, loss):
    module = build(freeze=freeze, loss=loss)
    parts = module.encoder_parts()
    before = [[p.clone() for p in part.parameters()] for part in parts]
    head = module.head.linear.weight.clone()
    steps(module)
    for i, (part, values) in enumerate(zip(parts, before, strict=True)):
        for parameter, value in zip(part.parameters(), values, strict=True):
            assert torch.equal(parameter, value) == (i < n_frozen), i
    assert not torch.equal(module.head.linear.weight, head)


def test_frozen_encoder_has_no_graph_and_no_dropout():
    frozen, free = build(freeze="encoder").train(), build(freeze="none").train()
    x = batch()
    z = frozen.encode(x)
    assert not z.requires_grad
    torch.testing.assert_close(z, frozen.embed(x))
    assert not any(m.training for m in frozen.backbone.modules())
    assert frozen.head.training
    z = free.encode(x)
    assert z.requires_grad
    assert not torch.equal(z, free.encode(x))
    partly = build(freeze=1).train()
    parts = partly.encoder_parts()
    assert [p.training for p in parts] == [False, True, True]


@pytest.mark.parametrize("freeze", [-1, 4, True, "all", 1.5])
def test_bad_freeze(freeze):
    with pytest.raises(ValueError, match="`freeze` must be 'none', 'encoder' or 0 to 3 layers"):
        build(freeze=freeze)


def test_learning_rates_of_head_and_encoder():
    module = build(freeze=1)
    module.backbone_lr_factor = 0.25
    head, encoder = module.parameter_groups()
    assert "lr_factor" not in head
    assert encoder["lr_factor"] == 0.25
    grouped = {id(p) for group in (head, encoder) for p in group["params"]}
    assert grouped == {id(p) for p in module.parameters() if p.requires_grad}
    assert len(build(freeze="encoder").parameter_groups()) == 1


def test_supcon_gives_the_encoder_nothing_of_the_cross_entropy():
    module = build(loss="supcon")
    # All cells of one class: nothing is contrasted, so only the head can learn.
    x = batch() | {"labels": torch.zeros(16, 1, dtype=torch.int64)}
    x["labels"][0] = 1
    one = {name: value[:1] if name == "labels" else value for name, value in batch(1).items()}
    module.train()
    module.loss(one, full=False).loss.backward()
    assert all(p.grad is None or not p.grad.any() for p in module.backbone.parameters())
    assert module.head.linear.weight.grad.any()
    module.zero_grad()
    module.loss(x, full=False).loss.backward()
    assert module.backbone.gene_encoder.weight.grad.any()


def test_weights_are_of_training_only():
    module = build().eval()
    x = batch()
    module.class_weights.copy_(torch.tensor([1.0, 5.0, 0.1]))
    logits, labels = module.head(module.embed(x)), x["labels"].squeeze(1)
    p = logits.softmax(1)[torch.arange(16), labels].log()
    w = module.class_weights[labels]
    torch.testing.assert_close(module.loss(x, full=True).loss, -p.mean())
    torch.testing.assert_close(module.loss(x, full=False).loss, -(w * p).sum() / w.sum())


def test_scores_of_several_batches():
    module = build().eval()
    batches = [batch(seed=s) for s in range(3)]
    tally = sum(module.loss(x).extra_metrics["confusion"] for x in batches)
    truth = torch.cat([x["labels"].squeeze(1) for x in batches])
    called = torch.cat([module.classify(x).argmax(1) for x in batches])
    scores = module.validation_scores({"confusion": tally})
    assert scores["accuracy"] == pytest.approx((truth == called).float().mean().item())
    labels = sorted(set(truth.tolist()))
    expected = f1_score(truth, called, labels=labels, average="macro", zero_division=0)
    assert scores["macro_f1"] == pytest.approx(expected)


def test_probabilities():
    module = build(head="mlp").eval()
    p = module.classify(batch())
    torch.testing.assert_close(p.sum(1), torch.ones(16))
    torch.testing.assert_close(p, module.head(module.embed(batch())).softmax(1))
    torch.testing.assert_close(p, module.classify(batch()), rtol=0, atol=0)


@pytest.mark.parametrize("full", [False, True])
def test_loss_of_proteins_is_that_of_the_measured_entries(full):
    module = ProteinPredictorModule(
        backbone(dropout=0.0),
        n_genes=20,
        n_latent=4,
        n_proteins=5,
        n_components=0,
        head="linear",
        freeze="none",
    )
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in module.head.parameters():
            p.normal_(generator=generator)
    module.target_mean.copy_(torch.arange(5.0))
    module.target_scale.copy_(torch.arange(1.0, 6.0))
    tensors = batch()
    values = torch.randn(16, 5, generator=generator) * 3
    measured = torch.rand(16, 5, generator=generator) < 0.6
    measured[3] = False
    tensors[PROTEINS] = values.where(measured, torch.nan)
    found = module.loss(tensors, full=full).loss
    predicted = module.head(module.encode(tensors))
    expected = (predicted - (values - torch.arange(5.0)) / torch.arange(1.0, 6.0))[measured]
    torch.testing.assert_close(found, expected.square().mean())
    tensors[PROTEINS] = torch.full((16, 5), torch.nan)
    assert module.loss(tensors, full=full).loss == 0
