from __future__ import annotations

import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import sparse

from scssl.data import (
    CellLoader,
    GeneVocabulary,
    RowSource,
    SequentialPlan,
    ShuffledPlan,
    normalize_rows,
    open_rows,
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


def reference(dense: np.ndarray, target_sum: float = 1e4) -> np.ndarray:
    """Plain dense computation, in double precision."""
    sums = dense.sum(axis=1, keepdims=True, dtype=np.float64)
    return np.log1p(dense * np.divide(target_sum, sums, out=np.zeros_like(sums), where=sums > 0))


def parts(batch: dict[str, torch.Tensor]) -> tuple[np.ndarray, ...]:
    X = batch["X"]
    return tuple(t.numpy() for t in (X.crow_indices(), X.col_indices(), X.values()))


def cells(loader: CellLoader) -> dict[int, tuple[bytes, bytes, bytes]]:
    """The bits of every cell, by row number."""
    found = {}
    for batch in loader:
        crow, col, values = parts(batch)
        for i, row in enumerate(batch["indices"].tolist()):
            part = slice(crow[i], crow[i + 1])
            library = batch["library"][i].numpy().tobytes()
            found[row] = (col[part].tobytes(), values[part].tobytes(), library)
    return found


def order(loader: CellLoader) -> list[int]:
    return [row for batch in loader for row in batch["indices"].tolist()]


def test_every_storage_gives_the_same_batches(stored, counts):
    options = {"batch_size": 10, "shuffle": True, "seed": 3, "input_kind": "counts"}
    batches = list(make_loader(open_rows(stored), obs={"row": np.arange(57)}, **options))
    plain = list(make_loader(open_rows(sparse.csr_matrix(counts)), **options))
    assert [len(batch["indices"]) for batch in batches] == [10, 10, 10, 10, 10, 7]
    for batch, same in zip(batches, plain, strict=True):
        rows = batch["indices"].numpy()
        assert batch["X"].layout == torch.sparse_csr
        assert batch["X"].dtype == batch["library"].dtype == torch.float32
        np.testing.assert_array_equal(batch["row"].numpy(), rows[:, None])
        np.testing.assert_array_equal(batch["library"], counts[rows].sum(axis=1, keepdims=True))
        dense = batch["X"].to_dense().numpy()
        np.testing.assert_allclose(dense, reference(counts[rows]), rtol=2e-6)
        for mine, other in zip(parts(batch), parts(same), strict=True):
            np.testing.assert_array_equal(mine, other)


@given(
    dense=st.integers(0, 2**32 - 1).map(
        lambda seed: np.random.default_rng(seed).poisson(0.5, (seed % 40 + 1, seed % 13 + 1))
    ),
    batch_size=st.integers(1, 50),
    rows_per_read=st.integers(1, 60) | st.none(),
    kind=st.sampled_from(["csr_matrix", "csc_matrix", "dense_c", "dense_fortran", "csr_float16"]),
    data=st.data(),
)
@settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_bits_of_a_cell_do_not_depend_on_the_way_to_it(
    dense, batch_size, rows_per_read, kind, data, in_memory_kinds
):
    """Not on storage, batch size, grouping, order of cells or order of genes."""
    dense = dense.astype(np.float32)
    names = [f"G{i}" for i in range(dense.shape[1])]
    vocabulary = GeneVocabulary(names)
    expected = cells(
        make_loader(open_rows(sparse.csr_matrix(dense)), batch_size=7, input_kind="counts")
    )
    permutation = np.array(data.draw(st.permutations(range(len(names)))), dtype=int)
    source = open_rows(in_memory_kinds[kind](dense[:, permutation]))
    source.rows_per_read = rows_per_read
    loader = make_loader(
        source,
        batch_size=batch_size,
        shuffle=True,
        seed=batch_size,
        alignment=vocabulary.align([names[i] for i in permutation]),
        input_kind="counts",
    )
    assert cells(loader) == expected


@given(
    n=st.integers(1, 60),
    batch_size=st.integers(1, 20),
    world_size=st.integers(1, 5),
    drop_last=st.booleans(),
    shuffle=st.booleans(),
)
@settings(deadline=None)
def test_processes_share_the_cells(n, batch_size, world_size, drop_last, shuffle):
    source = open_rows(np.ones((n, 2), dtype=np.float32))
    loaders = [
        make_loader(
            source,
            batch_size=batch_size,
            shuffle=shuffle,
            drop_last=drop_last,
            input_kind="counts",
            process=(rank, world_size),
        )
        for rank in range(world_size)
    ]
    sizes = np.array([[len(batch["indices"]) for batch in loader] for loader in loaders])
    assert all(len(loader) == sizes.shape[1] for loader in loaders)
    # As many cells of each batch for each process, or one more.
    assert sizes.size == 0 or np.ptp(sizes, axis=0).max() <= 1
    seen = [row for loader in loaders for row in order(loader)]
    assert len(set(seen)) == len(seen)
    if drop_last:
        assert set(sizes.sum(0)) <= {batch_size}
    else:
        assert set(seen) == set(range(n))


def test_order_depends_on_seed_and_epoch_alone(counts):
    def loader(seed: int) -> CellLoader:
        return make_loader(
            open_rows(counts), batch_size=8, shuffle=True, seed=seed, input_kind="counts"
        )

    first, second = loader(0), loader(0)
    list(first)
    first.set_epoch(5)
    second.set_epoch(5)
    assert order(first) == order(second) == order(first)
    second.set_epoch(6)
    assert sorted(order(second)) == list(range(57))
    assert order(first) != order(second)
    other = loader(1)
    other.set_epoch(5)
    assert order(other) != order(first)


def test_iterator_reads_the_epoch_at_its_first_batch(counts):
    loader = make_loader(open_rows(counts), batch_size=57, shuffle=True, input_kind="counts")
    iterator = iter(loader)
    loader.set_epoch(4)
    assert next(iterator)["indices"].tolist() == order(loader)


def test_subset_and_mask(counts):
    source = open_rows(counts)
    rows = [9, 2, 2, 40]
    loader = make_loader(source, rows, batch_size=3, input_kind="counts")
    assert order(loader) == rows
    assert (len(loader), loader.n_cells, loader.n_genes) == (2, 4, 23)
    mask = np.zeros(57, dtype=bool)
    mask[[5, 8]] = True
    assert order(make_loader(source, np.flatnonzero(mask), batch_size=3, input_kind="counts")) == [
        5,
        8,
    ]
    empty = make_loader(source, [], batch_size=3, input_kind="counts")
    assert (list(empty), len(empty)) == ([], 0)


def test_log_normalised_values_pass_through(counts):
    values = np.log1p(counts * 1.5)
    (batch,) = make_loader(open_rows(values), batch_size=57, input_kind="lognorm")
    np.testing.assert_array_equal(batch["X"].to_dense().numpy(), values)
    np.testing.assert_allclose(batch["library"], values.sum(1, keepdims=True), rtol=1e-6)


def test_size_factor_is_over_the_genes_of_the_model(counts):
    names = [f"G{i}" for i in range(23)]
    vocabulary = GeneVocabulary([*names[10:], "absent"])
    (batch,) = make_loader(
        open_rows(counts),
        batch_size=57,
        alignment=vocabulary.align(names),
        input_kind="counts",
        target_sum=100,
    )
    expected = np.column_stack([counts[:, 10:], np.zeros(57)])
    np.testing.assert_array_equal(batch["library"], expected.sum(axis=1, keepdims=True))
    np.testing.assert_allclose(batch["X"].to_dense(), reference(expected, 100), rtol=2e-6)


def test_empty_cells_stay_zero(counts):
    (batch,) = make_loader(open_rows(counts), [3], batch_size=1, input_kind="counts")
    assert batch["library"].tolist() == [[0.0]]
    assert batch["X"].to_dense().abs().sum() == 0


def test_batches_own_their_memory(counts):
    source = open_rows(sparse.csr_matrix(counts))
    source.rows_per_read = 30
    loader = make_loader(source, batch_size=10, input_kind="counts", obs={"y": np.arange(57.0)})
    before = cells(loader)
    for batch in loader:
        batch["X"].values().mul_(0)
        batch["indices"].zero_()
        batch["y"].zero_()
    assert cells(loader) == before


def test_obs_arrays(counts):
    obs = {
        "label": np.arange(57, dtype=np.int8),
        "flag": np.arange(57) % 2 == 0,
        "age": np.linspace(0, 1, 57),
        "codes": np.arange(114).reshape(57, 2),
    }
    loader = make_loader(open_rows(counts), [50, 1], batch_size=2, input_kind="counts", obs=obs)
    (batch,) = loader
    assert {name: (tuple(batch[name].shape), batch[name].dtype) for name in obs} == {
        "label": ((2, 1), torch.int64),
        "flag": ((2, 1), torch.int64),
        "age": ((2, 1), torch.float32),
        "codes": ((2, 2), torch.int64),
    }
    assert batch["codes"].tolist() == [[100, 101], [2, 3]]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"batch_size": 0}, ValueError, "`batch_size` must be an integer of at least 1, found 0"),
        (
            {"batch_size": 2.0},
            ValueError,
            "`batch_size` must be an integer of at least 1, found 2.0",
        ),
        ({"batch_size": True}, ValueError, "found True"),
        ({"input_kind": "auto"}, ValueError, "'counts' or 'lognorm', found 'auto'"),
        ({"target_sum": 0}, ValueError, "`target_sum` must be a positive number or None, found 0"),
        ({"target_sum": np.nan}, ValueError, "found nan"),
        ({"process": (2, 2)}, ValueError, r"`rank` must be in \[0, 2\), found 2"),
        ({"rows": [57]}, ValueError, r"`rows` of the plan must be in \[0, 57\), found 57 to 57"),
        (
            {"rows": [True, False]},
            TypeError,
            r"found bool of shape \(2,\). Of a mask: `rows = np.flatnonzero\(rows\)`",
        ),
        ({"rows": ["AAC"]}, TypeError, "`rows` must be row numbers"),
        ({"obs": {"X": np.zeros(57)}}, ValueError, "must not use the name 'X'"),
        ({"obs": {"y": np.zeros(5)}}, ValueError, r"obs\['y'\] has 5 rows, the source 57"),
        ({"obs": {"y": ["a"] * 57}}, TypeError, r"obs\['y'\] must be a numeric"),
    ],
)
def test_refuses(counts, options, error, message):
    with pytest.raises(error, match=message):
        make_loader(open_rows(counts), **{"batch_size": 8, "input_kind": "counts", **options})


def test_refuses_the_alignment_of_other_data(counts):
    alignment = GeneVocabulary(["A", "B"]).align(["A", "B"])
    with pytest.raises(ValueError, match="alignment is for 2 genes, the source has 23"):
        make_loader(open_rows(counts), batch_size=8, input_kind="counts", alignment=alignment)


def test_normalize_rows_refuses(counts):
    csr = sparse.csr_matrix(counts)
    with pytest.raises(ValueError, match="'counts' or 'lognorm', found 'raw'"):
        normalize_rows(csr, input_kind="raw")
    with pytest.raises(TypeError, match="in place on float32 values, found float64"):
        normalize_rows(csr.astype(np.float64), input_kind="counts")


def test_torch_is_imported_for_the_loader_only():
    code = (
        "import sys, scssl.data as d; dir(d); assert 'torch' not in sys.modules;"
        "d.CellLoader; assert 'torch' in sys.modules"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=120)


def test_unknown_name():
    import scssl.data

    with pytest.raises(AttributeError, match="has no attribute 'Loader'"):
        scssl.data.Loader  # noqa: B018


class Ahead(RowSource):
    """A source that is read in another thread, and fails where it is told to."""

    reads_ahead = True

    def __init__(self, X, fails_at=None):
        super().__init__(X.shape)
        self.source, self.fails_at, self.threads = open_rows(X), fails_at, set()

    def _gather(self, rows):
        self.threads.add(threading.current_thread())
        if self.fails_at in rows:
            raise OSError("no more")
        return self.source.read(rows)


def test_read_ahead(counts):
    source, plan = Ahead(counts), ShuffledPlan(len(counts), 4, seed=1)
    batches = list(CellLoader(source, plan, input_kind="counts"))
    usual = list(CellLoader(open_rows(counts), plan, input_kind="counts"))
    assert len(batches) == len(usual)
    for one, other in zip(batches, usual, strict=True):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key].to_dense(), other[key].to_dense()) for key in one)
    assert threading.main_thread() not in source.threads
    assert not any(thread.is_alive() for thread in source.threads)


def test_read_ahead_ends_with_what_reads(counts):
    source = Ahead(counts)
    batches = iter(CellLoader(source, SequentialPlan(len(counts), 2), input_kind="counts"))
    next(batches)
    batches.close()
    assert not any(thread.is_alive() for thread in source.threads)
    failing = CellLoader(Ahead(counts, 20), SequentialPlan(len(counts), 4), input_kind="counts")
    n = 0
    with pytest.raises(OSError, match="no more"):
        for _ in failing:
            n += 1
    assert n == 5
