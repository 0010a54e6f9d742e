"""A family of its own in one file: a denoising autoencoder (Vincent et al., 2008)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from scvi.module.base import LossOutput
from torch import Tensor, nn
from torch.nn.functional import mse_loss

import scssl
from scssl.model import SSLModel, register_model
from scssl.model.base import Options, Rate, StartsFromEncoder, Widths, takes
from scssl.module import SSLModule, embedded
from scssl.nn import BatchNormEncoder, GeneDecoder


@dataclass
class DenoisingOptions(Options):
    """Hyper-parameters, their ranges and defaults: they stand here and nowhere else."""

    hidden_dims: Widths = (128,)
    n_latent: int = 64
    activation: str = "relu"
    dropout: Rate = 0.0
    batch_norm: bool = True
    noise: Rate = 0.5
    decoder: bool = True


class DenoisingModule(SSLModule):
    """The network: what embeds, and a loss."""

    warm_layers = ("gene_encoder",)

    def __init__(self, n_genes: int, options: DenoisingOptions) -> None:
        super().__init__()
        shape = {k: v for k, v in options.to_dict().items() if k not in ("noise", "decoder")}
        # Layers on the genes are a `GeneEncoder` and a `GeneDecoder` of these names, by which a model on
        # other genes finds its rows; `encoder` is what other models start from.
        self.encoder = BatchNormEncoder(n_genes, **shape)
        self.noise = options.noise
        if options.decoder:
            self.gene_decoder = GeneDecoder(options.n_latent, n_genes)

    def encoder_parts(self) -> list[nn.Module]:
        return list(self.encoder.parts())

    def encode(self, tensors: Mapping[str, Tensor]) -> Tensor:
        z: Tensor = self.encoder(self._rows(tensors))
        return z

    def embed(self, tensors: Mapping[str, Tensor]) -> Tensor:
        return embedded(self.encoder, self._rows(tensors))

    def loss(
        self,
        tensors: Mapping[str, Tensor],
        *,
        rng: torch.Generator | None = None,
        full: bool = True,
    ) -> LossOutput:
        x, rng = self._rows(tensors), self._generator(rng)
        kept = torch.rand(x.values.shape, generator=rng, device=x.values.device) >= self.noise
        predicted = self.gene_decoder(self.encoder(x.hide(kept, x.values / (1 - self.noise))))
        return LossOutput(loss=mse_loss(predicted, x.to_dense()), n_obs_minibatch=x.n_cells)


@register_model
class DenoisingAutoencoder(StartsFromEncoder, SSLModel):
    """Predict all of a cell from a part of it.

    Parameters
    ----------
    hidden_dims, n_latent, activation, dropout, batch_norm
        Of the encoder, as in :class:`scssl.model.JointEmbedding`.
    noise
        Share of the values that are taken out in training, 0.5.
    decoder
        Whether there is a decoder. A model without one embeds and can be fine-tuned, no more.
    """

    # What of the setup it has no use for, and why.
    _setup_refuses = dict.fromkeys(
        ("categorical_covariate_keys", "continuous_covariate_keys"), "does not decode covariates"
    )

    @takes(DenoisingOptions)
    def __init__(
        self, adata: Any = None, registry: Any = None, *, rng: Any = 0, **options: Any
    ) -> None:
        super().__init__(adata, registry)
        self._arguments = DenoisingOptions.chosen(options).to_dict()
        self._start_module(rng)
        self._model_summary_string = f"{len(self.genes)} genes, noise {self._arguments['noise']:g}"

    @classmethod
    def _build_module(cls, arguments: Any, *, genes: Any, setup: Any) -> DenoisingModule:
        return DenoisingModule(len(genes), DenoisingOptions(**arguments))

    def _train_defaults(self, n_cells: int) -> dict[str, Any]:
        return {"max_epochs": 50, "batch_size": 256, "lr": 1e-3}


if __name__ == "__main__":
    adata = scssl.datasets.pbmc68k_reduced()
    DenoisingAutoencoder.setup_anndata(adata)
    model = DenoisingAutoencoder(adata, noise=0.3)
    model.train(max_epochs=5, progress=False)
    print(model)
