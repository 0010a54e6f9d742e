"""Cells embedded with their neighbours in space, by attention or by graph convolution."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from anndata import AnnData

from scssl._checks import check_adata, check_key, some
from scssl._random import RNG
from scssl.data import GeneVocabulary, GraphContext
from scssl.model.base import (
    GRAPH,
    Backbone,
    CellReader,
    DataSetup,
    SetupArgument,
    SSLModel,
    backbone_of,
    check_like,
    context_of,
    known_genes,
    record_tissue,
    register_model,
    takes,
    tell_tissue,
)

from ._network import GraphSTModule, SpatialModule, STAGATEModule
from ._options import GraphSTOptions, SpatialOptions, STAGATEOptions

_LOGGER = logging.getLogger("scssl")
# Where squidpy and scssl.pp.spatial_neighbors write a graph.
_USUAL = "spatial_connectivities"
# Cells of a step where a tissue has more.
_BATCH = 8192
_NO_COVARIATES = "does not decode covariates"


class _SpatialModel(SSLModel):
    """What the models of neighbours in space have in common."""

    module: SpatialModule
    _Options: ClassVar[type[SpatialOptions]]
    _Module: ClassVar[Any]
    _train_options: ClassVar[Mapping[str, Any]]
    _setup_takes: ClassVar[Mapping[str, SetupArgument]] = {
        "use_rep": SetupArgument(
            """Entry of ``adata.obsm`` to read in place of expression, such as ``"X_pca"`` or the embedding of
            another model; its dimensions are taken as they are. By default expression is read.""",
            str | None,
        ),
        **GRAPH,
        "spatial_key": replace(GRAPH["spatial_key"], default="spatial"),
        "connectivity_key": replace(
            GRAPH["connectivity_key"],
            text="""Entry of ``adata.obsp`` with the neighbours of each cell, as
            :func:`scssl.pp.spatial_neighbors` or squidpy writes it; weights are not used. Where it is not there,
            or `None`, the model finds neighbours by place. All data that the model reads are then treated
            alike.""",
            default=_USUAL,
        ),
        "batch_key": SetupArgument(
            "Column of ``adata.obs`` with the batch, which is the section where there is no `sample_key`; a "
            "column to be checked and kept otherwise."
        ),
    }
    _setup_refuses: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("categorical_covariate_keys", "continuous_covariate_keys"), _NO_COVARIATES
    )

    def _start(self, options: Mapping[str, Any], rng: RNG) -> None:
        self._options = chosen = self._Options.chosen(options)
        self._arguments = chosen.to_dict()
        self._start_module(rng)
        seen = f"{chosen.n_neighbors} neighbours"
        if self.setup.connectivity_key is not None:
            seen = f"neighbours of {self.setup.connectivity_key}"
        elif chosen.radius is not None:
            seen = f"neighbours within {chosen.radius:g}"
        if self._adata is not None:
            context = context_of(self._adata, self.setup, chosen.contexts())
            assert isinstance(context, GraphContext)
            degrees = np.diff(context.graph.indptr) - 1
            told = "%s: %g neighbours of a cell (median); %d cells have none."
            _LOGGER.info(told, type(self).__name__, np.median(degrees), (degrees == 0).sum())
        self._model_summary_string = (
            f"{len(self.genes)} {'genes' if self.setup.use_rep is None else 'dimensions'}, "
            f"embedding of {chosen.n_latent}, {seen}"
        )

    @classmethod
    def _checked_setup(cls, data: Any, given: dict[str, Any]) -> dict[str, Any]:
        if given.get("connectivity_key") == _USUAL and _USUAL not in data.obsp:
            given = {**given, "connectivity_key": None}
        elif given["spatial_key"] == "spatial" and "spatial" not in data.obsm:
            # The graph says enough of who are neighbours.
            given = {**given, "spatial_key": None}
        if given["sample_key"] is None:
            given = {**given, "sample_key": given["batch_key"]}
        if given["connectivity_key"] is None and given["spatial_key"] is None:
            raise ValueError(
                f'{cls.__name__} sees neighbours. Say where cells are: `spatial_key="spatial"`'
            )
        if given["use_rep"] is not None:
            check_key(given["use_rep"], "use_rep")
            if given["layer"] is not None:
                raise ValueError(
                    f"The model reads adata.obsm[{given['use_rep']!r}] or a layer, found "
                    f"layer={given['layer']!r} too. Leave one out."
                )
        return super()._checked_setup(data, given)

    @classmethod
    def _also_recorded(
        cls, data: Any, setup: DataSetup, given: Mapping[str, Any]
    ) -> dict[str, Any]:
        return {"fingerprint": record_tissue(data, setup, neighbors=True)}

    @classmethod
    def _build_module(
        cls, arguments: Mapping[str, Any], *, genes: GeneVocabulary, setup: DataSetup
    ) -> SpatialModule:
        module: SpatialModule = cls._Module(len(genes), cls._Options(**arguments))
        return module

    def _also_read(self, reader: CellReader, data: Any) -> None:
        tell_tissue(reader, data, self._options.contexts())

    def _backbone(self) -> Backbone:
        if self.setup.use_rep is not None:
            raise ValueError(
                f"The model reads {self.setup.where} and no genes, so no other model can start from it. "
                "Train a new one."
            )
        return super()._backbone()

    def _train_defaults(self, n_cells: int) -> dict[str, Any]:
        n_epochs = self._train_options["max_epochs"]
        n_steps = -(-n_cells // _BATCH)
        return {
            **self._train_options,
            # Of many steps in an epoch fewer are needed.
            "max_epochs": max(-(-n_epochs // n_steps), min(n_epochs, 50)),
            "batch_size": _BATCH,
            "lr": 1e-3,
            "lr_schedule": "constant",
            "patience": 50,
        }

    @classmethod
    def from_ssl_model(
        cls,
        model: SSLModel | str | Path,
        adata: AnnData,
        *,
        spatial_key: str | Sequence[str] | None = None,
        sample_key: str | None = None,
        connectivity_key: str | None = None,
        batch_key: str | None = None,
        labels_key: str | None = None,
        layer: str | None = None,
        min_overlap: float = 0.5,
        **kwargs: Any,
    ) -> Self:
        """Model on new data with the weights of a trained one of the same class, to go on with.

        Weights of genes are taken over by name; genes that the other model does not know start at zero in the
        encoder. Kind of input and normalisation are those of the other model.

        Parameters
        ----------
        model
            Trained model, the folder of one or its name on the Hugging Face Hub.
        adata
            Cells to learn from. Set up here, with the columns below.
        spatial_key, sample_key, connectivity_key
            As in :meth:`setup_anndata`; by default those of the other model.
        batch_key, labels_key
            As in :meth:`setup_anndata`.
        layer
            Layer with values of the kind that the model was trained on; ``adata.X`` by default.
        min_overlap
            Share of the genes of `adata` that the other model must know.
        **kwargs
            Arguments of the model that differ, such as `n_neighbors`.

        Raises
        ------
        GeneMismatchError
            If the other model knows too few of the genes.
        TypeError
            If it is of another class.
        ValueError
            If an argument changes the layers, or the model reads an embedding and no genes.
        """
        source = backbone_of(model, cls)
        check_adata(adata, matrix=True)
        # Before the matrix is read: what is wrong with the genes is wrong with all the rest.
        known = known_genes(source.genes, adata.var_names, min_overlap) >= 0
        told = {
            "spatial_key": spatial_key,
            "sample_key": sample_key,
            "connectivity_key": connectivity_key,
        }
        read = {"connectivity_key": None, **source.setup_arguments(covariates=False)}
        read |= {name: key for name, key in told.items() if key is not None}
        read |= {"batch_key": batch_key, "labels_key": labels_key, "layer": layer}
        cls.setup_anndata(adata, **read)
        arguments = {k: v for k, v in source.arguments.items() if k != "decoder"}
        new = cls(adata, **{**arguments, **kwargs})
        check_like(adata, new.setup, source.setup)
        weights = source.on_genes(new.genes.names).weights
        assert weights is not None
        state = new.module.state_dict()
        others = [name for name in state if name.startswith(("gene_encoder", "encoder"))]
        if any(weights[name].shape != state[name].shape for name in others):
            raise ValueError(
                f"The layers of the {cls.__name__} to start from are others. Leave {some(kwargs)} out."
            )
        with torch.no_grad():
            for name, value in state.items():
                if name in weights and weights[name].shape == value.shape:
                    value.copy_(weights[name])
        new.module.warm_gene_encoder = torch.from_numpy(known)
        return new


@register_model
class STAGATE(_SpatialModel):
    """Learn embeddings of cells and their neighbours in space by attention :cite:p:`Dong2022`.

    An autoencoder of expression: a layer on the genes, attention of a cell to its neighbours and itself, and a
    layer to the embedding; the decoder has the same weights, transposed, and the same attention. Neighbours go
    both ways, and never from one section to another. The embedding of a cell depends on its neighbours.

    Parameters
    ----------
    n_hidden
        Width of the layer on the genes, 512 as in :cite:p:`Dong2022`.
    n_latent
        Width of the embedding, 30 as in :cite:p:`Dong2022`.
    n_neighbors
        Nearest cells that are neighbours where the data have no graph; 6, what a spot of Visium has, for which
        :cite:p:`Dong2022` choose the radius.
    radius
        Largest distance of neighbours, in the unit of the places, instead of their number.

    Notes
    -----
    Trained as published for 1,000 steps on the whole tissue, at a rate of 1e-3, with a weight decay of 1e-4
    (decoupled, as in all models here) and gradients clipped at a norm of 5; of more than 8,192 cells a step is on
    a piece of the tissue with all that its cells see. Published are the 3,000 most variable genes: choose them
    where there are more.

    Examples
    --------
    >>> import numpy as np, scssl
    >>> adata = scssl.datasets.pbmc68k_reduced()
    >>> adata.obsm["spatial"] = np.random.default_rng(0).random((adata.n_obs, 2))
    >>> scssl.model.STAGATE.setup_anndata(adata)
    >>> model = scssl.model.STAGATE(adata, n_hidden=32)
    >>> model.train(max_epochs=2, progress=False)
    >>> model.get_latent_representation().shape
    (700, 30)
    """

    module: STAGATEModule
    _Options = STAGATEOptions
    _Module = STAGATEModule
    _train_options = {"max_epochs": 1000, "weight_decay": 1e-4, "gradient_clip": 5.0}

    @takes(STAGATEOptions)
    def __init__(
        self,
        adata: AnnData | None = None,
        registry: dict[str, Any] | None = None,
        *,
        rng: RNG = 0,
        **options: Any,
    ) -> None:
        super().__init__(adata, registry)
        self._start(options, rng)


@register_model
class GraphST(_SpatialModel):
    """Learn embeddings of cells and their neighbours by graph convolution and contrast :cite:p:`Long2023`.

    Embeddings are means over the neighbours of what a layer makes of the genes, weighted by the numbers of
    neighbours. Expression is reconstructed from the embeddings of the neighbours, and what a neighbourhood
    has in the mean must tell its cell from that of a tissue whose cells were shuffled, and the other way round.
    Neighbours go both ways, and never from one section to another; cells are shuffled within sections.

    Parameters
    ----------
    n_latent
        Width of the embedding, 64 as in :cite:p:`Long2023`.
    n_neighbors
        Nearest cells that are neighbours where the data have no graph; 3 as in :cite:p:`Long2023`.
    radius
        Largest distance of neighbours, in the unit of the places, instead of their number.
    reconstruction_weight
        Weight of the mean squared error, 10 as in :cite:p:`Long2023`.
    contrast_weight
        Weight of the contrast, 1 as in :cite:p:`Long2023`.
    decoder
        Whether there is a decoder. A model without one embeds and can be fine-tuned, no more.

    Notes
    -----
    Trained as published for 600 steps on the whole tissue, at a rate of 1e-3; of more than 8,192 cells a step is on
    a piece of the tissue with all that its cells see. Published are the 3,000 most variable genes, each divided
    by its standard deviation: here genes are read as by all models. Domains are published from the first
    principal components of the reconstruction; here the embedding is what the reconstruction is made from.

    Examples
    --------
    >>> import numpy as np, scanpy as sc, scssl
    >>> adata = scssl.datasets.pbmc68k_reduced()
    >>> sc.pp.pca(adata)
    >>> adata.obsm["spatial"] = np.random.default_rng(0).random((adata.n_obs, 2))
    >>> scssl.model.GraphST.setup_anndata(adata, use_rep="X_pca")
    >>> model = scssl.model.GraphST(adata)
    >>> model.train(max_epochs=2, progress=False)
    >>> model.get_latent_representation().shape
    (700, 64)
    """

    module: GraphSTModule
    _Options = GraphSTOptions
    _Module = GraphSTModule
    _train_options = {"max_epochs": 600, "weight_decay": 0.0}

    @takes(GraphSTOptions)
    def __init__(
        self,
        adata: AnnData | None = None,
        registry: dict[str, Any] | None = None,
        *,
        rng: RNG = 0,
        **options: Any,
    ) -> None:
        super().__init__(adata, registry)
        self._start(options, rng)
