"""Histories of training as lists, which is how they are saved, and as frames."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from scssl.train import append_history, history_frames, history_lists


def test_lists_and_frames_are_the_same_history():
    lists = {"train_loss": [3.0, 2.5, 2.25], "accuracy": [0.5, float("nan"), 0.75]}
    history = append_history(None, 0, lists)
    saved = json.loads(json.dumps(history_lists(history)))
    assert list(saved) == list(lists)
    for name, values in lists.items():
        np.testing.assert_array_equal(saved[name], values)
    loaded = history_frames(saved)
    assert loaded is not None
    assert list(loaded) == list(history)
    for name, frame in history.items():
        pd.testing.assert_frame_equal(loaded[name], frame)
        assert loaded[name].index.name == "epoch"


@pytest.mark.parametrize("history", [None, {}])
def test_no_history(history):
    assert history_lists(history) == {}
    assert history_frames({}) is None
