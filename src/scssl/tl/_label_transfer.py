"""Labels of annotated cells for cells that have none, with what is learned from held-out cells."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from scssl._checks import (
    check_adata,
    check_choice,
    check_destination,
    check_key,
    check_number,
    check_whole,
    get_column,
    get_embedding,
    get_labels,
)
from scssl._errors import warn
from scssl._linear import DEFAULT_STRENGTH, rank_in_class, scaling, trained
from scssl._neighbors import EXACT_PAIRS, Index
from scssl._random import RNG, as_seed, derive_generator
from scssl._scores import calibration_error, reliability

from ._common import check_neighbors, check_same_model, to_be_written, votes

if TYPE_CHECKING:
    from anndata import AnnData

_LOGGER = logging.getLogger("scssl")
_FOLDS = 5
# Cells below which a quantile says little.
_FEW = 20
# Median novelty of a query whose cells the embedding knows less well than the reference: with PCA and
# autoencoders it was .05 to .10 then, and .44 to .52 otherwise.
_TOO_FAMILIAR = 0.15
# Of a query of another batch, the share of cells that is taken to be of known types, and how much farther than
# cells of the reference they may lie for being of another batch. From kang_ifnb to pbmc3k, another technology, they
# are at 1.2 and 1.6 times the distances, and .70 of the known cells were unknown without this (.08 with it; of types
# left out, .92 and .36 were); by the nearest half and tenth it is .05 and .12 (.28, .43). Of batches of kang_ifnb the
# factors are 1.00 to 1.15.
_NEAREST, _FARTHEST = 0.25, 2.0
# Share of the query called unknown from which something else than new types is likely.
_MANY_UNKNOWN = 0.3
# Cells that a logistic regression is fitted to at most, drawn evenly from the labels.
_MOST_FITTED = 20_000
# What the winning probability of a regression is rounded to, as if of so many votes.
_VOTES_OF_REGRESSION = 200
AUTO = "auto"
Voter = Literal["knn", "lr"]
# Share of the query at distance zero of the reference from which they seem to be the same cells.
_SAME = 0.2


def label_transfer(
    reference: AnnData,
    query: AnnData,
    label_key: str,
    *,
    use_rep: str = "X_ssl",
    classifier: Voter = "knn",
    n_neighbors: int = 15,
    max_false_unknown: float = 0.05,
    held_out_key: str | None = None,
    batch_key: str | None = AUTO,
    unknown_label: str = "unknown",
    exact: bool | None = None,
    key_added: str = "ssl_label",
    rng: RNG = 0,
    copy: bool = False,
) -> AnnData | None:
    r"""Label cells by their nearest annotated cells, and say how sure that is.

    Both data sets need an embedding by the same model. Each cell of `query` is given the label with
    the most votes of its nearest cells in `reference`, a vote weighing one by distance; a cell that is
    equal to cells of the reference is given theirs. With ``classifier="lr"`` a logistic regression on the
    embedding labels the cells instead, and its highest probability stands for the share of votes; what
    follows is the same.

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

    *Batches.* A query from another batch looks new as a whole. Where :func:`annotate` trains on both and
    finds that they vary in the same ways, distances are divided by how much farther the nearest quarter of
    the query lies than that of the held-out cells, up to twice as far: that quarter must be of known types.
    With `batch_key`, cells of the reference are held out batch by batch, so that confidence and novelty are
    those of cells from a batch not seen. How much farther than single cells each batch lies is measured by the median of either distance and divided
    out; so is it of the query, but no more than of the batches of the reference. A query that is new as a
    whole can thus not pass for another batch, unless types and batches differ by as much.

    A warning says when more than 30 % of a query are called unknown, or none of a new batch.

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
    classifier
        What labels a cell: ``"knn"``, the vote of its nearest cells, or ``"lr"``, logistic regression with an
        L2 penalty (``C=0.1``) on the embedding, scaled by one factor; of many cells, on 20,000.
    n_neighbors
        Neighbours that vote, and that novelty is measured by.
    max_false_unknown
        Share of held-out cells of the reference that may be called unknown.
    held_out_key
        Column of `reference.obs` that is true for the cells to calibrate on, which the embedding was not
        fitted to: those of ``model.validation_indices``, for instance. By default all.
    batch_key
        Column of `reference.obs` with the batch, if `query` is of another; of `query.obs` too, if it has
        several. At least two are needed. Cells whose label is in one batch only are not used for
        calibration. By default the batches that the model of the embedding was set up with, where
        :func:`embed` has noted them and `query` is of none of these; `None`: single cells are held out.
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
            and the bins of the reliability diagram), ``"novelty"`` (the threshold, the cells it is from, and
            the shift, by which the distances of a query of another batch were divided), ``"labels"`` and
            ``"params"``.

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
    return transfer_labels(
        reference,
        query,
        label_key,
        use_rep=use_rep,
        classifier=classifier,
        n_neighbors=n_neighbors,
        max_false_unknown=max_false_unknown,
        held_out_key=held_out_key,
        batch_key=batch_key,
        unknown_label=unknown_label,
        exact=exact,
        key_added=key_added,
        rng=rng,
        copy=copy,
    )


def transfer_labels(
    reference: AnnData,
    query: AnnData,
    label_key: str,
    *,
    use_rep: str,
    classifier: Voter,
    n_neighbors: int,
    max_false_unknown: float,
    held_out_key: str | None,
    batch_key: str | None,
    unknown_label: str,
    exact: bool | None,
    key_added: str,
    rng: RNG,
    copy: bool,
    is_new: bool = False,
    has_common: bool = False,
    advice: str | None = None,
    features: tuple[np.ndarray, np.ndarray] | None = None,
) -> AnnData | None:
    """As :func:`label_transfer`, of a query that is known to be of a new batch (`is_new`).

    Where it is known to have types in common with the reference (`has_common`), that it lies farther as a
    whole is not taken for novelty. `features` of either are what a regression labels by, instead of the
    embedding. `advice` is the line that helps where too many cells are unknown, empty if the model is as good
    as can be.
    """
    import pandas as pd

    check_adata(reference, "reference")
    check_adata(query, "query")
    check_choice("classifier", classifier, get_args(Voter))
    n_neighbors = check_whole("n_neighbors", n_neighbors)
    check_number("max_false_unknown", max_false_unknown, "[0, 1)")
    check_destination(query, key_added, "query", copy=copy)
    check_key(unknown_label, "unknown_label")
    labels = get_labels(reference, label_key, name="reference").astype(str).to_numpy()
    names, codes = np.unique(labels, return_inverse=True)
    if len(names) < 2:
        raise ValueError(f"reference.obs[{label_key!r}] has {len(names)} label: nothing to decide.")
    if unknown_label in names:
        raise ValueError(
            f"reference.obs[{label_key!r}] has a label {unknown_label!r}. Leave those cells out: "
            f"`reference = reference[reference.obs[{label_key!r}] != {unknown_label!r}].copy()`, or call "
            f'what is unknown otherwise: `unknown_label="{unknown_label}_cell"`.'
        )
    known, new = (
        np.ascontiguousarray(get_embedding(adata, use_rep, name), dtype=np.float32)
        for adata, name in ((reference, "reference"), (query, "query"))
    )
    check_same_model(reference, query, use_rep, known, new)
    _check_other_cells(reference, query, known, new)
    if batch_key == AUTO:
        batch_key = _known_batches(reference, query, use_rep, codes, n_neighbors)
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
        classifier=classifier,
        features=None if features is None else features[0],
        groups=groups,
        calibrators=held_out,
        exact=exact,
        seed=seed,
    )
    winner, confidence, novelty = transfer.transfer(
        new,
        _batches_of_query(query, batch_key),
        features=None if features is None else features[1],
        is_new=is_new and has_common,
    )
    _warn_if_same_cells(known, new)
    if groups is None:
        # Of batches, what they have in common was divided out.
        _warn_if_too_familiar(novelty, held_out_key)
    threshold = 1 - max_false_unknown
    unknown = novelty >= threshold
    if advice is None:
        both = reference.n_vars and query.n_vars
        keys = f"{label_key!r}" + (f", key_added={key_added!r}" if key_added != "ssl_label" else "")
        advice = f"scssl.tl.annotate(reference, query, {keys})" if both else ""
    if max_false_unknown > 0:
        is_new = is_new or groups is not None
        _warn_of_unknown(novelty, unknown, is_new=is_new, advice=advice)
    query = to_be_written(query, copy=copy)
    call = np.where(unknown, len(names), winner)
    categories = [str(name) for name in names]
    query.obs[key_added] = pd.Categorical.from_codes(winner, categories)
    query.obs[f"{key_added}_confidence"] = confidence
    query.obs[f"{key_added}_novelty"] = novelty
    query.obs[f"{key_added}_call"] = pd.Categorical.from_codes(call, [*categories, unknown_label])
    query.uns[key_added] = {
        "labels": np.asarray(categories, dtype=object),
        "calibration": transfer.calibration(),
        "novelty": {
            "threshold": threshold,
            "n_held_out": len(transfer.share),
            "shift": transfer.shift,
        },
        "params": {
            "use_rep": use_rep,
            "label_key": label_key,
            "n_reference": len(known),
            "classifier": classifier,
            "n_neighbors": n_neighbors,
            "max_false_unknown": float(max_false_unknown),
            "held_out_key": "none" if held_out_key is None else held_out_key,
            "batch_key": "none" if batch_key is None else batch_key,
            "unknown_label": unknown_label,
            "exact": bool(exact),
            "seed": seed,
        },
    }
    return query if copy else None


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
    if same > _SAME * len(new):
        warn(
            f"{same:,} of {len(new):,} cells of `query` have exactly the embedding of a cell of `reference`. "
            "Leave them out if they are the same; if not, the embedding tells too few cells apart."
        )


def _groups(reference: AnnData, batch_key: str) -> np.ndarray:
    values = get_labels(reference, batch_key, "batch_key", "reference")
    groups = np.unique(values.astype(str).to_numpy(), return_inverse=True)[1]
    if not groups.any():
        raise ValueError(f"reference.obs[{batch_key!r}] has one batch: leave out `batch_key`.")
    return groups


def _held_out(reference: AnnData, held_out_key: str) -> np.ndarray:
    values = get_column(reference, held_out_key, "held_out_key", "reference")
    if values.dtype.kind != "b":
        make = ""
        if values.notna().any():
            rare = values.astype(str).value_counts().index[-1]
            column = f"reference.obs[{held_out_key!r}]"
            make = f" If it is true for {rare!r}: `{column} = {column}.astype(str) == {rare!r}`."
        raise TypeError(
            f"reference.obs[{held_out_key!r}] must be true or false, found {values.dtype}.{make}"
        )
    held_out: np.ndarray = values.to_numpy()
    if held_out.sum() < _FEW:
        found = f"is true for {held_out.sum()} cells; {_FEW} or more are needed to calibrate on"
        raise ValueError(f"reference.obs[{held_out_key!r}] {found}.")
    return held_out


def _warn_if_too_familiar(novelty: np.ndarray, held_out_key: str | None) -> None:
    """The novelty of cells like those held out is even from 0 to 1; that of new ones is higher."""
    if len(novelty) < _FEW or np.median(novelty) >= _TOO_FAMILIAR:
        return
    mend = "check that the embedding was not fitted to the cells of `held_out_key`"
    if held_out_key is None:
        mend = "train it on both, or calibrate on cells that it was not fitted to (`held_out_key`)"
    warn(
        f"Half of the query is less novel than {1 - np.median(novelty):.0%} of the held-out reference. "
        "Either its cells are of the most common kinds, or the embedding fits the reference more closely, "
        f"and nothing will be found unknown: {mend}."
    )


def _warn_of_unknown(
    novelty: np.ndarray, unknown: np.ndarray, *, is_new: bool, advice: str
) -> None:
    """Say that so many are unknown, or none, that something else than new types is likely."""
    found = f"{unknown.sum():,} of the {len(unknown):,} cells of `query`"
    if unknown.mean() > _MANY_UNKNOWN:
        if advice:
            mend = (
                "the query is of another batch or technology, which the embedding keeps apart. Train a model "
                f"on both: `{advice}`"
            )
        else:
            # Rounded down: what is on the edge is to be known.
            bar = np.floor(1e3 * (1 - np.quantile(novelty, 1 - _MANY_UNKNOWN))) / 1e3
            mend = (
                "the query as a whole differs from it, by technology for instance, and being unusual says "
                f"little of types. To call no more than the {_MANY_UNKNOWN:.0%} that are most unusual unknown: "
                f"`max_false_unknown={bar:g}`"
            )
        warn(
            f"{found} ({unknown.mean():.0%}) are called unknown. Unless so many are of types that the "
            f"reference lacks, {mend}."
        )
    elif is_new and not unknown.any() and len(unknown) >= _FEW:
        bar = np.ceil(1e3 * (1 - novelty.max())) / 1e3 + 1e-3
        warn(
            f"None of the {len(unknown):,} cells of `query` is called unknown, though they are of a new batch: "
            "a type that the reference lacks would be named after another. The most unusual cells are, if "
            f"more may be wrong: `max_false_unknown={bar:g}`."
        )


def _known_batches(
    reference: AnnData, query: AnnData, use_rep: str, codes: np.ndarray, n_neighbors: int
) -> str | None:
    """Column of the batches that the embedding was told of, if the query is of none of them."""
    written = reference.uns.get(use_rep)
    params = written.get("params") if isinstance(written, Mapping) else None
    key = params.get("batch_key") if isinstance(params, Mapping) else None
    if not isinstance(key, str) or key not in reference.obs or reference.obs[key].isna().any():
        return None
    batches = reference.obs[key].astype(str).to_numpy()
    if key in query.obs and query.obs[key].astype(str).isin(batches).any():
        return None
    sizes = np.unique(batches, return_counts=True)[1]
    shared = len(set(zip(codes.tolist(), batches.tolist(), strict=True))) > codes.max() + 1
    if len(sizes) < 2 or not shared or len(batches) - sizes.max() < n_neighbors:
        return None
    _LOGGER.info(
        f"Calibrated on whole batches, reference.obs[{key!r}], as the query is of another. To calibrate on "
        "single cells: `batch_key=None`."
    )
    return key


def _batches_of_query(query: AnnData, batch_key: str | None) -> np.ndarray | None:
    if batch_key is None or batch_key not in query.obs:
        return None
    batches: np.ndarray = np.unique(query.obs[batch_key].astype(str), return_inverse=True)[1]
    return batches


def _check_size(
    known: np.ndarray, n_neighbors: int, groups: np.ndarray | None, batch_key: str | None
) -> None:
    if groups is None:
        others, what = len(known) - 1, "cells of `reference` that are left when one is held out"
    else:
        others = len(known) - int(np.bincount(groups).max())
        what = f"cells of `reference` outside its largest batch in {batch_key!r}"
    check_neighbors(n_neighbors, others, what)


@dataclass
class Platt:
    """Probability that a label is right, from its share of the votes :cite:p:`Platt1999`.

    A logistic function of the logit of the share, whose slope is never below zero.
    """

    slope: float
    intercept: float
    n_votes: int

    @classmethod
    def fit(cls, share: np.ndarray, correct: np.ndarray, n_votes: int) -> Platt:
        """Fit to votes of cells whose label is known."""
        from sklearn.linear_model import LogisticRegression

        n_right = int(correct.sum())
        n_wrong = len(correct) - n_right
        # Targets a little off 0 and 1, as if each had been seen once more: all may be right.
        target = np.where(correct, (n_right + 1) / (n_right + 2), 1 / (n_wrong + 2))
        x = _logit(share, n_votes)[:, None]
        fitted = LogisticRegression(C=1e4, max_iter=1000).fit(
            np.concatenate([x, x]),
            np.repeat([1, 0], len(x)),
            sample_weight=np.concatenate([target, 1 - target]),
        )
        slope, intercept = float(fitted.coef_[0, 0]), float(fitted.intercept_[0])
        if slope < 0:
            slope, intercept = 0.0, float(np.log(target.mean() / (1 - target.mean())))
        return cls(slope, intercept, n_votes)

    def __call__(self, share: np.ndarray) -> np.ndarray:
        """Probabilities."""
        z = self.slope * _logit(share, self.n_votes) + self.intercept
        probability: np.ndarray = 1 / (1 + np.exp(-z))
        return probability


def _logit(share: np.ndarray, n_votes: int) -> np.ndarray:
    # As if half a vote more had been cast on either side: a share of 1 is not certain.
    smooth = (share * n_votes + 0.5) / (n_votes + 1)
    logit: np.ndarray = np.log(smooth / (1 - smooth))
    return logit


def vote(distances: np.ndarray, labels: np.ndarray, n_labels: int) -> tuple[np.ndarray, np.ndarray]:
    """Winning label of each cell and its share of the votes, which weigh one by distance.

    Neighbours at distance zero are the same cell as far as the embedding knows: they vote alone.
    """
    winner, share = np.empty(len(distances), dtype=np.intp), np.empty(len(distances))
    for part in _parts(len(distances)):
        same = distances[part] == 0
        inverse = 1 / np.where(same, 1, distances[part])
        weights = np.where(same.any(axis=1, keepdims=True), same, inverse)
        tally = votes(labels[part], n_labels, weights)
        winner[part] = tally.argmax(axis=1)
        share[part] = tally.max(axis=1) / tally.sum(axis=1)
    return winner, share


def _parts(n: int, size: int = 65_536) -> list[slice]:
    """Slices of a table by label, which for all cells of an atlas would be too large."""
    return [slice(start, start + size) for start in range(0, n, size)]


class Regression:
    """Logistic regression of codes on features that are scaled as a whole."""

    def __init__(self, features: np.ndarray, codes: np.ndarray, seed: int) -> None:
        from sklearn.linear_model import LogisticRegression

        rank = rank_in_class(codes, derive_generator(seed, "regression"))
        rows = np.sort(np.argsort(rank, kind="stable")[:_MOST_FITTED])
        features, codes = features[rows], codes[rows]
        self.codes, self.scale = np.unique(codes), scaling(features)
        self.model = LogisticRegression(C=DEFAULT_STRENGTH, max_iter=10_000)
        if len(self.codes) > 1:
            trained(self.model, self.scale(features), codes)

    def __call__(self, features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Most probable code of each cell, and its probability."""
        if len(self.codes) == 1:
            return np.full(len(features), self.codes[0]), np.ones(len(features))
        found = self.model.predict_proba(self.scale(features))
        return self.codes[found.argmax(axis=1)], found.max(axis=1)


class Centres:
    """Mahalanobis distance to the nearest label's mean :cite:p:`Lee2018`.

    The covariance is that within labels, shrunk as by :cite:t:`Ledoit2004`.
    """

    def __init__(self, values: np.ndarray, codes: np.ndarray, n_labels: int) -> None:
        from scipy import sparse
        from sklearn.covariance import LedoitWolf

        sizes = np.bincount(codes, minlength=n_labels)
        members = sparse.csr_matrix(
            (np.ones(len(codes)), (codes, np.arange(len(codes)))), (n_labels, len(codes))
        )
        sums = members @ values.astype(np.float64)
        means = sums[sizes > 0] / sizes[sizes > 0, None]
        place = np.cumsum(sizes > 0) - 1
        covariance = LedoitWolf(assume_centered=True).fit(values - means[place[codes]]).covariance_
        # Equal embeddings have no covariance to divide by.
        floor = max(float(np.trace(covariance)) / len(covariance), 1e-12) * 1e-6
        self._root = np.linalg.cholesky(covariance + floor * np.eye(len(covariance)))
        self._centres = self._whiten(means)

    def distance(self, values: np.ndarray) -> np.ndarray:
        """Distance of each cell to the nearest mean."""
        from scipy.spatial.distance import cdist

        found = np.empty(len(values))
        for part in _parts(len(values)):
            found[part] = cdist(self._whiten(values[part]), self._centres).min(axis=1)
        return found

    def _whiten(self, values: np.ndarray) -> np.ndarray:
        from scipy.linalg import solve_triangular

        whitened: np.ndarray = solve_triangular(
            self._root, values.T.astype(np.float64), lower=True
        ).T
        return whitened


class Reference:
    """A labelled embedding, float32, that labels are transferred from; `codes` are positions in a list.

    Cells of one of the `groups`, numbered, must not be each other's neighbours when they are held out; by
    default each is held out by itself. `calibrators` is the mask of the cells to calibrate on. Of the
    `classifier` ``"lr"``, `features` are what labels are told by, by default the embedding.

    With groups, distances of a group are measured in units of how much farther it lies than single cells
    that are held out, by the median, and so are those of a query, within what is found of the groups.
    """

    def __init__(
        self,
        values: np.ndarray,
        codes: np.ndarray,
        n_labels: int,
        *,
        n_neighbors: int,
        classifier: Voter = "knn",
        features: np.ndarray | None = None,
        groups: np.ndarray | None = None,
        calibrators: np.ndarray | None = None,
        exact: bool,
        seed: int,
    ) -> None:
        self.values, self.codes, self.n_labels = values, codes, n_labels
        self.n_neighbors, self.groups = n_neighbors, groups
        self.exact, self.seed = exact, seed
        self.features = values if features is None else features
        self.regression: Regression | None = None
        if classifier == "lr":
            self.regression = Regression(self.features, codes, seed)
        self.used = self._known_elsewhere()
        if calibrators is not None:
            self.used &= calibrators
        if not self.used.any():
            what = "none has a label that other cells, or those of other batches, have as well"
            raise ValueError(f"No cell of `reference` can be held out: {what}.")
        self.index = Index(values, exact=exact, seed=seed)
        self._own = self.index.own(n_neighbors)
        self._spread = self._own[0].mean(axis=1)
        self.centres = Centres(values, codes, n_labels)
        self._calibrate()

    def _calibrate(self) -> None:
        distances, neighbors = self._held_out_neighbors()
        if self.regression is None:
            winner, share = vote(distances, self.codes[neighbors], self.n_labels)
        else:
            winner, share = self._held_out_regression()
        used = self.used
        self.share, self.correct = share[used], (winner == self.codes)[used]
        self.platt = Platt.fit(self.share, self.correct, self._n_votes)
        far = np.stack([self._local(distances, neighbors), self._held_out_central(self.groups)])
        groups = np.zeros(len(used), dtype=np.intp) if self.groups is None else self.groups
        present, of = np.unique(groups[used], return_inverse=True)
        #: How much farther than single cells each group lies, ``(2, n_groups)``; and the single cells.
        self.factors = np.ones((2, len(present)))
        if self.groups is not None:
            single = np.stack([self._local(*self._own), self._held_out_central(None)])
            self._home = np.median(single[:, used], axis=1)
            medians = [np.median(far[:, used][:, of == i], axis=1) for i in range(len(present))]
            self.factors = self._farther(np.stack(medians, axis=1))
        far = far[:, used] / self.factors[:, of]
        self._sorted = np.sort(far, axis=1)
        #: How much farther the query lies than cells that were held out, by either distance.
        self.shift = np.ones(2)
        both = self._both(far, held_out=True)
        self._sorted_both = [np.sort(both[of == i]) for i in range(len(present))]

    def _farther(self, medians: np.ndarray) -> np.ndarray:
        """Medians in terms of those of single cells; of equal embeddings, which have none, 1."""
        tiny = np.finfo(np.float64).tiny
        home = self._home[:, None]
        ratio: np.ndarray = np.where(
            home > tiny, np.maximum(medians, tiny) / np.maximum(home, tiny), 1
        )
        return ratio

    def _known_elsewhere(self) -> np.ndarray:
        """Mask of the cells whose label other groups have: others are new to them, not mistaken."""
        groups = np.arange(len(self.codes)) if self.groups is None else self.groups
        pairs = np.unique(np.stack([self.codes, groups], axis=1), axis=0)
        return np.bincount(pairs[:, 0], minlength=self.n_labels)[self.codes] > 1

    def _held_out_neighbors(self) -> tuple[np.ndarray, np.ndarray]:
        if self.groups is None:
            return self._own
        shape = (len(self.values), self.n_neighbors)
        distances, neighbors = np.empty(shape), np.empty(shape, dtype=np.intp)
        for group in np.unique(self.groups):
            inside = self.groups == group
            others = np.flatnonzero(~inside)
            index = Index(self.values[others], exact=self.exact, seed=self.seed)
            distances[inside], found = index.query(self.values[inside], self.n_neighbors)
            neighbors[inside] = others[found]
        return distances, neighbors

    @property
    def _n_votes(self) -> int:
        return self.n_neighbors if self.regression is None else _VOTES_OF_REGRESSION

    def _folds(self) -> np.ndarray:
        """Parts of the reference with all labels, as far as they have cells enough."""
        return rank_in_class(self.codes, derive_generator(self.seed, "folds")) % _FOLDS

    def _held_out_regression(self) -> tuple[np.ndarray, np.ndarray]:
        folds = self._folds() if self.groups is None else self.groups
        winner, share = np.empty(len(folds), dtype=np.intp), np.empty(len(folds))
        for fold in np.unique(folds):
            inside = folds == fold
            fitted = Regression(self.features[~inside], self.codes[~inside], self.seed)
            winner[inside], share[inside] = fitted(self.features[inside])
        return winner, share

    def _held_out_central(self, folds: np.ndarray | None) -> np.ndarray:
        if folds is None:
            folds = self._folds()
        distance = np.empty(len(self.values))
        for fold in np.unique(folds):
            inside = folds == fold
            rest = Centres(self.values[~inside], self.codes[~inside], self.n_labels)
            distance[inside] = rest.distance(self.values[inside])
        return distance

    def _local(self, distances: np.ndarray, neighbors: np.ndarray) -> np.ndarray:
        """How far the neighbours are, relative to how far theirs are :cite:p:`Breunig2000`."""
        theirs = self._spread[neighbors].mean(axis=1)
        ratio: np.ndarray = distances.mean(axis=1) / np.maximum(theirs, np.finfo(np.float64).tiny)
        return ratio

    def _both(self, far: np.ndarray, *, held_out: bool = False) -> np.ndarray:
        """Fisher's sum of the logarithms of two tail shares; high is novel."""
        first, second = (
            tail_share(ordered, values, member=held_out)
            for ordered, values in zip(self._sorted, far, strict=True)
        )
        total: np.ndarray = -np.log(first) - np.log(second)
        return total

    def _factors_of(self, far: np.ndarray) -> np.ndarray:
        """How much farther cells of a batch that is not here lie, within what the groups show."""
        if far.shape[1] < _FEW:
            return np.median(self.factors, axis=1, keepdims=True)
        low, high = np.minimum(self.factors.min(axis=1), 1), self.factors.max(axis=1)
        found = self._farther(np.median(far, axis=1, keepdims=True))
        return np.clip(found, low[:, None], high[:, None])

    def _shift_of(self, far: np.ndarray) -> np.ndarray:
        """How much farther a new batch lies, by its nearest quarter, taken to be of known types."""
        home = np.maximum(np.quantile(self._sorted, _NEAREST, axis=1), np.finfo(np.float64).tiny)
        found: np.ndarray = np.clip(np.quantile(far, _NEAREST, axis=1) / home, 1, _FARTHEST)
        return found

    def transfer(
        self,
        values: np.ndarray,
        batches: np.ndarray | None = None,
        *,
        features: np.ndarray | None = None,
        is_new: bool = False,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Label, confidence and novelty of other cells, which are one batch or those numbered.

        Of a new batch (`is_new`), where the reference has none to compare with, distances are measured in
        units of how much farther its nearest quarter lies than that of cells that were held out.
        """
        distances, neighbors = self.index.query(values, self.n_neighbors)
        if self.regression is None:
            winner, share = vote(distances, self.codes[neighbors], self.n_labels)
        else:
            winner, share = self.regression(values if features is None else features)
        far = np.stack([self._local(distances, neighbors), self.centres.distance(values)])
        if self.groups is not None:
            batches = np.zeros(len(values), dtype=np.intp) if batches is None else batches
            for batch in np.unique(batches):
                inside = batches == batch
                far[:, inside] /= self._factors_of(far[:, inside])
        elif is_new and len(values) >= _FEW:
            self.shift = self._shift_of(far)
            far /= self.shift[:, None]
        both = self._both(far)
        # The median over the batches, one of which may be unlike all others.
        tails = [tail_share(ordered, both) for ordered in self._sorted_both]
        return winner, self.platt(share), 1 - np.median(tails, axis=0)

    def calibration(self) -> dict[str, Any]:
        """Reliability of the confidence of held-out cells, which it was not fitted on."""
        rank = rank_in_class(self.correct.astype(np.intp), derive_generator(self.seed, "platt"))
        confidence = np.empty(len(self.share))
        for fold in range(_FOLDS):
            inside = rank % _FOLDS == fold
            if inside.all():
                confidence[:] = self.platt(self.share)
            elif inside.any():
                fitted = Platt.fit(self.share[~inside], self.correct[~inside], self._n_votes)
                confidence[inside] = fitted(self.share[inside])
        bins = reliability(confidence, self.correct)
        return {
            "slope": self.platt.slope,
            "intercept": self.platt.intercept,
            "ece": calibration_error(bins),
            "ece_of_votes": calibration_error(reliability(self.share, self.correct)),
            "accuracy": float(self.correct.mean()),
            "n_cells": len(self.share),
            "bins": bins,
        }


def tail_share(ordered: np.ndarray, values: np.ndarray, *, member: bool = False) -> np.ndarray:
    """Share of `ordered` and the value itself that is at least as large as the value.

    With `member` the values are those of `ordered`, and none is counted twice.
    """
    at_least = len(ordered) - np.searchsorted(ordered, values, side="left")
    share: np.ndarray = (at_least + (not member)) / (len(ordered) + (not member))
    return share
