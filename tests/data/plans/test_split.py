from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scssl._errors import ScsslWarning
from scssl.data import train_validation_split


@given(
    labels=st.lists(st.sampled_from(["B", "T", "NK", None]), min_size=4, max_size=80).filter(
        lambda labels: len(set(labels)) < len(labels)
    ),
    train_size=st.floats(0.05, 1),
    seed=st.integers(0, 2**32),
)
def test_stratified_split(labels, train_size, seed):
    n = len(labels)
    train, validation = train_validation_split(n, train_size=train_size, labels=labels, seed=seed)
    assert np.sort(np.concatenate([train, validation])).tolist() == list(range(n))
    assert train.dtype == validation.dtype == np.int64
    assert (np.diff(train) > 0).all()
    assert (np.diff(validation) > 0).all()
    names = np.array(labels, dtype=object)
    classes = set(labels)
    assert set(names[train]) == classes  # a class of one cell is never lost to training
    expected = min(max(round(n * (1 - train_size)), train_size < 1), n - len(classes))
    assert len(validation) == expected
    again = train_validation_split(n, train_size=train_size, labels=labels, seed=seed)
    np.testing.assert_array_equal(validation, again[1])


def test_classes_are_proportional():
    labels = np.repeat(["B", "T", "NK"], [600, 300, 100])
    _, validation = train_validation_split(1000, labels=labels, seed=0)
    assert np.unique(labels[validation], return_counts=True)[1].tolist() == [60, 10, 30]


def test_missing_labels_are_a_class():
    labels = pd.Series(["B"] * 50 + [np.nan] * 50)
    _, validation = train_validation_split(100, labels=labels, seed=1)
    assert (validation >= 50).sum() == 5
    codes = pd.Categorical(labels)
    np.testing.assert_array_equal(validation, train_validation_split(100, labels=codes, seed=1)[1])


def test_seed_matters():
    splits = [train_validation_split(200, seed=seed)[1].tolist() for seed in (0, 0, 1)]
    assert splits[0] == splits[1] != splits[2]


@pytest.mark.parametrize(
    ("n", "train_size", "expected"), [(1, 0.9, 0), (2, 0.9, 1), (9, 1, 0), (3, 0.01, 2)]
)
def test_sizes_at_the_edges(n, train_size, expected):
    train, validation = train_validation_split(n, train_size=train_size, seed=0)
    assert (len(train), len(validation)) == (n - expected, expected)


def test_labels_that_are_all_different():
    with pytest.warns(ScsslWarning, match="All 20 labels are different"):
        _, validation = train_validation_split(20, labels=np.arange(20), seed=0)
    assert len(validation) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_cells": 0}, "no cells to split"),
        ({"train_size": 0}, r"`train_size` must be a number in \(0, 1\], found 0"),
        ({"train_size": 1.5}, "found 1.5"),
        ({"train_size": float("nan")}, "found nan"),
        ({"labels": ["B"] * 3}, "`labels` has 3 entries for 10 cells"),
    ],
)
def test_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        train_validation_split(**{"n_cells": 10, "seed": 0, **arguments})
