"""Genes by their names and, where a vocabulary knows them, by their other names; why names do not match."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd

from scssl._checks import some
from scssl._errors import GeneMismatchError

IdType = Literal["ensembl", "symbol", "unknown"]

#: Stable ids of Ensembl genomes; fly and worm keep those of their own data bases.
ENSEMBL = re.compile(r"(ENS[A-Z]{0,6}G\d{11}|FBgn\d{7}|WBGene\d{8})(\.\d+)?")
_PLACEHOLDER = re.compile(r"(?i)(gene|var|feature|g)?[_-]?\d+")

#: What the kinds of names are called in messages.
KINDS = {"ensembl": "Ensembl ids", "symbol": "gene symbols", "unknown": "placeholders"}


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
            f"({some(repeated)}), and genes are matched by name. Sum or drop the "
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


_VERSION = re.compile(r"\.\d+$")


class _Fix(NamedTuple):
    reason: str
    rename: Callable[[str], str]
    line: str


_FIXES = (
    _Fix(
        "the names of the data carry version suffixes ('ENSG00000167286.9')",
        lambda name: _VERSION.sub("", name),
        r'adata.var_names = adata.var_names.str.replace(r"\.\d+$", "", regex=True)',
    ),
    _Fix(
        "the names differ in white space",
        str.strip,
        "adata.var_names = adata.var_names.str.strip()",
    ),
    _Fix(
        "the names differ in case, which often means another species (human CD3D, mouse Cd3d): "
        "map orthologues then (scssl.pp.map_orthologs); if the species is the same",
        str.upper,
        "adata.var_names = adata.var_names.str.upper()",
    ),
    _Fix(
        "the names differ in case, which often means another species (mouse Cd3d, human CD3D): "
        "map orthologues then (scssl.pp.map_orthologs); if the species is the same",
        str.capitalize,
        "adata.var_names = adata.var_names.str.capitalize()",
    ),
)
_MODEL_VERSIONED = (
    'versioned = {name.split(".")[0]: name for name in model.genes.names}; '
    'adata.var_names = [versioned.get(name.split(".")[0], name) for name in adata.var_names]'
)


def mismatch_hint(
    model: np.ndarray, query: np.ndarray, n_matched: int, *, id_types: tuple[str, str]
) -> str:
    """Most likely reason why `query` does not match `model`, with the line that mends it.

    Parameters
    ----------
    model, query
        Gene names of both sides.
    n_matched
        Number of names that match as they are.
    id_types
        Detected id type of the model and of the data.
    """
    if id_types[0] != id_types[1]:
        hint = (
            f"The model knows {KINDS[id_types[0]]}, the data has {KINDS[id_types[1]]}. If the data "
            'has the others in a column of adata.var: adata.var_names = adata.var["<that column>"]'
        )
        if "unknown" in id_types:
            return hint
        return (
            f"{hint}; with a table of both: scssl.pp.match_genes(adata, model, synonyms={{<name in the "
            "data>: <name in the model>, ...})"
        )

    gains = [_n_common(model, [fix.rename(name) for name in query]) for fix in _FIXES]
    best = int(np.argmax(gains))
    bare_model = [_VERSION.sub("", name) for name in model]
    bare_query = [_VERSION.sub("", name) for name in query]
    if id_types[0] == "ensembl" and _n_common(bare_model, bare_query) > max(n_matched, gains[best]):
        return (
            "The Ensembl ids of the model carry other version suffixes ('ENSG00000167286.9') than "
            f"those of the data; match them without: {_MODEL_VERSIONED}"
        )
    if gains[best] > n_matched:
        fix = _FIXES[best]
        return f"It seems that {fix.reason}: {fix.line}"

    if id_types[0] == "ensembl":
        prefixes = [re.match(r"[A-Za-z]+", str(names[0])) for names in (model, query)]
        found = [prefix.group() for prefix in prefixes if prefix]
        if len(set(found)) == 2:
            return (
                f"The ids begin with {found[0]} in the model and {found[1]} in the data: these are "
                "different species; map orthologues first: scssl.pp.map_orthologs(adata, table, "
                "from_species=..., to_species=...)"
            )
    return (
        "If the data really shares so few genes with the model, lower `min_overlap`; otherwise "
        "check that model and data are of the same species and annotation."
    )


def _n_common(left: np.ndarray | list[str], right: np.ndarray | list[str]) -> int:
    return int(pd.Index(left).unique().isin(right).sum())
