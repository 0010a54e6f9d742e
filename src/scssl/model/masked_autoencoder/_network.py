"""Masked autoencoder of expression profiles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from scvi.module.base import LossOutput
from torch import Tensor, nn

from scssl.augment import Hidden, Masking
from scssl.data.matrix import GeneStatistics
from scssl.module import SSLModule, blockwise, first_layer
from scssl.nn import (
    MLP,
    Dropout,
    GeneDecoder,
    GeneEncoder,
    GeneSampler,
    LinearPath,
    SparseRows,
    mean_of_all,
    of_first,
    take_rows,
)
from scssl.nn import activation as make_activation
from scssl.objective import sparse_masked_bce, sparse_masked_mse, sparse_masked_nb

MaskSignal = Literal["rescale", "indicator"]
Loss = Literal["mse", "nb", "zinb", "bce"]

# Factor on the initial weights of the output layer. It starts near the mean of each gene, but not
# at zero, so that the first step already tells the layers below something.
_OUTPUT_SCALE = 0.1
# Logit of additional zeros to start from: few, since the counts explain most of them.
_ZERO_LOGIT = -2.0


@dataclass(frozen=True)
class _Target:
    """What a prediction is compared with: stored values, and what counts how much."""

    stored: Tensor
    values: Tensor
    weight: Tensor
    zero_weight: Tensor
    normalizer: Tensor


class MaskedAutoencoderModule(SSLModule):
    """Encoder, decoder and masked reconstruction loss :cite:p:`Richter2025`.

    Arguments are those of :class:`scssl.model.MaskedAutoencoder`; `masking` draws what is hidden, and without it
    the module embeds and can be fine-tuned. `n_categories` has the number of categories of each categorical
    covariate, by its key in a batch.
    """

    wants_statistics = True
    warm_layers = ("gene_encoder", "gene_decoder", "zero_decoder")

    def __init__(
        self,
        n_genes: int,
        *,
        hidden_dims: Sequence[int],
        n_latent: int,
        dropout: float,
        activation: str,
        masking: Masking | None,
        mask_signal: MaskSignal | None,
        loss: Loss,
        latent_activation: bool,
        output_activation: Literal["sigmoid"] | None,
        decoder: bool,
        encode_covariates: bool,
        n_categories: Mapping[str, int],
        n_continuous: int,
        n_components: int = 0,
        target_sum: float = 1e4,
    ) -> None:
        super().__init__()
        self.n_genes, self.masking, self.mask_signal = n_genes, masking, mask_signal
        self.objective, self.output_activation, self.decodes = loss, output_activation, decoder
        self.n_categories = dict(n_categories)
        self.n_continuous, self.target_sum = n_continuous, target_sum
        first, *rest = hidden_dims
        mlp: dict[str, Any] = {"activation": activation, "dropout": dropout}
        self.gene_encoder = GeneEncoder(n_genes, first)
        self.encoder = nn.Sequential(
            make_activation(activation),
            Dropout(dropout),
            MLP([first, *rest, n_latent], **mlp, last_activation=latent_activation),
        )
        n_covariates = sum(self.n_categories.values()) + n_continuous
        if decoder:
            self.decoder = MLP(
                [n_latent + n_covariates, *reversed(hidden_dims)], **mlp, last_activation=True
            )
            self.gene_decoder = GeneDecoder(first, n_genes)
        if mask_signal == "indicator":
            self.indicator = nn.Parameter(torch.zeros(n_genes, first))
        self.covariate_encoder: nn.Linear | None = None
        if encode_covariates and n_covariates:
            self.covariate_encoder = nn.Linear(n_covariates, first, bias=False)
        if decoder and loss in ("nb", "zinb"):
            self.log_dispersion = nn.Parameter(torch.zeros(n_genes))
        if decoder and loss == "zinb":
            self.zero_decoder = GeneDecoder(first, n_genes)
        self.linear_path: LinearPath | None = None
        if n_components:
            self.linear_path = LinearPath(n_genes, n_components)
        self.sampler: GeneSampler | None = None
        # Output column of each gene of a step, -1 for the genes that are not decoded.
        self.register_buffer("_position", torch.full((n_genes,), -1), persistent=False)

    def begin_training(
        self, statistics: GeneStatistics, *, fresh: bool, n_output_genes: int | None
    ) -> None:
        if not self.decodes:
            raise ValueError(
                "This model has no decoder, so it cannot be trained to predict hidden genes. Fine-tune "
                "it, with scssl.model.CellTypeClassifier.from_ssl_model."
            )
        if self.masking is None:
            raise ValueError(
                "This model has no mask, as one that is not of scssl is not saved. To train further: "
                '`model = scssl.model.MaskedAutoencoder.from_ssl_model(model, adata, masking="random")`.'
            )
        if fresh:
            device = self.gene_decoder.bias.device
            start = torch.from_numpy(self._start(statistics)).float().to(device)
            starts = {"gene_decoder": start}
            if self.objective == "zinb":
                starts["zero_decoder"] = torch.full_like(start, _ZERO_LOGIT)
            for name, at in starts.items():
                getattr(self, name).start_at(at, _OUTPUT_SCALE, self._cold(name))
        self.sampler = None
        if n_output_genes is not None and n_output_genes < self.n_genes:
            eligible = self.masking.target_genes()
            self.sampler = GeneSampler(
                statistics.spread,
                n_output_genes,
                eligible=None if eligible is None else eligible.cpu().numpy(),
            )

    def _start(self, statistics: GeneStatistics) -> np.ndarray:
        """Output that predicts the average cell."""
        if self.objective in ("nb", "zinb"):
            # A gene that was never seen starts as if at one count in ten million.
            start: np.ndarray = np.log(np.maximum(statistics.share, 1e-7))
            return start
        if self.objective == "bce" or self.output_activation == "sigmoid":
            share = statistics.detected if self.objective == "bce" else statistics.mean
            share = np.clip(share, 1e-4, 1 - 1e-4)
            return np.log(share) - np.log1p(-share)
        return statistics.mean

    @property
    def output_width(self) -> int:
        return self.gene_decoder.in_features if self.decodes else 0

    def decoded_in_part(self) -> list[str]:
        if self.sampler is None:
            return []
        layers = ("gene_decoder.", "zero_decoder.", "log_dispersion")
        return [name for name, _ in self.named_parameters() if name.startswith(layers)]

    @property
    def encodes_covariates(self) -> bool:
        return self.covariate_encoder is not None

    def compilable(self) -> tuple[nn.Module, ...]:
        return (self.encoder, self.decoder) if self.decodes else (self.encoder,)

    def encoder_parts(self) -> list[nn.Module]:
        """Linear layers of the encoder, the one on the genes first."""
        return [self.gene_encoder, *(m for m in self.encoder.modules() if isinstance(m, nn.Linear))]

    def encode(self, tensors: Mapping[str, Tensor]) -> Tensor:
        first = self._told(self.gene_encoder(self._rows(tensors)), tensors)
        z: Tensor = self.encoder(first)
        return self._with_components(z, tensors)

    def embed(self, tensors: Mapping[str, Tensor]) -> Tensor:
        return self._with_components(self.learnt(tensors), tensors)

    def learnt(self, tensors: Mapping[str, Tensor]) -> Tensor:
        first = first_layer(self.gene_encoder, self._rows(tensors))
        return blockwise(self.encoder, self._told(first, tensors)).float()

    def _with_components(self, z: Tensor, tensors: Mapping[str, Tensor]) -> Tensor:
        """The embedding: what the network makes of cells and, where they are asked for, components."""
        if self.linear_path is None:
            return z
        return self.linear_path.beside(z, first_layer(self.linear_path, self._rows(tensors)))

    def _told(self, first: Tensor, tensors: Mapping[str, Tensor]) -> Tensor:
        """The first layer after the encoder has been told the covariates, where it is."""
        if self.covariate_encoder is None:
            return first
        covariates = torch.cat(self._covariates(tensors, first.dtype), dim=1)
        return first + blockwise(self.covariate_encoder, covariates)

    def generative(
        self, tensors: Mapping[str, Tensor], z: Tensor, genes: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Reconstructed expression of embedded cells, ``(n_cells, n_genes)``; of these genes, or of all.

        With the losses on counts it is the log1p of expected counts per `target_sum`, with ``"bce"`` the probability that a
        gene is detected. The batch tells the covariates.
        """
        if not self.decodes:
            raise ValueError(
                "This model has no decoder: it embeds cells, but cannot reconstruct expression. Use "
                "get_latent_representation(), or a model with a decoder."
            )
        if self.linear_path is not None:
            z = self.linear_path.network_part(z)

        def decode(z_and_covariates: Tensor) -> Tensor:
            hidden = self.decoder(z_and_covariates)
            if genes is None:
                return self._expression(self.gene_decoder(hidden))
            layer = self.gene_decoder
            return self._expression(
                nn.functional.linear(hidden, layer.weight[genes], layer.bias[genes])
            )

        return {"x_hat": blockwise(decode, self._with_covariates(z, tensors)).float()}

    def _expression(self, output: Tensor) -> Tensor:
        if self.objective in ("nb", "zinb"):
            return (output.exp() * self.target_sum).log1p()
        if self.objective == "bce" or self.output_activation == "sigmoid":
            return output.sigmoid()
        return output

    def loss(
        self,
        tensors: Mapping[str, Tensor],
        *,
        rng: torch.Generator | None = None,
        full: bool = True,
    ) -> LossOutput:
        x, rng = self._rows(tensors), self._generator(rng)
        assert self.masking is not None
        hidden = self.masking.draw(x, rng, indicator=self.mask_signal == "indicator")
        z = self._encode_visible(x, hidden, tensors)
        decoded = self.decoder(self._with_covariates(z, tensors))
        values = tensors["counts"] if self.objective in ("nb", "zinb") else x.values
        genes = None
        if self.sampler is None or full:
            target = _Target(
                x.rows * x.n_genes + x.columns,
                values,
                hidden.loss_weight,
                hidden.zero_weight,
                mean_of_all(hidden.normalizer(x)),
            )
        else:
            genes, target = self._sampled(x, values, hidden, rng)
        loss = self._compare(decoded, genes, target, tensors)
        return LossOutput(loss=loss, n_obs_minibatch=x.n_cells)

    def _encode_visible(
        self, x: SparseRows, hidden: Hidden, tensors: Mapping[str, Tensor]
    ) -> Tensor:
        values = x.values if hidden.panel is None else _over_panels(x, hidden.visible, hidden.panel)
        if self.mask_signal == "rescale":
            share = hidden.hidden_share
            if isinstance(share, Tensor):
                # A cell of which all is hidden has nothing to scale.
                scale = (1 - share.squeeze(1)).clamp(min=1 / x.n_genes)
                values = values / scale.index_select(0, x.rows)
            elif share:
                values = values / (1 - share)
        first = self.gene_encoder(x.hide(hidden.visible, values))
        if self.mask_signal == "indicator":
            assert hidden.indicator is not None
            first = first + hidden.indicator.to(first.dtype) @ self.indicator
        z: Tensor = self.encoder(self._told(first, tensors))
        return z

    def _sampled(
        self, x: SparseRows, values: Tensor, hidden: Hidden, rng: torch.Generator
    ) -> tuple[Tensor, _Target]:
        """Genes to decode, and an unbiased estimate of the target on all genes."""
        assert self.sampler is not None
        genes, count = map(of_first, self.sampler.draw(rng))
        position = self._position
        position[genes] = torch.arange(len(genes), device=genes.device)
        column = position.index_select(0, x.columns)
        position[genes] = -1
        where = (column >= 0).nonzero().squeeze(1)
        column = column.index_select(0, where)
        zero_weight = hidden.zero_weight
        if zero_weight.ndim:
            zero_weight = zero_weight.index_select(-1, genes)
        return genes, _Target(
            x.rows.index_select(0, where) * len(genes) + column,
            values.index_select(0, where),
            hidden.loss_weight.index_select(0, where) * count.index_select(0, column),
            zero_weight * count,
            # The weight of all genes, drawn or not: it makes the estimate unbiased.
            mean_of_all(hidden.normalizer(x)),
        )

    def _compare(
        self,
        decoded: Tensor,
        genes: Tensor | None,
        target: _Target,
        tensors: Mapping[str, Tensor],
    ) -> Tensor:
        output = self.gene_decoder(decoded, genes)
        rest = (target.stored, target.values, target.weight, target.zero_weight, target.normalizer)
        if self.objective == "mse":
            if self.output_activation == "sigmoid":
                output = output.sigmoid()
            return sparse_masked_mse(output, *rest)
        if self.objective == "bce":
            return sparse_masked_bce(output, *rest)
        # Cells without a count have no mean; whatever stands here, nothing of them is expected.
        log_library = tensors["library"].clamp(min=1).log()
        dispersion = self.log_dispersion
        return sparse_masked_nb(
            output + log_library,
            dispersion if genes is None else take_rows(dispersion, genes),
            *rest,
            logits=self.zero_decoder(decoded, genes) if self.objective == "zinb" else None,
        )

    def _covariates(self, tensors: Mapping[str, Tensor], dtype: torch.dtype) -> list[Tensor]:
        parts = [
            nn.functional.one_hot(tensors[key].squeeze(-1).long(), n).to(dtype)
            for key, n in self.n_categories.items()
        ]
        if self.n_continuous:
            parts.append(tensors["covariates:continuous"].to(dtype))
        return parts

    def _with_covariates(self, z: Tensor, tensors: Mapping[str, Tensor]) -> Tensor:
        parts = self._covariates(tensors, z.dtype)
        return torch.cat([z, *parts], dim=1) if parts else z


def _over_panels(x: SparseRows, visible: Tensor, panel: Tensor) -> Tensor:
    """Stored values, in cells that are seen through a `panel` normalised over what is visible alone."""
    amounts = x.values.expm1()
    zeros = amounts.new_zeros(x.n_cells)
    total, seen = (
        zeros.index_add(0, x.rows, one) for one in (amounts, amounts.masked_fill(~visible, 0))
    )
    # A cell of which nothing is visible has nothing to scale.
    factor = torch.where(seen > 0, total / seen.clamp(min=torch.finfo(seen.dtype).tiny), 1)
    scaled = (amounts * factor.index_select(0, x.rows)).log1p()
    return torch.where(panel.index_select(0, x.rows) & visible, scaled, x.values)


def default_hidden_dims(n_genes: int, n_cells: int) -> tuple[int, ...]:
    """Encoder widths by the size of the data.

    The published widths :cite:p:`Richter2025` are for millions of cells. On a few thousand, a
    network of half the depth and width gives embeddings that separate cell types better, in less
    time; on small gene panels there is nothing for the wide one to do.
    """
    return (256, 128) if n_genes <= 5000 or n_cells < 20_000 else (512, 512, 256, 256)
