"""Targets that follow a network, and banks of earlier embeddings."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import normalize

from scssl.nn import BatchNormEncoder, MemoryBank, momentum_schedule, update_ema


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 2))


@pytest.mark.parametrize("momentum", [0.0, 0.3, 0.99, 1.0])
@pytest.mark.parametrize("steps", [1, 7])
def test_closed_form(momentum, steps):
    online, target = network(0).double(), network(1).double()
    start = [p.detach().clone() for p in target.parameters()]
    for _ in range(steps):
        update_ema(target, online, momentum)
    for moved, first, end in zip(target.parameters(), start, online.parameters(), strict=True):
        expected = end + momentum**steps * (first - end)
        torch.testing.assert_close(moved, expected, rtol=1e-12, atol=1e-12)
        if momentum == 1:
            assert torch.equal(moved, first)
        else:
            assert not torch.equal(moved, first) or torch.equal(first, end)


def test_with_a_moving_network_and_the_schedule():
    online, target = network(0).double(), network(1).double()
    expected = target[0].weight.detach().clone()
    for step in range(10):
        with torch.no_grad():
            online[0].weight.add_(torch.randn(5, 6, dtype=torch.float64))
        m = momentum_schedule(step, 10, 0.9)
        update_ema(target, online, m)
        expected = m * expected + (1 - m) * online[0].weight.detach()
        torch.testing.assert_close(target[0].weight.detach(), expected)
    # At the last step the momentum is 1: the target has stopped.
    before = target[0].weight.clone()
    update_ema(target, online, momentum_schedule(9, 10, 0.9))
    assert torch.equal(target[0].weight, before)


def test_equals_lightly():
    utils = pytest.importorskip("lightly.models.utils")
    online, ours = network(0), network(1)
    theirs = copy.deepcopy(ours)
    for m in (0.99, 0.5, 0.996):
        update_ema(ours, online, m)
        utils.update_momentum(online, theirs, m)
        for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(a, b)


def test_buffers_are_copied():
    """Other than in lightly, where the target keeps statistics of its own."""
    online, target = network(0), network(1)
    online(torch.randn(30, 6) * 3 + 2)
    update_ema(target, online, 0.99)
    for a, b in zip(target.buffers(), online.buffers(), strict=True):
        assert torch.equal(a, b)
    # Copies, not the same tensors.
    online(torch.randn(30, 6))
    assert not torch.equal(target[1].running_mean, online[1].running_mean)


def test_the_online_network_is_left_alone_and_no_gradient_is_kept():
    online, target = BatchNormEncoder(20), BatchNormEncoder(20)
    before = {name: value.clone() for name, value in online.state_dict().items()}
    update_ema(target, online, 0.5)
    for name, value in online.state_dict().items():
        assert torch.equal(value, before[name])
    assert all(p.grad_fn is None for p in target.parameters())


def test_networks_must_be_alike():
    with pytest.raises(ValueError, match=r"'weight' is \(2, 3\) in the target and \(4, 3\) in"):
        update_ema(nn.Linear(3, 2), nn.Linear(3, 4), 0.9)
    with pytest.raises(ValueError, match=r"'bias' is missing in the target and \(2,\).*deep copy"):
        update_ema(nn.Linear(3, 2, bias=False), nn.Linear(3, 2), 0.9)
    with pytest.raises(ValueError, match="The buffers of target and online network differ"):
        update_ema(nn.BatchNorm1d(3), nn.BatchNorm1d(3, track_running_stats=False), 0.9)


@pytest.mark.parametrize("momentum", [-0.1, 1.1, float("nan")])
def test_momentum_is_a_share(momentum):
    with pytest.raises(ValueError, match=r"`momentum` must be a number in \[0, 1\], found"):
        update_ema(network(0), network(1), momentum)


# Steps behind the end have a warning there.
@pytest.mark.filterwarnings("ignore:Current step number .* exceeds max_steps:RuntimeWarning")
@pytest.mark.parametrize("n_steps", [0, 1, 2, 5, 100])
@pytest.mark.parametrize(("start", "end"), [(0.996, 1.0), (0.5, 0.9), (1.0, 0.1)])
def test_schedule_equals_lightly(n_steps, start, end):
    scheduler = pytest.importorskip("lightly.utils.scheduler")
    for step in range(n_steps + 3):
        expected = scheduler.cosine_schedule(step, n_steps, start, end)
        assert momentum_schedule(step, n_steps, start, end) == pytest.approx(expected, abs=1e-12)


def test_schedule_by_hand():
    values = [momentum_schedule(k, 101, 0.996) for k in range(101)]
    assert values[0] == pytest.approx(0.996)
    assert values[25] == pytest.approx(1 - 0.004 * (math.cos(math.pi / 4) + 1) / 2)
    assert values[50] == pytest.approx(0.998)
    assert values[100] == 1.0
    assert values == sorted(values)


def test_schedule_has_no_negative_steps():
    with pytest.raises(ValueError, match="`step` must be a whole number of at least 0, found -1"):
        momentum_schedule(-1, 5, 0.9)


def test_starts_with_random_directions_of_the_seed():
    a, b, c = MemoryBank(200, 5, rng=1), MemoryBank(200, 5, rng=1), MemoryBank(200, 5, rng=2)
    assert torch.equal(a.values, b.values)
    assert not torch.isclose(a.values, c.values).any()
    torch.testing.assert_close(a.values.norm(dim=1), torch.ones(200))
    assert a.values.mean(0).abs().max() < 0.15
    given = MemoryBank(200, 5, rng=torch.Generator().manual_seed(1))
    assert torch.equal(given.values, a.values)


def test_the_global_generator_is_left_alone():
    torch.manual_seed(4)
    expected = torch.rand(1)
    torch.manual_seed(4)
    MemoryBank(10, 3)
    assert torch.equal(torch.rand(1), expected)


@settings(deadline=None, max_examples=60)
@given(size=st.integers(1, 9), batches=st.lists(st.integers(0, 21), min_size=1, max_size=8))
def test_holds_the_latest_embeddings(size, batches):
    bank = MemoryBank(size, 3, rng=0)
    ring, at = [row.clone() for row in bank.values], 0
    generator = torch.Generator().manual_seed(sum(batches))
    for n in batches:
        z = 5 * torch.randn(n, 3, generator=generator)
        bank.enqueue(z)
        for row in z:
            ring[at] = row / row.norm()
            at = (at + 1) % size
    torch.testing.assert_close(bank.values, torch.stack(ring))
    assert int(bank.pointer) == at


def test_wraps_around_without_a_gap():
    """lightly drops what does not fit behind the end of the ring; here nothing is lost."""
    bank = MemoryBank(5, 5, rng=0)
    bank.enqueue(torch.eye(5)[[0, 1, 2]])
    bank.enqueue(torch.eye(5)[[3, 4, 0]])
    torch.testing.assert_close(bank.values, torch.eye(5)[[0, 1, 2, 3, 4]])
    assert int(bank.pointer) == 1


def test_equals_lightly_where_batches_fit():
    modules = pytest.importorskip("lightly.models.modules")
    ours, theirs = MemoryBank(20, 6, rng=0), modules.NNMemoryBankModule(size=(20, 6))
    theirs.bank.copy_(ours.values)
    generator = torch.Generator().manual_seed(0)
    for _ in range(9):
        # Five to a round: the last fills the ring to its end.
        z = torch.randn(4, 6, generator=generator)
        # Of any length there, of length 1 here.
        near = theirs(z, update=True)
        torch.testing.assert_close(ours.nearest(z), normalize(near, dim=1))
        ours.enqueue(z)
        torch.testing.assert_close(ours.values, normalize(theirs.bank, dim=1))
        assert int(ours.pointer) == int(theirs.bank_ptr)


def test_nearest_is_by_angle():
    bank = MemoryBank(30, 4, rng=0)
    z = torch.randn(8, 4) * torch.rand(8, 1) * 20
    near = bank.nearest(z)
    for row, found in zip(z.numpy(), near.numpy(), strict=True):
        angles = [float(v @ row / np.linalg.norm(row)) for v in bank.values.numpy()]
        np.testing.assert_array_equal(found, bank.values[int(np.argmax(angles))].numpy())


def test_neither_way_has_a_gradient():
    bank = MemoryBank(6, 4)
    z = torch.randn(3, 4, requires_grad=True)
    assert not bank.nearest(z).requires_grad
    bank.enqueue(z)
    assert not bank.values.requires_grad
    assert not list(bank.parameters())


def test_what_was_nearest_does_not_change_with_the_bank():
    bank = MemoryBank(6, 4)
    z = torch.randn(6, 4)
    near = bank.nearest(z)
    before = near.clone()
    bank.enqueue(z)
    assert torch.equal(near, before)


def test_is_part_of_the_saved_state():
    """Public code kept queues out of checkpoints: a resumed run started from noise."""
    bank, other = MemoryBank(6, 4, rng=0), MemoryBank(6, 4, rng=1)
    bank.enqueue(torch.randn(4, 4))
    other.load_state_dict(bank.state_dict())
    z = torch.randn(4, 4)
    for b in (bank, other):
        b.enqueue(z)
    assert torch.equal(bank.values, other.values)
    assert torch.equal(bank.pointer, other.pointer)


def test_a_tensor_of_another_width_is_refused():
    """Public code: queue as wide as one modality, queries of both concatenated."""
    bank = MemoryBank(2048, 64)
    wanted = r"of width 64; found \(5, 128\).*as wide as what is stored, 128"
    for method in (bank.enqueue, bank.nearest):
        with pytest.raises(ValueError, match=wanted):
            method(torch.randn(5, 128))
    MemoryBank(2048, 128).enqueue(torch.randn(5, 128))


def test_banks_share_nothing():
    """Public code: one bank for RNA and protein, so a protein's neighbour was an RNA profile."""
    rna, protein = MemoryBank(8, 4, rng=0), MemoryBank(8, 4, rng=0)
    generator = torch.Generator().manual_seed(0)
    z_rna, z_protein = torch.randn(2, 8, 4, generator=generator)
    rna.enqueue(z_rna)
    protein.enqueue(z_protein)
    torch.testing.assert_close(rna.nearest(z_rna), normalize(z_rna, dim=1))
    torch.testing.assert_close(protein.nearest(z_protein), normalize(z_protein, dim=1))
    found = (protein.nearest(z_rna)[:, None] == normalize(z_protein, dim=1)[None]).all(2)
    assert found.any(1).all()


def test_half_precision_comes_in_and_single_is_kept():
    bank = MemoryBank(6, 4)
    z = torch.randn(3, 4).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        bank.enqueue(z)
        near = bank.nearest(z)
    assert bank.values.dtype == near.dtype == torch.float32
    torch.testing.assert_close(near, normalize(z.float(), dim=1))


@pytest.mark.parametrize(("size", "dim"), [(0, 4), (4, 0)])
def test_sizes_must_be_positive(size, dim):
    with pytest.raises(ValueError, match="`(size|dim)` must be an integer of at least 1, found 0"):
        MemoryBank(size, dim)
