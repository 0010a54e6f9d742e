"""Cells as tokens, tissues as sequences."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from torch import Tensor

from scssl._checks import check_adata, get_column, some
from scssl._errors import warn
from scssl._random import RNG
from scssl.data import Datasets, GeneVocabulary
from scssl.data.keys import CONTINUOUS, LABELS, PANEL, TARGET, category_key
from scssl.data.matrix import PANEL_GENES
from scssl.data.store import Store
from scssl.model.base import (
    STORE_SAMPLES,
    TISSUE,
    CellReader,
    DatasetsMixin,
    DataSetup,
    NotOffered,
    SetupArgument,
    StoresMixin,
    as_strings,
    backbone_of,
    check_label_column,
    check_like,
    check_unused,
    foreign,
    from_foreign,
    gene_columns,
    known_genes,
    label_codes,
    panels,
    record_tissue,
    register_model,
    takes,
    tell_tissue,
    trained_classes,
)

from ._network import CellPLMModule
from ._options import CARRIED, CellPLMOptions, Objective
from ._transfer import take_over

_LOGGER = logging.getLogger("scssl")
_CHECKPOINT = '"ckpt/20231027_85M", or the `prefix` "20231027_85M"'
# How :cite:p:`Wen2024` pretrained.
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
_TARGET_SUM = SetupArgument(
    """Sum of a cell before the logarithm, for counts. `None`: log1p of the counts as they are, as in
    :cite:p:`Wen2024`. ``"auto"`` (default): `None` for panels of up to 1,000 genes, where the sum says
    what a cell is, and 1e4 for more, where it mostly says how deeply it was sequenced.""",
    float | Literal["auto"] | None,
    "auto",
)


@register_model
class CellPLM(DatasetsMixin, StoresMixin):
    """Learn embeddings of cells that see the other cells of their tissue :cite:p:`Wen2024`.

    Cells are tokens, a sample is a sequence: a linear layer on the genes of a cell, its place where it is
    known, attention among the cells of the sample at linear cost, and a Gaussian latent space from which
    hidden counts of some of the cells are predicted. The embedding of a cell is the mean of its latent
    variable; it depends on the other cells of the sample.

    Parameters
    ----------
    adata
        Data that were set up with :meth:`setup_anndata`, :meth:`setup_datasets` or :meth:`setup_store`.
    n_hidden
        Width of a token, 128 by default; a multiple of 4 and of `n_heads`.
    n_layers
        Layers of the transformer, 2 by default.
    n_heads
        Heads of each layer, 4 by default.
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
    decoder_hidden
        Width of the first layer of the decoder, to which covariates are added; `n_hidden` by default.
    decoder_width
        Width of the layer before the genes; by default `n_hidden`, at most 128 as in :cite:p:`Wen2024`.
    loss
        ``"nb"``, ``"zinb"``: negative log-likelihood of counts; ``"mse"``: squared error of the values.
        ``"auto"`` (default): ``"nb"`` for counts, ``"mse"`` for values that are normalised already.
    objective
        ``"reconstruction"`` (default). To fine-tune embeddings, as compared in the study of losses:
        ``"kl"``, the latent term alone, which collapses; ``"cross_entropy"`` and ``"supcon"``
        :cite:p:`Khosla2020`, of the labels at ``labels_key``, which these two do use as a target.
    mask_cells
        Share of the cells of which genes are hidden in training, 0.75 as in :cite:p:`Wen2024`; see
        :class:`scssl.augment.CellMask`.
    mask_rate
        Most frequent share of their genes that is hidden, 0.25 as in :cite:p:`Wen2024`.
    visible_weight
        Weight of the reconstruction of all genes of all cells, beside that of what is hidden; 1 as in
        :cite:p:`Wen2024`. With 0 nothing is learnt from cells as they are when they are embedded.
    kl_weight
        Weight of the latent term, 0.1 by default; 5 for the mixture of :cite:p:`Wen2024`.
    warmup_steps
        Number of steps in which it rises to that, 500 by default; 10,000 in :cite:p:`Wen2024`.
    free_bits
        Nats per cell below which it costs nothing, 0 by default; 5 for the mixture of :cite:p:`Wen2024` (for
        clusters, a quarter of the greatest divergence that there can be).
    temperature
        Of ``objective="supcon"``, 0.1 as in :cite:p:`Khosla2020`.
    context
        Which cells see each other. ``"sample"``: those of a sample (default). ``"tiles"``: those of a piece
        of tissue of at most `context_size` cells, with `halo` cells around it. ``"random"``: at most
        `context_size` cells of a sample at random, drawn by their position: in another order of the data
        other cells see each other. In training a batch is made of parts of samples.
    context_size
        Number of cells that see each other at most, 2,000 by default.
    halo
        Number of cells around a piece of tissue, 200 by default.
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
    _setup_takes: ClassVar[Mapping[str, SetupArgument]] = {
        **TISSUE,
        "labels_key": SetupArgument(
            """Column of ``adata.obs`` with cell types. The validation split is stratified by it; it is a
            target only with ``objective="cross_entropy"`` and ``"supcon"``."""
        ),
        "target_sum": _TARGET_SUM,
    }
    _datasets_takes: ClassVar[Mapping[str, SetupArgument]] = {
        "sample_key": SetupArgument(
            "Column of ``obs`` with the sample of each cell; data sets without it are one sample.",
            str | None,
        ),
        "spatial_key": SetupArgument(
            "Entry of ``obsm`` with the place of each cell, or two columns of ``obs``, x and y; cells of "
            "data sets without it have none.",
            str | Sequence[str] | None,
        ),
        "target_sum": _TARGET_SUM,
    }
    _store_takes: ClassVar[Mapping[str, SetupArgument]] = {
        **STORE_SAMPLES,
        "target_sum": _TARGET_SUM,
    }

    embed_dask = NotOffered(
        lambda cls: (
            "Cells see those of their sample, which may be in other blocks. get_latent_representation reads "
            "cells that were read lazily too, and embed_store those of a store."
        )
    )

    @takes(CellPLMOptions)
    def __init__(
        self,
        adata: AnnData | Datasets | Store | None = None,
        registry: dict[str, Any] | None = None,
        *,
        rng: RNG = 0,
        **options: Any,
    ) -> None:
        super().__init__(adata, registry)
        self._options = chosen = CellPLMOptions.chosen(options)
        if chosen.preset is not None and adata is not None and self.setup.target_sum is not None:
            warn(
                f"Published is log1p of unscaled counts, these are scaled to {self.setup.target_sum:g} per cell. "
                f"To do as published: {self._setup_again(target_sum=None)}."
            )
        chosen.settle(self.setup, self._setup_again)
        if chosen.supervised and self._store is not None:
            raise ValueError(
                f"objective={chosen.objective!r} learns from labels of an AnnData; of a store a model learns by "
                'reconstruction. Pass `objective="reconstruction"`.'
            )
        self._arguments = chosen.to_dict()
        self._start_module(rng)
        self._model_summary_string = (
            f"{len(self.genes)} genes, {chosen.n_layers} layers of {chosen.n_hidden} with {chosen.n_heads} "
            f"heads of {chosen.attention} attention, {chosen.latent} of {chosen.n_latent}, "
            f"{'with' if chosen.position == 'sinusoidal' else 'without'} positions, context {chosen.context}, "
            f"objective {chosen.objective}"
        )

    @classmethod
    def _checked_setup(cls, data: Any, given: dict[str, Any]) -> dict[str, Any]:
        if given["target_sum"] == "auto":
            n_genes = data.n_vars if isinstance(data, AnnData) else len(data.genes)
            given = {**given, "target_sum": None if n_genes <= PANEL_GENES else 1e4}
        return super()._checked_setup(data, given)

    @classmethod
    def _also_recorded(
        cls, data: Any, setup: DataSetup, given: Mapping[str, Any]
    ) -> dict[str, Any]:
        if isinstance(data, AnnData) and setup.spatial_key and not setup.sample_key:
            _warn_of_batches(data, setup.batch_key)
        return {"fingerprint": record_tissue(data, setup)}

    @classmethod
    def _build_module(
        cls, arguments: Mapping[str, Any], *, genes: GeneVocabulary, setup: DataSetup
    ) -> CellPLMModule:
        options = CellPLMOptions(**arguments)
        keys = setup.covariate_keys()
        return CellPLMModule(
            len(genes),
            options,
            n_categories={category_key(key): len(setup.categories[key]) for key in keys},
            n_continuous=len(setup.continuous_keys),
            n_classes=len(trained_classes(setup, None)) if options.supervised else 0,
        )

    @classmethod
    def _encoder_arguments(cls, arguments: Mapping[str, Any]) -> dict[str, Any]:
        # Whatever it learnt from, what is left of it embeds.
        return {**arguments, "decoder": False, "objective": "reconstruction"}

    def _also_read(self, reader: CellReader, data: Any) -> None:
        assert self.module.context is not None
        tell_tissue(reader, data, self.module.context)
        codes, measured = panels(reader, data, self.genes)
        if measured is not None:
            reader.obs[PANEL], reader.measured = codes, measured

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
        data.counts = self._options.loss != "mse"
        if self._options.supervised:
            key = self.setup.labels_key
            assert key is not None
            classes = trained_classes(self.setup, None)
            check_label_column(data.adata, key, None)
            data.obs[LABELS] = label_codes(data.adata, key, classes, None)
            data.fills_context = True
            if self._options.objective == "supcon":
                codes = data.obs[LABELS]
                if np.bincount(codes[codes >= 0]).max() < 2:
                    raise ValueError(
                        f'objective="supcon" needs cells of the same label: adata.obs["{key}"] has no two. '
                        "Is it the column you meant?"
                    )
                # A label with one cell in a batch has no pair there.
                data.balance = codes
        return data

    def _training_cells(self, data: CellReader) -> np.ndarray:
        if not self._options.supervised:
            return super()._training_cells(data)
        labelled = np.flatnonzero(data.obs[LABELS] >= 0)
        _LOGGER.info("%s of %s cells have a label.", f"{len(labelled):,}", f"{data.n_cells:,}")
        return labelled

    def _train_defaults(self, n_cells: int) -> dict[str, Any]:
        if self._options.preset is not None:
            return dict(_PUBLISHED_TRAINING)
        # Of whole transcriptomes, a higher rate gives a better reconstruction and embeddings of few dimensions.
        lr = 3e-3 if len(self.genes) <= PANEL_GENES else 1e-3
        return {
            "max_epochs": int(np.clip(round(250_000 / max(n_cells, 1)), 20, 100)),
            "batch_size": 256 if n_cells < 20_000 else 1024,
            "lr": 5e-4 if self._options.n_hidden >= _WIDE else lr,
        }

    @torch.inference_mode()
    def get_imputed_expression(
        self,
        adata: AnnData | Datasets | None = None,
        indices: Sequence[int] | np.ndarray | None = None,
        *,
        genes: Sequence[str] | None = None,
        as_batch: str | None = None,
        min_overlap: float = 0.0,
    ) -> pd.DataFrame:
        """Expected expression of cells, also of genes that were not measured in them.

        Of counts, expected counts: those of the genes that were measured in a cell sum to what was counted
        of them, and those of other genes are on the same scale. Of normalised values, expected values.

        Parameters
        ----------
        adata
            Cells, the model's own by default. They need not have all genes of the model.
        indices
            Rows, a boolean mask or cell names; all by default.
        genes
            Genes to impute; all of the model by default. The result is dense: for many cells, name the
            genes you need.
        as_batch
            Batch (of ``batch_key``, or name of a data set) that the decoder is told for all cells: for
            genes that were not measured in the cells' own, one in which they were. By default, that of the
            cells where `adata` has it and the model knows it, else the mean over the batches.
        min_overlap
            Share of the model's genes that `adata` must have.

        Returns
        -------
        Float32 frame, one row per cell and one column per gene.

        Raises
        ------
        ValueError
            If the model is not trained, has no decoder or did not train it (`objective`), or there is no
            batch `as_batch`.
        KeyError
            If the model does not know a gene.
        """
        if not self.is_trained_:
            raise ValueError("The model is not trained to impute. Call `model.train()`.")
        if self._options.decoder and self._options.objective != "reconstruction":
            raise ValueError(
                f"The model was trained with objective={self._options.objective!r}, which leaves the decoder as "
                'it is: it cannot tell expression. Impute with a model of objective="reconstruction".'
            )
        columns = gene_columns(self.genes, genes, self.module.device)
        if isinstance(self._collection if adata is None else adata, Store):
            raise TypeError(
                "Expression is imputed in cells of an AnnData, found a store. Read some of its inputs."
            )
        data = self._read(adata, min_overlap=min_overlap, indices=indices)
        self._tell_batch(data, as_batch)
        for key in self.setup.categorical_keys:
            if key in data.adata.obs:
                data.obs[category_key(key)] = _known_codes(data.adata, self.setup, key)
        continuous = self.setup.continuous_keys
        if continuous and all(key in data.adata.obs for key in continuous):
            data.obs[CONTINUOUS] = self.setup.continuous(data.adata)

        def impute(batch: dict[str, Tensor]) -> Tensor:
            asked = batch[TARGET].squeeze(1).bool()
            z = self.module.embed(batch)
            return self.module.generative(batch, z, genes=columns, cells=asked)["x_hat"]

        names = self.genes.names if columns is None else self.genes.names[columns.cpu().numpy()]
        rows = data.rows(indices)
        if as_batch is None and len(rows):
            self._warn_of_own_batch(data, rows, columns)
        found = self._apply(data, rows, None, impute, len(names))
        return pd.DataFrame(found, index=data.adata.obs_names[rows], columns=names)

    def _warn_of_own_batch(
        self, data: CellReader, rows: np.ndarray, columns: Tensor | None
    ) -> None:
        """Say that the decoder never saw a gene together with what it is told of these cells."""
        key = self.setup.batch_key
        if key is None or data.measured is None or category_key(key) not in data.obs:
            return
        if (data.obs[category_key(key)][rows] < 0).all():
            return
        measured = data.measured[np.unique(data.obs[PANEL][rows])].all(axis=0)
        lacking = int((~(measured if columns is None else measured[columns.cpu().numpy()])).sum())
        if lacking:
            warn(
                f"{lacking:,} of the genes were not measured in all of these cells: the decoder never saw them "
                f"with this batch. Name one in which they were as `as_batch`, one of {some(self.setup.categories[key])}."
            )

    def _tell_batch(self, data: CellReader, as_batch: str | None) -> None:
        key = self.setup.batch_key
        if as_batch is not None:
            known = [] if key is None else self.setup.categories[key]
            if as_batch not in known:
                there = ", ".join(map(repr, known[:10])) or "none, as no batch_key was set up"
                raise ValueError(f"There is no batch {as_batch!r}; the model knows {there}.")
            assert key is not None
            code = known.index(as_batch)
            data.obs[category_key(key)] = np.full(data.n_cells, code, dtype=np.int64)
        elif key is not None and key in data.adata.obs:
            data.obs[category_key(key)] = _known_codes(data.adata, self.setup, key)

    @classmethod
    def from_ssl_model(
        cls,
        model: Self | str | Path,
        adata: AnnData | Datasets,
        *,
        objective: Objective = "reconstruction",
        sample_key: str | None = None,
        spatial_key: str | Sequence[str] | None = None,
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
        source = backbone_of(model, cls)
        if isinstance(adata, Datasets):
            names = adata.genes.names
        else:
            check_adata(adata, matrix=True)
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
        told: dict[str, Any] = {
            "batch_key": batch_key,
            "categorical_covariate_keys": categorical_covariate_keys,
            "continuous_covariate_keys": continuous_covariate_keys,
        }
        if isinstance(adata, Datasets):
            if given := [name for name, value in told.items() if value]:
                raise ValueError(
                    f"Of several data sets the decoder is told the data set alone; leave `{given[0]}` out."
                )
            cls.setup_datasets(adata, **keys)
        else:
            cls.setup_anndata(adata, **keys, **told)
        arguments = {k: source.arguments[k] for k in CARRIED if k in source.arguments}
        if objective != "reconstruction":
            # What weighs little beside the reconstruction of all genes would be most of the loss beside that
            # of labels.
            del arguments["kl_weight"], arguments["free_bits"]
        if spatial_key is None:
            arguments["position"] = "off"
            if arguments["context"] == "tiles":
                arguments["context"] = "sample"
        new = cls(adata, **{**arguments, "objective": objective, **kwargs})
        check_like(adata, new.setup, source.setup)
        take_over(new.module, new.genes, source, min_overlap)
        return new

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        *,
        prefix: str | None = None,
        variant: Literal["auto", "gmvae", "vae", "ae"] = "auto",
        symbols: str | Path | pd.DataFrame | None = None,
        sample_key: str | None = None,
        spatial_key: str | Sequence[str] | None = None,
        layer: str | None = None,
        sha256: str | None = None,
        revision: str | None = None,
        adata: AnnData | None = None,
        device: str | torch.device = "cpu",
        token: str | bool | None = None,
        **kwargs: Any,
    ) -> Self:
        """Load a model of scssl, or a checkpoint of :cite:p:`Wen2024`.

        A checkpoint is two files: ``{prefix}.config.json`` and ``{prefix}.best.ckpt``, for instance
        ``20230926_85M`` (``"gmvae"``) or ``20231027_85M`` (``"vae"``). Its variant is told from its
        tensors; each of them is used, set aside for a reason (``model.source``), or an error. The file is
        not unpickled: only tensors are read. Positions are off, as they are in all published code. Input
        are raw counts of human genes with Ensembl ids, of which the model takes log1p.

        Otherwise `source` is a model of scssl on the hub or in a folder.

        Parameters
        ----------
        source
            Path without the endings, such as ``"ckpt/20231027_85M"``; or the folder of the two files; or,
            with `prefix`, a repository of the Hugging Face Hub that has them.
        prefix
            What the names of the two files begin with, where `source` does not say it.
        variant
            What the tensors must be. By default they tell it, and the configuration has to agree.
        symbols
            Other names of the genes: a ``.csv``, ``.tsv`` or ``.parquet`` file or a data frame with the
            columns ``feature_id`` (or Ensembl ids as index) and ``feature_name``, in any order. Data with
            symbols are matched by it; without it they are refused.
        sample_key
            Column of ``adata.obs`` with the sample of each cell, see :meth:`setup_anndata`. Without it
            all cells that are embedded at a time are one sample.
        spatial_key
            Entry of ``adata.obsm`` with the place of each cell, for ``context="tiles"`` only.
        layer
            Layer with the counts, ``adata.X`` by default.
        sha256
            Digest that the checkpoint must have.
        revision, adata, device, token
            As in :meth:`SSLModel.from_pretrained`.
        **kwargs
            Arguments of the model that the weights leave open: ``context``, ``context_size`` and ``halo``
            (which cells see each other), and those of training.

        Raises
        ------
        BundleError
            If there is no sound model, or the files hold more than tensors, another network, or do not
            belong together.
        GeneMismatchError
            If `symbols` has none of the genes.
        FileNotFoundError, PermissionError, ConnectionError
            If a repository or a file of it cannot be had.
        TypeError
            If an argument is fixed by the weights.
        ValueError
            If a folder holds several checkpoints and `prefix` does not say which; if arguments for
            checkpoints are given for a model of scssl.

        Examples
        --------
        >>> import scssl
        >>> model = scssl.model.CellPLM.from_pretrained("ckpt/20231027_85M")  # doctest: +SKIP
        """
        read: dict[str, Any] = {
            "symbols": symbols,
            "sample_key": sample_key,
            "spatial_key": spatial_key,
            "layer": layer,
            "sha256": sha256,
        }
        access: Any = {"revision": revision, "adata": adata, "device": device, "token": token}
        found = foreign("locate_cellplm")(source, prefix)
        if found is None:
            asked = None if variant == "auto" else variant
            check_unused(_CHECKPOINT, variant=asked, **read, **kwargs)
            return super().from_pretrained(source, **access)
        read |= {"variant": variant, "arguments": kwargs}
        model: Self = from_foreign("cellplm_from", cls, *found, **read, **access)
        return model


def _known_codes(adata: AnnData, setup: DataSetup, key: str) -> np.ndarray:
    """Codes of a column, -1 for categories that the model does not know and where there is none."""
    values = get_column(adata, key)
    codes = np.full(len(values), -1, dtype=np.int64)
    # Missing values make floats of whole numbers, and would hide that these are whole.
    there = values.notna().to_numpy()
    codes[there] = pd.Index(setup.categories[key]).get_indexer(as_strings(values[there]))
    return codes


def _warn_of_batches(adata: AnnData, batch_key: str | None) -> None:
    """Warn of tissues that are taken as one."""
    n_batches = 0 if batch_key is None else get_column(adata, batch_key).nunique()
    if n_batches > 1:
        warn(
            f'The cells have coordinates and {n_batches} batches of adata.obs["{batch_key}"], but no '
            "samples: all are taken as one tissue, in one frame of coordinates. If batches are slices: "
            f'`sample_key="{batch_key}"`. If they are one tissue: make a column that says so, and name it.'
        )
