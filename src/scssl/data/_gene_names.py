"""Genes by their names and, where a vocabulary knows them, by their other names."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from scssl._errors import GeneMismatchError

#: Stable ids of Ensembl genomes; fly and worm keep those of their own data bases.
ENSEMBL = re.compile(r"(ENS[A-Z]{0,6}G\d{11}|FBgn\d{7}|WBGene\d{8})(\.\d+)?")


class Match(NamedTuple):
    """Column of the model of each gene of a data set."""

    columns: np.ndarray
    """Position in the vocabulary, −1 where there is none; no position occurs twice."""
    ambiguous: np.ndarray
    """Names of the data set that would fit, but not one gene alone."""
    n_by_alias: int
    """Genes that were found under another name than that of the vocabulary."""


def checked_index(names: Any, what: str, *, fix: str) -> pd.Index:
    """Unique, non-empty string names as an object index."""
    if isinstance(names, str):
        msg = f"{what} must be a sequence of strings, found the single string {names!r}."
        raise TypeError(msg)
    index = pd.Index(names, dtype=object)
    if not len(index):
        msg = f"{what} are empty: there are no genes."
        raise GeneMismatchError(msg)
    for position, name in enumerate(index):
        if isinstance(name, str) and name.strip():
            continue
        if name is None or isinstance(name, str) or pd.isna(name):
            msg = (
                f"{what} contain a missing or empty name at position {position:,} ({name!r}). "
                f"Drop such genes first: adata = adata[:, {fix}.notna() & ({fix} != '')].copy()"
            )
            raise GeneMismatchError(msg)
        msg = (
            f"{what} must be strings, found {type(name).__name__} {name!r} at position "
            f"{position:,}: {fix} = {fix}.astype(str)"
        )
        raise TypeError(msg)
    if not index.is_unique:
        repeated = index[index.duplicated()].unique()
        msg = (
            f"{what} are not unique: {len(repeated):,} occur more than once "
            f"({some_names(repeated.to_numpy())}), and genes are matched by name. "
            "Sum or drop the repeated columns, or run adata.var_names_make_unique(): it keeps the "
            "first under its name and calls the others 'NAME-1', 'NAME-2', which will match no "
            "other data set."
        )
        raise GeneMismatchError(msg)
    return index


def checked_aliases(aliases: Any, n_names: int) -> np.ndarray | None:
    """Other names as a read-only array, empty strings where there is none.

    Raises
    ------
    TypeError
        If an entry is neither a string nor missing.
    ValueError
        If there is not one entry per name.
    """
    if aliases is None:
        return None
    if isinstance(aliases, str):
        msg = f"`aliases` must be a sequence of strings, found the single string {aliases!r}."
        raise TypeError(msg)
    values = list(aliases)
    if len(values) != n_names:
        msg = f"`aliases` needs one entry per name ({n_names:,}), found {len(values):,}."
        raise ValueError(msg)
    for i, value in enumerate(values):
        if value is None or (not isinstance(value, str) and pd.isna(value)):
            values[i] = ""
        elif not isinstance(value, str):
            msg = f"`aliases` must be strings, found {type(value).__name__} {value!r}."
            raise TypeError(msg)
    checked = np.array(values, dtype=object)
    checked.flags.writeable = False
    return checked


def match_names(model: pd.Index, aliases: np.ndarray | None, query: pd.Index) -> Match:
    """Find the genes of a data set in a vocabulary: by name, and by alias where there are aliases.

    With aliases, what has not been found by name is looked up as an Ensembl id without its version,
    and what is left then as an alias. A name that is the alias of several genes, or of a gene that
    was found already, is ambiguous and not used; nor are two names of one gene.

    Parameters
    ----------
    model
        Names of the vocabulary, unique.
    aliases
        One other name for each, or empty.
    query
        Names of the data set, unique.
    """
    columns = model.get_indexer(query).astype(np.int64)
    if aliases is None:
        return Match(columns, np.empty(0, dtype=object), 0)
    n_by_name = int((columns >= 0).sum())
    ambiguous = np.zeros(len(query), dtype=bool)
    named = np.flatnonzero(aliases != "")
    for keys, positions, names in (
        (model, np.arange(len(model)), [bare_id(name) for name in query]),
        (pd.Index(aliases[named], dtype=object), named, list(query)),
    ):
        open_rows = np.flatnonzero((columns < 0) & ~ambiguous)
        wanted = pd.Index([names[row] for row in open_rows], dtype=object)
        repeated = wanted.isin(keys[keys.duplicated()])
        once = ~keys.duplicated(keep=False)
        found = keys[once].get_indexer(wanted).astype(np.int64)
        found[found >= 0] = positions[once][found[found >= 0]]
        rivals = (found >= 0) & (np.isin(found, columns) | pd.Index(found).duplicated(keep=False))
        columns[open_rows] = np.where(rivals, -1, found)
        ambiguous[open_rows] = rivals | repeated
    n_by_alias = int((columns >= 0).sum()) - n_by_name
    return Match(columns, query[ambiguous].to_numpy(), n_by_alias)


def bare_id(name: str) -> str:
    """An Ensembl id without its version; other names as they are."""
    match = ENSEMBL.fullmatch(name)
    return name if match is None else match[1]


def some_names(names: Sequence[str] | np.ndarray, limit: int = 5) -> str:
    """The first of these names, for a message."""
    if not len(names):
        return "none"
    return ", ".join(map(str, names[:limit])) + (", …" if len(names) > limit else "")
