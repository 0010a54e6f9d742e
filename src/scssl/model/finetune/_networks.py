"""Networks that start from the encoder of another one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self

import torch
from scvi.module.base import LossOutput
from torch import Tensor
from torch.nn import functional

from scssl.data.keys import LABELS, PROTEINS
from scssl.module import BLOCK, SSLModule, asked_for, blockwise
from scssl.nn import GeneEncoder, Head
from scssl.objective import supcon

Freeze = Literal["none", "encoder"] | int
HeadKind = Literal["linear", "mlp"]
Loss = Literal["ce", "supcon"]
# Units of the hidden layer of an MLP.
_N_HIDDEN = 128


class FineTunedModule(SSLModule):
    """The encoder of another module, and a head on its embeddings.

    What is frozen has no gradient, is in evaluation mode also in training, and is not seen by the
    optimiser: no update and no weight decay reaches it.

    Parameters
    ----------
    backbone
        Module whose encoder is used.
    n_in, n_out
        Width of what the head sees, and of its output.
    head
        ``"linear"``, or ``"mlp"``: with a hidden layer beside the linear part.
    freeze
        ``"none"``; ``"encoder"``: the whole backbone; a number: that many layers, counted from the
        genes.

    Raises
    ------
    ValueError
        If there are fewer layers than are to be frozen.
    """

    collapse_is_failure = False

    def __init__(
        self, backbone: SSLModule, n_in: int, n_out: int, *, head: HeadKind, freeze: Freeze
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = Head(n_in, n_out, n_hidden=_N_HIDDEN if head == "mlp" else None)
        self.context = backbone.context
        #: Learning rate of the backbone in terms of that of the head.
        self.backbone_lr_factor = 1.0
        parts = backbone.encoder_parts()
        n_frozen = _n_frozen(freeze, len(parts))
        self.frozen = list(range(n_frozen))
        self.backbone_is_frozen = n_frozen == len(parts)
        for part in [backbone] if self.backbone_is_frozen else parts[:n_frozen]:
            part.requires_grad_(False)

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        if self.backbone_is_frozen:
            self.backbone.eval()
        else:
            parts = self.backbone.encoder_parts()
            for i in self.frozen:
                parts[i].eval()
        return self

    @property
    def encodes_covariates(self) -> bool:
        return self.backbone.encodes_covariates

    def embeds_by(self) -> str:
        return self.backbone.embeds_by()

    def encoder_parts(self) -> list[torch.nn.Module]:
        """Layers of the backbone's encoder."""
        return self.backbone.encoder_parts()

    def embed(self, tensors: Mapping[str, Tensor]) -> Tensor:
        return self.backbone.embed(tensors)

    def encode(self, tensors: Mapping[str, Tensor]) -> Tensor:
        if self.backbone_is_frozen:
            with torch.no_grad():
                return self.backbone.encode(tensors)
        return self.backbone.encode(tensors)

    def parameter_groups(self) -> list[dict[str, Any]]:
        groups: list[dict[str, Any]] = [
            {"params": [p for p in self.head.parameters() if p.requires_grad]},
            {
                "params": [p for p in self.backbone.parameters() if p.requires_grad],
                "lr_factor": self.backbone_lr_factor,
            },
        ]
        return [group for group in groups if group["params"]]


def _n_frozen(freeze: Any, n_parts: int) -> int:
    if isinstance(freeze, str) and freeze in ("none", "encoder"):
        return n_parts if freeze == "encoder" else 0
    if isinstance(freeze, bool) or not isinstance(freeze, int) or not 0 <= freeze <= n_parts:
        raise ValueError(
            f"`freeze` must be 'none', 'encoder' or a number of layers from 0 to {n_parts}, found "
            f"{freeze!r}."
        )
    return freeze


class CellTypeClassifierModule(FineTunedModule):
    """Encoder and head that predicts a class.

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
    loss
        ``"ce"`` or ``"supcon"``.
    temperature
        Of the contrastive loss.
    head, freeze
        See :class:`FineTunedModule`.
    """

    def __init__(
        self,
        backbone: SSLModule,
        *,
        n_latent: int,
        n_classes: int,
        loss: Loss,
        temperature: float,
        head: HeadKind,
        freeze: Freeze,
    ) -> None:
        super().__init__(backbone, n_latent, n_classes, head=head, freeze=freeze)
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
    head, freeze
        See :class:`FineTunedModule`.
    """

    def __init__(
        self,
        backbone: SSLModule,
        *,
        n_genes: int,
        n_latent: int,
        n_proteins: int,
        n_components: int,
        head: HeadKind,
        freeze: Freeze,
    ) -> None:
        super().__init__(backbone, n_latent + n_components, n_proteins, head=head, freeze=freeze)
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
