"""Cells as tokens, tissues as sequences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import torch
from scvi.module.base import LossOutput
from torch import Tensor, nn
from torch.nn import functional

from scssl.augment import CellMask
from scssl.data.keys import LABELS, POSITION, SEQUENCE, TARGET
from scssl.data.matrix import GeneStatistics
from scssl.data.plans import ContextOptions
from scssl.module import asked_for, first_layer, undecayed_vectors
from scssl.nn import (
    Attention,
    CellDecoder,
    CellTransformer,
    GeneDecoder,
    GeneEncoder,
    GeneSampler,
    LatentKind,
    Posterior,
    SparseRows,
    Variational,
)
from scssl.objective import supcon

from ._cell_reconstruction import CellReconstruction

Objective = Literal["reconstruction", "kl", "cross_entropy", "supcon"]
OBJECTIVES: tuple[Objective, ...] = ("reconstruction", "kl", "cross_entropy", "supcon")
#: Objectives that labels are the target of.
SUPERVISED = ("cross_entropy", "supcon")
CELLPLM_LOSSES = ("nb", "zinb", "mse")
_OUTPUT_SCALE, _ZERO_LOGIT = 0.1, -2.0
_N_PROJECTED = 64


class CellPLMModule(CellReconstruction):
    r"""Gene embedder, cell transformer, latent space and decoder of :cite:p:`Wen2024`.

    The loss of a step is that of the masked entries that were measured, summed over genes and averaged
    over the masked cells, plus `visible_weight` times that of all measured entries of all cells, plus
    `latent_weight` times the divergences of the latent space. Where the loss is of counts, the decoder's
    output is scaled so that over the measured genes it sums to the counts of the cell.

    Parameters
    ----------
    n_genes
        Number of genes.
    n_hidden, n_layers, n_heads, attention, dropout, positions, latent, n_latent, n_clusters
        See :class:`scssl.nn._cell_transformer.CellTransformer`.
    decoder_width
        Width of the layer before the genes.
    loss
        ``"nb"``, ``"zinb"`` or ``"mse"``.
    objective
        ``"reconstruction"``; ``"kl"``: the latent term alone; ``"cross_entropy"`` or ``"supcon"`` of labels.
    mask
        Which cells and genes are hidden in training; `None` for none.
    visible_weight
        Weight of the reconstruction of all measured entries beside that of the hidden ones.
    latent_weight
        Weight of the divergences.
    warmup_steps
        Steps over which that weight rises from 0.
    free_bits
        Divergence of each term below which nothing is gained; `cluster_free_bits` of the clusters.
    temperature
        Of ``objective="supcon"``.
    context
        Which cells see each other.
    decoder
        Whether there is a decoder. Without one the module embeds and can be fine-tuned.
    n_categories, n_continuous
        Covariates that the decoder is told.
    n_classes
        Number of classes of labels.
    measured
        Which genes each panel has, shape ``(n_panels, n_genes)``, boolean; `None`: all have all.
    """

    wants_statistics = True
    measured: Tensor | None
    warm_layers = ("genes",)
    warmup: Tensor

    def __init__(
        self,
        n_genes: int,
        *,
        n_hidden: int,
        n_layers: int,
        n_heads: int,
        n_latent: int,
        attention: Attention,
        dropout: float,
        positions: bool,
        latent: LatentKind,
        n_clusters: int,
        decoder_width: int,
        loss: str,
        objective: Objective,
        mask: CellMask | None,
        visible_weight: float,
        latent_weight: float,
        warmup_steps: int,
        free_bits: float,
        cluster_free_bits: float,
        temperature: float,
        context: ContextOptions,
        decoder: bool = True,
        n_categories: Mapping[str, int] | None = None,
        n_continuous: int = 0,
        n_classes: int = 0,
        measured: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.n_genes, self.reconstructs, self.objective = n_genes, loss, objective
        self.context, self.mask, self.decodes = context, mask, decoder
        self.visible_weight, self.latent_weight = visible_weight, latent_weight
        self.warmup_steps, self.temperature = warmup_steps, temperature
        self.free_bits, self.cluster_free_bits = free_bits, cluster_free_bits
        self.n_categories, self.n_continuous = dict(n_categories or {}), n_continuous
        self.collapse_is_failure = objective in ("reconstruction", "kl")
        if latent != "ae":
            # Noise of the latent variable has a standard deviation of about 1: what is far below drowns in it.
            self.least_spread = 0.05
        self.gene_encoder = GeneEncoder(n_genes, n_hidden)
        self.encoder = CellTransformer(
            n_hidden,
            n_layers=n_layers,
            n_heads=n_heads,
            attention=attention,
            dropout=dropout,
            positions=positions,
            latent=latent,
            n_latent=n_latent,
            n_clusters=n_clusters,
        )
        self.sampler: GeneSampler | None = None
        self.register_buffer("measured", measured, persistent=False)
        if not decoder:
            return
        self.variational = Variational(latent, n_hidden, n_latent, n_clusters)
        self.decoder = CellDecoder(
            n_latent,
            n_hidden,
            decoder_width,
            dropout=dropout,
            n_categories=self.n_categories,
            n_continuous=n_continuous,
        )
        self.gene_decoder = GeneDecoder(decoder_width, n_genes)
        if loss in ("nb", "zinb"):
            self.log_dispersion = nn.Parameter(torch.zeros(n_genes))
        if loss == "zinb":
            self.zero_decoder = GeneDecoder(decoder_width, n_genes)
        self.register_buffer("warmup", torch.zeros((), dtype=torch.int64))
        if objective != "reconstruction":
            # Nothing of the decoder is in these losses: processes that train together wait for no gradient.
            for part in (self.decoder, self.gene_decoder):
                part.requires_grad_(False)
            for name in ("log_dispersion", "zero_decoder"):
                if hasattr(self, name):
                    getattr(self, name).requires_grad_(False)
        if objective == "cross_entropy":
            self.head = nn.Linear(n_latent, n_classes)
        elif objective == "supcon":
            self.projector = nn.Sequential(
                nn.Linear(n_latent, n_latent), nn.ReLU(), nn.Linear(n_latent, _N_PROJECTED)
            )

    def begin_training(
        self, statistics: GeneStatistics, *, fresh: bool, n_output_genes: int | None
    ) -> None:
        if not self.decodes:
            raise ValueError(
                "This model has no decoder, so it cannot be trained to predict hidden genes. Fine-tune "
                "it: scssl.model.CellTypeClassifier.from_ssl_model(model, adata, labels_key=...)"
            )
        if fresh and not self.is_warm:
            # Cells are alike before what they have in common is taken away, and the norm that follows would
            # keep them so.
            mean = torch.from_numpy(statistics.mean).to(self.gene_encoder.bias)
            with torch.no_grad():
                self.gene_encoder.bias.copy_(-(mean @ self.gene_encoder.weight))
        if fresh:
            device = self.gene_decoder.bias.device
            start = statistics.mean
            if self.reconstructs != "mse":
                # A gene that was never seen starts as if at one count in ten million.
                start = np.log(np.maximum(statistics.share, 1e-7))
            at = torch.from_numpy(start).float().to(device)
            cold = self._cold("genes")
            self.gene_decoder.start_at(at, _OUTPUT_SCALE, cold)
            if self.reconstructs == "zinb":
                at = torch.full_like(at, _ZERO_LOGIT)
                self.zero_decoder.start_at(at, _OUTPUT_SCALE, cold)
        self.sampler = None
        if n_output_genes is not None and n_output_genes < self.n_genes:
            self.sampler = GeneSampler(statistics.spread, n_output_genes)

    @property
    def output_width(self) -> int:
        reads = self.decodes and self.objective == "reconstruction"
        return self.gene_decoder.in_features if reads else 0

    def encoder_parts(self) -> list[nn.Module]:
        """Layers of the encoder, the one on the genes first."""
        return [self.gene_encoder, *self.encoder.parts()]

    def parameter_groups(self) -> list[dict[str, Any]]:
        return undecayed_vectors(self)

    def after_step(self, step: int, n_steps: int) -> None:
        if self.decodes:
            self.warmup += 1

    def _lengths(self, tensors: Mapping[str, Tensor]) -> list[int] | None:
        """Cells of each sequence; `None` where all are one."""
        if SEQUENCE not in tensors:
            return None
        found: list[int] = tensors[SEQUENCE].squeeze(1).bincount().tolist()
        return found

    def _hidden(self, x: SparseRows, tensors: Mapping[str, Tensor]) -> Tensor:
        # A whole tissue is embedded at once: of its genes nothing dense may be as long as that.
        first = (
            self.gene_encoder(x) if torch.is_grad_enabled() else first_layer(self.gene_encoder, x)
        )
        return self.encoder.hidden(first, tensors.get(POSITION), self._lengths(tensors))

    def encode(self, tensors: Mapping[str, Tensor]) -> Tensor:
        z: Tensor = self.encoder.latent(self._hidden(self._rows(tensors), tensors))[0]
        return z

    def embed(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """Embeddings of a batch of whole sequences, the means of the latent variables."""
        return self.encode(tensors).float()

    def loss(
        self,
        tensors: Mapping[str, Tensor],
        inference_outputs: Any = None,
        generative_outputs: Any = None,
        *,
        rng: torch.Generator | None = None,
        full: bool = True,
    ) -> LossOutput:
        x, rng = self._rows(tensors), self._generator(rng)
        target = torch.ones(x.n_cells, dtype=torch.bool, device=x.values.device)
        if TARGET in tensors:
            target = tensors[TARGET].squeeze(1).bool()
        visible, hidden = x, None
        # Of labels masking is an augmentation: validation is on cells as they will be embedded.
        if self.mask is not None and not (full and self.objective in SUPERVISED):
            hidden = self.mask.draw(x, rng, eligible=target)
            visible = x.keep(hidden.visible)
        mean, *rest = self.encoder.latent(self._hidden(visible, tensors))
        posterior = self.variational(mean, *rest, rng=rng)
        n = int(target.sum())
        latent = self._divergence(posterior, target) * self.latent_weight
        if not full and self.warmup_steps:
            latent = latent * min(1.0, float(self.warmup) / self.warmup_steps)
        extra: dict[str, Tensor] = {}
        if self.objective == "reconstruction":
            own = self.reconstruction_loss(
                x, tensors, hidden, target, posterior.sample, rng, full=full
            )
        elif self.objective == "kl":
            own = latent.new_zeros(())
        else:
            z, labels = asked_for(tensors, mean, tensors[LABELS].squeeze(1))
            if self.objective == "supcon":
                # Parts of a sample may share cells; a cell is no pair of itself.
                (cells,) = asked_for(tensors, tensors["indices"])
                once = _first_of_each(cells)
                z, labels = z[once], labels[once]
                own = supcon(self.projector(z), labels, temperature=self.temperature)
            else:
                logits = self.head(z).float()
                own = functional.cross_entropy(logits, labels)
                extra["hits"] = (logits.argmax(1) == labels).sum()
        if full:
            divergence = posterior.divergence[target].sum().detach()
            extra |= {"cells": divergence.new_tensor(n), "divergence": divergence}
            extra["own"] = own.detach() * n
        return LossOutput(loss=own + latent, n_obs_minibatch=n, extra_metrics=extra if full else {})

    def validation_scores(self, tally: Mapping[str, Tensor]) -> dict[str, float]:
        """The objective without the latent term, the divergence of a cell, accuracy where there is one."""
        n = tally["cells"]
        scores = {"objective": tally["own"] / n, "divergence": tally["divergence"] / n}
        if "hits" in tally:
            scores["accuracy"] = tally["hits"] / n
        return {name: float(value) for name, value in scores.items()}

    def _divergence(self, posterior: Posterior, target: Tensor) -> Tensor:
        total = posterior.divergence[target].mean().clamp(min=self.free_bits)
        if posterior.cluster_divergence is not None:
            told = posterior.cluster_divergence[target].mean()
            total = total + told.clamp(min=self.cluster_free_bits)
        return total


def _first_of_each(values: Tensor) -> Tensor:
    """Positions of the first of each value, in order."""
    found, group = values.unique(return_inverse=True)
    positions = torch.arange(len(values), device=values.device)
    first = positions.new_full((len(found),), len(values))
    return first.scatter_reduce(0, group, positions, "amin").sort().values
