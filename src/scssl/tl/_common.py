"""What several tools check, read and write in the same way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

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


def list_of_keys(use_rep: Any) -> list[str]:
    """The entries of ``obsm`` that are named, of which one may stand alone."""
    keys = [use_rep] if isinstance(use_rep, str) else list(use_rep)
    if not keys or len(set(keys)) < len(keys):
        raise ValueError(
            f"`use_rep` must name one or more entries of adata.obsm, each once, found {keys}."
        )
    return keys


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


def to_be_written(adata: Any, *, copy: bool) -> Any:
    """What results are written to: the object itself, or a copy of it in memory."""
    if not copy:
        return adata
    return adata.to_memory() if adata.isbacked else adata.copy()


def write_scores(
    adata: AnnData,
    key_added: str,
    scores: pd.DataFrame,
    tables: dict[str, pd.DataFrame],
    **more: Any,
) -> pd.DataFrame:
    """Write a frame of scores and the tables they are made from, which it has as attributes as well."""
    adata.uns[key_added] = {"scores": scores.copy(), **tables, **more}
    for name, table in tables.items():
        # A dict of columns: pandas compares attrs when frames are joined, and a frame has no truth.
        scores.attrs[name] = table.to_dict(orient="list")
    return scores
