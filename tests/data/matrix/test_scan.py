from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import sparse

from scssl.data import scan_matrix
from scssl.data.matrix import _input as _input
from scssl.data.matrix import sample_digest

FLOAT_KINDS = [
    "csr_matrix",
    "csc_array",
    "csr_mixed_indices",
    "csr_float16",
    "csc_float16",
    "csr_float64",
    "dense_c",
    "dense_fortran",
    "dense_strided",
    "np_matrix",
]


@pytest.mark.parametrize("block_values", [9, 2**17])
def test_statistics_of_counts(stored, counts, block_values, monkeypatch, request):
    monkeypatch.setattr(_input, "_BLOCK_VALUES", block_values)
    monkeypatch.setattr(_input, "_STORED_BLOCK_VALUES", block_values)
    stats = scan_matrix(stored, where="here")
    sums = counts.sum(axis=1)[counts.sum(axis=1) > 0]
    assert (stats.where, stats.n_obs, stats.n_vars) == ("here", 57, 23)
    duplicates = "duplicates" in request.node.name  # looked at one by one, as they are stored
    assert (stats.min, stats.max) == (0, counts.max() / (2 if duplicates else 1))
    assert stats.finite
    assert stats.first_nonfinite is stats.first_negative is None
    assert stats.n_negative == 0
    assert stats.empty_cells.tolist() == [3]
    assert stats.n_empty_cells == 1
    assert (stats.min_sum, stats.max_sum) == (sums.min(), sums.max())
    assert stats.median_sum == np.median(sums)
    assert not stats.constant_sum
    assert not stats.constant_expm1_sum


@pytest.mark.parametrize(
    "kind", ["csr_matrix", "csc_matrix", "dense_c", "csr_uint8", "dense_int64"]
)
def test_whole_numbers(kind, in_memory_kinds, counts):
    stats = scan_matrix(in_memory_kinds[kind](counts))
    assert stats.all_integer
    assert stats.first_fraction is None


@pytest.mark.parametrize("block_values", [9, 2**17])
@pytest.mark.parametrize("kind", FLOAT_KINDS)
def test_names_the_first_bad_value(kind, block_values, in_memory_kinds, counts, monkeypatch):
    monkeypatch.setattr(_input, "_BLOCK_VALUES", block_values)
    counts[[50, 7, 7], [0, 20, 9]] = [np.nan, np.inf, -np.inf]
    counts[[40, 11, 11], [1, 22, 8]] = [-1, -2, -3]
    counts[30, 4] = 0.5
    stats = scan_matrix(in_memory_kinds[kind](counts))
    assert (stats.n_nonfinite, stats.n_negative) == (3, 3)
    assert stats.first_nonfinite == (7, 9, -np.inf)
    assert stats.first_negative == (11, 8, -3)
    assert stats.first_fraction == (30, 4, 0.5)  # the only one
    assert not stats.finite
    assert not stats.all_integer
    assert (stats.min, stats.max) == (-3, counts[np.isfinite(counts)].max())
    assert stats.empty_cells.tolist() == [3]


def test_bad_values_in_the_chunks_of_a_dask_array(counts):
    da = pytest.importorskip("dask.array")
    counts[[50, 12], [0, 20]] = np.nan
    stats = scan_matrix(da.from_array(counts, chunks=(10, 7)))
    assert stats.n_nonfinite == 2
    assert stats.first_nonfinite[:2] == (12, 20)


def test_a_cell_whose_values_cancel_is_not_empty():
    for form in (sparse.csr_matrix, sparse.csc_matrix, np.asarray):
        stats = scan_matrix(form(np.array([[1.0, -1.0], [0.0, 0.0]])))
        assert stats.empty_cells.tolist() == [1]


@pytest.mark.parametrize("form", [sparse.csr_matrix, sparse.csc_matrix, np.asarray])
def test_constant_sums(form):
    rng = np.random.default_rng(0)
    counts = rng.poisson(2, (300, 40)) + np.eye(300, 40)
    counts[9] = 0
    sums = np.maximum(counts.sum(axis=1, keepdims=True), 1)
    normalised = (counts / sums * 1e4).astype(np.float32)
    stats = scan_matrix(form(normalised))
    assert stats.constant_sum
    assert not stats.constant_expm1_sum
    stats = scan_matrix(form(np.log1p(normalised)))
    assert not stats.constant_sum
    assert stats.constant_expm1_sum
    stats = scan_matrix(form(np.log1p(normalised)[:, :20]))
    assert not stats.constant_expm1_sum


@pytest.mark.parametrize("shape", [(0, 4), (4, 0), (0, 0)])
@pytest.mark.parametrize("form", [sparse.csr_matrix, sparse.csc_matrix, np.asarray])
def test_no_cells_or_no_genes(form, shape):
    stats = scan_matrix(form(np.zeros(shape)))
    assert (stats.n_obs, stats.n_vars) == shape
    assert stats.n_empty_cells == shape[0]


def test_all_values_bad():
    stats = scan_matrix(np.full((2, 2), np.nan))
    assert stats.n_nonfinite == 4
    assert np.isnan(stats.min)
    assert np.isnan(stats.max)


@given(
    dense=hnp.arrays(
        np.float32,
        hnp.array_shapes(min_dims=2, max_dims=2, max_side=7),
        elements=st.sampled_from([0.0, 0.0, 0.0, 1.0, 7.0, 0.5, -2.0, np.nan, np.inf]),
    ),
    kind=st.sampled_from(FLOAT_KINDS),
)
def test_statistics_equal_those_of_the_dense_matrix(dense, kind, in_memory_kinds):
    stats = scan_matrix(in_memory_kinds[kind](dense))
    finite = dense[np.isfinite(dense)]
    assert stats.n_nonfinite == dense.size - finite.size
    assert stats.n_negative == (finite < 0).sum()
    assert stats.all_integer == bool(np.isfinite(dense).all() and (dense % 1 == 0).all())
    assert stats.empty_cells.tolist() == np.flatnonzero((dense == 0).all(axis=1)).tolist()
    if finite.size:
        assert (stats.min, stats.max) == (finite.min(), finite.max())
    for entry, bad in [
        (stats.first_nonfinite, ~np.isfinite(dense)),
        (stats.first_negative, np.isfinite(dense) & (dense < 0)),
    ]:
        places = np.argwhere(bad)
        assert (None if entry is None else entry[:2]) == (
            tuple(places[0].tolist()) if len(places) else None
        )


def test_only_the_cells_asked_for_are_looked_at(stored, counts):
    rows = np.array([50, 3, 8, 8, 21])
    stats, part = scan_matrix(stored, rows=rows), counts[[3, 8, 21, 50]]
    sums = part.sum(axis=1)[1:]
    assert (stats.n_obs, stats.n_vars, stats.max) == (4, 23, part.max())
    assert (stats.min_sum, stats.max_sum) == (sums.min(), sums.max())
    assert stats.empty_cells.tolist() == [3]


def test_places_of_bad_values_among_the_cells_asked_for(counts):
    counts[[50, 12, 21], [0, 20, 5]] = [np.nan, np.nan, 0.5]
    counts[7, 4] = -1
    stats = scan_matrix(sparse.csr_matrix(counts), rows=np.array([50, 21, 7]))
    assert stats.n_nonfinite == 1
    assert stats.first_nonfinite[:2] == (50, 0)
    assert stats.first_negative == (7, 4, -1)
    assert stats.first_fraction == (21, 5, 0.5)


def test_a_matrix_is_known_by_some_of_its_cells_in_any_storage(stored, counts):
    digest = sample_digest(stored)
    da = pytest.importorskip("dask.array")
    assert digest == sample_digest(da.from_array(counts))
    counts[40, 2] += 1
    assert digest != sample_digest(da.from_array(counts))
