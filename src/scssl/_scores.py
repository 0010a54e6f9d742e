"""Scores of predicted labels and of confidences: the one place where they are computed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

N_BINS = 15


def class_counts(truth: np.ndarray, predicted: np.ndarray, n: int) -> np.ndarray:
    """Of each of `n` labels the cells that have it, that were given it, and for which that was right.

    A code that is no label's, such as -1, is an error of the cell that was given it.
    """
    valid = predicted[(predicted >= 0) & (predicted < n)]
    hits = truth[truth == predicted]
    return np.stack([np.bincount(codes, minlength=n) for codes in (truth, valid, hits)])


def f1_of(counts: np.ndarray) -> np.ndarray:
    """F1 = 2TP / (2TP + FP + FN) of each label; 0 of one that no cell has or was given."""
    n_cells, n_predicted, hits = counts
    f1: np.ndarray = 2 * hits / np.maximum(n_cells + n_predicted, 1)
    return f1


def class_table(truth: np.ndarray, predicted: np.ndarray, names: Any) -> pd.DataFrame:
    """Precision, recall and F1 of every label that cells have.

    Parameters
    ----------
    truth
        Codes of the labels, positions in `names`.
    predicted
        Codes of the predictions, as in :func:`class_counts`.
    names
        Names of the labels.
    """
    import pandas as pd

    # By counts, and not by scikit-learn, to which they are equal: a null scores many permutations.
    counts = class_counts(truth, predicted, len(names))
    n_cells, n_predicted, hits = counts
    table = pd.DataFrame(
        {
            "label": np.asarray([str(name) for name in names], dtype=object),
            "n_cells": n_cells,
            "n_predicted": n_predicted,
            # Of a label that is never predicted 0, by the convention of F1.
            "precision": hits / np.maximum(n_predicted, 1),
            "recall": hits / np.maximum(n_cells, 1),
            "f1": f1_of(counts),
        }
    )
    return table[n_cells > 0].reset_index(drop=True)


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


def agreement_of(codes: np.ndarray, clusters: np.ndarray) -> dict[str, int | float]:
    """How well clusters agree with labels: their number, ARI and NMI (arithmetic mean)."""
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    return {
        "n_clusters": len(np.unique(clusters)),
        "ari": float(adjusted_rand_score(codes, clusters)),
        "nmi": float(normalized_mutual_info_score(codes, clusters)),
    }


def kappa_of(truth: np.ndarray, predicted: np.ndarray) -> float:
    """Cohen's kappa of a prediction :cite:p:`Cohen1960`; NaN where chance alone agrees everywhere."""
    from sklearn.metrics import cohen_kappa_score

    if (truth == truth[0]).all() and (predicted == truth[0]).all():
        return float("nan")
    return float(cohen_kappa_score(truth, predicted))


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


def all_scores(
    truth: np.ndarray, predicted: np.ndarray, scores: np.ndarray, names: Any
) -> tuple[dict[str, float], pd.DataFrame]:
    """Scores of labels and of ranks together, and the table of classes that they are means of."""
    ranks = ranking_table(truth, scores, names)
    table = class_table(truth, predicted, names)
    plain = scores_of(table)
    row = {
        "accuracy": plain["accuracy"],
        "cohen_kappa": kappa_of(truth, predicted),
        "macro_f1": plain["macro_f1"],
        "macro_auprc": float(ranks["auprc"].mean()),
        "macro_auroc": float(ranks["auroc"].mean()),
        "balanced_accuracy": plain["balanced_accuracy"],
        "weighted_f1": plain["weighted_f1"],
    }
    return row, table.assign(auroc=ranks["auroc"], auprc=ranks["auprc"])


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
