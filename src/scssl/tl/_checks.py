"""Checks of the parts of an AnnData that tools and plots read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from scssl._checks import (
    check_adata,
    check_integers,
    check_key,
    get_embedding,
    is_number,
    whole_numbers,
)

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

__all__ = [
    "check_adata",
    "check_integers",
    "check_key",
    "check_same_model",
    "check_share",
    "get_column",
    "get_embedding",
    "get_labels",
    "get_rows",
    "is_number",
    "whole_numbers",
]


def check_share(value: Any, name: str, *, zero: bool = False) -> None:
    """Raise unless argument ``name`` is above 0 (or, with `zero`, 0) and below 1."""
    if not is_number(value) or not (0 < value < 1 or (zero and value == 0)):
        least = "at least 0" if zero else "above 0"
        raise ValueError(f"`{name}` must be a number {least} and below 1, found {value!r}.")


# What `tl.embed` writes of a model, and what differs where it differs.
_MODEL = {"vocabulary_hash": "genes", "encoder_hash": "weights"}


def check_same_model(
    reference: AnnData, query: AnnData, use_rep: str, known: np.ndarray, new: np.ndarray
) -> None:
    """Raise if two embeddings, as far as is known of them, are by two models."""
    again = (
        f"`scssl.tl.embed(reference, model, key_added={use_rep!r})` and "
        f"`scssl.tl.embed(query, model, key_added={use_rep!r})`"
    )
    if known.shape[1] != new.shape[1]:
        raise ValueError(
            f"obsm[{use_rep!r}] has {known.shape[1]} dimensions in `reference` and {new.shape[1]} in "
            f"`query`: embed both with the same model, {again}."
        )
    written = [adata.uns.get(use_rep) for adata in (reference, query)]
    for name, what in _MODEL.items():
        found = [one.get(name) if isinstance(one, Mapping) else None for one in written]
        if None not in found and found[0] != found[1]:
            raise ValueError(
                f"obsm[{use_rep!r}] is by models of different {what} in `reference` and `query` "
                f"(uns[{use_rep!r}][{name!r}]), so distances between them mean nothing: embed both "
                f"with the same model, {again}."
            )


def get_column(adata: AnnData, key: str, argument: str, name: str = "adata") -> pd.Series[Any]:
    """``adata.obs[key]``, where `key` was given as `argument`."""
    check_key(key, argument)
    if key not in adata.obs:
        found = ", ".join(map(repr, adata.obs.columns)) or "no columns"
        raise KeyError(f"{name}.obs has no {key!r}; it has {found}.")
    return cast("pd.Series[Any]", adata.obs[key])


def get_labels(
    adata: AnnData, key: str, argument: str = "label_key", name: str = "adata"
) -> pd.Series[Any]:
    """``adata.obs[key]``, known for every cell."""
    labels = get_column(adata, key, argument, name)
    unknown = int(labels.isna().sum())
    if unknown:
        raise ValueError(
            f"{name}.obs[{key!r}] is missing for {unknown:,} of {len(labels):,} cells. Take the "
            f"labelled cells: `{name} = {name}[{name}.obs[{key!r}].notna()].copy()`."
        )
    return whole_numbers(labels)


def get_rows(adata: AnnData, cells: Any, where: str) -> np.ndarray:
    """Row numbers of row numbers, a mask or names, each once; `where` is their name in messages."""
    cells = np.asarray(cells)
    rows: np.ndarray
    if cells.ndim != 1 or not cells.size:
        raise ValueError(
            f"{where} must be a list of cells that is not empty, found shape {cells.shape}."
        )
    if cells.dtype.kind == "b":
        if len(cells) != adata.n_obs:
            raise ValueError(
                f"{where} is a mask of {len(cells):,} cells, but `adata` has {adata.n_obs:,}."
            )
        rows = np.flatnonzero(cells)
    elif cells.dtype.kind in "iu":
        if cells.min() < 0 or cells.max() >= adata.n_obs:
            worst = cells.max() if cells.max() >= adata.n_obs else cells.min()
            raise ValueError(f"{where} has row {worst}, but `adata` has {adata.n_obs:,} cells.")
        rows = cells.astype(np.intp)
    else:
        if not adata.obs_names.is_unique:
            raise ValueError(
                "Cell names are not unique: give row numbers, or adata.obs_names_make_unique()."
            )
        rows = adata.obs_names.get_indexer(cells.astype(str))
        if (rows < 0).any():
            raise KeyError(
                f"{where} names cells that are not in `adata`, such as {str(cells[rows < 0][0])!r}."
            )
    if len(np.unique(rows)) < len(rows):
        raise ValueError(f"{where} has {len(rows) - len(np.unique(rows)):,} cells more than once.")
    if not len(rows):
        raise ValueError(f"{where} is empty.")
    return rows
