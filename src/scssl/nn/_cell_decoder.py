"""From an embedding back to genes, told what a cell's batch is."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ._cell_transformer import N_GROUPS


class _CategoryEmbedding(nn.Module):
    """What is added for a category; of an unknown one, the mean over the known."""

    def __init__(self, n_categories: int, n_hidden: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(n_categories, n_hidden)
        self.activation = nn.PReLU()
        self.norm = nn.GroupNorm(N_GROUPS, n_hidden)

    def forward(self, codes: Tensor) -> Tensor:
        known: Tensor = self.norm(self.activation(self.embedding.weight))
        rows = torch.cat([known, known.mean(dim=0, keepdim=True)])
        # -1 is the last row.
        return rows[codes]


class CellDecoder(nn.Module):
    """The layers between an embedding and the layer on the genes.

    Parameters
    ----------
    n_latent
        Width of the embedding.
    n_hidden
        Width of the layer that covariates are added to.
    n_out
        Width of the last layer.
    dropout
        Share of units dropped in training.
    n_categories
        Number of categories of each categorical covariate, by its key.
    n_continuous
        Number of continuous covariates.
    """

    def __init__(
        self,
        n_latent: int,
        n_hidden: int,
        n_out: int,
        *,
        dropout: float,
        n_categories: Mapping[str, int],
        n_continuous: int = 0,
    ) -> None:
        super().__init__()
        self.input = nn.Linear(n_latent, n_hidden)
        self.activation = nn.PReLU()
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.GroupNorm(N_GROUPS, n_hidden)
        self.covariates = nn.ModuleList(
            _CategoryEmbedding(n, n_hidden) for n in n_categories.values()
        )
        self.continuous = nn.Linear(n_continuous, n_hidden, bias=False) if n_continuous else None
        self.hidden = nn.Linear(n_hidden, n_out)

    def forward(
        self, z: Tensor, codes: list[Tensor | None], continuous: Tensor | None = None
    ) -> Tensor:
        """Last layer before the genes, shape ``(n_cells, n_out)``.

        Parameters
        ----------
        z
            Embeddings.
        codes
            Category of each cell in each covariate, -1 or, for all cells, `None` where it is unknown.
        continuous
            Continuous covariates.
        """
        h = self.norm(self.dropout(self.activation(self.input(z))))
        for covariate, code in zip(self.covariates, codes, strict=True):
            if code is None:
                code = torch.full((1,), -1, device=z.device)
            h = h + covariate(code)
        if self.continuous is not None and continuous is not None:
            h = h + self.continuous(continuous.to(h.dtype))
        out: Tensor = torch.relu(self.hidden(h))
        return out
