"""Another modality of cells in which only one was measured, and how well it was predicted."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from scipy import sparse

from scssl._checks import (
    check_adata,
    check_choice,
    check_destination,
    check_key,
    check_whole,
    get_embedding,
    some,
    writable,
)
from scssl._errors import MissingKeyError
from scssl._linear import scaling
from scssl._neighbors import EXACT_PAIRS, Index
from scssl._random import RNG, as_seed, derive_seed

from ._common import check_neighbors, check_same_model, get_rows, to_be_written, write_scores

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import pandas as pd
    from anndata import AnnData

    from scssl.model import JointEmbedding

_LOGGER = logging.getLogger("scssl")
# Of fewer pairs a correlation says nothing.
_LEAST_PAIRS = 3
_PENALTIES = np.logspace(-2, 5, 15)
# Of fewer cells no penalty can be chosen.
_FEW = 5
# Cells to predict at a time: the result is all that is ever held of them.
_BLOCK = 1024


def predict_modality(
    reference: AnnData,
    query: AnnData,
    modality: str = "protein",
    *,
    use_rep: str = "X_ssl",
    model: JointEmbedding | None = None,
    source: Literal["rna", "protein", "atac"] = "rna",
    method: Literal["neighbors", "head"] = "neighbors",
    n_neighbors: int = 5,
    exact: bool | None = None,
    key_added: str | None = None,
    rng: RNG = 0,
    copy: bool = False,
) -> AnnData | None:
    """Predict proteins, or any other features, of cells in which they were not measured.

    Either both data sets have an embedding of what was measured in both, `use_rep`, and the reference
    has the features in `obsm`. Or `model` was trained on several modalities, and both are what it reads: a
    MuData, or an AnnData with RNA; then the embedding is that of the modality `source`, and the features
    are those of `modality` as the model normalises them (``model.get_modality``).

    ``"neighbors"`` takes the mean over the nearest cells of the reference by cosine, as
    :cite:t:`Ovcharenko2025` do. ``"head"`` fits a ridge regression of each feature on the
    embedding, scaled by one factor, with the penalty that predicts cells that are left out best.

    Cells of the reference in which a feature was not measured (NaN) are left out, feature by feature.
    For scores against measured values see :func:`modality_scores`.

    Parameters
    ----------
    reference
        Cells with the features. It is not changed.
    query
        Cells to predict them for. They may be in `reference`, as the cells of a mosaic are that lack the
        features, but those with features may not.
    modality
        Entry of ``reference.obsm``, an array or a frame; with `model`, ``"protein"``, ``"rna"`` or
        ``"atac"``.
    use_rep
        Entry of `obsm` in both, by the same model. Not used with `model`.
    model
        A model that was set up with ``setup_mudata``.
    source
        With `model`, the modality that was measured in both.
    method
        ``"neighbors"`` or ``"head"``.
    n_neighbors
        Neighbours to take the mean of, 5 as in :cite:p:`Ovcharenko2025`.
    exact
        Compute all distances (`True`) or search by pynndescent (`False`). By default exact up to 2·10⁹
        pairs of cells.
    key_added
        Where the result goes in `query.obsm` and `query.uns`; ``f"predicted_{modality}"`` by default.
    rng
        Seed or generator of the approximate search.
    copy
        Leave `query` as it is and return a copy with the results.

    Returns
    -------
    AnnData or None
        `None`, or a copy of `query` when `copy` is true. Sets:

        ``query.obsm[key_added]`` : :class:`pandas.DataFrame` (float32)
            The features, in the units of the reference; NaN for cells of a MuData without `source`.
            Names have ``"|"`` for ``"/"``, which columns in a file cannot have.
        ``query.uns[key_added]`` : :class:`dict`
            ``"n_reference"``, number of cells that each feature was learnt from, and ``"params"``.

    Raises
    ------
    KeyError
        If an embedding or the features are missing.
    ValueError
        If cells of `query` are in the reference too, the embeddings are not by the same model, or the
        features of no cell are known.

    Examples
    --------
    >>> import scanpy as sc, scssl
    >>> adata = scssl.datasets.pbmc68k_reduced()
    >>> sc.pp.pca(adata)
    >>> adata.obsm["protein"] = adata[:, ["CD3D", "CD79A"]].X.toarray()
    >>> reference, query = adata[:500].copy(), adata[500:].copy()
    >>> scssl.tl.predict_modality(reference, query, use_rep="X_pca")
    >>> scores = scssl.tl.modality_scores(query, "protein", "predicted_protein")
    >>> bool(scores.loc[0, "pearson_per_feature"] > 0.5)
    True
    """
    import pandas as pd

    n_neighbors = check_whole("n_neighbors", n_neighbors)
    key_added = f"predicted_{modality}" if key_added is None else key_added
    check_destination(query, key_added, "query", copy=copy)
    check_choice("method", method, ("neighbors", "head"))
    if model is None:
        check_adata(reference, "reference")
        check_adata(query, "query")
        known = get_embedding(reference, use_rep, "reference")
        new = get_embedding(query, use_rep, "query")
        check_same_model(reference, query, use_rep, known, new)
        values, names = _values(reference, modality, "modality", "reference")
        features = names or [str(i) for i in range(values.shape[1])]
    else:
        known, new, table = _by_model(model, reference, query, modality, source)
        values, features = table.to_numpy(), writable(table.columns)
    values = values.astype(np.float32, copy=False)
    measured = np.isfinite(values)
    measured[~np.isfinite(known).all(axis=1)] = False
    if not measured.any():
        raise ValueError(f"No value of {modality!r} is known in any cell of `reference`.")
    _check_other_cells(reference, query, measured.any(axis=1), modality, model)
    if exact is None:
        exact = len(known) * len(new) <= EXACT_PAIRS
    seed = as_seed(rng)
    wanted = np.flatnonzero(np.isfinite(new).all(axis=1))
    found = np.full((len(new), values.shape[1]), np.nan, dtype=np.float32)
    for cells, columns in _patterns(measured):
        if not len(cells):
            continue
        y = values if measured.all() else values[np.ix_(cells, columns)]
        if method == "head":
            found[np.ix_(wanted, columns)] = _by_head(known[cells], y, new[wanted], modality)
            continue
        mean = _means(known[cells], new[wanted], n_neighbors, exact=exact, seed=seed)
        for start in range(0, len(wanted), _BLOCK):
            part = slice(start, start + _BLOCK)
            found[np.ix_(wanted[part], columns)] = mean[part] @ y
    if any("|" in name for name in features):
        _LOGGER.info('Names of features have "|" for "/", which columns in a file cannot have.')
    result = to_be_written(query, copy=copy)
    result.obsm[key_added] = pd.DataFrame(
        found, index=result.obs_names, columns=features, copy=False
    )
    result.uns[key_added] = {
        "n_reference": measured.sum(axis=0),
        "params": {
            "modality": modality,
            "use_rep": use_rep if model is None else f"{type(model).__name__}: {source}",
            "method": method,
            "n_neighbors": n_neighbors,
            "exact": bool(exact),
            "seed": seed,
        },
    }
    return result if copy else None


def _by_model(
    model: JointEmbedding, reference: Any, query: Any, modality: str, source: str
) -> tuple[np.ndarray, np.ndarray, pd.DataFrame]:
    """Embeddings of both, and the features of the reference."""
    if not getattr(model, "modalities", ()):
        raise ValueError(
            "`model` must be a model of several modalities, set up with a MuData. Of another, embed both, "
            "`scssl.tl.embed(reference, model)` and `scssl.tl.embed(query, model)`, and leave it out: "
            "`model=None`."
        )
    if source == modality:
        raise ValueError(f"`source` and `modality` are both {source!r}: nothing to predict.")
    options: Any = {"modality": source}
    known = model.get_latent_representation(reference, **options)
    new = model.get_latent_representation(query, **options)
    what: Any = modality
    return known, new, model.get_modality(reference, what)


def _patterns(measured: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Features that were measured in the same cells: these cells, and the features."""
    cells = measured.any(axis=1)
    if (measured.all(axis=1) == cells).all():
        yield np.flatnonzero(cells), np.arange(measured.shape[1])
        return
    patterns, which = np.unique(measured, axis=1, return_inverse=True)
    for i in range(patterns.shape[1]):
        yield np.flatnonzero(patterns[:, i]), np.flatnonzero(which.ravel() == i)


def _means(
    known: np.ndarray, new: np.ndarray, k: int, *, exact: bool, seed: int
) -> sparse.csr_matrix:
    """Matrix that takes the mean over the nearest cells: what is the product with their features."""
    check_neighbors(k, len(known), "cells with these features")
    shape = (len(new), len(known))
    if not len(new):
        return sparse.csr_matrix(shape, dtype=np.float32)
    # Of vectors of length 1 the nearest are those with the largest cosine.
    index = Index(_unit(known), exact=exact, seed=derive_seed(seed, "neighbors"))
    near = index.query(_unit(new), k)[1]
    weight = np.full(near.size, 1 / k, dtype=np.float32)
    return sparse.csr_matrix((weight, near.ravel(), np.arange(len(new) + 1) * k), shape=shape)


def _unit(values: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(values.astype(np.float64), axis=1, keepdims=True)
    return np.ascontiguousarray(values / np.where(length > 0, length, 1), dtype=np.float32)


def _by_head(known: np.ndarray, y: np.ndarray, new: np.ndarray, modality: str) -> np.ndarray:
    from sklearn.linear_model import RidgeCV

    if len(known) < _FEW:
        needs = f"A head needs {_FEW} cells with the same features of {modality!r}"
        raise ValueError(f'{needs}, found {len(known)}. Take `method="neighbors"`.')
    scale = scaling(known)
    fitted = RidgeCV(_PENALTIES, alpha_per_target=True).fit(scale(known), y)
    if not len(new):
        return np.zeros((0, y.shape[1]))
    predicted: np.ndarray = fitted.predict(scale(new)).reshape(len(new), -1)
    return predicted


def _check_other_cells(
    reference: Any, query: Any, has: np.ndarray, modality: str, model: JointEmbedding | None
) -> None:
    """A cell that is in both would find itself, and its own values."""
    shared = query.obs_names.isin(reference.obs_names[has])
    if not shared.any() or not reference.obs_names.is_unique:
        return
    # Cells of the reference that lack the features may stay: it is for them that this is done.
    names = "reference.obs_names"
    if model is not None:
        own = next(one.name for one in model.setup.modalities if one.kind == modality)
        names = f'reference.mod["{own}"].obs_names'
    elif not has.all():
        frame = hasattr(reference.obsm[modality], "columns")
        known = f"reference.obsm[{modality!r}]"
        known = f"{known}.notna().any(axis=1)" if frame else f"np.isfinite({known}).any(axis=1)"
        names = f"reference.obs_names[{known}]"
    leave = f" Leave them out: `query = query[~query.obs_names.isin({names})].copy()`."
    raise ValueError(
        f"{shared.sum():,} of {query.n_obs:,} cells of `query` are in `reference` too, with values of "
        f"{modality!r} (first: {query.obs_names[shared][0]!r}), and would find themselves."
        + ("" if shared.all() else leave)
    )


def modality_scores(
    adata: AnnData,
    true_key: str,
    pred_key: str,
    *,
    indices: Sequence[int] | Sequence[str] | np.ndarray | None = None,
    key_added: str = "modality_scores",
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
        Entry of `adata.uns` for the result.

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
    check_destination(adata, key_added)
    true, names = _values(adata, true_key, "true_key")
    found, found_names = _values(adata, pred_key, "pred_key")
    if names is not None and found_names is not None:
        columns = pd.Index(found_names).get_indexer(pd.Index(names))
        if (columns < 0).any():
            absent = names[int((columns < 0).argmax())]
            there = f"adata.obsm[{true_key!r}] has; it has {some(found_names)}"
            raise MissingKeyError(
                f"adata.obsm[{pred_key!r}] has no column {absent!r}, which {there}."
            )
        found = found[:, columns]
    if true.shape != found.shape:
        raise ValueError(
            f"adata.obsm[{true_key!r}] has {true.shape[1]} features, adata.obsm[{pred_key!r}] has "
            f"{found.shape[1]}. Frames are matched by the names of their columns."
        )
    rows = np.arange(adata.n_obs) if indices is None else get_rows(adata, indices, "`indices`")
    true, found = true[rows], found[rows]
    measured = np.isfinite(true)
    if not measured.any():
        raise ValueError(f"No value of adata.obsm[{true_key!r}] is measured in these cells.")
    if not np.isfinite(found[measured]).all():
        cell, feature = np.argwhere(measured & ~np.isfinite(found))[0]
        where = f"in cell {adata.obs_names[rows[cell]]!r}, feature {feature}, which was measured"
        raise ValueError(f"adata.obsm[{pred_key!r}] is not finite {where}.")
    labels = names or found_names or [str(i) for i in range(true.shape[1])]
    per_feature = score_features(true, found, labels, measured)
    row = {
        "true_key": true_key,
        "pred_key": pred_key,
        "n_cells": int(measured.any(axis=1).sum()),
        "n_features": int((per_feature["n_cells"] > 0).sum()),
        "pearson_per_feature": float(per_feature["pearson"].mean()),
        "spearman_per_feature": float(per_feature["spearman"].mean()),
        "pearson_per_cell": float(pd.Series(_pearson(true, found, measured, axis=1)).mean()),
        "cosine_per_feature": float(per_feature["cosine"].mean()),
        "rmse_per_feature": float(per_feature["rmse"].mean()),
        "mse": float((per_feature["mse"] * per_feature["n_cells"]).sum() / measured.sum()),
    }
    return write_scores(adata, key_added, pd.DataFrame([row]), {"per_feature": per_feature})


def score_features(
    true: np.ndarray, found: np.ndarray, names: Sequence[str], measured: np.ndarray | None = None
) -> pd.DataFrame:
    """Scores of each feature over the cells in which it was measured, by default all."""
    import pandas as pd

    if measured is None:
        measured = np.ones(true.shape, dtype=bool)
    n_cells = measured.sum(axis=0)
    ranked, found_ranked = _ranked(true, measured), _ranked(found, measured)
    squares = np.where(measured, np.square(np.where(measured, true - found, 0)), 0)
    with np.errstate(invalid="ignore"):
        table = pd.DataFrame(
            {
                "feature": np.asarray(names, dtype=object),
                "n_cells": n_cells,
                "pearson": _pearson(true, found, measured, axis=0),
                "spearman": _pearson(ranked, found_ranked, measured, axis=0),
                "cosine": _cosine(true, found, measured),
                "mse": squares.sum(axis=0) / n_cells,
            }
        )
    return table.assign(rmse=np.sqrt(table["mse"]))


def _values(
    adata: AnnData, key: str, argument: str, name: str = "adata"
) -> tuple[np.ndarray, list[str] | None]:
    """A matrix of numbers in ``obsm``, and the names of its columns where it has any."""
    check_key(key, argument)
    if key not in adata.obsm:
        there = ", ".join(map(repr, adata.obsm)) or "nothing"
        raise MissingKeyError(f"{name}.obsm has no {key!r}; it has {there}.")
    table: Any = adata.obsm[key]
    names = list(map(str, table.columns)) if hasattr(table, "columns") else None
    if names is not None and len(set(names)) < len(names):
        raise ValueError(f"{name}.obsm[{key!r}] has columns of the same name.")
    names = names and writable(names)
    if hasattr(table, "toarray"):
        table = table.toarray()
    try:
        values = np.asarray(table, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}.obsm[{key!r}] does not hold numbers: {error}") from error
    if values.ndim != 2:
        shape = f"must be (cells, features), found shape {values.shape}"
        raise ValueError(f"{name}.obsm[{key!r}] {shape}.")
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
