"""Cells are drawn where they are, in the colours of what they are, and domains as what they are made of."""

from __future__ import annotations

import anndata as ad
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgba

import scssl


@pytest.fixture
def adata():
    generator = np.random.default_rng(0)
    obs = pd.DataFrame(
        {"section": np.resize(["b", "a", "c"], 60), "type": np.resize(["T", "B"], 60)}
    )
    obs.index = [f"cell{i}" for i in range(60)]
    obs["score"] = np.linspace(0, 1, 60)
    adata = ad.AnnData(generator.poisson(3, (60, 4)).astype(np.float32), obs=obs)
    adata.var_names = ["G0", "G1", "G2", "G3"]
    adata.obsm["spatial"] = generator.random((60, 2)) * [1000, 500]
    adata.obsm["X_ssl"] = generator.normal(size=(60, 3))
    adata.obsm["protein"] = pd.DataFrame({"CD3": np.arange(60.0)}, index=obs.index)
    return adata


def spatial(adata, *args, **kwargs):
    found = scssl.pl.spatial(adata, *args, show=False, **kwargs)
    return found if isinstance(found, list) else [found]


def test_cells_of_each_section_are_where_they_are(adata):
    adata.obsm["spatial"][3] = np.nan
    axes = spatial(adata, "type", sample_key="section")
    assert [ax.get_title() for ax in axes] == ["a", "b", "c"]
    for ax in axes:
        own = (adata.obs["section"] == ax.get_title()).to_numpy() & (np.arange(60) != 3)
        np.testing.assert_array_equal(ax.collections[0].get_offsets(), adata.obsm["spatial"][own])
        colors = dict(zip("BT", adata.uns["type_colors"], strict=True))
        expected = [to_rgba(colors[one]) for one in adata.obs["type"][own]]
        np.testing.assert_array_equal(ax.collections[0].get_facecolors(), expected)
        assert ax.get_aspect() == 1
        assert ax.yaxis_inverted()
    legend = axes[-1].get_legend()
    assert legend.get_title().get_text() == "type"
    assert [text.get_text() for text in legend.get_texts()] == ["B", "T"]


def test_sections_that_are_asked_for(adata):
    axes = spatial(adata, sample_key="section", samples=["c", "a"], n_columns=1, origin="lower")
    assert [ax.get_title() for ax in axes] == ["c", "a"]
    assert not axes[0].yaxis_inverted()
    assert axes[0].get_position().y0 > axes[1].get_position().y1, "below one another"
    with pytest.raises(
        KeyError, match=r"No cell with a place is in 'd' of adata.obs\['section'\]; "
    ):
        spatial(adata, sample_key="section", samples=["d"])
    with pytest.raises(ValueError, match="`samples` are sections of a `sample_key`"):
        spatial(adata, samples=["a"])


@pytest.mark.parametrize("color", ["score", ("X_ssl", 1), ("protein", "CD3"), "G2"])
def test_numbers_have_one_scale_for_all_sections(adata, color):
    sums = adata.X.sum(axis=1)
    values = {
        "score": adata.obs["score"].to_numpy(),
        ("X_ssl", 1): adata.obsm["X_ssl"][:, 1],
        ("protein", "CD3"): np.arange(60.0),
        "G2": np.log1p(1e4 * adata.X[:, 2] / sums),
    }[color]
    axes = spatial(adata, color, sample_key="section", cmap="magma")
    scaled = (values - values.min()) / np.ptp(values)
    for ax in axes:
        own = (adata.obs["section"] == ax.get_title()).to_numpy()
        expected = plt.get_cmap("magma")(scaled[own])
        np.testing.assert_allclose(ax.collections[0].get_facecolors(), expected, atol=1 / 200)
    assert "score_colors" not in adata.uns


def test_several_colours_are_rows(adata):
    adata.obs.loc["cell0", "type"] = np.nan
    axes = spatial(adata, ["type", ("X_ssl", 0)], sample_key="section")
    assert [ax.get_title() for ax in axes] == ["a", "b", "c"] * 2
    texts = [text.get_text() for text in axes[2].get_legend().get_texts()]
    assert texts == ["B", "T", "NA"]
    first = axes[1].collections[0].get_facecolors()[0]
    np.testing.assert_array_equal(first, to_rgba("lightgray"))
    assert axes[5].child_axes[0].get_ylabel() == "X_ssl 0"


def test_a_bar_of_a_round_length_where_the_unit_is_known(adata):
    def bar(**kwargs):
        [ax] = spatial(adata, **kwargs)
        if not ax.lines:
            return None
        return np.ptp(ax.lines[0].get_xdata()), ax.texts[0].get_text()

    assert bar() is None
    assert bar(microns_per_unit=0.5) == (pytest.approx(200), "100 µm")
    assert bar(microns_per_unit=10) == (pytest.approx(200), "2 mm")
    library = {"scalefactors": {"microns_per_pixel": 0.2}}
    adata.uns["spatial"] = {"one": library, "two": library}
    assert bar() == (pytest.approx(100), "20 µm")
    adata.uns["spatial"]["two"] = {"scalefactors": {"microns_per_pixel": 0.3}}
    assert bar() is None


def test_colours_that_are_there_are_kept(adata):
    adata.uns["type_colors"] = ["#ff0000", "#00ff00"]
    [ax] = spatial(adata, "type")
    assert set(map(tuple, ax.collections[0].get_facecolors())) == {(1, 0, 0, 1), (0, 1, 0, 1)}


def test_what_is_not_there(adata):
    for color, message in {
        "G9": "'G9' in `color` is no column of adata.obs .*, and no gene",
        ("X_ssl", 3): r"adata.obsm\['X_ssl'\] has no column 3; it has '0', '1', '2'",
        ("X_pca", 0): "must be an entry of adata.obsm, which has 'spatial'",
    }.items():
        with pytest.raises(KeyError, match=message):
            spatial(adata, color)
    with pytest.raises(ValueError, match="3 panels do not fit in one `ax`"):
        spatial(adata, sample_key="section", ax=plt.figure().subplots())
    with pytest.raises(ValueError, match="`color` is empty"):
        spatial(adata, [])


def test_bars_are_shares_of_types(adata):
    adata.obs["spatial_domain"] = pd.Categorical.from_codes(np.arange(60) % 3 // 2, ["0", "1"])
    adata.obs.loc["cell0", "type"] = np.nan
    ax = scssl.pl.domain_composition(adata, "type", show=False)
    counts = pd.crosstab(adata.obs["spatial_domain"], adata.obs["type"].fillna("NA"))
    shares = counts.div(counts.sum(axis=1), axis=0)[["B", "T", "NA"]]
    heights = np.array([bar.get_height() for bar in ax.patches]).reshape(3, 2)
    np.testing.assert_allclose(heights, shares.T)
    bottoms = np.array([bar.get_y() for bar in ax.patches]).reshape(3, 2)
    np.testing.assert_allclose(bottoms[1:], shares.T.cumsum()[:-1])
    assert [text.get_text() for text in ax.texts] == ["40", "20"]


def test_stability_by_number(adata):
    table = pd.DataFrame({"n_domains": [2, 3], "stability": [0.5, 0.95], "sd": [0.1, 0.1]})
    adata.uns["mine"] = {"n_domains": 3, "stability": table}
    ax = scssl.pl.n_domains(adata, "mine", show=False)
    np.testing.assert_array_equal(ax.lines[0].get_xydata(), [[2, 0.5], [3, 0.95]])
    assert ax.lines[1].get_xdata()[0] == 3
    with pytest.raises(
        KeyError, match='adata.uns has no stability of numbers of domains in "n_dom'
    ):
        scssl.pl.n_domains(adata, show=False)
