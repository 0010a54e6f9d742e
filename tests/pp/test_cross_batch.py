from __future__ import annotations

import logging
import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import scssl
from scssl import ScsslWarning
from scssl.data.graphs import _cross_batch
from scssl.data.graphs._cross_batch import BatchSearch, batch_pairs, check_graph
from scssl.data.matrix._pca import pca

SIZES = {"b": 40, "c": 25, "a": 60}


@pytest.fixture
def adata() -> ad.AnnData:
    """Three batches of unequal size, in mixed order, that are shifted against each other."""
    return make(SIZES)


def make(sizes: dict[str, int], n_dimensions: int = 6, seed: int = 0) -> ad.AnnData:
    generator = np.random.default_rng(seed)
    batch = generator.permutation(np.repeat(list(sizes), list(sizes.values())))
    values = generator.normal(size=(len(batch), n_dimensions))
    values[:, 0] += pd.factorize(batch)[0]
    obs = pd.DataFrame({"batch": batch}, index=[f"c{i}" for i in range(len(batch))])
    return ad.AnnData(obs=obs, obsm={"X_rep": values.astype(np.float32)})


def run(adata: ad.AnnData, **kwargs) -> ad.AnnData:
    options = {"use_rep": "X_rep", "metric": "euclidean", "copy": True, **kwargs}
    result = scssl.pp.cross_batch_neighbors(adata, "batch", **options)
    assert result is not None
    return result


# --- independent answers, one cell at a time ------------------------------------------------------


def distances_of(adata: ad.AnnData, metric: str) -> np.ndarray:
    values = adata.obsm["X_rep"].astype(np.float64)
    if metric == "cosine":
        norms = np.linalg.norm(values, axis=1)
        return 1 - values @ values.T / np.outer(norms, norms)
    return np.linalg.norm(values[:, None] - values[None], axis=2)


def nearest(distances: np.ndarray, cell: int, candidates: np.ndarray, k: int) -> set[int]:
    candidates = candidates[candidates != cell]
    return set(candidates[np.argsort(distances[cell, candidates])][:k].tolist())


def expected_balanced(adata: ad.AnnData, k: int, metric: str) -> list[set[int]]:
    distances, batch = distances_of(adata, metric), adata.obs["batch"].to_numpy()
    of = {name: np.flatnonzero(batch == name) for name in set(batch)}
    return [
        set().union(*(nearest(distances, cell, rows, k) for rows in of.values()))
        for cell in range(adata.n_obs)
    ]


def expected_mutual(adata: ad.AnnData, k: int, metric: str) -> list[set[int]]:
    distances, batch = distances_of(adata, metric), adata.obs["batch"].to_numpy()
    of = {name: np.flatnonzero(batch == name) for name in set(batch)}
    chosen = [
        set().union(*(nearest(distances, c, of[name], k) for name in of if name != batch[c]))
        for c in range(adata.n_obs)
    ]
    return [{d for d in chosen[c] if c in chosen[d]} for c in range(adata.n_obs)]


def expected_within(adata: ad.AnnData, k: int, metric: str) -> list[set[int]]:
    distances, batch = distances_of(adata, metric), adata.obs["batch"].to_numpy()
    return [nearest(distances, c, np.flatnonzero(batch == batch[c]), k) for c in range(adata.n_obs)]


def partners(graph: sparse.csr_matrix) -> list[set[int]]:
    return [set(row.indices.tolist()) for row in graph]


def assert_partners(graph: sparse.csr_matrix, expected: list[set[int]]) -> None:
    assert partners(graph) == expected


# --- right partners -------------------------------------------------------------------------------

metrics = pytest.mark.parametrize("metric", ["euclidean", "cosine"])


@metrics
@pytest.mark.parametrize("k", [1, 4, 24, 30])
@pytest.mark.filterwarnings("ignore:.*no more than:scssl.ScsslWarning")
def test_bbknn_has_the_nearest_cells_of_every_batch(adata, metric, k):
    """Also where a batch has no more cells than asked for."""
    graph = run(adata, n_neighbors=k, metric=metric).obsp["cross_batch_neighbors"]
    assert_partners(graph, expected_balanced(adata, k, metric))
    batch = adata.obs["batch"].to_numpy()
    for cell, row in enumerate(graph):
        served = pd.Series(batch[row.indices]).value_counts()
        for name, size in SIZES.items():
            assert served[name] == min(k, size - (batch[cell] == name))


@metrics
@pytest.mark.parametrize("k", [1, 5, 30])
@pytest.mark.filterwarnings("ignore:.*no more than:scssl.ScsslWarning")
def test_mnn_has_the_mutual_nearest_cells(adata, metric, k):
    result = run(adata, method="mnn", n_neighbors=k, n_neighbors_within=7, metric=metric)
    assert_partners(result.obsp["mnn"], expected_mutual(adata, k, metric))
    assert_partners(result.obsp["mnn_within"], expected_within(adata, 7, metric))


@metrics
def test_entries_are_one_over_one_more_than_the_distance(adata, metric):
    for name, graph in run(adata, method="mnn", metric=metric).obsp.items():
        distances = distances_of(adata, metric)
        rows, columns = graph.nonzero()
        expected = 1 / (1 + distances[rows, columns])
        np.testing.assert_allclose(graph.data, expected, rtol=1e-5, err_msg=name)
        assert graph.dtype == np.float32
        assert graph.has_canonical_format


@pytest.mark.parametrize("method", ["bbknn", "mnn"])
def test_equal_cells_have_an_entry_too(adata, method):
    """Distance zero is stored as one, and a distance too large for float32 above zero."""
    adata.obsm["X_rep"][:] = np.eye(3, 6)[np.arange(125) % 3]
    result = run(adata, method=method, n_neighbors=3, n_neighbors_within=3)
    for graph in result.obsp.values():
        assert graph.nnz > 0
        assert (graph.data == 1).all()
        assert (graph.diagonal() == 0).all()
    assert (_cross_batch.connectivity(np.array([0, 1e300])) > 0).all()


@pytest.mark.parametrize("method", ["bbknn", "mnn"])
@metrics
def test_shuffling_the_cells_shuffles_the_graph(adata, method, metric):
    order = np.random.default_rng(1).permutation(adata.n_obs)
    straight = run(adata, method=method, metric=metric)
    shuffled = run(adata[order].copy(), method=method, metric=metric)
    for name, graph in straight.obsp.items():
        np.testing.assert_array_equal(
            shuffled.obsp[name].toarray(), graph[order][:, order].toarray()
        )
    np.testing.assert_array_equal(
        shuffled.uns[name.removesuffix("_within")]["coverage_of_batch"],
        straight.uns[name.removesuffix("_within")]["coverage_of_batch"],
    )


@pytest.mark.parametrize("method", ["bbknn", "mnn"])
def test_no_cell_is_its_own_neighbor_and_batches_are_right(adata, method):
    batch = adata.obs["batch"].to_numpy()
    for name, graph in run(adata, method=method).obsp.items():
        assert (graph.diagonal() == 0).all()
        rows, columns = graph.nonzero()
        if name == "mnn":
            assert (batch[rows] != batch[columns]).all()
            assert (graph != graph.T).nnz == 0
        if name == "mnn_within":
            assert (batch[rows] == batch[columns]).all()


def test_coverage_is_of_partners_in_other_batches(adata):
    result = run(adata, method="mnn", n_neighbors=2)
    batch = adata.obs["batch"].to_numpy()
    covered = np.array([len(row) > 0 for row in expected_mutual(adata, 2, "euclidean")])
    assert 0 < covered.mean() < 1
    found = result.uns["mnn"]
    assert found["coverage"] == pytest.approx(covered.mean())
    assert found["batches"].tolist() == ["a", "b", "c"]
    assert found["n_cells"].tolist() == [60, 40, 25]
    expected = [covered[batch == name].mean() for name in "abc"]
    np.testing.assert_allclose(found["coverage_of_batch"], expected)


def test_coverage_is_logged(adata, caplog):
    with caplog.at_level(logging.INFO, logger="scssl"):
        result = run(adata, method="mnn", n_neighbors=2)
    share = f"{100 * result.uns['mnn']['coverage']:.1f} % of the cells have a neighbour in another"
    assert share in caplog.text


# --- the defects of the public code ---------------------------------------------------------------


def positions_as_cells(graph: sparse.csr_matrix, batch: np.ndarray) -> sparse.csr_matrix:
    """Defect 2: the place in the list of neighbours is taken for the cell."""
    wrong = graph.copy()
    wrong.indices = np.concatenate([np.arange(n) for n in graph.getnnz(axis=1)]).astype(np.int32)
    return wrong


def local_as_global(graph: sparse.csr_matrix, batch: np.ndarray) -> sparse.csr_matrix:
    """Defect 3: the number of a cell in its batch is taken for its number among all."""
    local = np.zeros(len(batch), dtype=np.int32)
    for name in set(batch):
        local[batch == name] = np.arange((batch == name).sum())
    wrong = graph.copy()
    wrong.indices = local[graph.indices]
    wrong.sort_indices()
    return wrong


def one_orientation(graph: sparse.csr_matrix, batch: np.ndarray) -> sparse.csr_matrix:
    """Defect 4: of every edge of the undirected graph, one end is kept."""
    return sparse.csr_matrix(sparse.triu(graph.maximum(graph.T)))


@pytest.mark.parametrize("defect", [positions_as_cells, local_as_global, one_orientation])
@pytest.mark.parametrize(
    ("method", "name", "expected"),
    [
        ("bbknn", "cross_batch_neighbors", expected_balanced),
        ("mnn", "mnn", expected_mutual),
        ("mnn", "mnn_within", expected_within),
    ],
)
def test_the_tests_see_the_defects(adata, defect, method, name, expected):
    """What the tests above assert of a graph does not hold of one with a known defect."""
    options = {"n_neighbors_within": 5} if method == "mnn" else {}
    graph = run(adata, method=method, n_neighbors=5, **options).obsp[name]
    assert_partners(graph, expected(adata, 5, "euclidean"))
    with pytest.raises(AssertionError):
        assert_partners(
            defect(graph, adata.obs["batch"].to_numpy()), expected(adata, 5, "euclidean")
        )


@pytest.mark.parametrize("method", ["bbknn", "mnn"])
def test_local_numbers_from_the_search_are_found_out(adata, method, monkeypatch):
    """The last check of the function itself: numbers within a batch lead to the wrong batch."""
    right = BatchSearch.nearest

    def local(self, batch, rows, k):
        found, distances = right(self, batch, rows, k)
        return np.searchsorted(self.members[batch], found), distances

    monkeypatch.setattr(BatchSearch, "nearest", local)
    monkeypatch.setattr(
        BatchSearch, "nearest_own", lambda self, b, k: local(self, b, self.members[b], k)
    )
    with pytest.raises(RuntimeError, match="This is a mistake in scssl"):
        run(adata, method=method)


@pytest.mark.parametrize(
    ("entries", "batches", "match"),
    [
        ({(0, 0): 1}, "any", "their own neighbour"),
        ({(0, 1): 0}, "any", "not positive"),
        ({(0, 1): np.nan}, "any", "not positive"),
        ({(0, 1): 1}, "other", "of the same batch"),
        ({(0, 2): 1}, "same", "of another batch"),
        ({(0, 3): 1}, "any", "out of range"),
    ],
)
def test_unsound_graphs_are_refused(entries, batches, match):
    rows, columns = zip(*entries, strict=True)
    graph = sparse.csr_matrix((list(entries.values()), (rows, columns)), shape=(3, 4))
    graph.resize(3, 3) if columns[0] < 3 else None
    with pytest.raises(RuntimeError, match=match):
        check_graph(graph, np.array([0, 0, 1]), batches)


# --- approximate search ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def large() -> ad.AnnData:
    """Two batches above the size that is always searched exactly, and one below."""
    return make({"a": 4200, "b": 4300, "c": 500}, n_dimensions=8, seed=1)


def test_large_batches_are_searched_by_pynndescent(large, all_pairs):
    exact = run(large, method="mnn", exact=True, n_neighbors=10)
    assert exact.uns["mnn"]["params"]["exact"]
    assert not all_pairs
    approximate = run(large, method="mnn", exact=False, n_neighbors=10)
    assert set(all_pairs) == {4200, 4300}, "where it pays"
    assert not approximate.uns["mnn"]["params"]["exact"]
    for name in ("mnn", "mnn_within"):
        difference = abs(exact.obsp[name] - approximate.obsp[name])
        assert difference.max() < 1e-6


@pytest.fixture(scope="module")
def approximate(large):
    """For slow tests: pynndescent compiles itself for a minute or three."""
    with pytest.MonkeyPatch.context() as patch:
        queried = []
        index = _cross_batch.Index._approximate
        patch.setattr(
            _cross_batch.Index,
            "_approximate",
            lambda self, k: queried.append(len(self.values)) or index(self, k),
        )
        result = run(large, method="mnn", exact=False, n_neighbors=10)
    assert set(queried) == {4200, 4300}, "pynndescent is used, where it pays"
    return result


@pytest.mark.slow
def test_approximate_search_finds_nearly_all(large, approximate):
    exact = run(large, method="mnn", exact=True, n_neighbors=10)
    assert exact.uns["mnn"]["params"]["exact"]
    assert not approximate.uns["mnn"]["params"]["exact"]
    # Of a mutual pair, both directions have to be found.
    for name, least in (("mnn", 0.93), ("mnn_within", 0.97)):
        both = exact.obsp[name].multiply(approximate.obsp[name]).nnz
        assert both / exact.obsp[name].nnz > least
        assert both / approximate.obsp[name].nnz > least


@pytest.mark.slow
def test_approximate_search_is_a_function_of_the_seed(large, approximate):
    again = run(large, method="mnn", exact=False, n_neighbors=10)
    for name in ("mnn", "mnn_within"):
        assert (again.obsp[name] != approximate.obsp[name]).nnz == 0


def test_cells_that_pynndescent_does_not_find_are_found(monkeypatch):
    """It gives -1 where its graph of neighbours has a hole."""
    from types import SimpleNamespace

    from scssl._neighbors import Index

    values = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    exact = Index(values, exact=True, seed=0)
    graph = np.column_stack([np.arange(50), exact.own(4)[1]])
    graph[7, 3:] = -1
    graph[9] = [-1, *graph[9, 1:]]
    before = graph.copy()
    index = Index(values, exact=False, seed=0)
    monkeypatch.setattr(
        index, "_approximate", lambda k: SimpleNamespace(neighbor_graph=(graph, None))
    )
    np.testing.assert_array_equal(index.own(4)[1], exact.own(4)[1])
    np.testing.assert_array_equal(graph, before)


def test_exact_search_does_not_depend_on_the_seed(adata):
    one, other = (run(adata, rng=seed).obsp["cross_batch_neighbors"] for seed in (0, 1))
    assert (one != other).nnz == 0


# --- fewer pairs of batches, fewer anchors --------------------------------------------------------


@pytest.mark.parametrize("n_batches", range(2, 9))
@pytest.mark.parametrize("max_batches", [None, 1, 2, 3, 10])
def test_every_batch_is_in_as_many_pairs(n_batches, max_batches):
    pairs = batch_pairs(n_batches, max_batches, 0)
    assert len(set(pairs)) == len(pairs)
    assert all(0 <= a < b < n_batches for a, b in pairs)
    wanted = min(max_batches or n_batches, n_batches - 1)
    met = np.bincount(np.ravel(pairs), minlength=n_batches)
    assert met.max() == wanted
    rests = n_batches % 2 and wanted < n_batches - 1
    assert met.min() >= wanted - rests
    assert batch_pairs(n_batches, max_batches, 0) == pairs
    if max_batches == 1 and n_batches == 8:
        assert len({tuple(batch_pairs(8, 1, seed)) for seed in range(5)}) > 1


@pytest.mark.parametrize("method", ["bbknn", "mnn"])
def test_max_batches_leaves_whole_batches_out_and_nothing_else(method):
    adata = make({"a": 30, "b": 30, "c": 30, "d": 30})
    key = "cross_batch_neighbors" if method == "bbknn" else "mnn"
    every = run(adata, method=method).obsp[key]
    result = run(adata, method=method, max_batches=1)
    assert result.uns[key]["params"]["n_batch_pairs"] == 2
    batch = adata.obs["batch"].to_numpy()
    met = {
        frozenset(pair)
        for pair in zip(
            batch[result.obsp[key].nonzero()[0]], batch[result.obsp[key].nonzero()[1]], strict=True
        )
    }
    met = {pair for pair in met if len(pair) == 2}
    assert len(met) == 2
    assert set().union(*met) == set("abcd")
    rows, columns = every.nonzero()
    kept = [
        {
            d
            for c, d in zip(rows, columns, strict=True)
            if c == cell and (frozenset({batch[c], batch[d]}) in met or batch[c] == batch[d])
        }
        for cell in range(adata.n_obs)
    ]
    assert_partners(result.obsp[key], kept)


def test_max_anchors_thins_the_pairs_of_each_two_batches(adata):
    every = run(adata, method="mnn").obsp["mnn"]
    batch = adata.obs["batch"].to_numpy()

    def pairs(graph):
        rows, columns = sparse.triu(graph).nonzero()
        return pd.Series(
            [frozenset({batch[c], batch[d]}) for c, d in zip(rows, columns, strict=True)]
        ).value_counts()

    assert (pairs(every) > 20).all()
    results = [run(adata, method="mnn", max_anchors=20, rng=seed).obsp["mnn"] for seed in (0, 0, 1)]
    for graph in results:
        assert (pairs(graph) == 20).all()
        assert (graph != graph.T).nnz == 0
        assert graph.multiply(every).nnz == graph.nnz
    assert (results[0] != results[1]).nnz == 0
    assert (results[0] != results[2]).nnz > 0
    few = run(adata, method="mnn", max_anchors=10_000).obsp["mnn"]
    assert (few != every).nnz == 0


# --- the embedding --------------------------------------------------------------------------------


@pytest.fixture
def counts() -> ad.AnnData:
    """Four cell types in two batches: groups of genes that go up together."""
    generator = np.random.default_rng(0)
    kind, batch = np.resize([0, 1, 2, 3], 200), np.repeat(["a", "b"], 100)
    rate = np.full((200, 120), 0.4)
    for i in range(4):
        rate[kind == i, 30 * i : 30 * (i + 1)] = 3
    rate[batch == "b", ::7] *= 2
    adata = ad.AnnData(generator.poisson(rate).astype(np.float32))
    adata.obs = pd.DataFrame({"batch": batch, "kind": kind}, index=[f"c{i}" for i in range(200)])
    adata.var_names = [f"G{i}" for i in range(120)]
    return adata


def lognorm(X: np.ndarray, target_sum: float | None = None) -> np.ndarray:
    """Of so few genes to the median, if not to another sum."""
    sums = X.sum(axis=1, keepdims=True, dtype=np.float64)
    return np.log1p((np.median(sums) if target_sum is None else target_sum) * X / sums)


def sklearn_scores(values: np.ndarray, n_pcs: int) -> np.ndarray:
    from sklearn.decomposition import PCA

    return PCA(n_pcs, svd_solver="full").fit_transform(values)


def same_up_to_sign(one: np.ndarray, other: np.ndarray, **tolerance) -> None:
    signs = np.sign((one * other).sum(axis=0))
    np.testing.assert_allclose(one * signs, other, **tolerance)


@pytest.mark.parametrize("rows_per_read", [None, 37])
@pytest.mark.parametrize("kept", [0, 2**25])
def test_components_are_those_of_scikit_learn(counts, rows_per_read, kept, monkeypatch):
    """In blocks or at once, from memory or read again in every pass."""
    monkeypatch.setattr("scssl.data.matrix._pca._KEPT_VALUES", kept)
    source = scssl.data.open_rows(sparse.csr_matrix(counts.X))
    source.rows_per_read = rows_per_read
    scores = pca(source, input_kind="counts", columns=None, n_pcs=3, seed=0)
    expected = sklearn_scores(lognorm(counts.X, 1e4), 3)
    same_up_to_sign(scores, expected, atol=1e-3 * np.abs(expected).max())
    every = pca(source, input_kind="counts", columns=None, n_pcs=1000, seed=0)
    assert every.shape == (200, 120)
    values = lognorm(counts.X, 1e4)
    exact = np.linalg.norm(values[:, None] - values[None], axis=2)
    found = np.linalg.norm(every[:, None] - every[None], axis=2)
    np.testing.assert_allclose(found, exact, atol=1e-4 * exact.max())


def test_few_components_of_many_have_their_share_of_the_variance():
    """Where they are hard to tell apart: the spectrum is flat."""
    values = np.random.default_rng(0).poisson(1.0, (400, 300)).astype(np.float32)
    source = scssl.data.open_rows(values)
    scores = pca(source, input_kind="counts", columns=None, n_pcs=20, seed=0)
    best = sklearn_scores(lognorm(values, 1e4), 20).var(axis=0).sum()
    assert 0.97 * best < scores.var(axis=0).sum() <= best * (1 + 1e-6)


def graph_of(adata: ad.AnnData, **kwargs) -> sparse.csr_matrix:
    result = run(adata, **{"use_rep": None, "n_pcs": 10, "key_added": "g", **kwargs})
    return result.obsp["g"]


def test_graph_of_components_is_the_same_in_every_storage(counts, tmp_path):
    dense = graph_of(counts)
    stored = {
        "csr": sparse.csr_matrix(counts.X),
        "csc": sparse.csc_matrix(counts.X),
        "lognorm": sparse.csr_matrix(lognorm(counts.X)),
    }
    for name, X in stored.items():
        adata = ad.AnnData(X, obs=counts.obs, var=counts.var)
        before = X.copy()
        assert partners(graph_of(adata)) == partners(dense), name
        assert (adata.X != before).nnz == 0
        assert not adata.obsm
        assert not adata.uns
    counts.write_h5ad(tmp_path / "x.h5ad")
    backed = ad.read_h5ad(tmp_path / "x.h5ad", backed="r")
    assert partners(graph_of(backed)) == partners(dense)
    scssl.pp.cross_batch_neighbors(backed, "batch", metric="euclidean", n_pcs=10, key_added="g")
    assert partners(backed.obsp["g"]) == partners(dense)
    assert backed.isbacked
    backed.file.close()


def test_graph_of_components_equals_that_of_the_same_embedding(counts):
    """And shuffling cells shuffles it, with components computed anew."""
    counts.obsm["X_rep"] = sklearn_scores(lognorm(counts.X), 3).astype(np.float32)
    found = partners(graph_of(counts, n_pcs=3))
    expected = expected_balanced(counts, 5, "euclidean")
    agreement = np.mean([len(a & b) / len(b) for a, b in zip(found, expected, strict=True)])
    assert agreement > 0.99
    order = np.random.default_rng(0).permutation(200)
    shuffled = graph_of(counts[order].copy(), n_pcs=3)
    assert partners(shuffled) == partners(graph_of(counts, n_pcs=3)[order][:, order])


def test_partners_are_of_the_same_type(counts):
    for method in ("bbknn", "mnn"):
        rows, columns = graph_of(counts, method=method).nonzero()
        kind = counts.obs["kind"].to_numpy()
        assert (kind[rows] == kind[columns]).mean() > 0.95


def test_which_embedding_is_used(counts):
    result = run(counts, use_rep=None, n_pcs=10)
    assert result.uns["cross_batch_neighbors"]["params"]["embedding"] == "PCA of adata.X"
    counts.layers["counts"], counts.X = counts.X, counts.X / 3 - 1
    result = run(counts, use_rep=None, layer="counts")
    params = result.uns["cross_batch_neighbors"]["params"]
    assert params["embedding"] == 'PCA of adata.layers["counts"]'
    counts.obsm["X_pca"] = np.random.default_rng(0).normal(size=(200, 20))
    result = run(counts, use_rep=None, n_pcs=7)
    params = result.uns["cross_batch_neighbors"]["params"]
    assert params["embedding"] == "adata.obsm['X_pca']"
    assert params["n_dimensions"] == 7
    counts.obsm["X_rep"] = counts.obsm["X_pca"][:, :7]
    other = run(counts, use_rep="X_rep", n_pcs=2)
    assert other.uns["cross_batch_neighbors"]["params"]["n_dimensions"] == 7
    key = "cross_batch_neighbors"
    assert (other.obsp[key] != result.obsp[key]).nnz == 0


def test_highly_variable_genes_are_used_and_normalised_with_all(counts):
    counts.var["highly_variable"] = np.arange(120) % 2 == 0
    counts.obsm["X_rep"] = sklearn_scores(lognorm(counts.X)[:, ::2], 3).astype(np.float32)
    found = partners(graph_of(counts, n_pcs=3))
    expected = expected_balanced(counts, 5, "euclidean")
    assert np.mean([len(a & b) / len(b) for a, b in zip(found, expected, strict=True)]) > 0.99


# --- what is refused, warned of and written -------------------------------------------------------


def without(adata, what):
    if what == "NaN batch":
        adata.obs["batch"] = adata.obs["batch"].astype(object)
        adata.obs.iloc[3, 0] = None
    elif what == "one batch":
        adata.obs["batch"] = "only"
    elif what == "NaN value":
        adata.obsm["X_rep"][4, 1] = np.nan
    elif what == "zero cell":
        adata.obsm["X_rep"][4] = 0
    elif what == "text":
        adata.obsm["X_rep"] = pd.DataFrame({"a": ["x"] * 125}, index=adata.obs_names)
    elif what == "sparse":
        adata.obsm["X_rep"] = sparse.csr_matrix(adata.obsm["X_rep"])
    return adata


@pytest.mark.parametrize(
    ("what", "options", "error", "match"),
    [
        (
            "NaN batch",
            {},
            ValueError,
            r"missing for 1 of 125 cells. Take the labelled cells: `adata = ",
        ),
        ("one batch", {}, ValueError, r"has only the batch 'only'.*scanpy.pp.neighbors"),
        ("NaN value", {}, ValueError, r"NaN or infinite in 1 of 125 cells \(first: 'c4'\)"),
        ("zero cell", {"metric": "cosine"}, ValueError, r"zero in some cells \(first: 'c4'\)"),
        ("text", {}, TypeError, "must be a dense matrix of numbers, found ndarray of dtype"),
        ("sparse", {}, TypeError, "must be a dense matrix of numbers, found csr_matrix"),
        ("", {"use_rep": "X_scvi"}, KeyError, "no 'X_scvi'; it has 'X_rep'"),
        ("", {"use_rep": None}, ValueError, "adata.X is empty.*use_rep"),
        (
            "",
            {"use_rep": None, "layer": "counts"},
            KeyError,
            "no layer 'counts' in adata.layers; there are: none",
        ),
        ("", {"method": "knn"}, ValueError, "`method` must be 'bbknn' or 'mnn', found 'knn'"),
        ("", {"metric": "l1"}, ValueError, "`metric` must be 'cosine' or 'euclidean', found 'l1'"),
        ("", {"n_neighbors": 0}, ValueError, "`n_neighbors` must be a whole number of at least 1"),
        (
            "",
            {"n_neighbors_within": 1.5},
            ValueError,
            "`n_neighbors_within` must be a whole number",
        ),
        ("", {"max_batches": 0}, ValueError, "`max_batches` must be a whole number of at least 1"),
        (
            "",
            {"max_anchors": True},
            ValueError,
            "`max_anchors` must be a whole number of at least 1",
        ),
        ("", {"n_pcs": -1}, ValueError, "`n_pcs` must be a whole number of at least 1"),
        ("", {"exact": "no"}, TypeError, "`exact` must be True, False or None, found 'no'"),
        ("", {"key_added": ""}, TypeError, "`key_added` must be a string that is not empty"),
    ],
)
def test_refused(adata, what, options, error, match):
    adata = without(adata, what)
    with pytest.raises(error, match=match):
        run(adata, **options)
    assert not adata.obsp
    assert not adata.uns


def test_unknown_batch_column(adata):
    with pytest.raises(KeyError, match="adata.obs has no 'donor'; it has 'batch'"):
        scssl.pp.cross_batch_neighbors(adata, "donor")


def test_no_highly_variable_gene(counts):
    counts.var["highly_variable"] = False
    with pytest.raises(ValueError, match="selects no gene"):
        graph_of(counts)


def test_scaled_values_are_refused_with_the_layer_that_has_counts(counts):
    counts.layers["raw"] = counts.X.copy()
    counts.X = counts.X - 1
    with pytest.raises(
        ValueError, match=r'negative values.*adata.layers\["raw"\]: pass `layer="raw"`'
    ):
        graph_of(counts)


def test_small_batches_are_told_and_give_what_they_have():
    adata = make({"a": 30, "b": 3, "c": 1})
    with pytest.warns(
        ScsslWarning, match="2 of 3 batches .* no more than 5 cells.*: 'b', 'c'"
    ) as w:
        graph = run(adata).obsp["cross_batch_neighbors"]
    assert w[0].filename == __file__.replace("\\", "/")
    assert_partners(graph, expected_balanced(adata, 5, "euclidean"))
    with pytest.warns(ScsslWarning, match="no more than"):
        result = run(adata, method="mnn")
    assert_partners(result.obsp["mnn_within"], expected_within(adata, 10, "euclidean"))
    assert_partners(result.obsp["mnn"], expected_mutual(adata, 20, "euclidean"))


def test_a_batch_without_partners_is_told():
    adata = make({"a": 30, "b": 30, "c": 30})
    with pytest.warns(
        ScsslWarning, match="No cell of '[abc]' has a neighbour in another batch.*max_batches"
    ):
        run(adata, max_batches=1)


@pytest.mark.parametrize("kind", ["category", "int", "bool"])
def test_batches_of_any_type(adata, kind):
    expected = run(adata).obsp["cross_batch_neighbors"]
    codes = pd.factorize(adata.obs["batch"])[0]
    if kind == "bool":
        adata = adata[codes < 2].copy()
        expected = run(adata).obsp["cross_batch_neighbors"]
        adata.obs["batch"] = pd.factorize(adata.obs["batch"])[0] == 1
    elif kind == "int":
        adata.obs["batch"] = codes
    else:
        adata.obs["batch"] = adata.obs["batch"].astype("category").cat.add_categories(["unused"])
    found = run(adata)
    assert (found.obsp["cross_batch_neighbors"] != expected).nnz == 0
    assert len(found.uns["cross_batch_neighbors"]["batches"]) == (2 if kind == "bool" else 3)


def test_fractions_are_no_batches(adata):
    adata.obs["share"] = np.linspace(0, 1, adata.n_obs)
    with pytest.raises(ValueError, match=r"obs\['share'\] holds fractions \(0\.00\d+, \.\.\.\)"):
        scssl.pp.cross_batch_neighbors(adata, "share", use_rep="X_rep")
    assert not adata.obsp
    assert not adata.uns


@pytest.mark.parametrize("categorical", [False, True])
def test_batches_that_are_whole_numbers_have_one_name(adata, categorical):
    adata.obs["batch"] = pd.factorize(adata.obs["batch"])[0].astype(float)
    if categorical:
        adata.obs["batch"] = adata.obs["batch"].astype("category")
    found = run(adata)
    assert list(found.uns["cross_batch_neighbors"]["batches"]) == ["0", "1", "2"]


def test_written_and_read_with_slashes_in_batches(adata, tmp_path):
    adata.obs["batch"] = "donor/" + adata.obs["batch"].astype(str)
    adata.obs_names = ["same"] * adata.n_obs
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Observation names are not unique")
        result = run(adata, method="mnn")
        result.write_h5ad(tmp_path / "x.h5ad")
        read = ad.read_h5ad(tmp_path / "x.h5ad")
    assert read.uns["mnn"]["batches"].tolist() == ["donor/a", "donor/b", "donor/c"]
    assert (read.obsp["mnn"] != result.obsp["mnn"]).nnz == 0
    assert read.uns["mnn"]["params"]["n_neighbors"] == 20


def test_graphs_are_taken_as_tables_of_partners(adata):
    result = run(adata, method="mnn")
    for name in ("mnn", "mnn_within"):
        table = scssl.data.NeighborTable.from_graph(result.obsp[name], name, adata.n_obs)
        assert [set(table.of(row).tolist()) for row in range(125)] == partners(result.obsp[name])
    table = scssl.data.NeighborTable.from_graph(result.obsp["mnn"], "mnn", adata.n_obs)
    assert table.coverage == pytest.approx(result.uns["mnn"]["coverage"])


def test_graph_of_other_cells_is_noticed(adata, tmp_path):
    from scssl.data.graphs._partners import check_graph_cells

    result = run(adata, method="mnn")
    order = np.random.default_rng(0).permutation(result.n_obs)

    def noticed(cells, name="mnn"):
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            check_graph_cells(cells, name)
        return [str(one.message) for one in found]

    # Where AnnData takes the graph along, it is one of these cells still.
    result.write_h5ad(tmp_path / "x.h5ad")
    named = result.copy()
    named.obsp["mnn_within"] = named.obsp["mnn_within"].tocsc()
    for good in (
        result,
        result[order].copy(),
        result[:50].copy(),
        ad.read_h5ad(tmp_path / "x.h5ad"),
        ad.read_h5ad(tmp_path / "x.h5ad", backed="r"),
        named,
    ):
        assert not noticed(good)
        assert not noticed(good, "mnn_within")
    other = adata[order].copy()
    other.uns["mnn"] = result.uns["mnn"]
    for name in ("mnn", "mnn_within"):
        other.obsp[name] = result.obsp[name]
        (message,) = noticed(other, name)
        assert f"adata.obsp[{name!r}] was made of these cells in another order" in message
        assert "cross_batch_neighbors(adata, 'batch', use_rep='X_rep', method='mnn'" in message
    # Following the line mends it.
    exec(message.split("`")[-2], {"scssl": scssl, "adata": other})
    assert not noticed(other)
    named.obs_names = [f"new{i}" for i in range(named.n_obs)]
    assert "cells with other names; unless cells were only renamed" in noticed(named)[0]
    # Of other graphs nothing is known.
    other.obsp["connectivities"] = result.obsp["mnn"]
    assert not noticed(other, "connectivities")


@pytest.mark.realdata
def test_real_batches(data_file):
    """Cell lines sequenced five times: partners are of the same line far more often than by chance."""
    adata = ad.read_h5ad(data_file("scmixology_5batch.h5ad"))
    line, batch = (adata.obs[key].astype(str).to_numpy() for key in ("cell_type", "batch"))
    scssl.pp.cross_batch_neighbors(adata, "batch", method="mnn")
    scssl.pp.cross_batch_neighbors(adata, "batch")
    assert adata.uns["mnn"]["coverage"] > 0.9
    assert adata.uns["cross_batch_neighbors"]["coverage"] == 1
    rows, columns = adata.obsp["mnn"].nonzero()
    assert (line[rows] == line[columns]).mean() > 0.9
    rows, columns = adata.obsp["cross_batch_neighbors"].nonzero()
    outside = batch[rows] != batch[columns]
    # Two of the batches have three of the five lines: some cells have no right neighbour there.
    assert (line[rows] == line[columns])[outside].mean() > 0.75
    rows, columns = adata.obsp["mnn_within"].nonzero()
    assert (line[rows] == line[columns]).mean() > 0.98
