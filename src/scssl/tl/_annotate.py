"""Label the cells of one data set by those of another, from the matrices on."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from scipy import sparse

from scssl._checks import (
    check_adata,
    check_destination,
    check_key,
    check_whole,
    get_labels,
    get_matrix,
)
from scssl._errors import warn
from scssl._random import RNG, as_seed, derive_seed
from scssl.data import GeneVocabulary, check_scale

from ._common import to_be_written, values_of
from ._common_axes import FEW_COMMON, common_axes
from ._embed import embed
from ._fuse import side_by_side, spreads
from ._integrate import components, embedded_by
from ._label_transfer import Voter, transfer_labels
from ._recommended import AUTO, plan_for

if TYPE_CHECKING:
    from anndata import AnnData

    from scssl.data.matrix import InputKind
    from scssl.model import SSLModel

_LOGGER = logging.getLogger("scssl")
_BATCH = "batch"
# Confidence below which a label is doubtful: as likely wrong as right.
_DOUBTFUL = 0.5
_N_PCS = 50


def annotate(
    reference: AnnData,
    query: AnnData,
    label_key: str,
    *,
    model: SSLModel | str | Path | None = None,
    batch_key: str | None = None,
    layer: str | None = None,
    classifier: Voter = "lr",
    n_neighbors: int = 15,
    max_false_unknown: float = 0.05,
    unknown_label: str = "unknown",
    min_overlap: float = 0.5,
    max_epochs: int | None = None,
    key_added: str = "ssl_label",
    progress: bool = False,
    rng: RNG = 0,
    copy: bool = False,
) -> AnnData | None:
    """Label cells by annotated ones of another data set, in one call.

    Genes are matched by name; both data sets are embedded together, as batches; each cell of `query` gets
    a label by those of the annotated cells, with the probability that it is right, and is called unknown
    where it is like no cell of the reference. Four lines of the log say what was found. What is done in each
    step: :func:`integrate`, :func:`embed`, :func:`label_transfer`.

    Without `model`, one is trained here on both data sets without labels, the one that :func:`integrate`
    takes for so many cells; that is the best for one query, as it has seen its batch. With a model there is
    nothing to train: right for many queries of the kind of cells that it knows.

    Parameters
    ----------
    reference
        Cells with labels. It is not changed.
    query
        Cells to label, counts or log-normalised values as those of `reference`.
    label_key
        Column of `reference.obs` with the labels. Every cell must have one.
    model
        A trained model, the folder of one or its name on the Hugging Face Hub. By default one is trained.
    batch_key
        Column with the batch (sample, donor, technology) of every cell of `reference`, and of `query` if it
        has it, which are then brought together too. By default either is one batch. With a model that was
        trained before, and two batches in the reference, confidence and unknown cells are calibrated on
        whole batches held out, as in :func:`label_transfer`.
    layer
        Layer of both to train on instead of `X`; a trained model knows its own.
    classifier
        What labels a cell: ``"lr"``, logistic regression, or ``"knn"``, the vote of its nearest cells; as in
        :func:`label_transfer`. Without `model`, the regression is on the embedding and 50 principal
        components of both data sets side by side, as by :func:`fuse`. Macro-F1 of a batch left out, mean over
        the batches, regression and vote: kang_ifnb .898 and .864, baron_human_mouse_328 .966 and .979
        (one run each); 30 % of pbmc68k_reduced in a batch of their own .636 and .630.
    n_neighbors
        Neighbours that novelty is measured by, and that vote.
    max_false_unknown
        Share of cells like those of the reference that may be called unknown.
    unknown_label
        What cells are called that are too novel.
    min_overlap
        Share of the model's genes that each data set must have; without a model, share of the genes of
        `reference` that `query` must have. They are trained on the genes that both have; where
        ``reference.var["highly_variable"]`` is there, on those of them.
    max_epochs
        Passes over the cells at most, where a model is trained; by default those of the model.
    key_added
        Where the results go in `query.obs`, `query.obsm` and `query.uns`.
    progress
        Whether to show a bar while a model is trained.
    rng
        Seed or generator of all random choices.
    copy
        Leave `query` as it is and return a copy with the results.

    Returns
    -------
    AnnData or None
        `None`, or a copy of `query` when `copy` is true. Sets what :func:`label_transfer` does, and

        ``query.obsm[key_added]`` : :class:`numpy.ndarray` (float32)
            The embedding.
        ``query.uns[key_added]["summary"]`` : :class:`dict`
            ``n_cells``, ``n_reference``, ``n_labels_found``, ``share_unknown``, ``share_doubtful`` (a
            confidence below 0.5, of the cells that are not unknown) and ``method``.

    Raises
    ------
    KeyError
        If a column or layer is missing.
    ValueError
        If a label is missing, one data set holds counts and the other does not, or cells are in both.
    GeneMismatchError
        If too few genes are in both.

    Warns
    -----
    ScsslWarning
        If more than 30 % of the cells are called unknown, or none; or if, without `model`, the two data sets
        vary in so different ways that they hardly have a type in common.

    Examples
    --------
    >>> import scssl
    >>> adata = scssl.datasets.pbmc68k_reduced()
    >>> reference, query = adata[:500].copy(), adata[500:].copy()
    >>> scssl.tl.annotate(reference, query, "bulk_labels")
    >>> bool((query.obs["ssl_label"] == query.obs["bulk_labels"]).mean() > 0.5)
    True
    """
    for adata, name in ((reference, "reference"), (query, "query")):
        check_adata(adata, name, matrix=True)
    check_destination(query, key_added, "query", copy=copy)
    check_key(unknown_label, "unknown_label")
    max_epochs = check_whole("max_epochs", max_epochs, none=True)
    # Before a model is trained, not after.
    get_labels(reference, label_key, name="reference")
    seed, rep, features, has_common = as_seed(rng), key_added, None, False
    pair = {"reference": reference, "query": query}
    batches = [_batches(adata, batch_key, name) for name, adata in pair.items()]
    if model is None:
        fit = {"max_epochs": max_epochs, "progress": progress}
        trained = _trained(pair, layer, batches, min_overlap, seed, fit)
        method, features = f"{trained.method}, trained on both", trained.features
        has_common = trained.has_common
        both = zip(pair.values(), trained.embeddings, strict=True)
        parts = [_light(adata, rep, one) for adata, one in both]
    else:
        parts = [_embedded(adata, model, min_overlap, rep) for adata in pair.values()]
        method = str(parts[0].uns[rep]["model"])
        if batch_key is not None:
            parts[0].uns[rep] = {**parts[0].uns[rep], "params": {"batch_key": batch_key}}
    # Of a model that was trained to bring these very batches together, single cells tell how far a cell of
    # a known type is.
    key = parts[0].uns.get(rep, {}).get("params", {}).get("batch_key")
    for part, adata in zip(parts, pair.values(), strict=True):
        part.obs = adata.obs[[one for one in (label_key, key) if one in adata.obs]].copy()
    known, new = parts
    transfer_labels(
        known,
        new,
        label_key,
        use_rep=rep,
        classifier=classifier,
        features=features,
        n_neighbors=n_neighbors,
        max_false_unknown=max_false_unknown,
        held_out_key=None,
        batch_key=AUTO,
        unknown_label=unknown_label,
        exact=None,
        key_added=key_added,
        rng=derive_seed(seed, "labels"),
        copy=False,
        is_new=not set(batches[1]) <= set(batches[0]),
        has_common=has_common,
        advice="" if model is None else f"scssl.tl.annotate(reference, query, {label_key!r})",
    )
    query = to_be_written(query, copy=copy)
    for end in ("", "_confidence", "_novelty", "_call"):
        query.obs[f"{key_added}{end}"] = new.obs[f"{key_added}{end}"].array
    query.obsm[rep] = new.obsm[rep]
    query.uns[key_added] = new.uns[key_added]
    query.uns[key_added]["summary"] = _summary(query, key_added, unknown_label, len(known), method)
    return query if copy else None


def _batches(adata: AnnData, key: str | None, name: str) -> np.ndarray:
    """Batch of every cell; without a column, one that is called as the data are."""
    if key is None or (name == "query" and key not in adata.obs):
        return np.full(adata.n_obs, name, dtype=object)
    return get_labels(adata, key, "batch_key", name).astype(str).to_numpy(dtype=object)


def _light(adata: AnnData, rep: str, embedding: np.ndarray) -> AnnData:
    """The embedding of cells, without their matrix."""
    import anndata
    import pandas as pd

    return anndata.AnnData(obs=pd.DataFrame(index=adata.obs_names), obsm={rep: embedding})


def _embedded(
    adata: AnnData, model: SSLModel | str | Path, min_overlap: float, rep: str
) -> AnnData:
    """The embedding by a model, of data that stay as they are."""
    import anndata

    # Of the same arrays: only the table of what is where is another one.
    shared = anndata.AnnData(
        adata.X,
        obs=adata.obs,
        var=adata.var,
        obsm=dict(adata.obsm),
        layers={name: adata.layers[name] for name in adata.layers if name is not None},
    )
    embed(shared, model, key_added=rep, min_overlap=min_overlap)
    light = _light(adata, rep, shared.obsm[rep])
    light.uns[rep] = shared.uns[rep]
    return light


class _Trained(NamedTuple):
    """Method for both data sets together, the embedding of each, and what their labels are told by."""

    method: str
    embeddings: list[np.ndarray]
    features: tuple[np.ndarray, np.ndarray]
    has_common: bool
    """Whether they seem to have types in common."""


def _trained(
    pair: Mapping[str, AnnData],
    layer: str | None,
    batches: list[np.ndarray],
    min_overlap: float,
    seed: int,
    fit: dict[str, Any],
) -> _Trained:
    """What both data sets are embedded by together."""
    import anndata
    import pandas as pd

    reference, query = pair.values()
    matrices, kind = _of_one_kind(pair, layer)
    found = GeneVocabulary(reference.var_names).align(
        query.var_names, min_overlap=min_overlap, var=query.var, name="query", of="reference"
    )
    place = np.full(reference.n_vars, -1)
    place[found.columns[found.columns >= 0]] = np.flatnonzero(found.columns >= 0)
    chosen = place >= 0
    if "highly_variable" in reference.var:
        of_these = reference.var["highly_variable"].to_numpy(dtype=bool, na_value=False)
        chosen = chosen & of_these if (chosen & of_these).any() else chosen
    rows = np.flatnonzero(chosen)
    parts = (
        sparse.csr_matrix(matrix[:, columns])
        for matrix, columns in zip(matrices, (rows, place[rows]), strict=True)
    )
    names = np.concatenate(batches)
    if len(set(names)) < 2:
        # Called the same in both, and yet two data sets.
        names = np.repeat(list(pair), [adata.n_obs for adata in pair.values()])
    cells = anndata.AnnData(
        sparse.vstack(list(parts), format="csr"),
        obs=pd.DataFrame({_BATCH: pd.Categorical(names)}, index=np.arange(len(names)).astype(str)),
        var=pd.DataFrame(index=reference.var_names[rows]),
    )
    _LOGGER.info("%s genes are in both.", f"{len(rows):,}")
    plan = plan_for(AUTO, cells.n_obs, len(set(names)))
    is_query = np.arange(cells.n_obs) >= reference.n_obs
    has_common = _have_common(common_axes(cells.X, kind, is_query, seed))
    # Before a model is trained, which may leave its own settings in the cells.
    linear = components(cells, _N_PCS, kind, seed)
    embedding = embedded_by(plan, cells, _BATCH, kind, seed, **fit)
    both = side_by_side([linear, embedding], spreads([linear, embedding]))
    first, second = np.split(both, [reference.n_obs])
    of_each = np.split(embedding, [reference.n_obs])
    return _Trained(plan.method, of_each, (first, second), has_common)


def _have_common(share: float) -> bool:
    """Whether a query varies as the reference does; warns if not: brought together they are all the same."""
    if share < FEW_COMMON:
        warn(
            f"`query` varies along other axes than `reference`: those of the reference explain {share:.0%} of "
            f"what its own do, where data sets with common cell types have more than {FEW_COMMON:.0%}. Cells "
            "of types that the reference lacks are brought together with others and get their labels: "
            "look at marker genes before you use these, or take a reference of the same tissue."
        )
    return share >= FEW_COMMON


def _of_one_kind(pair: Mapping[str, AnnData], layer: str | None) -> tuple[list[Any], InputKind]:
    """The matrices of both, and what their values are."""
    matrices, found = [], {}
    for name, adata in pair.items():
        matrix, found[name] = values_of(adata, layer, name)
        matrices.append(matrix)
    kinds = {name: one.kind for name, one in found.items()}
    if len(set(kinds.values())) > 1:
        raw = next(name for name, kind in kinds.items() if kind == "counts")
        other = next(name for name in kinds if name != raw)
        of_layer = "" if layer is None else f", layer={layer!r}"
        raise ValueError(
            f"`{raw}` holds counts and `{other}` log-normalised values, which cannot be compared. Normalise "
            f"the counts as the others are, to 10,000 for instance: `import scanpy as sc; "
            f"sc.pp.normalize_total({raw}, target_sum=1e4{of_layer}); sc.pp.log1p({raw}{of_layer})`."
        )
    if kinds["query"] != "counts":
        # Not the same genes: levels say nothing.
        known, new = (replace(one.scale, level=0.0) for one in found.values())
        theirs, where = (get_matrix(adata, layer, name)[1] for name, adata in pair.items())
        check_scale(new, known, matrices[1], where=where, whose=f"{theirs} holds", name="query")
    return matrices, kinds["query"]


def _summary(
    query: AnnData, key: str, unknown_label: str, n_reference: int, method: str
) -> dict[str, Any]:
    """What was found, as it is written and, in four lines, logged."""
    call = query.obs[f"{key}_call"].astype(str)
    is_unknown = (call == unknown_label).to_numpy()
    doubtful = (query.obs[f"{key}_confidence"] < _DOUBTFUL).to_numpy() & ~is_unknown
    found = call[~is_unknown].value_counts()
    worst = call[doubtful].value_counts()
    most = ", ".join(f"{name} {n:,}" for name, n in found.head(5).items())
    rest = f" and {len(found) - 5} others" if len(found) > 5 else ""
    where = f", most of them called {worst.index[0]!r}" if len(worst) else ""
    known = len(query.uns[key]["labels"])
    _LOGGER.info(
        f"{query.n_obs:,} cells labelled by {n_reference:,}: {method}.\n"
        f"Types found: {len(found)} of {known}: {most or 'none'}{rest}.\n"
        f"Unknown: {is_unknown.mean():.1%} ({is_unknown.sum():,} cells).\n"
        f"Doubtful: {doubtful.mean():.1%} ({doubtful.sum():,} cells) have a confidence below "
        f"{_DOUBTFUL}{where}."
    )
    return {
        "n_cells": query.n_obs,
        "n_reference": n_reference,
        "n_labels_found": len(found),
        "share_unknown": float(is_unknown.mean()),
        "share_doubtful": float(doubtful.mean()),
        "method": method,
    }
