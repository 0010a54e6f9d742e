from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scssl.objective import masked_mse, sparse_masked_mse


def test_by_hand():
    # Hidden: x = 1 predicted 3, x = 0 predicted 1, x = 2 predicted 2; (4 + 1 + 0) / 3.
    x = torch.tensor([[1.0, 0.0, 5.0], [0.0, 2.0, 4.0]])
    predicted = torch.tensor([[3.0, 1.0, 0.0], [9.0, 2.0, 0.0]])
    mask = torch.tensor([[1, 1, 0], [0, 1, 0]])
    assert masked_mse(predicted, x, mask).item() == pytest.approx(5 / 3)


def test_gradient_is_zero_where_nothing_is_hidden():
    predicted = torch.randn(4, 6, requires_grad=True)
    mask = torch.rand(4, 6) < 0.5
    masked_mse(predicted, torch.randn(4, 6), mask).backward()
    assert (predicted.grad[~mask] == 0).all()
    assert (predicted.grad[mask] != 0).all()


def test_nothing_hidden_is_zero():
    assert masked_mse(torch.ones(2, 2), torch.zeros(2, 2), torch.zeros(2, 2)).item() == 0


@settings(deadline=None, max_examples=40)
@given(
    n=st.integers(1, 6),
    g=st.integers(1, 9),
    density=st.floats(0, 1),
    per=st.sampled_from(["scalar", "gene", "entry"]),
    seed=st.integers(0, 1000),
)
def test_sparse_equals_dense(n, g, density, per, seed):
    rng = np.random.default_rng(seed)
    x = rng.random((n, g)) * (rng.random((n, g)) < density)
    rows, columns = np.nonzero(x)
    weight = rng.random((n, g))
    zero = {"scalar": rng.random(), "gene": rng.random(g), "entry": rng.random((n, g))}[per]
    weight[x == 0] = np.broadcast_to(zero, (n, g))[x == 0]
    predicted = rng.standard_normal((n, g))
    total = 3.7

    a = torch.tensor(predicted, dtype=torch.float32, requires_grad=True)
    loss = sparse_masked_mse(
        a,
        torch.from_numpy(rows * g + columns),
        torch.tensor(x[rows, columns], dtype=torch.float32),
        torch.tensor(weight[rows, columns], dtype=torch.float32),
        torch.tensor(zero, dtype=torch.float32),
        torch.tensor(total),
    )
    loss.backward()
    # Where prediction and value are nearly equal, single precision has few digits of the difference.
    expected = (weight * (predicted - x) ** 2).sum() / total
    assert loss.item() == pytest.approx(expected, rel=1e-4, abs=1e-6)
    np.testing.assert_allclose(a.grad, 2 * weight * (predicted - x) / total, rtol=1e-4, atol=1e-5)
