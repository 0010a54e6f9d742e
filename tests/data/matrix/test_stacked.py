"""Rows of several matrices read as one, and orders in which all of them take turns."""

from __future__ import annotations

import anndata
import numpy as np
import pytest
from scipy import sparse

from scssl.data import Datasets, GeneVocabulary, SelectedRows, StackedRows, open_rows


def random_csr(n_cells, n_genes, seed):
    return sparse.random(n_cells, n_genes, 0.4, format="csr", rng=seed, dtype=np.float32)


def test_stack_reads_what_the_stacked_matrix_has():
    parts = [random_csr(n, 7, n) for n in (5, 1, 9)]
    whole = sparse.vstack(parts).toarray()
    source = StackedRows([open_rows(part) for part in parts])
    assert source.shape == (15, 7)
    for rows in ([14, 0, 5, 5, 4], [3], [6, 5], list(range(15)), []):
        block = source.read(rows)
        np.testing.assert_array_equal(block.toarray(), whole[rows])
        assert block.has_canonical_format


def test_stack_of_other_storage():
    parts = [random_csr(4, 6, 1), random_csr(3, 6, 2).tocsc(), random_csr(5, 6, 3).toarray()]
    whole = np.vstack([part if isinstance(part, np.ndarray) else part.toarray() for part in parts])
    source = StackedRows([open_rows(part) for part in parts])
    assert not source.cheap_random_access
    np.testing.assert_array_equal(source.read([11, 4, 0]).toarray(), whole[[11, 4, 0]])


def test_stack_needs_the_same_genes():
    with pytest.raises(ValueError, match=r"same number of genes, found \[6, 7\]"):
        StackedRows([open_rows(random_csr(3, 6, 0)), open_rows(random_csr(3, 7, 0))])
    with pytest.raises(ValueError, match="found no matrix"):
        StackedRows([])


def test_selected_rows_with_the_genes_of_a_model():
    x = random_csr(6, 4, 0)
    alignment = GeneVocabulary(["c", "x", "a"]).align(["a", "b", "c", "d"], min_overlap=0)
    source = SelectedRows(open_rows(x), [5, 2], alignment)
    expected = np.zeros((2, 3), dtype=np.float32)
    expected[:, 0], expected[:, 2] = x.toarray()[[5, 2], 2], x.toarray()[[5, 2], 0]
    np.testing.assert_array_equal(source.read([0, 1]).toarray(), expected)
    with pytest.raises(ValueError, match=r"must be in \[0, 6\), found 2 to 6"):
        SelectedRows(open_rows(x), [2, 6])


def two():
    one = anndata.AnnData(random_csr(4, 3, 0))
    one.var_names = ["a", "b", "c"]
    other = anndata.AnnData(random_csr(5, 3, 1))
    other.var_names = ["c", "d", "b"]
    one.obs["kind"] = list("wxyz")
    return {"one": one, "other": other}


def test_datasets():
    data = two()
    shared = Datasets(data, obs_keys=["kind"])
    assert shared.genes.names.tolist() == ["b", "c"]
    assert Datasets(data, "union").genes.names.tolist() == ["a", "b", "c", "d"]
    assert Datasets(data, ["c", "a"]).genes.names.tolist() == ["c", "a"]
    assert shared.n_cells == 9
    assert len(shared) == 2
    assert shared.places().tolist() == [0, 4, 9]
    obs = shared.handle.obs
    assert obs["dataset"].tolist() == ["one"] * 4 + ["other"] * 5
    assert obs["kind"].tolist()[:4] == list("wxyz")
    assert obs["kind"].isna().sum() == 5
    assert obs.index[5] == "1-other"
    report = shared.report()
    assert report["n_matched"].tolist() == [2, 2]
    assert Datasets(data, "union").report()["share_matched"].tolist() == [0.75, 0.75]


def test_datasets_refuse():
    data = two()
    with pytest.raises(TypeError, match="must be a dict of AnnData by name.*found list"):
        Datasets(list(data.values()))
    with pytest.raises(KeyError, match="No data set has a column 'age'"):
        Datasets(data, obs_keys=["age"])
    with pytest.raises(ValueError, match="'one' has no cells"):
        Datasets({"one": data["one"][:0]})
    with pytest.raises(
        ValueError, match='"intersection", "union" or a list of genes, found \'both\''
    ):
        Datasets(data, "both")
    with pytest.raises(ValueError, match="need names that differ"):
        Datasets({})
