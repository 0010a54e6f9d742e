"""What every plan promises, and what each kind of plan is about."""

from __future__ import annotations

import pickle
from itertools import chain

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse, stats

from scssl.data import (
    BalancedChunkPlan,
    BalancedPlan,
    BatchPlan,
    CellContext,
    CellLoader,
    ContextOptions,
    NeighborTable,
    OneGroupChunkPlan,
    OneGroupPlan,
    PartnerWalks,
    RunContext,
    SequentialPlan,
    ShuffledPlan,
    open_rows,
)
from scssl.data.keys import PLACES, TARGET


class Windows(BatchPlan):
    """A plan of somebody else: cells with those that come after them."""

    @property
    def n_batches(self) -> int:
        return len(self.rows)

    def draw(self, epoch):
        for i in np.random.default_rng([self.seed, epoch]).permutation(len(self.rows)):
            cells = self.rows[i : i + self.batch_size]
            yield cells, {TARGET: (np.arange(len(cells)) == 0).astype(np.int64)}


def groups_of(n: int) -> np.ndarray:
    return np.random.default_rng(1).choice([3, 5, 9], n, p=[0.7, 0.2, 0.1])


def context_of(n: int, mode="sample") -> CellContext:
    places = np.random.default_rng(2).random((n, 2))
    return CellContext(groups_of(n), places, ContextOptions(mode, size=10, halo=3))


def runs_of(n: int, mode="sample") -> RunContext:
    ends = np.unique([0, n // 3, n // 2, n])
    return RunContext(
        np.stack([ends[:-1], ends[1:]], 1), np.arange(len(ends) - 1) % 2, ContextOptions(mode, 10)
    )


# Each kind of plan over some cells of `n`, and whether every cell comes in every epoch.
RUNS = {"chunk_size": 3, "n_chunks": 4}
KINDS = {
    "sequential": (lambda n, rows, **k: SequentialPlan(rows, **k), True),
    "shuffled": (lambda n, rows, **k: ShuffledPlan(rows, **k), True),
    "balanced": (lambda n, rows, **k: BalancedPlan(rows, groups=groups_of(n), **k), False),
    "one_group": (lambda n, rows, **k: OneGroupPlan(rows, groups=groups_of(n), **k), True),
    "balanced_chunks": (
        lambda n, rows, **k: BalancedChunkPlan(rows, groups=groups_of(n), **k, **RUNS),
        False,
    ),
    "weighted": (
        lambda n, rows, **k: BalancedPlan(rows, groups=groups_of(n), weights={5: 2.5}, **k),
        False,
    ),
    "weighted_chunks": (
        lambda n, rows, **k: BalancedChunkPlan(
            rows, groups=groups_of(n), weights={5: 2.5}, **k, **RUNS
        ),
        False,
    ),
    "one_group_chunks": (
        lambda n, rows, **k: OneGroupChunkPlan(rows, groups=groups_of(n), **k, **RUNS),
        True,
    ),
    "windows": (lambda n, rows, **k: Windows(rows, **k), True),
    "training": (lambda n, rows, **k: context_of(n).training(rows, **k), True),
    "filled": (
        lambda n, rows, **k: context_of(n, "tiles").training(rows, fill=np.arange(n), **k),
        True,
    ),
    "validation": (
        lambda n, rows, **k: context_of(n, "random").validation(rows, fill=np.arange(n), **k),
        True,
    ),
    "embedding": (lambda n, rows, **k: context_of(n, "tiles").embedding(rows), True),
    "run_training": (lambda n, rows, **k: runs_of(n).training(rows, **k), True),
    "run_validation": (
        lambda n, rows, **k: runs_of(n).validation(rows, fill=np.arange(n), **k),
        True,
    ),
    "run_embedding": (lambda n, rows, **k: runs_of(n, "random").embedding(rows), True),
}
FIXED = {"sequential", "validation", "embedding", "run_validation", "run_embedding"}
#: Whose cells see each other: of one process.
WHOLE = {
    "filled",
    *(f"{own}{role}" for own in ("", "run_") for role in ("training", "validation", "embedding")),
}
kinds = pytest.mark.parametrize("kind", KINDS)


def joined(parts) -> tuple:
    """What the processes have of a batch, in the order of their places."""
    if len(parts) == 1:
        return parts[0]
    places = np.concatenate([extra[PLACES] for _, extra in parts])
    assert sorted(places) == list(range(len(places)))

    def together(values) -> list:
        return np.concatenate(values).astype(int)[np.argsort(places)].tolist()

    names = parts[0][1].keys() - {PLACES}
    extra = {name: together([own[name] for _, own in parts]) for name in names}
    return together([cells for cells, _ in parts]), extra


def contents(batches) -> list:
    return [(rows.tolist(), {k: v.tolist() for k, v in extra.items()}) for rows, extra in batches]


@kinds
@given(
    n=st.integers(1, 60),
    share=st.sampled_from([1.0, 0.5]),
    batch_size=st.integers(1, 20),
    world_size=st.integers(1, 4),
    seed=st.integers(0, 3),
    epoch=st.integers(0, 3),
    data=st.data(),
)
@settings(deadline=None, max_examples=25)
def test_what_every_plan_promises(kind, n, share, batch_size, world_size, seed, epoch, data):
    make, covers = KINDS[kind]
    world_size = 1 if kind in WHOLE else world_size
    rows = np.flatnonzero(np.random.default_rng(0).random(n) < share)

    def plans() -> list[BatchPlan]:
        whole = make(n, rows, batch_size=batch_size, seed=seed)
        return [whole.for_process(rank, world_size) for rank in range(world_size)]

    by_process = [contents(plan.batches(epoch)) for plan in plans()]
    # As many batches for each process, as many as it says, and of one entry per cell.
    assert {len(own) for own in by_process} == {len(plans()[0])}
    for cells, extra in chain(*by_process):
        assert all(len(values) == len(cells) for values in extra.values())
    # Nothing but the plan and the epoch decides: not what was drawn before, nor in which process.
    again = pickle.loads(pickle.dumps(plans()))
    for plan, own in zip(again, by_process, strict=True):
        list(plan.batches(epoch + 1))
        assert contents(plan.batches(epoch)) == own
        first = data.draw(st.integers(0, len(own)))
        assert contents(plan.batches(epoch, first)) == own[first:]
        if kind in FIXED:
            assert contents(plan.batches(epoch + 1)) == own
            assert not plan.varies
    # Every batch of theirs is one of the plan of one process, divided as evenly as can be.
    alone = contents(make(n, rows, batch_size=batch_size, seed=seed).batches(epoch))
    for whole, *parts in zip(alone, *by_process, strict=True):
        assert np.ptp([len(cells) for cells, _ in parts]) <= 1
        assert joined(parts) == whole
    targets = [
        row
        for cells, extra in alone
        for row, is_target in zip(cells, extra.get(TARGET, [1] * len(cells)), strict=True)
        if is_target
    ]
    assert set(targets) <= set(rows.tolist())
    if covers:
        assert sorted(targets) == rows.tolist()


@kinds
@pytest.mark.parametrize("rows_per_read", [None, 70, 1000])
def test_the_loader_reads_any_plan_with_partners(kind, rows_per_read):
    """What a plan says, what the cells have, and partners by process, number and epoch alone."""
    n = 50
    make, _ = KINDS[kind]
    rows = np.arange(0, n, 2)
    source = open_rows(sparse.csr_matrix(np.arange(1.0, n + 1, dtype="f4")[:, None]))
    source.rows_per_read = rows_per_read
    table = NeighborTable.from_graph(np.ones((n, n)), "g", n)
    walks = PartnerWalks({"g": table}, ((("g",),), (("g", "g"),)))

    size = 1 if kind in WHOLE else 2

    def load(rank: int, size: int = size) -> CellLoader:
        plan = make(n, rows, batch_size=7, seed=4).for_process(rank, size)
        loader = CellLoader(
            source,
            plan,
            input_kind="counts",
            target_sum=None,
            obs={"own": np.arange(n)},
            partners=walks,
            partner_obs=["own"],
        )
        loader.set_epoch(3)
        return loader

    alone, seen = list(load(0, 1)), []
    for rank in range(size):
        loader = load(rank)
        batches = list(loader)
        assert len(batches) == len(loader) == len(loader.plan) > 1
        for batch, (cells, extra) in zip(batches, loader.plan.batches(3), strict=True):
            np.testing.assert_array_equal(batch["indices"], cells)
            np.testing.assert_array_equal(batch["X"].to_dense().expm1().round()[:, 0], cells + 1)
            for key, values in extra.items():
                np.testing.assert_array_equal(batch[key][:, 0], values)
            for key in ("partner:0:g", "partner:1:g/g"):
                own = batch[f"own@{key}"]
                np.testing.assert_array_equal(batch[key].to_dense().expm1().round(), own + 1)
                seen.append(own.flatten().tolist())
        # Cells have the partners that they have in one process.
        for whole, batch in zip(alone, batches, strict=True):
            where = batch["places"].flatten() if size > 1 else slice(None)
            for key in ("own@partner:0:g", "own@partner:1:g/g"):
                assert torch.equal(whole[key][where], batch[key])
        later = list(load(rank).batches(1))
        for batch, same in zip(later, batches[1:], strict=True):
            assert batch.keys() == same.keys()
            assert (batch["own@partner:0:g"] == same["own@partner:0:g"]).all()
        list(loader)
        loader.set_epoch(4)
        other = [batch["own@partner:0:g"].flatten().tolist() for batch in loader]
        same = [batch["own@partner:0:g"].flatten().tolist() for batch in batches]
        assert (other == same) == (kind in FIXED)
    # Of few cells they can be alike.
    several = [tuple(one) for one in seen if len(one) > 2]
    assert len(set(several)) == len(several) > 2


balanced = pytest.mark.parametrize("plan", [BalancedPlan, BalancedChunkPlan])


class TestBalanced:
    @balanced
    def test_all_groups_throughout(self, plan):
        groups = np.repeat([3, 7, 9], [100, 10, 1])
        order = np.concatenate([r for r, _ in plan(111, 111, groups).batches(0)])
        assert len(order) == 111
        in_turn = groups[order].reshape(-1, 3)
        assert (np.sort(in_turn, axis=1) == [3, 7, 9]).all()
        # Not always in the same order, or processes that take turns would get one group each.
        assert len(np.unique(in_turn[:, 0])) == 3
        drawn = np.bincount(order, minlength=111)
        assert set(drawn[:100]) == {0, 1}
        # A small group: all its cells come before one comes again.
        assert set(drawn[100:110]) == {3, 4}
        assert drawn[110] == 37

    @balanced
    def test_one_group_is_a_permutation(self, plan):
        ((order, _),) = plan(np.arange(5, 25), 20, np.zeros(25, dtype=int)).batches(0)
        assert sorted(order) == list(range(5, 25))

    @balanced
    def test_batches_have_as_many_of_each_and_others_in_each_epoch(self, plan):
        groups = np.repeat([0, 1, 2], [60, 20, 10])
        plan = plan(90, 12, groups, seed=1)
        for cells, _ in list(plan.batches(0))[:-1]:
            assert np.bincount(groups[cells]).tolist() == [4, 4, 4]
        assert contents(plan.batches(0)) == contents(plan.batches(0)) != contents(plan.batches(1))

    @balanced
    def test_weights_are_shares_of_every_batch_and_of_every_process(self, plan):
        rng = np.random.default_rng(0)
        groups = rng.choice([0, 1, 2, 3], 30_000, p=[0.7, 0.2, 0.05, 0.05])
        found = plan(30_000, 512, groups, weights={1: 3.0, 3: 0.25}, seed=1)
        expected = np.array([1, 3, 1, 0.25]) / 5.25
        batches = [cells for cells, _ in found.batches(0)]
        for cells in batches:
            apart = np.bincount(groups[cells], minlength=4) - expected * len(cells)
            assert abs(apart).max() <= 2
        # A process has every other row, and in each group chance decides which.
        order = groups[np.concatenate(batches)]
        for own in (order, order[::2], order[1::4]):
            n_of_each = np.bincount(own, minlength=4)
            chi_square = np.sum((n_of_each - expected * len(own)) ** 2 / (expected * len(own)))
            assert chi_square < stats.chi2.ppf(0.999, 3)
        # All cells of a group come before one comes again.
        rare = np.bincount(np.concatenate(batches), minlength=30_000)[groups == 2]
        assert rare.max() - rare.min() <= 1

    @balanced
    def test_a_weight_is_positive(self, plan):
        with pytest.raises(ValueError, match=r"`weights\[0\]` must be a positive number, found 0"):
            plan(6, 2, np.zeros(6, dtype=int), weights={0: 0})


@pytest.mark.parametrize("plan", [OneGroupPlan, OneGroupChunkPlan])
class TestOneGroup:
    def test_every_batch_is_of_one_group_and_full_where_it_can_be(self, plan):
        groups = np.repeat([4, 0, 2], [25, 11, 1])
        found = plan(37, 5, groups)
        batches = [cells for cells, _ in found.batches(0)]
        assert len(batches) == len(found) == 5 + 3 + 1
        assert all(len(np.unique(groups[cells])) == 1 for cells in batches)
        assert sorted(map(len, batches)) == [1, 1, 5, 5, 5, 5, 5, 5, 5]
        assert found.has_lone_cell
        of_groups = [int(groups[cells[0]]) for cells in batches]
        assert of_groups != sorted(of_groups)
        full = plan(37, 5, groups, drop_last=True)
        assert [len(cells) for cells, _ in full.batches(0)] == [5] * 7
        assert len(full) == 7

    def test_groups_of_other_cells_are_refused(self, plan):
        with pytest.raises(
            ValueError, match=r"group of each cell of the source, found shape \(5,\)"
        ):
            plan(6, 2, np.zeros(5))


def test_lone_cells():
    assert ShuffledPlan(21, 10).has_lone_cell
    assert not ShuffledPlan(20, 10).has_lone_cell
    assert ShuffledPlan(41, 10).for_process(0, 2).has_lone_cell
    assert not ShuffledPlan(40, 10).for_process(0, 4).has_lone_cell
    assert not context_of(21).training(np.arange(21), 10, seed=0).has_lone_cell
