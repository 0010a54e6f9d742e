"""Modules that start from the encoder of another one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self

import torch
from torch import Tensor

from scssl.module import SSLModule
from scssl.nn import Head

Freeze = Literal["none", "encoder"] | int


class FineTunedModule(SSLModule):
    """The encoder of another module, and a head on its embeddings.

    What is frozen has no gradient, is in evaluation mode also in training, and is not seen by the
    optimiser: no update and no weight decay reaches it.

    Parameters
    ----------
    backbone
        Module whose encoder is used.
    head
        What reads the target from an embedding.
    freeze
        ``"none"``; ``"encoder"``: the whole backbone; a number: that many layers, counted from the
        genes.

    Raises
    ------
    ValueError
        If there are fewer layers than are to be frozen.
    """

    collapse_is_failure = False

    def __init__(self, backbone: SSLModule, head: Head, *, freeze: Freeze = "none") -> None:
        super().__init__()
        self.backbone, self.head = backbone, head
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
    if freeze == "none":
        return 0
    if freeze == "encoder":
        return n_parts
    if isinstance(freeze, bool) or not isinstance(freeze, int) or not 0 <= freeze <= n_parts:
        raise ValueError(
            f"`freeze` must be 'none', 'encoder' or a number of layers from 0 to {n_parts}, found "
            f"{freeze!r}."
        )
    return freeze
