"""Cells as tokens, tissues as sequences."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from scssl._checks import check_whole
from scssl._errors import warn
from scssl._random import RNG, as_seed, derive_seed
from scssl.augment import CellMask
from scssl.data import ContextOptions, Datasets, GeneVocabulary
from scssl.data.keys import LABELS, category_key
from scssl.model.base import (
    CellReader,
    DataSetup,
    check_label_column,
    label_codes,
    register_model,
    trained_classes,
)
from scssl.objective import SUPCON_TEMPERATURE

from ._checks import check_arguments, check_pairs
from ._from_pretrained import PublishedCellPLMMixin
from ._imputation import ImputationMixin
from ._network import SUPERVISED, CellPLMModule
from ._setup import PANEL_GENES, CellPLMSetup
from ._transfer import CellPLMTransferMixin

if TYPE_CHECKING:
    from anndata import AnnData

_LOGGER = logging.getLogger("scssl")
_DEFAULTS: dict[str, Any] = {
    "n_hidden": 128,
    "n_layers": 2,
    "n_heads": 4,
    "n_latent": 64,
    "latent": "vae",
    "dropout": 0.0,
    "visible_weight": 1.0,
    "kl_weight": 0.1,
    "warmup_steps": 500,
    "free_bits": 0.0,
    "cell_dropout": 0.0,
}
# What :cite:p:`Wen2024` pretrained with, and how.
_PUBLISHED: dict[str, Any] = {
    "n_hidden": 1024,
    "n_layers": 4,
    "n_heads": 8,
    "n_latent": 512,
    "latent": "gmvae",
    "dropout": 0.2,
    "decoder_width": 128,
    "visible_weight": 1.0,
    "warmup_steps": 10_000,
    "kl_weight": 5.0,
    "free_bits": 5.0,
    "cell_dropout": 0.3,
}
_PUBLISHED_TRAINING: dict[str, Any] = {
    "max_epochs": 200,
    "batch_size": 4000,
    "lr": 2e-4,
    "weight_decay": 1e-8,
    "lr_schedule": "cosine",
    "patience": 20,
}
# Width from which on the rate is that of the study that fine-tuned the published weights, of width 1,024;
# other rates were measured at widths of 128 and 256.
_WIDE = 512
# Least divergence of the clusters, as a share of the greatest: as great as that, it could not fall.
_CLUSTER_FREE = 0.25


@register_model
class CellPLM(PublishedCellPLMMixin, CellPLMTransferMixin, ImputationMixin, CellPLMSetup):
    """Learn embeddings of cells that see the other cells of their tissue :cite:p:`Wen2024`.

    Cells are tokens, a sample is a sequence: a linear layer on the genes of a cell, its place where it is
    known, attention among the cells of the sample at linear cost, and a Gaussian latent space from which
    hidden counts of some of the cells are predicted. The embedding of a cell is the mean of its latent
    variable; it depends on the other cells of the sample.

    Parameters
    ----------
    adata
        Data that were set up with :meth:`setup_anndata` or :meth:`setup_datasets`.
    registry
        Setup of a model that is loaded without data; not for users.
    n_hidden
        Width of a token, 128 by default; a multiple of 4 and of `n_heads`.
    n_layers, n_heads
        Layers of the transformer, 2 by default, and heads of each, 4 by default.
    n_latent
        Width of the embedding, 64 by default.
    latent
        ``"vae"``: one Gaussian per cell (default); ``"gmvae"``: one of `n_clusters` Gaussians
        :cite:p:`Wen2024`; ``"ae"``: a point.
    n_clusters
        Clusters of ``latent="gmvae"``, 16 as in :cite:p:`Wen2024`.
    attention
        ``"flow"``: at linear cost :cite:p:`Wu2022`; ``"softmax"``: at quadratic cost, for small samples.
    dropout
        Share of units dropped in training, 0 by default; 0.2 in :cite:p:`Wen2024`.
    decoder_width
        Width of the layer before the genes; by default `n_hidden`, at most 128 as in :cite:p:`Wen2024`.
    loss
        ``"nb"``, ``"zinb"``: negative log-likelihood of counts; ``"mse"``: squared error of the values.
        ``"auto"`` (default): ``"nb"`` for counts, ``"mse"`` for values that are normalised already.
    objective
        ``"reconstruction"`` (default). To fine-tune embeddings, as compared in the study of losses:
        ``"kl"``, the latent term alone, which collapses; ``"cross_entropy"`` and ``"supcon"``
        :cite:p:`Khosla2020`, of the labels at ``labels_key``, which these two do use as a target.
    mask_cells, mask_rate
        Share of the cells of which genes are hidden in training, and most frequent share of their genes,
        see :class:`scssl.augment.CellMask`; 0.75 and 0.25 as in :cite:p:`Wen2024`.
    visible_weight
        Weight of the reconstruction of all genes of all cells, beside that of what is hidden; 1 as in
        :cite:p:`Wen2024`. With 0 nothing is learnt from cells as they are when they are embedded.
    kl_weight, warmup_steps, free_bits
        Weight of the latent term, 0.1 by default, number of steps in which it rises to that, 500 by default, and
        nats per cell below which it costs nothing, 0 by default; 5, 10,000 and 5 for the mixture of
        :cite:p:`Wen2024` (for clusters, a quarter of the greatest divergence that there can be).
    temperature
        Of ``objective="supcon"``, 0.1 as in :cite:p:`Khosla2020`.
    context
        Which cells see each other. ``"sample"``: those of a sample (default). ``"tiles"``: those of a piece
        of tissue of at most `context_size` cells, with `halo` cells around it. ``"random"``: at most
        `context_size` cells of a sample at random, drawn by their position: in another order of the data
        other cells see each other. In training a batch is made of parts of samples.
    context_size, halo
        Number of cells.
    cell_dropout
        Share of the cells that is left out of each step of training, 0 by default; 0.3 in :cite:p:`Wen2024`.
    spatial_share
        Share of the cells of an epoch that have a place, where others have none; by default as they come.
    position
        ``"sinusoidal"``: tokens are told their place. ``"off"``: not. ``"auto"`` (default): where
        ``spatial_key`` was set up.
    decoder
        Whether there is a decoder. A model without one embeds and can be fine-tuned, no more.
    preset
        ``"cellplm"``: sizes and training of :cite:p:`Wen2024`. Arguments that are given replace its own.
    rng
        Seed of the initial weights.

    Examples
    --------
    >>> import numpy as np, scssl
    >>> adata = scssl.datasets.pbmc68k_reduced()
    >>> scssl.model.CellPLM.setup_anndata(adata)
    >>> model = scssl.model.CellPLM(adata, n_hidden=32, n_layers=1)
    >>> model.train(max_epochs=2, progress=False)
    >>> model.get_latent_representation().shape
    (700, 64)
    """

    module: CellPLMModule
    # Genes that a data set lacks are no zeros: they are left out of the loss.
    _learns_all_genes = False

    def __init__(
        self,
        adata: AnnData | Datasets | None = None,
        registry: dict[str, Any] | None = None,
        *,
        n_hidden: int | None = None,
        n_layers: int | None = None,
        n_heads: int | None = None,
        n_latent: int | None = None,
        latent: Literal["vae", "gmvae", "ae"] | None = None,
        n_clusters: int = 16,
        attention: Literal["flow", "softmax"] = "flow",
        dropout: float | None = None,
        decoder_width: int | None = None,
        loss: Literal["auto", "nb", "zinb", "mse"] = "auto",
        objective: Literal["reconstruction", "kl", "cross_entropy", "supcon"] = "reconstruction",
        mask_cells: float = 0.75,
        mask_rate: float = 0.25,
        visible_weight: float | None = None,
        kl_weight: float | None = None,
        warmup_steps: int | None = None,
        free_bits: float | None = None,
        temperature: float = SUPCON_TEMPERATURE,
        context: Literal["sample", "tiles", "random"] = "sample",
        context_size: int = 2000,
        halo: int = 200,
        cell_dropout: float | None = None,
        spatial_share: float | None = None,
        position: Literal["auto", "sinusoidal", "off"] = "auto",
        decoder: bool = True,
        preset: Literal["cellplm"] | None = None,
        rng: RNG = 0,
    ) -> None:
        super().__init__(adata, registry)
        if preset not in (None, "cellplm"):
            raise ValueError(f'`preset` must be "cellplm" or None, found {preset!r}.')
        recipe = {**_DEFAULTS, **({} if preset is None else _PUBLISHED)}
        if latent == "vae" and preset is not None:
            # Of the mixture: the divergence of one Gaussian counts once.
            recipe |= {"kl_weight": 1.0, "free_bits": 0.0}

        def chosen(name: str, given: Any) -> Any:
            return recipe[name] if given is None else given

        if preset is not None and adata is not None and self.setup.target_sum is not None:
            warn(
                "The published recipe reads log1p of the counts as they are, but these are scaled to "
                f"{self.setup.target_sum:g} per cell first. To do as published: "
                f"setup_anndata(adata, target_sum=None)"
            )
        if loss == "auto":
            loss = "nb" if self.setup.input_kind == "counts" else "mse"
        if position == "auto":
            position = "off" if self.setup.spatial_key is None else "sinusoidal"
        width = check_whole("n_hidden", chosen("n_hidden", n_hidden))
        self._arguments: dict[str, Any] = {
            "n_hidden": width,
            "n_layers": check_whole("n_layers", chosen("n_layers", n_layers)),
            "n_heads": check_whole("n_heads", chosen("n_heads", n_heads)),
            "n_latent": check_whole("n_latent", chosen("n_latent", n_latent)),
            "latent": chosen("latent", latent),
            "n_clusters": check_whole("n_clusters", n_clusters),
            "attention": attention,
            "dropout": float(chosen("dropout", dropout)),
            "decoder_width": min(128, width)
            if decoder_width is None
            else check_whole("decoder_width", decoder_width),
            "loss": loss,
            "objective": objective,
            "mask_cells": float(mask_cells),
            "mask_rate": float(mask_rate),
            "visible_weight": float(chosen("visible_weight", visible_weight)),
            "kl_weight": float(chosen("kl_weight", kl_weight)),
            "warmup_steps": int(chosen("warmup_steps", warmup_steps)),
            "free_bits": float(chosen("free_bits", free_bits)),
            "temperature": float(temperature),
            "context": context,
            "context_size": check_whole("context_size", context_size),
            "halo": int(halo),
            "cell_dropout": float(chosen("cell_dropout", cell_dropout)),
            "spatial_share": None if spatial_share is None else float(spatial_share),
            "position": position,
            "decoder": bool(decoder),
            "preset": preset,
        }
        check_arguments(self._arguments, self.setup)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(as_seed(rng), "weights"))
            self.module = self._build_module(self._arguments, genes=self.genes, setup=self.setup)
        a = self._arguments
        self._model_summary_string = (
            f"{len(self.genes)} genes, {a['n_layers']} layers of {a['n_hidden']} with {a['n_heads']} heads of "
            f"{attention} attention, {a['latent']} of {a['n_latent']}, "
            f"{'with' if position == 'sinusoidal' else 'without'} positions, context {context}, "
            f"objective {objective}"
        )
        self.init_params_ = self._get_init_params(locals())

    @property
    def _supervised(self) -> bool:
        return self._arguments["objective"] in SUPERVISED

    @classmethod
    def _build_module(
        cls, arguments: Mapping[str, Any], *, genes: GeneVocabulary, setup: DataSetup
    ) -> CellPLMModule:
        names = ["n_hidden", "n_layers", "n_heads", "n_latent", "attention", "dropout", "latent"]
        names += ["n_clusters", "decoder_width", "loss", "objective", "visible_weight", "decoder"]
        names += ["warmup_steps", "free_bits", "temperature"]
        supervised = arguments["objective"] in SUPERVISED
        return CellPLMModule(
            len(genes),
            **{name: arguments[name] for name in names},
            positions=arguments["position"] == "sinusoidal",
            latent_weight=arguments["kl_weight"],
            cluster_free_bits=_CLUSTER_FREE * float(np.log(arguments["n_clusters"])),
            mask=CellMask(arguments["mask_cells"], arguments["mask_rate"]),
            context=ContextOptions(
                arguments["context"],
                arguments["context_size"],
                arguments["halo"],
                arguments["cell_dropout"],
                arguments["spatial_share"],
            ),
            n_categories={
                category_key(key): len(setup.categories[key]) for key in setup.covariate_keys()
            },
            n_continuous=len(setup.continuous_keys),
            n_classes=len(trained_classes(setup, None)) if supervised else 0,
        )

    @classmethod
    def _encoder_arguments(cls, arguments: Mapping[str, Any]) -> dict[str, Any]:
        # Whatever it learnt from, what is left of it embeds.
        return {**arguments, "decoder": False, "objective": "reconstruction"}

    def _config(self) -> dict[str, Any]:
        return self._arguments

    def _tell_panels(self, data: CellReader) -> None:
        found = data.measured
        device = self.module.device
        self.module.measured = None if found is None else torch.from_numpy(found).to(device)

    def _apply(self, data: CellReader, *args: Any) -> np.ndarray:
        # A callback may read other data in training, which goes on with its own panels.
        before = self.module.measured
        self._tell_panels(data)
        try:
            return super()._apply(data, *args)
        finally:
            self.module.measured = before

    def _training_data(self) -> CellReader:
        data = super()._training_data()
        self._tell_panels(data)
        data.counts = self._arguments["loss"] != "mse"
        if self._supervised:
            key = self.setup.labels_key
            assert key is not None
            classes = trained_classes(self.setup, None)
            check_label_column(data.adata, key, None)
            data.obs[LABELS] = label_codes(data.adata, key, classes, None)
            if self._arguments["objective"] == "supcon":
                check_pairs(data.obs[LABELS], key)
            data.fills_context = True
            if self._arguments["objective"] == "supcon":
                # A label with one cell in a batch has no pair there.
                data.balance = data.obs[LABELS]
        return data

    def _training_cells(self, data: CellReader) -> np.ndarray:
        if not self._supervised:
            return super()._training_cells(data)
        labelled = np.flatnonzero(data.obs[LABELS] >= 0)
        _LOGGER.info("%s of %s cells have a label.", f"{len(labelled):,}", f"{data.n_cells:,}")
        return labelled

    def _train_defaults(self, n_cells: int) -> dict[str, Any]:
        if self._arguments["preset"] is not None:
            return dict(_PUBLISHED_TRAINING)
        epochs = round(250_000 / max(n_cells, 1))
        return {
            "max_epochs": int(np.clip(epochs, 20, 100)),
            "batch_size": 256 if n_cells < 20_000 else 1024,
            "lr": self._default_lr(),
            "weight_decay": 1e-2,
            "lr_schedule": "cosine",
            "patience": 20,
        }

    def _default_lr(self) -> float:
        if self._arguments["n_hidden"] >= _WIDE:
            return 5e-4
        # Of whole transcriptomes, a higher rate gives a better reconstruction and embeddings of few dimensions.
        return 3e-3 if len(self.genes) <= PANEL_GENES else 1e-3
