"""Which cells see each other, and the batches that are made of them."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy import sparse

from scssl.data import CellContext, CellLoader, ContextOptions, open_rows
from scssl.data.keys import SEQUENCE, TARGET
from scssl.data.plans._context import Surroundings, split_tiles


def tissue(sizes, *, seed=0, spatial=None):
    """Samples of these sizes whose cells lie in disorder, and places of those that have any."""
    rng = np.random.default_rng(seed)
    samples = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    places = rng.uniform(0, 300, (len(samples), 2))
    if spatial is not None:
        places[~np.isin(samples, spatial)] = np.nan
    return samples, places


def sequences_of(batch):
    """Cells of each sequence of a batch and which are targets, after checks of its form."""
    rows, extra = batch
    number, target = extra[SEQUENCE], extra[TARGET]
    assert number.dtype == target.dtype == np.int64
    assert len(rows) == len(number) == len(target)
    assert set(np.unique(target)) <= {0, 1}
    # Contiguous, ascending from 0.
    assert number[0] == 0
    assert set(np.diff(number)) <= {0, 1}
    return [(rows[number == i], target[number == i]) for i in range(number[-1] + 1)]


def targets_of(batches):
    return np.concatenate([rows[extra[TARGET] == 1] for rows, extra in batches])


# --- coordinates ----------------------------------------------------------------------------------


def test_places_are_scaled_by_sample_with_one_factor_for_both_axes():
    samples, places = tissue([40, 60, 5], spatial=[0, 1])
    places[samples == 1, 0] *= 50
    context = CellContext(samples, places, ContextOptions())
    for code in (0, 1):
        own, found = places[samples == code], context.positions[samples == code]
        width = np.ptp(own, axis=0).max()
        np.testing.assert_allclose(found, (own - own.min(0)) / width, atol=1e-6)
        assert found.min() == 0
        assert found.max() == 1
    assert np.isnan(context.positions[samples == 2]).all()
    np.testing.assert_array_equal(context.is_spatial(), samples != 2)
    assert context.positions.dtype == np.float32


def test_a_sample_of_one_place_and_cells_without_one():
    places = np.array([[5.0, 7.0], [5.0, 7.0], [np.nan, np.nan], [1.0, 2.0], [4.0, 2.0]])
    context = CellContext(np.array([3, 3, 3, 9, 9]), places, ContextOptions())
    expected = [[0, 0], [0, 0], [np.nan, np.nan], [0, 0], [1, 0]]
    np.testing.assert_array_equal(context.positions, np.array(expected, dtype=np.float32))
    assert context.n_samples == 2


def test_cells_by_sample():
    samples, _ = tissue([30, 20, 10, 1])
    context = CellContext(samples, None, ContextOptions())
    rows = np.flatnonzero(samples != 2)[::-2]
    found = context.by_sample(rows)
    assert list(found) == sorted(set(samples[rows].tolist()))
    for code, cells in found.items():
        assert cells.tolist() == [row for row in sorted(rows) if samples[row] == code]
    assert context.by_sample(np.zeros(0, dtype=np.int64)) == {}


# --- training -------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["sample", "tiles", "random"])
@pytest.mark.parametrize("sizes", [[100], [257, 90, 3], [1], [1] * 30, [64, 64], [65, 500, 1, 2]])
@pytest.mark.parametrize("batch_size", [1, 2, 64, 1000])
def test_an_epoch_has_every_training_cell_once(mode, sizes, batch_size):
    samples, places = tissue(sizes)
    context = CellContext(samples, places, ContextOptions(mode))
    rows = np.sort(
        np.random.default_rng(1).permutation(len(samples))[: max(1, len(samples) * 3 // 4)]
    )
    plan = context.training(rows, batch_size, seed=3)
    for epoch in range(3):
        batches = list(plan.draw(epoch))
        assert len(batches) == len(plan)
        np.testing.assert_array_equal(np.sort(targets_of(batches)), rows)
        parts = list(itertools.chain.from_iterable(map(sequences_of, batches)))
        for cells, target in parts:
            assert target.all()
            assert len(np.unique(samples[cells])) == 1
            assert 0 < len(cells) <= batch_size
        # As many parts as are needed, alike in size; batches as large as asked for, on average.
        n_own = np.bincount(samples[rows], minlength=len(sizes))
        assert len(parts) == (-(-n_own // batch_size)).sum()
        assert len(batches) == min(-(-len(rows) // batch_size), len(parts))
        for code in range(len(sizes)):
            own = [len(cells) for cells, _ in parts if samples[cells[0]] == code]
            assert not own or max(own) - min(own) <= 1
        assert max(len(cells) for cells, _ in batches) <= 2 * batch_size


def test_epochs_differ_and_seeds_decide():
    samples, places = tissue([200, 100])
    for mode in ("sample", "tiles", "random"):
        context = CellContext(samples, places, ContextOptions(mode, cell_dropout=0.2))

        def drawn(epoch, seed, context=context):
            plan = context.training(np.arange(300), 50, seed=seed)
            return [(r.tolist(), e[SEQUENCE].tolist()) for r, e in plan.draw(epoch)]

        assert drawn(4, 1) == drawn(4, 1)
        assert drawn(4, 1) != drawn(5, 1)
        assert drawn(4, 1) != drawn(4, 2)


def test_cell_dropout_leaves_cells_out_of_training_alone():
    samples, _ = tissue([1000, 10])
    context = CellContext(samples, None, ContextOptions(cell_dropout=0.3))
    plan = context.training(np.arange(1010), 100, seed=0)
    seen = [np.sort(targets_of(plan.draw(epoch))) for epoch in range(20)]
    assert all(len(np.unique(rows)) == len(rows) == 700 + 7 for rows in seen)
    share = np.bincount(np.concatenate(seen), minlength=1010) / 20
    assert share.min() > 0.2
    assert share.max() < 1.0 + 1e-9
    assert abs(share.mean() - 0.7) < 1e-6
    validation = context.validation(np.arange(0, 1010, 10), 100, seed=0, fill=np.arange(1010))
    np.testing.assert_array_equal(np.sort(targets_of(validation.draw(0))), np.arange(0, 1010, 10))
    # A part of two cells is kept.
    pair = CellContext(np.zeros(2), None, ContextOptions(cell_dropout=0.9))
    assert len(targets_of(pair.training(np.arange(2), 8, seed=0).draw(0))) == 2


def test_training_tiles_are_pieces_of_tissue():
    samples, places = tissue([400])
    rows = np.arange(400)
    extents = {}
    for mode in ("tiles", "sample"):
        context = CellContext(samples, places, ContextOptions(mode))
        found = []
        for epoch in range(5):
            for batch in context.training(rows, 50, seed=0).draw(epoch):
                found += [np.ptp(places[cells], axis=0).prod() for cells, _ in sequences_of(batch)]
        extents[mode] = np.mean(found) / 300**2
    assert extents["tiles"] < 0.35
    assert extents["sample"] > 0.8


def test_cells_without_a_place_do_not_spoil_the_tiles_of_those_with_one():
    samples, places = tissue([400])
    lost = np.array([3, 77, 250])
    places[lost] = np.nan
    context = CellContext(samples, places, ContextOptions("tiles"))
    plan = context.training(np.arange(0, 400, 2), 50, seed=0, fill=np.arange(400))
    extents = []
    for epoch in range(5):
        batches = list(plan.draw(epoch))
        assert len(batches) == len(plan)
        np.testing.assert_array_equal(np.sort(targets_of(batches)), np.arange(0, 400, 2))
        for cells, _ in itertools.chain.from_iterable(map(sequences_of, batches)):
            assert np.isin(cells, lost).all() or not np.isin(cells, lost).any()
            if not np.isin(cells, lost).any():
                extents.append(np.ptp(places[cells], axis=0).prod() / 300**2)
    assert np.mean(extents) < 0.35


def test_no_more_cells_see_each_other_in_training_than_when_embedded():
    samples, places = tissue([300])
    for mode, most in (("sample", 128), ("tiles", 40), ("random", 40)):
        context = CellContext(samples, places, ContextOptions(mode, size=40))
        plan = context.training(np.arange(300), 128, seed=0)
        batches = list(plan.draw(0))
        parts = list(itertools.chain.from_iterable(map(sequences_of, batches)))
        assert max(len(cells) for cells, _ in parts) <= most
        assert max(len(cells) for cells, _ in parts) > most / 2
        assert len(batches) == len(plan) == 3


# --- cells that are only seen ---------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["sample", "tiles", "random"])
def test_others_of_the_sample_fill_parts(mode):
    samples, places = tissue([400, 120, 30])
    rng = np.random.default_rng(2)
    # Many, few and all targets in a sample.
    chosen = (samples == 2) | ((samples == 0) & (rng.random(550) < 0.8))
    chosen |= (samples == 1) & (rng.random(550) < 0.05)
    rows = np.flatnonzero(chosen)
    context = CellContext(samples, places, ContextOptions(mode))
    plan = context.training(rows, 64, seed=0, fill=np.arange(550))
    for epoch in range(3):
        batches = list(plan.draw(epoch))
        assert len(batches) == len(plan)
        np.testing.assert_array_equal(np.sort(targets_of(batches)), rows)
        for cells, target in itertools.chain.from_iterable(map(sequences_of, batches)):
            assert len(np.unique(samples[cells])) == 1
            assert len(np.unique(cells)) == len(cells)
            assert chosen[cells[target == 1]].all()
            assert not chosen[cells[target == 0]].any()
            code = samples[cells[0]]
            if code == 0:
                assert len(cells) == 64
                # Half of it, but for parts of equal size.
                assert target.sum() >= 30
            elif code == 1:
                # Few targets: all others that there is room for.
                assert len(cells) == 64
                assert target.sum() == (chosen & (samples == 1)).sum()
            else:
                assert len(cells) == 30
                assert target.all()


def test_validation_is_the_same_in_every_epoch_and_full_of_others():
    samples, places = tissue([600, 50])
    rows = np.arange(0, 650, 10)
    context = CellContext(samples, places, ContextOptions(spatial_share=0.5, cell_dropout=0.5))
    plan = context.validation(rows, 128, seed=0, fill=np.arange(650))
    first, later = ([(r.tolist(), e[TARGET].tolist()) for r, e in plan.draw(e)] for e in (0, 7))
    assert first == later
    np.testing.assert_array_equal(np.sort(targets_of(plan.draw(0))), rows)
    parts = list(itertools.chain.from_iterable(map(sequences_of, plan.draw(0))))
    assert sorted(len(cells) for cells, _ in parts) == [50, 128]


def test_in_tiles_the_others_are_those_around():
    samples, places = tissue([500])
    rows = np.flatnonzero(np.all(places < 80, axis=1))
    context = CellContext(samples, places, ContextOptions("tiles"))
    n = len(rows)
    plan = context.training(rows, 3 * n, seed=0, fill=np.arange(500))
    ((cells, target),) = sequences_of(next(plan.draw(0)))
    others = np.setdiff1d(np.arange(500), rows)
    low, high = places[rows].min(axis=0), places[rows].max(axis=0)
    away = np.maximum(np.maximum(places[others] - high, low - places[others]), 0)
    expected = others[np.argsort(np.linalg.norm(away, axis=1))[: 2 * n]]
    np.testing.assert_array_equal(np.sort(cells[target == 0]), np.sort(expected))


# --- several technologies -------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
@pytest.mark.parametrize("sizes", [[900, 100], [100, 900], [50, 50, 800, 60]])
def test_the_share_of_cells_with_a_place_is_reached(share, sizes):
    samples, places = tissue(sizes, spatial=[0])
    context = CellContext(samples, places, ContextOptions(spatial_share=share))
    plan = context.training(np.arange(len(samples)), 20, seed=0)
    for epoch in range(3):
        batches = list(plan.draw(epoch))
        assert len(batches) == len(plan)
        drawn = np.concatenate([rows for rows, _ in batches])
        assert abs(context.is_spatial()[drawn].mean() - share) < 0.05
        # As long as without a share, to a part or two.
        assert abs(len(drawn) - len(samples)) <= 60
        for batch in batches:
            for cells, _ in sequences_of(batch):
                assert len(np.unique(samples[cells])) == 1
    # Without a share, as they come.
    plain = CellContext(samples, places, ContextOptions()).training(
        np.arange(len(samples)), 20, seed=0
    )
    np.testing.assert_array_equal(np.sort(targets_of(plain.draw(0))), np.arange(len(samples)))


@pytest.mark.parametrize("spatial", [[], [0, 1]])
def test_a_share_of_one_kind_only_changes_nothing(spatial):
    samples, places = tissue([60, 40], spatial=spatial)
    context = CellContext(samples, places, ContextOptions(spatial_share=0.5))
    drawn = targets_of(context.training(np.arange(100), 20, seed=0).draw(0))
    np.testing.assert_array_equal(np.sort(drawn), np.arange(100))


# --- tiles ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "size"), [(1, 5), (5, 5), (6, 5), (1000, 130), (777, 64)])
def test_tiles_hold_all_cells_once_and_are_alike_in_size(n, size):
    xy = np.random.default_rng(0).normal(size=(n, 2)) * [1, 3]
    tiles = split_tiles(xy, size)
    np.testing.assert_array_equal(np.sort(np.concatenate(tiles)), np.arange(n))
    assert len(tiles) == -(-n // size)
    assert max(map(len, tiles)) <= size
    assert max(map(len, tiles)) - min(map(len, tiles)) <= 2
    # Rectangles beside each other: no two overlap.
    boxes = [(xy[t].min(0), xy[t].max(0)) for t in tiles]
    for (low, high), (other_low, other_high) in itertools.combinations(boxes, 2):
        assert (np.minimum(high, other_high) < np.maximum(low, other_low)).any()


@pytest.mark.parametrize("grid", [False, True])
def test_tiles_and_halo_do_not_depend_on_the_order_of_the_cells(grid):
    rng = np.random.default_rng(0)
    places = rng.uniform(0, 9, (400, 2))
    if grid:
        places = np.stack(np.meshgrid(np.arange(20), np.arange(20)), axis=-1).reshape(-1, 2) * 1.0
    found = []
    for order in (np.arange(400), rng.permutation(400), np.arange(400)[::-1]):
        context = CellContext(np.zeros(400), places[order], ContextOptions("tiles", 90, 17))
        found.append(
            {
                (frozenset(order[cells[inside]]), frozenset(order[cells[~inside]]))
                for cells, inside in context.sequences()
            }
        )
    assert found[0] == found[1] == found[2]
    assert len(found[0]) == 5
    assert all(len(halo) == 17 for _, halo in found[0])


def test_the_halo_is_what_is_nearest():
    samples, places = tissue([500])
    context = CellContext(samples, places, ContextOptions("tiles", 120, 25))
    xy = context.positions
    n_tiles = 0
    for cells, inside in context.sequences():
        tile, halo = cells[inside], cells[~inside]
        assert len(halo) == 25
        low, high = xy[tile].min(axis=0), xy[tile].max(axis=0)
        distance = np.array(
            [
                np.hypot(max(low[0] - x, 0, x - high[0]), max(low[1] - y, 0, y - high[1]))
                for x, y in xy
            ]
        )
        others = np.setdiff1d(np.arange(500), cells)
        assert distance[halo].max() <= distance[others].min()
        assert (np.diff(cells) > 0).all()
        n_tiles += 1
    assert n_tiles == 5
    bare = CellContext(samples, places, ContextOptions("tiles", 120, 0))
    assert all(inside.all() for _, inside in bare.sequences())
    wide = CellContext(samples, places, ContextOptions("tiles", 120, 10_000))
    assert all(len(cells) == 500 for cells, _ in wide.sequences())


# --- embedding ------------------------------------------------------------------------------------


OPTIONS = [
    ContextOptions(),
    ContextOptions("tiles", 30, 10),
    ContextOptions("tiles", 30, 0),
    ContextOptions("random", 30),
]


@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: f"{o.mode}-{o.halo}")
@pytest.mark.parametrize("kind", ["placed", "some", "none", "nowhere"])
def test_every_cell_that_is_asked_for_is_a_target_once(options, kind):
    samples, places = tissue([100, 31, 30, 1])
    if kind == "some":
        places[np.random.default_rng(0).random(162) < 0.4] = np.nan
    elif kind == "none":
        places[:] = np.nan
    context = CellContext(samples, None if kind == "nowhere" else places, options)
    whole = {
        frozenset(r): set(r[e[TARGET] == 1]) for r, e in context.embedding(np.arange(162)).draw(0)
    }
    assert sorted(itertools.chain(*whole.values())) == list(range(162))
    most = {"sample": 100, "tiles": 30 + options.halo, "random": 30}[options.mode]
    for cells in whole:
        assert len(set(samples[list(cells)])) == 1
        assert len(cells) <= most
    for rows in (np.arange(0, 162, 7), np.array([5]), np.flatnonzero(samples == 3)):
        plan = context.embedding(rows)
        batches = list(plan.draw(0))
        assert len(batches) == len(plan)
        np.testing.assert_array_equal(np.sort(targets_of(batches)), rows)
        for batch in batches:
            # One sequence, the same whatever was asked for.
            ((cells, target),) = sequences_of(batch)
            assert set(cells[target == 1]) == whole[frozenset(cells)] & set(rows)
    assert len(context.embedding(np.zeros(0, dtype=np.int64))) == 0


# --- edges ----------------------------------------------------------------------------------------


def test_one_cell_no_cells_and_no_places():
    one = CellContext(np.array([7]), np.full((1, 2), np.nan), ContextOptions("tiles"))
    ((cells, target),) = sequences_of(next(one.training(np.array([0]), 10, seed=0).draw(0)))
    assert cells.tolist() == [0]
    assert target.tolist() == [1]
    context = CellContext(np.repeat([0, 1], 5), None, ContextOptions())
    nothing = np.zeros(0, dtype=np.int64)
    for plan in (
        context.training(nothing, 4, seed=0),
        context.validation(nothing, 4, seed=0, fill=np.arange(10)),
    ):
        assert len(plan) == 0
        assert list(plan.draw(0)) == []
    empty = CellContext(nothing, None, ContextOptions())
    assert empty.n_samples == 0
    assert list(empty.sequences()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mode": "tile"}, "`context` must be 'sample', 'tiles' or 'random', found 'tile'"),
        ({"size": 1}, "`context_size` must be a whole number of at least 2"),
        ({"halo": -1}, "`halo` must be a whole number of at least 0"),
        ({"cell_dropout": 1.0}, r"`cell_dropout` must be a number in \[0, 1\)"),
        ({"spatial_share": 0.0}, r"`spatial_share` must be a number in \(0, 1\) or None"),
        ({"spatial_share": 1.0}, r"`spatial_share` must be a number in \(0, 1\) or None"),
    ],
)
def test_options_are_checked(arguments, message):
    with pytest.raises(ValueError, match=message):
        ContextOptions(**arguments)


# --- loader ---------------------------------------------------------------------------------------


def load(plan, n_cells, **kwargs):
    counts = sparse.csr_matrix(np.arange(1, n_cells + 1, dtype=np.float32)[:, None])
    obs = {"own": np.arange(n_cells)}
    return CellLoader(
        open_rows(counts), plan, input_kind="counts", target_sum=None, obs=obs, **kwargs
    )


def test_batches_are_those_of_the_plan():
    samples, places = tissue([40, 20])
    context = CellContext(samples, places, ContextOptions())
    plan = context.training(np.arange(60), 16, seed=0)
    loader = load(plan, 60)
    loader.set_epoch(2)
    batches = list(loader)
    assert len(batches) == len(loader) == len(plan)
    for batch, (rows, extra) in zip(batches, plan.draw(2), strict=True):
        np.testing.assert_array_equal(batch["indices"], rows)
        np.testing.assert_array_equal(batch["own"].squeeze(1), rows)
        np.testing.assert_array_equal(batch["X"].to_dense().expm1().round().squeeze(1), rows + 1)
        for key in (SEQUENCE, TARGET):
            assert batch[key].dtype == torch.int64
            np.testing.assert_array_equal(batch[key].squeeze(1), extra[key])


def test_cells_that_see_each_other_are_not_divided_among_processes():
    samples, places = tissue([100, 43])
    context, rows = CellContext(samples, places, ContextOptions()), np.arange(143)
    plans = (
        context.training(rows, 20, seed=0),
        context.validation(rows, 20, seed=0, fill=rows),
        context.embedding(rows),
    )
    for plan in plans:
        assert len(plan.for_process(0, 1)) == len(plan)
        with pytest.raises(ValueError, match=r"see each other.* found 2.*`devices=1`"):
            plan.for_process(0, 2)


def test_rare_labels_come_as_often_where_labels_are_balanced():
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.repeat([0, 1, 2], [900, 80, 20]))
    context = CellContext(np.zeros(1000, dtype=int), None, ContextOptions())
    rows = np.arange(1000)
    plain = context.training(rows, 60, seed=0)
    balanced = context.training(rows, 60, seed=0, labels=labels)
    assert len(balanced) == len(plain)

    def shares(plan):
        drawn = labels[targets_of(list(plan.draw(3)))]
        return np.bincount(drawn, minlength=3) / len(drawn)

    np.testing.assert_allclose(shares(plain), [0.9, 0.08, 0.02])
    # Of the rarest there are not enough for a third of each part of 59.
    assert shares(balanced)[:2] == pytest.approx([1 / 3, 1 / 3], abs=0.12)
    assert shares(balanced)[2] > 0.15
    for batch in balanced.draw(0):
        for cells, _ in sequences_of(batch):
            assert len(np.unique(cells)) == len(cells)


def test_batches_of_few_targets_among_many_others_are_no_larger():
    samples = np.repeat(np.arange(20), 200)
    context = CellContext(samples, None, ContextOptions())
    rows = np.arange(0, 4000, 200)
    plan = context.training(rows, 100, seed=0, fill=np.arange(4000))
    batches = list(plan.draw(0))
    assert len(batches) == len(plan) == 20
    assert [len(cells) for cells, _ in batches] == [100] * 20
    np.testing.assert_array_equal(np.sort(targets_of(batches)), rows)


def test_a_few_others_do_not_take_half_of_each_batch():
    context = CellContext(np.zeros(3000, dtype=int), None, ContextOptions())
    plan = context.training(np.arange(2700), 256, seed=0, fill=np.arange(3000))
    batches = list(plan.draw(0))
    assert len(batches) == len(plan) == 12
    assert [len(rows) for rows, _ in batches] == [256] * 12
    np.testing.assert_array_equal(np.sort(targets_of(batches)), np.arange(2700))
    # One cell without a label makes no part the more.
    assert len(context.training(np.arange(2560), 256, seed=0, fill=np.arange(2561))) == 10


def halo_of(xy, tile, n):
    """What is nearest to a tile, looking at all cells."""
    low, high = xy[tile].min(0), xy[tile].max(0)
    distance = np.square(np.maximum(np.maximum(low - xy, xy - high), 0)).sum(1)
    distance[tile] = np.inf
    aside = np.square(xy - (low + high) / 2).sum(1)
    order = np.lexsort((xy[:, 1], xy[:, 0], aside, distance))
    return order[: min(n, len(xy) - len(tile))]


@pytest.mark.parametrize("kind", ["even", "grid", "clumps", "line", "one place"])
@pytest.mark.parametrize("n", [1, 13, 400, 5000])
def test_the_halo_is_that_of_a_search_among_all_cells(kind, n):
    rng = np.random.default_rng(0)
    places = rng.uniform(0, 1, (1500, 2))
    if kind == "grid":
        places = np.round(places * 30)
    elif kind == "clumps":
        places = rng.integers(0, 4, (1500, 2)) + rng.normal(0, 1e-3, (1500, 2))
    elif kind == "line":
        places[:, 1] = 3
    elif kind == "one place":
        places[:] = 1
    context = CellContext(np.zeros(1500, dtype=int), places, ContextOptions("tiles", 100, n))
    found = list(context.sequences())
    tiles = split_tiles(context.positions, 100)
    assert len(found) == len(tiles) == context.n_sequences()
    for (cells, inside), tile in zip(found, tiles, strict=True):
        np.testing.assert_array_equal(cells[inside], tile)
        halo = np.sort(halo_of(context.positions, tile, n))
        np.testing.assert_array_equal(cells[~inside], halo)


def test_tiles_that_nobody_asks_for_are_not_made(monkeypatch):
    samples, places = tissue([400, 300, 300])
    context = CellContext(samples, places, ContextOptions("tiles", 50, 10))
    looked = []
    nearest = Surroundings.nearest
    monkeypatch.setattr(
        Surroundings, "nearest", lambda self, tile, n: looked.append(len(self.xy)) or nearest(self, tile, n)
    )  # fmt: skip
    plan = context.embedding(np.flatnonzero(samples == 1)[:1])
    assert len(plan) == 1
    assert not looked
    assert len(list(plan.draw(0))) == 1
    # One tile of one sample.
    assert looked == [300]
