"""Figures of what was found: labels that were transferred, mixing of batches, predicted proteins."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import scssl


@pytest.fixture(scope="module")
def cells():
    adata = scssl.datasets.simulated(120, 30, n_types=3, n_proteins=9)
    adata.obsm["X_two"] = np.log1p(adata.X[:, :2].toarray()) + adata.obsm["spatial"] / 100
    noise = np.random.default_rng(0).normal(scale=2, size=adata.obsm["protein"].shape)
    adata.obsm["predicted"] = adata.obsm["protein"] / 2 + noise
    return adata


def test_label_transfer_draws_what_was_called_how_sure_and_how_novel(cells):
    reference, query = cells[:80].copy(), cells[80:].copy()
    scssl.tl.label_transfer(reference, query, "cell_type", use_rep="X_two", key_added="found")
    panels = scssl.pl.label_transfer(query, "found", show=False)
    for panel, end in zip(panels, ("call", "confidence", "novelty"), strict=True):
        assert panel.get_title() == f"found_{end}"
        drawn = panel.collections[0]
        assert len(drawn.get_offsets()) == query.n_obs
        if end != "call":
            assert drawn.get_clim() == (0, 1)
            order = np.argsort(drawn.get_offsets()[:, 0])
            expected = query.obs[f"found_{end}"].to_numpy()[np.argsort(query.obsm["X_two"][:, 0])]
            np.testing.assert_allclose(drawn.get_array()[order], expected)


def test_unknown_cells_are_grey_unless_colours_were_chosen(cells):
    reference, query = cells[:80].copy(), cells[80:].copy()
    scssl.tl.label_transfer(reference, query, "cell_type", use_rep="X_two", unknown_label="new")
    names = query.obs["ssl_label_call"].cat.categories
    scssl.pl.label_transfer(query, panels="call", show=False)
    colors = dict(zip(names, query.uns["ssl_label_call_colors"], strict=True))
    assert colors["new"] == "#d3d3d3"
    assert len(set(colors.values())) == len(names) == 4
    query.uns["ssl_label_call_colors"] = chosen = ["#000000", "#111111", "#222222", "#333333"]
    scssl.pl.label_transfer(query, panels="call", show=False)
    assert list(query.uns["ssl_label_call_colors"]) == chosen


def test_label_transfer_needs_one(cells):
    with pytest.raises(KeyError, match="has no transfer of labels"):
        scssl.pl.label_transfer(cells)


def test_batch_mixing_has_a_point_for_each_embedding():
    scores = pd.DataFrame(
        {"use_rep": ["X_pca", "X_ssl"], "mixed": [0.3, 0.9], "types_kept": [0.8, 0.81]}
    )
    ax = scssl.pl.batch_mixing(scores, show=False)
    assert [line.get_xydata()[0].tolist() for line in ax.lines] == [[0.3, 0.8], [0.9, 0.81]]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["X_pca", "X_ssl"]
    low, high = ax.get_ylim()
    assert high - low == pytest.approx(0.2)
    with pytest.raises(ValueError, match="no scores of types"):
        scssl.pl.batch_mixing(scores.assign(types_kept=np.nan), show=False)


def test_modality_scores_draws_the_best_first_with_their_correlation(cells):
    panels = scssl.pl.modality_scores(cells, "protein", "predicted", show=False)
    names = cells.obsm["protein"].columns
    by_hand = {
        name: np.corrcoef(cells.obsm["protein"][name], cells.obsm["predicted"][name])[0, 1]
        for name in names
    }
    order = sorted(names, key=lambda name: -by_hand[name])[:8]
    assert [panel.get_title() for panel in panels] == [
        f"{name}, r = {by_hand[name]:.2f}" for name in order
    ]
    points = panels[0].collections[0].get_offsets()
    np.testing.assert_allclose(points[:, 0], cells.obsm["protein"][order[0]])
    np.testing.assert_allclose(points[:, 1], cells.obsm["predicted"][order[0]])
    assert "modality_scores" not in cells.uns


def test_modality_scores_of_some_cells_and_features_without_names(cells):
    plain = cells.copy()
    plain.obsm["predicted"] = plain.obsm["predicted"].to_numpy()
    few = np.arange(120) % 2 == 0
    ax = scssl.pl.modality_scores(
        plain, "protein", "predicted", features="protein3", indices=few, show=False
    )
    points = ax.collections[0].get_offsets()
    np.testing.assert_allclose(points[:, 0], cells.obsm["protein"]["protein3"][few])
    np.testing.assert_allclose(points[:, 1], cells.obsm["predicted"]["protein3"][few])
    with pytest.raises(KeyError, match="has no 'CD3', but 'protein1'"):
        scssl.pl.modality_scores(plain, "protein", "predicted", features=["CD3"])
