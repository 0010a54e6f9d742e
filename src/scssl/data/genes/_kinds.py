"""Kinds of gene names, why those of two data sets do not match, and one list out of several."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import pandas as pd

from scssl._checks import some
from scssl._errors import GeneMismatchError, warn

if TYPE_CHECKING:
    from ._vocabulary import GeneVocabulary

IdType = Literal["ensembl", "symbol", "unknown"]

#: Stable ids of Ensembl genomes; fly and worm keep those of their own data bases.
ENSEMBL = re.compile(r"(ENS[A-Z]{0,6}G\d{11}|FBgn\d{7}|WBGene\d{8})(\.\d+)?")
_PLACEHOLDER = re.compile(r"(?i)(gene|var|feature|g)?[_-]?\d+")

#: What the kinds of names are called in messages.
KINDS = {"ensembl": "Ensembl ids", "symbol": "gene symbols", "unknown": "placeholders"}


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


# Of a gene in the pseudoautosomal regions Ensembl names the copy on Y like this.
_VERSION = re.compile(r"\.\d+(_PAR_Y)?$")
# Share of the genes of a model that other names would find, above which there is a warning.
_MANY_FOUND = 0.02


class _Fix(NamedTuple):
    reason: str
    rename: Callable[[str], str]
    code: str


def _replacing(reason: str, pattern: str, mark: str) -> _Fix:
    """Leave out what matches; a name without `mark` has nothing of it, which is sooner told."""
    find = re.compile(pattern)
    code = f'str.replace(r"{pattern}", "", regex=True)'
    return _Fix(reason, lambda name: find.sub("", name) if mark in name else name, code)


_CASE = (
    "differ in case, which often means another species (human CD3D, mouse Cd3d): "
    "`scssl.pp.map_orthologs(adata, TABLE, from_species={!r}, to_species={!r})` with a table of orthologs; "
    "if the species is the same"
)
_FIXES = (
    _replacing("carry version suffixes ('ENSG00000167286.9')", _VERSION.pattern, "."),
    _Fix("differ in white space", str.strip, "str.strip()"),
    _Fix(_CASE.format("mouse", "human"), str.upper, "str.upper()"),
    _Fix(_CASE.format("human", "mouse"), str.capitalize, "str.capitalize()"),
    _replacing(
        "begin with the name of the genome ('GRCh38_CD3D')",
        "^(GRCh3[78]|hg19|hg38|GRCm3[89]|mm10|mm39)_+",
        "_",
    ),
    _replacing("end in a number that makes names unique ('CD3D-1')", r"-\d+$", "-"),
    _replacing(
        "are Ensembl ids and symbols in one ('ENSG00000167286_CD3D')",
        r"^ENS[A-Z]*G\d+(\.\d+)?[_|]",
        "ENS",
    ),
    _replacing(
        "are Ensembl ids and symbols in one ('ENSG00000167286_CD3D')", r"(\.\d+)?[_|].*$", ""
    ),
)
_MODEL_VERSIONED = (
    'versioned = {name.split(".")[0]: name for name in model.genes.names}; '
    'adata.var_names = [versioned.get(name.split(".")[0], name) for name in adata.var_names]'
)


class _Better(NamedTuple):
    """Names of which more match."""

    n_matched: int
    reason: str
    line: str


def _better_names(
    model: np.ndarray, query: np.ndarray, var: pd.DataFrame | None, *, least: int = 1
) -> _Better | None:
    """What else the genes could be called of which most match, by a column or a simple change.

    Names by which less than `least` genes more would match may not be found.
    """
    # All names only for what helps some of them, of which ten at least are among so many more matches.
    n_tried = min(len(query), max(1000, 10 * len(query) // least))
    rows = np.sort(np.random.default_rng(0).permutation(len(query))[:n_tried])
    known, tried = set(model), query[rows]
    found: list[tuple[int, Callable[[], _Better | None]]] = []
    for column, values in () if var is None else var.items():
        # Names, not numbers.
        if values.dtype.kind == "O":
            n_matched = len(known.intersection(values.iloc[rows].astype(str)))
            found.append((n_matched, partial(_by_column, model, column, values)))
    for fix in _FIXES:
        n_matched = len(known.intersection(map(fix.rename, tried)))
        found.append((n_matched, partial(_by_fix, model, query, fix)))
    bare = set(map(_without_version, model))
    if len(bare) == len(model):
        n_matched = len(bare.intersection(map(_without_version, tried)))
        found.append((n_matched, partial(_by_version, bare, query)))
    n_now = len(known.intersection(tried))
    for n_matched, all_of in sorted(found, key=lambda one: -one[0]):
        if n_matched > n_now and (better := all_of()) is not None:
            return better
    return None


def _by_column(model: np.ndarray, column: Any, values: pd.Series) -> _Better:
    values = values.astype(str)
    unique = "" if values.is_unique else "; adata.var_names_make_unique()"
    line = f'adata.var_names = adata.var["{column}"].astype(str).to_numpy(){unique}'
    reason = f'the names that match are in adata.var["{column}"]'
    return _Better(_n_common(model, values.tolist()), reason, line)


def _by_fix(model: np.ndarray, query: np.ndarray, fix: _Fix) -> _Better | None:
    names, old = pd.Index([fix.rename(name) for name in query]), pd.Index(query)
    line = f"adata.var_names = adata.var_names.{fix.code}"
    if not names.is_unique:
        # The first of several gets the name.
        names = names.where(~names.duplicated(), old)
        line = (
            f"names = adata.var_names.{fix.code}; "
            "adata.var_names = names.where(~names.duplicated(), adata.var_names)"
        )
    if not names.is_unique:
        return None
    return _Better(_n_common(model, names), f"the names of the data {fix.reason}", line)


def _by_version(bare: set[str], query: np.ndarray) -> _Better:
    reason = (
        "the Ensembl ids of the model carry other version suffixes ('ENSG00000167286.9') than those "
        "of the data"
    )
    n_matched = len(bare.intersection(map(_without_version, query)))
    return _Better(n_matched, reason, _MODEL_VERSIONED)


def _without_version(name: str) -> str:
    return _VERSION.sub("", name) if "." in name else name


def warn_of_names(
    model: np.ndarray,
    query: np.ndarray,
    n_matched: int,
    var: pd.DataFrame | None = None,
    *,
    name: str = "adata",
    of: str | None = None,
) -> None:
    """Warn where genes are missed that are in the data under a name that is easily told."""
    if n_matched in (len(model), len(query)):
        return
    least = max(2, int(np.ceil(_MANY_FOUND * len(model))))
    better = _better_names(model, query, var, least=least)
    if better is None or better.n_matched - n_matched < least:
        return
    message = (
        f"{n_matched:,} of the {len(model):,} genes of the model are in the data by name, and "
        f"{better.n_matched:,} would be: it seems that {better.reason}: "
        f"`{better.line}`. Genes that are not found are {'taken as zero' if of is None else 'left out'}."
    )
    warn(called(message, name, of))


def called(message: str, name: str, of: str | None) -> str:
    """A message about the genes of a model and of data, where it is data `name`, or those of data `of`."""
    message = message.replace("adata", name)
    if of is None:
        return message
    for what, instead in (
        ("model.genes.names", f"{of}.var_names"),
        (f"({name}, model,", f"({name}, {of},"),
        ("The model", f"`{of}`"),
        ("the model", f"`{of}`"),
        ("the data", f"`{name}`"),
        ("model and data", "both"),
    ):
        message = message.replace(what, instead)
    return message


def mismatch_hint(
    model: np.ndarray,
    query: np.ndarray,
    n_matched: int,
    *,
    id_types: tuple[str, str],
    var: pd.DataFrame | None = None,
    to_allow: str | None = "min_overlap",
) -> str:
    """Most likely reason why names of data do not match a model, with the line that mends it.

    `to_allow` is the argument that allows so few, if there is one.
    """
    better = _better_names(model, query, var)
    if better is not None and better.n_matched > n_matched:
        return f"It seems that {better.reason}: `{better.line}`"
    if id_types[0] != id_types[1]:
        hint = (
            f"The model knows {KINDS[id_types[0]]}, the data has {KINDS[id_types[1]]}. If the data "
            "has the others in a column of adata.var, make that column the names of the genes"
        )
        if "unknown" in id_types:
            return hint
        return f"{hint}; with a table of both: `scssl.pp.match_genes(adata, model, synonyms=TABLE)`"
    if id_types[0] == "ensembl":
        prefixes = [re.match(r"[A-Za-z]+", str(names[0])) for names in (model, query)]
        found = [prefix.group() for prefix in prefixes if prefix]
        if len(set(found)) == 2:
            return (
                f"The ids begin with {found[0]} in the model and {found[1]} in the data: these are "
                "different species; map orthologues first, with scssl.pp.map_orthologs"
            )
    # Rounded down, so that it is enough.
    least = np.floor(1e3 * n_matched / len(model)) / 1e3
    few = "Check that model and data are of the same species and annotation"
    return f"{few}. If they are: `{to_allow}={least:g}`." if n_matched and to_allow else f"{few}."


def _n_common(left: Any, right: Any) -> int:
    return int(pd.Index(left).unique().isin(right).sum())


_PREFIX = re.compile(r"ENS[A-Z]*G(?=\d)|FBgn|WBGene")
# Share of the genes of a list that differ from others in case only, above which there is a warning.
_MANY_CASES = 0.1


def as_vocabularies(
    sources: Any, make: type[GeneVocabulary], what: str
) -> dict[str, GeneVocabulary]:
    """Vocabularies of several data sets by the name of each in messages."""
    if isinstance(sources, Mapping):
        given = {repr(name): source for name, source in sources.items()}
    elif isinstance(sources, (str, make)) or not isinstance(sources, Iterable):
        raise TypeError(
            f"`{what}` takes several lists of genes, found one {type(sources).__name__}: "
            f"GeneVocabulary.{what}([one, other])"
        )
    elif hasattr(sources, "var_names"):
        raise TypeError(
            f"`{what}` takes several data sets, found one: GeneVocabulary.{what}([one, other])"
        )
    else:
        given = {f"number {i}": source for i, source in enumerate(sources)}
    if not given:
        raise ValueError(f"`{what}` needs at least one list of genes, found none.")
    found = {}
    for name, source in given.items():
        if isinstance(source, str):
            raise TypeError(
                f"`{what}` takes lists of genes, found the string {source!r} as {name}."
            )
        try:
            found[name] = (
                source if isinstance(source, make) else make(getattr(source, "var_names", source))
            )
        except (TypeError, GeneMismatchError) as error:
            raise type(error)(f"In {name} of `{what}`: {error}") from error
    return found


def combine(
    vocabularies: Mapping[str, GeneVocabulary], how: Literal["union", "intersection"]
) -> tuple[list[str], str | None, list[str] | None]:
    """Names, species and aliases of the genes in any, or in all, of the vocabularies."""
    _check_alike(vocabularies, how)
    lists = [vocabulary.names.tolist() for vocabulary in vocabularies.values()]
    everything = list(dict.fromkeys(name for one in lists for name in one))
    _check_versions(everything)
    if how == "union":
        names = everything
    else:
        common = set(lists[0]).intersection(*lists[1:])
        names = [name for name in lists[0] if name in common]
        if not names:
            _refuse_empty(vocabularies)
    _warn_of_case(vocabularies)
    species = {vocabulary.species for vocabulary in vocabularies.values()}
    return names, species.pop() if len(species) == 1 else None, _aliases(vocabularies, names)


def _check_alike(vocabularies: Mapping[str, GeneVocabulary], how: str) -> None:
    kinds = {name: vocabulary.id_type for name, vocabulary in vocabularies.items()}
    if len(set(kinds.values())) > 1:
        found = _each(vocabularies, {name: KINDS[kind] for name, kind in kinds.items()})
        raise GeneMismatchError(
            f"The {how} needs names of one kind, found {found}. If a data set has the others in a "
            "column of adata.var, make that column the names of its genes."
        )
    species = {name: one.species for name, one in vocabularies.items() if one.species is not None}
    prefixes = {}
    if kinds and set(kinds.values()) == {"ensembl"}:
        for name, vocabulary in vocabularies.items():
            counts = pd.Series([m[0] for m in map(_PREFIX.match, vocabulary.names) if m])
            prefixes[name] = str(counts.mode().iloc[0])
    for stated in (species, prefixes):
        if len(set(stated.values())) > 1:
            raise GeneMismatchError(
                f"The {how} needs genes of one species, found {_each(vocabularies, stated)}. Map them "
                "onto one species first, with scssl.pp.map_orthologs."
            )


def _each(vocabularies: Mapping[str, GeneVocabulary], values: Mapping[str, str]) -> str:
    """Which data sets have which value: the first of each."""
    first: dict[str, str] = {}
    for name in vocabularies:
        if name in values:
            first.setdefault(values[name], name)
    return ", ".join(f"{value} in {name}" for value, name in first.items())


def _check_versions(names: list[str]) -> None:
    bare = pd.Index([bare_id(name) for name in names])
    if bare.is_unique:
        return
    twice = np.array(names, dtype=object)[bare.duplicated(keep=False)]
    raise GeneMismatchError(
        f"{bare[bare.duplicated()].nunique():,} Ensembl ids are in the data sets with several versions "
        f"({some(sorted(twice))}), and each would be several genes. Without versions: "
        r'`adata.var_names = adata.var_names.str.replace(r"\.\d+$", "", regex=True)`'
    )


def _warn_of_case(vocabularies: Mapping[str, GeneVocabulary]) -> None:
    known: set[str] = set()
    folded: set[str] = set()
    for name, vocabulary in vocabularies.items():
        own = set(vocabulary.names)
        own_folded = {gene.casefold() for gene in own}
        n_cases = len(own_folded & folded) - len({gene.casefold() for gene in own & known})
        if n_cases > _MANY_CASES * len(own):
            warn(
                f"{n_cases:,} genes of {name} differ only in case from genes of data sets before it, "
                "and are taken as different genes. Of two species (human CD3D, mouse Cd3d), map them "
                "onto one first (scssl.pp.map_orthologs); of one species, match their names "
                "(scssl.pp.match_genes with `ignore_case`)."
            )
            return
        known |= own
        folded |= own_folded


def _refuse_empty(vocabularies: Mapping[str, GeneVocabulary]) -> None:
    (first, own), *others = vocabularies.items()
    shared = {name: len(set(own.names) & set(other.names)) for name, other in others}
    worst = min(shared, key=lambda name: shared[name])
    other = vocabularies[worst]
    hint = mismatch_hint(
        own.names, other.names, shared[worst], id_types=(own.id_type, other.id_type)
    )
    raise GeneMismatchError(
        f"No gene is in all {len(vocabularies)} lists; {first} and {worst} share {shared[worst]:,}.\n"
        f"  {first}: {some(own.names)}\n  {worst}: {some(other.names)}\n{hint}"
    )


def _aliases(vocabularies: Mapping[str, GeneVocabulary], names: list[str]) -> list[str] | None:
    """The alias of each gene, where all that know one know the same."""
    if all(vocabulary.aliases is None for vocabulary in vocabularies.values()):
        return None
    known: dict[str, set[str]] = {name: set() for name in names}
    for vocabulary in vocabularies.values():
        if vocabulary.aliases is not None:
            for name, alias in zip(vocabulary.names, vocabulary.aliases, strict=True):
                if alias and name in known:
                    known[name].add(alias)
    return [known[name].pop() if len(known[name]) == 1 else "" for name in names]
