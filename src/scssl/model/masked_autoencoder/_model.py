"""Masked autoencoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self, get_args

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from torch import Tensor

from scssl._checks import check_choice, check_number, check_whole, check_widths
from scssl._errors import warn
from scssl._io import as_path
from scssl._random import RNG
from scssl.augment import Masking, is_own_mask, masking_from_config
from scssl.data import GeneVocabulary
from scssl.data.keys import category_key
from scssl.model.base import (
    CellReader,
    DataSetup,
    StoresMixin,
    backbone_of,
    check_like,
    check_unused,
    from_foreign,
    gene_columns,
    known_genes,
    principal_axes,
    register_model,
    resolve,
    some_of,
)
from scssl.nn import Activation
from scssl.train import TrainOptions

from ._masks import make_mask, mask_of
from ._network import Loss, MaskedAutoencoderModule, MaskSignal, default_hidden_dims
from ._presets import PRESETS
from ._transfer import take_weights

# Arguments that a model does not take over from the one it starts from.
_OWN = ("masking", "decoder", "encode_covariates", "preset")


@register_model
class MaskedAutoencoder(StoresMixin):
    """Learn embeddings by predicting hidden genes from visible ones :cite:p:`Richter2025`.

    Part of each cell's expression values is hidden; an encoder turns the rest into an embedding,
    from which a decoder predicts the hidden values. The loss is over the hidden entries only.

    Parameters
    ----------
    hidden_dims
        Widths of the encoder's hidden layers; the decoder mirrors them. By default (256, 128) for
        up to 5,000 genes or fewer than 20,000 cells, and (512, 512, 256, 256), as in
        :cite:p:`Richter2025`, beyond.
    n_latent
        Width of what the network makes of a cell, 64 as in :cite:p:`Richter2025`.
    n_components
        Principal components of normalised expression that the embedding has beside that, after it; both parts
        are scaled to the same total variance in the training cells, as by :func:`scssl.tl.fuse`. None by default,
        as published; 50 did best on the mean of our comparisons within one batch (kNN macro-F1 .819, without .796,
        components alone .786). They are taken from the cells of the first training, 20,000 at most, and saved with
        the model. Beyond a quarter of these cells, and beyond the genes, they are zero.
    dropout
        Share of hidden units dropped in training.
    activation
        ``"selu"`` (default, as in :cite:p:`Richter2025`), ``"gelu"``, ``"relu"``, ``"silu"`` or
        ``"leaky_relu"``.
    masking
        What is hidden: ``"random"`` entries, whole gene programmes (``"gene_program"``), one
        programme at a time (``"gp_to_gp"``), the targets of a transcription factor to predict the
        factor (``"gp_to_tf"``), all but a panel of genes (``"panel"``), or any object with the methods of :class:`scssl.augment.Masking`. Such
        a mask is not saved: the loaded model embeds and can be fine-tuned, and trains again with
        ``from_ssl_model(model, adata, masking=...)``. `None`: a model like that.
    mask_rate
        Share to hide, by default as in :cite:p:`Richter2025`: 0.5 of the entries for ``"random"`` and, of
        cells that are seen without a panel, for ``"panel"``; 0.25 of the programmes for ``"gene_program"``. The
        other two have none.
    mask_options
        Further arguments of the mask: ``per``, ``rate_of``, ``hide_fraction``, ``mode``; see
        :class:`scssl.augment.GeneProgramMask`, :class:`scssl.augment.GPToGPMask`,
        :class:`scssl.augment.GPToTFMask` and :class:`scssl.augment.PanelMask`.
    programs_key
        Where the gene programmes are in ``adata.varm`` and ``adata.uns``: by default
        ``"gene_programs"`` (:func:`scssl.pp.gene_programs`) or, for ``"gp_to_tf"``,
        ``"tf_targets"`` (:func:`scssl.pp.tf_targets`). For ``"panel"``, panels that are known; by default they are
        all random.
    mask_signal
        ``"rescale"`` (default): visible values are divided by the visible share, so that a cell
        weighs as much in training as when it is embedded; isolated masks are not scaled. `None`:
        hidden entries only look like zeros. ``"indicator"``: the encoder also sees which entries are
        hidden; its first layer then costs as much as a dense one.
    loss
        ``"mse"``: mean squared error of log1p-normalised expression, with a linear output (the
        sigmoid of the published code cannot exceed 1, where the data reach 9). ``"nb"``, ``"zinb"``:
        negative log-likelihood of the counts, whose mean is the cell's library size times the
        exponential of the output, as in :cite:p:`Eraslan2019`. ``"bce"``: binary cross-entropy of
        whether a gene is detected.
    latent_activation
        Whether the activation also follows the embedding layer.
    output_activation
        ``"sigmoid"`` only to reproduce the published code.
    decoder
        Whether there is a decoder. A model without one embeds and can be fine-tuned, no more.
    encode_covariates
        Whether the encoder too is told the batch and the covariates of :meth:`setup_anndata`. Cells
        can then be embedded only with these columns, of known categories.
    preset
        Name of the published recipe whose training defaults :meth:`train` takes; set by
        :meth:`from_preset`.

    Examples
    --------
    >>> import scssl
    >>> adata = scssl.datasets.pbmc68k_reduced()
    >>> scssl.model.MaskedAutoencoder.setup_anndata(adata)
    >>> model = scssl.model.MaskedAutoencoder(adata)
    >>> model.train(max_epochs=2, progress=False)
    >>> model.get_latent_representation().shape
    (700, 64)
    """

    module: MaskedAutoencoderModule

    def __init__(
        self,
        adata: AnnData | None = None,
        registry: dict[str, Any] | None = None,
        *,
        hidden_dims: Sequence[int] | None = None,
        n_latent: int = 64,
        n_components: int = 0,
        dropout: float = 0.1,
        activation: Activation = "selu",
        masking: str | Masking | None = "random",
        mask_rate: float | None = None,
        mask_options: Mapping[str, Any] | None = None,
        programs_key: str | None = None,
        mask_signal: MaskSignal | None = "rescale",
        loss: Loss = "mse",
        latent_activation: bool = False,
        output_activation: Literal["sigmoid"] | None = None,
        decoder: bool = True,
        encode_covariates: bool = False,
        preset: str | None = None,
        rng: RNG = 0,
    ) -> None:
        super().__init__(adata, registry)
        n_genes = len(self.genes)
        n_cells = int(self.summary_stats["n_cells"])
        if hidden_dims is None:
            hidden_dims = default_hidden_dims(n_genes, n_cells)
        hidden = check_widths("hidden_dims", hidden_dims)
        check_choice("mask_signal", mask_signal, (*get_args(MaskSignal), None))
        check_choice("loss", loss, get_args(Loss))
        self.setup.check_counts(loss)
        if output_activation not in (None, "sigmoid") or (output_activation and loss != "mse"):
            raise ValueError(
                "`output_activation` must be None or, with loss='mse', 'sigmoid'; found "
                f"{output_activation!r} with {loss=}."
            )
        if encode_covariates and not (self.setup.covariate_keys() or self.setup.continuous_keys):
            raise ValueError(
                "encode_covariates=True, but no batch and no covariates were set up. Name them: "
                f"{self._setup_again('batch_key')}."
            )
        if preset is not None:
            check_choice("preset", preset, PRESETS)
        mask = make_mask(self._adata, masking, mask_rate, mask_options, programs_key)
        self._arguments = {
            "hidden_dims": hidden,
            "n_latent": check_whole("n_latent", n_latent),
            "n_components": check_whole("n_components", n_components, 0),
            "dropout": check_number("dropout", dropout, "[0, 1)"),
            "activation": activation,
            "masking": None if mask is None else mask.config(),
            "mask_signal": mask_signal,
            "loss": loss,
            "latent_activation": bool(latent_activation),
            "output_activation": output_activation,
            "decoder": bool(decoder),
            "encode_covariates": bool(encode_covariates),
            "preset": preset,
        }
        self._start_module(rng, masking=mask)
        sizes = "-".join(map(str, [n_genes, *hidden, n_latent]))
        beside = self._arguments["n_components"]
        self._model_summary_string = (
            f"{sizes} encoder {'with mirrored' if decoder else 'without'} decoder, {activation}, "
            f"{f'{beside} principal components beside it, ' if beside else ''}"
            f"dropout {dropout:g}, {mask or 'no mask'}, loss {loss}"
        )

    @classmethod
    def from_preset(cls, name: str, adata: AnnData, **kwargs: Any) -> Self:
        """Model with the architecture, mask and training of a published recipe.

        Parameters
        ----------
        name
            One of :meth:`list_presets`.
        adata
            Data that were set up with :meth:`setup_anndata`; for masks by gene programmes also with
            :func:`scssl.pp.gene_programs` or :func:`scssl.pp.tf_targets`.
        **kwargs
            Arguments of the model that differ from the recipe; with another ``masking``, rate and
            options of the mask are the defaults of that. Those of :meth:`train` can differ
            too: the recipe only gives their defaults.

        Raises
        ------
        ValueError
            If there is no such recipe.

        Examples
        --------
        >>> import scssl
        >>> adata = scssl.datasets.pbmc68k_reduced()
        >>> scssl.model.MaskedAutoencoder.setup_anndata(adata)
        >>> scssl.model.MaskedAutoencoder.from_preset("ssl_in_scg.random_mask", adata).n_latent
        64
        """
        recipe = dict(PRESETS[check_choice("preset", name, PRESETS)].model)
        if kwargs.get("masking", recipe["masking"]) != recipe["masking"]:
            # These are of the mask of the recipe.
            recipe = {k: v for k, v in recipe.items() if k not in ("mask_rate", "mask_options")}
        return cls(adata, **{**recipe, **kwargs, "preset": name})

    @staticmethod
    def list_presets() -> dict[str, str]:
        """Published recipes and where they are from.

        Examples
        --------
        >>> import scssl
        >>> "sc_mae" in scssl.model.MaskedAutoencoder.list_presets()
        True
        """
        return {name: preset.source for name, preset in PRESETS.items()}

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        *,
        file: str | Path | None = None,
        genes: str | Path | pd.DataFrame | Sequence[str] | None = None,
        pretext: str | None = None,
        legacy_output: bool = False,
        layer: str | None = None,
        sha256: str | None = None,
        revision: str | None = None,
        adata: AnnData | None = None,
        device: str | torch.device = "cpu",
        token: str | bool | None = None,
    ) -> Self:
        """Load a model of scssl, or a checkpoint of :cite:p:`Richter2025`.

        With `file`, a checkpoint as published in ``TillR/sc_pretrained`` on the Hugging Face Hub:
        random mask, gene-programme mask, BYOL, Barlow Twins, reconstruction, or the encoder of a
        cell-type classifier. Which one it is is told from its tensors; each of them is used, set
        aside for a reason (``model.source``), or an error. The file is not unpickled: only tensors
        are read. Input are counts, normalised to 10,000 per cell over the genes of the model.

        Without `file`, a model of scssl on the hub or in a folder.

        Parameters
        ----------
        source
            Repository, ``"owner/name"``, or a folder; or the path of a checkpoint.
        file
            Checkpoint in it, such as ``"RandomMask.ckpt"``; or the path of one.
        genes
            Table of the genes in the order of the network's inputs, which the checkpoints do not hold: a ``.parquet`` (needs pyarrow), ``.csv`` or ``.tsv`` file or a data frame with
            the columns ``feature_id`` and ``feature_name``; ``"var.parquet"`` in `source` by
            default, which has the 19,331 genes of the released ones. Data are matched by Ensembl id first, then by symbol, never by position.
        pretext
            What the network was trained to do, if you know: the file does not tell random masks,
            gene-programme masks and reconstruction apart. Only recorded.
        legacy_output
            Reconstruct with the sigmoid of the published code, to reproduce its numbers. Without it
            the reconstruction is the linear output before the sigmoid.
        layer
            Layer with the counts of the data to embed, ``adata.X`` by default.
        sha256
            Digest that the checkpoint must have.
        revision, adata, device, token
            As in :meth:`SSLModel.from_pretrained`.

        Raises
        ------
        BundleError
            If there is no sound model, or the checkpoint holds more than tensors, has a layout that
            is not known here, or other inputs than the 19,331 genes.
        GeneMismatchError
            If `genes` is not the table that belongs to the checkpoint.
        FileNotFoundError, PermissionError, ConnectionError
            If a repository or a file of it cannot be had.
        ValueError
            If arguments for checkpoints are given without `file`.

        Examples
        --------
        >>> import scssl
        >>> model = scssl.model.MaskedAutoencoder.from_pretrained(
        ...     "TillR/sc_pretrained", file="RandomMask.ckpt", genes="var.parquet"
        ... )  # doctest: +SKIP
        """
        options: dict[str, Any] = {
            "pretext": pretext,
            "legacy_output": legacy_output,
            "layer": layer,
            "sha256": sha256,
        }
        access: dict[str, Any] = {
            "revision": revision,
            "token": token,
            "adata": adata,
            "device": device,
        }
        if file is None and not as_path(source, "source").is_file():
            check_unused('file="RandomMask.ckpt"', genes=genes, **options)
            return super().from_pretrained(source, **access)
        reader = "masked_autoencoder_from"
        model: Self = from_foreign(reader, cls, source, file, genes, **options, **access)
        return model

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
        become of which only the other model was told (continuous ones are taken as their mean in its
        training).

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
        check_choice("freeze", freeze, ("none", "encoder"))
        other = resolve(model)
        source = backbone_of(other, cls)
        told: dict[str, Any] = {
            "batch_key": batch_key,
            "categorical_covariate_keys": categorical_covariate_keys,
            "continuous_covariate_keys": continuous_covariate_keys,
        }
        read: dict[str, Any] = source.setup_arguments(covariates=False) | {"layer": layer}
        cls.setup_anndata(adata, labels_key=labels_key, **told, **read)
        arguments = {k: value for k, value in source.arguments.items() if k not in _OWN}
        if any(told.values()):
            arguments["encode_covariates"] = True
        if "masking" not in kwargs:
            rows = known_genes(source.genes, adata.var_names, min_overlap)
            arguments |= mask_of(other, rows, kwargs)
        new = cls(adata, **{**arguments, **kwargs})
        check_like(adata, new.setup, source.setup)
        take_weights(new.module, new.genes, new.setup, new._arguments, source, min_overlap)
        if freeze == "encoder":
            for part in new.module.encoder_parts():
                part.requires_grad_(False)
        return new

    @property
    def n_latent(self) -> int:
        """Width of the embedding, components included."""
        return int(self._arguments["n_latent"]) + int(self._arguments["n_components"])

    def _before_training(
        self, data: CellReader, rows: Any, chosen: TrainOptions, *, resumed: bool
    ) -> dict[str, Any]:
        path = self.module.linear_path
        if path is not None and not path.is_set:
            n = self._arguments["n_components"]
            path.start_at(*principal_axes(data, rows, n, most=len(rows) // 4))
        return super()._before_training(data, rows, chosen, resumed=resumed)

    def _after_training(self, data: CellReader, rows: Any, held_out: Any) -> dict[str, Any]:
        path = self.module.linear_path
        if path is not None:
            path.scale.fill_(1)
            with torch.inference_mode():
                z = self._apply(data, some_of(rows), None, self.module.embed, self.n_latent)
            total = z.var(axis=0, dtype=np.float64)
            n = int(self._arguments["n_latent"])
            for part, variance in enumerate((total[:n].sum(), total[n:].sum())):
                # A part that is the same in all cells has nothing to scale.
                path.scale[part] = variance**-0.5 if variance > 0 else 1.0
        return super()._after_training(data, rows, held_out)

    def _training_data(self) -> CellReader:
        data = super()._training_data()
        data.counts = self._arguments["loss"] in ("nb", "zinb")
        return data

    @classmethod
    def _build_module(
        cls, arguments: Mapping[str, Any], *, genes: GeneVocabulary, setup: DataSetup
    ) -> MaskedAutoencoderModule:
        options = {name: value for name, value in arguments.items() if name != "preset"}
        mask = arguments["masking"]
        if mask is not None and not isinstance(mask, Masking):
            options["masking"] = masking_from_config(mask)
        return MaskedAutoencoderModule(
            len(genes),
            **options,
            n_categories={
                category_key(key): len(setup.categories[key]) for key in setup.covariate_keys()
            },
            n_continuous=len(setup.continuous_keys),
            target_sum=setup.target_sum or 1e4,
        )

    @classmethod
    def _from_config(cls, registry: dict[str, Any], config: Any) -> MaskedAutoencoder:
        mask = config["masking"]
        if mask is not None:
            mask = masking_from_config(mask)
        return cls(registry=registry, **{**config, "masking": mask})

    @classmethod
    def _encoder_arguments(cls, arguments: Mapping[str, Any]) -> dict[str, Any]:
        return {**arguments, "decoder": False, "masking": None}

    def _saved_config(self) -> dict[str, Any]:
        mask = self.module.masking
        if mask is None or is_own_mask(mask):
            return self._arguments
        warn(
            f"The mask ({mask!r}) is not one of scssl and not saved, as it would bring code along. The loaded model "
            "embeds and can be fine-tuned; to train it further: "
            '`model = scssl.model.MaskedAutoencoder.from_ssl_model(model, adata, masking="random")`.'
        )
        return {**self._arguments, "masking": None}

    def _train_defaults(self, n_cells: int) -> dict[str, Any]:
        preset = self._arguments["preset"]
        few = n_cells < 20_000
        epochs = round(80_000 / max(n_cells, 1))
        return {
            "max_epochs": int(np.clip(epochs, 15 if few else 10, 100)),
            "batch_size": 256 if few else 1024,
            "lr": 2e-3 if few else 1e-3,
            **({} if preset is None else PRESETS[preset].train),
        }

    @property
    def loss(self) -> str:
        """What reconstructions are compared by, ``"mse"``, ``"bce"``, ``"nb"`` or ``"zinb"``."""
        objective: str = self.module.objective
        return objective

    @torch.inference_mode()
    def get_reconstruction(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | np.ndarray | None = None,
        batch_size: int | None = None,
        *,
        genes: Sequence[str] | None = None,
        min_overlap: float = 0.5,
    ) -> np.ndarray:
        """Reconstruct expression from the embedding: a denoised profile of each cell.

        With ``loss="nb"`` or ``"zinb"`` it is the log1p of expected counts per `target_sum` of the
        setup (without the additional zeros), with ``"bce"`` the probability that a gene is detected.

        Parameters
        ----------
        adata
            Cells, the model's own by default. Covariates that the model was set up with must be in
            ``adata.obs``.
        indices
            Rows, a boolean mask or cell names; all by default.
        batch_size
            Cells to read at a time, 2,048 by default.
        genes
            Names of the genes to reconstruct; all of the model by default, in the order of
            ``model.genes.names``. The result is dense: for many cells, name the genes you need.
        min_overlap
            Share of the model's genes that `adata` must have.

        Returns
        -------
        log1p-normalised expression, float32, shape ``(n_cells, n_genes)``. Genes that `adata` does
        not have are predicted as well.

        Raises
        ------
        KeyError
            If the model does not know a gene.
        """
        data = self._read(adata, min_overlap=min_overlap, indices=indices).with_covariates()
        columns = gene_columns(self.genes, genes, self.module.device)

        def reconstruct(batch: dict[str, Tensor]) -> Tensor:
            z = self.module.embed(batch)
            return self.module.generative(batch, z, genes=columns)["x_hat"]

        width = len(self.genes) if columns is None else len(columns)
        return self._apply(data, data.rows(indices), batch_size, reconstruct, width)

    @torch.inference_mode()
    def get_reconstruction_error(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | np.ndarray | None = None,
        batch_size: int | None = None,
        *,
        min_overlap: float = 0.5,
    ) -> np.ndarray:
        """Mean squared error of the reconstruction of each cell, nothing hidden.

        High values are cells unlike those the model was trained on, or of low quality. With
        ``loss="bce"`` it is the squared error of the probability of detection. With ``loss="nb"`` or
        ``"zinb"`` the reconstruction is the log1p of an expected value, which lies above the expected
        log1p: errors have this gap in them, and are to be compared with those of other cells by the same
        model, not with those of a model with another loss.

        Parameters
        ----------
        adata, indices, batch_size, min_overlap
            As in :meth:`get_reconstruction`.

        Returns
        -------
        Float32, shape ``(n_cells,)``, of log1p-normalised expression, over the genes of the model
        that `adata` has.
        """
        data = self._read(adata, min_overlap=min_overlap, indices=indices).with_covariates()
        present = None
        if data.alignment is not None and data.alignment.n_missing:
            present = torch.from_numpy(np.flatnonzero(data.alignment.present)).to(
                self.module.device
            )

        def error(batch: dict[str, Tensor]) -> Tensor:
            x_hat = self.module.generative(batch, self.module.embed(batch))["x_hat"]
            x = self.module._rows(batch)
            values = (x.values > 0).float() if self._arguments["loss"] == "bce" else x.values
            x_hat.view(-1).index_add_(0, x.rows * x.n_genes + x.columns, values, alpha=-1)
            if present is not None:
                x_hat = x_hat.index_select(1, present)
            return x_hat.square_().mean(dim=1)

        return self._apply(data, data.rows(indices), batch_size or 512, error, None)
