from __future__ import annotations

import pickle

import anndata as ad
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from scssl.data import (
    CellLoader,
    GeneVocabulary,
    NeighborTable,
    PartnerWalks,
    SequentialPlan,
    ShuffledPlan,
    open_rows,
    partner_key,
)


def make_loader(
    source,
    rows=None,
    *,
    batch_size,
    shuffle=False,
    seed=0,
    drop_last=False,
    process=(0, 1),
    **options,
) -> CellLoader:
    rows = source.shape[0] if rows is None else rows
    kind = ShuffledPlan if shuffle else SequentialPlan
    plan = kind(rows, batch_size, seed=seed, drop_last=drop_last).for_process(*process)
    return CellLoader(source, plan, **options)


def random_graph(n: int, degree: float, seed: int) -> np.ndarray:
    """Whether j is a stored entry of row i; the diagonal may be."""
    return np.random.default_rng(seed).random((n, n)) < degree / n


def stored_graph(entries: np.ndarray, kind: str, *, value: float = 1.0):
    csr = sparse.csr_matrix(entries.astype(np.float32))
    csr.data[:] = value
    if kind == "duplicates":
        coo = sparse.coo_matrix(csr)
        return sparse.coo_matrix(
            (np.tile(coo.data, 2), (np.tile(coo.row, 2), np.tile(coo.col, 2))), shape=coo.shape
        )
    if kind == "unsorted":
        for start, stop in zip(csr.indptr[:-1], csr.indptr[1:], strict=True):
            csr.indices[start:stop] = csr.indices[start:stop][::-1].copy()
        csr.has_sorted_indices = False
        return csr
    return csr.asformat(kind) if kind != "csr_array" else sparse.csr_array(csr)


def neighbors(table: NeighborTable) -> list[set[int]]:
    return [set(table.of(row).tolist()) for row in range(table.n_cells)]


# --- tables ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [1.0, 0.0, np.nan, -1.0])
@pytest.mark.parametrize("kind", ["csr", "csc", "coo", "csr_array", "unsorted"])
def test_neighbors_are_the_stored_entries_beside_the_diagonal(kind, value):
    entries = random_graph(40, 5, 0)
    entries[3] = False
    entries[7] = False
    entries[7, 7] = True
    table = NeighborTable.from_graph(stored_graph(entries, kind, value=value), "g", 40)
    expected = [set(np.flatnonzero(row).tolist()) - {i} for i, row in enumerate(entries)]
    assert neighbors(table) == expected
    assert table.counts.tolist() == [len(row) for row in expected]
    assert table.coverage == np.mean([len(row) > 0 for row in expected])


def test_repeated_entries_are_one_neighbor():
    entries = random_graph(30, 4, 1)
    table = NeighborTable.from_graph(stored_graph(entries, "duplicates"), "g", 30)
    assert neighbors(table) == neighbors(NeighborTable.from_graph(entries * 1.0, "g", 30))
    assert len(table.indices) == sum(map(len, neighbors(table)))


def test_the_graph_is_not_changed():
    graph = stored_graph(random_graph(30, 4, 1), "unsorted")
    before = graph.indices.copy(), graph.indptr.copy(), graph.data.copy()
    NeighborTable.from_graph(graph, "g", 30).restrict([1, 2])
    for now, then in zip((graph.indices, graph.indptr, graph.data), before, strict=True):
        np.testing.assert_array_equal(now, then)


def test_padding_may_be_anywhere_in_a_row():
    ids = np.array([[-1, 3, -1, 2], [0, -1, 0, 1], [-1, -1, -1, -1], [1, 0, 2, -1]])
    table = NeighborTable.from_array(ids, "ids", 4)
    assert neighbors(table) == [{2, 3}, {0}, set(), {0, 1, 2}]
    assert table.coverage == 0.75


@pytest.mark.parametrize(
    ("graph", "error", "match"),
    [
        (None, KeyError, r"no adata.obsp\[.{0,2}mnn.*cross_batch_neighbors"),
        (sparse.eye(4, 5).tocsr(), ValueError, r'adata.obsp\["mnn"\] is \(4, 5\), .* 4 cells'),
        (sparse.eye(5).tocsr(), ValueError, r"is \(5, 5\), but there are 4 cells"),
        (
            sparse.eye(4).tocsr(),
            ValueError,
            "no entries beside the diagonal.*cross_batch_neighbors",
        ),
        (sparse.csr_matrix((4, 4)), ValueError, "no entries beside the diagonal"),
        ([[1]], TypeError, r'adata.obsp\["mnn"\] must be a sparse matrix, found list'),
    ],
)
def test_what_is_no_graph_of_these_cells_is_refused(graph, error, match):
    with pytest.raises(error, match=match):
        NeighborTable.from_graph(graph, "mnn", 4)


@pytest.mark.parametrize("as_sparse", [False, True])
def test_nan_makes_no_neighbours_of_all_cells(as_sparse):
    graph = np.full((4, 4), np.nan)
    given = sparse.csr_matrix(graph) if as_sparse else graph
    with pytest.raises(ValueError, match=r"16 entries that are NaN.*cross_batch_neighbors"):
        NeighborTable.from_graph(given, "mnn", 4)
    full = sparse.csr_matrix(np.ones((4, 4)))
    assert NeighborTable.from_graph(full, "mnn", 4).counts.tolist() == [3] * 4


def test_one_nan_in_a_dense_graph_is_refused():
    graph = np.eye(4, k=1)
    assert NeighborTable.from_graph(graph, "mnn", 4).counts.tolist() == [1, 1, 1, 0]
    graph[3, 0] = np.nan
    with pytest.raises(ValueError, match="1 entries that are NaN"):
        NeighborTable.from_graph(graph, "mnn", 4)


def test_entries_out_of_range_are_refused():
    graph = sparse.csr_matrix(random_graph(6, 3, 0) * 1.0)
    graph.indices[2] = 9
    with pytest.raises(ValueError, match=r'adata.obsp\["g"\] has the neighbour 9, .* 0 to 5'):
        NeighborTable.from_graph(graph, "g", 6)
    with pytest.raises(ValueError, match="ids has the neighbour 4, but the cells are 0 to 3"):
        NeighborTable.from_array(np.full((4, 1), 4), "ids", 4)
    with pytest.raises(ValueError, match=r"ids must be \(4, k\)"):
        NeighborTable.from_array(np.zeros((3, 1), dtype=int), "ids", 4)
    with pytest.raises(TypeError, match="ids must be row numbers, found float64"):
        NeighborTable.from_array(np.zeros((4, 1)), "ids", 4)


@given(seed=st.integers(0, 2**32 - 1), n=st.integers(2, 30), share=st.floats(0, 1))
@settings(deadline=None, max_examples=40)
def test_restricted_to_rows(seed, n, share):
    """No cell outside `rows` is anyone's neighbour any more, and no other neighbour is lost."""
    entries = random_graph(n, 4, seed)
    entries[0, 1] = True
    table = NeighborTable.from_graph(entries * 1.0, "g", n)
    before = neighbors(table)
    allowed = np.random.default_rng(seed).random(n) < share
    for rows in (allowed, np.flatnonzero(allowed), np.flatnonzero(allowed).tolist()):
        expected = [row & set(np.flatnonzero(allowed).tolist()) for row in before]
        assert neighbors(table.restrict(rows)) == expected
    assert neighbors(table) == before


def test_a_cell_with_very_many_neighbors_costs_no_more_than_these():
    n = 200_000
    hub = np.zeros(n - 1, dtype=int), np.arange(1, n)
    graph = sparse.csr_matrix((np.ones(n - 1), hub), shape=(n, n))
    table = NeighborTable.from_graph(graph + graph.T, "hub", n)
    assert table.indices.nbytes + table.indptr.nbytes < 40 * n
    assert (table.step(np.arange(1, n), np.random.default_rng(0)) == 0).all()


# --- walks ----------------------------------------------------------------------------------------


def tables(n: int = 25, seed: int = 0) -> dict[str, NeighborTable]:
    graphs = {name: random_graph(n, 3, seed + i) for i, name in enumerate("abc")}
    for entries in graphs.values():
        entries[seed % n] = False
        entries[(seed + 1) % n, (seed + 2) % n] = True
    return {
        name: NeighborTable.from_graph(entries * 1.0, name, n) for name, entries in graphs.items()
    }


WALKS = ((("a",), ("b", "c"), ("a", "b")), (("a", "c"), ("a",)))


@given(seed=st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=40)
def test_every_walk_ends_where_its_graphs_lead(seed):
    own = tables(seed=seed % 1000)
    rows = np.random.default_rng(seed).integers(0, 25, 60)
    drawn = PartnerWalks(own, WALKS).draw(rows, np.random.default_rng(seed))
    assert list(drawn) == [(view, walk) for view, walks in enumerate(WALKS) for walk in walks]
    for (_, walk), ends in drawn.items():
        assert ends.dtype == np.int64
        for row, end in zip(rows.tolist(), ends.tolist(), strict=True):
            reached = {row}
            for name in walk:
                reached = set().union(
                    *(set(own[name].of(cell).tolist()) or {cell} for cell in reached)
                )
            assert end in reached


def test_every_neighbor_is_equally_likely():
    table = NeighborTable.from_array(
        np.array([[1, -1, -1], [0, 2, 3], [-1] * 3, [-1, 0, -1]]), "g", 4
    )
    ends = table.step(np.repeat(np.arange(4), 30_000), np.random.default_rng(0)).reshape(4, -1)
    shares = np.stack([np.bincount(row, minlength=4) / 30_000 for row in ends])
    expected = np.array([[0, 1, 0, 0], [1 / 3, 0, 1 / 3, 1 / 3], [0, 0, 1, 0], [1, 0, 0, 0]])
    # Four standard errors of a share of 1/3.
    np.testing.assert_allclose(shares, expected, atol=4 * np.sqrt(2 / 9 / 30_000))
    np.testing.assert_array_equal(shares == 0, expected == 0)


def test_walks_of_one_view_share_their_beginning():
    """From one cell of b exactly one cell of c is reached, so the end tells the middle."""
    n = 50
    to_any = NeighborTable.from_graph(np.ones((n, n)), "any", n)
    following = NeighborTable.from_array(((np.arange(n) + 1) % n)[:, None], "next", n)
    views = ((("any",), ("any", "next")), (("any", "next"), ("any",)))
    drawn = PartnerWalks({"any": to_any, "next": following}, views).draw(
        np.arange(n), np.random.default_rng(0)
    )
    for view in (0, 1):
        np.testing.assert_array_equal((drawn[view, ("any",)] + 1) % n, drawn[view, ("any", "next")])
    # Independent between views: the same with a chance of one in 49 per cell.
    assert (drawn[0, ("any",)] == drawn[1, ("any",)]).sum() < 8


def test_cells_of_two_views_are_independent():
    table = NeighborTable.from_graph(np.ones((5, 5)), "g", 5)
    rows = np.zeros(40_000, dtype=int)
    drawn = PartnerWalks({"g": table}, ((("g",),), (("g",),))).draw(rows, np.random.default_rng(1))
    joint = np.zeros((5, 5))
    np.add.at(joint, (drawn[0, ("g",)], drawn[1, ("g",)]), 1 / len(rows))
    expected = np.zeros((5, 5))
    expected[1:, 1:] = 1 / 16
    np.testing.assert_allclose(joint, expected, atol=5 * np.sqrt(1 / 16 / len(rows)))


@pytest.mark.parametrize(
    ("walks", "error", "match"),
    [
        (
            ((("d",),), ()),
            KeyError,
            r"No graph 'd' for the walk \('d',\); there are: 'a', 'b', 'c'",
        ),
        (((("a", "d"),), ()), KeyError, "No graph 'd'"),
        (((), ((),)), ValueError, "at least one name"),
        ((("abc",), ()), ValueError, "A walk is a tuple"),
    ],
)
def test_walks_that_cannot_be_walked(walks, error, match):
    with pytest.raises(error, match=match):
        PartnerWalks(tables(), walks)


def test_tables_must_fit_each_other_and_have_plain_names():
    one, other = tables(25)["a"], tables(26)["a"]
    with pytest.raises(ValueError, match="different numbers of cells: {'a': 25, 'b': 26}"):
        PartnerWalks({"a": one, "b": other}, ((("a",),), ()))
    with pytest.raises(ValueError, match="slash in its name, found 'a/b'"):
        PartnerWalks({"a/b": one}, ((("a/b",),), ()))


# --- batches --------------------------------------------------------------------------------------

N = 57
OPTIONS = {"batch_size": 10, "shuffle": True, "seed": 3, "input_kind": "counts"}


def walks(seed: int = 0) -> PartnerWalks:
    return PartnerWalks(tables(N, seed), WALKS)


KEYS = [partner_key(view, walk) for view, own in enumerate(WALKS) for walk in own]


def normalized(dense: np.ndarray) -> np.ndarray:
    sums = dense.sum(axis=1, keepdims=True, dtype=np.float64)
    return np.log1p(dense * np.divide(1e4, sums, out=np.zeros_like(sums), where=sums > 0))


def assert_equal(one: torch.Tensor, other: torch.Tensor) -> None:
    """To the bit, and stored in the same way."""
    assert one.layout == other.layout
    assert one.dtype == other.dtype
    assert one.shape == other.shape
    if one.layout != torch.sparse_csr:
        assert torch.equal(one, other)
        return
    for part in ("crow_indices", "col_indices", "values"):
        mine, theirs = getattr(one, part)(), getattr(other, part)()
        assert mine.dtype == theirs.dtype
        assert torch.equal(mine, theirs)


def assert_same_batches(one, other) -> None:
    for mine, theirs in zip(one, other, strict=True):
        assert set(mine) == set(theirs)
        for name in mine:
            assert_equal(mine[name], theirs[name])


def names_in(batch) -> set[str]:
    return {name for name in batch if name.startswith("partner:")}


def identified(n: int) -> np.ndarray:
    """Counts from which the row number of a cell can be read."""
    dense = np.zeros((n, 12), dtype=np.float32)
    for bit in range(6):
        dense[:, 2 * bit + 0] = 1 + (np.arange(n) >> bit & 1)
    dense[:, 1] = 3
    return dense


def identity(X: torch.Tensor, dense: np.ndarray) -> np.ndarray:
    """Row numbers of normalised cells."""
    distances = np.abs(X.to_dense().numpy()[:, None] - normalized(dense)[None]).max(axis=2)
    assert (distances.min(axis=1) < 1e-5).all()
    return distances.argmin(axis=1)


def test_all_but_the_partners_is_the_same_without_them(stored, counts):
    """On every storage: bits of X, counts and library do not depend on partners."""
    options = {**OPTIONS, "counts": True, "obs": {"row": np.arange(N)}}
    plain = list(make_loader(open_rows(sparse.csr_matrix(counts)), **options))
    batches = list(make_loader(open_rows(stored), partners=walks(), **options))
    for batch, same in zip(batches, plain, strict=True):
        assert names_in(batch) == set(KEYS)
        for name in same:
            assert_equal(batch[name], same[name])


def test_partners_are_the_same_on_every_storage_and_drawn_from_the_graphs(stored, counts):
    loader = make_loader(open_rows(stored), partners=walks(), **OPTIONS)
    plain = make_loader(open_rows(sparse.csr_matrix(counts)), partners=walks(), **OPTIONS)
    assert_same_batches(loader, plain)
    own = tables(N)["a"]
    for batch in loader:
        for row, value in zip(
            batch["indices"].tolist(), batch["partner:0:a"].to_dense(), strict=True
        ):
            reached = own.of(row) if len(own.of(row)) else [row]
            errors = np.abs(normalized(counts[reached]) - value.numpy()).max(axis=1)
            assert errors.min() < 1e-5


@pytest.mark.parametrize("rows_per_read", [None, 1, 10, 57, 130, 10_000])
def test_partners_do_not_depend_on_how_many_rows_are_read_at_once(rows_per_read):
    dense = identified(N)
    source = open_rows(dense)
    source.rows_per_read = rows_per_read
    loader = make_loader(source, partners=walks(), counts=True, **OPTIONS)
    plain = make_loader(open_rows(dense), partners=walks(), counts=True, **OPTIONS)
    assert_same_batches(loader, plain)


def test_one_read_per_batch():
    source = open_rows(identified(N))
    reads, read = [], source.read
    source.read = lambda rows: reads.append(np.asarray(rows)) or read(rows)
    batches = list(make_loader(source, partners=walks(), **OPTIONS))
    assert len(reads) == len(batches) == 6
    for rows, batch in zip(reads, batches, strict=True):
        ends = [identity(batch[name], identified(N)) for name in ("X", *KEYS)]
        np.testing.assert_array_equal(rows, np.concatenate(ends))


def test_partners_are_those_that_were_drawn():
    """The batch has the cells of `draw`, in the order of its cells."""
    dense, drawn = identified(N), []

    class Recorded(PartnerWalks):
        def draw(self, rows, rng):
            drawn.append((rows, super().draw(rows, rng)))
            return drawn[-1][1]

    loader = make_loader(open_rows(dense), partners=Recorded(tables(N), WALKS), **OPTIONS)
    for batch, (rows, ends) in zip(loader, drawn, strict=False):
        np.testing.assert_array_equal(rows, batch["indices"].numpy())
        for (view, walk), cells in ends.items():
            np.testing.assert_array_equal(
                identity(batch[f"partner:{view}:{'/'.join(walk)}"], dense), cells
            )


def test_aligned_as_X_is():
    """Genes of the data in another order, some unknown and some absent."""
    dense = np.random.default_rng(1).poisson(0.8, (N, 9)).astype(np.float32)
    names = [f"G{i}" for i in range(9)]
    vocabulary = GeneVocabulary(["G7", "absent", "G0", "G3", "G8", "G1"])
    known = np.array([7, 0, 3, 8, 1])
    expected = np.zeros((N, 6), dtype=np.float32)
    expected[:, [0, 2, 3, 4, 5]] = dense[:, known]
    loader = make_loader(
        open_rows(dense), alignment=vocabulary.align(names), partners=walks(), **OPTIONS
    )
    same = make_loader(open_rows(expected), partners=walks(), **OPTIONS)
    assert_same_batches(loader, same)
    assert next(iter(loader))["partner:1:a/c"].shape == (10, 6)


def drawn_in(epoch: int, *, walks_seed: int = 0, **options) -> list[dict[str, torch.Tensor]]:
    loader = make_loader(
        open_rows(identified(N)), partners=walks(walks_seed), **{**OPTIONS, **options}
    )
    loader.set_epoch(epoch)
    return list(loader)


def all_partners(batches) -> dict[str, list[int]]:
    return {
        name: [i for batch in batches for i in identity(batch[name], identified(N)).tolist()]
        for name in KEYS
    }


def by_cell(batches, name: str) -> list[int]:
    """Partner of each cell, whatever the order of the cells."""
    rows = np.concatenate([batch["indices"].numpy() for batch in batches])
    return np.array(all_partners(batches)[name])[np.argsort(rows)].tolist()


def test_a_resumed_run_draws_what_the_straight_one_draws():
    """A new loader at epoch 2 gives what one gives that has been through epochs 0 and 1."""
    loader = make_loader(open_rows(identified(N)), partners=walks(), **OPTIONS)
    for epoch in range(2):
        loader.set_epoch(epoch)
        list(loader)
    loader.set_epoch(2)
    assert_same_batches(loader, drawn_in(2))
    # An epoch left early changes nothing either.
    next(iter(loader))
    assert_same_batches(loader, drawn_in(2))
    assert_same_batches(pickle.loads(pickle.dumps(loader)), drawn_in(2))


def test_draws_depend_on_seed_and_epoch():
    straight = by_cell(drawn_in(0), "partner:0:a")
    assert straight == by_cell(drawn_in(0), "partner:0:a")
    assert straight != by_cell(drawn_in(1), "partner:0:a")
    assert straight != by_cell(drawn_in(0, seed=4), "partner:0:a")


def test_without_shuffling_every_epoch_draws_the_same():
    assert_same_batches(drawn_in(0, shuffle=False), drawn_in(5, shuffle=False))
    other = all_partners(drawn_in(0, shuffle=False, seed=4))
    assert other != all_partners(drawn_in(0, shuffle=False))


def test_two_batches_of_the_same_cells_draw_differently():
    rows = np.tile(np.arange(10), 5)
    loader = make_loader(
        open_rows(identified(N)), rows, partners=walks(), **{**OPTIONS, "shuffle": False}
    )
    drawn = {tuple(identity(batch["partner:0:a"], identified(N))) for batch in loader}
    assert len(drawn) == 5


def test_processes_draw_independently():
    """Two ranks with the same cells in the same batches have other partners."""
    rows = np.repeat(np.arange(20), 2)
    drawn = [
        all_partners(
            make_loader(
                open_rows(identified(N)),
                rows,
                partners=walks(),
                process=(rank, 2),
                **{**OPTIONS, "shuffle": False},
            )
        )
        for rank in (0, 1)
    ]
    assert all(len(drawn[0][name]) == 20 for name in KEYS)
    assert drawn[0]["partner:0:a"] != drawn[1]["partner:0:a"]


def test_partners_may_be_cells_outside_the_rows_and_restrict_keeps_them_out():
    n, train = 30, np.arange(15)
    table = NeighborTable.from_graph(np.ones((n, n)), "g", n)
    for own, outside in ((table, True), (table.restrict(train), False)):
        loader = make_loader(
            open_rows(identified(n)),
            train,
            partners=PartnerWalks({"g": own}, ((("g",),), (("g", "g"),))),
            **OPTIONS,
        )
        ends = [
            identity(batch[name], identified(n))
            for batch in loader
            for name in ("partner:0:g", "partner:1:g/g")
        ]
        assert (np.concatenate(ends) >= 15).any() == outside


def test_views_without_walks_change_nothing():
    dense = identified(N)
    none = make_loader(open_rows(dense), partners=PartnerWalks({}, ((), ())), **OPTIONS)
    assert_same_batches(none, make_loader(open_rows(dense), **OPTIONS))


def test_backed_log_normalised_values_are_passed_through(tmp_path):
    values = normalized(identified(N)).astype(np.float32)
    ad.AnnData(sparse.csr_matrix(values)).write_h5ad(tmp_path / "x.h5ad")
    backed = ad.read_h5ad(tmp_path / "x.h5ad", backed="r")
    loader = make_loader(
        open_rows(backed.X), partners=walks(), **{**OPTIONS, "input_kind": "lognorm"}
    )
    for batch, same in zip(loader, drawn_in(0), strict=True):
        for name in ("X", *KEYS):
            np.testing.assert_allclose(batch[name].to_dense(), same[name].to_dense(), rtol=2e-6)
    backed.file.close()


def test_bad_arguments():
    source = open_rows(identified(N))
    with pytest.raises(ValueError, match="graphs of `partners` are of 25 cells, the source has 57"):
        make_loader(source, partners=PartnerWalks(tables(25), WALKS), **OPTIONS)
    with pytest.raises(ValueError, match="must not use the name 'partner:0:a'"):
        make_loader(source, obs={"partner:0:a": np.zeros(N)}, **OPTIONS)
