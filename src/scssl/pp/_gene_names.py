"""Names of the genes of an AnnData: which are looked up, and others that they are given."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from scssl._checks import check_adata
from scssl._errors import MissingKeyError

if TYPE_CHECKING:
    from anndata import AnnData


def names_of(adata: AnnData, column: str | None) -> np.ndarray:
    """Names of the genes in a column of ``adata.var``, or its index; empty where there is none."""
    if column is None:
        return adata.var_names.to_numpy(dtype=object)
    if column not in adata.var:
        there = ", ".join(map(repr, adata.var.columns)) or "no columns"
        raise MissingKeyError(f"adata.var has no {column!r}; it has {there}.")
    values = adata.var[column]
    return np.where(values.isna(), "", values.astype(object).map(str)).astype(object)


def check_changeable(adata: Any, *, copy: bool, subset: bool) -> None:
    """Raise unless genes of an AnnData can be renamed, and taken out if asked."""
    check_adata(adata)
    if not adata.n_vars:
        raise ValueError(f"`adata` has no genes (shape {adata.n_obs} × {adata.n_vars}).")
    if copy:
        return
    if adata.is_view:
        raise ValueError("`adata` is a view. Pass `copy=True`, or first `adata = adata.copy()`.")
    if adata.isbacked and subset:
        raise ValueError(
            '`adata` is backed by a file, which keeps its genes. Pass `copy=True` or `unmapped="keep"`, or '
            "read it first: `adata = adata.to_memory()`."
        )


def rename(adata: AnnData, names: np.ndarray, column: str, old_names: np.ndarray) -> None:
    """Give genes other names, and keep those before in a column."""
    import pandas as pd

    name = adata.var_names.name
    # An index cannot be written under the name of a column.
    adata.var_names = pd.Index(names, name=None if name == column else name)
    adata.var[column] = old_names
