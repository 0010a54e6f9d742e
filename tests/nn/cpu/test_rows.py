"""Compiled kernels equal NumPy, on any number of threads."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import sparse

from scssl.nn.cpu import rows as _kernels


@pytest.mark.parametrize("width", [1, 7, 32])
@pytest.mark.parametrize("density", [0.0, 0.02, 0.3])
def test_transposed_product_on_any_number_of_threads(width, density, monkeypatch):
    rng = np.random.default_rng(0)
    x = sparse.random(60, 90, density, format="csc", dtype=np.float32, random_state=1)
    dense = rng.normal(size=(60, width)).astype(np.float32)
    before, found = torch.get_num_threads(), []
    try:
        for n_threads, work in ((1, 2**22), (2, 1), (5, 1)):
            torch.set_num_threads(n_threads)
            monkeypatch.setattr(_kernels, "_WORK", work)
            out = np.full((90, width), np.nan, dtype=np.float32)
            _kernels.transposed_product(x.indptr, x.indices, x.data, dense, out)
            found.append(out)
    finally:
        torch.set_num_threads(before)
    expected = x.astype(float).T @ dense.astype(float)
    np.testing.assert_allclose(found[0], expected, rtol=1e-5, atol=1e-5)
    for out in found[1:]:
        np.testing.assert_array_equal(out, found[0])


def test_ranges_are_run_once_each():
    done = []
    _kernels.in_threads(
        lambda start, stop, step: done.extend(range(start, stop, step)), [0, 3, 3, 9], 1
    )
    assert sorted(done) == list(range(9))


def test_an_error_in_a_thread_is_an_error():
    from scssl.nn.cpu.rows import in_threads

    def kernel(start, stop, out):
        if start:
            raise MemoryError("of rows")
        out[start:stop] = 1

    with pytest.raises(MemoryError, match="of rows"):
        in_threads(kernel, [0, 2, 4], np.zeros(4))
