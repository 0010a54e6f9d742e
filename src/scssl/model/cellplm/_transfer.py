"""A CellPLM on new data that starts from the weights of another one."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import torch
from torch import Tensor
from torch.nn import functional

from scssl.data import Datasets, GeneVocabulary
from scssl.model.base import Backbone, DataSetup, backbone_of, check_anndata, known_genes
from scssl.nn import N_GROUPS

from ._network import CellPLMModule

if TYPE_CHECKING:
    from anndata import AnnData

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
# What a new model takes over from the arguments of the other one.
_ARCHITECTURE = (
    "n_hidden",
    "n_layers",
    "n_heads",
    "n_latent",
    "latent",
    "n_clusters",
    "attention",
    "dropout",
    "decoder_width",
    "loss",
    "mask_cells",
    "mask_rate",
    "visible_weight",
    "context",
    "context_size",
    "halo",
    "position",
)
# With the same objective, too. What weighs little beside the reconstruction of all genes would be most of
# the loss beside that of labels.
_LATENT = ("kl_weight", "free_bits")
_HIDDEN = "decoder.hidden.weight"
# Never taken over: they belong to the columns and labels of the other model.
_OWN = ("decoder.covariates.", "decoder.continuous.", "head.", "projector.")


class CellPLMTransferMixin:
    """Start from another CellPLM, gene by gene."""

    module: CellPLMModule
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
        adata: AnnData | Datasets,
        *,
        objective: Literal["reconstruction", "kl", "cross_entropy", "supcon"] = "reconstruction",
        sample_key: str | None = None,
        spatial_key: str | None = None,
        batch_key: str | None = None,
        labels_key: str | None = None,
        categorical_covariate_keys: Sequence[str] | None = None,
        continuous_covariate_keys: Sequence[str] | None = None,
        layer: str | None = None,
        min_overlap: float = 0.5,
        **kwargs: Any,
    ) -> Self:
        """Model on new data with the weights of a trained one, to go on with any of the objectives.

        The model has the genes of `adata`. Weights of genes are taken over by name; genes that the other
        model does not know start at zero in the encoder, and at their mean expression in the decoder. Cells
        are then embedded as by the other model: they are told their place if they were there
        (``position="sinusoidal"``, with a `spatial_key`, tells them anew). What the decoder is told of batches
        starts anew, with the mean that it had in the other model, and so do layers of another shape. The
        weight of the latent term is that of the other model for ``"reconstruction"``, and that of a new model
        for what is learnt from labels.

        Parameters
        ----------
        model
            Trained CellPLM, the folder of one or its name on the Hugging Face Hub.
        adata
            Cells to adapt to, or several data sets of which some lack genes, such as a reference and a panel
            to impute. Set up here, with the columns below.
        objective
            What is learnt, see the class.
        sample_key, spatial_key, batch_key, labels_key
            As in :meth:`setup_anndata`; of data sets, the batch is the data set.
        categorical_covariate_keys, continuous_covariate_keys
            As in :meth:`setup_anndata`.
        layer
            Layer with values of the kind that the model was trained on; ``adata.X`` by default.
        min_overlap
            Share of the genes of `adata` that the other model must know.
        **kwargs
            Arguments of the model that differ.

        Raises
        ------
        GeneMismatchError
            If the other model knows too few of the genes.
        TypeError
            If it is no CellPLM.
        ValueError
            If an argument is not what it can be.

        Examples
        --------
        >>> import scssl
        >>> adata = scssl.datasets.pbmc68k_reduced()
        >>> scssl.model.CellPLM.setup_anndata(adata)
        >>> model = scssl.model.CellPLM(adata, n_hidden=32, n_layers=1)
        >>> model.train(max_epochs=2, progress=False)
        >>> tuned = scssl.model.CellPLM.from_ssl_model(
        ...     model, adata, objective="cross_entropy", labels_key="bulk_labels"
        ... )
        >>> tuned.train(max_epochs=2, progress=False)
        """
        source = backbone_of(model)
        if source.model_class != cls.__name__:
            raise TypeError(
                f"The weights are those of a {source.model_class}, not of a {cls.__name__}."
            )
        if isinstance(adata, Datasets):
            names = adata.genes.names
        else:
            check_anndata(adata)
            names = adata.var_names
        # Before the matrix is read: what is wrong with the genes is wrong with all the rest.
        known_genes(source.genes, names, min_overlap)
        read = source.setup_arguments(covariates=False)
        keys: dict[str, Any] = {
            "layer": layer,
            "sample_key": sample_key,
            "spatial_key": spatial_key,
            "labels_key": labels_key,
            "input": read["input"],
            "target_sum": read["target_sum"],
        }
        told = {
            "batch_key": batch_key,
            "categorical_covariate_keys": categorical_covariate_keys,
            "continuous_covariate_keys": continuous_covariate_keys,
        }
        maker: Any = cls
        if isinstance(adata, Datasets):
            given = [name for name, value in told.items() if value]
            if given:
                raise ValueError(
                    f"Of several data sets the decoder is told the data set alone; leave `{given[0]}` out."
                )
            maker.setup_datasets(adata, **keys)
        else:
            maker.setup_anndata(adata, **keys, **told)
        same = objective == "reconstruction"
        taken = (*_ARCHITECTURE, *_LATENT) if same else _ARCHITECTURE
        arguments = {name: source.arguments[name] for name in taken}
        if spatial_key is None:
            arguments["position"] = "off"
            if arguments["context"] == "tiles":
                arguments["context"] = "sample"
        new: Self = maker(adata, **{**arguments, "objective": objective, **kwargs})
        new._start_from(source, min_overlap)
        return new

    @torch.no_grad()
    def _start_from(self, source: Backbone, min_overlap: float) -> None:
        """Take over the weights of another model."""
        assert source.weights is not None
        rows = torch.from_numpy(known_genes(source.genes, self.genes.names, min_overlap))
        known = rows >= 0
        anew = []
        for name, tensor in self.module.state_dict().items():
            theirs = source.weights.get(name)
            if name.startswith(_OWN):
                continue
            if theirs is None or theirs.shape[1:] != tensor.shape[1:]:
                anew.append(name)
            elif name in _BY_GENE:
                if _BY_GENE[name]:
                    tensor.zero_()
                tensor[known] = theirs[rows[known]].to(tensor)
            elif theirs.shape == tensor.shape:
                tensor.copy_(theirs)
            else:
                anew.append(name)
        self._keep_mean_covariate(source.weights)
        # Part of what is saved: a model that is loaded before it is trained still starts from the other one.
        self.module.warm_genes = known
        if not known.all():
            _LOGGER.info("%d of %d genes are new to the model.", int((~known).sum()), len(known))
        if anew:
            _LOGGER.info("%d tensors start anew: %s.", len(anew), _names(anew, source.weights))

    def _keep_mean_covariate(self, theirs: Mapping[str, Tensor]) -> None:
        """Tell the decoder on average what the other one was told of covariates."""
        ours = self.module.state_dict()
        weight, bias = (ours.get(f"decoder.hidden.{kind}") for kind in ("weight", "bias"))
        if (
            weight is None
            or bias is None
            or not torch.equal(weight.cpu(), theirs.get(_HIDDEN, bias))
        ):
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


def _names(anew: Sequence[str], weights: Mapping[str, Tensor]) -> str:
    shown = [f"{name} ({'another shape' if name in weights else 'not there'})" for name in anew]
    return ", ".join(shown[:6]) + (", ..." if len(shown) > 6 else "")
