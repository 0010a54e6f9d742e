"""Figures show what they say, change no more than they say, and are saved where they are told."""

from __future__ import annotations

import anndata as ad
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import scanpy as sc

import scssl


@pytest.fixture(autouse=True)
def autoshow_as_before():
    autoshow = sc.settings.autoshow
    yield
    sc.settings.autoshow = autoshow


class Recorded:
    """A model as far as a plot of its history sees it."""

    def __init__(self, **curves):
        index = pd.RangeIndex(5, name="epoch")
        self.history = {
            key: pd.DataFrame({key: values}, index=index) for key, values in curves.items()
        }


@pytest.fixture
def model():
    return Recorded(
        train_loss=[5, 4, 3, 2, 1],
        validation_loss=[5.0, 3.0, np.nan, 4.0, 6.0],
        effective_rank=[1, 2, 3, 4, 5],
        lr=[0.1] * 5,
    )


def lines(ax):
    return {line.get_label(): line for line in ax.get_lines()}


def test_history_shows_losses_and_rank(model):
    losses, rank = scssl.pl.history(model, show=False)
    curves = lines(losses)
    np.testing.assert_array_equal(curves["training"].get_ydata(), [5, 4, 3, 2, 1])
    np.testing.assert_array_equal(curves["validation"].get_xdata(), [0, 1, 3, 4])
    assert [*curves["best: epoch 1"].get_xdata(), *curves["best: epoch 1"].get_ydata()] == [1, 3]
    assert (losses.get_xlabel(), losses.get_ylabel()) == ("epoch", "loss")
    assert rank.get_ylabel() == "effective rank"


def test_history_without_validation_and_with_one_epoch():
    model = Recorded(train_loss=[5, 4, 3, 2, 1])
    model.history["train_loss"] = model.history["train_loss"].iloc[:1]
    ax = scssl.pl.history(model, show=False)
    assert lines(ax)["training"].get_marker() == "o"


def test_history_of_keys(model):
    ax = scssl.pl.history(model, "lr", show=False)
    assert ax.get_ylabel() == "learning rate"
    axes = scssl.pl.history(model, ["lr", "validation_loss"], show=False)
    assert [ax.get_ylabel() for ax in axes] == ["learning rate", "loss"]


def test_history_on_given_axes(model):
    _, ax = plt.subplots()
    assert scssl.pl.history(model, ax=ax) is ax
    with pytest.raises(ValueError, match="2 panels do not fit in one `ax`"):
        scssl.pl.history(model, ["lr", "train_loss"], ax=ax)


def test_history_unknown_key(model):
    with pytest.raises(KeyError, match="'elbo' was not recorded; the history has 'train_loss'"):
        scssl.pl.history(model, "elbo")
    with pytest.raises(KeyError, match="`keys` is empty"):
        scssl.pl.history(model, [])


def test_history_of_an_untrained_model():
    with pytest.raises(
        ValueError, match=r"Recorded has no training history: call `model.train\(\)`"
    ):
        scssl.pl.history(Recorded())


def test_history_of_several_runs(model):
    other = Recorded(train_loss=[1] * 5, validation_loss=[3, 2, 2.5, 2, 4], effective_rank=[2] * 5)
    for runs, names in (
        ({"first": model, "second": other.history}, ["first", "second"]),
        ([model, other], ["run 1", "run 2"]),
    ):
        losses, rank = scssl.pl.history(runs, show=False)
        curves = lines(losses)
        assert list(curves) == list(lines(rank)) == names
        np.testing.assert_array_equal(curves[names[1]].get_ydata(), [3, 2, 2.5, 2, 4])
        # The least validation loss is marked, by another marker for each run.
        assert [curves[name].get_markevery() for name in names] == [[1], [1]]
        assert len({line.get_marker() for line in curves.values()}) == 2
        assert len({line.get_linestyle() for line in curves.values()}) == 2
        assert (losses.get_ylabel(), rank.get_ylabel()) == ("validation loss", "effective rank")
        assert [text.get_text() for text in rank.get_legend().get_texts()] == names
    del other.history["validation_loss"], other.history["effective_rank"]
    ax = scssl.pl.history([model, other], show=False)
    assert ax.get_ylabel() == "training loss"


def test_history_of_runs_that_cannot_be_drawn(model):
    with pytest.raises(
        KeyError, match="'lr' was not recorded; the history of 'b' has 'train_loss'"
    ):
        scssl.pl.history({"a": model, "b": Recorded(train_loss=[1] * 5)}, "lr")
    with pytest.raises(ValueError, match=r"Recorded \(run 2\) has no training history"):
        scssl.pl.history([model, Recorded()])
    for none in ([], {}):
        with pytest.raises(ValueError, match="`model` is a list of no runs"):
            scssl.pl.history(none)


def test_a_history_alone_is_one_run(model):
    losses, _ = scssl.pl.history(model.history, show=False)
    assert list(lines(losses))[:2] == ["training", "validation"]


@pytest.mark.parametrize("name", ["figure.png", "figure.svg", "new/figure.pdf"])
def test_save(model, tmp_path, name):
    assert scssl.pl.history(model, save=tmp_path / name) is not None
    assert (tmp_path / name).stat().st_size > 1000


@pytest.mark.parametrize(
    ("show", "autoshow", "shown"),
    [(None, True, 1), (None, False, 0), (True, False, 1), (False, True, 0)],
)
def test_show(model, monkeypatch, show, autoshow, shown):
    calls = []
    monkeypatch.setattr(plt, "show", lambda: calls.append(1))
    sc.settings.autoshow = autoshow
    drawn = scssl.pl.history(model, show=show)
    assert len(calls) == shown
    assert (drawn is None) == bool(shown)


# --- embedding ------------------------------------------------------------------------------------


@pytest.fixture
def adata():
    generator = np.random.default_rng(0)
    labels = np.repeat(["B", "T"], 30)
    adata = ad.AnnData(generator.poisson(1, (60, 3)).astype(np.float32))
    adata.var_names = ["CD3D", "MS4A1", "LYZ"]
    adata.obs["label"] = pd.Categorical(labels)
    values = generator.normal(size=(60, 6)) + 20 * (labels == "T")[:, None]
    adata.obsm["X_ssl"] = values.astype(np.float32)
    adata.obsm["X_umap"] = np.zeros((60, 2), dtype=np.float32)
    adata.uns["neighbors"] = {"mine": 1}
    return adata


def test_embedding_separates_types_and_touches_only_its_keys(adata):
    before = adata.copy()
    ax = scssl.pl.embedding(adata, color="label", show=False)
    assert ax.get_title() == "label"
    umap = adata.obsm["X_ssl_umap"]
    assert umap.shape == (60, 2)
    between = np.linalg.norm(umap[:30].mean(0) - umap[30:].mean(0))
    assert between > 2 * umap[:30].std(0).max()
    assert set(adata.obsm) - set(before.obsm) == {"X_ssl_umap"}
    assert set(adata.uns) - set(before.uns) == {"X_ssl_umap", "label_colors"}
    assert adata.uns["neighbors"] == {"mine": 1}
    assert not adata.obsp
    np.testing.assert_array_equal(adata.X, before.X)
    np.testing.assert_array_equal(adata.obsm["X_umap"], before.obsm["X_umap"])


def test_embedding_is_computed_again_only_when_something_changed(adata, monkeypatch, tmp_path):
    calls = []

    def umap(values, *params):
        calls.append(params)
        return values[:, :2] * 1.0

    monkeypatch.setattr("scssl.pl._embedding._umap", umap)
    draw = lambda **kwargs: scssl.pl.embedding(adata, show=False, **kwargs)
    draw()
    draw(color=["label", "CD3D"])
    assert len(calls) == 1
    adata.write_h5ad(tmp_path / "adata.h5ad")
    adata = ad.read_h5ad(tmp_path / "adata.h5ad")
    draw()
    assert len(calls) == 1, "what was kept in a file is used too"
    draw(rng=1)
    draw(rng=1, n_neighbors=5)
    assert calls[1:] == [(15, 0.5, 1), (5, 0.5, 1)]
    adata.obsm["X_ssl"] = adata.obsm["X_ssl"] + 1
    draw(rng=1, n_neighbors=5)
    assert len(calls) == 4
    draw(key_added="other")
    assert "other" in adata.obsm


def test_umap_is_the_same_for_the_same_seed(adata):
    other = adata.copy()
    scssl.pl.embedding(adata, show=False)
    scssl.pl.embedding(other, show=False)
    np.testing.assert_array_equal(adata.obsm["X_ssl_umap"], other.obsm["X_ssl_umap"])


def test_two_dimensions_are_drawn_as_they_are(adata):
    scssl.pl.embedding(adata, "X_umap", show=False)
    assert "X_umap_umap" not in adata.obsm


def test_embedding_is_saved(adata, tmp_path):
    scssl.pl.embedding(adata, "X_umap", ["label", "LYZ"], save=tmp_path / "umap.png")
    assert (tmp_path / "umap.png").stat().st_size > 5000


def test_embedding_on_given_axes(adata):
    _, ax = plt.subplots()
    assert scssl.pl.embedding(adata, "X_umap", "label", ax=ax) is ax


def test_embedding_that_is_not_there(adata):
    with pytest.raises(KeyError, match="adata.obsm has no 'X_pca'"):
        scssl.pl.embedding(adata, "X_pca")


def test_embedding_of_too_few_cells(adata):
    with pytest.raises(ValueError, match="A UMAP needs three cells or more, found 2"):
        scssl.pl.embedding(adata[:2].copy())


# --- several embeddings ---------------------------------------------------------------------------


@pytest.fixture
def several(adata):
    """Two embeddings that are drawn as they are."""
    generator = np.random.default_rng(1)
    adata.obsm["X_before"], adata.obsm["X_after"] = generator.normal(size=(2, 60, 2))
    return adata


def places(ax):
    return np.asarray(ax.collections[0].get_offsets())


def test_embeddings_side_by_side_share_colours_and_a_legend(several):
    keys = ["X_before", "X_after"]
    axes = scssl.pl.embedding(several, keys, "label", title=["before", "after"], show=False)
    assert [ax.get_title() for ax in axes] == ["before", "after"]
    colors = []
    for ax, key in zip(axes, keys, strict=True):
        # scanpy may draw cells in an order of its own; it keeps that of categories.
        np.testing.assert_allclose(places(ax), several.obsm[key], atol=1e-6)
        colors.append(ax.collections[0].get_facecolors())
    np.testing.assert_array_equal(*colors)
    assert axes[0].get_legend() is None
    legend = axes[1].get_legend()
    assert [text.get_text() for text in legend.get_texts()] == ["B", "T"]
    shown = [handle.get_facecolor()[0] for handle in legend.legend_handles]
    np.testing.assert_allclose(np.array(shown), colors[0][[0, 30]])


def test_embeddings_by_colours(several):
    several.obs["gaps"] = several.obs["label"].where(np.arange(60) > 3)
    keys = ["X_before", "X_after"]
    axes = scssl.pl.embedding(several, keys, ["gaps", "LYZ"], show=False)
    assert [ax.get_title() for ax in axes] == [
        "X_before: gaps",
        "X_after: gaps",
        "X_before: LYZ",
        "X_after: LYZ",
    ]
    assert [t.get_text() for t in axes[1].get_legend().get_texts()] == ["B", "T", "NA"]
    # One colour bar for the two panels of a gene.
    assert [len(ax.child_axes) for ax in axes] == [0, 0, 0, 1]
    limits = [ax.collections[0].get_clim() for ax in axes[2:]]
    assert limits[0] == limits[1]
    axes = scssl.pl.embedding(several, keys, show=False)
    assert [ax.get_title() for ax in axes] == keys


def test_embeddings_have_a_umap_each(adata):
    adata.obsm["X_other"] = adata.obsm["X_ssl"][::-1].copy()
    scssl.pl.embedding(adata, ["X_ssl", "X_other"], "label", rng=4, show=False)
    alone = adata.copy()
    del alone.obsm["X_other_umap"]
    scssl.pl.embedding(alone, "X_other", rng=4, show=False)
    np.testing.assert_array_equal(alone.obsm["X_other_umap"], adata.obsm["X_other_umap"])
    assert adata.uns["X_ssl_umap"]["use_rep"] == "X_ssl"


def test_several_embeddings_refused(several):
    keys = ["X_before", "X_after"]
    _, ax = plt.subplots()
    with pytest.raises(ValueError, match="`ax` is for one embedding"):
        scssl.pl.embedding(several, keys, ax=ax)
    with pytest.raises(ValueError, match="`key_added` is for one embedding"):
        scssl.pl.embedding(several, keys, key_added="umap")
    with pytest.raises(ValueError, match=r"each once, found \['X_after', 'X_after'\]"):
        scssl.pl.embedding(several, ["X_after", "X_after"])
    with pytest.raises(ValueError, match="one title for each of the 2 embeddings"):
        scssl.pl.embedding(several, keys, title="after")


def test_genes_of_counts_are_drawn_log_normalised(caplog):
    rng = np.random.default_rng(0)
    counts = rng.poisson(2.0, (40, 6)).astype("f4") * rng.integers(1, 9, (40, 1))
    adata = ad.AnnData(counts, obsm={"xy": rng.random((40, 2))})
    expected = np.log1p(counts[:, 2] / np.maximum(counts.sum(1), 1) * 1e4)

    def drawn(**kwargs):
        ax = scssl.pl.embedding(adata, "xy", color="2", show=False, sort_order=False, **kwargs)
        return np.asarray(ax.collections[0].get_array())

    with caplog.at_level("INFO", logger="scssl"):
        np.testing.assert_allclose(drawn(), expected, rtol=1e-5)
    assert "drawn log-normalised" in caplog.text
    np.testing.assert_array_equal(drawn(use_raw=False), counts[:, 2])
    adata.X = np.log1p(counts)
    np.testing.assert_allclose(drawn(), adata.X[:, 2], rtol=1e-6)
    with pytest.raises(KeyError, match="'7' in `color` is no column"):
        scssl.pl.embedding(adata, "xy", color="7", show=False)


@pytest.mark.parametrize("several", [False, True])
def test_colours_of_any_type(several):
    rng = np.random.default_rng(0)
    adata = ad.AnnData(np.ones((40, 2), "f4"), obsm={"xy": rng.random((40, 2))})
    adata.obsm["uv"] = rng.random((40, 2))
    odd = np.arange(40) % 2
    columns = {
        "nullable": pd.array([None, *(odd[1:] == 1)], dtype="boolean"),
        "whole": pd.array([None, *range(39)], dtype="Int64"),
        "days": pd.date_range("2020-01-01", periods=40),
        "dates": pd.Timestamp("2020-01-01") + pd.to_timedelta(odd, unit="D"),
        "spans": pd.timedelta_range("1D", periods=40),
        "mixed": pd.Series([1, "b"] * 20, dtype=object).to_numpy(),
        "mixed categories": pd.Categorical(np.array([1, "b"] * 20, dtype=object)),
    }
    adata.obs = pd.DataFrame(columns, index=adata.obs_names)
    before = adata.obs.copy()
    keys = ["xy", "uv"] if several else "xy"
    axes = scssl.pl.embedding(adata, keys, color=list(columns), show=False)
    assert len([ax for ax in axes if ax.collections]) >= len(columns)
    pd.testing.assert_frame_equal(adata.obs, before)
    assert len(adata.uns["mixed_colors"]) == len(adata.uns["dates_colors"]) == 2
    days = next(ax for ax in axes if "days" in ax.get_title()).collections[0].get_array()
    assert (np.min(days), np.max(days)) == (0, 39)


def test_a_figure_is_saved_in_a_file():
    adata = ad.AnnData(np.ones((5, 2), "f4"), obsm={"xy": np.eye(5)[:, :2]})
    with pytest.raises(TypeError, match="`save` must be a path, found True"):
        scssl.pl.embedding(adata, "xy", save=True)


def test_axes_are_called_after_what_they_are():
    adata = scssl.datasets.simulated(30, 10)
    adata.obsm["X_pca"] = adata.obsm["spatial"]
    ax = scssl.pl.embedding(adata, "X_pca", show=False)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("X_pca 1", "X_pca 2")
    adata.obsm["X_ssl"] = np.log1p(adata.X.toarray())
    ax = scssl.pl.embedding(adata, show=False)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("UMAP 1", "UMAP 2")
