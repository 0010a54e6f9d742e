"""How well another modality was predicted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ._checks import check_adata, check_key, get_rows

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from anndata import AnnData

# Of fewer pairs a correlation says nothing.
_LEAST_PAIRS = 3


def modality_scores(
    adata: AnnData,
    true_key: str,
    pred_key: str,
    *,
    indices: Sequence[int] | Sequence[str] | np.ndarray | None = None,
    key_added: str | None = None,
) -> pd.DataFrame:
    """Score predicted proteins, or any other features in `adata.obsm`, against measured ones.

    Pearson correlation of each feature over the cells says whether the cells are put in the right
    order, and Spearman's, of the ranks, does so without a scale. Pearson correlation of each cell over
    the features is high for any prediction that knows the mean of each feature, and tells methods
    apart poorly. Entries that were not measured (NaN) are left out, one by one.

    Measured and predicted values must be in the same units: those of
    ``ProteinPredictor.get_proteins`` and ``ProteinPredictor.predict`` are.

    Parameters
    ----------
    adata
        Annotated cells. Only `adata.uns` is changed.
    true_key
        Entry of `adata.obsm` with the measured values.
    pred_key
        Entry of `adata.obsm` with the predicted values. Where both are frames, columns are matched by
        name, and those of the measured values must all be there.
    indices
        Rows, a boolean mask or cell names to score, best those that nothing was learnt from; all by
        default.
    key_added
        Entry of `adata.uns` for the result; ``"modality_scores"`` by default.

    Returns
    -------
    pandas.DataFrame
        One row with ``true_key``, ``pred_key``, ``n_cells``, ``n_features``, ``pearson_per_feature``,
        ``spearman_per_feature``, ``pearson_per_cell``, ``cosine_per_feature``, ``rmse_per_feature`` and
        ``mse``. The first three scores are means over the features and cells with at least three pairs
        that are not constant, NaN where there are none; the next two means over the features, a cosine of
        features that are not all zero; the last one is over all measured entries.
        ``.attrs["per_feature"]`` has ``n_cells``, ``pearson``, ``spearman``, ``cosine``, ``mse`` and
        ``rmse`` of each feature as a dict of columns.
        ``adata.uns[key_added]`` has the row as ``"scores"`` and the features as the frame
        ``"per_feature"``.

    Raises
    ------
    KeyError
        If an entry is not in `adata.obsm`, or predictions lack a feature.
    ValueError
        If shapes differ, predictions are not finite where values were measured, or nothing was
        measured.

    Examples
    --------
    >>> import numpy as np, scssl
    >>> adata = scssl.datasets.pbmc68k_reduced()
    >>> measured = np.random.default_rng(0).normal(size=(adata.n_obs, 3))
    >>> adata.obsm["protein"], adata.obsm["predicted"] = measured, 2 * measured + 1
    >>> scores = scssl.tl.modality_scores(adata, "protein", "predicted")
    >>> round(float(scores.loc[0, "pearson_per_feature"]), 3)
    1.0
    """
    import pandas as pd

    check_adata(adata)
    key_added = "modality_scores" if key_added is None else key_added
    check_key(key_added, "key_added")
    true, names = _values(adata, true_key, "true_key")
    found, found_names = _values(adata, pred_key, "pred_key")
    if names is not None and found_names is not None:
        columns = pd.Index(found_names).get_indexer(pd.Index(names))
        if (columns < 0).any():
            absent = [name for name, column in zip(names, columns, strict=True) if column < 0]
            raise KeyError(
                f"adata.obsm[{pred_key!r}] has no column {absent[0]!r}, which "
                f"adata.obsm[{true_key!r}] has; it has {', '.join(found_names[:5])}."
            )
        found = found[:, columns]
    if true.shape != found.shape:
        raise ValueError(
            f"adata.obsm[{true_key!r}] has {true.shape[1]} features, adata.obsm[{pred_key!r}] has "
            f"{found.shape[1]}. Store both as frames to match columns by name."
        )
    rows = np.arange(adata.n_obs) if indices is None else get_rows(adata, indices, "`indices`")
    true, found = true[rows], found[rows]
    measured = np.isfinite(true)
    if not measured.any():
        raise ValueError(f"No value of adata.obsm[{true_key!r}] is measured in these cells.")
    if not np.isfinite(found[measured]).all():
        cell, feature = np.argwhere(measured & ~np.isfinite(found))[0]
        raise ValueError(
            f"adata.obsm[{pred_key!r}] is not finite in cell {adata.obs_names[rows[cell]]!r}, feature "
            f"{feature}, where a value was measured."
        )
    ranked, found_ranked = _ranked(true, measured), _ranked(found, measured)
    squares = np.where(measured, np.square(np.where(measured, true - found, 0)), 0)
    n_cells = measured.sum(axis=0)
    labels = names or found_names or [str(i) for i in range(true.shape[1])]
    with np.errstate(invalid="ignore"):
        per_feature = pd.DataFrame(
            {
                "feature": np.asarray(labels, dtype=object),
                "n_cells": n_cells,
                "pearson": _pearson(true, found, measured, axis=0),
                "spearman": _pearson(ranked, found_ranked, measured, axis=0),
                "cosine": _cosine(true, found, measured),
                "mse": squares.sum(axis=0) / n_cells,
            }
        )
    per_feature["rmse"] = np.sqrt(per_feature["mse"])
    row = {
        "true_key": true_key,
        "pred_key": pred_key,
        "n_cells": int(measured.any(axis=1).sum()),
        "n_features": int((n_cells > 0).sum()),
        "pearson_per_feature": float(per_feature["pearson"].mean()),
        "spearman_per_feature": float(per_feature["spearman"].mean()),
        "pearson_per_cell": float(pd.Series(_pearson(true, found, measured, axis=1)).mean()),
        "cosine_per_feature": float(per_feature["cosine"].mean()),
        "rmse_per_feature": float(per_feature["rmse"].mean()),
        "mse": float(squares.sum() / measured.sum()),
    }
    scores = pd.DataFrame([row])
    adata.uns[key_added] = {"scores": scores.copy(), "per_feature": per_feature}
    # A dict of columns: pandas compares attrs when frames are joined, and a frame has no truth.
    scores.attrs["per_feature"] = per_feature.to_dict(orient="list")
    return scores


def _values(
    adata: AnnData, key: str, argument: str, name: str = "adata"
) -> tuple[np.ndarray, list[str] | None]:
    """A matrix of numbers in ``obsm``, and the names of its columns where it has any."""
    check_key(key, argument)
    if key not in adata.obsm:
        there = ", ".join(map(repr, adata.obsm)) or "nothing"
        raise KeyError(f"{name}.obsm has no {key!r}; it has {there}.")
    table: Any = adata.obsm[key]
    names = [str(column) for column in table.columns] if hasattr(table, "columns") else None
    if names is not None and len(set(names)) < len(names):
        raise ValueError(
            f"The columns of {name}.obsm[{key!r}] have names that occur more than once."
        )
    if hasattr(table, "toarray"):
        table = table.toarray()
    try:
        values = np.asarray(table, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}.obsm[{key!r}] does not hold numbers: {error}") from error
    if values.ndim != 2:
        raise ValueError(
            f"{name}.obsm[{key!r}] must be (cells, features), found shape {values.shape}."
        )
    return values, names


def _ranked(values: np.ndarray, measured: np.ndarray) -> np.ndarray:
    """Rank of each value among the measured ones of its feature."""
    from scipy.stats import rankdata

    out = np.zeros_like(values)
    for j in range(values.shape[1]):
        cells = measured[:, j]
        out[cells, j] = rankdata(values[cells, j])
    return out


def _cosine(a: np.ndarray, b: np.ndarray, measured: np.ndarray) -> np.ndarray:
    """Cosine of each column over the entries that were measured, NaN where one is all zero."""
    a, b = (np.where(measured, values, 0) for values in (a, b))
    norms = np.sqrt(np.square(a).sum(axis=0) * np.square(b).sum(axis=0))
    return np.divide((a * b).sum(axis=0), norms, out=np.full(a.shape[1], np.nan), where=norms > 0)


def _pearson(a: np.ndarray, b: np.ndarray, measured: np.ndarray, *, axis: int) -> np.ndarray:
    """Correlation along an axis over the measured entries; NaN where it is not defined."""
    n = measured.sum(axis=axis, keepdims=True)
    centred = []
    for values in (a, b):
        values = np.where(measured, values, 0)
        mean = values.sum(axis=axis, keepdims=True) / np.maximum(n, 1)
        away = np.where(measured, values - mean, 0)
        # What is left of a constant after subtracting its mean is rounding.
        noise = np.abs(values).max(axis=axis, keepdims=True) * 1e-12
        centred.append(np.where(np.abs(away).max(axis=axis, keepdims=True) > noise, away, 0))
    first, second = centred
    norm = np.sqrt(np.square(first).sum(axis=axis) * np.square(second).sum(axis=axis))
    defined = (norm > 0) & (n.squeeze(axis) >= _LEAST_PAIRS)
    return np.where(defined, (first * second).sum(axis=axis) / np.where(defined, norm, 1), np.nan)
