"""The figure of augmentations shows what the augmentations did."""

from __future__ import annotations

import anndata as ad
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from scipy import sparse

import scssl
from scssl._errors import ScsslWarning
from scssl.augment import (
    Augmentation,
    BinomialThinning,
    CrossOver,
    Mask,
    MutualNeighborMix,
    NeighborMix,
    PoissonResample,
    RandomApply,
)
from scssl.pl._augmentations import _views

N, G = 40, 30


@pytest.fixture
def counts():
    generator = np.random.default_rng(0)
    values = generator.poisson(np.linspace(0.2, 4, G), (N, G)).astype(np.float32)
    adata = ad.AnnData(sparse.csr_matrix(values))
    adata.obs_names = [f"cell{i}" for i in range(N)]
    adata.obs["donor"] = np.where(np.arange(N) % 2, "a", "b")
    return adata


@pytest.fixture
def lognorm(counts):
    values = counts.X.toarray()
    counts.X = np.log1p(values * 1e4 / values.sum(1, keepdims=True)).astype(np.float32)
    return counts


class Double(Augmentation):
    """Twice the expression in view 1, the original in view 0; knows what it was given."""

    seen: list

    def __init__(self):
        self.seen = []

    def transform(self, x, applied, rng, context):
        self.seen.append((x.to_dense(), context))
        return x.to_dense() * (1 + context.view)


def cloud(ax):
    """Points of each view, back at the original expression."""
    lines = {line.get_label(): line for line in ax.get_lines()}
    found = {}
    for name in ("view 0", "view 1"):
        found[name] = np.stack([lines[name].get_xdata(), lines[name].get_ydata()])
    return found


def heights(ax):
    """Histogram of the original (bars) and of each view (outlines)."""
    bars = [patch.get_height() for patch in ax.patches if isinstance(patch, plt.Rectangle)]
    outlines = [patch for patch in ax.patches if isinstance(patch, plt.Polygon)]
    assert len(outlines) == 2
    return np.array(bars)


def test_panels_of_cells(lognorm):
    double = Double()
    axes = scssl.pl.augmentations(lognorm, double, n_cells=4, show=False)
    assert len(axes) == 6
    expression = lognorm.to_df()
    names = [ax.get_title() for ax in axes[:4]]
    assert len(set(names)) == 4
    for ax, name in zip(axes[:4], names, strict=True):
        original = expression.loc[name].to_numpy()
        points, original = cloud(ax), original[original != 0]
        for view, factor in (("view 0", 1), ("view 1", 2)):
            assert abs(points[view][0] - original).max() < 0.02 * original.max()
            np.testing.assert_allclose(points[view][1], factor * original, rtol=1e-6)
            assert points[view][1].max() <= ax.get_ylim()[1]


def test_panels_of_distributions(lognorm):
    library, genes = scssl.pl.augmentations(
        lognorm, Mask(0.5, p=1), panels=["library", "genes"], show=False
    )
    assert (library.get_xlabel(), genes.get_xlabel()) == (
        "expression of a cell",
        "genes above zero",
    )
    assert heights(library).sum() == heights(genes).sum() == N
    # All have the same sum before, about half of it after.
    assert (heights(library) > 0).sum() == 1
    outline = [p.get_xy()[:, 0] for p in library.patches if isinstance(p, plt.Polygon)]
    assert max(x.max() for x in outline) > 1e4
    texts = [text.get_text() for text in library.figure.legends[0].get_texts()]
    assert texts == ["original", "view 0", "view 1"]


def test_counts_are_shown_as_counts(counts):
    ax = scssl.pl.augmentations(counts, Double(), panels="library", show=False)
    assert ax.get_xlabel() == "counts of a cell"
    sums = np.asarray(counts.X.sum(1)).ravel()
    bars = [p for p in ax.patches if isinstance(p, plt.Rectangle) and p.get_height()]
    assert min(bar.get_x() for bar in bars) <= sums.min()
    assert max(bar.get_x() + bar.get_width() for bar in bars) >= sums.max()
    assert heights(ax).sum() == N


def medians(ax):
    """Median of each view, from its outline."""
    found = []
    for outline in (p for p in ax.patches if isinstance(p, plt.Polygon)):
        x, y = outline.get_xy().T
        edges = np.unique(x)
        middle = (edges[1:] + edges[:-1]) / 2
        height = np.array(
            [
                y[:-1][(x[:-1] == low) & (x[1:] == high)].max(initial=0)
                for low, high in zip(edges[:-1], edges[1:], strict=True)
            ]
        )
        assert height.sum() == N * 5
        found.append(middle[np.searchsorted(height.cumsum(), height.sum() / 2)])
    return found


@pytest.fixture
def deep():
    values = np.random.default_rng(3).poisson(20, (N * 5, G)).astype(np.float32)
    return ad.AnnData(sparse.csr_matrix(values))


@pytest.mark.parametrize(
    ("augmentation", "share"),
    [
        (BinomialThinning(0.5, p=1), 0.5),
        (BinomialThinning(0.2, p=1), 0.2),
        ([Mask(0.5, p=1), BinomialThinning(0.5, p=1)], 0.25),
        ([PoissonResample(p=1), BinomialThinning(0.5, p=1)], 0.5),
        (RandomApply(BinomialThinning(0.5, p=1), 1.0), 0.5),
        (RandomApply(BinomialThinning(0.5, p=1), 0.0), 1),
        (BinomialThinning(0.5, p=0), 1),
        (PoissonResample(p=1), 1),
    ],
)
def test_counts_that_were_drawn_are_shown(deep, augmentation, share):
    before = np.median(np.asarray(deep.X.sum(1)))
    ax = scssl.pl.augmentations(deep, augmentation, panels="library", show=False)
    np.testing.assert_allclose(medians(ax), share * before, rtol=0.08, atol=0.02 * before)
    assert ax.get_xlabel() == "counts of a cell"


def test_cells_that_were_left_as_they_are_keep_their_counts(deep):
    thinned = RandomApply(BinomialThinning(0.5, p=1), 0.5)
    drawn = _views(
        deep,
        thinned,
        layer=None,
        batch_key=None,
        input="auto",
        target_sum=1e4,
        batch_size=N * 5,
        seed=0,
    )
    sums = drawn.measures("library")
    for name, view in drawn.views.items():
        same = (view == drawn.original).all(1)
        assert 0.3 < same.mean() < 0.7
        np.testing.assert_allclose(sums[name][same], sums["original"][same])
        # What was drawn are whole numbers, half of those before.
        np.testing.assert_allclose(sums[name], sums[name].round(), rtol=1e-5)
        share = sums[name][~same] / sums["original"][~same]
        assert 0.4 < share.min() < 0.5 < share.max() < 0.6
    assert not {"transform", "_resample"} & {*vars(thinned), *vars(thinned.augmentation)}


def test_augmentations_know_what_they_know_in_training(counts):
    double = Double()
    scssl.pl.augmentations(counts, double, batch_key="donor", batch_size=25, rng=1, show=False)
    (x, first), (_, second) = double.seen
    assert x.shape == (25, G)
    assert (first.view, second.view) == (0, 1)
    assert first.shared_seed == second.shared_seed
    assert first.input_kind == "counts"
    np.testing.assert_allclose(x.expm1().sum(1), 1e4, rtol=1e-4)
    # Which cells these are can be told from their expression.
    values = counts.X.toarray()
    scaled = np.log1p(values * 1e4 / values.sum(1, keepdims=True))
    rows = [int(abs(scaled - cell.numpy()).sum(1).argmin()) for cell in x]
    assert len(set(rows)) == 25
    np.testing.assert_array_equal(first.library, values[rows].sum(1))
    donors = (counts.obs["donor"].to_numpy()[rows] == "b").astype(int)
    assert torch.equal(first.batch, torch.from_numpy(donors))


def test_partners_come_from_the_graph(lognorm):
    # Cell i has the next one as its only neighbour in `next`, and the one after in `skip`.
    for name, step in (("next", 1), ("skip", 2)):
        columns = (np.arange(N) + step) % N
        lognorm.obsp[name] = sparse.csr_matrix((np.ones(N), (np.arange(N), columns)))

    expression = lognorm.to_df()
    shifted = dict(zip(expression.index, np.roll(expression.index, -1), strict=True))
    mix = NeighborMix("next", "int", 0.5, p=1)
    for ax in scssl.pl.augmentations(lognorm, mix, panels="cells", show=False):
        own = expression.loc[ax.get_title()].to_numpy()
        middle = (own + expression.loc[shifted[ax.get_title()]].to_numpy()) / 2
        for points in cloud(ax).values():
            np.testing.assert_allclose(points[1], middle[middle != 0], rtol=1e-5)
    mutual = MutualNeighborMix("skip", "next", p=1)
    assert len(scssl.pl.augmentations(lognorm, mutual, show=False)) == 5


@pytest.mark.parametrize("known", ["batch_key", "uns"])
@pytest.mark.parametrize("wrong", ["mutual", "within"])
def test_graphs_that_training_refuses_are_not_drawn(lognorm, known, wrong):
    for options in ({"method": "mnn", "n_neighbors_within": 5}, {"key_added": "mixed"}):
        scssl.pp.cross_batch_neighbors(lognorm, "donor", n_pcs=5, n_neighbors=5, **options)
    given = {}
    if known == "batch_key":
        lognorm.uns.clear()
        given = {"batch_key": "donor"}
    which = "between batches only" if wrong == "mutual" else "within batches only"
    with pytest.raises(ValueError, match=rf"{which}.*adata.obsp\['mixed'\].*method='mnn'"):
        scssl.pl.augmentations(
            lognorm, [Mask(0.2), MutualNeighborMix(**{wrong: "mixed"})], show=False, **given
        )
    scssl.pl.augmentations(lognorm, [Mask(0.2), MutualNeighborMix()], show=False, **given)


def test_graph_of_nan_is_not_drawn(lognorm):
    lognorm.obsp["near"] = np.full((lognorm.n_obs, lognorm.n_obs), np.nan)
    with pytest.raises(ValueError, match="entries that are NaN"):
        scssl.pl.augmentations(lognorm, NeighborMix("near"), show=False)


def test_graph_of_other_cells_is_told(lognorm):
    scssl.pp.cross_batch_neighbors(lognorm, "donor", n_pcs=5)
    other = lognorm[::-1].copy()
    other.obsp["cross_batch_neighbors"] = lognorm.obsp["cross_batch_neighbors"]
    mix = NeighborMix("cross_batch_neighbors")
    with pytest.warns(ScsslWarning, match="was made of these cells in another order"):
        scssl.pl.augmentations(other, mix, show=False)
    scssl.pl.augmentations(lognorm[::-1].copy(), mix, show=False)


def test_same_seed_same_figure(counts):
    def points(rng):
        ax = scssl.pl.augmentations(counts, "mask", 1, panels="cells", rng=rng, show=False)
        return np.concatenate(list(cloud(ax).values()), axis=1)

    np.testing.assert_array_equal(points(1), points(1))
    assert points(1).shape != points(2).shape or (points(1) != points(2)).any()


def test_saved_and_drawn_where_told(counts, tmp_path):
    _, ax = plt.subplots()
    drawn = scssl.pl.augmentations(
        counts, "clear", panels="genes", ax=ax, save=tmp_path / "new" / "figure.png"
    )
    assert drawn is ax
    assert len(ax.get_legend().get_texts()) == 3
    assert (tmp_path / "new" / "figure.png").stat().st_size > 5000
    with pytest.raises(ValueError, match="3 panels do not fit .*give `panels='cells', n_cells=1`"):
        scssl.pl.augmentations(counts, panels="cells", ax=ax)


def test_few_cells_are_all_there_is(counts):
    assert len(scssl.pl.augmentations(counts[:2].copy(), n_cells=5, show=False)) == 4


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"augmentation": "masks"}, ValueError, "found 'masks'"),
        ({"augmentation": "binomial_thinning"}, ValueError, "resamples counts"),
        ({"augmentation": "neighbor_mix"}, KeyError, "There is no adata.obsp"),
        ({"augmentation": CrossOver(within="batch")}, ValueError, "give `batch_key`"),
        ({"layer": "raw"}, KeyError, "no layer 'raw' in adata.layers; there are: none"),
        ({"batch_key": "lane"}, KeyError, "adata.obs has no 'lane'"),
        ({"input": "counts"}, ValueError, "looks log-normalised"),
        ({"n_cells": 0}, ValueError, "`n_cells` must be a whole number of at least 1"),
        ({"batch_size": 1}, ValueError, "`batch_size`"),
        ({"panels": "umap"}, ValueError, "`panels` must be 'cells', 'library' or 'genes'"),
        ({"panels": []}, ValueError, "`panels`"),
    ],
)
def test_bad_arguments_are_refused(lognorm, options, error, match):
    with pytest.raises(error, match=match):
        scssl.pl.augmentations(lognorm, **options)
    assert not plt.get_fignums(), "no empty figure is left"


def test_sums_that_are_far_apart_are_drawn_on_a_logarithmic_axis():
    adata = scssl.datasets.pbmc68k_reduced()
    axes = scssl.pl.augmentations(adata, n_cells=1, show=False)
    assert [ax.get_xscale() for ax in axes] == ["linear", "log", "linear"]
    original = axes[1].patches
    assert sum(bar.get_height() > 0 for bar in original[:30]) > 3
