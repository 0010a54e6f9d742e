"""Genes by their names and, where a vocabulary knows them, by their other names."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd

from scssl._errors import GeneMismatchError

IdType = Literal["ensembl", "symbol", "unknown"]

#: Stable ids of Ensembl genomes; fly and worm keep those of their own data bases.
ENSEMBL = re.compile(r"(ENS[A-Z]{0,6}G\d{11}|FBgn\d{7}|WBGene\d{8})(\.\d+)?")


_PLACEHOLDER = re.compile(r"(?i)(gene|var|feature|g)?[_-]?\d+")


class Stage(NamedTuple):
    """One way of finding genes, tried on those that have not been found yet."""

    how: str
    """What it is called in a report."""
    keys: pd.Index
    """Names by which genes of the reference are found; a name may be that of several."""
    positions: np.ndarray
    """Position in the reference of each of `keys`."""
    wanted: pd.Index
    """Name by which each gene of the data is looked up."""


class Match(NamedTuple):
    """What was found of each gene of a data set."""

    columns: np.ndarray
    """Position in the reference, −1 where there is none; no position occurs twice."""
    how: np.ndarray
    """Name of the stage that found the gene, empty where none did."""
    problem: np.ndarray
    """``"several"`` where the name is that of several genes of the reference, ``"taken"`` where its
    gene was found already by a better name, ``"rivals"`` where another gene of the data fits the
    same; else empty. Such genes are not matched."""
    candidate: np.ndarray
    """Position in the reference that was refused because it is taken or has rivals, else −1."""


def checked_index(names: Any, what: str, *, fix: str) -> pd.Index:
    """Unique, non-empty string names as an object index."""
    if isinstance(names, str):
        raise TypeError(f"{what} must be a sequence of strings, found the single string {names!r}.")
    index = pd.Index(names, dtype=object)
    if not len(index):
        raise GeneMismatchError(f"{what} are empty: there are no genes.")
    for position, name in enumerate(index):
        if isinstance(name, str) and name.strip():
            continue
        if name is None or isinstance(name, str) or pd.isna(name):
            raise GeneMismatchError(
                f"{what} contain a missing or empty name at position {position:,} ({name!r}). "
                f"Drop such genes first: adata = adata[:, {fix}.notna() & ({fix} != '')].copy()"
            )
        raise TypeError(
            f"{what} must be strings, found {type(name).__name__} {name!r} at position "
            f"{position:,}: {fix} = {fix}.astype(str)"
        )
    if not index.is_unique:
        repeated = index[index.duplicated()].unique()
        raise GeneMismatchError(
            f"{what} are not unique: {len(repeated):,} occur more than once "
            f"({some_names(repeated.to_numpy())}), and genes are matched by name. Sum or drop the "
            "repeated columns, or run adata.var_names_make_unique(): it keeps the first under its "
            "name and calls the others 'NAME-1', 'NAME-2', which will match no other data set."
        )
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
        raise TypeError(
            f"`aliases` must be a sequence of strings, found the single string {aliases!r}."
        )
    values = list(aliases)
    if len(values) != n_names:
        raise ValueError(
            f"`aliases` needs one entry per name ({n_names:,}), found {len(values):,}."
        )
    for i, value in enumerate(values):
        if value is None or (not isinstance(value, str) and pd.isna(value)):
            values[i] = ""
        elif not isinstance(value, str):
            raise TypeError(f"`aliases` must be strings, found {type(value).__name__} {value!r}.")
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
    stages = [exact_stage(model, query)]
    if aliases is not None:
        stages += [version_stage(model, query), alias_stage(aliases, query)]
    return match_in_stages(stages, len(query))


def match_in_stages(
    stages: Sequence[Stage], n_query: int, *, repeated: np.ndarray | None = None
) -> Match:
    """Find genes by one stage after the other; a later one never takes back what was found.

    Parameters
    ----------
    stages
        Ways of finding genes, the most trustworthy first.
    n_query
        Number of genes in the data.
    repeated
        Genes of the data whose names occur more than once there: they are not matched, and no other
        gene takes their place. By default there are none.
    """
    columns = np.full(n_query, -1, dtype=np.int64)
    how, problem = np.full(n_query, "", dtype=object), np.full(n_query, "", dtype=object)
    candidate = np.full(n_query, -1, dtype=np.int64)
    reserved = np.empty(0, dtype=np.int64)
    for i, (name, keys, positions, wanted) in enumerate(stages):
        open_rows = np.flatnonzero((columns < 0) & (problem == ""))
        names = wanted[open_rows]
        once = ~keys.duplicated(keep=False)
        several = names.isin(keys[~once])
        found = keys[once].get_indexer(names).astype(np.int64)
        found[found >= 0] = positions[once][found[found >= 0]]
        if i == 0 and repeated is not None:
            reserved = np.unique(found[repeated[open_rows] & (found >= 0)])
            problem[repeated] = "repeated"
            found[repeated[open_rows]] = -1
            several &= ~repeated[open_rows]
        taken = (found >= 0) & (np.isin(found, columns) | np.isin(found, reserved))
        rivals = (found >= 0) & ~taken & pd.Index(found).duplicated(keep=False)
        refused = taken | rivals
        candidate[open_rows[refused]] = found[refused]
        for which, word in ((several, "several"), (taken, "taken"), (rivals, "rivals")):
            problem[open_rows[which]] = word
        columns[open_rows] = np.where(refused, -1, found)
        how[open_rows[(found >= 0) & ~refused]] = name
    return Match(columns, how, problem, candidate)


def exact_stage(model: pd.Index, query: pd.Index) -> Stage:
    """By name."""
    return Stage("exact", model, np.arange(len(model)), query)


def version_stage(model: pd.Index, query: pd.Index) -> Stage:
    """As Ensembl ids without their versions."""
    return Stage("version", bare_ids(model), np.arange(len(model)), bare_ids(query))


def alias_stage(aliases: np.ndarray, query: pd.Index) -> Stage:
    """By the other names that a vocabulary knows, empty where it knows none."""
    named = np.flatnonzero(aliases != "")
    return Stage("alias", pd.Index(aliases[named], dtype=object), named, query)


def case_stage(model: pd.Index, query: pd.Index) -> Stage:
    """By name without regard to case."""
    folded = [
        pd.Index([name.casefold() for name in names], dtype=object) for names in (model, query)
    ]
    return Stage("case", folded[0], np.arange(len(model)), folded[1])


def bare_ids(names: pd.Index) -> pd.Index:
    """Ensembl ids without their versions; other names as they are."""
    return pd.Index([bare_id(name) for name in names], dtype=object)


def bare_id(name: str) -> str:
    """An Ensembl id without its version; other names as they are."""
    match = ENSEMBL.fullmatch(name)
    return name if match is None else match[1]


def detect_id_type(names: Sequence[str] | np.ndarray) -> IdType:
    """``"ensembl"``, ``"symbol"`` or, for numbers and placeholders, ``"unknown"``."""
    sample = names[:: max(1, len(names) // 1000)]
    if np.mean([ENSEMBL.fullmatch(name) is not None for name in sample]) > 0.5:
        return "ensembl"
    if np.mean([_PLACEHOLDER.fullmatch(name) is not None for name in sample]) > 0.5:
        return "unknown"
    return "symbol"


def some_names(names: Sequence[str] | np.ndarray, limit: int = 5) -> str:
    """The first of these names, for a message."""
    if not len(names):
        return "none"
    return ", ".join(map(str, names[:limit])) + (", …" if len(names) > limit else "")
