from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scssl.data import BalancedChunkPlan, ChunkPlan, OneGroupChunkPlan, RowSpans, hold_out

SPANS = RowSpans([[3, 1000], [1010, 1011], [1200, 4000]])


def drawn(plan, epoch=0, first=0):
    return [rows.tolist() for rows, _ in plan.batches(epoch, first)]


def test_row_spans():
    rows = np.array([7, 8, 9, 2, 4, 5])
    spans = RowSpans.of(rows)
    assert spans.spans.tolist() == [[7, 10], [2, 3], [4, 6]]
    assert list(spans) == np.asarray(spans).tolist() == rows.tolist()
    assert (len(spans), spans.size, spans.min(), spans.max()) == (6, 6, 2, 9)
    assert len(RowSpans.of(rows[:0])) == len(RowSpans([[3, 3]])) == 0


FEW = RowSpans([[3, 100], [110, 111], [120, 400]])


@settings(deadline=None, max_examples=60)
@given(
    batch_size=st.integers(1, 150),
    n_processes=st.integers(1, 4),
    epoch=st.integers(0, 3),
    chunk_size=st.integers(1, 90),
    n_chunks=st.integers(1, 9),
)
def test_every_row_comes_once(batch_size, n_processes, epoch, chunk_size, n_chunks):
    plan = ChunkPlan(FEW, batch_size, chunk_size=chunk_size, n_chunks=n_chunks)
    own = [drawn(plan.for_process(rank, n_processes), epoch) for rank in range(n_processes)]
    assert all(len(batches) == len(plan.for_process(0, n_processes)) for batches in own)
    assert np.ptp([list(map(len, batches)) for batches in own], axis=0).max() <= 1
    rows = np.sort(np.concatenate([row for batches in own for row in batches]))
    assert rows.tolist() == np.asarray(FEW).tolist()


def test_processes_share_the_batches_of_one():
    plan = ChunkPlan(SPANS, 256, seed=3)
    whole = drawn(plan, 1)
    for n_processes in (2, 4):
        own = [drawn(plan.for_process(rank, n_processes), 1) for rank in range(n_processes)]
        together = [sorted(sum(batches, [])) for batches in zip(*own, strict=True)]
        assert together == [sorted(batch) for batch in whole]


# Of 1,023 cells the one process has one more than the other, in turns; runs are cut where lanes end.
@pytest.mark.parametrize(("batch_size", "n_shared"), [(1024, 0), (1023, 30)])
def test_processes_read_runs_of_their_own(batch_size, n_shared):
    plan = ChunkPlan(96 * 256, batch_size, chunk_size=256)
    of = [
        {row // 256 for batch in drawn(plan.for_process(rank, 2)) for row in batch}
        for rank in (0, 1)
    ]
    assert len(of[0] | of[1]) == 96
    assert len(of[0] & of[1]) <= n_shared


def test_a_place_is_a_function_of_seed_epoch_and_number():
    plan = ChunkPlan(SPANS, 100, seed=1)
    assert drawn(plan, 2, first=7) == drawn(plan, 2)[7:]
    assert drawn(plan, 2) == drawn(ChunkPlan(SPANS, 100, seed=1), 2)
    assert drawn(plan, 2) != drawn(plan, 3)
    assert drawn(plan, 2) != drawn(ChunkPlan(SPANS, 100, seed=2), 2)


def test_batches_are_read_in_few_runs():
    plan = ChunkPlan(100_000, 1000)
    together = np.sort(np.concatenate(drawn(plan)[:4]))
    assert len(RowSpans.of(together).spans) <= 34


def test_batches_of_shuffled_cells_are_as_random_as_can_be():
    codes = np.random.default_rng(0).permutation(np.arange(60_000) % 50)
    chi = []
    for rows in drawn(ChunkPlan(60_000, 500)):
        expected = len(rows) / 50
        chi.append(((np.bincount(codes[rows], minlength=50) - expected) ** 2 / expected).sum() / 49)
    assert np.mean(chi) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("train_size", [0.9, 0.5, 1, 0.9999])
def test_cells_are_held_out_of_every_part(train_size):
    parts = np.array([[0, 1000], [1000, 1007], [1007, 3000]])
    training, held_out = hold_out(parts, train_size=train_size, most=600, seed=0)
    n_expected = {0.9: 300, 0.5: 600, 1: 0, 0.9999: 1}[train_size]
    assert (len(held_out), len(training)) == (n_expected, 3000 - n_expected)
    assert sorted([*training, *held_out]) == list(range(3000))
    if n_expected > 1:
        assert [a // 1000 for a, _ in held_out.spans] in ([0, 1, 1], [0, 1, 2])
        shares = np.diff(held_out.spans, axis=1).ravel() / np.diff(parts, axis=1).ravel()
        assert np.ptp(shares) < 0.1
        other = hold_out(parts, train_size=train_size, most=600, seed=1)[1]
        assert other.spans.tolist() != held_out.spans.tolist()


def test_arguments():
    with pytest.raises(ValueError, match="`chunk_size` must be an integer of at least 1"):
        ChunkPlan(10, 2, chunk_size=0)


@pytest.mark.parametrize("size", [60, 6000])
def test_groups_are_read_in_runs(size):
    """Of large groups; of a small one, whose cells are kept, several times."""
    n = 40_000
    groups = (np.random.default_rng(0).permutation(n) < size).astype(np.uint8)
    plan = BalancedChunkPlan(n, 1000, groups, seed=2)
    assert list(plan._by_group._kept) == ([1] if size == 60 else [])
    together = np.concatenate(drawn(plan)[:8])
    assert np.bincount(groups[together]).tolist() == [4000, 4000]
    large = together[groups[together] == 0]
    assert len(np.unique(large)) == 4000
    assert len(np.unique(large // 128)) <= 4000 / (128 * np.mean(groups == 0)) + 2
    times = np.bincount(together[groups[together] == 1], minlength=n)[groups == 1]
    assert np.ptp(times) <= 1


def test_processes_read_pieces_of_a_group_of_their_own():
    groups = np.arange(16_384) % 2
    plan = BalancedChunkPlan(16_384, 512, groups, chunk_size=256)
    rows = [np.concatenate(drawn(plan.for_process(rank, 2))[:8]) for rank in (0, 1)]
    of = [set(own[groups[own] == 1] // 64) for own in rows]
    # But for those in which one of the lanes ends.
    assert len(of[0] & of[1]) <= 16 < 128 == len(of[0] | of[1])


def test_batches_of_one_group_are_as_random_as_can_be():
    rng = np.random.default_rng(0)
    groups, codes = rng.integers(0, 3, 60_000), rng.integers(0, 50, 60_000)
    chi = []
    for rows in drawn(OneGroupChunkPlan(60_000, 500, groups)):
        expected = len(rows) / 50
        chi.append(((np.bincount(codes[rows], minlength=50) - expected) ** 2 / expected).sum() / 49)
    assert np.mean(chi) == pytest.approx(1, abs=0.1)
