"""What figures of tables of scores have in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

_NAMES = {
    "macro_f1": "macro-F1",
    "weighted_f1": "weighted F1",
    "f1": "F1",
    "cohen_kappa": "Cohen's κ",
    "macro_auroc": "macro AUROC",
    "macro_auprc": "macro AUPRC",
    "ece": "calibration error",
}
_SHORT = {"ari": "ARI", "nmi": "NMI", "kmeans": "k-means", "leiden": "Leiden"}


def name_of(metric: str) -> str:
    """Name of a column, of scores or of what they are grouped by, as it is written in a figure."""
    if metric in _NAMES:
        return _NAMES[metric]
    return " ".join(_SHORT.get(word, word) for word in metric.removeprefix("n_").split("_"))


def check_scores(scores: Any, metrics: Sequence[str], keys: dict[str, str | None]) -> None:
    """Raise unless `scores` is a frame with columns of numbers and the columns that arguments name."""
    import pandas as pd

    if not isinstance(scores, pd.DataFrame):
        raise TypeError(f"`scores` must be a pandas.DataFrame, found {type(scores).__name__}.")
    wanted = {"metric": list(metrics)} | {name: [key] for name, key in keys.items() if key}
    for argument, columns in wanted.items():
        for column in columns:
            if column not in scores:
                found = ", ".join(map(repr, scores.columns)) or "no columns"
                raise KeyError(f"`scores` has no column {column!r} (`{argument}`); it has {found}.")
    for metric in metrics:
        if not pd.api.types.is_numeric_dtype(scores[metric]):
            raise TypeError(
                f"Column {metric!r} of `scores` must be numbers, found {scores[metric].dtype}."
            )


def in_order(values: pd.Series[Any]) -> list[Any]:
    """Each value once: in the order of categories, or numbers by size and then others as they come.

    So "all" comes after the numbers of labels.
    """
    import pandas as pd

    if values.dtype == "category":
        return [name for name in values.cat.categories if (values == name).any()]
    found = list(pd.unique(values.dropna()))
    numbers = [one for one in found if isinstance(one, (int, float, np.number))]
    return [*sorted(numbers), *(one for one in found if one not in numbers)]
