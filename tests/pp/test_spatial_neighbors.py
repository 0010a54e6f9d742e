"""Neighbours in space are those that all distances give, section by section."""

from __future__ import annotations

import logging

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy.spatial.distance import cdist

import scssl
from scssl._errors import ScsslWarning

neighbors = scssl.pp.spatial_neighbors


def cells(places, sections=None):
    places = np.asarray(places, dtype=np.float64)
    obs = pd.DataFrame(index=[f"cell{i}" for i in range(len(places))])
    if sections is not None:
        obs["section"] = sections
    return ad.AnnData(obs=obs, obsm={"spatial": places})


@pytest.fixture
def tissue():
    """Two sections that lie over each other, their cells in turn."""
    places = np.random.default_rng(0).random((60, 2))
    return cells(places, np.resize(["a", "b", "a"], 60))


def links(adata, key="spatial"):
    return adata.obsp[f"{key}_connectivities"].toarray() > 0


def same_section(adata):
    section = adata.obs["section"].to_numpy()
    return section[:, None] == section


def test_nearest_cells_of_the_section(tissue):
    neighbors(tissue, sample_key="section", n_neighbors=4)
    distances = cdist(tissue.obsm["spatial"], tissue.obsm["spatial"])
    distances[~same_section(tissue) | np.eye(60, dtype=bool)] = np.inf
    fourth = np.sort(distances, axis=1)[:, 3:4]
    np.testing.assert_array_equal(links(tissue), distances <= fourth)
    found = tissue.obsp["spatial_distances"].toarray()
    np.testing.assert_allclose(found, np.where(links(tissue), distances, 0))


def test_cells_within_a_radius(tissue):
    neighbors(tissue, sample_key="section", method="radius", radius=0.15)
    distances = cdist(tissue.obsm["spatial"], tissue.obsm["spatial"])
    expected = (distances <= 0.15) & same_section(tissue) & ~np.eye(60, dtype=bool)
    np.testing.assert_array_equal(links(tissue), expected)


def test_corners_of_triangles_have_no_cell_in_their_circle():
    adata = cells(np.random.default_rng(1).random((25, 2)))
    neighbors(adata, method="delaunay")
    places, found = adata.obsm["spatial"], links(adata)
    expected = np.zeros_like(found)
    for i in range(25):
        for j in range(i):
            for k in range(j):
                a, b, c = places[[i, j, k]]
                center = np.linalg.solve(
                    2 * np.array([b - a, c - a]), [b @ b - a @ a, c @ c - a @ a]
                )
                radius = np.linalg.norm(a - center)
                others = np.delete(places, [i, j, k], axis=0)
                if (np.linalg.norm(others - center, axis=1) > radius).all():
                    for one, other in ((i, j), (i, k), (j, k)):
                        expected[one, other] = expected[other, one] = True
    np.testing.assert_array_equal(found, expected)


def test_long_links_are_left_out(tissue):
    neighbors(tissue, method="delaunay", key_added="all")
    lengths = tissue.obsp["all_distances"].toarray()
    neighbors(tissue, method="delaunay", percentile=90)
    limit = np.percentile(lengths[lengths > 0], 90)
    np.testing.assert_array_equal(links(tissue), (lengths > 0) & (lengths <= limit))
    neighbors(tissue, radius=0.1)
    assert 0 < tissue.obsp["spatial_distances"].max() <= 0.1


def test_layout_of_squidpy(tissue):
    neighbors(tissue, sample_key="section", radius=0.5)
    written = tissue.uns["spatial_neighbors"]
    assert written["connectivities_key"] == "spatial_connectivities"
    assert written["distances_key"] == "spatial_distances"
    assert written["params"] == {
        "coord_type": "generic",
        "method": "knn",
        "n_neighbors": 6,
        "radius": 0.5,
        "spatial_key": "spatial",
        "sample_key": "section",
    }
    connectivities = tissue.obsp["spatial_connectivities"]
    assert connectivities.dtype == np.float32
    assert (connectivities.data == 1).all()
    assert tissue.obsp["spatial_distances"].dtype == np.float64


def test_it_can_be_written(tissue, tmp_path):
    tissue.obs[["x", "y"]] = tissue.obsm["spatial"]
    neighbors(tissue, spatial_key=["x", "y"])
    tissue.write_h5ad(tmp_path / "cells.h5ad")
    read = ad.read_h5ad(tmp_path / "cells.h5ad")
    assert list(read.uns["spatial_neighbors"]["params"]["spatial_key"]) == ["x", "y"]
    np.testing.assert_array_equal(links(read), links(tissue))


@pytest.mark.parametrize("method", ["knn", "radius", "delaunay"])
def test_cells_without_a_place_and_lone_cells_have_no_neighbours(tissue, method, caplog):
    tissue.obsm["spatial"][5] = np.nan
    tissue.obs["section"] = ["alone", *np.resize(["a", "b"], 59)]
    with caplog.at_level(logging.INFO, logger="scssl"):
        neighbors(tissue, sample_key="section", method=method, radius=2.0)
    found = links(tissue)
    assert not found[[0, 5]].any()
    assert not found[:, [0, 5]].any()
    assert found[1:5].any(axis=1).all()
    assert "3 sections: " in caplog.text
    assert "2 cells have none, 1 of them without a place" in caplog.text


@pytest.mark.parametrize("n", [2, 3, 5])
@pytest.mark.parametrize("method", ["knn", "delaunay"])
def test_sections_of_few_cells(n, method):
    adata = cells(np.arange(2.0 * n).reshape(n, 2))
    neighbors(adata, method=method, n_neighbors=1)
    steps = np.abs(np.subtract.outer(np.arange(n), np.arange(n)))
    if method == "delaunay":  # all on a line: each beside the next
        np.testing.assert_array_equal(links(adata), steps == 1)
    assert (links(adata).sum(axis=1) >= 1).all()


def test_three_dimensions():
    places = np.random.default_rng(0).random((40, 3))
    adata = cells(places)
    neighbors(adata, n_neighbors=3)
    distances = cdist(places, places) + np.diag(np.full(40, np.inf))
    expected = distances <= np.sort(distances, axis=1)[:, 2:3]
    np.testing.assert_array_equal(links(adata), expected)
    neighbors(adata, method="delaunay")
    assert links(adata).sum() > 40 * 6
    # Cells in a plane of space are neighbours as they are in the plane.
    flat = cells(np.hstack([places[:, :2], np.ones((40, 1))]))
    plane = cells(places[:, :2])
    for one in (flat, plane):
        neighbors(one, method="delaunay")
    np.testing.assert_array_equal(links(flat), links(plane))


@pytest.mark.parametrize("method", ["knn", "delaunay"])
def test_cells_at_one_place(method):
    places = np.random.default_rng(0).random((20, 2))
    adata = cells(np.vstack([places, places[:1], places[:1], places[:1]]))
    with pytest.warns(ScsslWarning, match="3 of 23 cells are at the place of another cell"):
        neighbors(adata, method=method, n_neighbors=2)
    found, shared = links(adata), [0, 20, 21, 22]
    assert not found.diagonal().any()
    assert (found[np.ix_(shared, shared)].sum(axis=1) == (2 if method == "knn" else 3)).all()
    distances = adata.obsp["spatial_distances"]
    assert distances.nnz == found.sum()
    if method == "delaunay":  # what is a neighbour of one of them is a neighbour of all
        assert (found[:20][:, shared][1:] == found[1:20, :1]).all()


def test_bad_arguments(tissue):
    with pytest.raises(ValueError, match="`method` must be 'knn', 'radius' or 'delaunay'"):
        neighbors(tissue, method="grid")
    with pytest.raises(ValueError, match='method="radius" needs a `radius`; nearest cells are 0.0'):
        neighbors(tissue, method="radius")
    with pytest.raises(ValueError, match="No cell has another within radius=1e-06"):
        neighbors(tissue, method="radius", radius=1e-6)
    with pytest.raises(ValueError, match=r"`percentile` must be a number in \(0, 100\]"):
        neighbors(tissue, percentile=0)
    with pytest.raises(KeyError, match="There is no column .*slide.* in adata.obs, which"):
        neighbors(tissue, sample_key="slide")
    tissue.obsm["spatial"][:] = np.nan
    with pytest.raises(ValueError, match="is NaN for all cells: none has a place"):
        neighbors(tissue)
    assert not tissue.obsp


def test_a_radius_in_another_unit_is_refused_before_memory_is_needed():
    adata = cells(np.random.default_rng(0).random((20_000, 2)))
    with pytest.raises(ValueError, match="Within radius=100 are 19,999 cells of each"):
        neighbors(adata, method="radius", radius=100)
