"""Expression and proteins in two modalities of a MuData."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from anndata import AnnData

from scssl.data import GeneAlignment
from scssl.model.base import SETUP, CellReader

from ._protein_training import _PROTEIN, ProteinTrainingMixin

if TYPE_CHECKING:
    from mudata import MuData

# Where the setup of a model that was made from a MuData has the names of its modalities.
_MODALITIES = "modalities"


def is_mudata(data: Any) -> bool:
    """Whether data have modalities; a data frame has a ``mod`` too, which is a method."""
    return isinstance(getattr(data, "mod", None), Mapping)


def modality_of(mdata: Any, name: str) -> AnnData:
    """A modality of a MuData.

    Raises
    ------
    KeyError
        If there is none of this name.
    """
    if name not in mdata.mod:
        there = ", ".join(map(repr, mdata.mod))
        raise KeyError(
            f"The MuData has no modality {name!r}; there are: {there}. To make a model from it: "
            "rna_modality=..., protein_modality=...; for a model that is made: "
            f"mdata = mudata.MuData({{{name!r}: mdata['...'], ...}})"
        )
    found: AnnData = mdata.mod[name]
    return found


def from_mudata(mdata: Any, rna: str, protein: str, obsm: str) -> AnnData:
    """Cells of one modality with the values of another one in ``obsm``; matrices are not copied."""
    genes, proteins = modality_of(mdata, rna), modality_of(mdata, protein)
    table = pd.DataFrame(
        proteins.X.toarray() if hasattr(proteins.X, "toarray") else np.asarray(proteins.X),
        index=proteins.obs_names,
        columns=proteins.var_names,
    )
    shared = genes.obs_names.isin(proteins.obs_names)
    if not shared.any():
        raise ValueError(
            f"No cell of modality {rna!r} is in modality {protein!r}: their names differ."
        )
    return AnnData(
        genes.X,
        obs=genes.obs.copy(),
        var=genes.var.copy(),
        layers={name: value for name, value in genes.layers.items() if name is not None},
        obsm={obsm: table.reindex(genes.obs_names)},
    )


class ProteinModalitiesMixin(ProteinTrainingMixin):
    """What :class:`ProteinPredictor` takes a MuData for."""

    def _modalities(self) -> tuple[str, str]:
        """Names of the modalities of a MuData, expression and proteins."""
        names = self.registry_[SETUP][_PROTEIN].get(_MODALITIES)
        if names is None:
            raise TypeError(
                "The model was made from an AnnData and does not know which modalities of a MuData to "
                'read. Pass the one with the expression: adata=mdata["rna"] (for get_proteins with the '
                f'proteins in .obsm["{self.registry_[SETUP][_PROTEIN]["obsm"]}"])'
            )
        return names["rna"], names["protein"]

    def _read(self, adata: Any, *, min_overlap: float | None = None) -> CellReader:
        if is_mudata(adata):
            adata = modality_of(adata, self._modalities()[0])
        return super()._read(adata, min_overlap=min_overlap)

    def _with_proteins(self, adata: Any) -> AnnData:
        """Cells with their proteins, which a MuData has in another modality."""
        if not is_mudata(adata):
            with_proteins: AnnData = adata
            return with_proteins
        return from_mudata(adata, *self._modalities(), self.registry_[SETUP][_PROTEIN]["obsm"])

    def align(self, adata: AnnData | MuData, *, min_overlap: float = 0.0) -> GeneAlignment:
        """How the genes of a data set map onto those of the model, by name.

        Parameters
        ----------
        adata
            The data; of a MuData, its modality with the expression.
        min_overlap
            Share of the model's genes that it must have.
        """
        if is_mudata(adata):
            adata = modality_of(adata, self._modalities()[0])
        return super().align(adata, min_overlap=min_overlap)

    def attach(self, adata: AnnData | MuData) -> None:
        """Make a data set the model's own, to embed it or to go on training.

        Parameters
        ----------
        adata
            Data with the genes, columns and proteins that the model was set up with; it is not changed.
            A MuData if the model was made from one.
        """
        super().attach(self._with_proteins(adata))
