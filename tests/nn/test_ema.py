from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from scssl.nn import BatchNormEncoder, momentum_schedule, update_ema


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
    with pytest.raises(ValueError, match=r"'bias' is missing in the target and \(2,\).*deepcopy"):
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
