"""Another modality of cells in which only one was measured."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from scipy import sparse

from scssl._neighbors import EXACT_PAIRS, Index
from scssl._random import RNG, as_seed, derive_seed

from ._checks import check_adata, check_integers, check_key, check_same_model, get_embedding
from ._modality import _values

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pandas as pd
    from anndata import AnnData

    from scssl.model import JointEmbedding

_METHODS = ("neighbors", "head")
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
    :cite:t:`Ovcharenko2025` do. ``"head"`` fits a ridge regression of each feature on the standardised
    embedding, with the penalty that predicts cells that are left out best.

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

    check_integers(n_neighbors=(n_neighbors, 1))
    key_added = f"predicted_{modality}" if key_added is None else key_added
    check_key(key_added, "key_added")
    if method not in _METHODS:
        raise ValueError(
            f"`method` must be one of {', '.join(map(repr, _METHODS))}; found {method!r}."
        )
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
        values, features = table.to_numpy(), [str(name) for name in table.columns]
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
    result: Any = query
    if copy:
        result = query.to_memory() if query.isbacked else query.copy()
    result.obsm[key_added] = pd.DataFrame(
        found, index=result.obs_names, columns=features, copy=False
    )
    result.uns[key_added] = {
        "n_reference": measured.sum(axis=0),
        "params": {
            "modality": modality,
            "use_rep": use_rep if model is None else f"{type(model).__name__}: {source}",
            "method": method,
            "n_neighbors": int(n_neighbors),
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
            "`model` must be a model of several modalities, set up with setup_mudata(mdata). Of another "
            "one, embed both: scssl.tl.embed(adata, model), and leave `model` out."
        )
    if source == modality:
        raise ValueError(
            f"`source` and `modality` are both {source!r}: nothing is to be predicted."
        )
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
    if k > len(known):
        raise ValueError(
            f"n_neighbors={k} is more than the {len(known):,} cells with these features."
        )
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
        raise ValueError(
            f"A head needs {_FEW} cells with the same features of {modality!r}, found {len(known)}. "
            'Take method="neighbors" with fewer neighbours.'
        )
    mean, spread = known.mean(axis=0, dtype=np.float64), known.std(axis=0, dtype=np.float64)
    spread[spread == 0] = 1
    fitted = RidgeCV(_PENALTIES, alpha_per_target=True).fit((known - mean) / spread, y)
    if not len(new):
        return np.zeros((0, y.shape[1]))
    predicted: np.ndarray = fitted.predict((new - mean) / spread).reshape(len(new), -1)
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
    n = int(shared.sum())
    first = str(query.obs_names[shared][0])
    msg = (
        f"{n:,} of {query.n_obs:,} cells of `query` are in `reference` too, with values of "
        f"{modality!r} (first: {first!r}), and would find themselves."
    )
    if n < query.n_obs:
        msg += f" Leave them out: `query = query[~query.obs_names.isin({names})].copy()`."
    raise ValueError(msg)
