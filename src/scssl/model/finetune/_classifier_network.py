"""Classifier of cells on the encoder of another module."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from scvi.module.base import LossOutput
from torch import Tensor
from torch.nn import functional

from scssl.data.keys import LABELS
from scssl.module import SSLModule, asked_for, blockwise
from scssl.nn import Head
from scssl.objective import SUPCON_TEMPERATURE, supcon

from ._network import FineTunedModule, Freeze


class CellTypeClassifierModule(FineTunedModule):
    r"""Encoder and head that predicts a class.

    With ``loss="ce"`` the loss is the cross-entropy of the head's output. With ``loss="supcon"`` the
    encoder learns from the supervised contrastive loss :cite:p:`Khosla2020` alone, and the head at the
    same time from the cross-entropy on embeddings that pass no gradient back. In validation it is the
    cross-entropy, unweighted, in both.

    Parameters
    ----------
    backbone
        Module whose encoder is used.
    n_latent
        Width of its embedding.
    n_classes
        Number of classes.
    head
        ``"linear"``, or ``"mlp"``: with a hidden layer of 128 units beside the linear part.
    loss
        ``"ce"`` or ``"supcon"``.
    temperature
        Of the contrastive loss.
    freeze
        See :class:`FineTunedModule`.
    """

    def __init__(
        self,
        backbone: SSLModule,
        *,
        n_latent: int,
        n_classes: int,
        head: Literal["linear", "mlp"] = "linear",
        loss: Literal["ce", "supcon"] = "ce",
        temperature: float = SUPCON_TEMPERATURE,
        freeze: Freeze = "none",
    ) -> None:
        n_hidden = 128 if head == "mlp" else None
        super().__init__(backbone, Head(n_latent, n_classes, n_hidden=n_hidden), freeze=freeze)
        self.n_classes, self.objective, self.temperature = n_classes, loss, temperature
        self.register_buffer("class_weights", torch.ones(n_classes))
        self.class_weights: Tensor

    def loss(
        self,
        tensors: Mapping[str, Tensor],
        inference_outputs: Any = None,
        generative_outputs: Any = None,
        *,
        rng: torch.Generator | None = None,
        full: bool = True,
    ) -> LossOutput:
        z, labels = asked_for(tensors, self.encode(tensors), tensors[LABELS].squeeze(1))
        if full:
            logits = self.head(z).float()
            found = labels * self.n_classes + logits.argmax(1)
            tally = torch.bincount(found, minlength=self.n_classes**2).float()
            return LossOutput(
                loss=functional.cross_entropy(logits, labels),
                n_obs_minibatch=len(labels),
                extra_metrics={"confusion": tally},
            )
        contrast = self.objective == "supcon"
        logits = self.head(z.detach() if contrast else z).float()
        loss = functional.cross_entropy(logits, labels, weight=self.class_weights)
        if contrast and not self.backbone_is_frozen:
            loss = loss + supcon(z, labels, temperature=self.temperature)
        return LossOutput(loss=loss, n_obs_minibatch=len(labels))

    def validation_scores(self, tally: Mapping[str, Tensor]) -> dict[str, float]:
        """Accuracy and macro-F1, the latter over the classes that validation cells have."""
        counts = tally["confusion"].double().view(self.n_classes, self.n_classes)
        hits, true, called = counts.diagonal(), counts.sum(1), counts.sum(0)
        f1 = (2 * hits / (true + called).clamp(min=1))[true > 0]
        return {
            "accuracy": float(hits.sum() / counts.sum()),
            "macro_f1": float(f1.mean()),
        }

    def classify(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """Probability of each class in evaluation mode, the same for a cell in any batch."""
        return blockwise(lambda z: self.head(z).softmax(1), self.embed(tensors))
