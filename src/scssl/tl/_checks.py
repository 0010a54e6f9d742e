"""Checks of the parts of an AnnData that tools and plots read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import numpy as np

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData


def check_adata(adata: Any) -> None:
    """Raise unless ``adata`` is an AnnData."""
    from anndata import AnnData

    if not isinstance(adata, AnnData):
        msg = f"`adata` must be an AnnData, found {type(adata).__name__}."
        raise TypeError(msg)


def check_key(key: Any, name: str) -> None:
    """Raise unless argument ``name`` is a key, a string that is not empty."""
    if not isinstance(key, str) or not key:
        msg = f"`{name}` must be a string that is not empty, found {key!r}."
        raise TypeError(msg)


def get_embedding(adata: AnnData, use_rep: str) -> np.ndarray:
    """``adata.obsm[use_rep]`` as a finite matrix of numbers with one row per cell."""
    check_key(use_rep, "use_rep")
    if use_rep not in adata.obsm:
        found = ", ".join(map(repr, adata.obsm)) or "nothing"
        msg = (
            f"adata.obsm has no {use_rep!r}; it has {found}. "
            f"To make it: `scssl.tl.embed(adata, model, key_added={use_rep!r})`."
        )
        raise KeyError(msg)
    values = adata.obsm[use_rep]
    if hasattr(values, "to_numpy"):
        values = values.to_numpy()
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "fiub":
        msg = (
            f"adata.obsm[{use_rep!r}] must be a dense matrix of numbers, "
            f"found {type(values).__name__} of dtype {getattr(values, 'dtype', 'unknown')}."
        )
        raise TypeError(msg)
    if values.ndim != 2 or values.shape[1] == 0:
        msg = f"adata.obsm[{use_rep!r}] must be (cells, dimensions), found shape {values.shape}."
        raise ValueError(msg)
    broken = ~np.isfinite(values).all(axis=1)
    if broken.any():
        first = adata.obs_names[int(broken.argmax())]
        msg = (
            f"adata.obsm[{use_rep!r}] is NaN or infinite in {broken.sum():,} of {len(values):,} "
            f"cells (first: {first!r}). Compute it again, or leave those cells out: "
            f"`adata = adata[np.isfinite(adata.obsm[{use_rep!r}]).all(axis=1)].copy()`."
        )
        raise ValueError(msg)
    return values


def get_labels(adata: AnnData, key: str) -> pd.Series[Any]:
    """``adata.obs[key]``, known for every cell."""
    check_key(key, "label_key")
    if key not in adata.obs:
        found = ", ".join(map(repr, adata.obs.columns)) or "no columns"
        msg = f"adata.obs has no {key!r}; it has {found}."
        raise KeyError(msg)
    labels = cast("pd.Series[Any]", adata.obs[key])
    unknown = int(labels.isna().sum())
    if unknown:
        msg = (
            f"adata.obs[{key!r}] is missing for {unknown:,} of {len(labels):,} cells. Score the "
            f"labelled cells: `adata = adata[adata.obs[{key!r}].notna()].copy()`."
        )
        raise ValueError(msg)
    return labels
