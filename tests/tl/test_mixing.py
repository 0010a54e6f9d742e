"""Scores of mixing equal those of loops over cells, and mixing never stands alone."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pytest
from scipy import stats

import scssl
from scssl import ScsslWarning


@pytest.fixture
def adata() -> ad.AnnData:
    """Three types in two batches of unequal size, one batch moved a little; a type of one batch only."""
    rng = np.random.default_rng(0)
    kind = np.repeat(["B", "NK", "T"], (60, 50, 40))
    batch = rng.choice(["x", "y"], 150, p=[0.35, 0.65])
    batch[kind == "T"] = "y"
    centre = {"B": (0, 0), "NK": (3, 0), "T": (0, 4)}
    values = np.array([centre[one] for one in kind]) + rng.normal(0, 0.7, (150, 2))
    values[batch == "x", 0] += 0.5
    adata = ad.AnnData(
        shape=(150, 0), obsm={"X_one": values, "X_far": values + 50 * (batch == "x")[:, None]}
    )
    adata.obs["batch"], adata.obs["kind"] = batch, kind
    return adata


def nearest(values: np.ndarray, cell: int, k: int) -> np.ndarray:
    distance = np.linalg.norm(values - values[cell], axis=1)
    distance[cell] = np.inf
    return np.argsort(distance)[:k]


def kbet_by_hand(values: np.ndarray, batch: np.ndarray, k: int) -> float:
    names = np.unique(batch)
    expected = np.array([k * (batch == name).mean() for name in names])
    passed = []
    for cell in range(len(values)):
        near = batch[nearest(values, cell, k)]
        observed = np.array([(near == name).sum() for name in names])
        passed.append(stats.chisquare(observed, expected).pvalue >= 0.05)
    return float(np.mean(passed))


def largest_part(neighbors: list[np.ndarray], members: np.ndarray) -> int:
    """Cells that can be reached from one another, by walking."""
    inside = set(members.tolist())
    linked = {cell: set() for cell in inside}
    for cell in inside:
        for other in neighbors[cell]:
            if other in inside:
                linked[cell].add(int(other))
                linked[int(other)].add(cell)
    best = 0
    while inside:
        front, reached = [inside.pop()], 1
        while front:
            for other in linked[front.pop()] & inside:
                inside.remove(other)
                front.append(other)
                reached += 1
        best = max(best, reached)
    return best


def test_scores_equal_those_of_loops(adata):
    scores = scssl.tl.batch_mixing(
        adata, "batch", "kind", use_rep=["X_one", "X_far"], n_neighbors=10
    )
    batch, kind = (adata.obs[key].to_numpy().astype(str) for key in ("batch", "kind"))
    for _, row in scores.iterrows():
        values = adata.obsm[row["use_rep"]]
        near = [nearest(values, cell, 10) for cell in range(150)]
        share = np.array([[(batch[n] == b).mean() for b in ("x", "y")] for n in near])
        simpson = np.mean([1 / (p**2).sum() for p in share]) - 1
        assert row["ilisi"] == pytest.approx(simpson)
        parts = [values[kind == name] for name in ("B", "NK")]
        groups = [batch[kind == name] for name in ("B", "NK")]
        by_hand = [kbet_by_hand(p, g, 10) for p, g in zip(parts, groups, strict=True)]
        assert row["kbet"] == pytest.approx(np.mean(by_hand)), "T is in one batch"
        members = [np.flatnonzero(kind == name) for name in ("B", "NK", "T")]
        connected = [largest_part(near, one) / len(one) for one in members]
        assert row["graph_connectivity"] == pytest.approx(np.mean(connected))
        purity = np.mean([(kind[n] == k).mean() for n, k in zip(near, kind, strict=True)])
        assert row["label_purity"] == pytest.approx(purity)
        assert row["mixed"] == pytest.approx(row[["ilisi", "kbet", "graph_connectivity"]].mean())
        kept = row[["label_silhouette", "label_purity", "leiden_nmi"]]
        assert row["types_kept"] == pytest.approx(kept.mean())
        assert kept.between(0, 1).all()
    near, far = scores["mixed"]
    assert near > far + 0.3
    assert adata.uns["batch_mixing"]["scores"].equals(scores)
    again = scssl.tl.batch_mixing(
        adata, "batch", "kind", use_rep=["X_one", "X_far"], n_neighbors=10
    )
    assert again.equals(scores)


def test_small_labels_are_tested_with_fewer_neighbours(adata):
    scores = scssl.tl.batch_mixing(adata, "batch", "kind", use_rep="X_one", n_neighbors=30)
    values = adata.obsm["X_one"]
    batch, kind = (adata.obs[key].to_numpy().astype(str) for key in ("batch", "kind"))
    by_hand = [
        kbet_by_hand(values[kind == name], batch[kind == name], k)
        for name, k in (("B", 15), ("NK", 12))
    ]
    assert scores["kbet"][0] == pytest.approx(np.mean(by_hand))


def test_without_labels_it_is_said_that_types_were_not_checked(adata):
    with pytest.warns(
        ScsslWarning, match="cannot be told whether cell types are kept.*label_key='kind'"
    ):
        scores = scssl.tl.batch_mixing(adata, "batch", use_rep="X_one", n_neighbors=10)
    row = scores.iloc[0]
    assert np.isnan(row[["types_kept", "graph_connectivity", "label_purity"]].astype(float)).all()
    batch = adata.obs["batch"].to_numpy().astype(str)
    assert row["kbet"] == pytest.approx(kbet_by_hand(adata.obsm["X_one"], batch, 10))
    assert row["mixed"] == pytest.approx(row[["ilisi", "kbet"]].mean())


def test_what_cannot_be_scored_is_refused(adata):
    with pytest.raises(ValueError, match="only the batch"):
        scssl.tl.batch_mixing(
            adata[adata.obs["kind"] == "T"].copy(), "batch", "kind", use_rep="X_one"
        )
    adata.obs["one"] = "T"
    with pytest.raises(ValueError, match=r"obs\['one'\] has 1 labels of 150 cells"):
        scssl.tl.batch_mixing(adata, "batch", "one", use_rep="X_one")
    with pytest.raises(ValueError, match="n_neighbors=150 is more"):
        scssl.tl.batch_mixing(adata, "batch", "kind", use_rep="X_one", n_neighbors=150)
    with (
        pytest.warns(ScsslWarning, match="cannot be told"),
        pytest.raises(ValueError, match="scib-metrics need labels"),
    ):
        scssl.tl.batch_mixing(adata, "batch", use_rep="X_one", scib=True)


def test_scores_of_scib_metrics_stand_beside(adata):
    pytest.importorskip("scib_metrics")
    scores = scssl.tl.batch_mixing(
        adata, "batch", "kind", use_rep="X_one", n_neighbors=10, scib=True
    )
    assert {"scib_total", "scib_bio_conservation", "scib_batch_correction"} <= set(scores)
    # The same thing in the same sense, on graphs of other sizes.
    assert scores["scib_graph_connectivity"][0] == pytest.approx(
        scores["graph_connectivity"][0], abs=0.1
    )
