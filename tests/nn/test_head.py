from __future__ import annotations

import pytest
import torch

from scssl.nn import Head


def test_starts_as_its_linear_part_on_standardised_input():
    torch.manual_seed(0)
    z = torch.randn(200, 5) * torch.tensor([1.0, 10.0, 0.5, 3.0, 2.0]) + 7
    weight, bias = torch.randn(3, 5), torch.randn(3)
    for n_hidden in (None, 8):
        head = Head(5, 3, n_hidden=n_hidden)
        x = head.standardise(z)
        torch.testing.assert_close(x.mean(0), torch.zeros(5), atol=1e-5, rtol=0)
        torch.testing.assert_close(x.std(0, correction=0), torch.ones(5))
        head.start_from(weight, bias)
        torch.testing.assert_close(head(z), x @ weight.T + bias)


def test_mlp_learns_although_it_starts_at_zero():
    torch.manual_seed(0)
    head = Head(2, 1, n_hidden=16)
    z = torch.randn(256, 2)
    target = z.prod(1, keepdim=True)  # nothing linear in it
    optimizer = torch.optim.Adam(head.parameters(), lr=1e-2)
    for _ in range(300):
        optimizer.zero_grad()
        loss = (head(z) - target).square().mean()
        loss.backward()
        optimizer.step()
    assert loss < 0.3 * target.var()


@pytest.mark.parametrize("n_in", [5, 8, 37, 50, 114])
def test_a_row_has_the_same_bits_anywhere_in_a_block(n_in):
    torch.manual_seed(0)
    z = torch.randn(256, n_in)
    for n_hidden in (None, 128):
        head = Head(n_in, 10, n_hidden=n_hidden).eval()
        turned = head(z.roll(7, 0)).roll(-7, 0)
        torch.testing.assert_close(turned, head(z), rtol=0, atol=0)


@pytest.mark.parametrize("value", [0.0, 3.0])
def test_constant_dimensions_are_not_blown_up(value):
    z = torch.randn(50, 3)
    z[:, 1] = value + 1e-7 * torch.randn(50)
    head = Head(3, 2)
    assert head.standardise(z)[:, 1].abs().max() < 1e-2
    assert torch.isfinite(head(z)).all()


def test_blocks_vary_alike_and_cells_have_one_length():
    torch.manual_seed(0)
    z = torch.randn(300, 6) * torch.tensor([1.0, 5.0, 20.0, 0.1, 0.2, 0.3]) - 2
    head = Head(6, 2)
    x = head.standardise(z, [3, 3])
    variance = x.var(0, correction=0)
    torch.testing.assert_close(variance[:3].sum(), torch.tensor(3.0))
    torch.testing.assert_close(variance[3:].sum(), torch.tensor(3.0))
    # Within a block the dimensions keep their proportions.
    torch.testing.assert_close(variance[2] / variance[1], z[:, 2].var() / z[:, 1].var())
    alone = head.standardise(z, [6, 0])
    torch.testing.assert_close(alone.var(0, correction=0).mean(), torch.tensor(1.0))
    short = Head(6, 2, unit_length=True)
    y = short.standardise(z, [3, 3])
    torch.testing.assert_close(y, x / x.square().mean(1, keepdim=True).sqrt())
    short.start_from(torch.eye(6)[:2], torch.zeros(2))
    torch.testing.assert_close(short(z), y[:, :2])


@pytest.mark.parametrize("n_hidden", [None, 8])
def test_divided_by_a_temperature(n_hidden):
    torch.manual_seed(0)
    head, z = Head(5, 3, n_hidden=n_hidden).eval(), torch.randn(20, 5)
    if head.mlp is not None:
        torch.nn.init.normal_(head.mlp.layers[-1].weight)
    before = head(z)
    head.divide(2.5)
    torch.testing.assert_close(head(z), before / 2.5)
