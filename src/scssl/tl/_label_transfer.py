"""Labels of annotated cells for cells that have none."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scssl._errors import warn
from scssl._neighbors import EXACT_PAIRS
from scssl._random import RNG, as_seed

from ._checks import (
    check_adata,
    check_integers,
    check_key,
    check_same_model,
    check_share,
    get_column,
    get_embedding,
    get_labels,
)
from ._transfer import Reference

if TYPE_CHECKING:
    from anndata import AnnData


# Cells below which a quantile says little.
_FEW = 20
# Median novelty of a query whose cells the embedding knows less well than the reference: with PCA and
# autoencoders it was .05 to .10 then, and .44 to .52 otherwise.
_TOO_FAMILIAR = 0.15
# Share of the query at distance zero of the reference from which they seem to be the same cells.
_SAME = 0.2


def label_transfer(
    reference: AnnData,
    query: AnnData,
    label_key: str,
    *,
    use_rep: str = "X_ssl",
    n_neighbors: int = 15,
    max_false_unknown: float = 0.05,
    held_out_key: str | None = None,
    batch_key: str | None = None,
    unknown_label: str = "unknown",
    exact: bool | None = None,
    key_added: str = "ssl_label",
    rng: RNG = 0,
    copy: bool = False,
) -> AnnData | None:
    r"""Label cells by their nearest annotated cells, and say how sure that is.

    Both data sets need an embedding by the same model. Each cell of `query` is given the label with
    the most votes of its nearest cells in `reference`, a vote weighing one by distance; a cell that is
    equal to cells of the reference is given theirs.

    *Confidence.* Each cell of the reference is held out in turn and labelled by the others. A
    logistic function of the logit of the winning share of votes is fitted to whether that was right
    :cite:p:`Platt1999`, so that of the cells with a confidence of 0.8 about 80 % are right. That holds
    for cells like those of the reference; of a type that it lacks none is right.

    *Novelty.* Two questions are asked of each cell: how far its neighbours are, relative to how far
    theirs are, as by :cite:t:`Breunig2000`, and how far the nearest mean of a label is, in units of the
    spread within labels (Mahalanobis distance :cite:p:`Lee2018`). The shares :math:`p_1, p_2` of
    held-out cells of the reference that are at least as far are combined as :math:`-\log p_1 -\log p_2`.
    Novelty is the share of held-out cells below that sum: 0.99 is more unusual than 99 % of them.

    *Unknown.* A cell is called unknown when its novelty is at least ``1 - max_false_unknown``. Of
    cells like those of the reference no more than `max_false_unknown` are expected there. What is
    found of a new type depends on how different it is: one that lies between two known types in the
    embedding cannot be told from them.

    Held-out cells stand for cells of the query, so the embedding must know both equally well: it was
    trained on both, or on neither. One that was trained on the reference alone fits its cells more
    closely than new ones, and nothing is ever unknown; a warning says so where novelties are too low
    to be true. Then set cells of the reference aside before training, as every training does for
    validation, and name them with `held_out_key`. What is new can also be lost by the model itself:
    types that it never saw may be embedded like those it knows.

    A query from another batch looks new as a whole. With `batch_key`, cells of the reference are held
    out batch by batch, so that confidence and novelty are those of cells from a batch not seen.

    Parameters
    ----------
    reference
        Annotated cells with an embedding. It is not changed.
    query
        Cells to label, with an embedding by the same model. They must not be part of `reference`: by
        name they are found and refused; where more than a fifth are equal to cells of another name, a
        warning says so.
    label_key
        Column of `reference.obs` with the labels. Every cell must have one.
    use_rep
        Entry of `obsm` in both.
    n_neighbors
        Neighbours that vote.
    max_false_unknown
        Share of held-out cells of the reference that may be called unknown.
    held_out_key
        Column of `reference.obs` that is true for the cells to calibrate on, which the embedding was not
        fitted to: those of ``model.validation_indices``, for instance. By default all.
    batch_key
        Column of `reference.obs` with the batch, if `query` is of another. At least two are needed.
        Cells whose label is in one batch only are not used for calibration.
    unknown_label
        What cells are called that are too novel.
    exact
        Compute all distances (`True`) or search by pynndescent :cite:p:`Dong2011`, which finds nearly
        all of the nearest cells and depends on the number of threads (`False`). By default exact up to
        2·10⁹ pairs of cells.
    key_added
        Where the results go in `query.obs` and `query.uns`.
    rng
        Seed or generator of folds and approximate search.
    copy
        Leave `query` as it is and return a copy with the results.

    Returns
    -------
    AnnData or None
        `None`, or a copy of `query` when `copy` is true. Sets:

        ``query.obs[key_added]`` : :class:`pandas.Series` (category)
            The label.
        ``query.obs[f"{key_added}_confidence"]`` : :class:`pandas.Series` (float)
            Probability that it is right.
        ``query.obs[f"{key_added}_novelty"]`` : :class:`pandas.Series` (float)
            From 0 to 1.
        ``query.obs[f"{key_added}_call"]`` : :class:`pandas.Series` (category)
            The label, or `unknown_label`.
        ``query.uns[key_added]`` : :class:`dict`
            ``"calibration"`` (the logistic function; expected calibration error
            :cite:p:`Naeini2015`, of the votes and of the confidence, and accuracy of held-out cells;
            and the bins of the reliability diagram), ``"novelty"`` (the threshold and the cells it is
            from), ``"labels"`` and ``"params"``.

    Raises
    ------
    KeyError
        If a column or the embedding is missing.
    ValueError
        If cells of `query` are in `reference`, the embeddings are not by the same model, or labels,
        embeddings or parameters are not as they must be.

    Examples
    --------
    >>> import scanpy as sc, scssl
    >>> adata = scssl.datasets.pbmc68k_reduced()
    >>> sc.pp.pca(adata)
    >>> reference, query = adata[:500].copy(), adata[500:].copy()
    >>> scssl.tl.label_transfer(reference, query, "bulk_labels", use_rep="X_pca")
    >>> bool((query.obs["ssl_label"] == query.obs["bulk_labels"]).mean() > 0.7)
    True
    """
    import pandas as pd

    check_adata(reference, "reference")
    check_adata(query, "query")
    check_integers(n_neighbors=(n_neighbors, 1))
    check_share(max_false_unknown, "max_false_unknown", zero=True)
    check_key(key_added, "key_added")
    check_key(unknown_label, "unknown_label")
    labels = get_labels(reference, label_key, name="reference").astype(str).to_numpy()
    names, codes = np.unique(labels, return_inverse=True)
    _check_labels(names, label_key, unknown_label)
    known, new = (
        np.ascontiguousarray(get_embedding(adata, use_rep, name), dtype=np.float32)
        for adata, name in ((reference, "reference"), (query, "query"))
    )
    check_same_model(reference, query, use_rep, known, new)
    _check_other_cells(reference, query, known, new)
    groups = None if batch_key is None else _groups(reference, batch_key)
    held_out = None if held_out_key is None else _held_out(reference, held_out_key)
    _check_size(known, n_neighbors, groups, batch_key)
    if exact is None:
        exact = len(known) * (len(known) + len(new)) <= EXACT_PAIRS
    seed = as_seed(rng)
    transfer = Reference(
        known,
        codes,
        len(names),
        n_neighbors=n_neighbors,
        groups=groups,
        calibrators=held_out,
        exact=exact,
        seed=seed,
    )
    winner, confidence, novelty = transfer.transfer(new)
    _warn_if_same_cells(known, new)
    _warn_if_too_familiar(novelty, held_out_key)
    threshold = 1 - max_false_unknown
    unknown = novelty >= threshold
    if copy:
        query = query.to_memory() if query.isbacked else query.copy()
    call = np.where(unknown, len(names), winner)
    categories = [str(name) for name in names]
    query.obs[key_added] = pd.Categorical.from_codes(winner, categories)
    query.obs[f"{key_added}_confidence"] = confidence
    query.obs[f"{key_added}_novelty"] = novelty
    query.obs[f"{key_added}_call"] = pd.Categorical.from_codes(call, [*categories, unknown_label])
    query.uns[key_added] = {
        "labels": np.asarray(categories, dtype=object),
        "calibration": transfer.calibration(),
        "novelty": {"threshold": threshold, "n_held_out": len(transfer.share)},
        "params": {
            "use_rep": use_rep,
            "label_key": label_key,
            "n_reference": len(known),
            "n_neighbors": int(n_neighbors),
            "max_false_unknown": float(max_false_unknown),
            "held_out_key": "none" if held_out_key is None else held_out_key,
            "batch_key": "none" if batch_key is None else batch_key,
            "unknown_label": unknown_label,
            "exact": bool(exact),
            "seed": seed,
        },
    }
    return query if copy else None


def _check_labels(names: np.ndarray, label_key: str, unknown_label: str) -> None:
    if len(names) < 2:
        raise ValueError(
            f"reference.obs[{label_key!r}] has {len(names)} label: nothing is to be decided."
        )
    if unknown_label in names:
        raise ValueError(
            f"reference.obs[{label_key!r}] has a label {unknown_label!r}, which would mean a cell of no "
            f"label. Leave those cells out: `reference = reference[reference.obs[{label_key!r}] != "
            f"{unknown_label!r}].copy()`, or call it otherwise: `unknown_label=...`."
        )


def _check_other_cells(
    reference: AnnData, query: AnnData, known: np.ndarray, new: np.ndarray
) -> None:
    """A cell that is in both would find itself, and its own label."""
    if not reference.obs_names.is_unique:
        return
    place = reference.obs_names.get_indexer(query.obs_names)
    rows = np.flatnonzero(place >= 0)
    same = rows[(known[place[rows]] == new[rows]).all(axis=1)]
    if len(same):
        raise ValueError(
            f"{len(same):,} of {len(new):,} cells of `query` are in `reference` too (first: "
            f"{query.obs_names[same[0]]!r}) and would find themselves. Leave them out: "
            "`query = query[~query.obs_names.isin(reference.obs_names)].copy()`."
        )


def _warn_if_same_cells(known: np.ndarray, new: np.ndarray) -> None:
    """Cells of another name are the same too: two cells that differ hardly ever embed alike."""
    # + 0.0: of zeros with either sign the bytes differ.
    rows = {row.tobytes() for row in known + 0.0}
    same = sum(row.tobytes() in rows for row in new + 0.0)
    if same <= _SAME * len(new):
        return
    warn(
        f"{same:,} of {len(new):,} cells of `query` have exactly the embedding of a cell of `reference` "
        "and are given its label. If they are the same cells under other names, leave them out; if not, "
        "the embedding tells too few cells apart."
    )


def _groups(reference: AnnData, batch_key: str) -> np.ndarray:
    values = get_labels(reference, batch_key, "batch_key", "reference")
    groups = np.unique(values.astype(str).to_numpy(), return_inverse=True)[1]
    if not groups.any():
        raise ValueError(
            f"reference.obs[{batch_key!r}] has one batch: there is no other to hold it out against. "
            "Leave out `batch_key`."
        )
    return groups


def _held_out(reference: AnnData, held_out_key: str) -> np.ndarray:
    values = get_column(reference, held_out_key, "held_out_key", "reference")
    if values.dtype.kind != "b":
        raise TypeError(
            f"reference.obs[{held_out_key!r}] must be true or false, found {values.dtype}. To make it: "
            f"`reference.obs[{held_out_key!r}] = reference.obs_names.isin(names)`."
        )
    held_out: np.ndarray = values.to_numpy()
    if held_out.sum() < _FEW:
        raise ValueError(
            f"reference.obs[{held_out_key!r}] is true for {held_out.sum()} cells; {_FEW} or more are "
            "needed to calibrate on."
        )
    return held_out


def _warn_if_too_familiar(novelty: np.ndarray, held_out_key: str | None) -> None:
    """The novelty of cells like those held out is even from 0 to 1; that of new ones is higher."""
    if len(novelty) < _FEW or np.median(novelty) >= _TOO_FAMILIAR:
        return
    mend = (
        "train the embedding on both, or calibrate on cells of the reference that it was not fitted to "
        "(`held_out_key`)"
        if held_out_key is None
        else "check that the embedding was not fitted to the cells of `held_out_key`"
    )
    warn(
        f"Half of the query is less novel than {1 - np.median(novelty):.0%} of the held-out reference. "
        f"Either it has only the most common kinds of cells, or the embedding fits the reference more "
        f"closely than the query, and nothing will be found unknown: {mend}."
    )


def _check_size(
    known: np.ndarray, n_neighbors: int, groups: np.ndarray | None, batch_key: str | None
) -> None:
    if groups is None:
        others, what = len(known) - 1, "cells of `reference` that are left when one is held out"
    else:
        others = len(known) - int(np.bincount(groups).max())
        what = f"cells of `reference` outside its largest batch in {batch_key!r}"
    if n_neighbors > others:
        raise ValueError(f"n_neighbors={n_neighbors} is more than the {others:,} {what}.")
