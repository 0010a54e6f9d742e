"""Genes of a model by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scssl._checks import some
from scssl._errors import GeneMismatchError
from scssl.data import GeneVocabulary


def known_genes(theirs: GeneVocabulary, ours: Any, min_overlap: float) -> np.ndarray:
    """Position of genes among those of the other model, -1 where it does not know them."""
    rows = theirs.align(ours, min_overlap=0).columns
    known = int((rows >= 0).sum())
    if known < min_overlap * len(rows):
        raise GeneMismatchError(
            f"The model knows {known:,} of the {len(rows):,} genes of `adata`, fewer than "
            f"min_overlap={min_overlap:g}. It has genes like {some(theirs.names[:3])}, `adata` like "
            f"{some(ours[:3])}. Use the same kind of names, or leave out the other genes: "
            "adata = adata[:, adata.var_names.isin(model.genes.names)].copy()"
        )
    return rows


def gene_columns(
    vocabulary: GeneVocabulary, genes: Sequence[str] | None, device: torch.device
) -> Tensor | None:
    """Positions of genes, `None` for all; int64.

    Raises
    ------
    KeyError
        If there is no such gene.
    """
    if genes is None:
        return None
    if isinstance(genes, str):
        genes = [genes]
    position = vocabulary.positions
    unknown = [name for name in genes if name not in position]
    if unknown:
        raise KeyError(
            f"{len(unknown)} genes are not genes of the model, such as {str(unknown[0])!r}; its genes "
            f"are like {some(vocabulary.names[:3])} (model.genes.names)."
        )
    return torch.tensor([position[name] for name in genes], dtype=torch.int64, device=device)
