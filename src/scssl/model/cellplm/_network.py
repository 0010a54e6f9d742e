"""The network of CellPLM: cells as tokens, tissues as sequences, and a decoder of what was measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from scvi.module.base import LossOutput
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.functional import logsigmoid

from scssl.augment import CellMask
from scssl.data.keys import CONTINUOUS, LABELS, PANEL, POSITION, SEQUENCE, TARGET
from scssl.data.matrix import GeneStatistics
from scssl.module import SSLModule, asked_for, first_layer, undecayed_vectors
from scssl.nn import (
    CellDecoder,
    CellTransformer,
    GeneDecoder,
    GeneEncoder,
    GeneSampler,
    Posterior,
    SparseRows,
    Variational,
    take_rows,
)
from scssl.objective import sparse_masked_mse, sparse_masked_nb, supcon

from ._options import CellPLMOptions

_OUTPUT_SCALE, _ZERO_LOGIT = 0.1, -2.0
_N_PROJECTED = 64
# Least divergence of the clusters, as a share of the greatest: as great as that, it could not fall.
_CLUSTER_FREE = 0.25
# Bounds of the inverse dispersion, as published.
_LOG_DISPERSION = (float(np.log(1e-4)), float(np.log(1e4)))
# Logarithm of a mean that is nothing beside any other.
_NOTHING = -1e4


class CellPLMModule(SSLModule):
    """Gene embedder, cell transformer, latent space and decoder of :cite:p:`Wen2024`.

    The loss of a step is that of the masked entries that were measured, summed over genes and averaged
    over the masked cells, plus `visible_weight` times that of all measured entries of all cells, plus
    `kl_weight` times the divergences of the latent space. Where the loss is of counts, the decoder's
    output is scaled so that over the measured genes it sums to the counts of the cell.

    The decoder is told the covariates (`n_categories`, `n_continuous`). Which genes each panel has is in
    `measured`, ``(n_panels, n_genes)``, boolean; `None`: all have all.
    """

    wants_statistics = True
    measured: Tensor | None
    warm_layers = ("genes",)
    warmup: Tensor

    def __init__(
        self,
        n_genes: int,
        options: CellPLMOptions,
        *,
        n_categories: Mapping[str, int] | None = None,
        n_continuous: int = 0,
        n_classes: int = 0,
        measured: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.n_genes, self.options = n_genes, options
        self.mask: CellMask | None = options.cell_mask()
        self.context = options.contexts()
        self.cluster_free_bits = _CLUSTER_FREE * float(np.log(options.n_clusters))
        self.n_categories, self.n_continuous = dict(n_categories or {}), n_continuous
        self.collapse_is_failure = not options.supervised
        if options.latent != "ae":
            # Noise of the latent variable has a standard deviation of about 1: what is far below drowns in it.
            self.least_spread = 0.05
        n_hidden, n_latent = options.n_hidden, options.n_latent
        self.gene_encoder = GeneEncoder(n_genes, n_hidden)
        self.encoder = CellTransformer(
            n_hidden,
            n_layers=options.n_layers,
            n_heads=options.n_heads,
            attention=options.attention,
            dropout=options.dropout,
            positions=options.position == "sinusoidal",
            latent=options.latent,
            n_latent=n_latent,
            n_clusters=options.n_clusters,
        )
        self.sampler: GeneSampler | None = None
        self.register_buffer("measured", measured, persistent=False)
        if not options.decoder:
            return
        self.variational = Variational(options.latent, n_hidden, n_latent, options.n_clusters)
        self.decoder = CellDecoder(
            n_latent,
            options.decoder_hidden or n_hidden,
            options.decoder_width,
            dropout=options.dropout,
            n_categories=self.n_categories,
            n_continuous=n_continuous,
        )
        self.gene_decoder = GeneDecoder(options.decoder_width, n_genes)
        if options.loss in ("nb", "zinb"):
            self.log_dispersion = nn.Parameter(torch.zeros(n_genes))
        if options.loss == "zinb":
            self.zero_decoder = GeneDecoder(options.decoder_width, n_genes)
        self.register_buffer("warmup", torch.zeros((), dtype=torch.int64))
        if options.objective != "reconstruction":
            # Nothing of the decoder is in these losses: processes that train together wait for no gradient.
            for name in ("decoder", "gene_decoder", "log_dispersion", "zero_decoder"):
                if hasattr(self, name):
                    getattr(self, name).requires_grad_(False)
        if options.objective == "cross_entropy":
            self.head = nn.Linear(n_latent, n_classes)
        elif options.objective == "supcon":
            self.projector = nn.Sequential(
                nn.Linear(n_latent, n_latent), nn.ReLU(), nn.Linear(n_latent, _N_PROJECTED)
            )

    def begin_training(
        self, statistics: GeneStatistics, *, fresh: bool, n_output_genes: int | None
    ) -> None:
        if not self.options.decoder:
            raise ValueError(
                "This model has no decoder, so it cannot be trained to predict hidden genes. Fine-tune "
                "it, with scssl.model.CellTypeClassifier.from_ssl_model."
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
            if self.options.loss != "mse":
                # A gene that was never seen starts as if at one count in ten million.
                start = np.log(np.maximum(statistics.share, 1e-7))
            at = torch.from_numpy(start).float().to(device)
            cold = self._cold("genes")
            self.gene_decoder.start_at(at, _OUTPUT_SCALE, cold)
            if self.options.loss == "zinb":
                at = torch.full_like(at, _ZERO_LOGIT)
                self.zero_decoder.start_at(at, _OUTPUT_SCALE, cold)
        self.sampler = None
        if n_output_genes is not None and n_output_genes < self.n_genes:
            self.sampler = GeneSampler(statistics.spread, n_output_genes)

    @property
    def output_width(self) -> int:
        reads = self.options.decoder and self.options.objective == "reconstruction"
        return self.gene_decoder.in_features if reads else 0

    def embeds_by(self) -> str:
        seen = self.context
        assert seen is not None
        return "" if seen.mode == "sample" else f"{seen.mode} {seen.size} {seen.halo};"

    def encoder_parts(self) -> list[nn.Module]:
        """Layers of the encoder, the one on the genes first."""
        return [self.gene_encoder, *self.encoder.parts()]

    def parameter_groups(self) -> list[dict[str, Any]]:
        return undecayed_vectors(self)

    def after_step(self, step: int, n_steps: int) -> None:
        if self.options.decoder:
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
        *,
        rng: torch.Generator | None = None,
        full: bool = True,
    ) -> LossOutput:
        x, rng, options = self._rows(tensors), self._generator(rng), self.options
        target = torch.ones(x.n_cells, dtype=torch.bool, device=x.values.device)
        if TARGET in tensors:
            target = tensors[TARGET].squeeze(1).bool()
        visible, hidden = x, None
        # Of labels masking is an augmentation: validation is on cells as they will be embedded.
        if self.mask is not None and not (full and options.supervised):
            hidden = self.mask.draw(x, rng, eligible=target)
            visible = x.keep(hidden.visible)
        mean, *rest = self.encoder.latent(self._hidden(visible, tensors))
        posterior = self.variational(mean, *rest, rng=rng)
        n = int(target.sum())
        latent = self._divergence(posterior, target) * options.kl_weight
        if not full and options.warmup_steps:
            latent = latent * min(1.0, float(self.warmup) / options.warmup_steps)
        extra: dict[str, Tensor] = {}
        if options.objective == "reconstruction":
            z = posterior.sample
            own = self._reconstruction_loss(x, tensors, hidden, target, z, rng, full=full)
        elif options.objective == "kl":
            own = latent.new_zeros(())
        else:
            z, labels = asked_for(tensors, mean, tensors[LABELS].squeeze(1))
            if options.objective == "supcon":
                # Parts of a sample may share cells; a cell is no pair of itself.
                (cells,) = asked_for(tensors, tensors["indices"])
                once = _first_of_each(cells)
                z, labels = z[once], labels[once]
                own = supcon(self.projector(z), labels, temperature=options.temperature)
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
        total = posterior.divergence[target].mean().clamp(min=self.options.free_bits)
        if posterior.cluster_divergence is not None:
            told = posterior.cluster_divergence[target].mean()
            total = total + told.clamp(min=self.cluster_free_bits)
        return total

    def _reconstruction_loss(
        self,
        x: SparseRows,
        tensors: Mapping[str, Tensor],
        hidden: Any,
        target: Tensor,
        z: Tensor,
        rng: torch.Generator,
        *,
        full: bool,
    ) -> Tensor:
        """Loss of the entries that were hidden and measured, and of all that were measured.

        `target` are the cells that are learnt from, `z` draws of their latent variables, and `full` says
        that all genes are decoded, not some that `rng` draws.
        """
        decoded = self.decoder(z, *self._covariates(tensors))
        genes, count, where = None, None, None
        columns, rows = x.columns.long(), x.rows
        n_genes = self.n_genes
        if self.sampler is not None and not full:
            genes, count = self.sampler.draw(rng)
            n_genes = len(genes)
            column = torch.full((self.n_genes,), -1, device=genes.device)
            column[genes] = torch.arange(n_genes, device=genes.device)
            columns = column[columns]
            where = (columns >= 0).nonzero().squeeze(1)
            columns, rows = columns[where], rows[where]
        output = self.gene_decoder(decoded, genes).float()
        weight, zero_weight = self._weights(x, hidden, target)
        weight = weight if where is None else weight[where]
        panel = self._panel(tensors, genes)
        if count is not None:
            weight = weight * count[columns]
            zero_weight = zero_weight * count
        if panel is not None:
            zero_weight = zero_weight * panel
        one = output.new_ones(())
        stored = rows * n_genes + columns
        values = tensors["counts"] if self.options.loss != "mse" else x.values
        values = values if where is None else values[where]
        if self.options.loss == "mse":
            return sparse_masked_mse(output, stored, values, weight, zero_weight, one)
        logits = self._zero_logits(decoded, genes)
        log_mean = self._scaled(output, logits, tensors["library"], panel, count)
        dispersion = self.log_dispersion.clamp(*_LOG_DISPERSION)
        if genes is not None:
            dispersion = take_rows(self.log_dispersion, genes).clamp(*_LOG_DISPERSION)
        return sparse_masked_nb(
            log_mean, dispersion, stored, values, weight, zero_weight, one, logits=logits
        )

    def _weights(self, x: SparseRows, hidden: Any, target: Tensor) -> tuple[Tensor, Tensor]:
        """Weight in the loss of each stored value, and of the zeros of each cell, ``(n_cells, 1)``."""
        every = target.float() / target.sum().clamp(min=1)
        if hidden is None:
            return every.index_select(0, x.rows), every[:, None]
        n_masked = (hidden.zero_weight > 0).sum().clamp(min=1)
        weight = hidden.loss_weight / n_masked
        zero_weight = hidden.zero_weight / n_masked
        if self.options.visible_weight:
            all_of_them = self.options.visible_weight * every
            weight = weight + all_of_them.index_select(0, x.rows)
            zero_weight = zero_weight + all_of_them[:, None]
        return weight, zero_weight

    def _panel(self, tensors: Mapping[str, Tensor], genes: Tensor | None) -> Tensor | None:
        """Whether each gene was measured in each cell, ``(n_cells, n_genes)`` or one row for all."""
        if self.measured is None or PANEL not in tensors:
            return None
        panels = self.measured if genes is None else self.measured[:, genes]
        codes = tensors[PANEL].squeeze(1)
        if bool((codes == codes[0]).all()):
            codes = codes[:1]
        return panels[codes].float()

    def _zero_logits(self, decoded: Tensor, genes: Tensor | None = None) -> Tensor | None:
        """Logit of the probability of an additional zero, where the loss has such."""
        if self.options.loss != "zinb":
            return None
        return self.zero_decoder(decoded, genes).float()

    def _scaled(
        self,
        output: Tensor,
        logits: Tensor | None,
        library: Tensor,
        panel: Tensor | None,
        count: Tensor | None,
    ) -> Tensor:
        """Logarithm of the means; expected counts sum to those of the cell over what was measured.

        With additional zeros the expected count is less than the mean of the negative binomial: were
        it this that is scaled, genes without such zeros could not be expected as high as they are.
        """
        terms = output if logits is None else output + logsigmoid(-logits)
        if count is not None:
            terms = terms + count.log()
        if panel is not None:
            # Not minus infinity: of the genes drawn for a step a small panel may have none.
            terms = terms.masked_fill(panel == 0, _NOTHING)
        total = terms.logsumexp(dim=1, keepdim=True)
        # Cells without a count have no mean; whatever stands here, nothing of them is expected.
        return output - total + library.clamp(min=1).log()

    def _covariates(
        self, tensors: Mapping[str, Tensor]
    ) -> tuple[list[Tensor | None], Tensor | None]:
        codes = [tensors[key].squeeze(1) if key in tensors else None for key in self.n_categories]
        return codes, tensors.get(CONTINUOUS) if self.n_continuous else None

    def generative(
        self,
        tensors: Mapping[str, Tensor],
        z: Tensor,
        genes: Tensor | None = None,
        cells: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Expected counts of embedded cells at their own depth, or values where the loss is of these.

        Of these `genes`, also such as were not measured, and of these `cells` (boolean); of all by default. A tissue
        is embedded at once, but need not be decoded.
        """
        if not self.options.decoder:
            raise ValueError(
                "This model has no decoder: it embeds cells, but cannot tell their expression. Use "
                "get_latent_representation(), or a model with a decoder."
            )
        if cells is not None:
            z = z[cells]
            told = (PANEL, "library", CONTINUOUS, *self.n_categories)
            tensors = {name: tensors[name][cells] for name in told if name in tensors}
        decoded = self.decoder(z, *self._covariates(tensors))
        parts = []
        # All genes are needed to scale the output, but of a few cells at a time.
        for start in range(0, len(z), 512):
            part = slice(start, start + 512)
            output = self.gene_decoder(decoded[part]).float()
            logits = self._zero_logits(decoded[part])
            if self.options.loss != "mse":
                few = {PANEL: tensors[PANEL][part]} if PANEL in tensors else {}
                panel = self._panel(few, None)
                library = tensors["library"][part]
                output = self._scaled(output, logits, library, panel, None)
                if logits is not None:
                    output = output + logsigmoid(-logits)
                output = output.exp().masked_fill(library <= 0, 0)
            parts.append(output if genes is None else output[:, genes])
        return {"x_hat": torch.cat(parts) if parts else decoded.new_zeros(0, self.n_genes)}


def _first_of_each(values: Tensor) -> Tensor:
    """Positions of the first of each value, in order."""
    found, group = values.unique(return_inverse=True)
    positions = torch.arange(len(values), device=values.device)
    first = positions.new_full((len(found),), len(values))
    return first.scatter_reduce(0, group, positions, "amin").sort().values
