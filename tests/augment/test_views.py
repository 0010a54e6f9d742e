"""What holds for every augmentation, sparse or dense: seeds, application, nothing in place."""

from __future__ import annotations

import functools
import itertools
import json

import numpy as np
import pytest
import torch

import scssl.augment
from scssl.augment import (
    Augmentation,
    BinomialThinning,
    Compose,
    CrossOver,
    Dropout,
    GaussianNoise,
    GeneSwap,
    Mask,
    MutualNeighborMix,
    NegativeBinomialNoise,
    NeighborMix,
    PoissonResample,
    RandomApply,
    ViewContext,
    augmentation,
    augmentation_from_config,
    two_views,
)
from scssl.nn import SparseRows

N, G = 60, 120
EVERY = {
    "mask": lambda p: Mask(0.4, p=p),
    "dropout": lambda p: Dropout(p=p),
    "noise": lambda p: GaussianNoise(p=p, clip_min=0),
    "noise on expressed": lambda p: GaussianNoise(0.5, 0.1, p=p, on="expressed"),
    "negative binomial": lambda p: NegativeBinomialNoise(0.3, p=p),
    "poisson": lambda p: PoissonResample(p=p),
    "thinning": lambda p: BinomialThinning((0.3, 0.6), p=p),
    "swap": lambda p: GeneSwap(0.4, p=p),
    "crossover": lambda p: CrossOver(p=p),
    "crossover within": lambda p: CrossOver(0.5, within="batch", p=p),
    "mix": lambda p: NeighborMix("a", alpha=0.3, p=p),
    "mix three": lambda p: NeighborMix("a", ("geo", "int", "exc"), weight="random", p=p),
    "mix genes": lambda p: NeighborMix("a", "exc", p=p),
    "mutual": lambda p: MutualNeighborMix("m", "w", ("int", "geo"), p=p),
    "random apply": lambda p: RandomApply(GeneSwap(0.9, p=1), p),
    "random apply of noise": lambda p: RandomApply(GaussianNoise(p=1), p),
    "random apply of several": lambda p: RandomApply(Compose([Mask(p=1), GeneSwap(p=1)]), p),
}
every = pytest.mark.parametrize("name", EVERY)
kinds = pytest.mark.parametrize("kind", ["sparse", "dense"])


@functools.cache
def counts(seed, n=N, g=G):
    generator = torch.Generator().manual_seed(seed)
    rate = torch.rand(g, generator=generator) ** 2 * 6
    return torch.poisson(rate.expand(n, -1), generator=generator)


def normalised(seed, n=N, g=G):
    found = counts(seed, n, g)
    return torch.log1p(found * 1e4 / found.sum(1, keepdim=True).clamp(min=1))


def rows(x, index=torch.int32):
    """Sparse rows as the loader gives them."""
    found = SparseRows.from_tensor(x)
    return SparseRows(found.pointers.to(index), found.columns.to(index), found.values, x.shape[1])


def batch(kind, seed=0):
    x = normalised(seed)
    return x if kind == "dense" else rows(x)


def dense(x):
    return x.to_dense() if isinstance(x, SparseRows) else x


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def context(view=0, seed=0, **changes):
    walks = (("a",), ("m",), ("w",), ("m", "w"))
    return ViewContext(
        **{
            "view": view,
            "partners": {walk: rows(normalised(10 + i + 5 * view)) for i, walk in enumerate(walks)},
            "batch": torch.arange(N) % 3,
            "input_kind": "counts",
            "library": counts(0).sum(1),
            "shared_seed": seed,
            **changes,
        }
    )


def test_every_class_is_tested_here():
    classes = {
        found
        for found in vars(scssl.augment).values()
        if isinstance(found, type) and issubclass(found, Augmentation)
    }
    tested = {type(make(0.5)) for make in EVERY.values()}
    assert classes - tested == {Augmentation, Compose}


@every
@kinds
def test_input_is_not_changed_and_cells_not_drawn_are_the_same_bits(name, kind):
    x, before = batch(kind), dense(batch(kind)).clone()
    contexts = context(0), context(1)
    partners = [{k: dense(v).clone() for k, v in c.partners.items()} for c in contexts]
    for view, rng in zip(contexts, (seeded(0), seeded(1)), strict=True):
        found = dense(EVERY[name](0.5)(x, rng, view))
        assert torch.equal(dense(x), before)
        same = (found == before).all(1)
        assert 0.25 < same.float().mean() < 0.75, "applied to about half of the cells"
    for view, kept in zip(contexts, partners, strict=True):
        assert all(torch.equal(dense(view.partners[walk]), kept[walk]) for walk in kept)


@every
@kinds
def test_p_is_the_share_of_cells_and_0_is_the_identity(name, kind):
    x = batch(kind)
    assert EVERY[name](0)(x, seeded(), context()) is x
    changed = [
        (dense(EVERY[name](0.2)(x, seeded(seed), context(0, seed))) != dense(x)).any(1)
        for seed in range(50)
    ]
    share = torch.stack(changed).float()
    assert abs(share.mean() - 0.2) < 5 * np.sqrt(0.2 * 0.8 / share.numel())
    # No cell is preferred.
    assert share.mean(0).max() < 0.6
    always = (dense(EVERY[name](1)(x, seeded(), context())) != dense(x)).any(1)
    assert always.float().mean() > 0.95


@every
@kinds
def test_same_seed_same_bits(name, kind):
    def view(seed):
        return dense(EVERY[name](0.7)(batch(kind), seeded(seed), context(0, seed)))

    assert torch.equal(view(3), view(3))
    assert not torch.equal(view(3), view(4))


@every
def test_results_are_valid_batches_with_each_entry_once(name):
    found = EVERY[name](0.5)(rows(normalised(0)), seeded(), context(1))
    if not isinstance(found, SparseRows):
        assert "noise" in name
        assert found.shape == (N, G)
        return
    assert (found.n_cells, found.n_genes) == (N, G)
    assert found.pointers.dtype == found.columns.dtype == torch.int32
    assert found.values.dtype == torch.float32
    assert int(found.pointers[0]) == 0
    assert int(found.pointers[-1]) == found.n_stored == len(found.columns)
    assert bool((found.pointers.diff() >= 0).all())
    keys = found.rows * G + found.columns
    assert len(keys.unique()) == len(keys), "no entry twice"
    assert 0 <= int(found.columns.min()) <= int(found.columns.max()) < G


@every
def test_other_integers_for_columns_do_not_matter(name):
    a, b = (
        dense(EVERY[name](0.5)(rows(normalised(0), index), seeded(), context()))
        for index in (torch.int32, torch.int64)
    )
    assert torch.equal(a, b)


@every
def test_the_views_differ(name):
    first, second = two_views(
        rows(normalised(0)), EVERY[name](1), seeded(), (context(0), context(1))
    )
    assert bool((dense(first) != dense(second)).any(1).float().mean() > 0.95)


@every
@kinds
def test_sparse_and_dense_agree_in_distribution(name, kind):
    # Every entry averaged over many draws, of copies of the same few cells.
    cells, copies, calls = 6, 40, 10

    def copied(x):
        return x[:cells].repeat(copies, 1)

    many = context(
        1,
        batch=torch.arange(cells * copies) % 2,
        library=copied(counts(0)).sum(1),
        partners={walk: rows(copied(dense(p))) for walk, p in context().partners.items()},
    )
    make, n, x = EVERY[name](1), copies * calls, copied(normalised(0))

    def draws(given, seed):
        rng = seeded(seed)
        found = torch.stack([dense(make(given, rng, many)) for _ in range(calls)])
        return found.view(n, cells, G)

    found = draws(rows(x), 1), draws(x, 2)
    for measure in (lambda d: d, lambda d: (d == 0).float(), lambda d: d.square()):
        a, b = (measure(d) for d in found)
        error = torch.sqrt((a.var(0) + b.var(0)) / n)
        z = (a.mean(0) - b.mean(0)) / error.clamp(min=1e-4)
        assert z.abs().max() < 5


@every
def test_config_is_json_and_builds_it_again(name):
    made = EVERY[name](0.3)
    again = augmentation_from_config(json.loads(json.dumps(made.config())))
    assert type(again) is type(made)
    assert again.config() == made.config()
    assert repr(again) == repr(made)
    assert repr(made) == repr(eval(repr(made), vars(scssl.augment)))
    views = [dense(a(rows(normalised(0)), seeded(), context())) for a in (made, again)]
    assert torch.equal(*views)


def test_compose_applies_in_order():
    steps = [CrossOver(0.5, p=1), Mask(0.5, p=1), GaussianNoise(0.1, p=1)]
    rng, x = seeded(), rows(normalised(0))
    expected = x
    for step in steps:
        expected = step(expected, rng, context())
    found = Compose(steps)(x, seeded(), context())
    assert torch.equal(dense(found), dense(expected))
    assert isinstance(found, torch.Tensor)


def test_compose_sums_up_its_steps():
    both = Compose([NeighborMix("a"), MutualNeighborMix("m", "w"), NeighborMix("a"), Mask()])
    assert both.walks(0) == (("a",), ("w",))
    assert both.walks(1) == (("a",), ("m",), ("m", "w"))
    assert not both.needs_counts
    assert Compose([Mask(), PoissonResample()]).needs_counts
    assert RandomApply(Compose([PoissonResample()])).needs_counts
    assert RandomApply(both).walks(1) == both.walks(1)


def test_presets():
    assert repr(augmentation("clear")) == repr(
        Compose(
            [
                Mask(0.2, p=0.5),
                GaussianNoise(0.8, 0.2, p=0.5),
                GeneSwap(0.1, p=0.5),
                CrossOver(0.25, p=0.5),
            ]
        )
    )
    assert repr(augmentation("scsslbench")) == repr(
        Compose([Mask(0.5, p=0.5), GaussianNoise(0.3, 0.2, p=0.5), GeneSwap(0.3, p=0.5)])
    )
    integration = augmentation("integration")
    assert repr(integration) == repr(
        Compose([MutualNeighborMix(p=0.8), Mask(0.5, p=0.8, rescale=True)])
    )
    assert integration.walks(1) == (("mnn",), ("mnn", "mnn_within"))
    default = augmentation("default")
    assert not default.needs_counts
    assert not default.walks(1)
    assert augmentation(default) is default
    assert augmentation("gene_swap", rate=0.3).rate == 0.3
    mixed = augmentation(["default", GeneSwap(), "neighbor_mix"])
    assert mixed.walks(0) == (("cross_batch_neighbors",),)


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (
            lambda: augmentation("masks"),
            ValueError,
            "be 'default', 'integration'.*found 'masks'",
        ),
        (lambda: augmentation(3), TypeError, "a list of them, found int"),
        (lambda: augmentation([Mask(), 3]), TypeError, "found int"),
        (lambda: augmentation([]), ValueError, "empty: give at least one"),
        (lambda: augmentation("mask", share=1), ValueError, "does not take these options"),
        (lambda: augmentation("clear", p=1), ValueError, r"takes no options \(p\)"),
        (lambda: augmentation([Mask()], p=1), ValueError, r"takes no options \(p\)"),
        (lambda: augmentation(Mask(), p=1), ValueError, "already"),
        (lambda: Compose([torch.nn.Identity()]), TypeError, "found Identity"),
        (lambda: RandomApply("mask"), TypeError, "found str"),
        (lambda: RandomApply(Mask(), 2), ValueError, r"`p` must be a number in \[0, 1\], found 2"),
        (lambda: Mask(0), ValueError, r"`rate` must be a number in \(0, 1\), found 0"),
        (lambda: Mask(True), ValueError, "`rate`"),
        (lambda: Mask(p=-0.1), ValueError, "`p`"),
        (lambda: Dropout(1.1), ValueError, "`rate`"),
        (lambda: Dropout(decay=0), ValueError, "`decay` must be a positive number, found 0"),
        (lambda: GaussianNoise(scale=float("nan")), ValueError, "`scale`"),
        (lambda: GaussianNoise(on="some"), ValueError, "`on` must be 'all' or 'expressed'"),
        (lambda: GaussianNoise(clip_min=0.5), ValueError, "`clip_min` must be 0 or None"),
        (lambda: NegativeBinomialNoise(-1), ValueError, "`dispersion`"),
        (lambda: BinomialThinning((0.6, 0.3)), ValueError, "`keep` must be two ascending"),
        (lambda: BinomialThinning(1.2), ValueError, "`keep`"),
        (lambda: BinomialThinning((0.1, 0.2, 0.3)), ValueError, "`keep`"),
        (lambda: GeneSwap(0), ValueError, "`rate`"),
        (lambda: CrossOver(within="donor"), ValueError, "`within` must be None or 'batch'"),
        (lambda: NeighborMix(mix="mean"), ValueError, "`mix` must be some of 'int', 'geo', 'exc'"),
        (lambda: NeighborMix(mix=()), ValueError, "`mix`"),
        (lambda: NeighborMix(mix=("int", "int")), ValueError, "each once"),
        (lambda: NeighborMix(alpha=1), ValueError, "`alpha`"),
        (lambda: NeighborMix(weight="any"), ValueError, "`weight`"),
        (lambda: NeighborMix(("a",)), ValueError, "`graph` must be the name of a graph"),
        (lambda: MutualNeighborMix(within=""), ValueError, "`within` must be the name"),
        (lambda: ViewContext(view=2), ValueError, "`view` must be 0 or 1, found 2"),
    ],
)
def test_bad_arguments_are_refused(make, error, match):
    with pytest.raises(error, match=match):
        make()


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: Mask(np.float32(0.25), p=np.int64(1)), Mask(0.25, p=1)),
        (lambda: Dropout(decay=np.float32(0.5)), Dropout(decay=0.5)),
        (
            lambda: GaussianNoise(scale=np.int32(2), p=np.float16(0.5)),
            GaussianNoise(scale=2, p=0.5),
        ),
        (lambda: BinomialThinning(np.float32(0.5)), BinomialThinning(0.5)),
        (lambda: BinomialThinning(np.array([0.25, 1], np.float32)), BinomialThinning((0.25, 1))),
        (lambda: RandomApply(Mask(0.5), np.float32(0.5)), RandomApply(Mask(0.5), 0.5)),
    ],
)
def test_numbers_of_numpy_are_numbers(make, expected):
    assert repr(make()) == repr(expected)
    assert json.dumps(make().config()) == json.dumps(expected.config())


@pytest.mark.parametrize("value", [True, np.True_, np.array([0.5]), "0.5", 0.5j, None])
def test_what_is_no_number_is_refused(value):
    with pytest.raises(ValueError, match="`rate` must be a number"):
        Mask(value)
    with pytest.raises(ValueError, match="`keep` must be"):
        BinomialThinning((value, 1))


def test_foreign_augmentations_are_not_built_from_a_config():
    class Own(Mask):
        pass

    config = Own(0.3).config()
    assert config["rate"] == 0.3
    with pytest.raises(
        ValueError, match="is not one of scssl .*nothing that is loaded may bring code"
    ):
        augmentation_from_config(config)
    with pytest.raises(ValueError, match="is not one of scssl"):
        augmentation_from_config(Compose([Mask(), Own()]).config())
    with pytest.raises(ValueError, match="None is not one of scssl"):
        augmentation_from_config({})


def test_views_of_other_batches_are_refused():
    x = rows(normalised(0))
    with pytest.raises(ValueError, match=r"view 0 and view 1, found views \(0, 0\)"):
        two_views(x, Mask(), seeded(), (context(0), context(0)))
    with pytest.raises(ValueError, match="`shared_seed` must be the same .* found 1 and 2"):
        two_views(x, Mask(), seeded(), (context(0, 1), context(1, 2)))


@every
@kinds
def test_tiny_batches(name, kind):
    for n, g in itertools.product((0, 1, 2), (1, 2, 3)):
        x = normalised(0, 3, g)[:n]
        partners = {walk: rows(x) for walk in context().partners}
        batch = torch.zeros(n, dtype=torch.int64)
        small = context(1, batch=batch, library=torch.ones(n), partners=partners)
        given = rows(x) if kind == "sparse" else x
        found = dense(EVERY[name](1)(given, seeded(), small))
        assert found.shape == (n, g)
        assert bool(found.isfinite().all())


@every
def test_empty_cells_stay_finite(name):
    x = torch.zeros(N, G)
    partners = {walk: rows(x) for walk in context().partners}
    for given in (x, rows(x)):
        found = EVERY[name](1)(given, seeded(), context(library=torch.zeros(N), partners=partners))
        assert bool(dense(found).isfinite().all())
