"""Regression of protein abundance on the encoder of another module."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from scvi.module.base import LossOutput
from torch import Tensor

from scssl.data.keys import PROTEINS
from scssl.module import BLOCK, SSLModule, asked_for, blockwise
from scssl.nn import GeneEncoder, Head

from ._network import FineTunedModule, Freeze


class ProteinPredictorModule(FineTunedModule):
    r"""Encoder and head that predicts proteins.

    The loss is the mean squared error of standardised targets over the entries that are measured,

    .. math:: L = \frac{\sum_{np} m_{np}\,(\hat y_{np} - (y_{np} - \mu_p) / \sigma_p)^2}{\sum_{np} m_{np}}

    with :math:`m_{np} = 0` where protein :math:`p` is missing in cell :math:`n`.

    Parameters
    ----------
    backbone
        Module whose encoder is used.
    n_genes
        Number of genes.
    n_latent
        Width of its embedding.
    n_proteins
        Number of proteins.
    n_components
        Fixed linear combinations of the genes that the head sees beside the embedding.
    n_hidden
        Width of the hidden layer of the head's MLP; without one the head is linear.
    dropout
        Share of its hidden units dropped in training.
    freeze
        See :class:`FineTunedModule`.
    """

    def __init__(
        self,
        backbone: SSLModule,
        *,
        n_genes: int,
        n_latent: int,
        n_proteins: int,
        n_components: int = 0,
        n_hidden: int | None = 128,
        dropout: float = 0.1,
        freeze: Freeze = "none",
    ) -> None:
        head = Head(n_latent + n_components, n_proteins, n_hidden=n_hidden, dropout=dropout)
        super().__init__(backbone, head, freeze=freeze)
        self.components: GeneEncoder | None = None
        if n_components:
            self.components = GeneEncoder(n_genes, n_components).requires_grad_(False)
        self.register_buffer("target_mean", torch.zeros(n_proteins))
        self.register_buffer("target_scale", torch.ones(n_proteins))
        self.target_mean: Tensor
        self.target_scale: Tensor

    def features(self, tensors: Mapping[str, Tensor], *, evaluate: bool) -> Tensor:
        """What the head sees: the embedding and the components."""
        z = self.embed(tensors) if evaluate else self.encode(tensors)
        if self.components is None:
            return z
        x = self._rows(tensors)
        if x.values.device.type == "cpu":
            return torch.cat([z, self.components(x).to(z)], dim=1)
        starts = range(0, max(x.n_cells, 1), BLOCK)
        dense = (x.slice(start, start + BLOCK).to_dense() for start in starts)
        parts = [blockwise(self.components.dense, block) for block in dense]
        return torch.cat([z, torch.cat(parts).to(z)], dim=1)

    def loss(
        self,
        tensors: Mapping[str, Tensor],
        inference_outputs: Any = None,
        generative_outputs: Any = None,
        *,
        rng: torch.Generator | None = None,
        full: bool = True,
    ) -> LossOutput:
        target = (tensors[PROTEINS] - self.target_mean) / self.target_scale
        measured = target.isfinite()
        target = target.nan_to_num(0.0)
        predicted = self.head(self.features(tensors, evaluate=False)).float()
        target, measured, predicted = asked_for(tensors, target, measured, predicted)
        error = ((predicted - target).square() * measured).sum() / measured.sum().clamp(min=1)
        extra = {}
        if full:
            y, p = target.double(), predicted.double() * measured
            sums = (measured.double(), y, p, y * y, p * p, y * p)
            extra = {"sums": torch.stack([s.sum(0) for s in sums])}
        return LossOutput(loss=error, n_obs_minibatch=len(target), extra_metrics=extra)

    def validation_scores(self, tally: Mapping[str, Tensor]) -> dict[str, float]:
        """Pearson correlation of each protein over the validation cells, the mean over proteins."""
        n, y, p, yy, pp, yp = tally["sums"].double()
        n = n.clamp(min=1)
        covariance = yp / n - (y / n) * (p / n)
        spread = (yy / n - (y / n) ** 2).clamp(min=0) * (pp / n - (p / n) ** 2).clamp(min=0)
        r = (covariance / spread.sqrt())[spread > 1e-12]
        return {"pearson": float(r.mean()) if len(r) else float("nan")}

    def predict(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """Predicted proteins in evaluation mode, the same for a cell in any batch."""

        def read(features: Tensor) -> Tensor:
            # Rescaled in here: products and sums may be fused, or not, by the height of a batch.
            return self.head(features) * self.target_scale + self.target_mean

        return blockwise(read, self.features(tensors, evaluate=True))
