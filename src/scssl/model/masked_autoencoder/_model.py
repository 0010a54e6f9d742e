"""Masked autoencoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

import numpy as np
import torch
from anndata import AnnData

from scssl._checks import check_number
from scssl._errors import warn
from scssl._random import RNG, as_seed, derive_seed
from scssl.augment import Masking, is_own_mask, mask_needs, masking_from_config
from scssl.augment import masking as make_masking
from scssl.data import GeneVocabulary
from scssl.data.keys import category_key
from scssl.model.base import CellReader, DataSetup, SSLModel, register_model

from ._from_pretrained import PublishedMixin
from ._network import LOSSES, MaskedAutoencoderModule, default_hidden_dims
from ._presets import PRESETS, get_preset
from ._programs import read_programs
from ._reconstruction import ReconstructionMixin
from ._transfer import TransferMixin


@register_model
class MaskedAutoencoder(PublishedMixin, ReconstructionMixin, TransferMixin, SSLModel):
    """Learn embeddings by predicting hidden genes from visible ones :cite:p:`Richter2025`.

    Part of each cell's expression values is hidden; an encoder turns the rest into an embedding,
    from which a decoder predicts the hidden values. The loss is over the hidden entries only.

    Parameters
    ----------
    adata
        Data that were set up with :meth:`setup_anndata`.
    registry
        Setup of a model that is loaded without data; not for users.
    hidden_dims
        Widths of the encoder's hidden layers; the decoder mirrors them. By default (256, 128) for
        up to 5,000 genes or fewer than 20,000 cells, and (512, 512, 256, 256), as in
        :cite:p:`Richter2025`, beyond.
    n_latent
        Width of the embedding, 64 as in :cite:p:`Richter2025`.
    dropout
        Share of hidden units dropped in training.
    activation
        ``"selu"`` (default, as in :cite:p:`Richter2025`), ``"gelu"``, ``"relu"``, ``"silu"`` or
        ``"leaky_relu"``.
    masking
        What is hidden: ``"random"`` entries, whole gene programmes (``"gene_program"``), one
        programme at a time (``"gp_to_gp"``), the targets of a transcription factor to predict the
        factor (``"gp_to_tf"``), or any object with the methods of :class:`scssl.augment.Masking`. Such
        a mask is not saved: the loaded model embeds and can be fine-tuned, and trains again with
        ``from_ssl_model(model, adata, masking=...)``. `None`: a model like that.
    mask_rate
        Share to hide, by default as in :cite:p:`Richter2025`: 0.5 of the entries for ``"random"``,
        0.25 of the programmes for ``"gene_program"``. The other two have none.
    mask_options
        Further arguments of the mask: ``per``, ``rate_of``, ``hide_fraction``, ``mode``; see
        :class:`scssl.augment.GeneProgramMask`, :class:`scssl.augment.GPToGPMask` and
        :class:`scssl.augment.GPToTFMask`.
    programs_key
        Where the gene programmes are in ``adata.varm`` and ``adata.uns``: by default
        ``"gene_programs"`` (:func:`scssl.pp.gene_programs`) or, for ``"gp_to_tf"``,
        ``"tf_targets"`` (:func:`scssl.pp.tf_targets`).
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
    rng
        Seed of the initial weights.

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
        dropout: float = 0.1,
        activation: str = "selu",
        masking: str | Masking | None = "random",
        mask_rate: float | None = None,
        mask_options: Mapping[str, Any] | None = None,
        programs_key: str | None = None,
        mask_signal: Literal["rescale", "indicator"] | None = "rescale",
        loss: Literal["mse", "nb", "zinb", "bce"] = "mse",
        latent_activation: bool = False,
        output_activation: Literal["sigmoid"] | None = None,
        decoder: bool = True,
        encode_covariates: bool = False,
        preset: str | None = None,
        rng: RNG = 0,
    ) -> None:
        super().__init__(adata, registry)
        n_genes = len(self.genes)
        if hidden_dims is None:
            hidden_dims = default_hidden_dims(n_genes, int(self.summary_stats["n_cells"]))
        hidden = tuple(hidden_dims)
        _check_architecture(hidden, n_latent, dropout, mask_signal)
        self._check_loss(loss, output_activation)
        if encode_covariates and not (self.setup.covariate_keys() or self.setup.continuous_keys):
            raise ValueError(
                "encode_covariates=True, but no batch and no covariates were set up. Name them: "
                'setup_anndata(adata, batch_key="...")'
            )
        if preset is not None:
            get_preset(preset)
        mask = self._make_mask(masking, mask_rate, mask_options, programs_key)
        self._arguments: dict[str, Any] = {
            "hidden_dims": [int(width) for width in hidden],
            "n_latent": int(n_latent),
            "dropout": float(dropout),
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
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(as_seed(rng), "weights"))
            self.module = self._build_module(
                {**self._arguments, "masking": mask}, genes=self.genes, setup=self.setup
            )
        sizes = "-".join(map(str, [n_genes, *hidden, n_latent]))
        self._model_summary_string = (
            f"{sizes} encoder {'with mirrored' if decoder else 'without'} decoder, {activation}, "
            f"dropout {dropout:g}, {mask or 'no mask'}, loss {loss}"
        )
        self.init_params_ = self._get_init_params(locals())

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
        recipe = dict(get_preset(name).model)
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

    def _make_mask(
        self,
        masking: str | Masking | None,
        rate: float | None,
        options: Mapping[str, Any] | None,
        key: str | None,
    ) -> Masking | None:
        if masking is None:
            if rate is not None or options or key is not None:
                raise ValueError(
                    "masking=None is no mask, which has no rate, options or programmes."
                )
            return None
        needs = mask_needs(masking)
        programs = None
        if needs is None:
            if key is not None:
                raise ValueError(
                    f"masking={masking!r} uses no gene programmes; found programs_key={key!r}."
                )
        elif self._adata is None:
            raise ValueError(
                f"masking={masking!r} reads gene programmes from an AnnData. Pass `adata`."
            )
        else:
            programs = read_programs(self._adata, key, needs=needs)
        if isinstance(masking, Masking):
            return make_masking(masking, rate=rate, **(options or {}))
        return make_masking(masking, rate=rate, programs=programs, **(options or {}))

    def _check_loss(self, loss: str, output_activation: str | None) -> None:
        if loss not in LOSSES:
            raise ValueError(
                f"`loss` must be one of {', '.join(map(repr, LOSSES))}; found {loss!r}."
            )
        if loss in ("nb", "zinb") and self.setup.input_kind != "counts":
            raise ValueError(
                f"loss={loss!r} needs counts, but {self.setup.where} was set up as log-normalised. Set "
                'up a layer with counts: setup_anndata(adata, layer="counts"), or take loss="mse".'
            )
        if output_activation not in (None, "sigmoid") or (output_activation and loss != "mse"):
            raise ValueError(
                '`output_activation` must be None or, with loss="mse", "sigmoid"; found '
                f"{output_activation!r} with loss={loss!r}."
            )

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
        )

    def _config(self) -> dict[str, Any]:
        return self._arguments

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
            f"The mask ({mask!r}) is not one of scssl and is not saved, because nothing that is loaded may "
            "bring code along. The loaded model embeds and can be fine-tuned. To train it further: "
            "scssl.model.MaskedAutoencoder.from_ssl_model(model, adata, masking=...)"
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
            "weight_decay": 1e-2,
            "lr_schedule": "cosine",
            "patience": 20,
            **({} if preset is None else get_preset(preset).train),
        }


def _check_architecture(
    hidden: Sequence[int], n_latent: int, dropout: float, mask_signal: str | None
) -> None:
    if not hidden or any(width < 1 for width in hidden) or n_latent < 1:
        raise ValueError(
            f"Layers need at least one unit, found hidden_dims={hidden}, n_latent={n_latent}."
        )
    check_number("dropout", dropout, "[0, 1)")
    if mask_signal not in (None, "rescale", "indicator"):
        raise ValueError(
            f"`mask_signal` must be None, 'rescale' or 'indicator', found {mask_signal!r}."
        )
