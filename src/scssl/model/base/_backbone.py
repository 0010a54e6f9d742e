"""The encoder of a model, to start another model from, and genes by name."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scssl._checks import check_choice, some
from scssl._errors import GeneMismatchError, MissingKeyError
from scssl.data import GeneVocabulary
from scssl.data.genes import warn_of_names
from scssl.module import SSLModule

from ._registry import get_model_class, list_models
from ._setup import DataSetup

_LOGGER = logging.getLogger("scssl")
# Layers on the genes: a row for each gene.
_OF_GENES = ("gene_encoder.weight", "gene_decoder.weight", "linear_path.weight")


@dataclass(frozen=True)
class Backbone:
    """The encoder of a model: how to build it, what it reads, and its weights.

    `arguments` are those of its module, JSON only; `weights` are copies, `None` where they are loaded from a
    folder.
    """

    model_class: str
    arguments: Mapping[str, Any]
    setup: DataSetup
    genes: GeneVocabulary
    n_latent: int
    pretrained: bool
    weights: Mapping[str, Tensor] | None = None

    @classmethod
    def untrained(
        cls, name: str, registry: dict[str, Any], arguments: Mapping[str, Any], seed: int
    ) -> Backbone:
        """Encoder of a new model on data that are set up, with the weights that it starts from."""
        model_class: Any = get_model_class(check_choice("backbone", name, list_models()))
        if not model_class._learns_embeddings:
            raise ValueError(f"`backbone` {name} is not self-supervised. Name a model that is.")
        backbone: Backbone = model_class(registry=registry, rng=seed, **arguments)._backbone()
        return backbone

    @classmethod
    def from_dict(cls, content: Mapping[str, Any], genes: GeneVocabulary) -> Backbone:
        """Inverse of :meth:`to_dict`."""
        return cls(**{**content, "setup": DataSetup.from_dict(content["setup"])}, genes=genes)

    def to_dict(self) -> dict[str, Any]:
        """All but genes and weights, as JSON."""
        return {
            "model_class": self.model_class,
            "arguments": dict(self.arguments),
            "setup": self.setup.to_dict(),
            "n_latent": self.n_latent,
            "pretrained": self.pretrained,
        }

    def build(self) -> SSLModule:
        """A module of its own with these weights."""
        module = get_model_class(self.model_class)._build_module(
            self.arguments, genes=self.genes, setup=self.setup
        )
        if self.weights is not None:
            wanted = module.state_dict()
            # Parts that only pretraining needs, such as a decoder, are left behind.
            module.load_state_dict({name: self.weights[name] for name in wanted}, strict=True)
        return module

    def on_genes(self, names: Any) -> Backbone:
        """The encoder for other genes: known ones by name, new ones with a weight of zero.

        Training takes in what the new genes say. The same normalised values are embedded as before;
        those of counts are not quite the same, as a cell is scaled by its sum over these genes.
        """
        rows = known_genes(self.genes, names, 0)
        new = self.build().state_dict() if self.weights is None else dict(self.weights)
        known = torch.from_numpy(rows >= 0)
        for name in [name for name in new if name.endswith(_OF_GENES)]:
            columns = new[name].new_zeros(len(rows), new[name].shape[1])
            columns[known] = new[name][torch.from_numpy(rows[rows >= 0])]
            new[name] = columns
        n_new = int((rows < 0).sum())
        n_lost = len(self.genes) - len(rows) + n_new
        examples = ", ".join(map(str, np.asarray(names)[rows < 0][:3]))
        _LOGGER.info(
            "%s of %s genes are new to the model%s; %s of its own are not in the data.",
            f"{n_new:,}",
            f"{len(rows):,}",
            f", such as {examples}" if examples else "",
            f"{n_lost:,}",
        )
        return replace(self, genes=GeneVocabulary(names), weights=new)

    def setup_arguments(self, *, covariates: bool) -> dict[str, Any]:
        """Arguments of ``setup_anndata`` to read other data like those of the model."""
        read: dict[str, Any] = {
            "layer": self.setup.layer,
            "input": self.setup.input_kind,
            "target_sum": self.setup.target_sum,
        }
        for key in ("sample_key", "spatial_key", "connectivity_key"):
            if getattr(self.setup, key) is not None:
                read[key] = getattr(self.setup, key)
        if covariates:
            read |= {
                "batch_key": self.setup.batch_key,
                "categorical_covariate_keys": list(self.setup.categorical_keys),
                "continuous_covariate_keys": list(self.setup.continuous_keys),
            }
        return read


def copied(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies on the CPU."""
    return {name: torch.clone(value.detach().cpu()) for name, value in weights.items()}


def known_genes(theirs: GeneVocabulary, ours: Any, min_overlap: float) -> np.ndarray:
    """Position of genes among those of the other model, -1 where it does not know them."""
    rows = theirs.align(ours, min_overlap=0).columns
    known = int((rows >= 0).sum())
    if known < min_overlap * len(rows):
        leave = ""
        if known:
            leave = " `adata = adata[:, adata.var_names.isin(model.genes.names)].copy()`."
            leave = f", or leave out the other genes:{leave}"
        raise GeneMismatchError(
            f"The model knows {known:,} of the {len(rows):,} genes of `adata`, fewer than "
            f"min_overlap={min_overlap}. It has genes like {some(theirs.names[:3])}, `adata` like "
            f"{some(ours[:3])}. Use the same kind of names{leave or '.'}"
        )
    warn_of_names(theirs.names, np.asarray(ours, dtype=object), known)
    return rows


def gene_columns(
    vocabulary: GeneVocabulary, genes: Sequence[str] | None, device: torch.device
) -> Tensor | None:
    """Positions of genes, `None` for all; int64."""
    if genes is None:
        return None
    if isinstance(genes, str):
        genes = [genes]
    position = vocabulary.positions
    unknown = [name for name in genes if name not in position]
    if unknown:
        raise MissingKeyError(
            f"The model has no gene {some(unknown)}; its genes are like {some(vocabulary.names[:3])} "
            "(model.genes.names)."
        )
    return torch.tensor([position[name] for name in genes], dtype=torch.int64, device=device)
