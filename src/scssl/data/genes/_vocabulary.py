"""The genes of a model, and how the genes of a data set map onto them: by name, never by place."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from scssl._checks import check_number, some
from scssl._errors import GeneMismatchError
from scssl.data.matrix import remap_columns

from ._kinds import (
    IdType,
    as_vocabularies,
    bare_ids,
    called,
    combine,
    detect_id_type,
    mismatch_hint,
    warn_of_names,
)

if TYPE_CHECKING:
    from anndata import AnnData
    from scipy import sparse


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
                f"Drop such genes first: `adata = adata[:, {fix}.notna() & ({fix} != '')].copy()`"
            )
        raise TypeError(
            f"{what} must be strings, found {type(name).__name__} {name!r} at position "
            f"{position:,}: `{fix} = {fix}.astype(str)`"
        )
    if not index.is_unique:
        repeated = index[index.duplicated()].unique()
        raise GeneMismatchError(
            f"{what} are not unique: {len(repeated):,} occur more than once "
            f"({some(repeated)}), and genes are matched by name. Sum or drop the "
            "repeated columns, or run `adata.var_names_make_unique()`: it keeps the first under its "
            "name and calls the others 'NAME-1', 'NAME-2', which will match no other data set."
        )
    return index


def checked_aliases(aliases: Any, n_names: int) -> np.ndarray | None:
    """Other names as a read-only array of one entry per name, empty strings where there is none."""
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
    """
    stages = [exact_stage(model, query)]
    if aliases is not None:
        stages += [version_stage(model, query), alias_stage(aliases, query)]
    return match_in_stages(stages, len(query))


def match_in_stages(
    stages: Sequence[Stage], n_query: int, *, repeated: np.ndarray | None = None
) -> Match:
    """Find genes by one stage after the other; a later one never takes back what was found.

    Names that are ``repeated`` in the data are not matched, and no other gene takes their place.
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


@dataclass(frozen=True, eq=False, repr=False)
class GeneAlignment:
    """How the genes of a data set map onto the genes of a model.

    Made by :meth:`GeneVocabulary.align`.

    Parameters
    ----------
    model_names
        Genes of the model, in its order.
    query_names
        Genes of the data set, in its order.
    columns
        Column of the model for every gene of the data set, −1 where the model does not know it;
        int64 of shape ``(n_query,)``.
    ambiguous
        Names of the data set that fit several genes of the model, or a gene that another name fits;
        they are not used.
    n_by_alias
        Number of genes found by an alias or without the version of their id.
    """

    model_names: np.ndarray
    query_names: np.ndarray
    columns: np.ndarray
    ambiguous: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=object))
    n_by_alias: int = 0

    @cached_property
    def present(self) -> np.ndarray:
        """Whether the data set has each gene of the model; bool of shape ``(n_model,)``."""
        present = np.zeros(len(self.model_names), dtype=bool)
        present[self.columns[self.columns >= 0]] = True
        return present

    @property
    def matched(self) -> np.ndarray:
        """Names found in both, in the order of the model."""
        return self.model_names[self.present]

    @property
    def missing(self) -> np.ndarray:
        """Names of the model that the data set does not have."""
        return self.model_names[~self.present]

    @property
    def extra(self) -> np.ndarray:
        """Names of the data set that the model does not know."""
        return self.query_names[self.columns < 0]

    @cached_property
    def n_matched(self) -> int:
        """Number of genes found in both."""
        return int(self.present.sum())

    @property
    def n_missing(self) -> int:
        """Number of genes of the model that the data set does not have."""
        return len(self.model_names) - self.n_matched

    @property
    def n_extra(self) -> int:
        """Number of genes of the data set that the model does not know."""
        return len(self.query_names) - self.n_matched

    @property
    def overlap(self) -> float:
        """Share of the genes of the model found in the data set."""
        return self.n_matched / len(self.model_names)

    @cached_property
    def is_identity(self) -> bool:
        """Whether the data set has exactly the genes of the model, in its order."""
        n = len(self.model_names)
        return len(self.columns) == n and bool((self.columns == np.arange(n)).all())

    @cached_property
    def _keeps_order(self) -> bool:
        known = self.columns[self.columns >= 0]
        return bool((np.diff(known) > 0).all())

    @cached_property
    def _columns32(self) -> np.ndarray:
        return self.columns.astype(np.int32)

    def __repr__(self) -> str:
        return f"GeneAlignment({self.report()})"

    def report(self) -> str:
        """One sentence: how many genes were found, which are missing, which are not used."""
        parts = [
            f"{self.n_matched:,} of {len(self.model_names):,} genes of the model found "
            f"({self.overlap:.1%})".replace("%", " %")
        ]
        if self.n_by_alias:
            parts.append(f"{self.n_by_alias:,} of these by symbol or without the version of the id")
        if self.n_missing:
            parts.append(f"{self.n_missing:,} missing, taken as zero ({some(self.missing)})")
        if self.n_extra:
            parts.append(f"{self.n_extra:,} extra, not used ({some(self.extra)})")
        if len(self.ambiguous):
            which = some(self.ambiguous)
            parts.append(f"{len(self.ambiguous):,} of these fit no gene alone ({which})")
        return "; ".join(parts) + "."

    def apply(self, csr: sparse.csr_matrix) -> sparse.csr_matrix:
        """Map rows of the data set to the columns of the model.

        Genes the model does not know are dropped and absent ones are zero. The indices of each row
        come out sorted, so that the same cell has the same bits in any gene order.

        Parameters
        ----------
        csr
            Rows of the data set, of shape ``(n_rows, n_query)``, without duplicate entries.

        Returns
        -------
        scipy.sparse.csr_matrix
            Shape ``(n_rows, n_model)``. `csr` itself where the genes are the same.

        Raises
        ------
        ValueError
            If `csr` has another number of genes than the data set.

        Examples
        --------
        >>> import numpy as np
        >>> from scipy import sparse
        >>> from scssl.data import GeneVocabulary
        >>> alignment = GeneVocabulary(["CD3D", "MS4A1", "LYZ"]).align(["LYZ", "GNLY", "CD3D"])
        >>> alignment.apply(sparse.csr_matrix(np.array([[1.0, 2.0, 3.0]]))).toarray()
        array([[3., 0., 1.]])
        """
        if csr.shape[1] != len(self.columns):
            raise ValueError(
                f"The rows have {csr.shape[1]:,} genes, the alignment {len(self.columns):,}."
            )
        if self.is_identity:
            return csr
        return remap_columns(
            csr,
            self._columns32,
            len(self.model_names),
            drops=self.n_extra > 0,
            sorts=not self._keeps_order,
        )


class GeneVocabulary:
    """Ordered, unique gene names: the meaning of the columns of a model.

    Parameters
    ----------
    names
        Gene names in the order of the columns, for instance ``adata.var_names``.
    species
        Free text such as ``"human"``, kept with the names.
    aliases
        Another name of each gene, such as the symbols where `names` are Ensembl ids; empty where a
        gene has none. With aliases, a gene of a data set is looked up by name first, then as an
        Ensembl id without version, then by alias. They do not have to be unique: an alias of
        several genes is not used, and reported.

    Raises
    ------
    GeneMismatchError
        If there are no names, or names are duplicated, missing or empty.
    TypeError
        If a name is not a string.
    ValueError
        If there is not one alias per name.

    Examples
    --------
    >>> from scssl.data import GeneVocabulary
    >>> genes = GeneVocabulary(["CD3D", "MS4A1", "LYZ"])
    >>> genes
    GeneVocabulary(3 genes, symbol: CD3D, MS4A1, LYZ)
    >>> print(genes.align(["LYZ", "CD3D", "GNLY"]).report())
    2 of 3 genes of the model found (66.7 %); 1 missing, taken as zero ('MS4A1'); 1 extra, not used ('GNLY').
    """

    __slots__ = ("__dict__", "_aliases", "_index", "_names", "_species")

    def __init__(
        self,
        names: Sequence[str] | np.ndarray | pd.Index,
        *,
        species: str | None = None,
        aliases: Sequence[str] | np.ndarray | None = None,
    ):
        self._index = checked_index(names, "The gene names", fix="adata.var_names")
        self._names = self._index.to_numpy(copy=True)
        self._names.flags.writeable = False
        self._species = species
        self._aliases = checked_aliases(aliases, len(self._names))

    @property
    def names(self) -> np.ndarray:
        """Gene names in column order, read-only, shape ``(n_genes,)``."""
        return self._names

    @property
    def species(self) -> str | None:
        """Species the names belong to, if it was given."""
        return self._species

    @property
    def aliases(self) -> np.ndarray | None:
        """Another name of each gene, empty where there is none; `None` if none are known."""
        return self._aliases

    @cached_property
    def id_type(self) -> IdType:
        """``"ensembl"``, ``"symbol"`` or, for numbers and placeholders, ``"unknown"``."""
        return detect_id_type(self._names)

    @cached_property
    def hash(self) -> str:
        """SHA-256 of the ordered names."""
        canonical = json.dumps(self._names.tolist(), separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()

    @cached_property
    def positions(self) -> dict[str, int]:
        """Column of each name, and of each alias that is the alias of one gene alone."""
        positions: dict[str, int] = {}
        if self._aliases is not None:
            index = pd.Index(self._aliases)
            alone = ~index.duplicated(keep=False) & (index != "")
            positions = {self._aliases[i]: int(i) for i in np.flatnonzero(alone)}
        return positions | {name: i for i, name in enumerate(self._names)}

    def __len__(self) -> int:
        return len(self._names)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, GeneVocabulary):
            return NotImplemented
        return self.hash == other.hash and self.species == other.species

    def __hash__(self) -> int:
        return hash((self.hash, self.species))

    def __repr__(self) -> str:
        shown = ", ".join(self._names[:3]) + (", …" if len(self) > 3 else "")
        species = f", {self.species}" if self.species else ""
        return f"GeneVocabulary({len(self):,} genes, {self.id_type}{species}: {shown})"

    def to_dict(self) -> dict[str, Any]:
        """JSON-able description; :meth:`from_dict` reads it back.

        Examples
        --------
        >>> from scssl.data import GeneVocabulary
        >>> genes = GeneVocabulary(["CD3D", "LYZ"], species="human")
        >>> GeneVocabulary.from_dict(genes.to_dict()) == genes
        True
        """
        content = {
            "names": self._names.tolist(),
            "id_type": self.id_type,
            "species": self.species,
            "hash": self.hash,
        }
        if self._aliases is not None:
            content["aliases"] = self._aliases.tolist()
        return content

    @classmethod
    def from_dict(cls, content: Any) -> GeneVocabulary:
        """Read what :meth:`to_dict` wrote.

        Parameters
        ----------
        content
            Mapping with ``names`` and ``hash``; ``species`` and ``aliases`` are optional.

        Raises
        ------
        TypeError
            If an entry has another type than :meth:`to_dict` writes.
        ValueError
            If an entry is missing or the names do not have the stored hash.
        GeneMismatchError
            If the names are not a valid vocabulary.
        """
        if not isinstance(content, Mapping):
            raise TypeError(f"A gene vocabulary must be a mapping, found {type(content).__name__}.")
        absent = [key for key in ("names", "hash") if key not in content]
        if absent:
            raise ValueError(f"The gene vocabulary has no entry {' and '.join(map(repr, absent))}.")
        names, digest, species = content["names"], content["hash"], content.get("species")
        if not isinstance(names, list):
            raise TypeError(
                f"`names` of a gene vocabulary must be a list, found {type(names).__name__}."
            )
        if not isinstance(digest, str) or not (species is None or isinstance(species, str)):
            raise TypeError("`hash` and `species` of a gene vocabulary must be strings.")
        aliases = content.get("aliases")
        if not (aliases is None or isinstance(aliases, list)):
            raise TypeError(
                f"`aliases` of a gene vocabulary must be a list, found {type(aliases).__name__}."
            )
        vocabulary = cls(names, species=species, aliases=aliases)
        if vocabulary.hash != digest:
            raise ValueError(
                f"The {len(names):,} gene names do not have the hash stored with them "
                f"({digest[:12]}…, computed {vocabulary.hash[:12]}…): the list was changed."
            )
        return vocabulary

    @classmethod
    def union(
        cls,
        datasets: Iterable[GeneVocabulary | AnnData | Sequence[str]]
        | Mapping[str, GeneVocabulary | AnnData | Sequence[str]],
    ) -> GeneVocabulary:
        """All genes of several data sets.

        What a data set does not have of them is taken as zero when it is aligned, and
        :attr:`GeneAlignment.present` says which genes these are.

        Parameters
        ----------
        datasets
            Vocabularies, AnnData or lists of names; or a mapping of them by name, for messages.
            Names must be of one kind and, as far as that is known, of one species.

        Returns
        -------
        GeneVocabulary
            Genes in the order in which they first occur. The species is kept if all have the same,
            an alias if all that know one of the gene know the same.

        Raises
        ------
        GeneMismatchError
            If names are of several kinds or species, are Ensembl ids of several versions, or are no
            names of a vocabulary.
        TypeError
            If one list is given instead of several.
        ValueError
            If there are no data sets.

        Warns
        -----
        ScsslWarning
            If many names of two data sets differ in case only.

        Examples
        --------
        >>> from scssl.data import GeneVocabulary
        >>> GeneVocabulary.union([["CD3D", "LYZ"], ["LYZ", "MS4A1"]]).names.tolist()
        ['CD3D', 'LYZ', 'MS4A1']
        """
        names, species, aliases = combine(as_vocabularies(datasets, cls, "union"), "union")
        return cls(names, species=species, aliases=aliases)

    @classmethod
    def intersection(
        cls,
        datasets: Iterable[GeneVocabulary | AnnData | Sequence[str]]
        | Mapping[str, GeneVocabulary | AnnData | Sequence[str]],
    ) -> GeneVocabulary:
        """Genes that all of several data sets have.

        Parameters
        ----------
        datasets
            As for :meth:`union`.

        Returns
        -------
        GeneVocabulary
            Genes in the order of the first data set; species and aliases as in :meth:`union`.

        Raises
        ------
        GeneMismatchError
            If no gene is in all of them, names are of several kinds or species, or are no names of a
            vocabulary.
        TypeError
            If one list is given instead of several.
        ValueError
            If there are no data sets.

        Examples
        --------
        >>> from scssl.data import GeneVocabulary
        >>> GeneVocabulary.intersection([["CD3D", "LYZ"], ["LYZ", "MS4A1"]]).names.tolist()
        ['LYZ']
        """
        found = as_vocabularies(datasets, cls, "intersection")
        names, species, aliases = combine(found, "intersection")
        return cls(names, species=species, aliases=aliases)

    def align(
        self,
        var_names: Sequence[str] | np.ndarray | pd.Index,
        *,
        min_overlap: float = 0.5,
        var: pd.DataFrame | None = None,
        name: str = "adata",
        of: str | None = None,
    ) -> GeneAlignment:
        """Map the genes of a data set onto this vocabulary, by name.

        Parameters
        ----------
        var_names
            Gene names of the data set, in its order.
        min_overlap
            Least share of the vocabulary that must be found, in [0, 1].
        var
            Annotation of the genes, ``adata.var``, to read data: with it there is a warning where
            other names would be found, and messages say which column has them.
        name
            How messages call the data.
        of
            How messages call the data that the vocabulary is of, where it is not that of a model.

        Returns
        -------
        GeneAlignment
            Which column of the model every gene of the data set is, and what is missing.

        Raises
        ------
        GeneMismatchError
            If fewer genes are found than `min_overlap` asks for, or `var_names` are not unique.

        Examples
        --------
        >>> from scssl.data import GeneVocabulary
        >>> GeneVocabulary(["CD3D", "MS4A1", "LYZ"]).align(["LYZ", "CD3D"]).columns
        array([2, 0])
        """
        check_number("min_overlap", min_overlap, "[0, 1]")
        query = checked_index(var_names, "The gene names of the data", fix="adata.var_names")
        match = match_names(self._index, self._aliases, query)
        ambiguous = query[match.problem != ""].to_numpy()
        n_by_alias = int(np.isin(match.how, ("version", "alias")).sum())
        alignment = GeneAlignment(
            self._names, query.to_numpy(), match.columns, ambiguous, n_by_alias
        )
        if alignment.overlap < min_overlap:
            names, id_types = self._names, (self.id_type, detect_id_type(query.to_numpy()))
            if id_types[0] != id_types[1] and self._aliases is not None and any(self._aliases):
                # Names of the other kind were compared with the aliases.
                names, id_types = self._aliases, (id_types[1], id_types[1])
            hint = mismatch_hint(
                names, query.to_numpy(), alignment.n_matched, id_types=id_types, var=var
            )
            message = (
                f"Only {alignment.n_matched:,} of the {len(self):,} genes of the model "
                f"({alignment.overlap:.1%}) are in the data; min_overlap={min_overlap:g} asks for "
                f"{min_overlap:.0%}.\n"
                f"  genes of the model not found: {some(alignment.missing) or 'none'}\n"
                f"  genes of the data not used:   {some(alignment.extra) or 'none'}\n{hint}"
            )
            raise GeneMismatchError(called(message, name, of))
        if var is not None and alignment.n_missing:
            warn_of_names(self._names, query.to_numpy(), alignment.n_matched, var, name=name, of=of)
        return alignment
