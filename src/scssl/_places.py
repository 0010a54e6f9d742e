"""Samples and places of cells, and the graph of those that are near each other."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ._checks import check_key, check_names, get_column, likely_coordinates
from ._errors import MissingKeyError

if TYPE_CHECKING:
    from anndata import AnnData
    from scipy import sparse


def coordinates_of(
    adata: AnnData, key: str | Sequence[str], *, planar: bool = True, needed: bool = False
) -> np.ndarray:
    """Places of the cells, shape ``(n_cells, 2)``, float64; NaN where a cell has none.

    Unless `planar`, three coordinates are taken as well. If `needed`, some cell has a place.
    """
    if not isinstance(key, str):
        if len(key) != 2:
            raise ValueError(f"`spatial_key` must name an x and a y column, found {list(key)}.")
        where = " and ".join(f'adata.obs["{one}"]' for one in key)
        columns = [get_column(adata, one, "spatial_key") for one in key]
        return _checked_places(adata, where, pd.concat(columns, axis=1), planar, needed)
    where = f'adata.obsm["{key}"]'
    if key not in adata.obsm:
        there = ", ".join(map(repr, adata.obsm)) or "none"
        likely = likely_coordinates(adata)
        hint = "" if likely is None else f' If they are others: `{where} = adata.obsm["{likely}"]`.'
        columns_of = _likely_columns(adata.obs)
        if columns_of is not None:
            hint += f" To take them from adata.obs: `spatial_key={columns_of}`."
        if not needed:
            hint += f" If cells have none: `{where} = np.full((adata.n_obs, 2), np.nan)`."
        raise MissingKeyError(f"There is no {where}; there are: {there}.{hint}")
    table: Any = adata.obsm[key]
    return _checked_places(adata, where, table, planar, needed)


def _likely_columns(obs: Any) -> list[str] | None:
    """An x and a y column of numbers, such as those of Xenium and MERSCOPE, if there are any."""
    numbers = {str(name) for name in obs.columns if obs[name].dtype.kind in "iuf"}
    for name in sorted(numbers):
        other = re.sub(r"(?<![a-z])x(?![a-z])", "y", name)
        if other != name and other in numbers:
            return [name, other]
    return None


def _checked_places(
    adata: AnnData, where: str, table: Any, planar: bool, needed: bool
) -> np.ndarray:
    try:
        if isinstance(table, pd.DataFrame):
            found = table.to_numpy(dtype=np.float64, na_value=np.nan)
        else:
            found = np.asarray(table, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where} must be numbers, an x and a y for each cell.") from error
    if found.ndim != 2 or not 2 <= found.shape[1] <= (2 if planar else 3):
        part = ".iloc[:, :2]" if isinstance(table, pd.DataFrame) else "[:, :2]"
        more = f" Take two of them: `{where} = {where}{part}`"
        raise ValueError(
            f"{where} must have an x and a y for each cell, found the shape {found.shape}."
            + (more if found.ndim == 2 and found.shape[1] > 2 else "")
        )
    if np.isinf(found).any():
        raise ValueError(f"{where} has infinite coordinates; without a place they are NaN.")
    unknown = np.isnan(found)
    half = unknown.any(axis=1) & ~unknown.all(axis=1)
    if half.any():
        cell = adata.obs_names[np.flatnonzero(half)[0]]
        raise ValueError(
            f"{where} has only one coordinate of {int(half.sum()):,} cells, such as {cell!r}."
        )
    if needed and unknown.all():
        raise ValueError(f"{where} is NaN for all cells: none has a place.")
    return found


def sample_codes(adata: AnnData, key: str | None) -> np.ndarray:
    """Sample of each cell; int64. Without a column all cells are one sample."""
    if key is None:
        return np.zeros(adata.n_obs, dtype=np.int64)
    if isinstance(key, str) and key not in adata.obs.columns:
        there = ", ".join(map(repr, adata.obs.columns[:20])) or "none"
        raise MissingKeyError(
            f"There is no column {key!r} in adata.obs, which says of which sample a cell is; there are: "
            f'{there}. If all cells are of one: `adata.obs["{key}"] = "one"`.'
        )
    values = get_column(adata, key, "sample_key")
    check_names(values)
    if values.isna().any():
        cell = adata.obs_names[np.flatnonzero(values.isna())[0]]
        raise ValueError(
            f'adata.obs["{key}"] has {int(values.isna().sum()):,} missing values, the first for cell '
            f"{cell!r}. Cells see those of their sample: each needs one."
        )
    codes: np.ndarray = pd.factorize(values, sort=True)[0].astype(np.int64)
    return codes


def graph_of(
    adata: AnnData, key: str, sample_key: str | None, samples: np.ndarray
) -> sparse.csr_matrix:
    """Neighbours of the cells in space, from ``adata.obsp[key]``: float64 ones, none of a cell itself.

    Weights are not used. An error unless some cells have neighbours, and all of their own sample, whose
    codes are `samples`.
    """
    from scipy import sparse

    check_key(key, "connectivity_key")
    added = "" if key == "spatial_connectivities" else key.removesuffix("_connectivities")
    options = "" if sample_key is None else f', sample_key="{sample_key}"'
    options += f', key_added="{added}"' if added and key != added else ""
    make = f"`scssl.pp.spatial_neighbors(adata{options})`"
    if key not in adata.obsp:
        there = ", ".join(map(repr, adata.obsp)) or "nothing"
        raise MissingKeyError(
            f'There is no adata.obsp["{key}"]; there is: {there}. To make it: {make}'
        )
    graph = sparse.csr_matrix(adata.obsp[key], dtype=np.float64, copy=True)
    graph.setdiag(0)
    graph.eliminate_zeros()
    if not graph.nnz:
        raise ValueError(
            f'adata.obsp["{key}"] has no neighbours of any cell. Make it again: {make}'
        )
    across = samples[np.repeat(np.arange(len(samples)), np.diff(graph.indptr))]
    n_across = int((across != samples[graph.indices]).sum())
    if n_across:
        raise ValueError(
            f'{n_across:,} of {graph.nnz:,} links in adata.obsp["{key}"] join cells of different '
            f'adata.obs["{sample_key}"]. Make it again: {make}'
        )
    graph.data[:] = 1
    return graph
