"""What all objectives on two views keep."""

from __future__ import annotations

import pytest
import torch

from scssl.objective import (
    barlow_twins,
    clip_loss,
    dcl,
    dino,
    info_nce,
    negative_cosine,
    nt_xent,
    vicreg,
)

# The same numbers in all precisions.
NEGATIVES = torch.randn(12, 6, generator=torch.Generator().manual_seed(3)).bfloat16()

OBJECTIVES = {
    "barlow_twins": barlow_twins,
    "clip_loss": lambda a, b: clip_loss(a, b, torch.tensor(3.0)),
    "dcl": dcl,
    "dclw": lambda a, b: dcl(a, b, sigma=0.5),
    "dino": lambda a, b: dino(a, b, torch.zeros(a.shape[1])),
    "info_nce": lambda a, b: info_nce(a, b, NEGATIVES.to(a), temperature=0.1),
    "negative_cosine": negative_cosine,
    "nt_xent": lambda a, b: nt_xent(a, b, temperature=0.1),
    "vicreg": vicreg,
}
every = pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES)


@pytest.fixture
def pair():
    generator = torch.Generator().manual_seed(11)
    z = torch.randn(10, 6, generator=generator)
    return z, z + 0.3 * torch.randn(10, 6, generator=generator)


@every
def test_float32_inside_also_under_autocast(objective, pair):
    halves = [z.bfloat16() for z in pair]
    expected = objective(*(z.float() for z in halves))
    assert expected.dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        for z in (halves, [z.float() for z in halves]):
            inside = objective(*z)
            assert inside.dtype == torch.float32
            torch.testing.assert_close(inside, expected, rtol=0, atol=0)


# The weights of DCLW are a function of the views, but have no gradient.
@pytest.mark.parametrize("objective", [f for name, f in OBJECTIVES.items() if name != "dclw"])
def test_gradient_by_finite_differences(objective, pair):
    a, b = (z[:4].double() for z in pair)
    torch.autograd.gradcheck(lambda z: objective(z, b), a.requires_grad_())


@every
def test_arguments_are_left_alone(objective, pair):
    before = [z.clone() for z in pair]
    objective(*pair)
    for z, copy in zip(pair, before, strict=True):
        assert torch.equal(z, copy)


@every
def test_shapes_are_checked(objective, pair):
    a, b = pair
    with pytest.raises(ValueError, match=r"must both be of shape .*found \(10, 6\) and \(9, 6\)"):
        objective(a, b[:9])
    with pytest.raises(ValueError, match=r"found \(10, 1, 6\)"):
        objective(a[:, None], b[:, None])


@pytest.mark.parametrize("objective", [barlow_twins, vicreg, dcl])
def test_one_cell_is_too_few_for_statistics_of_a_batch(objective):
    with pytest.raises(ValueError, match="needs at least 2; `z1` has 1"):
        objective(torch.randn(1, 3), torch.randn(1, 3))


@every
def test_large_similarities_do_not_overflow(objective, pair):
    a, b = (100 * z for z in pair)
    a.requires_grad_()
    loss = objective(a, b)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(a.grad).all()
