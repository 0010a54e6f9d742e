"""Labels to learn from: checks, classes and codes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from scssl._checks import (
    LABELLED,
    check_adata,
    check_number,
    get_column,
    likely_column,
    number,
    some,
)

from ._setup import DataSetup, as_strings

# A column of numbers with more classes than this and few cells per class is a measurement.
_MANY_NUMBERS = 50


def check_label_column(adata: AnnData, key: str | None, unlabeled: str | None) -> None:
    """Refuse a column that a classifier cannot learn from."""
    check_adata(adata, matrix=True)
    if key is None:
        there = some(adata.obs.columns, 20) or "none"
        likely = likely_column(adata.obs, *LABELLED)
        take = "" if likely is None else f", such as `labels_key={likely!r}`"
        raise ValueError(
            f"Say which column of adata.obs has the labels to learn{take}; there are: {there}."
        )
    column = get_column(adata, key, "labels_key")
    values = column[column.notna()]
    numbers = pd.api.types.is_numeric_dtype(values.dtype) and values.dtype.kind != "b"
    distinct = values.nunique()
    fractions = numbers and not (values == values.round()).all()
    if fractions or (numbers and distinct > _MANY_NUMBERS and len(values) < 10 * distinct):
        what = f"{number(values.iloc[0])}, {number(values.iloc[-1])}, ..."
        raise ValueError(
            f'adata.obs["{key}"] holds numbers ({what}; {distinct:,} different ones in {len(values):,} '
            "cells) and no classes. If they are codes of classes, make them strings: "
            f'`adata.obs["{key}"] = adata.obs["{key}"].astype("string")`.'
        )
    names = as_strings(values)
    if unlabeled is not None:
        names = names[names != str(unlabeled)]
    if not len(names):
        aside = "" if unlabeled is None else f" or {str(unlabeled)!r}"
        raise ValueError(f'No cell has a label: all of adata.obs["{key}"] is missing{aside}.')
    if names.nunique() < 2:
        raise ValueError(
            f'adata.obs["{key}"] has one class only ({names[0]!r}, {len(names):,} cells). A classifier '
            "needs at least two."
        )


def trained_classes(setup: DataSetup, unlabeled: str | None) -> list[str]:
    """Names of the classes, sorted."""
    assert setup.labels_key is not None
    return [name for name in setup.categories[setup.labels_key] if name != unlabeled]


def label_codes(
    adata: AnnData, key: str, classes: Sequence[str], unlabeled: str | None
) -> np.ndarray:
    """Code of each cell's class, -1 where it has no label."""
    values = get_column(adata, key)
    labelled = values.notna().to_numpy().copy()
    names: Any = np.full(len(values), None, dtype=object)
    names[labelled] = as_strings(values[labelled]).to_numpy(dtype=object)
    if unlabeled is not None:
        labelled &= names != unlabeled
    codes = np.where(labelled, pd.Index(classes).get_indexer(pd.Index(names, dtype=object)), -1)
    new = sorted(set(names[labelled & (codes < 0)]))
    if new:
        raise ValueError(
            f'adata.obs["{key}"] has {len(new)} classes that the model does not have: {some(new)}. It '
            f"has {some(classes)}. Rename them, set them to missing, or make a new model."
        )
    if not labelled.any():
        raise ValueError(f'No cell has a label in adata.obs["{key}"].')
    return codes.astype(np.int64)


def checked_weights(weights: Any, classes: Sequence[str]) -> Any:
    """Weights of classes as they were given, with names as text and values as numbers."""
    if weights is None or (isinstance(weights, str) and weights == "balanced"):
        return weights
    if not isinstance(weights, Mapping):
        raise ValueError(
            f"`class_weight` must be None, 'balanced' or a dict of weights by class, found {weights!r}."
        )
    unknown = sorted({str(name) for name in weights} - set(classes))
    if unknown:
        raise ValueError(
            f"`class_weight` names {some(unknown)}, which is no class; there are {some(classes, 50)}."
        )
    return {
        str(name): check_number(f"class_weight[{str(name)!r}]", value, "(0, inf)")
        for name, value in weights.items()
    }
