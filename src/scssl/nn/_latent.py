"""From the last hidden layer to an embedding: a point, a Gaussian, or one of several Gaussians."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

LatentKind = Literal["vae", "gmvae", "ae"]
LATENTS: tuple[LatentKind, ...] = ("vae", "gmvae", "ae")
# Bounds of the logarithm of a variance, and what is added to one.
_LOG_VARIANCE, _LEAST = 5.0, 1e-4


class Latent(nn.Module):
    """The part of a latent space that embeddings are made with; deterministic in evaluation.

    ``"ae"``, ``"vae"``: one linear layer, of the Gaussian its mean. ``"gmvae"``: a cell is first assigned
    to clusters, in training softly and at random (Gumbel softmax, temperature 1), in evaluation to the
    most probable one; the mean is a small network of the cell and the assignment.

    Parameters
    ----------
    kind
        ``"vae"``, ``"gmvae"`` or ``"ae"``.
    n_hidden
        Width of the input.
    n_latent
        Width of the embedding.
    n_clusters
        Number of clusters, of ``"gmvae"`` only.
    """

    def __init__(self, kind: LatentKind, n_hidden: int, n_latent: int, n_clusters: int) -> None:
        super().__init__()
        self.kind = kind
        if kind == "gmvae":
            self.clusters = nn.Linear(n_hidden, n_clusters)
            self.mix = nn.Linear(n_hidden + n_clusters, n_latent)
        self.mean = nn.Linear(n_latent if kind == "gmvae" else n_hidden, n_latent)

    def forward(self, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        """Mean, what the variance is made of, and logits of and assignment to clusters.

        Parameters
        ----------
        hidden
            Shape ``(n_cells, n_hidden)``.
        """
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

    Parameters
    ----------
    kind, n_hidden, n_latent, n_clusters
        As of :class:`Latent`.
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
        """Draw from the posterior, in training; in evaluation the draw is the mean.

        Parameters
        ----------
        mean, inner, logits, assigned
            What :class:`Latent` gives.
        rng
            Randomness of the draw.
        """
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
