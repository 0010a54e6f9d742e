"""Scores of predicted labels and of confidences: the one place where they are computed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

N_BINS = 15
SCORES = ("macro_f1", "balanced_accuracy", "weighted_f1", "accuracy")


def class_table(truth: np.ndarray, predicted: np.ndarray, names: Any) -> pd.DataFrame:
    """Precision, recall and F1 of every label that cells have.

    Parameters
    ----------
    truth
        Codes of the labels, positions in `names`.
    predicted
        Codes of the predictions. One that no cell has, or below zero, is an error of the cell that
        got it and no label of its own.
    names
        Names of the labels.
    """
    import pandas as pd

    n = len(names)
    valid = (predicted >= 0) & (predicted < n)
    n_cells = np.bincount(truth, minlength=n)
    n_predicted = np.bincount(predicted[valid], minlength=n)
    hits = np.bincount(truth[truth == predicted], minlength=n)
    kept = n_cells > 0
    # A label that is never predicted has F1 0; its precision is 0 by the same convention.
    table = pd.DataFrame(
        {
            "label": np.asarray([str(name) for name in names], dtype=object),
            "n_cells": n_cells,
            "n_predicted": n_predicted,
            "precision": hits / np.maximum(n_predicted, 1),
            "recall": hits / np.maximum(n_cells, 1),
            "f1": 2 * hits / np.maximum(n_cells + n_predicted, 1),
        }
    )
    return table[kept].reset_index(drop=True)


def scores_of(table: pd.DataFrame) -> dict[str, float]:
    """The four scores of a prediction from its table of classes."""
    n_cells = table["n_cells"].to_numpy()
    total = n_cells.sum()
    return {
        "macro_f1": float(table["f1"].mean()),
        "balanced_accuracy": float(table["recall"].mean()),
        "weighted_f1": float((n_cells * table["f1"]).sum() / total),
        "accuracy": float(np.rint(n_cells * table["recall"]).sum() / total),
    }


def kappa_of(table: pd.DataFrame) -> float:
    """Cohen's kappa of a prediction :cite:p:`Cohen1960` from its table of classes.

    Classes that no cell has add nothing to the agreement by chance. NaN where chance alone agrees on
    every cell.
    """
    n_cells, n_predicted = (
        table[name].to_numpy(dtype=float) for name in ("n_cells", "n_predicted")
    )
    total = n_cells.sum()
    chance = float((n_cells * n_predicted).sum() / total**2)
    observed = scores_of(table)["accuracy"]
    return (observed - chance) / (1 - chance) if chance < 1 else float("nan")


def ranking_table(truth: np.ndarray, scores: np.ndarray, names: Any) -> pd.DataFrame:
    """How well the scores of each label rank its cells before all others.

    Parameters
    ----------
    truth
        Codes of the labels, positions in `names`.
    scores
        One column for each label, higher for its cells: probabilities or distances from a boundary.
        Ranks of predictions that are 0 or 1 would say nothing beyond recall.
    names
        Names of the labels.

    Returns
    -------
    One row for each label that cells have: ``label``, ``auroc`` and ``auprc`` (average precision), one
    against the rest. NaN where scores are, and where all cells have the label: none is to be ranked below.
    """
    import pandas as pd
    from sklearn.metrics import average_precision_score, roc_auc_score

    rows = []
    for code in np.unique(truth):
        is_label, values = truth == code, scores[:, code]
        areas = [np.nan, np.nan]
        if not (is_label.all() or np.isnan(values).any()):
            areas = [roc_auc_score(is_label, values), average_precision_score(is_label, values)]
        rows.append([str(names[code]), *map(float, areas)])
    return pd.DataFrame(rows, columns=["label", "auroc", "auprc"])


def reliability(
    confidence: np.ndarray, correct: np.ndarray, n_bins: int = N_BINS
) -> dict[str, np.ndarray]:
    """Cells, mean confidence and share correct in bins of confidence of equal width.

    Returns
    -------
    Arrays of length `n_bins`: ``n_cells``, ``confidence`` and ``accuracy``, the last two NaN where
    there is no cell.
    """
    place = np.clip(np.ceil(confidence * n_bins).astype(np.intp) - 1, 0, n_bins - 1)
    n_cells = np.bincount(place, minlength=n_bins)
    sums = [np.bincount(place, values, minlength=n_bins) for values in (confidence, correct)]
    with np.errstate(invalid="ignore"):
        means = [total / n_cells for total in sums]
    return {"n_cells": n_cells, "confidence": means[0], "accuracy": means[1]}


def calibration_error(bins: dict[str, np.ndarray]) -> float:
    """Expected calibration error :cite:p:`Naeini2015`: mean gap of the bins, weighted by cells."""
    n_cells = bins["n_cells"]
    gap = np.abs(bins["confidence"] - bins["accuracy"])
    return float(np.nansum(gap * n_cells) / max(int(n_cells.sum()), 1))
