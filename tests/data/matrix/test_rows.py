from __future__ import annotations

import anndata
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from scssl.data import RowSource, open_rows
from scssl.data.matrix import _rows as _rows


def assert_canonical(block: sparse.csr_matrix, dense: np.ndarray) -> None:
    expected = sparse.csr_matrix(dense.astype(np.float32))
    assert isinstance(block, sparse.csr_matrix)
    assert block.shape == expected.shape
    assert block.data.dtype == np.float32
    assert block.indices.dtype == block.indptr.dtype == np.int32
    # A fresh matrix on the same arrays: flags that a constructor sets would prove nothing.
    np.testing.assert_array_equal(block.indptr, expected.indptr)
    np.testing.assert_array_equal(block.indices, expected.indices)
    np.testing.assert_array_equal(block.data, expected.data)


@pytest.mark.parametrize(
    "rows",
    [[], [5], [40, 2, 17], [7, 7, 3, 7], list(range(57)), list(range(56, -1, -1))],
    ids=["none", "one", "unordered", "repeated", "all", "reversed"],
)
def test_reads_rows_in_the_order_asked_for(stored, counts, rows):
    source = open_rows(stored)
    assert isinstance(source, RowSource)
    assert source.shape == counts.shape
    assert_canonical(source.read(rows), counts[rows])


def test_small_pieces_give_the_same_block(stored, counts, monkeypatch):
    monkeypatch.setattr(_rows, "_BLOCK_VALUES", 12)
    monkeypatch.setattr(_rows, "_GAP_VALUES", 8)
    rows = np.random.default_rng(1).integers(0, 57, 30)
    assert_canonical(open_rows(stored).read(rows), counts[rows])


@given(rows=st.lists(st.integers(0, 56), max_size=80), gap=st.integers(0, 40))
def test_runs_cover_every_row_once(rows, gap):
    starts = np.unique(np.asarray(rows, dtype=np.int64)) * 10
    runs = list(_rows._runs(starts, starts + 10, gap=gap, limit=50))
    covered = [i for first, last in runs for i in range(first, last)]
    assert covered == list(range(len(starts)))
    for first, last in runs:
        assert starts[last - 1] + 10 - starts[first] <= 50
        assert (np.diff(starts[first:last]) - 10 <= gap).all()


@pytest.mark.parametrize("kind", ["csr_unsorted_duplicates", "csr_stored_zeros", "dense_fortran"])
def test_never_changes_the_matrix(kind, in_memory_kinds, counts):
    X = in_memory_kinds[kind](counts)
    arrays = [X.data, X.indices, X.indptr] if sparse.issparse(X) else [X]
    before = [array.copy() for array in arrays]
    block = open_rows(X).read(np.arange(57))
    block.data *= 2
    for array, copy in zip(arrays, before, strict=True):
        np.testing.assert_array_equal(array, copy)


def test_duplicates_of_small_integers_do_not_overflow():
    X = sparse.csr_matrix((1, 2), dtype=np.uint8)
    X.data = np.array([200, 100], dtype=np.uint8)
    X.indices, X.indptr = np.array([1, 1]), np.array([0, 2])
    assert open_rows(X).read([0]).toarray().tolist() == [[0, 300]]


def test_gathers_without_scipy_where_index_types_cannot_be_unified(counts, in_memory_kinds):
    source = open_rows(in_memory_kinds["csr_matrix"](counts))
    # More than 2**31 values with int32 indices do not fit into a test: only the types are alike.
    object.__setattr__(source._storage, "indptr", source._storage.indptr.astype(np.int64))
    assert_canonical(source.read([4, 0, 4]), counts[[4, 0, 4]])


def test_cheap_random_access(stored):
    source = open_rows(stored)
    in_memory = type(source).__name__ in {"_CsrRows", "_DenseRows"}
    assert source.cheap_random_access == in_memory
    assert (source.rows_per_read is None) == in_memory


@pytest.mark.parametrize("shape", [(0, 4), (3, 0)])
@pytest.mark.parametrize("form", [sparse.csr_matrix, sparse.csc_matrix, np.asarray])
def test_no_cells_or_no_genes(form, shape):
    source = open_rows(form(np.zeros(shape)))
    assert source.read(np.arange(shape[0])).shape == shape


@pytest.mark.parametrize(
    ("rows", "error", "message"),
    [
        ([57], ValueError, r"in \[0, 57\), found 57 to 57"),
        ([3, -1], ValueError, r"found -1 to 3"),
        ([0.5], TypeError, "1-D array of integers, found 1-D float64"),
        ([[1, 2]], TypeError, "found 2-D int64"),
        ([True, False], TypeError, "found 1-D bool"),
    ],
)
def test_refuses_rows(counts, rows, error, message):
    with pytest.raises(error, match=message):
        open_rows(counts).read(rows)


@pytest.mark.parametrize(
    ("X", "error", "message"),
    [
        (None, TypeError, r'layers\["c"\] is None: there is no matrix there'),
        (sparse.coo_matrix(np.eye(3)), TypeError, r"coo_matrix.*Supported: SciPy CSR.*\.tocsr\(\)"),
        ([[1, 2]], TypeError, "builtins.list, which is not supported"),
        (np.ma.masked_array(np.eye(2)), TypeError, "MaskedArray"),
        (np.eye(2, dtype=complex), TypeError, "real numbers, found dtype complex128"),
        (np.array([["a"]]), TypeError, "real numbers, found dtype <U1"),
        (sparse.csr_matrix(np.eye(2, dtype=complex)), TypeError, "found dtype complex128"),
        (np.eye(2, dtype=">f4"), TypeError, r"byte order.*astype\('f4'\)"),
        (np.ones(3), ValueError, r"two-dimensional \(cells by genes\), found shape \(3,\)"),
    ],
    ids=["none", "coo", "list", "masked", "complex", "text", "csr_complex", "big_endian", "1d"],
)
def test_refuses_matrices(X, error, message):
    with pytest.raises(error, match=message):
        open_rows(X, where='adata.layers["c"]')


def test_refuses_dask_of_unknown_chunks(counts):
    da = pytest.importorskip("dask.array")
    X = da.from_array(counts, chunks=(10, -1))
    with pytest.raises(ValueError, match=r"unknown chunk sizes.*`X\.compute_chunk_sizes"):
        open_rows(X[X[:, 0] > 0])


def test_repr(counts):
    assert repr(open_rows(counts)) == "_DenseRows(57 cells × 23 genes)"


def test_little_of_a_file_is_kept_in_memory(tmp_path):
    """HDF5 would keep 8 MB of every array that is open, of every data set."""
    counts = sparse.random(400, 300, density=0.2, format="csr", dtype=np.float32, rng=0)
    anndata.AnnData(counts).write_h5ad(tmp_path / "cells.h5ad")
    backed = anndata.read_h5ad(tmp_path / "cells.h5ad", backed="r")
    source = open_rows(backed.X)
    for array in (source._storage.data, source._storage.indices):
        size = 2 * int(np.prod(array.chunks)) * array.dtype.itemsize
        kept = array.id.get_access_plist().get_chunk_cache()[1]
        assert kept == max(size, 2**18) < 2**23
    rows = [7, 3, 3, 399]
    np.testing.assert_array_equal(source.read(rows).toarray(), counts[rows].toarray())
    backed.file.close()


@pytest.mark.parametrize("index", [np.uint8, np.int16, np.uint32])
@pytest.mark.parametrize("kind", ["csr", "csc"])
def test_indices_of_any_integer_type(kind, index):
    dense = np.random.default_rng(0).poisson(0.5, (200, 150)).astype(np.float32)
    matrix = sparse.csr_matrix(dense).asformat(kind)
    matrix.indices = matrix.indices.astype(index)
    rows = np.random.default_rng(1).permutation(200)
    np.testing.assert_array_equal(open_rows(matrix).read(rows).toarray(), dense[rows])
