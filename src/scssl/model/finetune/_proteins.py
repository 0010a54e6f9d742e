"""Measured proteins: where they are, checks and transforms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from scssl._errors import warn

Transform = Literal["log1p", "clr"] | None
TRANSFORMS = ("auto", "log1p", "clr", None)


def protein_table(
    adata: AnnData, obsm: str, names: Sequence[str] | None = None
) -> tuple[np.ndarray, list[str]]:
    """Proteins of the cells of `adata` and their names, as they are stored.

    Parameters
    ----------
    adata
        Annotated cells.
    obsm
        Entry of ``adata.obsm``: an array or a frame.
    names
        Of the columns of an array; of a frame, the columns to take.

    Returns
    -------
    Float64, shape ``(n_cells, n_proteins)``, NaN where not measured; and the names.

    Raises
    ------
    KeyError
        If there is no such entry or column.
    ValueError
        If names are unknown, duplicated or of another number, or values are not numbers.
    """
    where = f'adata.obsm["{obsm}"]'
    if obsm not in adata.obsm:
        there = ", ".join(map(repr, adata.obsm)) or "none"
        raise KeyError(
            f"There is no {where}; there are: {there}. Say where the proteins are: protein_obsm=..."
        )
    table: Any = adata.obsm[obsm]
    if isinstance(table, pd.DataFrame):
        if names is not None:
            absent = [name for name in names if name not in table.columns]
            if absent:
                raise KeyError(
                    f"{where} has no column {absent[0]!r}; it has {', '.join(map(str, table.columns[:10]))}."
                )
            table = table[list(names)]
        own: Any = table.columns
        values = table.to_numpy()
    else:
        own = adata.uns.get("protein_names")
        values = table.toarray() if sparse.issparse(table) else np.asarray(table)
    if names is None:
        names = own
    if names is None:
        raise ValueError(
            f"The proteins in {where} have no names. Pass protein_names=[...], or store them in "
            'adata.uns["protein_names"].'
        )
    known = [str(name) for name in names]
    if values.ndim != 2 or values.shape[1] != len(known):
        raise ValueError(
            f"{where} has shape {values.shape}, but there are {len(known)} protein names."
        )
    if len(set(known)) < len(known):
        twice = pd.Index(known)[pd.Index(known).duplicated()][0]
        raise ValueError(f"Protein names must be unique; {twice!r} occurs more than once.")
    try:
        values = values.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where} does not hold numbers: {error}") from error
    if np.isinf(values).any():
        cell, protein = np.argwhere(np.isinf(values))[0]
        raise ValueError(
            f"{where} has infinite values, the first in cell {adata.obs_names[cell]!r}, protein "
            f"{known[protein]!r}. Mark what was not measured as NaN."
        )
    return values, known


def choose_transform(
    values: np.ndarray, asked: str | None, where: str, *, loud: bool = True
) -> Transform:
    """Transform of the targets; warns where it is for counts and values are not whole numbers.

    Raises
    ------
    ValueError
        If there is no such transform, or the values do not allow it.
    """
    if asked not in TRANSFORMS:
        raise ValueError(
            f"`transform` must be one of {', '.join(map(repr, TRANSFORMS))}; found {asked!r}."
        )
    measured = values[np.isfinite(values)]
    if asked == "auto":
        counts = bool((measured >= 0).all() and (measured == measured.round()).all())
        return "log1p" if counts else None
    if asked is not None and (measured < 0).any():
        raise ValueError(
            f"transform={asked!r} is for counts, but {where} has negative values such as "
            f"{measured.min():g}: it is normalised already. Pass transform=None."
        )
    fractions = measured[measured != measured.round()]
    if asked is not None and loud and len(fractions):
        # No error: counts from which a background was taken away are fractions too.
        warn(
            f"transform={asked!r} is for counts, but {len(fractions):,} of {len(measured):,} values in "
            f"{where} are fractions such as {fractions[0]:g}. If they are transformed already, this is "
            "done twice: take counts, or make the model with transform=None."
        )
    return asked  # type: ignore[return-value]


def transformed(values: np.ndarray, transform: Transform) -> np.ndarray:
    """Targets: log1p of counts, and with ``"clr"`` minus its mean over the proteins of a cell."""
    if transform is None:
        return values
    logs: np.ndarray = np.log1p(values)
    if transform == "log1p":
        return logs
    measured = np.isfinite(logs)
    total = np.where(measured, logs, 0).sum(1, keepdims=True)
    return logs - total / np.maximum(measured.sum(1, keepdims=True), 1)
