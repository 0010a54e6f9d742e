"""Expression and proteins in two modalities of a MuData."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData


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
        msg = (
            f"The MuData has no modality {name!r}; there are: {there}. To make a model from it: "
            "rna_modality=..., protein_modality=...; for a model that is made: "
            f"mdata = mudata.MuData({{{name!r}: mdata['...'], ...}})"
        )
        raise KeyError(msg)
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
        msg = f"No cell of modality {rna!r} is in modality {protein!r}: their names differ."
        raise ValueError(msg)
    return AnnData(
        genes.X,
        obs=genes.obs.copy(),
        var=genes.var.copy(),
        layers={name: value for name, value in genes.layers.items() if name is not None},
        obsm={obsm: table.reindex(genes.obs_names)},
    )
