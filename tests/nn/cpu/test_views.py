"""Compiled views draw what PyTorch's operations draw, and the same on any number of threads."""

from __future__ import annotations

from contextlib import nullcontext

import numpy as np
import pytest
import torch
from scipy import stats

from scssl.augment import CrossOver, GaussianNoise, GeneSwap, Mask, ViewContext
from scssl.augment._view_rows import has_kernel
from scssl.nn import SparseRows, cpu

CONTEXT = ViewContext()
AUGMENTATIONS = {
    "mask": Mask(0.3, p=0.5, rescale=True),
    "noise": GaussianNoise(0.3, 0.2, p=0.5),
    "swap": GeneSwap(0.3, p=0.5),
    "cross_over": CrossOver(0.3, p=0.5),
}


@pytest.fixture(params=["kernel", "torch", "double"])
def dtype(request):
    """Type of the values: with and without kernels, and double precision, which has none."""
    with cpu.disabled() if request.param == "torch" else nullcontext():
        yield torch.float64 if request.param == "double" else torch.float32


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def sparse(n=200, g=301, dtype=torch.float32):
    dense = torch.rand(n, g, generator=seeded(1), dtype=dtype) + 0.5
    dense *= torch.rand(n, g, generator=seeded(2)) < 0.3
    return SparseRows.from_tensor(dense)


def dense(x):
    return x.to_dense() if isinstance(x, SparseRows) else x


def normals(n, seed=0):
    """Noise of the kernel, in double precision."""
    noise = GaussianNoise(1.0, 1.0, p=1)
    return noise(torch.zeros(n // 1000, 1000), seeded(seed), CONTEXT).double().numpy().ravel()


def test_layers_close_at_the_mode():
    from scssl.nn.cpu import views as kernels

    def density(x):
        return np.exp(-0.5 * x**2)

    edge = kernels._TAIL
    area = edge * density(edge) + np.sqrt(2 * np.pi) * stats.norm.sf(edge)
    under = kernels._WIDTH * (density(kernels._INNER) - density(kernels._WIDTH))
    np.testing.assert_allclose(under[1:], area, rtol=1e-8)
    assert kernels._WIDTH[0] * density(edge) == pytest.approx(area, rel=1e-12)


def test_noise_is_normal_in_the_middle_and_in_the_tails():
    x = normals(3_000_000)
    edges = np.concatenate([stats.norm.ppf(np.linspace(0, 1, 401)[1:-1])])
    observed = np.histogram(x, [-np.inf, *edges, np.inf])[0]
    assert stats.chisquare(observed).pvalue > 1e-4
    # Layers end at 3.65; what is beyond is drawn in another way.
    for bound in (2.5, 3.0, 3.4, 3.6, 3.7, 4.0, 4.5):
        expected = 2 * len(x) * stats.norm.sf(bound)
        assert abs((abs(x) > bound).sum() - expected) < 5 * np.sqrt(expected)
    beyond = abs(x[abs(x) > 3.66])
    tail = stats.norm.sf(beyond) / stats.norm.sf(3.66)
    assert stats.kstest(tail, "uniform").pvalue > 1e-4
    for k, moment in ((1, 0), (2, 1), (3, 0), (4, 3)):
        spread = np.std(x**k) / np.sqrt(len(x))
        assert abs((x**k).mean() - moment) < 5 * spread


def test_draws_of_neighbours_cells_and_seeds_have_nothing_in_common():
    x, other = normals(1_000_000), normals(1_000_000, seed=1)
    cells = x.reshape(1000, 1000)
    pairs = [(x[1:], x[:-1]), (x[4:], x[:-4]), (cells[1:], cells[:-1]), (x, other)]
    for a, b in pairs:
        a, b = a.ravel(), b.ravel()
        for power in (1, 2):
            r = np.corrcoef(a**power, b**power)[0, 1]
            assert abs(r) < 5 / np.sqrt(len(a))


def test_coin_and_size_of_noise_are_independent():
    x = torch.zeros(500, 1000)
    found = GaussianNoise(0.37, 1.0, p=1)(x, seeded(), CONTEXT).double().numpy()
    noise = found[found != 0]
    assert abs(len(noise) / found.size - 0.37) < 5 * np.sqrt(0.37 * 0.63 / found.size)
    assert stats.kstest(noise, "norm").pvalue > 1e-4


@pytest.mark.parametrize("name", AUGMENTATIONS)
@pytest.mark.parametrize("kind", ["sparse", "dense"])
def test_bits_do_not_depend_on_the_number_of_threads(name, kind):
    x, before, found = sparse(), torch.get_num_threads(), []
    try:
        for n_threads in (1, 2, 3):
            torch.set_num_threads(n_threads)
            given = x if kind == "sparse" else x.to_dense()
            found.append(dense(AUGMENTATIONS[name](given, seeded(5), CONTEXT)))
    finally:
        torch.set_num_threads(before)
    assert not torch.equal(found[0], x.to_dense())
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_mask_either_way(dtype, request):
    x = sparse(dtype=dtype)
    assert has_kernel(x) == (request.node.callspec.params["dtype"] == "kernel")
    view = Mask(0.3, p=0.5, rescale=True)(x, seeded(), CONTEXT)
    assert view.values.dtype == dtype
    before, after = x.to_dense(), view.to_dense()
    changed = (before != after).any(1)
    assert 60 < changed.sum() < 140
    assert torch.equal(before[~changed], after[~changed])
    stored, kept = before[changed] != 0, after[changed] != 0
    assert not (kept & ~stored).any()
    n = int(stored.sum())
    assert abs(kept.sum() / n - 0.7) < 5 * np.sqrt(0.21 / n)
    torch.testing.assert_close(after[changed][kept], before[changed][kept] / 0.7)


@pytest.mark.parametrize("kind", ["sparse", "dense"])
def test_noise_either_way(dtype, kind):
    x = sparse(dtype=dtype)
    before = x.to_dense()
    given = x if kind == "sparse" else before.clone()
    view = GaussianNoise(0.3, 0.2, p=0.5, clip_min=0)(given, seeded(), CONTEXT)
    assert view.dtype == dtype
    if kind == "dense":
        assert torch.equal(given, before)
    changed = (before != view).any(1)
    assert 60 < changed.sum() < 140
    assert torch.equal(before[~changed], view[~changed])
    assert view.min() == 0
    stored = before[changed] != 0
    noise = (view - before)[changed][stored]
    noise = noise[noise != 0]
    assert abs(len(noise) / stored.sum() - 0.3) < 5 * np.sqrt(0.21 / int(stored.sum()))
    assert noise.std().item() == pytest.approx(0.2, rel=0.05)


@pytest.mark.parametrize("g", [1, 2, 7, 8, 301])
def test_swap_either_way(dtype, g):
    x = torch.rand(200, g, generator=seeded(1), dtype=dtype)
    given = x.clone()
    view = GeneSwap(0.4, p=0.5)(given, seeded(), CONTEXT)
    assert torch.equal(given, x)
    assert torch.equal(view.sort(1).values, x.sort(1).values)
    if g == 301:
        changed = (view != x).any(1)
        assert 60 < changed.sum() < 140
        assert (view != x)[changed].double().mean().item() == pytest.approx(0.4, abs=0.02)


def test_crossover_either_way(dtype):
    n, g = 100, 1000
    x = torch.arange(1.0, n + 1, dtype=dtype).unsqueeze(1).expand(-1, g)
    view = CrossOver(0.25, p=0.5)(x, seeded(), CONTEXT)
    assert view.dtype == dtype
    changed = (view != x).any(1)
    assert 25 < changed.sum() < 75
    assert all(len(cell.unique()) == 2 for cell in view[changed])
    share = (view != x)[changed].double().mean().item()
    assert abs(share - 0.25) < 5 * np.sqrt(0.1875 / (g * int(changed.sum())))


def test_batches_without_cells_or_entries():
    empty = SparseRows.from_tensor(torch.zeros(3, 5))
    assert Mask(0.5, p=1)(empty, seeded(), CONTEXT).n_stored == 0
    assert GaussianNoise(0.5, p=1)(empty, seeded(), CONTEXT).shape == (3, 5)
    none = SparseRows(torch.zeros(1, dtype=torch.int64), *(torch.zeros(0),) * 2, 5)
    none = SparseRows(none.pointers, none.columns.long(), none.values, 5)
    assert Mask(0.5, p=1)(none, seeded(), CONTEXT).n_cells == 0
    assert GaussianNoise(0.5, p=1)(none, seeded(), CONTEXT).shape == (0, 5)
