"""Genes of a model by name."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from scssl.data import GeneVocabulary


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
            f"are like {', '.join(map(str, vocabulary.names[:3]))} (model.genes.names)."
        )
    return torch.tensor([position[name] for name in genes], dtype=torch.int64, device=device)
