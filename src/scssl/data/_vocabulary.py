"""The genes of a model, and how the genes of a data set map onto them: by name, never by place."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from scssl._errors import GeneMismatchError
from scssl.data._gene_hints import mismatch_hint
from scssl.data._gene_names import ENSEMBL, checked_aliases, checked_index, match_names
from scssl.data._gene_names import some_names as _examples
from scssl.data._rows import remap_columns

if TYPE_CHECKING:
    from scipy import sparse

IdType = Literal["ensembl", "symbol", "unknown"]

_PLACEHOLDER = re.compile(r"(?i)(gene|var|feature|g)?[_-]?\d+")


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
    2 of 3 genes of the model found (66.7 %); 1 missing, taken as zero (MS4A1); 1 extra, not used (GNLY).
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
        return _detect_id_type(self._names)

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
            msg = f"A gene vocabulary must be a mapping, found {type(content).__name__}."
            raise TypeError(msg)
        absent = [key for key in ("names", "hash") if key not in content]
        if absent:
            msg = f"The gene vocabulary has no entry {' and '.join(map(repr, absent))}."
            raise ValueError(msg)
        names, digest, species = content["names"], content["hash"], content.get("species")
        if not isinstance(names, list):
            msg = f"`names` of a gene vocabulary must be a list, found {type(names).__name__}."
            raise TypeError(msg)
        if not isinstance(digest, str) or not (species is None or isinstance(species, str)):
            msg = "`hash` and `species` of a gene vocabulary must be strings."
            raise TypeError(msg)
        aliases = content.get("aliases")
        if not (aliases is None or isinstance(aliases, list)):
            msg = f"`aliases` of a gene vocabulary must be a list, found {type(aliases).__name__}."
            raise TypeError(msg)
        vocabulary = cls(names, species=species, aliases=aliases)
        if vocabulary.hash != digest:
            msg = (
                f"The {len(names):,} gene names do not have the hash stored with them "
                f"({digest[:12]}…, computed {vocabulary.hash[:12]}…): the list was changed."
            )
            raise ValueError(msg)
        return vocabulary

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
        if isinstance(min_overlap, bool) or not 0 <= min_overlap <= 1:
            msg = f"`min_overlap` must be between 0 and 1, found {min_overlap!r}."
            raise ValueError(msg)
        query = checked_index(var_names, "The gene names of the data", fix="adata.var_names")
        match = match_names(self._index, self._aliases, query)
        alignment = GeneAlignment(
            self._names, query.to_numpy(), match.columns, match.ambiguous, match.n_by_alias
        )
        if alignment.overlap < min_overlap:
            names, id_types = self._names, (self.id_type, _detect_id_type(query.to_numpy()))
            if self._aliases is not None and id_types[0] != id_types[1]:
                # Names of the other kind were compared with the aliases.
                names, id_types = self._aliases, (id_types[1], id_types[1])
            hint = mismatch_hint(names, query.to_numpy(), alignment.n_matched, id_types=id_types)
            msg = (
                f"Only {alignment.n_matched:,} of the {len(self):,} genes of the model "
                f"({alignment.overlap:.1%}) are in the data; min_overlap={min_overlap:g} asks for "
                f"{min_overlap:.0%}.\n"
                f"  genes of the model not found: {_examples(alignment.missing)}\n"
                f"  genes of the data not used:   {_examples(alignment.extra)}\n{hint}"
            )
            raise GeneMismatchError(msg)
        return alignment


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
            parts.append(f"{self.n_missing:,} missing, taken as zero ({_examples(self.missing)})")
        if self.n_extra:
            parts.append(f"{self.n_extra:,} extra, not used ({_examples(self.extra)})")
        if len(self.ambiguous):
            which = _examples(self.ambiguous)
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
            msg = f"The rows have {csr.shape[1]:,} genes, the alignment {len(self.columns):,}."
            raise ValueError(msg)
        if self.is_identity:
            return csr
        return remap_columns(
            csr,
            self._columns32,
            len(self.model_names),
            drops=self.n_extra > 0,
            sorts=not self._keeps_order,
        )


def _detect_id_type(names: np.ndarray) -> IdType:
    sample = names[:: max(1, len(names) // 1000)]
    if np.mean([ENSEMBL.fullmatch(name) is not None for name in sample]) > 0.5:
        return "ensembl"
    if np.mean([_PLACEHOLDER.fullmatch(name) is not None for name in sample]) > 0.5:
        return "unknown"
    return "symbol"
