"""A transformer whose tokens are cells: places, layers, latent space, and back to genes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from scssl._checks import check_integers

from ._flow_attention import FlowAttention, SoftmaxAttention

BASE = 10_000.0


class SinusoidalPosition2d(nn.Module):
    """Sines and cosines of where a cell is, in two dimensions :cite:p:`Vaswani2017`.

    The unit square is a grid of `n_grid` by `n_grid` places. The first half of the channels are sines
    and cosines of the row of the grid (the first coordinate), with wave lengths from 2π to 20,000π
    places, the second half those of the column. The table of places is a formula: it is not saved.

    Parameters
    ----------
    n_hidden
        Number of channels, a multiple of four.
    n_grid
        Places along each axis.

    Attributes
    ----------
    missing
        What cells without coordinates have instead; learned.

    Raises
    ------
    ValueError
        If `n_hidden` is not a multiple of four or `n_grid` is not positive.

    Examples
    --------
    >>> import torch
    >>> from scssl.nn import SinusoidalPosition2d
    >>> position = SinusoidalPosition2d(64)
    >>> position(torch.tensor([[0.1, 0.7], [torch.nan, torch.nan]])).shape
    torch.Size([2, 64])
    """

    table: Tensor

    def __init__(self, n_hidden: int, n_grid: int = 100) -> None:
        super().__init__()
        if n_hidden < 4 or n_hidden % 4:
            raise ValueError(
                "`n_hidden` must be a multiple of 4, sine and cosine of two axes; "
                f"found {n_hidden}."
            )
        check_integers(n_grid=(n_grid, 1))
        self.n_hidden, self.n_grid = n_hidden, n_grid
        self.missing = nn.Parameter(torch.zeros(n_hidden))
        self.register_buffer("table", _axis_table(n_hidden // 2, n_grid), persistent=False)

    def forward(self, position: Tensor) -> Tensor:
        """Channels of the places of cells. Shape ``(n_cells, n_hidden)``.

        Parameters
        ----------
        position
            Coordinates between 0 and 1, those beyond are moved to the edge; shape ``(n_cells, 2)``.
            A cell with a NaN has no coordinates.

        Raises
        ------
        ValueError
            If `position` has not two columns.
        """
        if position.ndim != 2 or position.shape[1] != 2:
            raise ValueError(
                f"`position` must have the shape (n_cells, 2); found {tuple(position.shape)}."
            )
        absent = position.isnan().any(dim=1, keepdim=True)
        # As published: stretched by a hundredth beyond each edge, and cut there.
        places = (position.float().nan_to_num(0).clamp(0, 1) * 1.02 - 0.01) * self.n_grid
        places = places.floor().clamp(0, self.n_grid - 1).long()
        channels = self.table[places].flatten(1)
        return torch.where(absent, self.missing, channels)

    def extra_repr(self) -> str:
        return f"n_hidden={self.n_hidden}, n_grid={self.n_grid}"


def _axis_table(n_channels: int, n_grid: int) -> Tensor:
    """Sines and cosines in turns, of each place along an axis."""
    rates = BASE ** (-torch.arange(0, n_channels, 2, dtype=torch.float64) / n_channels)
    angles = torch.arange(n_grid, dtype=torch.float64).unsqueeze(1) * rates
    return torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1).float()


LatentKind = Literal["vae", "gmvae", "ae"]
LATENTS: tuple[LatentKind, ...] = ("vae", "gmvae", "ae")
# Bounds of the logarithm of a variance, and what is added to one.
_LOG_VARIANCE, _LEAST = 5.0, 1e-4


class Latent(nn.Module):
    """The part of a latent space that embeddings are made with; deterministic in evaluation.

    ``"ae"``, ``"vae"``: one linear layer, of the Gaussian its mean. ``"gmvae"``: a cell is first assigned
    to `n_clusters` clusters, in training softly and at random (Gumbel softmax, temperature 1), in evaluation
    to the most probable one; the mean is a small network of the cell and the assignment.
    """

    def __init__(self, kind: LatentKind, n_hidden: int, n_latent: int, n_clusters: int) -> None:
        super().__init__()
        self.kind = kind
        if kind == "gmvae":
            self.clusters = nn.Linear(n_hidden, n_clusters)
            self.mix = nn.Linear(n_hidden + n_clusters, n_latent)
        self.mean = nn.Linear(n_latent if kind == "gmvae" else n_hidden, n_latent)

    def forward(self, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        """Mean, what the variance is made of, and logits of and assignment to clusters."""
        if self.kind != "gmvae":
            return self.mean(hidden), hidden, None, None
        logits = self.clusters(hidden)
        if self.training:
            assigned = functional.gumbel_softmax(logits.float(), tau=1.0).to(hidden.dtype)
        else:
            best = logits.argmax(dim=1)
            assigned = functional.one_hot(best, logits.shape[1]).to(hidden.dtype)
        mixed = torch.relu(self.mix(torch.cat([hidden, assigned], dim=1)))
        return self.mean(mixed), mixed, logits, assigned


@dataclass(frozen=True)
class Posterior:
    """Distribution of the latent variable of each cell, and what it costs to tell it."""

    sample: Tensor
    divergence: Tensor
    cluster_divergence: Tensor | None


class Variational(nn.Module):
    r"""The part of a latent space that only training needs: variances and the prior.

    Of ``"vae"`` the divergence of a cell is
    :math:`\frac{1}{2} \sum_d (\mu_d^2 + \sigma_d^2 - 1 - \log \sigma_d^2)`. Of ``"gmvae"`` it is
    that from the Gaussian of the cluster, in expectation over the assignment that was drawn, and beside it
    :math:`\log K - H(q(y|x))`, which is 0 where clusters are not told and :math:`\log K` where they are.
    """

    def __init__(self, kind: LatentKind, n_hidden: int, n_latent: int, n_clusters: int) -> None:
        super().__init__()
        self.kind = kind
        if kind == "vae":
            self.log_variance = nn.Linear(n_hidden, n_latent)
        elif kind == "gmvae":
            self.variance = nn.Linear(n_latent, n_latent)
            self.prior_mean = nn.Linear(n_clusters, n_latent)
            self.prior_variance = nn.Linear(n_clusters, n_latent)

    def forward(
        self,
        mean: Tensor,
        inner: Tensor,
        logits: Tensor | None,
        assigned: Tensor | None,
        *,
        rng: torch.Generator | None = None,
    ) -> Posterior:
        """Draw from the posterior, given what :class:`Latent` gives; in evaluation, its mean."""
        if self.kind == "ae":
            return Posterior(mean, mean.new_zeros(len(mean)), None)
        mean32 = mean.float()
        if self.kind == "vae":
            bounded = self.log_variance(inner).float().clamp(-_LOG_VARIANCE, _LOG_VARIANCE)
            variance = bounded.exp() + _LEAST
            divergence = 0.5 * (mean32.square() + variance - 1 - variance.log()).sum(dim=1)
            return Posterior(self._draw(mean, variance, rng), divergence, None)
        assert logits is not None
        assert assigned is not None
        variance = functional.softplus(self.variance(inner).float()) + _LEAST
        prior_mean = self.prior_mean(assigned).float()
        prior_variance = functional.softplus(self.prior_variance(assigned).float()) + _LEAST
        apart = (variance + (mean32 - prior_mean).square()) / prior_variance
        divergence = 0.5 * (apart - 1 + prior_variance.log() - variance.log()).sum(dim=1)
        log_share = logits.float().log_softmax(dim=1)
        entropy = -(log_share.exp() * log_share).sum(dim=1)
        told = math.log(logits.shape[1]) - entropy
        return Posterior(self._draw(mean, variance, rng), divergence, told)

    def _draw(self, mean: Tensor, variance: Tensor, rng: torch.Generator | None) -> Tensor:
        if not self.training:
            return mean
        noise = torch.randn(mean.shape, generator=rng, device=mean.device)
        return mean + (variance.sqrt() * noise).to(mean.dtype)


Attention = Literal["flow", "softmax"]
ATTENTIONS: tuple[Attention, ...] = ("flow", "softmax")
#: Groups of features that are normalised together.
N_GROUPS = 4
_OUT_DROPOUT = 0.01
# Cells at a time where nothing is kept for a gradient: what is wider than a token is then never of all.
_CHUNK = 1024


class CellTransformerLayer(nn.Module):
    """Attention among cells and a network on each, both after a normalisation and beside a shortcut."""

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
        """One layer; `lengths`: cells of each sequence, one after the other; `None`: one sequence."""
        h = h + self.dropout(self.attention(self.norm1(h), lengths))
        if not torch.is_grad_enabled():
            for rows in h.split(_CHUNK):
                rows.add_(self.ff(self.norm2(rows)))
            return h
        out: Tensor = h + self.ff(self.norm2(h))
        return out


class CellTransformer(nn.Module):
    """From the first layer of cells to their embedding, by way of the other cells of their sequence.

    `n_hidden` is divisible by 4 and by `n_heads`; `positions` is whether cells are told their place.
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
        """What the latent space is made of; a cell without a place has NaN as its position."""
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

    Covariates are added to a layer of width `n_hidden`: categorical ones, `n_categories` by key, and
    continuous ones.
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

        `codes`: category of each cell in each covariate; -1 or, of all cells, `None` if unknown.
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
