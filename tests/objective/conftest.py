from __future__ import annotations

import pytest
import torch

# An odd batch, more and fewer dimensions than cells, two cells.
SHAPES = [(2, 3), (5, 8), (8, 8), (21, 6), (10, 17)]


@pytest.fixture(params=SHAPES, ids=lambda shape: "{}x{}".format(*shape))
def shape(request):
    return request.param


@pytest.fixture
def views(shape):
    """Two correlated views in double precision, off the origin and of unequal spread."""
    generator = torch.Generator().manual_seed(shape[0] * 100 + shape[1])
    z = torch.randn(*shape, generator=generator, dtype=torch.float64)
    spread = torch.linspace(0.3, 2.0, shape[1], dtype=torch.float64)
    noise = torch.randn(2, *shape, generator=generator, dtype=torch.float64)
    return z * spread + 0.5 * noise[0] + 0.3, 1.5 * z * spread + 0.7 * noise[1] - 0.2


@pytest.fixture
def assert_same():
    """Check that two functions have the same value and the same gradients, in two precisions."""

    def compare(ours, theirs, *inputs, rtol=1e-8, single=True):
        results = {}
        for dtype in (torch.float64, torch.float32) if single else (torch.float64,):
            for name, function in (("ours", ours), ("theirs", theirs)):
                leaves = [x.to(dtype).clone().requires_grad_() for x in inputs]
                value = function(*leaves)
                assert value.ndim == 0
                value.backward()
                results[name] = [value.detach(), *(x.grad for x in leaves)]
            precise = dtype == torch.float64
            for a, b in zip(results["ours"], results["theirs"], strict=True):
                # Elements that cancel are compared with the size of the others, and gradients that
                # cancel as a whole (Barlow Twins of two cells) with that of the inputs.
                scale = max(float(b.abs().max()), 1e-2)
                close = rtol if precise else max(rtol, 2e-4)
                torch.testing.assert_close(a, b, rtol=close, atol=close * scale)
        assert any(bool((g != 0).any()) for g in results["ours"][1:])

    return compare
