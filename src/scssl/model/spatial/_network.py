"""The networks of STAGATE and GraphST: cells and their neighbours in, embeddings out."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping

import torch
from scvi.module.base import LossOutput
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.functional import binary_cross_entropy_with_logits as cross_entropy

from scssl.augment import take
from scssl.data.keys import DEGREE, LINKS, SEQUENCE
from scssl.module import SSLModule, asked_for, first_layer
from scssl.nn import GeneEncoder, Links, SparseRows
from scssl.objective import sparse_masked_mse

from ._options import GraphSTOptions, SpatialOptions, STAGATEOptions


class SpatialModule(SSLModule):
    """Base of networks whose encoder is linear in the genes and then goes over the links."""

    warm_layers = ("gene_encoder",)

    def __init__(self, n_genes: int, n_first: int, options: SpatialOptions) -> None:
        super().__init__()
        self.context = options.contexts()
        self.gene_encoder = GeneEncoder(n_genes, n_first)
        # Published without: a sum over genes has no constant.
        nn.init.zeros_(self.gene_encoder.bias)
        self.gene_encoder.bias.requires_grad_(False)

    def embeds_by(self) -> str:
        assert self.context is not None
        return f"{self.context.n_neighbors} {self.context.radius};"

    def encoder_parts(self) -> list[nn.Module]:
        return [self.gene_encoder]

    def _first(self, tensors: Mapping[str, Tensor]) -> tuple[Tensor, Links]:
        """The layer on the genes, and the links that come next."""
        x = self._rows(tensors)
        first = (
            self.gene_encoder(x) if torch.is_grad_enabled() else first_layer(self.gene_encoder, x)
        )
        pairs = tensors[LINKS]
        return first, Links(pairs[:, 0].contiguous(), pairs[:, 1].contiguous(), x.n_cells)

    def embed(self, tensors: Mapping[str, Tensor]) -> Tensor:
        return self.encode(tensors).float()

    @abstractmethod
    def _losses(self, tensors: Mapping[str, Tensor], rng: torch.Generator) -> Tensor: ...

    def loss(
        self,
        tensors: Mapping[str, Tensor],
        *,
        rng: torch.Generator | None = None,
        full: bool = True,
    ) -> LossOutput:
        (cells,) = asked_for(tensors, tensors["indices"])
        return LossOutput(
            loss=self._losses(tensors, self._generator(rng)), n_obs_minibatch=len(cells)
        )

    def _error(self, tensors: Mapping[str, Tensor], decoded: Tensor) -> Tensor:
        """Mean squared error of what was decoded of the cells that are learnt from."""
        (where,) = asked_for(tensors, torch.arange(len(tensors["indices"]), device=decoded.device))
        x: SparseRows = take(self._rows(tensors), where)
        one = decoded.new_ones(())
        return sparse_masked_mse(
            decoded.float().contiguous(),
            x.rows * x.n_genes + x.columns,
            x.values,
            torch.ones_like(x.values),
            one,
            one * decoded.numel(),
        )


class _Attention(nn.Module):
    """Attention of a cell to its neighbours and itself, and the layer after it."""

    def __init__(self, n_hidden: int, n_latent: int) -> None:
        super().__init__()
        self.of_cell, self.of_other = (nn.Parameter(torch.empty(n_hidden)) for _ in range(2))
        self.weight = nn.Parameter(torch.empty(n_hidden, n_latent))
        for value in (self.weight, self.of_cell[:, None], self.of_other[:, None]):
            nn.init.xavier_normal_(value, gain=2**0.5)

    def forward(self, first: Tensor, links: Links) -> tuple[Tensor, Tensor]:
        """Embeddings, and the weight of each link."""
        scores = (first @ self.of_cell)[links.cells] + (first @ self.of_other)[links.others]
        weights = links.softmax(scores.float().sigmoid())
        return functional.elu(links.sum(weights, first)) @ self.weight, weights


class STAGATEModule(SpatialModule):
    """Autoencoder of :cite:p:`Dong2022` with one layer of attention on each side.

    The decoder has the weights of the encoder, transposed, and its attention.
    """

    def __init__(self, n_genes: int, options: STAGATEOptions) -> None:
        super().__init__(n_genes, options.n_hidden, options)
        nn.init.xavier_normal_(self.gene_encoder.weight, gain=2**0.5)
        self.encoder = _Attention(options.n_hidden, options.n_latent)

    def encoder_parts(self) -> list[nn.Module]:
        return [self.gene_encoder, self.encoder]

    def encode(self, tensors: Mapping[str, Tensor]) -> Tensor:
        z: Tensor = self.encoder(*self._first(tensors))[0]
        return z

    def _losses(self, tensors: Mapping[str, Tensor], rng: torch.Generator) -> Tensor:
        first, links = self._first(tensors)
        z, weights = self.encoder(first, links)
        hidden = functional.elu(links.sum(weights, z @ self.encoder.weight.T))
        (hidden,) = asked_for(tensors, hidden)
        return self._error(tensors, hidden @ self.gene_encoder.weight.T)


class GraphSTModule(SpatialModule):
    """Graph convolutions of :cite:p:`Long2023`, reconstruction and contrast with shuffled cells."""

    def __init__(self, n_genes: int, options: GraphSTOptions) -> None:
        super().__init__(n_genes, options.n_latent, options)
        self.options = options
        nn.init.xavier_uniform_(self.gene_encoder.weight)
        if not options.decoder:
            return
        self.gene_decoder = nn.Linear(options.n_latent, n_genes, bias=False)
        self.discriminator = nn.Bilinear(options.n_latent, options.n_latent, 1)
        for layer in (self.gene_decoder, self.discriminator):
            nn.init.xavier_uniform_(layer.weight)
        nn.init.zeros_(self.discriminator.bias)

    def encode(self, tensors: Mapping[str, Tensor]) -> Tensor:
        first, links = self._first(tensors)
        return links.sum(self._weights(tensors, links), first)

    @staticmethod
    def _weights(tensors: Mapping[str, Tensor], links: Links) -> Tensor:
        """Of the convolution, by the number of neighbours in the whole graph."""
        share = tensors[DEGREE].squeeze(1).float().rsqrt()
        return share[links.cells] * share[links.others]

    def _losses(self, tensors: Mapping[str, Tensor], rng: torch.Generator) -> Tensor:
        if not self.options.decoder:
            raise ValueError(
                "This model has no decoder, so it cannot be trained to reconstruct. Fine-tune it, with "
                "scssl.model.CellTypeClassifier.from_ssl_model."
            )
        first, links = self._first(tensors)
        weights = self._weights(tensors, links)
        z = links.sum(weights, first)
        (mean,) = asked_for(tensors, links.sum(weights, z))
        loss = self.options.reconstruction_weight * self._error(tensors, self.gene_decoder(mean))
        if not self.options.contrast_weight:
            return loss
        shuffled = links.sum(weights, first[_shuffled(tensors[SEQUENCE].squeeze(1), rng)])
        contrast = self._contrast(tensors, links, z.relu(), shuffled.relu())
        return loss + self.options.contrast_weight * contrast

    def _contrast(
        self, tensors: Mapping[str, Tensor], links: Links, z: Tensor, other: Tensor
    ) -> Tensor:
        """Neighbourhoods tell their own cell from another in its place, both ways."""
        share = 1 / links.pointers.diff()[links.cells].float()
        losses = []
        for own, wrong in ((z, other), (other, z)):
            around = functional.normalize(links.sum(share, own), dim=1).sigmoid()
            around, right, false = asked_for(tensors, around, own, wrong)
            # The layer's own product makes a matrix of each cell, of 30 times the time and memory.
            told = around @ self.discriminator.weight[0].T
            right, false = (
                ((told * one).sum(dim=1) + self.discriminator.bias).float()
                for one in (right, false)
            )
            losses += [cross_entropy(right, torch.ones_like(right))]
            losses += [cross_entropy(false, torch.zeros_like(false))]
        # Of each neighbourhood the mean over right and wrong cells, of which there are as many.
        return torch.stack(losses).sum() / 2


def _shuffled(sections: Tensor, rng: torch.Generator) -> Tensor:
    """An order in which each cell has another of its section in its place."""
    drawn = torch.randperm(len(sections), generator=rng, device=sections.device)
    order = torch.empty_like(drawn)
    # Stable: by section, and in each as drawn.
    order[torch.argsort(sections, stable=True)] = drawn[torch.argsort(sections[drawn], stable=True)]
    return order
