"""Checks of arguments and of embeddings, for all that work on an AnnData."""

from __future__ import annotations

import logging
from ast import literal_eval
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from scssl._errors import MissingKeyError

_LOGGER = logging.getLogger("scssl")

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData


# What columns of batches and of labels are often called.
BATCHES = ("batch", "sample", "donor", "dataset")
LABELLED = ("type", "label", "annot")


def check_adata(adata: Any, name: str = "adata", *, matrix: bool = False) -> None:
    """Raise unless argument ``name`` is an AnnData with cells; with `matrix`, with genes too."""
    from anndata import AnnData

    if not isinstance(adata, AnnData):
        how = (
            f"anndata.read_h5ad({str(adata) if isinstance(adata, (str, Path)) else 'file.h5ad'!r})"
        )
        if isinstance(adata, np.ndarray):
            how = f"anndata.AnnData({name})"
        for slot in ("mod", "tables"):  # of a MuData, of a SpatialData
            if isinstance(parts := getattr(adata, slot, None), Mapping) and parts:
                how = f"{name}.{slot}[{next(iter(parts))!r}]"
        raise TypeError(
            f"`{name}` must be an AnnData, found {type(adata).__name__}. Make it one: "
            f"`{name} = {how}`"
        )
    if not adata.n_obs or (matrix and not adata.n_vars):
        what = "cells" if not adata.n_obs else "genes"
        raise ValueError(f"`{name}` has no {what} (shape {adata.n_obs} × {adata.n_vars}).")


def whole_numbers(values: pd.Series[Any], name: str = "adata") -> pd.Series[Any]:
    """Names of groups that are whole numbers written as fractions (1.0), as whole numbers (1).

    Missing values turn whole numbers into fractions in pandas; a group must not be called "1" in one
    place and "1.0" in another for that. Nor must two groups be called the same.
    """
    import pandas as pd

    check_names(values, name)
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


def some(names: Iterable[Any], limit: int = 5) -> str:
    """The first of some names, quoted, for a message."""
    names = list(names)
    return ", ".join(repr(str(name)) for name in names[:limit]) + (
        ", ..." if len(names) > limit else ""
    )


def number(value: float) -> str:
    """A number for a message: short, but not as a whole number unless it is one."""
    short = f"{value:g}"
    return short if float(short).is_integer() == float(value).is_integer() else repr(float(value))


def either(choices: Iterable[Any]) -> str:
    """What can be chosen from, for a message."""
    shown = list(map(repr, choices))
    return ", ".join(shown[:-1]) + (" or " if len(shown) > 1 else "") + shown[-1]


def check_choice[Choice](name: str, value: Any, choices: Iterable[Choice]) -> Choice:
    """Argument ``name``, or an error unless it is one of `choices`."""
    known = list(choices)
    if not any(value is one or (type(value) is type(one) and value == one) for one in known):
        raise ValueError(f"`{name}` must be {either(known)}, found {value!r}.")
    return value


def check_number(name: str, value: Any, bounds: str = "(-inf, inf)", *, none: bool = False) -> Any:
    """Argument ``name`` as a float, or an error unless it is within `bounds`.

    Bounds are written as an interval, such as ``"[0, 1)"``; with `none` it may be `None`.
    """
    if none and value is None:
        return None
    low, high = (float(end) for end in bounds[1:-1].split(","))
    inside = is_number(value) and low <= value <= high
    if inside and (value != low or bounds[0] == "[") and (value != high or bounds[-1] == "]"):
        return float(value)
    what = {"(0, inf)": "a positive number"}.get(bounds, f"a number in {bounds}")
    hint = _meant(name, value, lambda text: check_number(name, float(text), bounds))
    raise ValueError(f"`{name}` must be {what}{' or None' if none else ''}, found {value!r}.{hint}")


def check_whole(
    name: str, value: Any, least: int = 1, most: int | None = None, *, none: bool = False
) -> Any:
    """Argument ``name`` as an int, or an error unless it is a whole number from `least` to `most`."""
    if none and value is None:
        return None
    whole = is_number(value) and np.isfinite(value) and value == int(value)
    if whole and least <= value and (most is None or value <= most):
        return int(value)
    limit = f"of at least {least}" if most is None else f"from {least} to {most:,}"
    limit += " or None" if none else ""
    hint = _meant(name, value, lambda text: check_whole(name, float(text), least, most))
    raise ValueError(f"`{name}` must be a whole number {limit}, found {value!r}.{hint}")


def _meant(name: str, value: Any, read: Callable[[str], Any]) -> str:
    """What to pass where the text of a number was given, for a message."""
    if not isinstance(value, str) or not name.isidentifier():
        return ""
    try:
        return f" Pass `{name}={read(value)!r}`."
    except ValueError:
        return ""


def check_widths(name: str, dims: Any, *, empty: bool = False) -> list[int]:
    """Argument ``name`` as widths of layers; at least one, unless it may be `empty`."""
    if isinstance(dims, (str, bytes)) or not isinstance(dims, (Sequence, np.ndarray)):
        raise ValueError(
            f"`{name}` must be a list of widths, one per layer, such as (128,); found {dims!r}."
        )
    if not len(dims) and not empty:
        raise ValueError(f"`{name}` must be the width of at least one layer, found {dims!r}.")
    return [check_whole(f"{name}[{i}]", width) for i, width in enumerate(dims)]


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
            raise ValueError(f"`{name}` must be an integer of at least {least}, found {value!r}.")


def check_key(key: Any, name: str) -> None:
    """Raise unless argument ``name`` is a key, a string that is not empty."""
    if not isinstance(key, str) or not key:
        one = isinstance(key, (list, tuple)) and len(key) == 1 and isinstance(key[0], str)
        how = f' Pass `{name}="{key[0]}"`.' if one else ""
        raise TypeError(f"`{name}` must be a string that is not empty, found {key!r}.{how}")


def check_destination(adata: Any, key: Any, name: str = "adata", *, copy: bool = False) -> None:
    """Raise unless `key`, given as `key_added`, can be written to `adata`, and with it to a file.

    `name` is what messages call the data; a `copy` of them is in memory.
    """
    check_key(key, "key_added")
    if "/" in key or key in (".", ".."):
        new = key.strip("/").replace("/", "_") if key.strip("./") else "X_new"
        raise ValueError(
            f"key_added={key!r} is no key that an .h5ad file or a Zarr folder can have, in which / and "
            f"lone dots are places. Give another: `key_added={new!r}`."
        )
    if not copy and getattr(adata, "is_view", False) and getattr(adata, "isbacked", False):
        raise ValueError(
            f"`{name}` is a view of a file, to which no result can be added. Read its cells into memory: "
            f"`{name} = {name}.to_memory()`."
        )


def writable(names: Sequence[Any]) -> list[str]:
    """Names of columns as files can have them, each once: with "|" for "/"."""
    found: list[str] = []
    for name in map(str, names):
        new = name.replace("/", "|")
        while new != name and (new in found or new in names):
            new += "|"
        found.append(new)
    return found


def table_of(values: np.ndarray, cells: Any, columns: Sequence[str]) -> pd.DataFrame:
    """Frame of cells by names, which says how to keep it where a file cannot have the names."""
    import pandas as pd

    slashed = [name for name in columns if "/" in name]
    if slashed:
        _LOGGER.info(
            "Columns such as %r have a / in their name, which no file can have: to keep the table in "
            "obsm, rename them first, with a | for instance.",
            slashed[0],
        )
    return pd.DataFrame(values, index=cells, columns=columns)


def close_to(name: Any, known: Iterable[str]) -> str | None:
    """What may have been meant by a name that is none of those known."""
    found = get_close_matches(str(name), list(known), n=1)
    return found[0] if found else None


def no_argument(what: str, name: str, value: Any, known: Iterable[str]) -> str:
    """Message that there is no such argument, with the one that may have been meant."""
    close = close_to(name, known)
    if close is None:
        return f"{what} has no argument {name!r}; it has {', '.join(sorted(known))}."
    try:
        literal_eval(repr(value))
    except (ValueError, SyntaxError):
        meant = close
    else:
        meant = f"{close}={value!r}"
    return f"{what} has no argument {name!r}. Did you mean `{meant}`?"


def get_matrix(adata: AnnData, layer: str | None, name: str = "adata") -> tuple[Any, str]:
    """``adata.X`` or the layer of this name, and how messages call it."""
    if layer is None:
        return adata.X, f"{name}.X"
    check_key(layer, "layer")
    if layer not in adata.layers:
        found = ", ".join(repr(one) for one in adata.layers if one is not None) or "none"
        raise MissingKeyError(f"There is no layer {layer!r} in {name}.layers; there are: {found}.")
    return adata.layers[layer], f'{name}.layers["{layer}"]'


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
        raise MissingKeyError(f"{name}.obsm has no {use_rep!r}; it has {found}. {advice}")
    values = adata.obsm[use_rep]
    if hasattr(values, "compute"):
        # Of data that were read lazily.
        values = values.compute()
    if hasattr(values, "to_numpy"):
        values = values.to_numpy()
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "fiub":
        raise TypeError(
            f"{name}.obsm[{use_rep!r}] must be a dense matrix of numbers, "
            f"found {type(values).__name__} of dtype {getattr(values, 'dtype', 'unknown')}."
        )
    if values.ndim != 2 or values.shape[1] == 0:
        raise ValueError(
            f"{name}.obsm[{use_rep!r}] must be (cells, dimensions), found shape {values.shape}."
        )
    broken = ~np.isfinite(values).all(axis=1)
    if broken.any():
        first = adata.obs_names[int(broken.argmax())]
        raise ValueError(
            f"{name}.obsm[{use_rep!r}] is NaN or infinite in {broken.sum():,} of {len(values):,} "
            f"cells (first: {first!r}). Compute it again, or leave those cells out: "
            f"`{name} = {name}[np.isfinite({name}.obsm[{use_rep!r}]).all(axis=1)].copy()`."
        )
    return values


def get_column(
    adata: AnnData, key: str, argument: str | None = None, name: str = "adata"
) -> pd.Series[Any]:
    """``adata.obs[key]``, in memory; `argument` is what the user named it as, if now."""
    import pandas as pd

    if isinstance(key, (list, tuple)) and len(key) > 1 and all(isinstance(k, str) for k in key):
        joined = ' + "_" + '.join(f'{name}.obs["{one}"].astype(str)' for one in key)
        raise TypeError(
            f"`{argument}` must be one column of {name}.obs, found {list(key)}. To take them "
            f'together: `{name}.obs["{"_".join(key)}"] = {joined}` and `{argument}="{"_".join(key)}"`'
        )
    check_key(key, argument or "key")
    # Of data that were read lazily, `obs` is no DataFrame, nor are its columns in memory.
    obs: Any = adata.obs
    if key not in obs.columns:
        close = close_to(key, map(str, obs.columns))
        meant = f' Did you mean `{argument}="{close}"`?' if close and argument else ""
        found = some(obs.columns, 20) or "no columns"
        raise MissingKeyError(f"{name}.obs has no {key!r}; it has {found}.{meant}")
    if (obs.columns == key).sum() > 1:
        raise ValueError(
            f"{name}.obs has {(obs.columns == key).sum()} columns of the name {key!r}. Keep the first: "
            f"`{name}.obs = {name}.obs.loc[:, ~{name}.obs.columns.duplicated()].copy()`"
        )
    values = obs[key] if isinstance(obs, pd.DataFrame) else obs[[key]].to_memory()[key]
    return cast("pd.Series[Any]", values)


def check_names(values: pd.Series[Any], name: str = "adata") -> None:
    """Raise if two groups in a column are called the same, such as the number 1 and the text "1"."""
    dtype = values.cat.categories.dtype if hasattr(values, "cat") else values.dtype
    if dtype.kind != "O":
        return
    called: dict[str, set[str]] = {}
    for one in values.dropna().unique():
        called.setdefault(str(one), set()).add(type(one).__name__)
    for text, kinds in called.items():
        if len(kinds) > 1:
            column = f'{name}.obs["{values.name}"]'
            mapped = f"{column} = {column}.astype(object).map"
            apart = 'lambda value: f"{value} ({type(value).__name__})"'
            raise ValueError(
                f"{column} has different values that are all written {text!r}, of the types "
                f'{some(sorted(kinds))}. To keep them apart: `{mapped}({apart}, na_action="ignore")`. '
                f'If they are one group: `{mapped}(str, na_action="ignore")`'
            )


def likely_column(obs: pd.DataFrame, *words: str) -> str | None:
    """The column that groups cells, if there is one, to be named in a message as what could be meant.

    One with any of these words in its name comes first.
    """
    groups = [
        str(name)
        for name, column in obs.items()
        if column.dtype.kind != "f" and 1 < column.nunique() <= max(2, len(obs) // 2)
    ]
    return max(groups, key=lambda name: any(w in name.lower() for w in words), default=None)


def likely_coordinates(adata: AnnData) -> str | None:
    """The entry of ``obsm`` that is likeliest to hold places, likewise."""
    planes = [name for name in adata.obsm if np.shape(adata.obsm[name])[1:] == (2,)]
    return max(planes, key=lambda name: "spatial" in name.lower(), default=None)


def get_labels(
    adata: AnnData, key: str, argument: str = "label_key", name: str = "adata"
) -> pd.Series[Any]:
    """``adata.obs[key]``, known for every cell."""
    labels = get_column(adata, key, argument, name)
    unknown = int(labels.isna().sum())
    if unknown:
        raise ValueError(
            f"{name}.obs[{key!r}] is missing for {unknown:,} of {len(labels):,} cells. Take the "
            f"labelled cells: `{name} = {name}[{name}.obs[{key!r}].notna()].copy()`."
        )
    return whole_numbers(labels)
