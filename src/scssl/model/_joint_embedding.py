"""What all joint-embedding models have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from anndata import AnnData

from scssl._random import RNG, as_seed, derive_seed
from scssl.augment import Augmentation, augmentation_from_config
from scssl.augment import augmentation as make_augmentation
from scssl.data import GeneVocabulary, NeighborTable, PartnerWalks
from scssl.module import JointEmbeddingModule

from ._base import SSLModel
from ._reader import CellReader, category_key
from ._setup import DataSetup


class JointEmbedding(SSLModel):
    """Base of models that learn by comparing two views of each cell.

    Each cell is changed twice at random (:mod:`scssl.augment`); an encoder and a small projector map
    both views, and the objective brings them together while it keeps the embeddings from becoming
    all the same. The embedding is what the encoder makes of the unchanged cell; the projector is left
    aside.

    Parameters
    ----------
    adata
        Data that were set up with :meth:`setup_anndata`.
    registry
        Setup of a model that is loaded without data; not for users.
    hidden_dims
        Widths of the encoder's hidden layers; (128,) as in :cite:p:`Ovcharenko2025`.
    n_latent
        Width of the embedding, 64 as in :cite:p:`Ovcharenko2025`.
    dropout
        Share of the units of the embedding dropped in training, 0 by default.
    activation
        ``"relu"`` (default), ``"selu"``, ``"gelu"``, ``"silu"`` or ``"leaky_relu"``.
    batch_norm
        Whether every layer of the encoder is followed by batch normalisation, of which embeddings use
        the running statistics. The encoder of :class:`MaskedAutoencoder` is
        ``hidden_dims=(256, 128), batch_norm=False, activation="selu", dropout=0.1``.
    augmentation
        What makes the views: a name, a :class:`scssl.augment.Augmentation` or a list of those, applied
        in that order. See :func:`scssl.augment.augmentation`.
    projector_dims
        Widths of the projector's layers; by default those of the method.
    rng
        Seed of the initial weights.
    **options
        Of the method; not for users, its class names them.
    """

    module: JointEmbeddingModule
    _module_class: ClassVar[type[JointEmbeddingModule]]
    #: Defaults of :meth:`train` that are not those of the other methods.
    _training: ClassVar[Mapping[str, Any]] = {}

    def __init__(
        self,
        adata: AnnData | None = None,
        registry: dict[str, Any] | None = None,
        *,
        hidden_dims: Sequence[int] = (128,),
        n_latent: int = 64,
        dropout: float = 0.0,
        activation: str = "relu",
        batch_norm: bool = True,
        augmentation: str | Augmentation | Sequence[Any] = "default",
        projector_dims: Sequence[int] | None = None,
        rng: RNG = 0,
        **options: Any,
    ) -> None:
        super().__init__(adata, registry)
        views = make_augmentation(augmentation)
        hidden = [int(width) for width in hidden_dims]
        dims = None if projector_dims is None else [int(width) for width in projector_dims]
        _check(hidden, n_latent, dropout, dims)
        if views.needs_counts and self.setup.input_kind != "counts":
            msg = (
                f"The augmentation {views!r} needs counts, but {self.setup.where} was set up as "
                'log-normalised. Set up a layer with counts: setup_anndata(adata, layer="counts"), or '
                'take another one: augmentation="mask".'
            )
            raise ValueError(msg)
        self._arguments: dict[str, Any] = {
            "hidden_dims": hidden,
            "n_latent": int(n_latent),
            "dropout": float(dropout),
            "activation": activation,
            "batch_norm": bool(batch_norm),
            "augmentation": views.config(),
            "projector_dims": dims,
            **options,
        }
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(as_seed(rng), "weights"))
            self.module = self._build_module(
                {**self._arguments, "augmentation": views}, genes=self.genes, setup=self.setup
            )
        self._tables(self._adata)
        sizes = "-".join(map(str, [len(self.genes), *hidden, n_latent]))
        chosen = ", ".join(f"{name} {_short(value)}" for name, value in options.items())
        self._model_summary_string = (
            f"{sizes} encoder {'with' if batch_norm else 'without'} batch normalisation, {activation}, "
            f"views by {views!r}" + (f", {chosen}" if chosen else "")
        )
        self.init_params_ = self._get_init_params(locals())

    @classmethod
    def _build_module(
        cls, arguments: Mapping[str, Any], *, genes: GeneVocabulary, setup: DataSetup
    ) -> JointEmbeddingModule:
        options = dict(arguments)
        if not isinstance(options["augmentation"], Augmentation):
            options["augmentation"] = augmentation_from_config(options["augmentation"])
        batch = setup.batch_key
        return cls._module_class(
            len(genes),
            **options,
            input_kind=setup.input_kind,
            target_sum=setup.target_sum,
            batch_key=None if batch is None else category_key(batch),
        )

    @classmethod
    def _encoder_arguments(cls, arguments: Mapping[str, Any]) -> dict[str, Any]:
        return {**arguments, "heads": False}

    def _config(self) -> dict[str, Any]:
        return self._arguments

    @classmethod
    def _from_config(cls, registry: dict[str, Any], config: Any) -> JointEmbedding:
        views = augmentation_from_config(config["augmentation"])
        return cls(registry=registry, **{**config, "augmentation": views})

    def _check_savable(self) -> None:
        augmentation_from_config(self._arguments["augmentation"])

    def _tables(self, adata: AnnData | None) -> PartnerWalks | None:
        """Graphs that the views draw other cells from; `None` where they need none."""
        views = self.module.augmentation
        walks = (views.walks(0), views.walks(1))
        names = sorted({name for view in walks for walk in view for name in walk})
        if not names or adata is None:
            return None
        tables = {}
        for name in names:
            if name not in adata.obsp:
                there = ", ".join(map(repr, adata.obsp)) or "none"
                msg = (
                    f"The augmentation {views!r} draws other cells from adata.obsp[{name!r}], which "
                    f"does not exist; there are: {there}. Make it: scssl.pp.cross_batch_neighbors("
                    f"adata, batch_key=..., key_added={name!r}), or name another graph."
                )
                raise KeyError(msg)
            tables[name] = NeighborTable.from_graph(adata.obsp[name], name, adata.n_obs)
        return PartnerWalks(tables, walks)

    def _training_data(self) -> CellReader:
        data = self._read(None)
        if self.setup.batch_key is not None:
            data.obs[category_key(self.setup.batch_key)] = self.setup.codes(
                data.adata, self.setup.batch_key
            )
        data.partners = self._tables(data.adata)
        return data

    def _before_training(
        self, data: CellReader, rows: np.ndarray, chosen: Mapping[str, Any], *, resumed: bool
    ) -> dict[str, Any]:
        # The momentum of a target follows the number of steps in total.
        return {"max_epochs": chosen["max_epochs"]}

    def _train_defaults(self, n_cells: int) -> dict[str, Any]:
        few = n_cells < 20_000
        epochs = round(200_000 / max(n_cells, 1))
        return {
            "max_epochs": int(np.clip(epochs, 20, 100)),
            "batch_size": 256 if few else 1024,
            "lr": 1e-3,
            "weight_decay": 1e-2,
            "lr_schedule": "cosine",
            "patience": 20,
            "early_stopping": self._module_class.loss_ranks_epochs,
            **self._training,
        }

    @torch.inference_mode()
    def get_latent_representation(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | np.ndarray | None = None,
        batch_size: int | None = None,
        *,
        min_overlap: float = 0.5,
        layer: Literal["encoder", "projector"] = "encoder",
    ) -> np.ndarray:
        """Embed cells.

        As :meth:`SSLModel.get_latent_representation`: genes are matched by name, nothing is
        augmented, and the embedding of a cell does not depend on the batch it is in.

        Parameters
        ----------
        adata
            Cells to embed, the model's own by default. It need not be set up.
        indices
            Rows, a boolean mask or cell names; all by default.
        batch_size
            Cells to read at a time, 2,048 by default. It makes no difference to the result.
        min_overlap
            Share of the model's genes that `adata` must have.
        layer
            Output of the encoder or of the projector, in which the views were compared.

        Returns
        -------
        Float32, shape ``(n_cells, n_latent)`` or the width of the projector, in the order of
        `indices`.

        Raises
        ------
        GeneMismatchError
            If too few genes are found.
        ValueError
            If the values are not of the kind that the model was trained on, or there is no such layer.
        """
        if layer == "encoder":
            return super().get_latent_representation(
                adata, indices, batch_size, min_overlap=min_overlap
            )
        if layer != "projector":
            msg = f'`layer` must be "encoder" or "projector", found {layer!r}.'
            raise ValueError(msg)
        data = self._read(adata, min_overlap=min_overlap)
        width = self.module.projected_width
        return self._apply(data, data.rows(indices), batch_size, self.module.project, width)


def _check(
    hidden: Sequence[int], n_latent: int, dropout: float, projector: Sequence[int] | None
) -> None:
    widths = [*hidden, n_latent, *(projector or [])]
    if (
        not hidden
        or any(width < 1 for width in widths)
        or (projector is not None and not projector)
    ):
        msg = (
            f"Layers need at least one unit, found hidden_dims={tuple(hidden)}, n_latent={n_latent}, "
            f"projector_dims={projector}."
        )
        raise ValueError(msg)
    if not 0 <= dropout < 1:
        msg = f"`dropout` must be in [0, 1), found {dropout}."
        raise ValueError(msg)


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
