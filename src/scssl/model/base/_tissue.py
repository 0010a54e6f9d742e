"""Samples and places of cells, for models whose cells see each other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from scssl._errors import warn
from scssl.data import CellContext, ContextOptions, Datasets, GeneVocabulary

from ._setup import DataSetup, obs_column

if TYPE_CHECKING:
    from anndata import AnnData

    from ._reader import CellReader


def coordinates_of(adata: AnnData, key: str) -> np.ndarray:
    """Places of the cells, shape ``(n_cells, 2)``, float64; NaN where a cell has none.

    Raises
    ------
    KeyError
        If there is no such entry.
    ValueError
        If it has not two columns of numbers, or only one coordinate of a cell.
    """
    where = f'adata.obsm["{key}"]'
    if key not in adata.obsm:
        there = ", ".join(map(repr, adata.obsm)) or "none"
        raise KeyError(
            f"There is no {where}; there are: {there}. Say where the coordinates are: spatial_key=..., "
            "or, of cells without, fill it with NaN: "
            f'adata.obsm["{key}"] = np.full((adata.n_obs, 2), np.nan)'
        )
    table: Any = adata.obsm[key]
    try:
        found = np.asarray(table, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where} must be numbers, an x and a y for each cell.") from error
    if found.ndim != 2 or found.shape[1] != 2:
        more = f' Take two of them: adata.obsm["{key}"] = adata.obsm["{key}"][:, :2]'
        raise ValueError(
            f"{where} must have an x and a y for each cell, found the shape {found.shape}."
            + (more if found.ndim == 2 and found.shape[1] > 2 else "")
        )
    if np.isinf(found).any():
        raise ValueError(
            f"{where} has infinite coordinates; those of cells without a place are NaN."
        )
    half = np.isnan(found).sum(axis=1) == 1
    if half.any():
        cell = adata.obs_names[np.flatnonzero(half)[0]]
        raise ValueError(
            f"{where} has only one coordinate of {int(half.sum()):,} cells, such as {cell!r}."
        )
    return found


def sample_codes(adata: AnnData, key: str | None) -> np.ndarray:
    """Sample of each cell; int64. Without a column all cells are one sample.

    Raises
    ------
    KeyError
        If there is no such column.
    ValueError
        If it has missing values.
    """
    if key is None:
        return np.zeros(adata.n_obs, dtype=np.int64)
    if key not in adata.obs.columns:
        there = ", ".join(map(repr, adata.obs.columns[:20])) or "none"
        raise KeyError(
            f"There is no column {key!r} in adata.obs, which says of which sample a cell is; there are: "
            f'{there}. If all cells are of one: adata.obs["{key}"] = "one"'
        )
    values = obs_column(adata, key)
    if values.isna().any():
        cell = adata.obs_names[np.flatnonzero(values.isna())[0]]
        raise ValueError(
            f'adata.obs["{key}"] has {int(values.isna().sum()):,} missing values, the first for cell '
            f"{cell!r}. Cells see those of their sample: each needs one."
        )
    codes: np.ndarray = pd.factorize(values, sort=True)[0].astype(np.int64)
    return codes


def check_tissue(adata: AnnData, setup: DataSetup) -> dict[str, Any]:
    """Refuse a sample column or coordinates that cannot be used; warn of samples that look wrong.

    Returns
    -------
    What would be different if cells had been told to be elsewhere.
    """
    context = tissue_context(adata, setup, ContextOptions())
    if setup.sample_key is not None and adata.n_obs > 20 and context.n_samples > adata.n_obs / 2:
        warn(
            f'adata.obs["{setup.sample_key}"] has {context.n_samples:,} samples for {adata.n_obs:,} cells. Is '
            "it the column you meant? Cells see those of their sample only."
        )
    return tissue_fingerprint(context, setup)


def tissue_context(adata: AnnData, setup: DataSetup, options: ContextOptions) -> CellContext:
    """Which cells of `adata` see each other."""
    coordinates = None if setup.spatial_key is None else coordinates_of(adata, setup.spatial_key)
    return CellContext(sample_codes(adata, setup.sample_key), coordinates, options)


def tissue_fingerprint(context: CellContext | None, setup: DataSetup) -> dict[str, Any]:
    """What would be different if cells had been told to be elsewhere, where a setup says where they are."""
    if context is None or (setup.sample_key is None and setup.spatial_key is None):
        return {}
    return {"samples and places": context.digest()}


def read_tissue(datasets: Datasets, setup: DataSetup, options: ContextOptions) -> CellContext:
    """Which cells of several data sets see each other; never those of two of them.

    Raises
    ------
    KeyError
        If no data set has the sample column, or none has coordinates.
    """
    found = datasets.items()
    for kind, key in (("obs", setup.sample_key), ("obsm", setup.spatial_key)):
        if key is not None and not any(key in getattr(adata, kind) for _, adata in found):
            raise KeyError(f"No data set has {key!r} in {kind}.")
    samples, places, n_samples = [], [], 0
    for _, adata in found:
        has = setup.sample_key is not None and setup.sample_key in adata.obs
        codes = sample_codes(adata, setup.sample_key if has else None) + n_samples
        n_samples = int(codes.max()) + 1
        samples.append(codes)
        if setup.spatial_key is not None and setup.spatial_key in adata.obsm:
            places.append(coordinates_of(adata, setup.spatial_key))
        else:
            places.append(np.full((adata.n_obs, 2), np.nan))
    coordinates = None if setup.spatial_key is None else np.concatenate(places)
    return CellContext(np.concatenate(samples), coordinates, options)


def panels(
    reader: CellReader, datasets: Datasets | None, genes: GeneVocabulary
) -> tuple[np.ndarray, np.ndarray | None]:
    """Panel of each cell, and the genes that each panel has; `None` where all have all.

    Parameters
    ----------
    reader
        Cells.
    datasets
        The data sets that they are of, each with a panel of its own; `None`: one AnnData.
    genes
        Those of the model.
    """
    codes = np.zeros(reader.n_cells, dtype=np.int64)
    if datasets is None:
        present = None if reader.alignment is None else reader.alignment.present[None]
    else:
        found = datasets.items()
        codes = np.repeat(np.arange(len(found)), [adata.n_obs for _, adata in found])
        present = np.stack(
            [genes.align(adata.var_names, min_overlap=0).present for _, adata in found]
        )
    if present is None or present.all():
        return codes, None
    return codes, np.asarray(present, dtype=bool)
