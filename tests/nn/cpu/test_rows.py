"""Compiled kernels equal NumPy, on any number of threads."""

from __future__ import annotations

import os
import subprocess
import sys

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


UPDATES = """
import numpy as np
from scssl.nn.cpu.rows import adamw_rows

rng = np.random.default_rng(0)
weight, first, second, gradient = rng.normal(size=(4, 30, 17)).astype(np.float32)
second **= 2
steps = np.arange(30)
for _ in range(3):
    adamw_rows(np.arange(30), gradient, weight, first, second, steps, lr=0.002, betas=(0.9, 0.999),
               eps=1e-8, weight_decay=0.01)
print(weight.tobytes().hex())
"""


def test_bits_are_those_of_the_first_run_after_an_installation(tmp_path):
    """What is compiled now and what is read from numba's cache must not differ."""
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-c", UPDATES]
    first, second = (
        subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    )
    assert first == second != ""
