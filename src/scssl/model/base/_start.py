"""Models that start from another one: the object, its folder, or its place on the Hugging Face Hub."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Self

import torch
from anndata import AnnData
from torch import nn

from scssl._checks import check_adata, some
from scssl._errors import warn
from scssl.data import Datasets
from scssl.module import SSLModule
from scssl.nn import Dropout, GeneEncoder

from ._arguments import explained
from ._backbone import Backbone, known_genes
from ._model import SSLModel
from ._setup import check_like

_LOGGER = logging.getLogger("scssl")
# What a new model takes over from the arguments of the other one.
_ARCHITECTURE = ("hidden_dims", "n_latent", "activation", "dropout", "batch_norm")


def resolve(model: Any) -> SSLModel:
    """A model, or the model in a folder or on the Hugging Face Hub."""
    if isinstance(model, (str, Path)):
        model = SSLModel.from_pretrained(model)
    if not isinstance(model, SSLModel):
        raise TypeError(
            "`model` must be a model of scssl, the folder of one or its name on the Hugging Face Hub, "
            f"found {type(model).__name__}."
        )
    return model


def backbone_of(model: Any, of: type | None = None) -> Backbone:
    """The encoder of what :func:`resolve` finds; that of a model `of` this class, if it has to be."""
    backbone: Backbone = resolve(model)._backbone()
    if of is not None and backbone.model_class != of.__name__:
        found = backbone.model_class
        raise TypeError(f"The weights are those of a {found}, not of a {of.__name__}.")
    if not backbone.pretrained:
        warn(
            "The model to start from is not trained: this is training from scratch. Call `model.train()` first."
        )
    return backbone


class StartsFromEncoder:
    """What models have whose encoder can be that of any model with the same layers."""

    @explained
    @classmethod
    def from_ssl_model(
        cls,
        model: SSLModel | str | Path,
        adata: AnnData | Datasets,
        *,
        batch_key: str | None = None,
        labels_key: str | None = None,
        layer: str | None = None,
        min_overlap: float = 0.5,
        **kwargs: Any,
    ) -> Self:
        """Model on new data with the encoder of a trained one, which may be of another class.

        Weights of genes are taken over by name; genes that the other model does not know start at zero, and
        learn. Everything behind the encoder, such as a projector, starts anew. Kind of input and normalisation
        are those of the other model, and so are the layers of the encoder. Before training, cells are embedded
        as by the other model if `adata` has the same genes, or is log-normalised already: counts are
        normalised over the genes of a model.

        Parameters
        ----------
        model
            Trained model, the folder of one or its name on the Hugging Face Hub. Of a model of several
            modalities the encoder of RNA is taken.
        adata
            Cells to learn from, or several data sets where the model takes them. Set up here, with the
            columns below.
        batch_key, labels_key
            As in :meth:`setup_anndata`; of several data sets the batch is the data set.
        layer
            Layer with values of the kind that the other model was trained on; ``adata.X`` by default.
        min_overlap
            Share of the genes of `adata` that the other model must know.
        **kwargs
            Arguments of the model beside those of the encoder's layers.

        Raises
        ------
        GeneMismatchError
            If the other model knows too few of the genes.
        ValueError
            If its encoder has other layers.
        """
        source = backbone_of(model)
        there = source.build()
        if "hidden_dims" not in source.arguments or there.encodes_covariates:
            what = "is told covariates" if there.encodes_covariates else "has other layers"
            raise ValueError(
                f"The encoder of the {source.model_class} {what}, so a {cls.__name__} cannot start from it. "
                f"Go on with the model itself: `scssl.model.{source.model_class}.from_ssl_model(model, adata)`."
            )
        shape = {name: source.arguments.get(name, False) for name in _ARCHITECTURE}
        several = isinstance(adata, Datasets)
        if not several:
            check_adata(adata, matrix=True)
        data: Any = adata
        # Before the matrix is read: what is wrong with the genes is wrong with all the rest.
        known_genes(source.genes, data.genes.names if several else data.var_names, min_overlap)
        maker: Any = cls
        read = source.setup_arguments(covariates=False)
        keys = {"labels_key": labels_key, "layer": layer}
        keys |= {name: read[name] for name in ("input", "target_sum")}
        if several:
            maker.setup_datasets(adata, **keys)
        else:
            maker.setup_anndata(adata, batch_key=batch_key, **keys)
        new = maker(adata, **{**shape, **kwargs})
        check_like(adata, new.setup, source.setup)
        theirs, ours = _layers(there), _layers(new.module)
        if [*map(_shape, theirs)] != [*map(_shape, ours)]:
            differs = [k for k, v in shape.items() if k in kwargs and kwargs[k] != v]
            how = f"Leave {some(differs)} out; it is" if differs else "It is"
            fits = ", ".join(
                f"{k}={tuple(v) if isinstance(v, list) else v!r}" for k, v in shape.items()
            )
            raise ValueError(
                f"The encoder of the {source.model_class} has other layers than this {cls.__name__}. {how} "
                f"like one with {fits}"
                + ("." if differs else f", and more. Go on with the {source.model_class} itself.")
            )
        rows = torch.from_numpy(known_genes(source.genes, new.genes.names, min_overlap))
        known = rows >= 0
        with torch.no_grad():
            for one, other in zip(ours, theirs, strict=True):
                weights = other.state_dict()
                for name, value in one.state_dict().items():
                    if isinstance(one, GeneEncoder) and name == "weight":
                        # A gene that the other model did not know says nothing yet.
                        value.zero_()
                        value[known] = weights[name][rows[known]].to(value)
                    else:
                        value.copy_(weights[name])
        # Part of what is saved: a model that is loaded before it is trained has learnt all the same.
        new.module.warm_gene_encoder = known
        new.module.encoder_taken_over()
        if not known.all():
            _LOGGER.info("%d of %d genes are new to the model.", int((~known).sum()), len(known))
        started: Self = new
        return started


def _layers(module: SSLModule) -> list[nn.Module]:
    """Layers from the genes to the embedding, but those that do nothing when cells are embedded."""
    return [
        part
        for name, part in module.named_modules()
        if f"{name}.".startswith(("gene_encoder.", "encoder."))
        and not any(part.children())
        and not isinstance(part, Dropout)
    ]


def _shape(layer: nn.Module) -> tuple[Any, ...]:
    """What a layer has to have in common with another; not the number of genes."""
    genes = isinstance(layer, GeneEncoder)
    shapes = [
        (k, tuple(v.shape)[genes:] if k == "weight" else tuple(v.shape))
        for k, v in layer.state_dict().items()
    ]
    return type(layer), *shapes
