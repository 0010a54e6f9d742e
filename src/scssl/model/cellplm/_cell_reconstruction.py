"""Expression of cells from their embeddings, and how it is compared with what was measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from scssl.data.keys import PANEL
from scssl.module import SSLModule
from scssl.nn import CellDecoder, GeneDecoder, GeneSampler, SparseRows, take_rows
from scssl.objective import sparse_masked_mse, sparse_masked_nb

# Bounds of the inverse dispersion, as published.
_LOG_DISPERSION = (float(np.log(1e-4)), float(np.log(1e4)))
# Logarithm of a mean that is nothing beside any other.
_NOTHING = -1e4


class CellReconstruction(SSLModule):
    """A module with a decoder of cells whose panels of genes may differ."""

    n_genes: int
    reconstructs: str
    visible_weight: float
    decodes: bool
    decoder: CellDecoder
    gene_decoder: GeneDecoder
    zero_decoder: GeneDecoder
    log_dispersion: Tensor
    sampler: GeneSampler | None
    measured: Tensor | None
    n_categories: dict[str, int]
    n_continuous: int

    def reconstruction_loss(
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

        Parameters
        ----------
        x
            Expression, nothing hidden.
        tensors
            The batch.
        hidden
            What was hidden; `None` for nothing.
        target
            Which cells are learnt from; boolean.
        z
            Draws of their latent variables.
        rng
            Randomness of the genes that are decoded.
        full
            Whether all genes are.
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
        values = tensors["counts"] if self.reconstructs != "mse" else x.values
        values = values if where is None else values[where]
        if self.reconstructs == "mse":
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
        if self.visible_weight:
            all_of_them = self.visible_weight * every
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
        if self.reconstructs != "zinb":
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
        return codes, tensors.get("covariates:continuous") if self.n_continuous else None

    def generative(
        self,
        tensors: Mapping[str, Tensor],
        z: Tensor,
        genes: Tensor | None = None,
        cells: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Expected counts of embedded cells at their own depth, or values where the loss is of these.

        Parameters
        ----------
        tensors
            The batch, for covariates, measured genes and library sizes.
        z
            Embeddings.
        genes
            Genes to give, all by default; also such as were not measured.
        cells
            Cells to give, boolean; all by default. A tissue is embedded at once, but need not be decoded.
        """
        if not self.decodes:
            raise ValueError(
                "This model has no decoder: it embeds cells, but cannot tell their expression. Use "
                "get_latent_representation(), or a model with a decoder."
            )
        if cells is not None:
            z = z[cells]
            told = (PANEL, "library", "covariates:continuous", *self.n_categories)
            tensors = {name: tensors[name][cells] for name in told if name in tensors}
        decoded = self.decoder(z, *self._covariates(tensors))
        parts = []
        # All genes are needed to scale the output, but of a few cells at a time.
        for start in range(0, len(z), 512):
            part = slice(start, start + 512)
            output = self.gene_decoder(decoded[part]).float()
            logits = self._zero_logits(decoded[part])
            if self.reconstructs != "mse":
                few = {PANEL: tensors[PANEL][part]} if PANEL in tensors else {}
                panel = self._panel(few, None)
                library = tensors["library"][part]
                output = self._scaled(output, logits, library, panel, None)
                if logits is not None:
                    output = output + logsigmoid(-logits)
                output = output.exp().masked_fill(library <= 0, 0)
            parts.append(output if genes is None else output[:, genes])
        return {"x_hat": torch.cat(parts) if parts else decoded.new_zeros(0, self.n_genes)}
