"""What ``setup_anndata`` learns of a data set, and how any data set is read after it."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from scssl._checks import first_fraction, whole_numbers
from scssl._errors import warn
from scssl.data import (
    GeneVocabulary,
    InputDecision,
    MatrixStats,
    find_counts,
    resolve_input,
    scan_matrix,
)

_LOGGER = logging.getLogger("scssl")
_MAX_CATEGORIES = 1000


@dataclass(frozen=True)
class ModalitySetup:
    """How a model reads one modality of a MuData. JSON only.

    Parameters
    ----------
    kind
        ``"rna"``, ``"protein"`` or ``"atac"``: how the model calls it.
    name
        How the MuData calls it; empty for an AnnData that is read in its place.
    layer
        Layer with the values, `None` for ``X``.
    normalization
        See :class:`scssl.data.FeatureBlock`.
    n_features
        Number of features.
    """

    kind: str
    name: str
    layer: str | None
    normalization: str
    n_features: int

    @property
    def mod(self) -> str:
        """The modality, as a user would write it."""
        return f'mdata.mod["{self.name}"]' if self.name else "adata"

    @property
    def where(self) -> str:
        """The matrix, as a user would write it."""
        return f"{self.mod}.X" if self.layer is None else f'{self.mod}.layers["{self.layer}"]'


@dataclass(frozen=True)
class DataSetup:
    """How a model reads an AnnData. JSON only, so that it is part of a saved model.

    Parameters
    ----------
    layer
        Layer with the expression values, `None` for ``adata.X``.
    input_kind
        ``"counts"`` or ``"lognorm"``.
    target_sum
        Sum of a cell before the logarithm, for counts; `None`: counts are not scaled.
    batch_key, labels_key, categorical_keys, continuous_keys
        Columns of ``adata.obs``.
    categories
        Categories of each categorical column, in the order of their codes.
    sample_key, spatial_key
        Column of ``adata.obs`` with the sample of a cell, entry of ``adata.obsm`` with its place. Of models
        whose cells see each other.
    modalities
        Where cells have several. `layer` is then that of the first, `input_kind` that of RNA.
    """

    layer: str | None
    input_kind: Any
    target_sum: float | None
    batch_key: str | None = None
    labels_key: str | None = None
    categorical_keys: tuple[str, ...] = ()
    continuous_keys: tuple[str, ...] = ()
    categories: Mapping[str, list[str]] = field(default_factory=dict)
    modalities: tuple[ModalitySetup, ...] = ()
    sample_key: str | None = None
    spatial_key: str | None = None

    @property
    def where(self) -> str:
        """The matrix, as a user would write it."""
        return "adata.X" if self.layer is None else f'adata.layers["{self.layer}"]'

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        content = asdict(self)
        content["modalities"] = list(content["modalities"])
        # Not of all models: what is not there is left out.
        rare = ("modalities", "sample_key", "spatial_key")
        return {name: value for name, value in content.items() if value or name not in rare}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> DataSetup:
        """Inverse of :meth:`to_dict`."""
        lists = {k: tuple(content[k]) for k in ("categorical_keys", "continuous_keys")}
        modalities = tuple(ModalitySetup(**one) for one in content.get("modalities", ()))
        return cls(**{**content, **lists, "modalities": modalities})

    def covariate_keys(self) -> tuple[str, ...]:
        """Categorical columns that a decoder is told: the batch and the covariates."""
        batch = () if self.batch_key is None else (self.batch_key,)
        return (*batch, *self.categorical_keys)

    def codes(self, adata: AnnData, key: str) -> np.ndarray:
        """Codes of a categorical column; int64, shape ``(n_cells,)``.

        Raises
        ------
        KeyError
            If there is no such column.
        ValueError
            If there are categories that were not there at setup, or missing values.
        """
        values = obs_column(adata, key)
        refuse_missing(adata, values, key)
        names, known = as_strings(values), self.categories[key]
        codes = pd.Index(known).get_indexer(names)
        if (codes < 0).any():
            new = sorted(set(names[codes < 0]))
            raise ValueError(
                f'adata.obs["{key}"] has {len(new)} categories that the model was not trained with: '
                f"{_some(new)}. It knows {_some(known)}. Rename them, or leave these cells out: "
                f'adata = adata[~adata.obs["{key}"].astype(str).isin({new[:5]})].copy()'
            )
        return codes.astype(np.int64)

    def continuous(self, adata: AnnData) -> np.ndarray:
        """Continuous covariates; float32, shape ``(n_cells, n_covariates)``."""
        columns = [_numbers(obs_column(adata, key), key) for key in self.continuous_keys]
        return np.stack(columns, axis=1)


def _layers(adata: AnnData) -> list[str]:
    # anndata lists X among the layers, under None.
    return [name for name in adata.layers if name is not None]


def matrix_of(adata: AnnData, layer: str | None) -> Any:
    """The matrix in X or a layer.

    Raises
    ------
    KeyError
        If there is no such layer.
    ValueError
        If X is empty.
    """
    if layer is not None:
        if layer not in adata.layers:
            there = ", ".join(map(repr, _layers(adata))) or "none"
            raise KeyError(f"There is no layer {layer!r} in adata.layers; there are: {there}.")
        return adata.layers[layer]
    if adata.X is None:
        there = ", ".join(map(repr, _layers(adata))) or "none"
        raise ValueError(f"adata.X is None. Say which layer to use: layer=...; there are: {there}.")
    return adata.X


def check_anndata(adata: Any) -> None:
    """Refuse anything but an AnnData with cells and genes."""
    if not isinstance(adata, AnnData):
        raise TypeError(
            f"`adata` must be an AnnData, found {type(adata).__name__}. For a file: "
            'adata = anndata.read_h5ad("file.h5ad")'
        )
    if not adata.n_obs or not adata.n_vars:
        what = "cells" if not adata.n_obs else "genes"
        raise ValueError(f"`adata` has no {what} (shape {adata.n_obs} × {adata.n_vars}).")


def inspect(
    adata: AnnData, layer: str | None, input: str, *, by_model: bool = False
) -> tuple[Any, MatrixStats, InputDecision]:
    """Scan the matrix and decide what it holds; flag cells without a count.

    `by_model` where a model exists, and with it the layer and the input.
    """
    where = DataSetup(layer, "", 0).where
    matrix = matrix_of(adata, layer)
    stats = scan_matrix(matrix, where=where)
    known: Any = {
        "obs_names": adata.obs_names,
        "var_names": adata.var_names,
        "by_model": by_model,
    }
    try:
        decision = resolve_input(stats, input, **known)
    except ValueError:
        # Looking for counts elsewhere reads other matrices: only where there is a message to write.
        hint = find_counts(adata, layer=layer, by_model=by_model)
        decision = resolve_input(stats, input, raw_hint=hint, **known)
    if stats.n_empty_cells:
        some = _some(list(adata.obs_names[stats.empty_cells[:3]]))
        warn(
            f"{stats.n_empty_cells:,} of {stats.n_obs:,} cells have no value in {where} ({some}). "
            "They are kept, and all get the same embedding. To leave them out: "
            "sc.pp.filter_cells(adata, min_counts=1)"
        )
    return matrix, stats, decision


def make_setup(adata: AnnData, given: Mapping[str, Any]) -> tuple[DataSetup, MatrixStats]:
    """Check a data set and record how to read it; `given` are arguments of ``setup_anndata``."""
    layer, input = given["layer"], given["input"]
    batch_key, labels_key = given["batch_key"], given["labels_key"]
    categorical, continuous = (
        tuple(given.get(f"{kind}_covariate_keys") or ()) for kind in ("categorical", "continuous")
    )
    if adata.is_view:
        raise ValueError(
            "`adata` is a view of another AnnData. Make it an object first: adata = adata.copy()"
        )
    GeneVocabulary(adata.var_names)  # refuses duplicated and empty names
    if not adata.obs_names.is_unique:
        twice = adata.obs_names[adata.obs_names.duplicated()].unique()
        warn(
            f"{len(twice):,} cell names occur more than once ({_some(list(twice))}). Results are by "
            "position and stay right; to make them unique: adata.obs_names_make_unique()"
        )
    keys = [k for k in (batch_key, labels_key, *categorical) if k is not None]
    categories = {key: categories_of(adata, key, labels=key == labels_key) for key in keys}
    for key in continuous:
        _numbers(obs_column(adata, key), key)
    _, stats, decision = inspect(adata, layer, input)
    if input == "auto":
        _LOGGER.info("Input: %s.", decision.reason)
    setup = DataSetup(
        layer,
        decision.kind,
        given["target_sum"],
        batch_key,
        labels_key,
        categorical,
        continuous,
        categories,
        sample_key=given.get("sample_key"),
        spatial_key=given.get("spatial_key"),
    )
    return setup, stats


def fingerprint(adata: AnnData, stats: MatrixStats) -> dict[str, Any]:
    """What would be different if the data had been changed since."""
    return {
        "cells": stats.n_obs,
        "genes": stats.n_vars,
        "gene names": GeneVocabulary(adata.var_names).hash,
        "stored values": stats.n_stored,
        "largest value": float(stats.max),
        "median sum of a cell": float(stats.median_sum),
    }


def categories_of(adata: AnnData, key: str, *, labels: bool) -> list[str]:
    values = obs_column(adata, key)
    if not labels:
        refuse_missing(adata, values, key)
    values = values[values.notna()]
    fraction = first_fraction(values)
    if fraction is not None:
        raise ValueError(
            f'adata.obs["{key}"] holds fractions ({fraction:g}, ...), which are no categories. '
            "Pass it in `continuous_covariate_keys`, or name another column."
        )
    found = as_strings(values).unique().sort_values()
    if len(found) > _MAX_CATEGORIES and not labels:
        warn(
            f'adata.obs["{key}"] has {len(found):,} categories for {len(values):,} cells. Is it the '
            "column you meant?"
        )
    return [str(name) for name in found]


def refuse_missing(adata: AnnData, values: pd.Series, key: str) -> None:
    missing = values.isna()
    if missing.any():
        cell = adata.obs_names[np.flatnonzero(missing)[0]]
        raise ValueError(
            f'adata.obs["{key}"] has {int(missing.sum()):,} missing values, the first for cell '
            f'{cell!r}. Fill them: adata.obs["{key}"] = '
            f'adata.obs["{key}"].astype("object").fillna("unknown")'
        )


def obs_column(adata: AnnData, key: str) -> pd.Series:
    """Column of ``adata.obs``, or an error that says which there are."""
    if key not in adata.obs.columns:
        there = ", ".join(map(repr, adata.obs.columns[:20])) or "none"
        raise KeyError(f"There is no column {key!r} in adata.obs; there are: {there}.")
    return adata.obs[key]


def as_strings(values: pd.Series) -> pd.Index:
    return pd.Index(whole_numbers(values).astype(str))


def _numbers(values: pd.Series, key: str) -> np.ndarray:
    numbers = pd.to_numeric(values, errors="coerce").to_numpy(dtype=np.float64)
    bad = np.flatnonzero(~np.isfinite(numbers))
    if len(bad):
        raise ValueError(
            f'adata.obs["{key}"] has {len(bad):,} values that are not finite numbers, the first is '
            f"{values.iloc[bad[0]]!r}. A continuous covariate needs numbers; categories belong in "
            "`categorical_covariate_keys`."
        )
    return numbers.astype(np.float32)


def _some(names: Sequence[Any], limit: int = 5) -> str:
    shown = ", ".join(repr(str(name)) for name in names[:limit])
    return shown + (", ..." if len(names) > limit else "")
