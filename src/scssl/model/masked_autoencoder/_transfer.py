"""A model on new data that starts from the weights of another model."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from anndata import AnnData
from torch import Tensor

from scssl.augment import is_own_mask, remade
from scssl.data import GeneVocabulary
from scssl.model.base import Backbone, DataSetup, backbone_of, known_genes, resolve

from ._carry import carry_covariates, log_untold
from ._network import MaskedAutoencoderModule

_LOGGER = logging.getLogger("scssl")
# Tensors with one row per gene.
_BY_GENE = (
    "gene_encoder.weight",
    "gene_decoder.weight",
    "gene_decoder.bias",
    "zero_decoder.weight",
    "zero_decoder.bias",
    "log_dispersion",
    "indicator",
)
# What is told of covariates: a column each, in the decoder after those of the embedding.
_ENCODER, _DECODER = "covariate_encoder.weight", "decoder.layers.0.weight"
_TOLD = (_ENCODER, _DECODER)
# What a new model takes over from the arguments of the other one.
_ARCHITECTURE = (
    "hidden_dims",
    "n_latent",
    "dropout",
    "activation",
    "mask_signal",
    "loss",
    "latent_activation",
    "output_activation",
)


class TransferMixin:
    """Start from another masked autoencoder, gene by gene."""

    module: MaskedAutoencoderModule
    genes: GeneVocabulary
    setup: DataSetup
    is_trained_: bool
    _arguments: dict[str, Any]

    @property
    def _has_learnt(self) -> bool:
        return self.is_trained_ or self.module.is_warm

    @classmethod
    def from_ssl_model(
        cls,
        model: Self | str | Path,
        adata: AnnData,
        *,
        batch_key: str | None = None,
        labels_key: str | None = None,
        categorical_covariate_keys: Sequence[str] | None = None,
        continuous_covariate_keys: Sequence[str] | None = None,
        layer: str | None = None,
        freeze: Literal["none", "encoder"] = "none",
        min_overlap: float = 0.5,
        **kwargs: Any,
    ) -> Self:
        """Model on new data with the weights of a trained one, to adapt it or to integrate batches.

        Weights of genes are taken over by name. Genes that the other model does not know start anew:
        at zero in the encoder (and stay there with ``freeze="encoder"``), at their mean expression in
        the decoder. Genes that `adata` does not have are left behind. With another ``loss`` the output
        layer starts anew. With `batch_key` or covariates, and
        by default, both the encoder and the decoder are told them. Their weights are taken over by
        the names of column and category. Those that the other model was not told start at zero,
        which stands for the mean over the categories that it knows; it is also what covariates
        become of which only the other model was told (continuous ones are taken as 0).

        Before training, the embedding is that of the other model if its encoder was told no
        covariates, or those of `adata` with no new category; and, as counts are normalised over the
        genes of a model, if `adata` has the same genes, or is log-normalised already.

        Parameters
        ----------
        model
            Trained masked autoencoder, the folder of one or its name on the Hugging Face Hub.
        adata
            Cells to adapt to. Set up here, with the columns below.
        batch_key, labels_key, categorical_covariate_keys, continuous_covariate_keys
            As in :meth:`setup_anndata`.
        layer
            Layer with values of the kind that the model was trained on; ``adata.X`` by default.
        freeze
            ``"encoder"``: only the decoder learns, and what the encoder is told of batches. It is
            held until the model is saved: one that is loaded trains all of its weights.
        min_overlap
            Share of the genes of `adata` that the other model must know.
        **kwargs
            Arguments of the model that differ, such as ``masking``. By default the mask is that of
            the other model, its programmes matched by the names of their genes; a mask that is not
            of scssl has to be given.

        Raises
        ------
        GeneMismatchError
            If the other model knows too few of the genes.
        TypeError
            If it is no masked autoencoder.
        ValueError
            If the architecture is not the same, or an argument is not what it can be.

        Examples
        --------
        >>> import scssl
        >>> adata = scssl.datasets.pbmc68k_reduced()
        >>> scssl.model.MaskedAutoencoder.setup_anndata(adata)
        >>> model = scssl.model.MaskedAutoencoder(adata)
        >>> model.train(max_epochs=2, progress=False)
        >>> adapted = scssl.model.MaskedAutoencoder.from_ssl_model(model, adata, batch_key="phase")
        >>> adapted.train(max_epochs=2, progress=False)
        """
        if freeze not in ("none", "encoder"):
            raise ValueError(f'`freeze` must be "none" or "encoder", found {freeze!r}.')
        other = resolve(model)
        source = backbone_of(other)
        if source.model_class != cls.__name__:
            raise TypeError(
                f"The weights are those of a {source.model_class}, not of a {cls.__name__}."
            )
        told: dict[str, Any] = {
            "batch_key": batch_key,
            "categorical_covariate_keys": categorical_covariate_keys,
            "continuous_covariate_keys": continuous_covariate_keys,
        }
        read: dict[str, Any] = source.setup_arguments(covariates=False) | {"layer": layer}
        maker: Any = cls
        maker.setup_anndata(adata, labels_key=labels_key, **told, **read)
        arguments = {name: source.arguments[name] for name in _ARCHITECTURE}
        if any(told.values()):
            arguments["encode_covariates"] = True
        if "masking" not in kwargs:
            rows = known_genes(source.genes, adata.var_names, min_overlap)
            arguments |= _mask_of(other, rows, kwargs)
        new: Self = maker(adata, **{**arguments, **kwargs})
        new._start_from(source, min_overlap)
        if freeze == "encoder":
            for part in new.module.encoder_parts():
                part.requires_grad_(False)
        return new

    @torch.no_grad()
    def _start_from(self, source: Backbone, min_overlap: float) -> None:
        """Take over the weights of another model."""
        assert source.weights is not None
        rows = known_genes(source.genes, self.genes.names, min_overlap)
        known = np.flatnonzero(rows >= 0)
        if len(known) < len(rows):
            _LOGGER.info("%d of %d genes are new to the model.", len(rows) - len(known), len(rows))
        here, there = torch.from_numpy(known), torch.from_numpy(rows[known])
        warm = torch.from_numpy(rows >= 0)
        weights, own = source.weights, self.module.state_dict()
        for name, tensor in own.items():
            if name in _TOLD or name not in weights:
                continue
            elif name in _BY_GENE:
                layer = name.partition(".")[0]
                if layer == "gene_decoder" and not self._same_output(source.arguments):
                    continue
                if layer in self.module.warm_layers:
                    setattr(self.module, f"warm_{layer}", warm)
                if layer == "gene_encoder":
                    # A gene that the other model did not know says nothing yet, and learns to.
                    tensor.zero_()
                tensor[here] = weights[name][there]
            elif tensor.shape == weights[name].shape:
                tensor.copy_(weights[name])
            else:
                raise _other_shape(name, tensor, weights[name])
        for name, offset in self._carry_told(source).items():
            own[name] += offset

    def _same_output(self, theirs: Mapping[str, Any]) -> bool:
        """Whether the output layer of the other model means the same."""
        meaning = [
            "counts" if one["loss"] in ("nb", "zinb") else (one["loss"], one["output_activation"])
            for one in (self._arguments, theirs)
        ]
        return meaning[0] == meaning[1]

    def _carry_told(self, source: Backbone) -> dict[str, Tensor]:
        """Take over what is told of covariates; what it adds to biases, by their names."""
        weights, own = source.weights, self.module.state_dict()
        assert weights is not None
        there, here, n = source.setup, self.setup, source.n_latent
        added = {}
        if _ENCODER in weights:
            columns, added["gene_encoder.bias"] = carry_covariates(weights[_ENCODER], there, here)
            if _ENCODER in own:
                own[_ENCODER].copy_(columns)
        elif _ENCODER in own:
            own[_ENCODER].zero_()
        if _DECODER in own and _DECODER in weights:
            if (mine := own[_DECODER]).shape[0] != (theirs := weights[_DECODER]).shape[0]:
                raise _other_shape(_DECODER, mine, theirs)
            columns, added["decoder.layers.0.bias"] = carry_covariates(theirs[:, n:], there, here)
            mine.copy_(torch.cat([theirs[:, :n], columns], dim=1))
        log_untold(there, here)
        return added


def _mask_of(other: Any, rows: np.ndarray, kwargs: dict[str, Any]) -> dict[str, Any]:
    """The mask of another model as arguments of this one; what `kwargs` say of it is taken out.

    Parameters
    ----------
    other
        The other model.
    rows
        Position of each gene among those of the other model, -1 where it does not know it.
    kwargs
        What the user gave.
    """
    mask = other.module.masking
    if mask is None or not is_own_mask(mask):
        what = "is not known any more" if mask is None else f"({mask!r}) is not one of scssl"
        raise ValueError(
            f"The mask of the other model {what}. Say what is to be hidden: "
            'from_ssl_model(model, adata, masking="random")'
        )
    if kwargs.get("programs_key") is not None:
        # The programmes are those of `adata`.
        config = mask.config()
        rest = ("name", "programs", "rate")
        options = {name: value for name, value in config.items() if name not in rest}
        options |= dict(kwargs.pop("mask_options", None) or {})
        rate = kwargs.pop("mask_rate", None)
        rate = config.get("rate") if rate is None else rate
        return {"masking": config["name"], "mask_rate": rate, "mask_options": options}
    rate, options = kwargs.pop("mask_rate", None), kwargs.pop("mask_options", None)
    programs = getattr(mask, "programs", None)
    if programs is not None:
        position = {int(row): gene for gene, row in enumerate(rows) if row >= 0}
        n_programs = len(programs)
        programs = programs.mapped(position, len(rows))
        if programs is None:
            raise ValueError(
                f"Of the {n_programs} gene programmes of the mask of the other model none has its genes "
                "in `adata`. Say what is to be hidden: "
                'from_ssl_model(model, adata, masking="random")'
            )
        _LOGGER.info("%d of %d gene programmes of the mask are left.", len(programs), n_programs)
    return {"masking": remade(mask, programs=programs, rate=rate, options=options)}


def _other_shape(name: str, ours: Tensor, theirs: Tensor) -> ValueError:
    msg = (
        f"{name} has the shape {tuple(ours.shape)} here and {tuple(theirs.shape)} in the other model. "
        "Leave the architecture as it is there."
    )
    return ValueError(msg)
