"""The history of a model: a value per epoch, over all runs of training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd


def history_lists(history: Mapping[str, pd.DataFrame] | None) -> dict[str, list[float]]:
    """Values per epoch by name, as they are saved."""
    return {name: frame.iloc[:, 0].tolist() for name, frame in (history or {}).items()}


def history_frames(lists: Mapping[str, Sequence[float]]) -> dict[str, pd.DataFrame] | None:
    """The history of a model from what :func:`history_lists` gave; `None` if there is none."""
    return {
        name: pd.DataFrame({name: values}).rename_axis("epoch") for name, values in lists.items()
    } or None


def append_history(
    before: Mapping[str, pd.DataFrame] | None, n_before: int, new: Mapping[str, list[float]]
) -> dict[str, pd.DataFrame]:
    """History of a run after the first epochs of those before it.

    Epochs are numbered through; what was not recorded in an epoch is NaN.
    """
    earlier = pd.DataFrame({name: f.iloc[:, 0] for name, f in (before or {}).items()})
    both = pd.concat([earlier.iloc[:n_before], pd.DataFrame(new)], ignore_index=True)
    both.index.name = "epoch"
    return {str(name): both[[name]] for name in both}
