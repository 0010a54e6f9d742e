"""What the collapse monitor measures."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from scssl.train._callbacks import projection_measures


def cloud(n=4000, d=16):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(0))


def test_of_a_round_cloud():
    found = projection_measures(3 * cloud())
    assert found["projection_spread"] == pytest.approx(1, abs=0.01)
    assert found["projection_std"] == pytest.approx(3, abs=0.05)
    assert found["projection_dimensions"] == pytest.approx(16, abs=0.1)


def test_equals_the_definition():
    p = cloud(50, 5) * torch.tensor([1.0, 2.0, 0.1, 0.5, 3.0]) + 1
    x = p.double().numpy()
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    eigenvalues = np.linalg.eigvalsh(np.cov(x.T))
    assert projection_measures(p) == pytest.approx(
        {
            "projection_spread": unit.std(0).mean() * 5**0.5,
            "projection_std": x.std(0).mean(),
            "projection_dimensions": eigenvalues.sum() ** 2 / (eigenvalues**2).sum(),
        }
    )


def test_of_one_direction_of_a_line_and_of_a_point():
    along = torch.linspace(1, 2, 50)[:, None] * torch.ones(1, 4)
    found = projection_measures(along)
    assert found["projection_spread"] == pytest.approx(0, abs=1e-6)
    assert found["projection_dimensions"] == pytest.approx(1)
    assert projection_measures(along - 1.5)["projection_spread"] == pytest.approx(1, abs=1e-6)
    for point in (torch.zeros(9, 4), torch.full((9, 4), 0.1)):
        found = projection_measures(point)
        assert list(found.values()) == pytest.approx([0, 0, 0], abs=1e-6)
