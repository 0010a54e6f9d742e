"""Losses of joint-embedding modules, written out; targets, queues and what embeddings depend on."""

from __future__ import annotations

import math

import pytest
import torch

from scssl.augment import Augmentation, Compose, CrossOver, Mask
from scssl.model import JointEmbedding, get_model_class, list_models
from scssl.model.joint_embedding import MomentumModule

from ..conftest import arguments_of

METHODS = [name for name in list_models() if issubclass(get_model_class(name), JointEmbedding)]
MOMENTUM = [n for n in METHODS if issubclass(get_model_class(n)._Network, MomentumModule)]
HEADS = {"predictor_dims": (5,), "queue_size": 24, "momentum": 0.9, "n_prototypes": 12}
# Losses written out, by the name of the method. One that is not here goes through all other tests.
BY_HAND = {}


def by_hand(name):
    def add(function):
        BY_HAND[name] = function
        return function

    return add


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


def build(name, augmentation=None, heads=True, **options):
    """The network of a method, with arguments that are not its defaults."""
    torch.manual_seed(0)
    network = get_model_class(name)._Network
    given = {"hidden_dims": (16,), "n_latent": 8, "dropout": 0.0, "activation": "relu"}
    if heads:
        given |= arguments_of(network._add_heads, **HEADS)
    return network(
        40,
        **{**given, **options},
        batch_norm=True,
        augmentation=augmentation or Fixed(),
        input_kind="lognorm",
        target_sum=1e4,
        heads=heads,
    )


def cells(n=12, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(n, 40, generator=generator) * (torch.rand(n, 40, generator=generator) < 0.5)
    return x, {"X": x.to_sparse_csr(), "library": x.sum(1, keepdim=True)}


def norm(z):
    return z / z.norm(dim=1, keepdim=True)


def cross_entropy_of_pairs(one, two, temperature):
    """Loss of SimCLR."""
    both, n = norm(torch.cat([one, two])), len(one)
    total = 0.0
    for i in range(2 * n):
        logits = both @ both[i] / temperature
        others = torch.cat([logits[:i], logits[i + 1 :]])
        total = total + others.exp().sum().log() - logits[(i + n) % (2 * n)]
    return total / (2 * n)


def minus_cosine(one, two):
    return -(norm(one) * norm(two)).sum(1).mean()


@by_hand("SimCLR")
def _(module, z, t):
    return cross_entropy_of_pairs(*z, module.temperature)


@by_hand("MoCo")
def _(module, z, t):
    q, k = norm(z[0]), norm(t[1])
    total = 0.0
    for i in range(len(q)):
        logits = torch.cat([(q[i] @ k[i])[None], module.queue.values @ q[i]]) / module.temperature
        total = total - logits[0] + logits.exp().sum().log()
    return total / len(q)


@by_hand("BYOL")
def _(module, z, t):
    p = [module.predictor(part) for part in z]
    return 0.5 * (minus_cosine(p[0], t[1]) + minus_cosine(p[1], t[0]))


@by_hand("SimSiam")
def _(module, z, t):
    p, s = [module.predictor(part) for part in z], [part.detach() for part in z]
    return 0.5 * (minus_cosine(p[0], s[1]) + minus_cosine(p[1], s[0]))


@by_hand("NNCLR")
def _(module, z, t):
    p, bank = [module.predictor(part) for part in z], module.queue.values
    near = [bank[(norm(part) @ bank.T).argmax(1)].detach() for part in z]
    pairs = ((near[0], p[1]), (near[1], p[0]))
    return 0.5 * sum(cross_entropy_of_pairs(*pair, module.temperature) for pair in pairs)


@by_hand("BarlowTwins")
def _(module, z, t):
    s = [(part - part.mean(0)) / (part.var(0, correction=0) + 1e-5).sqrt() for part in z]
    c = s[0].T @ s[1] / len(z[0])
    on, off = (c.diagonal() - 1).square().sum(), c.square().sum() - c.diagonal().square().sum()
    return on + module.redundancy * off


@by_hand("VICReg")
def _(module, z, t):
    invariance, variance, covariance = module.weights.values()
    loss = invariance * (z[0] - z[1]).square().mean()
    for part in z:
        centred = part - part.mean(0)
        c = centred.T @ centred / (len(part) - 1)
        loss = loss + variance * 0.5 * (1 - (c.diagonal() + 1e-4).sqrt()).clamp(min=0).mean()
        off = c.square().sum() - c.diagonal().square().sum()
        loss = loss + covariance * off / part.shape[1]
    return loss


@by_hand("DINO")
def _(module, z, t):
    student, teacher = module.temperatures.values()
    return 0.5 * sum(
        -(((t[a] - module.center) / teacher).softmax(1) * (z[b] / student).log_softmax(1))
        .sum(1)
        .mean()
        for a, b in ((1, 0), (0, 1))
    )


def projected(module, x, kind=""):
    """Projections of the views, written out; with ``"target_"`` those of the slow copy."""
    encoder, projector = getattr(module, f"{kind}encoder"), getattr(module, f"{kind}projector")
    return [projector(encoder.rest(view @ encoder.gene_encoder.weight)) for view in views(x)]


# What is not the default, so that a hyper-parameter which is not read is noticed.
OPTIONS = {
    "SimCLR": {"temperature": 0.3},
    "NNCLR": {"temperature": 0.3},
    "BarlowTwins": {"redundancy": 0.01},
    "VICReg": {"invariance": 5.0, "variance": 3.0, "covariance": 2.0},
    "DINO": {"teacher_temperature": 0.05, "center_momentum": 0.8},
}


@pytest.mark.parametrize("name", BY_HAND)
def test_loss_is_that_of_the_paper(name):
    module, again = (build(name, **OPTIONS.get(name, {})) for _ in range(2))
    x, batch = cells()
    z = projected(again, x)
    t = [part.detach() for part in projected(again, x, "target_")] if name in MOMENTUM else None
    expected = BY_HAND[name](again, z, t)
    found = module.loss(batch, full=False).loss
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    found.backward()
    expected.backward()
    for (weight, p), q in zip(module.named_parameters(), again.parameters(), strict=True):
        assert (p.grad is None) == (q.grad is None), weight
        if p.grad is not None:
            torch.testing.assert_close(p.grad, q.grad, rtol=1e-3, atol=1e-5, msg=weight)
    assert module.encoder.gene_encoder.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("name", METHODS)
def test_steps_lower_the_loss_of_a_batch(name):
    """Of every method, whatever its loss is: it is finite, and its gradient leads down."""
    module, (_, batch) = build(name), cells(n=24)
    module.eval()  # so that queue, centre and target are those of the first step
    optimiser = torch.optim.SGD([p for p in module.parameters() if p.requires_grad], lr=1e-4)
    losses = []
    for _ in range(4):
        loss = module.loss(batch, full=False).loss
        assert loss.ndim == 0
        assert torch.isfinite(loss)
        losses.append(float(loss.detach()))
        optimiser.zero_grad()
        loss.backward()
        assert module.encoder.gene_encoder.weight.grad.abs().sum() > 0
        optimiser.step()
    assert losses[-1] < losses[0]


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
    module = build("BYOL", momentum=None)
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


@pytest.mark.parametrize("kind", METHODS)
def test_all_weights_are_trained_and_only_matrices_decay(kind):
    module = build(kind)
    module.loss(cells()[1], full=False).loss.backward()
    groups = module.parameter_groups()
    assert all(p.grad is not None for group in groups for p in group["params"])
    assert [group.get("weight_decay") for group in groups] == [None, 0.0]
    assert all(p.ndim > 1 for p in groups[0]["params"])
    assert all(p.ndim <= 1 for p in groups[1]["params"])


@pytest.mark.parametrize("kind", ["MoCo", "NNCLR"])
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
    module = build("DINO", center_momentum=0.8)
    module.eval().loss(cells()[1], full=True)
    assert not module.center.any()
    module.train()
    x, batch = cells()
    with torch.no_grad():
        scores = torch.cat([module.target(view) for view in views(x)])
    module.loss(batch, full=False)
    torch.testing.assert_close(module.center, 0.2 * scores.mean(0), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", METHODS)
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


@pytest.mark.parametrize("kind", METHODS)
def test_one_cell_has_no_loss(kind):
    """It weighs nothing in a mean either, or the loss of an epoch with such a batch would be lower."""
    output = build(kind).eval().loss(cells(n=1)[1], full=True)
    assert output.loss == 0
    assert output.n_obs_minibatch == 0


@pytest.mark.parametrize("kind", METHODS)
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
    module = build("SimCLR", hidden_dims=(16, 12))
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
    module = build("SimCLR", augmentation=Watch(), batch_key="category:donor")
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


class Across(Fixed):
    """As if the second view came from other batches."""

    def edges(self):
        return {"mnn": "across"}


@pytest.mark.parametrize(
    ("negatives", "views", "within"),
    [
        (None, Fixed, False),
        (None, Across, True),
        ("all", Across, False),
        ("own_batch", Fixed, True),
    ],
)
@pytest.mark.parametrize("loss", ["nt_xent", "dcl"])
def test_negatives_are_of_the_own_batch_where_views_are_of_others(negatives, views, within, loss):
    options = {"negatives": negatives, "batch_key": "category:donor", "loss": loss}
    module, again = (build("SimCLR", augmentation=views(), **options) for _ in range(2))
    x, batch = cells()
    donor = torch.arange(12) % 3
    batch["category:donor"] = donor[:, None]
    z = projected(again, x)
    expected = again.objective(*z, temperature=again.temperature, groups=donor if within else None)
    torch.testing.assert_close(module.loss(batch, full=False).loss, expected)
    other = again.objective(*z, temperature=again.temperature, groups=None if within else donor)
    assert abs(other - expected) > 0.1
    # Where batches are not known, cells are told apart from all.
    del batch["category:donor"]
    everything = again.objective(*z, temperature=again.temperature)
    torch.testing.assert_close(module.loss(batch, full=False).loss, everything)


def test_same_seed_same_loss():
    module = build("SimCLR", augmentation=Compose([Mask(0.5, p=1), CrossOver(0.25)]))
    batch = cells()[1]

    def loss(seed):
        return module.loss(batch, rng=torch.Generator().manual_seed(seed)).loss

    module.eval()
    assert loss(1) == loss(1)
    assert loss(1) != loss(2)
