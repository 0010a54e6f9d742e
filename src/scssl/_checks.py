"""Checks of arguments and of embeddings, for all that work on an AnnData."""

from __future__ import annotations

from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData


def check_adata(adata: Any, name: str = "adata") -> None:
    """Raise unless argument ``name`` is an AnnData."""
    from anndata import AnnData

    if not isinstance(adata, AnnData):
        msg = f"`{name}` must be an AnnData, found {type(adata).__name__}."
        raise TypeError(msg)


def whole_numbers(values: pd.Series[Any]) -> pd.Series[Any]:
    """Names of groups that are whole numbers written as fractions (1.0), as whole numbers (1).

    Missing values turn whole numbers into fractions in pandas; a group must not be called "1" in one
    place and "1.0" in another for that.
    """
    import pandas as pd

    categorical = isinstance(values.dtype, pd.CategoricalDtype)
    names = values.cat.categories.to_series() if categorical else values[values.notna()]
    if names.dtype.kind != "f" or not len(names):
        return values
    if not (np.isfinite(names) & (names == names.round()) & (names.abs() < 2**53)).all():
        return values
    if categorical:
        return values.cat.rename_categories(names.astype(np.int64).tolist())
    return values.astype("Int64") if len(names) < len(values) else values.astype(np.int64)


def is_number(value: Any) -> bool:
    """Whether it is a real number, of Python or of NumPy; a truth value is none."""
    return isinstance(value, Real) and not isinstance(value, bool)


def first_fraction(values: pd.Series[Any]) -> float | None:
    """The first number that is not whole, in a column of fractions; `None` for any other column.

    Such numbers are measured, and no names of groups.
    """
    if getattr(values.dtype, "kind", "O") != "f":
        return None
    known = values[values.notna()]
    broken = known[known != known.round()]
    return float(broken.iloc[0]) if len(broken) else None


def check_integers(**counts: tuple[Any, int]) -> None:
    """Raise unless every argument, given as value and least value, is a whole number."""
    for name, (value, least) in counts.items():
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
            msg = f"`{name}` must be an integer of at least {least}, found {value!r}."
            raise ValueError(msg)


def check_key(key: Any, name: str) -> None:
    """Raise unless argument ``name`` is a key, a string that is not empty."""
    if not isinstance(key, str) or not key:
        msg = f"`{name}` must be a string that is not empty, found {key!r}."
        raise TypeError(msg)


def get_embedding(
    adata: AnnData, use_rep: str, name: str = "adata", *, advice: str | None = None
) -> np.ndarray:
    """``adata.obsm[use_rep]`` as a finite matrix of numbers with one row per cell.

    `advice` is what to do where there is none; by default, how to embed the cells.
    """
    check_key(use_rep, "use_rep")
    if use_rep not in adata.obsm:
        found = ", ".join(map(repr, adata.obsm)) or "nothing"
        if advice is None:
            advice = f"To make it: `scssl.tl.embed({name}, model, key_added={use_rep!r})`."
        msg = f"{name}.obsm has no {use_rep!r}; it has {found}. {advice}"
        raise KeyError(msg)
    values = adata.obsm[use_rep]
    if hasattr(values, "to_numpy"):
        values = values.to_numpy()
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "fiub":
        msg = (
            f"{name}.obsm[{use_rep!r}] must be a dense matrix of numbers, "
            f"found {type(values).__name__} of dtype {getattr(values, 'dtype', 'unknown')}."
        )
        raise TypeError(msg)
    if values.ndim != 2 or values.shape[1] == 0:
        msg = f"{name}.obsm[{use_rep!r}] must be (cells, dimensions), found shape {values.shape}."
        raise ValueError(msg)
    broken = ~np.isfinite(values).all(axis=1)
    if broken.any():
        first = adata.obs_names[int(broken.argmax())]
        msg = (
            f"{name}.obsm[{use_rep!r}] is NaN or infinite in {broken.sum():,} of {len(values):,} "
            f"cells (first: {first!r}). Compute it again, or leave those cells out: "
            f"`{name} = {name}[np.isfinite({name}.obsm[{use_rep!r}]).all(axis=1)].copy()`."
        )
        raise ValueError(msg)
    return values
