"""Several matrices read as one, and the normalisation of each."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

from scssl.data import (
    BlockNormalizer,
    CellLoader,
    FeatureBlock,
    GeneVocabulary,
    JoinedRows,
    SequentialPlan,
    normalize_rows,
    open_rows,
)
from scssl.data.matrix._blocks import columns_of, inverse_document_frequency

RNG = np.random.default_rng(0)


def counts(n_cells, n_features, rate=0.6):
    return RNG.poisson(rate, (n_cells, n_features)).astype(np.float32)


@pytest.fixture
def parts():
    """Two matrices of 6 cells: the first lacks cells 1 and 4, the second cell 0, in another order."""
    first, second = counts(4, 5), counts(5, 3, 4.0)
    rows = np.array([2, -1, 0, 1, -1, 3]), np.array([-1, 4, 3, 0, 1, 2])
    dense = np.zeros((6, 8), dtype=np.float32)
    for cell in range(6):
        if rows[0][cell] >= 0:
            dense[cell, :5] = first[rows[0][cell]]
        if rows[1][cell] >= 0:
            dense[cell, 5:] = second[rows[1][cell]]
    return first, second, rows, dense


@pytest.mark.parametrize("store", [sparse.csr_matrix, sparse.csc_matrix, np.asarray])
def test_rows_are_side_by_side(parts, store):
    first, second, rows, dense = parts
    joined = JoinedRows([open_rows(store(first)), open_rows(store(second))], rows)
    assert joined.shape == (6, 8)
    for wanted in ([0, 1, 2, 3, 4, 5], [4, 0, 4], [1], []):
        block = joined.read(np.asarray(wanted, dtype=int))
        np.testing.assert_array_equal(block.toarray(), dense[wanted])
        assert block.has_sorted_indices
        assert block.has_canonical_format
        assert block.dtype == np.float32
        assert np.count_nonzero(block.data) == block.nnz


def test_nothing_of_the_source_is_shared(parts):
    first, second, rows, dense = parts
    stored = sparse.csr_matrix(first)
    joined = JoinedRows([open_rows(stored), open_rows(second)], rows)
    joined.read(np.arange(6)).data[:] = -1
    np.testing.assert_array_equal(stored.toarray(), first)
    np.testing.assert_array_equal(joined.read(np.arange(6)).toarray(), dense)


def test_expensive_sources_are_read_in_groups(parts):
    first, second, rows, _ = parts
    cheap = JoinedRows([open_rows(first), open_rows(second)], rows)
    assert cheap.rows_per_read is None
    csc = open_rows(sparse.csc_matrix(second))
    assert JoinedRows([open_rows(first), csc], rows).rows_per_read == csc.rows_per_read


def test_rows_that_do_not_fit(parts):
    first, second, rows, _ = parts
    sources = [open_rows(first), open_rows(second)]
    with pytest.raises(ValueError, match="same 6 cells, found 5"):
        JoinedRows(sources, [rows[0], rows[1][:5]])
    with pytest.raises(ValueError, match=r"-1 or in \[0, 4\), found -1 to 4"):
        JoinedRows(sources, [rows[0] + (rows[0] == 3), rows[1]])
    with pytest.raises(ValueError, match="found 0 and 0"):
        JoinedRows([], [])


def normalised(values, **block):
    csr = sparse.csr_matrix(values)
    done, library = BlockNormalizer([FeatureBlock("x", 0, values.shape[1], **block)])(csr)
    return done.toarray(), library


def test_clr():
    x = counts(20, 7, 3.0)
    x[3] = 0
    found, library = normalised(x, normalization="clr", n_measured=7)
    # The geometric mean of a cell is over all of its proteins, zeros included.
    centre = np.exp(np.log1p(x.astype(np.float64)).mean(axis=1, keepdims=True))
    np.testing.assert_allclose(found, np.log1p(x / centre), rtol=1e-5)
    np.testing.assert_array_equal(library[:, 0], x.sum(1))


def test_clr_of_fewer_proteins_is_over_those():
    x = counts(20, 7, 3.0)
    fewer = x.copy()
    fewer[:, 4:] = 0
    found, _ = normalised(fewer, normalization="clr", n_measured=4)
    alone, _ = normalised(x[:, :4].copy(), normalization="clr", n_measured=4)
    np.testing.assert_array_equal(found[:, :4], alone)


def test_tf_idf():
    x = counts(30, 50, 0.3)
    x[:, 7] = 0
    x[4] = 0
    idf = inverse_document_frequency([sparse.csr_matrix(x[:10]), sparse.csr_matrix(x[10:])], 50, 30)
    with np.errstate(divide="ignore"):
        expected = np.where(x.sum(0) > 0, 30 / x.sum(0), 0)
    np.testing.assert_allclose(idf, expected, rtol=1e-6)
    found, _ = normalised(x, normalization="tfidf", idf=idf)
    tf = x / np.maximum(x.sum(axis=1, keepdims=True), 1)
    np.testing.assert_allclose(found, np.log1p(1e4 * tf * expected), rtol=1e-5)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("log1p", np.log1p), ("none", lambda x: x), ("binary", lambda x: (x > 0).astype(float))],
)
def test_simple_normalisations(kind, expected):
    x = counts(9, 6)
    np.testing.assert_allclose(normalised(x, normalization=kind)[0], expected(x), rtol=1e-6)


def test_values_as_they_are_may_be_negative():
    x = RNG.normal(size=(9, 6)).astype(np.float32)
    found, library = normalised(x, normalization="none")
    np.testing.assert_array_equal(found, x)
    np.testing.assert_allclose(library[:, 0], np.abs(x).sum(1), rtol=1e-6)


def test_rna_has_the_bits_that_it_has_alone():
    rna, protein = counts(40, 30), counts(40, 4, 9.0)
    alone, library = normalize_rows(sparse.csr_matrix(rna), input_kind="counts")
    joined = sparse.csr_matrix(np.hstack([rna, protein]))
    blocks = [
        FeatureBlock("rna", 0, 30, "counts"),
        FeatureBlock("protein", 30, 34, "clr", n_measured=4),
    ]
    both, libraries = BlockNormalizer(blocks)(joined)
    np.testing.assert_array_equal(columns_of(both, 0, 30)[1].toarray(), alone.toarray())
    np.testing.assert_array_equal(libraries[:, :1], library)
    np.testing.assert_array_equal(libraries[:, 1], protein.sum(1))


def test_loader_normalises_after_alignment():
    rna, protein = counts(12, 6), counts(12, 3, 9.0)
    where = np.arange(12)
    vocabulary = GeneVocabulary([*(f"rna:{i}" for i in "abcdef"), *(f"protein:{i}" for i in "xyz")])
    names = ["rna:c", "rna:a", "protein:z", "protein:x"]
    source = JoinedRows([open_rows(rna[:, [2, 0]]), open_rows(protein[:, [2, 0]])], [where, where])
    blocks = [
        FeatureBlock("rna", 0, 6, "counts"),
        FeatureBlock("protein", 6, 9, "clr", n_measured=2),
    ]
    loader = CellLoader(
        source,
        SequentialPlan(12, 5),
        input_kind="counts",
        alignment=vocabulary.align(names, min_overlap=0),
        normalize=BlockNormalizer(blocks),
    )
    found = np.concatenate([batch["X"].to_dense().numpy() for batch in loader])
    kept = rna[:, [0, 2]]
    expected = np.zeros((12, 9))
    expected[:, [0, 2]] = np.log1p(1e4 * kept / np.maximum(kept.sum(1, keepdims=True), 1))
    two = protein[:, [0, 2]]
    expected[:, [6, 8]] = np.log1p(two / np.exp(np.log1p(two).mean(1, keepdims=True)))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)
    assert next(iter(loader))["library"].shape == (5, 2)
