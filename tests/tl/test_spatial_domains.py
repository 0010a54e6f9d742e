"""Domains are found where neighbourhoods differ, and what is done is what is said."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from sklearn.metrics import adjusted_rand_score, homogeneity_score, normalized_mutual_info_score

import scssl
from scssl._errors import ScsslWarning
from scssl.tl._spatial_domains import _components, _hops, _majority

domains = scssl.tl.spatial_domains


def tissue(n_side=20, noise=4, shift=0.0, seed=0):
    """Two sections of three layers; of one cell alone the layer can hardly be told."""
    generator = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(np.arange(n_side), np.arange(n_side)), axis=2).reshape(-1, 2)
    places = np.vstack([grid, grid]) + generator.normal(0, 0.1, (2 * len(grid), 2))
    layer = np.minimum(3 * np.vstack([grid, grid])[:, 0] // n_side, 2)
    section = np.repeat([0, 1], len(grid))
    values = 2 * np.eye(3)[layer] @ generator.normal(size=(3, 5))
    values += generator.normal(size=values.shape) * noise + shift * section[:, None]
    order = generator.permutation(len(places))
    obs = pd.DataFrame({"layer": layer[order], "section": section[order]}).astype(str)
    obs.index = [f"cell{i}" for i in range(len(order))]
    adata = ad.AnnData(obs=obs, obsm={"X_ssl": values[order], "spatial": places[order]})
    scssl.pp.spatial_neighbors(adata, sample_key="section")
    return adata


@pytest.fixture(scope="module")
def layers():
    return tissue()


def ari(adata, key="spatial_domain", truth="layer"):
    return adjusted_rand_score(adata.obs[truth], adata.obs[key])


def steps(graph):
    """Steps from each cell to each other, by breadth."""
    from scipy.sparse.csgraph import shortest_path

    return shortest_path(graph, unweighted=True)


# --- what cells are divided by --------------------------------------------------------------------


def test_hops_are_means_over_the_cells_so_many_steps_away(layers):
    graph = sparse.csr_matrix(layers.obsp["spatial_connectivities"], dtype=np.float64)
    values = layers.obsm["X_ssl"]
    found = list(_hops(values, graph, 3))
    away = steps(graph)
    assert len(found) == 4
    for hop, means in enumerate(found):
        rows = range(0, len(values), 37)
        expected = [values[away[i] == hop].mean(axis=0) for i in rows]
        np.testing.assert_allclose(means[rows], expected)


def test_where_no_cell_is_so_far_the_step_before_stands():
    graph = sparse.csr_matrix(np.array([[0, 1, 0], [1, 0, 0], [0, 0, 0]], dtype=float))
    values = np.array([[1.0], [2.0], [5.0]])
    found = np.hstack(list(_hops(values, graph, 2)))
    np.testing.assert_array_equal(found, [[1, 2, 2], [2, 1, 1], [5, 5, 5]])


def test_components_are_those_of_scikit_learn_divided_by_a_power():
    from sklearn.decomposition import PCA

    values = np.random.default_rng(0).normal(size=(50, 6)) * [5, 4, 3, 2, 1, 0]
    scores = PCA(4).fit_transform(values)
    for power in (0, 0.5, 1):
        expected = scores / scores.std(axis=0) ** power
        np.testing.assert_allclose(np.abs(_components(values, 4, power)), np.abs(expected))
    assert _components(values, 9, 1.0).shape == (50, 5), "without the one that has no variance"


def test_most_neighbours_decide_and_ties_leave_a_cell_alone():
    chain = sparse.diags([np.ones(4), np.ones(4)], [1, -1]).tocsr()
    codes = np.array([0, 0, 1, 0, 1])
    np.testing.assert_array_equal(_majority(chain, codes, 2), [0, 0, 0, 1, 1])
    np.testing.assert_array_equal(_majority(sparse.csr_matrix((5, 5)), codes, 2), codes)


# --- domains --------------------------------------------------------------------------------------


def test_neighbours_tell_what_a_cell_does_not(layers):
    adata = layers.copy()
    domains(adata, 3, sample_key="section")
    domains(adata, 3, method="mixture", key_added="alone")
    assert ari(adata) > 0.75
    assert ari(adata, "alone") < ari(adata) - 0.3
    domains(adata, 3, n_hops=0, key_added="no_hop")
    pd.testing.assert_series_equal(adata.obs["no_hop"], adata.obs["alone"], check_names=False)


def test_what_is_written(layers):
    adata = layers.copy()
    domains(adata, 3, sample_key="section", key_added="mine", rng=5)
    found = adata.obs["mine"]
    assert found.cat.categories.tolist() == ["0", "1", "2"]
    assert found.value_counts(sort=False).is_monotonic_decreasing
    assert adata.obs["mine_probability"].between(1 / 3, 1).all()
    written = adata.uns["mine"]
    assert written["n_domains"] == 3
    assert written["params"]["sample_key"] == "section"
    assert (written["params"]["n_hops"], written["params"]["seed"]) == (3, 5)


def test_the_same_seed_gives_the_same_bits(layers):
    found = [domains(layers, 4, rng=seed, copy=True).obs for seed in (1, 1, 2)]
    pd.testing.assert_frame_equal(found[0], found[1])
    assert not found[0].equals(found[2])


def test_cells_of_sharp_types_need_not_count_themselves():
    adata = tissue()
    generator = np.random.default_rng(1)
    shares = np.array([[0.7, 0.2, 0.1], [0.1, 0.7, 0.2], [0.2, 0.1, 0.7]])
    layer = adata.obs["layer"].astype(int)
    kinds = [generator.choice(3, p=shares[one]) for one in layer]
    adata.obsm["X_ssl"] = np.eye(3)[kinds] + generator.normal(0, 0.05, (800, 3))
    with pytest.warns(ScsslWarning, match="domains are kinds of cells .*: `include_self=False`"):
        domains(adata, 3, key_added="kinds")
    assert adjusted_rand_score(kinds, adata.obs["kinds"]) > 0.95
    domains(adata, 3, include_self=False)
    assert ari(adata) > 0.7
    with pytest.raises(ValueError, match="`n_hops` must be a whole number of at least 1"):
        domains(adata, 3, include_self=False, n_hops=0)


def test_sections_are_centred():
    adata = tissue(shift=20)
    domains(adata, 3, sample_key="section")
    assert ari(adata) > 0.75
    with pytest.warns(
        ScsslWarning, match='Domains are the sections of adata.obs."section". .NMI 1'
    ):
        domains(adata, 2, sample_key="section", center=False, key_added="raw")
    assert ari(adata, "raw", "section") == 1


def test_smoothing_joins_domains(layers):
    adata = layers.copy()
    domains(adata, 3, n_hops=0)
    domains(adata, 3, n_hops=0, n_smooth=5, key_added="smooth")
    shares = [
        scssl.tl.domain_scores(adata, key)["same_domain_neighbors"][0]
        for key in ("spatial_domain", "smooth")
    ]
    assert shares[1] > shares[0] + 0.05
    assert ari(adata, "smooth") > ari(adata)


def test_weights_and_loops_of_a_graph_are_not_used(layers):
    adata = layers.copy()
    graph = adata.obsp["spatial_connectivities"]
    weighted = graph.multiply(np.random.default_rng(0).random((adata.n_obs, 1)))
    adata.obsp["other"] = sparse.csr_matrix(weighted + sparse.identity(adata.n_obs))
    domains(adata, 3)
    domains(adata, 3, connectivity_key="other", key_added="other")
    pd.testing.assert_series_equal(
        adata.obs["other"], adata.obs["spatial_domain"], check_names=False
    )
    assert (adata.obsp["other"].diagonal() == 1).all(), "the graph is as it was"


def test_the_number_of_domains_is_the_most_stable(monkeypatch):
    adata = tissue(noise=2)
    scssl.tl.n_domains(adata, range(2, 6), sample_key="section", n_repeats=4)
    found = adata.uns["n_domains"]
    assert found["n_domains"] == 3
    table = found["stability"].set_index("n_domains")
    assert table.index.tolist() == [2, 3, 4, 5]
    assert table["stability"].idxmax() == 3
    assert table.loc[3, "stability"] > 0.9
    # Of many cells some are drawn, the same for all runs.
    monkeypatch.setattr("scssl.tl._spatial_domains._MOST_CELLS", 400)
    scssl.tl.n_domains(adata, [3], sample_key="section", n_repeats=3, key_added="some")
    assert 0.5 < adata.uns["some"]["stability"]["stability"][0] <= 1


def test_without_a_number_the_most_stable_is_taken(layers, monkeypatch):
    adata, asked = layers.copy(), []

    def numbers(self, candidates, n_repeats, seed):
        asked.append((list(candidates), n_repeats, seed))
        return {"n_domains": 3, "stability": pd.DataFrame({"n_domains": [3]})}

    monkeypatch.setattr("scssl.tl._spatial_domains._Space.numbers", numbers)
    domains(adata, rng=7)
    assert asked == [(list(range(2, 16)), 5, 7)]
    assert adata.uns["spatial_domain"]["n_domains"] == 3
    assert "stability" in adata.uns["spatial_domain"]
    assert adata.obs["spatial_domain"].nunique() == 3


def test_bad_input(layers):
    adata = layers[:50].copy()
    adata.obsm["X_same"] = np.ones((50, 3))
    adata.obsm["X_two"] = np.eye(2)[np.arange(50) % 2]
    with pytest.raises(ValueError, match="The embedding is the same in all cells"):
        domains(adata, 2, use_rep="X_same")
    with pytest.raises(ValueError, match="51 domains are more than the 50 cells"):
        domains(adata, 51)
    with pytest.raises(
        ValueError, match="`n_domains` must be a whole number of at least 2 or None"
    ):
        domains(adata, 1)
    with pytest.raises(ValueError, match=r"`whitening` must be a number in \[0, 1\]"):
        domains(adata, 2, whitening=2)
    with pytest.raises(ValueError, match="`candidates` is empty"):
        scssl.tl.n_domains(adata, [])
    with pytest.raises(KeyError, match=r"scssl.tl.embed\(adata, model, key_added='X_pca'\)"):
        domains(adata, 2, use_rep="X_pca")
    with pytest.warns(ScsslWarning, match="Of 4 domains 2 have cells"):
        domains(adata, 4, use_rep="X_two", method="mixture", key_added="two")
    assert adata.obs["two"].cat.categories.tolist() == ["0", "1"]
    assert "spatial_domain" not in adata.obs


# --- scores ---------------------------------------------------------------------------------------


def test_scores_by_section(layers):
    adata = layers.copy()
    generator = np.random.default_rng(0)
    adata.obs["found"] = np.where(generator.random(800) < 0.8, adata.obs["layer"], "1")
    adata.obs["known"] = adata.obs["layer"].where(generator.random(800) < 0.9)
    scores = scssl.tl.domain_scores(adata, "found", "known", sample_key="section")
    assert scores["sample"].tolist() == ["0", "1"]
    graph = adata.obsp["spatial_connectivities"].toarray() > 0
    for name, row in scores.set_index("sample").iterrows():
        own = (adata.obs["section"] == name).to_numpy()
        known = adata.obs[own & adata.obs["known"].notna().to_numpy()]
        pair = known["known"], known["found"]
        assert (row["n_cells"], row["n_labelled"]) == (400, len(known))
        assert (row["n_domains"], row["n_regions"]) == (3, 3)
        assert row["ari"] == pytest.approx(adjusted_rand_score(*pair))
        assert row["nmi"] == pytest.approx(normalized_mutual_info_score(*pair))
        assert row["homogeneity"] == pytest.approx(homogeneity_score(*pair))
        labels = adata.obs["found"].to_numpy()
        same = [(labels[graph[i]] == labels[i]).mean() for i in np.flatnonzero(own)]
        assert row["same_domain_neighbors"] == pytest.approx(np.mean(same))
    pd.testing.assert_frame_equal(adata.uns["domain_scores"]["scores"], scores)


def test_scores_without_regions_or_graph(layers):
    adata = layers.copy()
    scores = scssl.tl.domain_scores(adata, "layer", connectivity_key=None)
    assert scores.columns.tolist() == ["n_cells", "n_domains"]
    adata.obs["known"] = adata.obs["layer"].where(adata.obs["section"] == "0")
    scores = scssl.tl.domain_scores(adata, "layer", "known", sample_key="section")
    assert scores["ari"].tolist()[0] == 1
    assert scores.loc[1, ["ari", "nmi", "homogeneity"]].isna().all()
    adata.obs["known"] = np.nan
    with pytest.raises(ValueError, match="'known'. is missing for all cells"):
        scssl.tl.domain_scores(adata, "layer", "known")
