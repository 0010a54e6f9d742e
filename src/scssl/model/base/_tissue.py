"""Samples and places of cells, for models whose cells see each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from scssl._checks import check_names, get_column, likely_coordinates
from scssl._errors import MissingKeyError, warn
from scssl.data import CellContext, ContextOptions, Datasets, GeneVocabulary

from ._setup import CellReader, DataSetup
from ._setup_method import SetupArgument

if TYPE_CHECKING:
    from anndata import AnnData


def coordinates_of(adata: AnnData, key: str | Sequence[str]) -> np.ndarray:
    """Places of the cells, shape ``(n_cells, 2)``, float64; NaN where a cell has none."""
    if not isinstance(key, str):
        if len(key) != 2:
            raise ValueError(f"`spatial_key` must name an x and a y column, found {list(key)}.")
        where = " and ".join(f'adata.obs["{one}"]' for one in key)
        columns = [get_column(adata, one, "spatial_key") for one in key]
        return _checked_places(adata, where, pd.concat(columns, axis=1))
    where = f'adata.obsm["{key}"]'
    if key not in adata.obsm:
        there = ", ".join(map(repr, adata.obsm)) or "none"
        likely = likely_coordinates(adata)
        copy = "" if likely is None else f' If they are others: `{where} = adata.obsm["{likely}"]`.'
        raise MissingKeyError(
            f"There is no {where}; there are: {there}.{copy} If cells have none: "
            f"`{where} = np.full((adata.n_obs, 2), np.nan)`."
        )
    table: Any = adata.obsm[key]
    return _checked_places(adata, where, table)


def _checked_places(adata: AnnData, where: str, table: Any) -> np.ndarray:
    try:
        if isinstance(table, pd.DataFrame):
            found = table.to_numpy(dtype=np.float64, na_value=np.nan)
        else:
            found = np.asarray(table, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where} must be numbers, an x and a y for each cell.") from error
    if found.ndim != 2 or found.shape[1] != 2:
        part = ".iloc[:, :2]" if isinstance(table, pd.DataFrame) else "[:, :2]"
        more = f" Take two of them: `{where} = {where}{part}`"
        raise ValueError(
            f"{where} must have an x and a y for each cell, found the shape {found.shape}."
            + (more if found.ndim == 2 and found.shape[1] > 2 else "")
        )
    if np.isinf(found).any():
        raise ValueError(f"{where} has infinite coordinates; without a place they are NaN.")
    half = np.isnan(found).sum(axis=1) == 1
    if half.any():
        cell = adata.obs_names[np.flatnonzero(half)[0]]
        raise ValueError(
            f"{where} has only one coordinate of {int(half.sum()):,} cells, such as {cell!r}."
        )
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


#: Arguments of ``setup_anndata`` of models that see tissues, or are made of one that does.
TISSUE = {
    "sample_key": SetupArgument(
        "Column of ``adata.obs`` with the sample of each cell, such as the slice. Cells see those of "
        "their sample; without it all cells are one sample, whatever else they differ in.",
        str | None,
    ),
    "spatial_key": SetupArgument(
        "Entry of ``adata.obsm`` with the place of each cell, ``(n_cells, 2)`` in any unit, or two "
        "columns of ``adata.obs``, x and y; NaN where a cell has none. Places are scaled to the unit "
        "square sample by sample.",
        str | Sequence[str] | None,
    ),
}


def record_tissue(data: AnnData | Datasets, setup: DataSetup) -> dict[str, Any]:
    """Refuse a sample column or coordinates that cannot be used; warn of samples that look wrong.

    Returns what would be different if cells had been told to be elsewhere.
    """
    if setup.sample_key is None and setup.spatial_key is None:
        return {}
    context = context_of(data, setup, ContextOptions())
    if isinstance(data, Datasets) or setup.sample_key is None:
        return _fingerprint(context, setup)
    if data.n_obs > 20 and context.n_samples > data.n_obs / 2:
        warn(
            f'adata.obs["{setup.sample_key}"] has {context.n_samples:,} samples for {data.n_obs:,} cells. Is '
            "it the column you meant? Cells see those of their sample only."
        )
    return _fingerprint(context, setup)


def tell_tissue(reader: CellReader, data: AnnData | Datasets, options: ContextOptions) -> None:
    """Tell a reader of cells which of them see each other."""
    reader.context = context_of(data, reader.setup, options)
    reader.fingerprint |= _fingerprint(reader.context, reader.setup)


def context_of(data: AnnData | Datasets, setup: DataSetup, options: ContextOptions) -> CellContext:
    """Which cells see each other; never those of two data sets."""
    if not isinstance(data, Datasets):
        xy = None if setup.spatial_key is None else coordinates_of(data, setup.spatial_key)
        return CellContext(sample_codes(data, setup.sample_key), xy, options)
    found = data.items()
    place = setup.spatial_key
    if setup.sample_key is not None and not any(setup.sample_key in a.obs for _, a in found):
        raise MissingKeyError(f"No data set has {setup.sample_key!r} in obs.")
    if place is not None and not any(_has_places(adata, place) for _, adata in found):
        raise MissingKeyError(
            f"No data set has {place!r} in {'obsm' if isinstance(place, str) else 'obs'}."
        )
    samples, places, n_samples = [], [], 0
    for _, adata in found:
        has = setup.sample_key is not None and setup.sample_key in adata.obs
        codes = sample_codes(adata, setup.sample_key if has else None) + n_samples
        n_samples = int(codes.max()) + 1
        samples.append(codes)
        if place is not None and _has_places(adata, place):
            places.append(coordinates_of(adata, place))
        else:
            places.append(np.full((adata.n_obs, 2), np.nan))
    coordinates = None if place is None else np.concatenate(places)
    return CellContext(np.concatenate(samples), coordinates, options)


def _has_places(adata: AnnData, key: str | Sequence[str]) -> bool:
    return key in adata.obsm if isinstance(key, str) else set(key) <= set(adata.obs.columns)


def _fingerprint(context: CellContext, setup: DataSetup) -> dict[str, Any]:
    if setup.sample_key is None and setup.spatial_key is None:
        return {}
    return {"samples and places": context.digest()}


def panels(
    reader: CellReader, data: AnnData | Datasets, genes: GeneVocabulary
) -> tuple[np.ndarray, np.ndarray | None]:
    """Panel of each cell, and the genes that each panel has; `None` where all have all.

    Each of several data sets has a panel of its own.
    """
    codes = np.zeros(reader.n_cells, dtype=np.int64)
    if not isinstance(data, Datasets):
        present = None if reader.alignment is None else reader.alignment.present[None]
    else:
        found = data.items()
        codes = np.repeat(np.arange(len(found)), [adata.n_obs for _, adata in found])
        present = np.stack(
            [genes.align(adata.var_names, min_overlap=0).present for _, adata in found]
        )
    if present is None or present.all():
        return codes, None
    return codes, np.asarray(present, dtype=bool)
