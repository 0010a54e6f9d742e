from __future__ import annotations

import sys

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score

from scssl.model.pseudo_label._kmeans import kmeans, numbers_of_clusters, resolve_engine


def blobs(n_each=40, n_blobs=5, seed=0):
    rng = np.random.default_rng(seed)
    kind = np.repeat(np.arange(n_blobs), n_each)
    centres = 20 * rng.normal(size=(n_blobs, 6))
    return (centres[kind] + rng.normal(size=(len(kind), 6))).astype(np.float32), kind


@pytest.mark.parametrize("engine", ["sklearn", "faiss"])
def test_finds_blobs_in_any_order(engine):
    if engine == "faiss":
        pytest.importorskip("faiss")
    x, kind = blobs()
    labels = kmeans(x, 5, seed=0, engine=engine)
    assert adjusted_rand_score(labels, kind) == 1
    order = np.random.default_rng(1).permutation(len(x))
    shuffled = kmeans(x[order], 5, seed=0, engine=engine)
    assert adjusted_rand_score(shuffled, labels[order]) == 1
    np.testing.assert_array_equal(labels, kmeans(x, 5, seed=0, engine=engine))


def test_no_cluster_of_one_cell():
    x, kind = blobs(n_blobs=3)
    x[0] = 1000
    labels = kmeans(x, 4, seed=0)
    assert (np.bincount(labels)[labels] > 1).all()
    assert adjusted_rand_score(labels[1:], kind[1:]) == 1


def test_every_cell_alone():
    assert kmeans(np.eye(2, dtype=np.float32) * 9, 2, seed=0).tolist() == [0, 0]


@pytest.mark.parametrize(
    ("n_cells", "expected"), [(1000, [5, 10, 20]), (60, [2, 2, 2]), (5, [2, 2, 2])]
)
def test_numbers_of_clusters(n_cells, expected):
    assert numbers_of_clusters(n_cells, (200, 100, 50)) == expected


def test_too_few_cells():
    with pytest.raises(ValueError, match="Data set 'tiny' has 3 cells; clusters need at least 4"):
        numbers_of_clusters(3, (200,), name="tiny")


def test_engines(monkeypatch):
    with pytest.raises(ValueError, match="found 'cuml'"):
        resolve_engine("cuml")
    monkeypatch.setattr("scssl.model.pseudo_label._kmeans.find_spec", lambda name: None)
    assert resolve_engine("auto") == "sklearn"
    with pytest.raises(ImportError, match='faiss-cpu. Or take `kmeans="sklearn"`'):
        resolve_engine("faiss")
    monkeypatch.setattr("scssl.model.pseudo_label._kmeans.find_spec", lambda name: sys)
    assert resolve_engine("auto") == "faiss"
