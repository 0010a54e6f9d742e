"""Weights that a masked autoencoder takes over from another one: by name, where they mean the same."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scssl.data import GeneVocabulary
from scssl.model.base import Backbone, DataSetup, known_genes

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
    "linear_path.weight",
)
# What is told of covariates: a column each, in the decoder after those of the embedding.
_ENCODER, _DECODER = "covariate_encoder.weight", "decoder.layers.0.weight"


@torch.no_grad()
def take_weights(
    module: MaskedAutoencoderModule,
    genes: GeneVocabulary,
    setup: DataSetup,
    arguments: Mapping[str, Any],
    source: Backbone,
    min_overlap: float,
) -> None:
    """Take over the weights of another model that knows at least this share of the genes.

    Module, genes, setup and arguments are those of the new model, `source` is the other one.
    """
    weights, own = source.weights, module.state_dict()
    assert weights is not None
    rows = known_genes(source.genes, genes.names, min_overlap)
    known = np.flatnonzero(rows >= 0)
    if len(known) < len(rows):
        _LOGGER.info("%d of %d genes are new to the model.", len(rows) - len(known), len(rows))
    here, there = torch.from_numpy(known), torch.from_numpy(rows[known])
    same_output = _output_of(arguments) == _output_of(source.arguments)
    for name, tensor in own.items():
        if name in (_ENCODER, _DECODER) or name not in weights:
            continue
        elif name in _BY_GENE:
            layer = name.partition(".")[0]
            if layer == "gene_decoder" and not same_output:
                continue
            if layer in module.warm_layers:
                setattr(module, f"warm_{layer}", torch.from_numpy(rows >= 0))
            if tensor.shape[1:] != weights[name].shape[1:]:
                raise _other_shape(name, tensor, weights[name])
            if layer in ("gene_encoder", "linear_path"):
                # A gene that the other model did not know says nothing yet, and learns to.
                tensor.zero_()
            tensor[here] = weights[name][there]
        elif tensor.shape == weights[name].shape:
            tensor.copy_(weights[name])
        else:
            raise _other_shape(name, tensor, weights[name])
    for name, offset in _take_told(
        own, weights, source.setup, setup, source.arguments["n_latent"]
    ).items():
        own[name] += offset
    _log_untold(source.setup, setup)


def _output_of(arguments: Mapping[str, Any]) -> Any:
    """What the output layer of a model with these arguments means."""
    if arguments["loss"] in ("nb", "zinb"):
        return "counts"
    return arguments["loss"], arguments["output_activation"]


def _other_shape(name: str, ours: Tensor, theirs: Tensor) -> ValueError:
    return ValueError(
        f"{name} has the shape {tuple(ours.shape)} here and {tuple(theirs.shape)} in the other model. "
        "Leave the architecture as it is there."
    )


def _take_told(
    own: Mapping[str, Tensor],
    weights: Mapping[str, Tensor],
    there: DataSetup,
    here: DataSetup,
    n_latent: int,
) -> dict[str, Tensor]:
    """Take over what is told of covariates; what it adds to biases, by their names."""
    added = {}
    if _ENCODER in weights:
        columns, added["gene_encoder.bias"] = _carried(weights[_ENCODER], there, here)
        if _ENCODER in own:
            own[_ENCODER].copy_(columns)
    elif _ENCODER in own:
        own[_ENCODER].zero_()
    if _DECODER in own and _DECODER in weights:
        mine, theirs = own[_DECODER], weights[_DECODER]
        if len(mine) != len(theirs):
            raise _other_shape(_DECODER, mine, theirs)
        columns, added["decoder.layers.0.bias"] = _carried(theirs[:, n_latent:], there, here)
        mine.copy_(torch.cat([theirs[:, :n_latent], columns], dim=1))
    return added


def _columns(setup: DataSetup) -> list[tuple[str, str | None]]:
    """Column of ``obs`` and category of each input that tells covariates; `None` for a number."""
    keys = dict.fromkeys(setup.covariate_keys())
    told: list[tuple[str, str | None]] = [(k, name) for k in keys for name in setup.categories[k]]
    return told + [(key, None) for key in setup.continuous_keys]


def _carried(weight: Tensor, there: DataSetup, here: DataSetup) -> tuple[Tensor, Tensor]:
    """Weights of covariates for a model that is told others, and what goes into the bias.

    Categories that both know keep their weights, continuous covariates too. All others have 0, and
    then 0 has to be the mean over the categories that the other model knows: without it a new
    category would be far from all of them.
    """
    place = {name: i for i, name in enumerate(_columns(here))}
    columns = weight.new_zeros(len(weight), len(place))
    offset = weight.new_zeros(len(weight))
    start = 0
    for key in dict.fromkeys(there.covariate_keys()):
        names = there.categories[key]
        part = weight[:, start : start + len(names)]
        start += len(names)
        ours = here.categories[key] if key in here.covariate_keys() else None
        if ours is None or not set(ours) <= set(names):
            mean = part.mean(1)
            offset += mean
            part = part - mean[:, None]
        for i, name in enumerate(names):
            if (key, name) in place:
                columns[:, place[key, name]] = part[:, i]
    for i, key in enumerate(there.continuous_keys, start):
        if (key, None) in place:
            # The same number is told as another one where it is standardised otherwise.
            (shift, spread), (own_shift, own_spread) = (
                one.continuous_scale.get(key, (0.0, 1.0)) for one in (there, here)
            )
            columns[:, place[key, None]] = weight[:, i] * (own_spread / spread)
            offset += weight[:, i] * ((own_shift - shift) / spread)
    return columns, offset


def _log_untold(there: DataSetup, here: DataSetup) -> None:
    """Say which covariates of the other model this one is not told."""
    ours = {key for key, _ in _columns(here)}
    for key in dict.fromkeys(there.covariate_keys()):
        if key not in ours:
            _LOGGER.info(
                "The model is not told %r, which the other one was: it starts at the mean over its %d "
                "categories.",
                key,
                len(there.categories[key]),
            )
        elif new := sorted(set(here.categories[key]) - set(there.categories[key])):
            _LOGGER.info(
                "%d categories of %r are new, such as %r: they start at the mean over the others.",
                len(new),
                key,
                new[0],
            )
    for key in there.continuous_keys:
        if key not in ours:
            mean = there.continuous_scale.get(key, (0.0,))[0]
            told = "The model is not told %r, which the other one was: taken as %.4g."
            _LOGGER.info(told, key, mean)
