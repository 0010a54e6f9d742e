"""How the genes of a data set map onto the genes of a model."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from scssl._checks import some
from scssl.data.matrix import remap_columns

if TYPE_CHECKING:
    from scipy import sparse


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
