"""The genes of a model, and how the genes of a data set map onto them: by name, never by place."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from scssl._checks import check_number, some
from scssl._errors import GeneMismatchError

from ._alignment import GeneAlignment
from ._combine import as_vocabularies, combine
from ._names import (
    IdType,
    checked_aliases,
    checked_index,
    detect_id_type,
    match_names,
    mismatch_hint,
)

if TYPE_CHECKING:
    from anndata import AnnData


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
        self, var_names: Sequence[str] | np.ndarray | pd.Index, *, min_overlap: float = 0.5
    ) -> GeneAlignment:
        """Map the genes of a data set onto this vocabulary, by name.

        Parameters
        ----------
        var_names
            Gene names of the data set, in its order.
        min_overlap
            Least share of the vocabulary that must be found, in [0, 1].

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
            hint = mismatch_hint(names, query.to_numpy(), alignment.n_matched, id_types=id_types)
            raise GeneMismatchError(
                f"Only {alignment.n_matched:,} of the {len(self):,} genes of the model "
                f"({alignment.overlap:.1%}) are in the data; min_overlap={min_overlap:g} asks for "
                f"{min_overlap:.0%}.\n"
                f"  genes of the model not found: {some(alignment.missing) or 'none'}\n"
                f"  genes of the data not used:   {some(alignment.extra) or 'none'}\n{hint}"
            )
        return alignment
