"""Whether compiled kernels are used is said in one place, and what is computed is the same without them."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from scssl.nn import GeneEncoder, SparseRows, cpu
from scssl.train import RowAdamW


def test_what_kernels_take(monkeypatch):
    x = torch.zeros(3)
    assert cpu.enabled(x, None, x[:1])
    assert not cpu.enabled(x, x.double())
    assert not cpu.enabled(x.to("meta"))
    with cpu.disabled():
        assert not cpu.enabled(x)
        with cpu.disabled():
            pass
        assert not cpu.enabled(x)
    assert cpu.enabled(x)
    for value, expected in (("1", False), ("0", True), ("", True)):
        monkeypatch.setenv("SCSSL_NO_KERNELS", value)
        assert cpu.enabled(x) == expected
    monkeypatch.setattr(cpu, "_HAS_NUMBA", False)
    assert not cpu.enabled(x)


def test_an_error_turns_them_on_again():
    with pytest.raises(RuntimeError), cpu.disabled():
        raise RuntimeError
    assert cpu.enabled(torch.zeros(1))


def test_numba_is_imported_where_a_kernel_is_used():
    code = (
        "import sys, torch, scssl.nn, scssl.augment; assert 'numba' not in sys.modules;"
        "x = scssl.nn.SparseRows.from_tensor(torch.eye(3));"
        "kept = torch.tensor([True, False, True]);"
        "from scssl.nn import cpu\n"
        "with cpu.disabled(): x.keep(kept)\n"
        "assert 'numba' not in sys.modules; x.keep(kept); assert 'numba' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def sparse(n=60, g=90) -> SparseRows:
    rng = torch.Generator().manual_seed(0)
    return SparseRows.from_tensor(
        torch.rand(n, g, generator=rng) * (torch.rand(n, g, generator=rng) < 0.2)
    )


def gradient_of_the_first_layer():
    torch.manual_seed(0)
    layer = GeneEncoder(90, 7)
    layer(sparse()).square().sum().backward()
    return [layer.weight.grad]


def some_entries():
    x = sparse()
    kept = x.keep(x.values > 0.5, 2 * x.values)
    return [kept.pointers, kept.columns, kept.values]


def rows_of_a_parameter():
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(9, 4))
    optimizer = RowAdamW([weight], lr=0.1, weight_decay=0.1)
    for rows in ([0, 3, 4], [3, 8]):
        values = torch.randn(len(rows), 4)
        weight.grad = torch.sparse_coo_tensor(
            torch.tensor([rows]), values, weight.shape, check_invariants=False
        )
        optimizer.step()
    return [weight]


@pytest.mark.parametrize(
    "compute", [gradient_of_the_first_layer, some_entries, rows_of_a_parameter]
)
def test_the_same_without(compute, monkeypatch):
    with_kernels = compute()
    asked = []
    monkeypatch.setattr(cpu, "enabled", lambda *tensors: bool(asked.append(tensors)))
    for one, other in zip(with_kernels, compute(), strict=True):
        assert one.dtype == other.dtype
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    assert asked
