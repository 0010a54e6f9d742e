"""Losses of joint-embedding modules, written out; targets, queues and what embeddings depend on."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from scssl.augment import Augmentation, Compose, CrossOver, Mask
from scssl.model.joint_embedding._method_networks import (
    BarlowTwinsModule,
    BYOLModule,
    DINOModule,
    MoCoModule,
    NNCLRModule,
    SimCLRModule,
    SimSiamModule,
    VICRegModule,
)

HEADS = {
    SimCLRModule: {"temperature": 0.3, "loss": "nt_xent"},
    MoCoModule: {"temperature": 0.2, "queue_size": 24, "momentum": 0.9},
    BYOLModule: {"predictor_dims": (5,), "momentum": 0.9},
    SimSiamModule: {"predictor_dims": (3,)},
    NNCLRModule: {"predictor_dims": (5,), "temperature": 0.3, "queue_size": 24},
    BarlowTwinsModule: {"redundancy": 0.01},
    VICRegModule: {"invariance": 5.0, "variance": 3.0, "covariance": 2.0},
    DINOModule: {
        "n_prototypes": 12,
        "student_temperature": 0.1,
        "teacher_temperature": 0.05,
        "center_momentum": 0.8,
        "momentum": 0.9,
    },
}
MODULES = list(HEADS)
MOMENTUM = [MoCoModule, BYOLModule, DINOModule]


class Fixed(Augmentation):
    """Views that are known: the cells times 1 and times 2, with some genes taken out."""

    def transform(self, x, applied, rng, context):
        dense = x.to_dense() * (1 + context.view)
        dense[:, context.view :: 3] = 0
        return dense


def views(x):
    first, second = x.clone(), 2 * x
    first[:, 0::3] = 0
    second[:, 1::3] = 0
    return first, second


def build(kind, augmentation=None, **kwargs):
    torch.manual_seed(0)
    options = {"hidden_dims": (16,), "n_latent": 8, "dropout": 0.0, "activation": "relu"}
    return kind(
        40,
        **{**options, **HEADS[kind], **kwargs},
        batch_norm=True,
        augmentation=augmentation or Fixed(),
        input_kind="lognorm",
        target_sum=1e4,
        projector_dims=kwargs.get("projector_dims"),
    )


def cells(n=12, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(n, 40, generator=generator) * (torch.rand(n, 40, generator=generator) < 0.5)
    return x, {"X": x.to_sparse_csr(), "library": x.sum(1, keepdim=True)}


def norm(z):
    return z / z.norm(dim=1, keepdim=True)


def by_hand(module, x):
    """The loss of a batch in training mode, with the losses written out."""
    first, second = views(x)
    z = [
        module.projector(module.encoder.rest(v @ module.encoder.gene_encoder.weight))
        for v in (first, second)
    ]
    if isinstance(module, SimCLRModule):
        both = norm(torch.cat(z))
        n = len(x)
        total = 0.0
        for i in range(2 * n):
            logits = both @ both[i] / 0.3
            others = torch.cat([logits[:i], logits[i + 1 :]])
            total = total + others.exp().sum().log() - logits[(i + n) % (2 * n)]
        return total / (2 * n)
    if isinstance(module, (MoCoModule, BYOLModule, DINOModule)):
        t = [
            module.target_projector(
                module.target_encoder.rest(v @ module.target_encoder.gene_encoder.weight)
            ).detach()
            for v in (first, second)
        ]
    if isinstance(module, MoCoModule):
        q, k = norm(z[0]), norm(t[1])
        total = 0.0
        for i in range(len(x)):
            logits = torch.cat([(q[i] @ k[i])[None], module.queue.values @ q[i]]) / 0.2
            total = total - logits[0] + logits.exp().sum().log()
        return total / len(x)
    if isinstance(module, BYOLModule):
        p = [module.predictor(part) for part in z]
        return -0.5 * ((norm(p[0]) * norm(t[1])).sum(1) + (norm(p[1]) * norm(t[0])).sum(1)).mean()
    if isinstance(module, DINOModule):
        center = module.center
        return 0.5 * sum(
            -(((t[a] - center) / 0.05).softmax(1) * (z[b] / 0.1).log_softmax(1)).sum(1).mean()
            for a, b in ((1, 0), (0, 1))
        )
    if isinstance(module, SimSiamModule):
        p = [module.predictor(part) for part in z]
        s = [part.detach() for part in z]
        return -0.5 * ((norm(p[0]) * norm(s[1])).sum(1) + (norm(p[1]) * norm(s[0])).sum(1)).mean()
    if isinstance(module, NNCLRModule):
        p = [module.predictor(part) for part in z]
        bank = module.queue.values
        near = [bank[(norm(part) @ bank.T).argmax(1)].detach() for part in z]
        total = 0.0
        for one, two in ((near[0], p[1]), (near[1], p[0])):
            both = norm(torch.cat([one, two]))
            logits = (both @ both.T / 0.3).fill_diagonal_(-math.inf)
            n = len(x)
            positive = torch.cat([torch.arange(n, 2 * n), torch.arange(n)])
            total = total + 0.5 * functional.cross_entropy(logits, positive)
        return total
    if isinstance(module, BarlowTwinsModule):
        s = [(part - part.mean(0)) / (part.var(0, correction=0) + 1e-5).sqrt() for part in z]
        c = s[0].T @ s[1] / len(x)
        on, off = (c.diagonal() - 1).square().sum(), c.square().sum() - c.diagonal().square().sum()
        return on + 0.01 * off
    assert isinstance(module, VICRegModule)
    loss = 5 * (z[0] - z[1]).square().mean()
    for part in z:
        centred = part - part.mean(0)
        covariance = centred.T @ centred / (len(x) - 1)
        loss = loss + 3 * 0.5 * (1 - (covariance.diagonal() + 1e-4).sqrt()).clamp(min=0).mean()
        off = covariance.square().sum() - covariance.diagonal().square().sum()
        loss = loss + 2 * off / part.shape[1]
    return loss


@pytest.mark.parametrize("kind", MODULES)
def test_loss_is_that_of_the_paper(kind):
    module, again = build(kind), build(kind)
    x, batch = cells()
    expected = by_hand(again, x)
    found = module.loss(batch, full=False).loss
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    found.backward()
    expected.backward()
    for (name, p), q in zip(module.named_parameters(), again.parameters(), strict=True):
        assert (p.grad is None) == (q.grad is None), name
        if p.grad is not None:
            torch.testing.assert_close(p.grad, q.grad, rtol=1e-3, atol=1e-5, msg=name)
    assert module.encoder.gene_encoder.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("kind", MOMENTUM)
def test_target_follows_by_the_scheduled_momentum(kind):
    module = build(kind)
    start = [p.clone() for p in module.target_encoder.parameters()]
    for p, s in zip(module.encoder.parameters(), start, strict=True):
        assert torch.equal(p, s)
    with torch.no_grad():
        for p in module.encoder.parameters():
            p.add_(1.0)
    kept = 1.0
    for step in range(6):
        module.after_step(step, 6)
        # From 0.9 in the first step to 1 in the last.
        kept *= 1 - 0.1 * (1 + math.cos(math.pi * step / 5)) / 2
    for p, s in zip(module.target_encoder.parameters(), start, strict=True):
        torch.testing.assert_close(p, s + (1 - kept), rtol=1e-5, atol=1e-5)
    assert not any(p.requires_grad for p in module.target_encoder.parameters())


@pytest.mark.parametrize(("n_steps", "start"), [(100, 0.9), (1600, 0.95), (10**6, 0.996)])
def test_momentum_follows_the_length_of_the_run(n_steps, start):
    module = build(BYOLModule, momentum=None)
    with torch.no_grad():
        before = module.target_encoder.gene_encoder.weight.clone()
        module.encoder.gene_encoder.weight.add_(1.0)
    module.after_step(0, n_steps)
    moved = module.target_encoder.gene_encoder.weight - before
    torch.testing.assert_close(moved, torch.full_like(moved, 1 - start), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("kind", MOMENTUM)
def test_optimiser_does_not_see_the_target(kind):
    module = build(kind)
    trained = {id(p) for group in module.parameter_groups() for p in group["params"]}
    assert not trained & {id(p) for p in module.target_encoder.parameters()}
    assert not trained & {id(p) for p in module.target_projector.parameters()}


@pytest.mark.parametrize("kind", MODULES)
def test_all_weights_are_trained_and_only_matrices_decay(kind):
    module = build(kind)
    module.loss(cells()[1], full=False).loss.backward()
    groups = module.parameter_groups()
    assert all(p.grad is not None for group in groups for p in group["params"])
    assert [group.get("weight_decay") for group in groups] == [None, 0.0]
    assert all(p.ndim > 1 for p in groups[0]["params"])
    assert all(p.ndim <= 1 for p in groups[1]["params"])


@pytest.mark.parametrize("kind", [MoCoModule, NNCLRModule])
def test_queue_moves_in_training_only(kind):
    module = build(kind)
    assert {"queue.values", "queue.pointer"} <= set(module.state_dict())
    before = module.queue.values.clone()
    module.eval().loss(cells()[1], full=True)
    assert torch.equal(module.queue.values, before)
    module.train().loss(cells()[1], full=False)
    assert (module.queue.values != before).any(1).sum() == 12
    assert int(module.queue.pointer) == 12


def test_center_of_dino_moves_in_training_only():
    module = build(DINOModule)
    module.eval().loss(cells()[1], full=True)
    assert not module.center.any()
    module.train()
    x, batch = cells()
    with torch.no_grad():
        scores = torch.cat([module.target(view) for view in views(x)])
    module.loss(batch, full=False)
    torch.testing.assert_close(module.center, 0.2 * scores.mean(0), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", MODULES)
def test_embeddings_depend_on_the_cell_alone(kind):
    module = build(kind)
    for seed in range(3):
        module.loss(cells(seed=seed)[1], full=False)
    module.eval()
    state = {name: value.clone() for name, value in module.state_dict().items()}
    x, batch = cells(n=30)
    z = module.embed(batch)
    alone = module.embed({"X": x[7:8].to_sparse_csr()})
    assert torch.equal(z[7:8], alone)
    # Batch norm of the running statistics, which embedding leaves as they are.
    for name, value in module.state_dict().items():
        assert torch.equal(value, state[name]), name
    hidden = x @ module.encoder.gene_encoder.weight
    torch.testing.assert_close(z, module.encoder.rest(hidden), rtol=1e-4, atol=1e-5)
    projected = module.project(batch)
    assert projected.shape == (30, module.projected_width)
    torch.testing.assert_close(projected, module.projector(z), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", MODULES)
def test_one_cell_has_no_loss(kind):
    """It weighs nothing in a mean either, or the loss of an epoch with such a batch would be lower."""
    output = build(kind).eval().loss(cells(n=1)[1], full=True)
    assert output.loss == 0
    assert output.n_obs_minibatch == 0


@pytest.mark.parametrize("kind", MODULES)
def test_without_head_it_embeds_only(kind):
    whole, bare = build(kind), build(kind, heads=False)
    weights = whole.state_dict()
    bare.load_state_dict({name: weights[name] for name in bare.state_dict()})
    batch = cells()[1]
    assert torch.equal(bare.eval().embed(batch), whole.eval().embed(batch))
    with pytest.raises(ValueError, match="from_ssl_model"):
        bare.loss(batch)
    with pytest.raises(ValueError, match="no projector"):
        bare.project(batch)


def test_parts_cover_the_encoder():
    module = build(SimCLRModule, hidden_dims=(16, 12))
    parts = module.encoder_parts()
    assert len(parts) == 3
    covered = {id(p) for part in parts for p in part.parameters()}
    assert covered == {id(p) for p in module.encoder.parameters()}


def test_batch_codes_and_library_reach_the_augmentation():
    class Watch(Augmentation):
        def transform(self, x, applied, rng, context):
            seen.append(context)
            return x

    seen = []
    module = build(SimCLRModule, augmentation=Watch(), batch_key="category:donor")
    x, batch = cells()
    batch["category:donor"] = torch.arange(12)[:, None] % 2
    batch["partner:1:near/far"] = x.flip(0).to_sparse_csr()
    module.loss(batch, full=False)
    assert [context.view for context in seen] == [0, 1]
    assert torch.equal(seen[0].batch, torch.arange(12) % 2)
    torch.testing.assert_close(seen[0].library, x.sum(1))
    assert seen[0].shared_seed == seen[1].shared_seed
    assert not seen[0].partners
    torch.testing.assert_close(seen[1].partners["near", "far"].to_dense(), x.flip(0))


def test_same_seed_same_loss():
    module = build(SimCLRModule, augmentation=Compose([Mask(0.5, p=1), CrossOver(0.25)]))
    batch = cells()[1]

    def loss(seed):
        return module.loss(batch, rng=torch.Generator().manual_seed(seed)).loss

    module.eval()
    assert loss(1) == loss(1)
    assert loss(1) != loss(2)
