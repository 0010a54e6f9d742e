"""The loss of CellPLM, against dense formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import distributions

from scssl.data.keys import LABELS, PANEL, POSITION, SEQUENCE, TARGET
from scssl.data.matrix import GeneStatistics
from scssl.model.cellplm._network import CellPLMModule
from scssl.model.cellplm._options import CellPLMOptions
from scssl.objective import supcon

N, G = 24, 30


def build(*, train=False, **changes):
    torch.manual_seed(0)
    own = {name: changes.pop(name) for name in ("mask", "cluster_free_bits") if name in changes}
    of_data = {name: changes.pop(name) for name in ("measured", "n_classes") if name in changes}
    options = {
        "n_hidden": 16,
        "n_heads": 2,
        "n_latent": 6,
        "n_clusters": 3,
        "decoder_width": 8,
        "loss": "nb",
        "mask_rate": 0.4,
        "visible_weight": 0.0,
        "kl_weight": 0.0,
        "warmup_steps": 0,
        **changes,
    }
    module = CellPLMModule(G, CellPLMOptions(**options), **of_data).train(train)
    module.cluster_free_bits = 0.0
    for name, value in own.items():
        setattr(module, name, value)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if "norm" not in name:
                parameter.add_(0.1 * torch.randn(parameter.shape))
    return module


def batch(*, lengths=(10, 8, 6), n_context=0, seed=0, panels=None, n_classes=3):
    """Counts of some sequences, the first cells of which are only seen."""
    rng = np.random.default_rng(seed)
    dense = rng.poisson(rng.gamma(0.5, 3.0, G), (N, G)).astype(np.float32)
    dense[np.arange(N), rng.integers(0, G, N)] += 1
    tensors = {}
    if panels is not None:
        codes = np.arange(N) % len(panels)
        dense *= panels.numpy()[codes]
        dense[:, 0] += 1
        tensors[PANEL] = torch.from_numpy(codes)[:, None]
    counts = torch.from_numpy(dense)
    target = torch.ones(N, dtype=torch.int64)
    target[:n_context] = 0
    labels = torch.from_numpy(rng.integers(0, n_classes, N))
    return {
        **tensors,
        "X": counts.log1p().to_sparse_csr(),
        "counts": counts[counts > 0],
        "library": counts.sum(1, keepdim=True),
        "indices": torch.arange(N),
        SEQUENCE: torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))[
            :, None
        ],
        TARGET: target[:, None],
        LABELS: labels[:, None],
    }, counts


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def drawn(module, tensors, seed=0):
    """The mask that a loss with this seed draws."""
    x = module._rows(tensors)
    return x, module.mask.draw(x, seeded(seed), eligible=tensors[TARGET].squeeze(1).bool())


def dense_mask(x, hidden, weight=None):
    """Weight of each entry: 1 or 0 of a count, the expectation of a zero."""
    full = hidden.zero_weight.expand(x.n_cells, x.n_genes).clone()
    full[x.rows, x.columns.long()] = hidden.loss_weight if weight is None else weight
    return full


def decoded(module, tensors, x, hidden):
    """Output on all genes, of cells of which hidden entries are zero."""
    seen = x.to_dense()
    seen[x.rows, x.columns.long()] *= hidden.visible
    z = module.embed({**tensors, "X": seen.to_sparse_csr()})
    codes, continuous = module._covariates(tensors)
    h = module.decoder(z, codes, continuous)
    return h @ module.gene_decoder.weight.T + module.gene_decoder.bias, h


def dense_nll(module, output, counts, measured, h=None):
    """Negative log-likelihood of each entry by torch.distributions."""
    gate = torch.zeros(())
    if h is not None:
        gate = (h @ module.zero_decoder.weight.T + module.zero_decoder.bias).sigmoid()
    # What is expected, after additional zeros, are the counts of the cell.
    scaled = (output.exp() * (1 - gate) * measured).sum(1, keepdim=True)
    mean = output.exp() * counts.sum(1, keepdim=True) / scaled
    theta = module.log_dispersion.exp().clamp(1e-4, 1e4)
    # torch counts successes of probability mean / (mean + theta).
    nb = distributions.NegativeBinomial(theta.expand_as(mean), logits=mean.log() - theta.log())
    log_probability = nb.log_prob(counts)
    if h is not None:
        log_probability = torch.where(
            counts > 0,
            (1 - gate).log() + log_probability,
            (gate + (1 - gate) * log_probability.exp()).log(),
        )
    return -log_probability


class Whole:
    """As a mask that hides nothing."""

    visible = True


PANELS = torch.from_numpy(np.random.default_rng(3).random((2, G)) < 0.6)
PANELS[:, 0] = True


# --- reconstruction -------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", ["nb", "zinb", "mse"])
@pytest.mark.parametrize("panels", [False, True])
@pytest.mark.parametrize("visible_weight", [0.0, 0.7])
@torch.no_grad()
def test_the_loss_is_that_of_hidden_measured_entries(loss, panels, visible_weight):
    given = PANELS if panels else None
    module = build(loss=loss, visible_weight=visible_weight, measured=given)
    tensors, counts = batch(n_context=5, panels=given)
    x, hidden = drawn(module, tensors)
    output, h = decoded(module, tensors, x, hidden)
    measured = torch.ones(N, G)
    if panels:
        measured = PANELS[tensors[PANEL].squeeze(1)].float()
    if loss == "mse":
        each = (output - counts.log1p()).square()
    else:
        each = dense_nll(module, output, counts, measured, h if loss == "zinb" else None)
    masked = (hidden.hidden_share > 0).sum()
    assert int(masked) == int(0.75 * (N - 5))
    expected = (each * measured * dense_mask(x, hidden)).sum() / masked
    target = tensors[TARGET].float()
    expected = expected + visible_weight * (each * measured * target).sum() / target.sum()
    found = module.loss(tensors, rng=seeded()).loss
    torch.testing.assert_close(found, expected, rtol=2e-4, atol=1e-4)
    if panels:
        # Counting all entries would be another loss.
        wrong = (each * dense_mask(x, hidden)).sum() / masked
        assert float((wrong - expected).abs()) > 0.05 * float(expected)


def test_gradient_is_that_of_the_dense_formula():
    module = build(measured=PANELS)
    tensors, counts = batch(panels=PANELS)
    x, hidden = drawn(module, tensors)
    names = ("gene_decoder.bias", "log_dispersion", "gene_encoder.weight", "decoder.hidden.weight")
    parameters = [dict(module.named_parameters())[name] for name in names]
    output, _ = decoded(module, tensors, x, hidden)
    measured = PANELS[tensors[PANEL].squeeze(1)].float()
    each = dense_nll(module, output, counts, measured) * measured * dense_mask(x, hidden)
    expected = torch.autograd.grad(each.sum() / (hidden.hidden_share > 0).sum(), parameters)
    found = torch.autograd.grad(module.loss(tensors, rng=seeded()).loss, parameters)
    for name, one, other in zip(names, found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=2e-3, atol=1e-4, msg=name)


@pytest.mark.parametrize("loss", ["nb", "zinb", "mse"])
@pytest.mark.parametrize("panels", [False, True])
@torch.no_grad()
def test_sampled_genes_estimate_the_loss(loss, panels):
    given = PANELS if panels else None
    module = build(loss=loss, visible_weight=1.0, measured=given, mask=None)
    tensors, counts = batch(panels=given)
    x = counts.numpy()
    statistics = GeneStatistics(
        np.log1p(x).mean(0), np.log1p(x).std(0), x.mean(0) / x.mean(0).sum(), (x > 0).mean(0)
    )
    module.begin_training(statistics, fresh=False, n_output_genes=20)
    exact = float(module.loss(tensors, rng=seeded(), full=True).loss)
    estimates = torch.tensor(
        [float(module.loss(tensors, rng=seeded(i), full=False).loss) for i in range(144)]
    )
    assert estimates.std() > 1e-3 * exact
    error = 4 * float(estimates.std()) / 12
    if loss != "mse":
        # The sum over genes that means are scaled by is estimated too, and stands in a logarithm.
        error += 0.01 * abs(exact)
    assert abs(float(estimates.mean()) - exact) < error
    # With all genes drawn it is the loss.
    module.begin_training(statistics, fresh=False, n_output_genes=G)
    assert module.sampler is None
    assert float(module.loss(tensors, rng=seeded(), full=False).loss) == pytest.approx(exact)


@pytest.mark.parametrize("panels", [False, True])
def test_sampled_genes_are_scaled_to_their_part_of_what_is_expected(panels):
    given = PANELS if panels else None
    module = build(loss="zinb", measured=given, mask=None)
    with torch.no_grad():
        # Additional zeros of some genes, or scaling with and without them would be alike.
        module.zero_decoder.bias.copy_(torch.where(torch.arange(G) % 2 == 0, -4.0, 2.0))
    tensors, counts = batch(panels=given)
    genes, count = torch.arange(0, G, 3), 1.0 + torch.arange(G // 3) % 4

    class Drawn:
        def draw(self, rng):
            return genes, count

    names = ("gene_decoder.bias", "zero_decoder.bias", "decoder.hidden.weight")
    parameters = [dict(module.named_parameters())[name] for name in names]
    output, h = decoded(module, tensors, module._rows(tensors), Whole)
    measured = torch.ones(N, G)
    if panels:
        measured = PANELS[tensors[PANEL].squeeze(1)].float()
    drawn_often = torch.zeros(G)
    drawn_often[genes] = count
    weight = measured * drawn_often
    # The sum that means are scaled by is estimated from the genes drawn, as often as they were.
    each = dense_nll(module, output, counts, weight, h)
    expected = (each * weight).sum() / N
    module.sampler = Drawn()
    found = module.loss(tensors, rng=seeded(), full=False).loss
    torch.testing.assert_close(found, expected, rtol=2e-4, atol=1e-4)
    one, other = (torch.autograd.grad(loss, parameters) for loss in (found, expected))
    for name, ours, dense in zip(names, one, other, strict=True):
        ours = ours.to_dense() if ours.is_sparse else ours
        torch.testing.assert_close(ours, dense, rtol=2e-3, atol=1e-4, msg=name)


@pytest.mark.parametrize("loss", ["nb", "zinb"])
@torch.no_grad()
def test_means_sum_to_the_counts_over_what_was_measured(loss):
    module = build(loss=loss, measured=PANELS)
    tensors, counts = batch(panels=PANELS)
    z = module.embed(tensors)
    means = module.generative(tensors, z)["x_hat"]
    measured = PANELS[tensors[PANEL].squeeze(1)].float()
    torch.testing.assert_close((means * measured).sum(1), counts.sum(1))
    assert float((means * (1 - measured)).sum()) > 1
    h = module.decoder(z, *module._covariates(tensors))
    shares = module.gene_decoder(h).exp()
    if loss == "zinb":
        # Additional zeros take their part of what is expected.
        shares = shares * (1 - module.zero_decoder(h).sigmoid())
    expected = shares / (shares * measured).sum(1, keepdim=True) * counts.sum(1, keepdim=True)
    torch.testing.assert_close(means, expected)
    some = torch.tensor([7, 2])
    torch.testing.assert_close(module.generative(tensors, z, genes=some)["x_hat"], means[:, [7, 2]])
    # Of a cell without a count nothing is expected.
    tensors["library"][3] = 0
    assert not module.generative(tensors, z)["x_hat"][3].any()


@torch.no_grad()
def test_a_new_decoder_starts_at_the_mean_expression():
    for loss in ("nb", "mse"):
        torch.manual_seed(0)
        module = build(loss=loss)
        module.warm_genes = torch.arange(G) < 10
        before = module.gene_decoder.bias.clone()
        share = np.linspace(0, 1, G) / (G / 2)
        statistics = GeneStatistics(np.arange(G) / 10, np.ones(G), share, np.ones(G))
        module.begin_training(statistics, fresh=True, n_output_genes=None)
        expected = statistics.mean if loss == "mse" else np.log(np.maximum(share, 1e-7))
        assert torch.equal(module.gene_decoder.bias[:10], before[:10])
        np.testing.assert_allclose(module.gene_decoder.bias[10:], expected[10:], rtol=1e-5)


# --- what the encoder sees ------------------------------------------------------------------------


@pytest.mark.parametrize("objective", ["reconstruction", "cross_entropy"])
@torch.no_grad()
def test_hidden_entries_are_never_visible(objective, monkeypatch):
    module = build(objective=objective, n_classes=3)
    seen = []
    inner = CellPLMModule._hidden

    def watched(self, x, tensors):
        seen.append(x)
        return inner(self, x, tensors)

    monkeypatch.setattr(CellPLMModule, "_hidden", watched)
    tensors, _ = batch(n_context=5)
    x, hidden = drawn(module, tensors)
    changed = dict(tensors)
    values = tensors["X"].values().clone()
    values[~hidden.visible] += 3
    dense = torch.zeros(N, G)
    dense[x.rows, x.columns.long()] = values
    changed["X"] = dense.to_sparse_csr()
    changed["counts"] = values.expm1()
    changed["library"] = tensors["library"] * 7
    assert int((~hidden.visible).sum()) > 50
    one, other = (float(module.loss(t, rng=seeded(), full=False).loss) for t in (tensors, changed))
    first, second = seen
    assert torch.equal(first.to_dense(), second.to_dense())
    # Seen are all entries but the hidden ones.
    expected = x.to_dense()
    expected[x.rows[~hidden.visible], x.columns[~hidden.visible].long()] = 0
    assert torch.equal(first.to_dense(), expected)
    if objective == "reconstruction":
        # But they are what is predicted.
        assert abs(one - other) > 1
    else:
        assert one == other


@pytest.mark.parametrize("objective", ["reconstruction", "kl", "cross_entropy", "supcon"])
@torch.no_grad()
def test_cells_that_are_only_seen_are_not_in_the_loss(objective):
    module = build(objective=objective, n_classes=3, kl_weight=0.3, visible_weight=1.0)
    tensors, counts = batch(n_context=5)
    for full in (False, True):
        expected = module.loss(tensors, rng=seeded(), full=full)
        assert expected.n_obs_minibatch == N - 5
        # What is to be predicted of them changes, what is seen of them does not.
        changed = dict(tensors)
        rows = module._rows(tensors).rows
        changed["counts"] = torch.where(rows < 5, tensors["counts"] * 9, tensors["counts"])
        changed["library"] = torch.where(torch.arange(N)[:, None] < 5, 999.0, tensors["library"])
        changed[LABELS] = torch.where(torch.arange(N)[:, None] < 5, -1, tensors[LABELS])
        assert torch.equal(module.loss(changed, rng=seeded(), full=full).loss, expected.loss)
    # Others learn from seeing them.
    changed["X"] = (counts.log1p() + (torch.arange(N) < 5)[:, None]).to_sparse_csr()
    assert not torch.equal(module.embed(changed)[5:10], module.embed(tensors)[5:10])
    # Not those of another sequence.
    torch.testing.assert_close(module.embed(changed)[10:], module.embed(tensors)[10:])


@torch.no_grad()
def test_sequences_are_embedded_by_themselves():
    module = build(position="sinusoidal")
    tensors, counts = batch()
    tensors[POSITION] = torch.rand(N, 2, generator=seeded())
    tensors[POSITION][20:] = torch.nan
    together = module.embed(tensors)
    for first, last in ((0, 10), (10, 18), (18, 24)):
        own = {
            "X": counts[first:last].log1p().to_sparse_csr(),
            POSITION: tensors[POSITION][first:last],
        }
        torch.testing.assert_close(module.embed(own), together[first:last])
    # Places make a difference, also of cells without.
    nowhere = module.embed({**tensors, POSITION: torch.full((N, 2), torch.nan)})
    assert float((nowhere - together)[:10].abs().max()) > 1e-3
    without = {name: value for name, value in tensors.items() if name != POSITION}
    assert torch.equal(module.embed(without), nowhere)


# --- latent term ----------------------------------------------------------------------------------


def test_warm_up_is_counted_saved_and_goes_on():
    module = build(train=True, objective="kl", kl_weight=2.0, warmup_steps=10)
    tensors, _ = batch()

    def loss(module, full=False):
        return float(module.loss(tensors, rng=seeded(), full=full).loss.detach())

    whole = loss(module, full=True)
    assert whole > 0.01
    assert loss(module) == 0
    for step in range(1, 15):
        module.after_step(step, 100)
        assert loss(module) == pytest.approx(whole * min(1, step / 10))
        # Validation is with the whole of it, or epochs could not be compared.
        assert loss(module, full=True) == pytest.approx(whole)
    assert int(module.state_dict()["warmup"]) == 14
    short = build(train=True, objective="kl", kl_weight=2.0, warmup_steps=28)
    assert loss(short) == 0
    short.load_state_dict(module.state_dict())
    assert loss(short) == pytest.approx(whole / 2)


@pytest.mark.parametrize("latent", ["vae", "gmvae", "ae"])
def test_the_latent_term_of_targets_with_free_bits(latent):
    tensors, _ = batch(n_context=5)

    def parts(**changes):
        module = build(latent=latent, objective="reconstruction", **changes)
        found = module.loss(tensors, rng=seeded())
        return module, float(found.loss.detach()), float(found.extra_metrics["own"]) / (N - 5)

    module, whole, own = parts(kl_weight=2.0)
    if latent == "ae":
        assert whole == pytest.approx(own)
        return
    x, hidden = drawn(module, tensors)
    mean, *rest = module.encoder.latent(module._hidden(x.keep(hidden.visible), tensors))
    posterior = module.variational(mean, *rest)
    divergence = float(posterior.divergence[5:].mean().detach())
    assert divergence > 0
    clusters = 0.0
    if latent == "gmvae":
        clusters = float(posterior.cluster_divergence[5:].mean().detach())
        assert 0 < clusters < math.log(3)
    assert whole - own == pytest.approx(2 * (divergence + clusters), rel=1e-3)
    # Below the bound each term is the bound.
    _, whole, own = parts(kl_weight=2.0, free_bits=divergence + 5, cluster_free_bits=clusters / 2)
    assert whole - own == pytest.approx(2 * (divergence + 5 + clusters), rel=1e-3)
    _, whole, own = parts(kl_weight=2.0, free_bits=divergence / 2, cluster_free_bits=1.0)
    floor = max(clusters, 1.0) if latent == "gmvae" else 0.0
    assert whole - own == pytest.approx(2 * (divergence + floor), rel=1e-3)


def test_free_bits_stop_the_gradient():
    tensors, _ = batch()
    for bits, moves in ((1e3, False), (0.0, True)):
        module = build(objective="kl", kl_weight=1.0, free_bits=bits)
        module.loss(tensors, rng=seeded()).loss.backward()
        assert bool(module.encoder.latent.mean.weight.grad.abs().max() > 1e-6) == moves


# --- objectives -----------------------------------------------------------------------------------


def test_the_latent_term_alone():
    module = build(objective="kl", kl_weight=0.5)
    tensors, _ = batch()
    found = module.loss(tensors, rng=seeded())
    assert float(found.extra_metrics["own"]) == 0
    expected = 0.5 * float(found.extra_metrics["divergence"]) / N
    assert float(found.loss.detach()) == pytest.approx(expected)
    assert module.output_width == 0
    assert module.collapse_is_failure


def test_cross_entropy_of_targets():
    module = build(objective="cross_entropy", n_classes=3, kl_weight=0.2)
    tensors, _ = batch(n_context=5)
    tensors[LABELS][:5] = -1
    found = module.loss(tensors, rng=seeded(), full=True)
    # Validation is on cells as they are embedded: nothing is hidden.
    logits = module.head(module.embed(tensors))[5:]
    labels = tensors[LABELS][5:, 0]
    shares = logits.exp() / logits.exp().sum(1, keepdim=True)
    expected = -shares[torch.arange(N - 5), labels].log().mean()
    scores = module.validation_scores(found.extra_metrics)
    assert scores["objective"] == pytest.approx(float(expected.detach()), rel=1e-4)
    assert scores["accuracy"] == pytest.approx(float((logits.argmax(1) == labels).float().mean()))
    whole = scores["objective"] + 0.2 * scores["divergence"]
    assert float(found.loss.detach()) == pytest.approx(whole, rel=1e-4)
    # In training genes are hidden.
    step = module.loss(tensors, rng=seeded(), full=False).loss
    other = module.loss(tensors, rng=seeded(1), full=False).loss
    assert not torch.equal(step, other)
    assert torch.equal(found.loss, module.loss(tensors, rng=seeded(1), full=True).loss)
    assert not module.collapse_is_failure


def test_contrast_of_the_labels_of_targets():
    module = build(objective="supcon", kl_weight=0.2, temperature=0.07)
    tensors, _ = batch(n_context=5)
    tensors[LABELS][:5] = -1
    found = module.loss(tensors, rng=seeded(), full=True)
    z = torch.nn.functional.normalize(module.projector(module.embed(tensors)[5:]), dim=1)
    labels = tensors[LABELS][5:, 0]
    terms = []
    for i in range(len(z)):
        others = [a for a in range(len(z)) if a != i]
        positives = [p for p in others if labels[p] == labels[i]]
        total = sum(torch.exp(z[i] @ z[a] / 0.07) for a in others).log()
        terms.append(-sum(z[i] @ z[p] / 0.07 - total for p in positives) / len(positives))
    expected = float(torch.stack(terms).mean().detach())
    assert module.validation_scores(found.extra_metrics)["objective"] == pytest.approx(
        expected, rel=1e-4
    )
    torch.testing.assert_close(
        supcon(z, labels, temperature=0.07), torch.tensor(expected), rtol=1e-4, atol=1e-4
    )


def test_without_a_decoder_there_is_nothing_to_train_or_to_tell():
    module = build(decoder=False)
    tensors, _ = batch()
    names = {name.split(".")[0] for name in module.state_dict()}
    assert names == {"gene_encoder", "encoder"}
    with pytest.raises(ValueError, match="has no decoder, so it cannot be trained"):
        module.begin_training(None, fresh=True, n_output_genes=None)
    with pytest.raises(ValueError, match="cannot tell their expression"):
        module.generative(tensors, module.embed(tensors))


# --- memory ---------------------------------------------------------------------------------------


@torch.no_grad()
def test_layers_in_chunks_are_the_layers(monkeypatch):
    from scssl.nn import _cell_transformer

    module = build()
    tensors, _ = batch()
    found = {}
    for chunk in (5, 1024):
        monkeypatch.setattr(_cell_transformer, "_CHUNK", chunk)
        found[chunk] = module.embed(tensors)
    torch.testing.assert_close(found[5], found[1024])
    with torch.enable_grad():
        torch.testing.assert_close(module.embed(tensors).detach(), found[5])


@torch.no_grad()
def test_nothing_wider_than_a_token_is_made_of_all_cells(monkeypatch):
    from scssl.nn import _cell_transformer

    monkeypatch.setattr(_cell_transformer, "_CHUNK", 7)
    module, (tensors, _) = build(), batch()
    heights = []
    for layer in module.encoder.layers:
        layer.ff[0].register_forward_hook(lambda *a: heights.append(len(a[2])))
    module.embed(tensors)
    assert max(heights) == 7
    assert sum(heights) == 2 * N
    with torch.enable_grad():
        heights.clear()
        module.embed(tensors)
    assert heights == [N, N]


def test_a_panel_of_which_no_gene_is_drawn():
    measured = torch.zeros(2, G, dtype=torch.bool)
    measured[0], measured[1, 0] = True, True
    module = build(measured=measured, visible_weight=1.0)
    tensors, _ = batch(panels=measured)

    class Drawn:
        def draw(self, rng):
            return torch.arange(5, G), torch.ones(G - 5)

    module.sampler = Drawn()
    loss = module.loss(tensors, rng=seeded(), full=False).loss
    loss.backward()
    assert torch.isfinite(loss)
    for name, parameter in module.named_parameters():
        grad = parameter.grad
        if grad is not None:
            values = grad.coalesce().values() if grad.is_sparse else grad
            assert torch.isfinite(values).all(), name
    # Cells of that panel are then in no term.
    changed = {**tensors, "library": tensors["library"].clone()}
    changed["library"][1::2] *= 5
    again = module.loss(changed, rng=seeded(), full=False).loss
    torch.testing.assert_close(again, loss)


@pytest.mark.parametrize("objective", ["kl", "cross_entropy", "supcon"])
@pytest.mark.parametrize("latent", ["vae", "gmvae"])
def test_every_trained_tensor_has_a_gradient(objective, latent):
    module = build(
        train=True, objective=objective, latent=latent, loss="zinb", n_classes=3, kl_weight=1.0
    )
    module.loss(batch()[0], rng=seeded()).loss.backward()
    without = {name for name, p in module.named_parameters() if p.requires_grad and p.grad is None}
    assert not without
    frozen = {name.split(".")[0] for name, p in module.named_parameters() if not p.requires_grad}
    assert frozen == {"decoder", "gene_decoder", "zero_decoder", "log_dispersion"}


def test_a_cell_that_comes_twice_is_no_pair_of_itself():
    module = build(objective="supcon", mask=None)
    tensors, _ = batch()
    once = module.loss(tensors, full=True).loss
    labels = tensors[LABELS].squeeze(1)
    indices = tensors["indices"].clone()
    # The last cell is the first once more: what is left is the loss of the others.
    indices[-1] = indices[0]
    twice = module.loss({**tensors, "indices": indices}, full=True).loss
    with torch.no_grad():
        z = module.projector(module.encode(tensors))
        expected = supcon(z[:-1], labels[:-1], temperature=0.1)
    torch.testing.assert_close(twice.detach(), expected)
    assert not torch.isclose(once, twice)
