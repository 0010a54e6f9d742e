"""Weights of one CellPLM in another one, gene by gene."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

from scssl.data import GeneVocabulary
from scssl.model.base import Backbone, known_genes
from scssl.nn import N_GROUPS

from ._network import CellPLMModule

_LOGGER = logging.getLogger("scssl")
# Tensors with one row per gene, and whether new genes start at zero in them.
_BY_GENE = {
    "gene_encoder.weight": True,
    "gene_decoder.weight": False,
    "gene_decoder.bias": False,
    "zero_decoder.weight": False,
    "zero_decoder.bias": False,
    "log_dispersion": False,
}
_HIDDEN = "decoder.hidden.weight"
# Never taken over: they belong to the columns and labels of the other model.
_OWN = ("decoder.covariates.", "decoder.continuous.", "head.", "projector.")


@torch.no_grad()
def take_over(
    module: CellPLMModule, genes: GeneVocabulary, source: Backbone, min_overlap: float
) -> None:
    """Give a new module the weights of another model, those of genes by name."""
    assert source.weights is not None
    rows = torch.from_numpy(known_genes(source.genes, genes.names, min_overlap))
    known, anew = rows >= 0, []
    for name, tensor in module.state_dict().items():
        theirs = source.weights.get(name)
        if name.startswith(_OWN):
            continue
        if theirs is None or theirs.shape[1:] != tensor.shape[1:]:
            anew.append(f"{name} ({'not there' if theirs is None else 'another shape'})")
        elif name in _BY_GENE:
            if _BY_GENE[name]:
                tensor.zero_()
            tensor[known] = theirs[rows[known]].to(tensor)
        elif theirs.shape == tensor.shape:
            tensor.copy_(theirs)
        else:
            anew.append(f"{name} (another shape)")
    _keep_mean_covariate(module.state_dict(), source.weights)
    # Part of what is saved: a model that is loaded before it is trained still starts from the other one.
    module.warm_genes = known
    if not known.all():
        _LOGGER.info("%d of %d genes are new to the model.", int((~known).sum()), len(known))
    if anew:
        shown = ", ".join(anew[:6]) + (", ..." if len(anew) > 6 else "")
        _LOGGER.info("%d tensors start anew: %s.", len(anew), shown)


def _keep_mean_covariate(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> None:
    """Tell the decoder on average what the other one was told of covariates."""
    weight, bias = (ours.get(f"decoder.hidden.{kind}") for kind in ("weight", "bias"))
    if weight is None or bias is None or not torch.equal(weight.cpu(), theirs.get(_HIDDEN, bias)):
        return
    # Nothing but a sum is between the covariates and this layer, so a constant is part of its bias.
    shift = _mean_covariate(theirs, len(weight.T)) - _mean_covariate(ours, len(weight.T))
    bias += weight @ shift.to(weight)


def _mean_covariate(weights: Mapping[str, Tensor], n_hidden: int) -> Tensor:
    """Sum of what the covariates of a decoder add on average over their categories."""
    total = torch.zeros(n_hidden)
    number = 0
    while (prefix := f"decoder.covariates.{number}.") + "embedding.weight" in weights:
        names = ("embedding.weight", "activation.weight", "norm.weight", "norm.bias")
        rows, slope, scale, offset = (weights[prefix + name].cpu() for name in names)
        rows = functional.group_norm(functional.prelu(rows, slope), N_GROUPS, scale, offset)
        total += rows.mean(dim=0)
        number += 1
    return total
