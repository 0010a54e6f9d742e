"""Scores of predicted labels, plain and aware of a hierarchy of labels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from scssl._checks import check_adata, check_destination, check_key, get_column, get_labels, some
from scssl._scores import calibration_error, class_table, reliability, scores_of

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData


def score_labels(
    adata: AnnData,
    label_key: str,
    pred_key: str,
    *,
    children: Mapping[str, Iterable[str]] | pd.DataFrame | None = None,
    confidence_key: str | None = None,
    unknown_label: str = "unknown",
    key_added: str | None = None,
) -> pd.DataFrame:
    """Score predicted labels against known ones.

    F1 = 2TP / (2TP + FP + FN). All means run over the labels that cells have: a prediction that is
    no such label is an error of the cell that got it. `macro_f1` and `balanced_accuracy` (mean
    recall) weigh all labels alike, `weighted_f1` and `accuracy` (with one prediction per cell
    the same as micro-F1) all cells.

    With `children` the table has a second set of scores, named ``hierarchical_...``: a prediction
    that is a descendant of the cell's label counts as that label, as a more precise answer. An
    ancestor, or a sibling, is still an error. They are never below the plain scores of accuracy and
    are not comparable with plain scores of other publications.

    Parameters
    ----------
    adata
        Cells with both columns. Only `adata.uns` is changed.
    label_key
        Column of `adata.obs` with the known labels.
    pred_key
        Column of `adata.obs` with the predictions.
    children
        Children of each label: a dict of lists, or a frame with the columns ``"parent"`` and
        ``"child"``, as made from the Cell Ontology's ``is_a``. It has to name all labels and
        predictions.
    confidence_key
        Column of `adata.obs` with the probability of each prediction; adds the expected calibration
        error :cite:p:`Naeini2015`, in 15 bins of equal width. Cells predicted to be `unknown_label`
        are left out of it: a probability is that of a label, and they were given none.
    unknown_label
        Prediction that stands for no prediction. In the scores it counts as an error, and its share is
        reported.
    key_added
        Entry of `adata.uns` for the result; ``f"{pred_key}_scores"`` by default.

    Returns
    -------
    pandas.DataFrame
        One row with ``label_key``, ``pred_key``, ``n_cells``, ``n_labels``, ``macro_f1``,
        ``balanced_accuracy``, ``weighted_f1``, ``accuracy`` and ``unknown_share``; with `children`
        also the four scores as ``hierarchical_...``, with `confidence_key` ``ece`` (NaN if all
        predictions are unknown). In
        ``adata.uns[key_added]``: the same as ``"scores"``, the frame ``"per_class"`` (one row per
        label: cells, times predicted, precision, recall, F1) and ``"params"``.

    Raises
    ------
    KeyError
        If a column is not in `adata.obs`.
    ValueError
        If labels are missing, confidences are no probabilities, or `children` goes in a circle or
        does not know a label.

    Examples
    --------
    >>> import pandas as pd, scssl
    >>> from anndata import AnnData
    >>> obs = pd.DataFrame(
    ...     {"known": ["T", "T", "B"], "found": ["CD4 T", "B", "B"]}, index=list("abc")
    ... )
    >>> adata = AnnData(obs=obs)
    >>> table = {"lymphocyte": ["T", "B"], "T": ["CD4 T", "CD8 T"]}
    >>> score = scssl.tl.score_labels(adata, "known", "found", children=table)
    >>> score[["accuracy", "hierarchical_accuracy"]].round(2).values.tolist()
    [[0.33, 0.67]]
    """
    import pandas as pd

    check_adata(adata)
    check_key(unknown_label, "unknown_label")
    key_added = f"{pred_key}_scores" if key_added is None else key_added
    check_destination(adata, key_added)
    known = get_labels(adata, label_key).astype(str).to_numpy()
    found = get_labels(adata, pred_key, "pred_key").astype(str).to_numpy()
    if not len(known):
        raise ValueError("`adata` has no cells to score.")
    names, truth = np.unique(known, return_inverse=True)
    predicted = pd.Index(names).get_indexer(found)
    table = class_table(truth, predicted, names)
    row: dict[str, Any] = {
        "label_key": label_key,
        "pred_key": pred_key,
        "n_cells": len(known),
        "n_labels": len(names),
        **scores_of(table),
        "unknown_share": float((found == unknown_label).mean()),
    }
    if children is not None:
        corrected = _take_descendants_for_labels(
            known, found, children, unknown_label, label_key, pred_key
        )
        lenient = class_table(truth, pd.Index(names).get_indexer(corrected), names)
        row |= {f"hierarchical_{name}": value for name, value in scores_of(lenient).items()}
        for name in ("precision", "recall", "f1"):
            table[f"hierarchical_{name}"] = lenient[name]
    if confidence_key is not None:
        confidence = _probabilities(get_column(adata, confidence_key, "confidence_key"))
        told = found != unknown_label
        bins = reliability(confidence[told], (known == found)[told])
        row["ece"] = calibration_error(bins) if told.any() else np.nan
    scores = pd.DataFrame([row])
    adata.uns[key_added] = {
        "scores": scores.copy(),
        "per_class": table,
        "params": {"unknown_label": unknown_label, "hierarchical": children is not None},
    }
    return scores


def _take_descendants_for_labels(
    known: np.ndarray,
    found: np.ndarray,
    children: Any,
    unknown_label: str,
    label_key: str,
    pred_key: str,
) -> np.ndarray:
    """Predictions, with the label of the cell instead of any of the label's descendants."""
    below = descendants(children)
    for values, key in ((known, label_key), (found, pred_key)):
        strange = sorted(set(values) - set(below) - {unknown_label})
        if strange:
            of = "children"
            if hasattr(children, "columns"):
                of = 'children.groupby("parent")["child"].agg(list)'
            raise ValueError(
                f"`children` does not know {len(strange)} of the labels in adata.obs[{key!r}]: "
                f"{some(strange)}. Correct them, or add them, here without relatives: "
                f"`children = {{**dict.fromkeys(adata.obs[{key!r}].astype(str), []), **{of}}}`."
            )
    pairs = {
        pair: pair[1] in below.get(pair[0], ()) for pair in set(zip(known, found, strict=True))
    }
    is_below = np.fromiter(
        (pairs[pair] for pair in zip(known, found, strict=True)), dtype=bool, count=len(known)
    )
    return np.where(is_below, known, found)


def _probabilities(values: pd.Series[Any]) -> np.ndarray:
    confidence = np.asarray(values, dtype=np.float64)
    broken = ~((confidence >= 0) & (confidence <= 1))
    if broken.any():
        first = int(broken.argmax())
        raise ValueError(
            f"adata.obs[{values.name!r}] must hold probabilities from 0 to 1, found {confidence[first]!r} "
            f"in cell {values.index[first]!r}."
        )
    return confidence


def descendants(children: Mapping[str, Iterable[str]] | pd.DataFrame) -> dict[str, frozenset[str]]:
    """All that is below each name of a table, at any depth; a name may have several parents."""
    table = _by_parent(children)
    below: dict[str, frozenset[str]] = {}
    # Depth first with a stack of our own: an ontology may be deeper than Python's recursion.
    for root in table:
        path: list[tuple[str, list[str]]] = [(root, list(table[root]))] if root not in below else []
        on_path = {root}
        while path:
            name, todo = path[-1]
            if todo:
                child = todo.pop()
                if child in on_path:
                    names = [step for step, _ in path]
                    loop = " → ".join(map(repr, [*names[names.index(child) :], child]))
                    raise ValueError(f"`children` goes in a circle: {loop}.")
                if child not in below:
                    path.append((child, list(table[child])))
                    on_path.add(child)
            else:
                own = table[name]
                below[name] = frozenset(own).union(*(below[child] for child in own))
                path.pop()
                on_path.discard(name)
    return below


def _by_parent(children: Any) -> dict[str, list[str]]:
    """Children of every name, of the childless as well."""
    if hasattr(children, "columns"):
        if not {"parent", "child"} <= set(children.columns):
            wanted = [name for name in ("parent", "child") if name not in children]
            spare = [str(name) for name in children if name not in ("parent", "child")]
            rename = ""
            if len(spare) >= len(wanted):
                names = dict(zip(spare, wanted, strict=False))
                rename = f" Rename them, as in `children = children.rename(columns={names})`."
            raise ValueError(
                "`children` needs the columns 'parent' and 'child', one row per pair; it has "
                f"{some(children.columns)}.{rename}"
            )
        pairs = list(zip(children["parent"], children["child"], strict=True))
    elif isinstance(children, Mapping):
        for parent, found in children.items():
            if isinstance(found, str):
                write = f"Write `children[{parent!r}] = [{found!r}]`"
                lists = "maps a name to a list of names"
                raise TypeError(f"`children` {lists}, found a string for {parent!r}. {write}.")
        pairs = [(parent, child) for parent, found in children.items() for child in found]
    else:
        raise TypeError(
            "`children` must be a dict of lists or a DataFrame with the columns 'parent' and "
            f"'child', found {type(children).__name__}."
        )
    table: dict[str, list[str]] = {}
    for pair in pairs:
        for name in pair:
            if not isinstance(name, str) or not name:
                must = "must be strings that are not empty"
                raise TypeError(f"Names in `children` {must}, found {name!r}.")
            table.setdefault(name, [])
        table[pair[0]].append(pair[1])
    if isinstance(children, Mapping):
        for name in children:
            table.setdefault(name, [])
    return table
