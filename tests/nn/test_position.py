from __future__ import annotations

import math

import pytest
import torch

from scssl.nn import SinusoidalPosition2d


def by_hand(x, y, n_hidden, n_grid):
    """Channels of one cell, one after the other."""
    channels = []
    for coordinate in (x, y):
        place = math.floor((1.02 * coordinate - 0.01) * n_grid)
        place = min(max(place, 0), n_grid - 1)
        half = n_hidden // 2
        for i in range(0, half, 2):
            angle = place / 10_000 ** (i / half)
            channels += [math.sin(angle), math.cos(angle)]
    return torch.tensor(channels)


def coordinates(n=200):
    return torch.rand(n, 2, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("n_hidden", "n_grid"), [(64, 100), (8, 100), (4, 7), (20, 1)])
def test_equals_the_formula(n_hidden, n_grid):
    position = coordinates()
    found = SinusoidalPosition2d(n_hidden, n_grid)(position)
    expected = torch.stack([by_hand(x, y, n_hidden, n_grid) for x, y in position.tolist()])
    torch.testing.assert_close(found, expected)


def test_edges_and_beyond():
    layer = SinusoidalPosition2d(16)
    edge = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    beyond = torch.tensor([[-5.0, 1.5], [torch.inf, -torch.inf]])
    assert torch.equal(layer(beyond), layer(edge))
    expected = torch.stack([by_hand(0, 1, 16, 100), by_hand(1, 0, 16, 100)])
    torch.testing.assert_close(layer(edge), expected)
    torch.testing.assert_close(layer(edge)[0, 8], torch.tensor(99.0).sin())


def test_axes_are_told_apart():
    layer = SinusoidalPosition2d(16)
    one, other = layer(torch.tensor([[0.2, 0.7], [0.7, 0.2]]))
    assert torch.equal(one.roll(8), other)
    assert not torch.equal(one, other)
    # Every place has its own channels.
    centres = (torch.arange(100) + 0.5 + 1) / 102
    grid = torch.cartesian_prod(centres, centres)
    assert len(layer(grid).unique(dim=0)) == 10_000


@pytest.mark.parametrize("row", [[torch.nan, torch.nan], [0.5, torch.nan], [torch.nan, 0.5]])
def test_cells_without_coordinates(row):
    layer = SinusoidalPosition2d(16)
    with torch.no_grad():
        layer.missing.normal_()
    position = coordinates(10)
    position[[3, 7]] = torch.tensor(row)
    y = layer(position)
    present = [i for i in range(10) if i not in (3, 7)]
    # By cell, whatever the first cell of the batch has.
    assert torch.equal(y[[3, 7]], layer.missing.expand(2, -1))
    assert torch.equal(y[present], layer(position[present]))
    weights = torch.randn(10, 16)
    (y * weights).sum().backward()
    torch.testing.assert_close(layer.missing.grad, weights[3] + weights[7])


def test_nothing_but_missing_is_learned_or_saved():
    layer = SinusoidalPosition2d(16)
    assert set(layer.state_dict()) == {"missing"}
    assert [name for name, _ in layer.named_parameters()] == ["missing"]
    torch.manual_seed(5)
    assert torch.equal(SinusoidalPosition2d(16).table, layer.table)


def test_under_autocast_and_in_other_types():
    layer, position = SinusoidalPosition2d(16), coordinates()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer(position), layer(position))
    expected = layer(position)
    assert torch.equal(layer(position.double()), expected)
    half = layer.bfloat16()(position)
    assert half.dtype == torch.bfloat16
    assert torch.equal(half, expected.bfloat16())


def test_no_cells():
    assert SinusoidalPosition2d(16)(torch.empty(0, 2)).shape == (0, 16)


@pytest.mark.parametrize("shape", [(5, 3), (5,), (2, 5, 2)])
def test_positions_of_another_shape(shape):
    with pytest.raises(ValueError, match=r"must have the shape \(n_cells, 2\); found"):
        SinusoidalPosition2d(16)(torch.zeros(shape))


@pytest.mark.parametrize("n_hidden", [0, 6, 2, 15])
def test_width_that_does_not_fit(n_hidden):
    with pytest.raises(ValueError, match=rf"multiple of 4.*found {n_hidden}"):
        SinusoidalPosition2d(n_hidden)


def test_grid_must_be_positive():
    with pytest.raises(ValueError, match="`n_grid` must be an integer of at least 1, found 0"):
        SinusoidalPosition2d(16, 0)
