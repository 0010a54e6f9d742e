"""A transformer whose tokens are cells."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from ._flow_attention import FlowAttention, SoftmaxAttention
from ._latent import Latent, LatentKind
from ._position import SinusoidalPosition2d

Attention = Literal["flow", "softmax"]
ATTENTIONS: tuple[Attention, ...] = ("flow", "softmax")
#: Groups of features that are normalised together.
N_GROUPS = 4
_OUT_DROPOUT = 0.01
# Cells at a time where nothing is kept for a gradient: what is wider than a token is then never of all.
_CHUNK = 1024


class CellTransformerLayer(nn.Module):
    """Attention among cells and a network on each, both after a normalisation and beside a shortcut.

    Parameters
    ----------
    n_hidden
        Width.
    n_heads
        Number of heads.
    attention
        ``"flow"`` or ``"softmax"``.
    dropout
        Share of units dropped in training.
    """

    def __init__(self, n_hidden: int, n_heads: int, attention: Attention, dropout: float) -> None:
        super().__init__()
        kind = FlowAttention if attention == "flow" else SoftmaxAttention
        self.norm1, self.norm2 = nn.LayerNorm(n_hidden), nn.LayerNorm(n_hidden)
        out_dropout = _OUT_DROPOUT if dropout else 0.0
        self.attention = kind(n_hidden, n_heads, out_dropout=out_dropout)
        self.dropout = nn.Dropout(dropout)
        self.ff = nn.Sequential(
            nn.Linear(n_hidden, 2 * n_hidden),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(2 * n_hidden, n_hidden),
            nn.Dropout(dropout),
        )

    def forward(self, h: Tensor, lengths: list[int] | None) -> Tensor:
        """One layer.

        Parameters
        ----------
        h
            Shape ``(n_cells, n_hidden)``.
        lengths
            Cells of each sequence, one after the other; `None`: one sequence.
        """
        h = h + self.dropout(self.attention(self.norm1(h), lengths))
        if not torch.is_grad_enabled():
            for rows in h.split(_CHUNK):
                rows.add_(self.ff(self.norm2(rows)))
            return h
        out: Tensor = h + self.ff(self.norm2(h))
        return out


class CellTransformer(nn.Module):
    """From the first layer of cells to their embedding, by way of the other cells of their sequence.

    Parameters
    ----------
    n_hidden
        Width; divisible by 4 and by `n_heads`.
    n_layers
        Number of layers.
    n_heads
        Number of heads of each.
    attention
        ``"flow"`` or ``"softmax"``.
    dropout
        Share of units dropped in training.
    positions
        Whether cells are told their place.
    latent
        Kind of the latent space.
    n_latent
        Width of the embedding.
    n_clusters
        Clusters of a latent space that has any.
    """

    def __init__(
        self,
        n_hidden: int,
        *,
        n_layers: int,
        n_heads: int,
        attention: Attention,
        dropout: float,
        positions: bool,
        latent: LatentKind,
        n_latent: int,
        n_clusters: int,
    ) -> None:
        super().__init__()
        self.position = SinusoidalPosition2d(n_hidden) if positions else None
        self.input = nn.Linear(n_hidden, n_hidden)
        self.input_dropout = nn.Dropout(dropout)
        self.input_norm = nn.GroupNorm(N_GROUPS, n_hidden)
        self.layers = nn.ModuleList(
            CellTransformerLayer(n_hidden, n_heads, attention, dropout) for _ in range(n_layers)
        )
        self.norm = nn.LayerNorm(n_hidden)
        self.latent = Latent(latent, n_hidden, n_latent, n_clusters)

    def hidden(self, first: Tensor, position: Tensor | None, lengths: list[int] | None) -> Tensor:
        """What the latent space is made of.

        Parameters
        ----------
        first
            First layer, shape ``(n_cells, n_hidden)``.
        position
            Places, shape ``(n_cells, 2)``, NaN where there is none.
        lengths
            Cells of each sequence, one after the other; `None`: one sequence.
        """
        if self.position is not None:
            if position is None:
                position = first.new_full((len(first), 2), float("nan"))
            first = first + self.position(position).to(first.dtype)
        h = self.input_norm(self.input_dropout(torch.relu(self.input(first))))
        for layer in self.layers:
            h = layer(h, lengths)
        normal: Tensor = self.norm(h)
        return normal

    def parts(self) -> list[nn.Module]:
        """Layers in order, without the one on the genes."""
        first = nn.ModuleList([self.input, self.input_dropout, self.input_norm])
        if self.position is not None:
            first.append(self.position)
        return [first, *self.layers, nn.ModuleList([self.norm, self.latent])]
