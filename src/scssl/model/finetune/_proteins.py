"""Measured proteins: where an AnnData or a MuData has them, checks and transforms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from scssl._checks import check_choice, number, some
from scssl._errors import MissingKeyError, warn

Transform = Literal["auto", "log1p", "clr"]


def is_mudata(data: Any) -> bool:
    """Whether data have modalities; a data frame has a ``mod`` too, which is a method."""
    return isinstance(getattr(data, "mod", None), Mapping)


def modality_of(mdata: Any, name: str) -> AnnData:
    """A modality of a MuData."""
    if name not in mdata.mod:
        first = next(iter(mdata.mod))
        raise MissingKeyError(
            f"The MuData has no modality {name!r}; there are: {some(mdata.mod)}. To make a model from it, say "
            "which is which by `rna_modality` and `protein_modality`. For a model that is made, if it is "
            f"{first!r}: `mdata = mudata.MuData({{one if one != {first!r} else {name!r}: mdata[one] for one in mdata.mod}})`."
        )
    found: AnnData = mdata.mod[name]
    return found


def from_mudata(mdata: Any, rna: str, protein: str, obsm: str) -> AnnData:
    """Cells of one modality with the values of another one in ``obsm``; matrices are not copied."""
    genes, proteins = modality_of(mdata, rna), modality_of(mdata, protein)
    table = pd.DataFrame(
        proteins.X.toarray() if hasattr(proteins.X, "toarray") else np.asarray(proteins.X),
        index=proteins.obs_names,
        columns=proteins.var_names,
    )
    shared = genes.obs_names.isin(proteins.obs_names)
    if not shared.any():
        raise ValueError(f"Modalities {rna!r} and {protein!r} share no cell: their names differ.")
    return AnnData(
        genes.X,
        obs=genes.obs.copy(),
        var=genes.var.copy(),
        layers={name: value for name, value in genes.layers.items() if name is not None},
        obsm={obsm: table.reindex(genes.obs_names)},
    )


def likely_proteins(adata: AnnData) -> str | None:
    """The entry of ``obsm`` that is likeliest to hold proteins, to be named in messages."""
    names = [name for name in adata.obsm if not name.startswith("X_")]
    words = ("prot", "adt", "antibod", "cite")
    return max(names, key=lambda name: any(w in name.lower() for w in words), default=None)


def protein_table(
    adata: AnnData, obsm: str, names: Sequence[str] | None = None
) -> tuple[np.ndarray, list[str]]:
    """Proteins of the cells of `adata` and their names, as they are stored.

    `names` are those of the columns of an array; of a frame, the columns to take. Values are float64, shape
    ``(n_cells, n_proteins)``, NaN where not measured.
    """
    where = _where(obsm)
    if obsm not in adata.obsm:
        likely = likely_proteins(adata)
        take = "" if likely is None else f' If they are others: `{where} = adata.obsm["{likely}"]`.'
        raise MissingKeyError(
            f"There is no {where}; there are: {some(adata.obsm, 20) or 'none'}.{take}"
        )
    table: Any = adata.obsm[obsm]
    if not isinstance(table, pd.DataFrame) and hasattr(table, "to_memory"):
        # Of data that were read lazily.
        table = table.to_memory()
    if isinstance(table, pd.DataFrame):
        # Proteins go by their names, whatever type those have in a frame.
        table = table.rename(columns=str)
        names = None if names is None else [str(name) for name in names]
        if names is not None:
            absent = [name for name in names if name not in table.columns]
            if absent:
                raise MissingKeyError(
                    f"{where} has no {absent[0]!r}; it has {some(table.columns, 10)}."
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
        number = f'[f"protein_{{i}}" for i in range({values.shape[1]})]'
        raise ValueError(
            f"The proteins in {where} have no names. Name them, here by number: "
            f'`adata.uns["protein_names"] = {number}`.'
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
    values: np.ndarray, asked: Transform | None, obsm: str, *, loud: bool = True
) -> Transform | None:
    """Transform of the targets; warns where it is for counts and values are not whole numbers."""
    check_choice("transform", asked, (*get_args(Transform), None))
    where = _where(obsm)
    measured = values[np.isfinite(values)]
    if asked == "auto":
        counts = bool((measured >= 0).all() and (measured == measured.round()).all())
        return "log1p" if counts else None
    if asked is not None and (measured < 0).any():
        raise ValueError(
            f"transform={asked!r} is for counts, but {where} has negative values such as "
            f"{measured.min()}: it is normalised already. Pass `transform=None`."
        )
    fractions = measured[measured != measured.round()]
    if asked is not None and loud and len(fractions):
        # No error: counts from which a background was taken away are fractions too.
        warn(
            f"transform={asked!r} is for counts, but {len(fractions):,} of {len(measured):,} values in "
            f"{where} are fractions such as {number(fractions[0])}. If they are transformed already, this is "
            "done twice: take counts, or make the model with `transform=None`."
        )
    return asked


def transformed(values: np.ndarray, transform: Transform | None) -> np.ndarray:
    """Targets: log1p of counts, and with ``"clr"`` minus its mean over the proteins of a cell."""
    if transform is None:
        return values
    logs: np.ndarray = np.log1p(values)
    if transform == "log1p":
        return logs
    measured = np.isfinite(logs)
    total = np.where(measured, logs, 0).sum(1, keepdims=True)
    return logs - total / np.maximum(measured.sum(1, keepdims=True), 1)


def moments(values: np.ndarray, measured: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of the measured entries of each column; 1 for no deviation."""
    n = np.maximum(measured.sum(0), 1)
    mean = np.where(measured, values, 0).sum(0) / n
    spread = np.sqrt(np.where(measured, np.square(values - mean), 0).sum(0) / n)
    return mean, np.where(spread > 0, spread, 1.0)


def _where(obsm: str) -> str:
    return f'adata.obsm["{obsm}"]'
