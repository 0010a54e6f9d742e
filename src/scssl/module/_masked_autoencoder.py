"""Masked autoencoder of expression profiles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from scvi.module.base import LossOutput
from torch import Tensor, nn

from scssl.augment import Hidden, Masking
from scssl.nn import MLP, Dropout, GeneDecoder, GeneEncoder, GeneSampler, SparseRows
from scssl.nn import activation as make_activation
from scssl.objective import sparse_masked_mse

from ._base import BLOCK, SSLModule, blockwise

MaskSignal = Literal["rescale", "indicator"]

# Factor on the initial weights of the output layer. It starts near the mean of each gene, but not
# at zero, so that the first step already tells the layers below something.
_OUTPUT_SCALE = 0.1


class MaskedAutoencoderModule(SSLModule):
    """Encoder, decoder and masked reconstruction loss :cite:p:`Richter2025`.

    Parameters
    ----------
    n_genes
        Number of genes.
    hidden_dims
        Widths of the encoder's hidden layers, those of the decoder in reverse.
    n_latent
        Width of the embedding.
    dropout
        Share of hidden units dropped in training.
    activation
        Name of the activation.
    masking
        Draws what is hidden.
    mask_signal
        `None`: a hidden entry looks like a zero. ``"rescale"``: visible values are divided by the
        visible share. ``"indicator"``: the encoder also sees which entries are hidden.
    n_categories
        Number of categories of each categorical covariate of the decoder, by its key in a batch.
    n_continuous
        Number of continuous covariates of the decoder.
    """

    def __init__(
        self,
        n_genes: int,
        *,
        hidden_dims: Sequence[int],
        n_latent: int,
        dropout: float,
        activation: str,
        masking: Masking,
        mask_signal: MaskSignal | None = None,
        n_categories: Mapping[str, int] | None = None,
        n_continuous: int = 0,
    ) -> None:
        super().__init__()
        self.n_genes, self.masking, self.mask_signal = n_genes, masking, mask_signal
        self.n_categories = dict(n_categories or {})
        self.n_continuous = n_continuous
        first, *rest = hidden_dims
        mlp: dict[str, Any] = {"activation": activation, "dropout": dropout}
        self.gene_encoder = GeneEncoder(n_genes, first)
        self.encoder = nn.Sequential(
            make_activation(activation), Dropout(dropout), MLP([first, *rest, n_latent], **mlp)
        )
        n_covariates = sum(self.n_categories.values()) + n_continuous
        self.decoder = MLP(
            [n_latent + n_covariates, *reversed(hidden_dims)], **mlp, last_activation=True
        )
        self.gene_decoder = GeneDecoder(first, n_genes)
        if mask_signal == "indicator":
            self.indicator = nn.Parameter(torch.zeros(n_genes, first))
        self.sampler: GeneSampler | None = None
        # Output column of each gene of a step, -1 for the genes that are not decoded.
        self.register_buffer("_position", torch.full((n_genes,), -1), persistent=False)

    def begin_training(
        self, mean: np.ndarray, spread: np.ndarray, *, fresh: bool, n_output_genes: int | None
    ) -> None:
        if fresh:
            device = self.gene_decoder.bias.device
            self.gene_decoder.start_at(
                torch.from_numpy(mean).float().to(device), scale=_OUTPUT_SCALE
            )
        self.sampler = None
        if n_output_genes is not None and n_output_genes < self.n_genes:
            self.sampler = GeneSampler(spread, n_output_genes)

    @property
    def output_width(self) -> int:
        return self.gene_decoder.in_features

    def compilable(self) -> tuple[nn.Module, ...]:
        return self.encoder, self.decoder

    def embed(self, tensors: Mapping[str, Tensor]) -> Tensor:
        x = self._rows(tensors)
        if x.values.device.type == "cpu":
            return blockwise(self.encoder, self.gene_encoder(x)).float()
        # Elsewhere the first layer is a dense product too, so its height has to be fixed as well.
        starts = range(0, max(x.n_cells, 1), BLOCK)
        dense = (x.slice(start, start + BLOCK).to_dense() for start in starts)
        parts = [
            blockwise(lambda block: self.encoder(self.gene_encoder.dense(block)), block)
            for block in dense
        ]
        return torch.cat(parts).float()

    def generative(
        self, tensors: Mapping[str, Tensor], z: Tensor, genes: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Reconstructed expression of embedded cells, ``(n_cells, n_genes)``.

        Parameters
        ----------
        tensors
            The batch, for the covariates.
        z
            Embeddings.
        genes
            Genes to decode, all by default.
        """

        def decode(z_and_covariates: Tensor) -> Tensor:
            hidden = self.decoder(z_and_covariates)
            if genes is None:
                return self.gene_decoder(hidden)
            layer = self.gene_decoder
            return nn.functional.linear(hidden, layer.weight[genes], layer.bias[genes])

        return {"x_hat": blockwise(decode, self._with_covariates(z, tensors)).float()}

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
        hidden = self.masking.draw(x, rng, indicator=self.mask_signal == "indicator")
        z = self._encode_visible(x, hidden)
        decoded = self.decoder(self._with_covariates(z, tensors))
        sampled = self.sampler is not None and not full
        if sampled:
            loss = self._sampled_loss(decoded, x, hidden, rng)
        else:
            loss = sparse_masked_mse(
                self.gene_decoder(decoded),
                x.rows * x.n_genes + x.columns,
                x.values,
                hidden.loss_weight,
                hidden.zero_weight,
                hidden.normalizer(x),
            )
        return LossOutput(loss=loss, n_obs_minibatch=x.n_cells)

    def _encode_visible(self, x: SparseRows, hidden: Hidden) -> Tensor:
        values = x.values
        if self.mask_signal == "rescale":
            values = values / (1 - hidden.hidden_share)
        first = self.gene_encoder(x.keep(hidden.visible, values))
        if self.mask_signal == "indicator":
            assert hidden.indicator is not None
            first = first + hidden.indicator.to(first.dtype) @ self.indicator
        z: Tensor = self.encoder(first)
        return z

    def _sampled_loss(
        self, decoded: Tensor, x: SparseRows, hidden: Hidden, rng: torch.Generator
    ) -> Tensor:
        assert self.sampler is not None
        genes, count = self.sampler.draw(rng)
        position = self._position
        position[genes] = torch.arange(len(genes), device=genes.device)
        column = position.index_select(0, x.columns)
        position[genes] = -1
        where = (column >= 0).nonzero().squeeze(1)
        column = column.index_select(0, where)
        zero_weight = hidden.zero_weight
        if zero_weight.ndim:
            zero_weight = zero_weight.index_select(-1, genes)
        return sparse_masked_mse(
            self.gene_decoder(decoded, genes),
            x.rows.index_select(0, where) * len(genes) + column,
            x.values.index_select(0, where),
            hidden.loss_weight.index_select(0, where) * count.index_select(0, column),
            zero_weight * count,
            # The weight of all genes, drawn or not: it makes the estimate unbiased.
            hidden.normalizer(x),
        )

    def _with_covariates(self, z: Tensor, tensors: Mapping[str, Tensor]) -> Tensor:
        parts = [z]
        for key, n in self.n_categories.items():
            parts.append(nn.functional.one_hot(tensors[key].squeeze(-1).long(), n).to(z.dtype))
        if self.n_continuous:
            parts.append(tensors["covariates:continuous"].to(z.dtype))
        return z if len(parts) == 1 else torch.cat(parts, dim=1)


def default_hidden_dims(n_genes: int, n_cells: int) -> tuple[int, ...]:
    """Encoder widths by the size of the data.

    The published widths :cite:p:`Richter2025` are for millions of cells. On a few thousand, a
    network of half the depth and width gives embeddings that separate cell types better, in less
    time; on small gene panels there is nothing for the wide one to do.
    """
    return (256, 128) if n_genes <= 5000 or n_cells < 20_000 else (512, 512, 256, 256)
