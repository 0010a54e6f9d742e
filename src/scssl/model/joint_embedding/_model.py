"""What all joint-embedding models have in common."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch

from scssl._checks import check_number, check_whole, check_widths
from scssl._errors import warn
from scssl._random import RNG, as_seed, derive_seed
from scssl.augment import Augmentation
from scssl.data import GeneVocabulary
from scssl.data.keys import PRESENT, category_key
from scssl.model.base import DataSetup, SetupArgument
from scssl.nn import Fusion

from ._modality_views import choose_views, views_from_config
from ._network import JointEmbeddingModule
from ._view_training import ViewTraining, say_of_batches

if TYPE_CHECKING:
    from anndata import AnnData
    from mudata import MuData

_NO_COVARIATES = (
    "has no decoder to be told covariates; to learn to ignore a batch, mix cells across batches "
    "(augmentation=[scssl.augment.NeighborMix(), ...])"
)


class JointEmbedding(ViewTraining):
    """Base of models that learn by comparing two views of each cell.

    Each cell is changed twice at random (``scssl.augment``); an encoder and a small projector map
    both views, and the objective brings them together while it keeps the embeddings from becoming
    all the same. The embedding is what the encoder makes of the unchanged cell; the projector is left
    aside.

    Of a MuData every modality has an encoder of its own, and their embeddings are fused before the
    projector, in training as afterwards (:class:`scssl.nn.MultiEncoder`).

    Parameters
    ----------
    adata
        Data that were set up with :meth:`setup_anndata` or, as a MuData, with :meth:`setup_mudata`.
    registry
        Setup of a model that is loaded without data; not for users.
    hidden_dims
        Widths of the encoder's hidden layers; (128,) as in :cite:p:`Ovcharenko2025`.
    n_latent
        Width of the embedding, 64 as in :cite:p:`Ovcharenko2025`; of a MuData, that of a modality's
        embedding.
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
        in that order. See :func:`scssl.augment.augmentation`. Of a MuData, a dict of these by modality;
        what is not in a dict is for RNA. Modalities that are not named have their defaults: for
        proteins ``Mask(0.5, p=1)``, ``"default"`` for the others. Graphs and counts
        are for RNA only; a graph is that of the MuData or of its RNA. With one that is not of scssl no
        views are saved: the loaded model embeds and can be fine-tuned, as with `None`. To change it later,
        set ``model.augmentation``.
    fusion
        Of a MuData, how the embeddings of modalities become one: ``"concat"`` (default), side by side;
        ``"add"``; ``"mean"`` of those that a cell has; ``"clip"``, the mean, with a loss that contrasts the
        modalities of a cell with those of other cells :cite:p:`Radford2021` in addition.
    projector_dims
        Widths of the projector's layers; by default those of the method.
    rng
        Seed of the initial weights.
    **options
        Of the method; not for users, its class names them.
    """

    _setup_takes: ClassVar[Mapping[str, SetupArgument]] = {
        "batch_key": SetupArgument(
            """Column of ``adata.obs`` with the batch, for augmentations that are about batches, such as
            ``CrossOver(within="batch")``. The network is not told the batch."""
        )
    }
    _setup_refuses: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("categorical_covariate_keys", "continuous_covariate_keys"), _NO_COVARIATES
    )

    def __init__(
        self,
        adata: AnnData | MuData | None = None,
        registry: dict[str, Any] | None = None,
        *,
        hidden_dims: Sequence[int] = (128,),
        n_latent: int = 64,
        dropout: float = 0.0,
        activation: str = "relu",
        batch_norm: bool = True,
        augmentation: str | Augmentation | Sequence[Any] | Mapping[str, Any] | None = "default",
        fusion: Fusion | None = None,
        projector_dims: Sequence[int] | None = None,
        rng: RNG = 0,
        **options: Any,
    ) -> None:
        super().__init__(adata, registry)
        taken = set(inspect.signature(self._module_class._add_heads).parameters) - {"self"}
        for name in options:
            if name not in taken:
                common = inspect.signature(JointEmbedding).parameters.values()
                taken |= {one.name for one in common if one.kind is one.KEYWORD_ONLY}
                known = sorted(taken)
                raise TypeError(
                    f"{type(self).__name__} has no argument {name!r}; it has {', '.join(known)}."
                )
        views = None if augmentation is None else choose_views(augmentation, self.setup)
        if augmentation == "default":
            say_of_batches(self.setup)
        hidden = check_widths("hidden_dims", hidden_dims)
        dims = None if projector_dims is None else check_widths("projector_dims", projector_dims)
        n_latent = check_whole("n_latent", n_latent)
        check_number("dropout", dropout, "[0, 1)")
        if "predictor_dims" in options:
            options["predictor_dims"] = check_widths("predictor_dims", options["predictor_dims"])
        if self.setup.modalities:
            options = {"fusion": "concat" if fusion is None else fusion, **options}
        elif fusion is not None:
            raise ValueError(
                f"fusion={fusion!r} is for several modalities, and the model was set up with an AnnData. "
                "Leave it out, or set up a MuData: setup_mudata(mdata)"
            )
        if "queue_size" in options:
            options["queue_size"] = _queue_size(
                options["queue_size"], int(self.summary_stats["n_cells"])
            )
        self._arguments: dict[str, Any] = {
            "hidden_dims": hidden,
            "n_latent": int(n_latent),
            "dropout": float(dropout),
            "activation": activation,
            "batch_norm": bool(batch_norm),
            "projector_dims": dims,
            **options,
        }
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(as_seed(rng), "weights"))
            self.module = self._build_module(
                {**self._arguments, "augmentation": views}, genes=self.genes, setup=self.setup
            )
        self._tables(self._adata)
        if options.get("fusion") == "clip":
            self._warn_of_no_pairs()
        self._model_summary_string = self._summary()
        self.init_params_ = self._get_init_params(locals())

    def _summary(self) -> str:
        """What the model is, in a line."""
        found, views = self._arguments, self.augmentation
        common = set(inspect.signature(JointEmbedding).parameters) - {"fusion"}
        options = {name: value for name, value in found.items() if name not in common}
        inputs = ", ".join(f"{one.n_features} {one.kind}" for one in self.setup.modalities)
        first = f"({inputs})" if inputs else len(self.genes)
        sizes = "-".join(map(str, [first, *found["hidden_dims"], found["n_latent"]]))
        chosen = ", ".join(f"{name} {_short(value)}" for name, value in options.items())
        return (
            f"{sizes} encoder {'with' if found['batch_norm'] else 'without'} batch normalisation, "
            f"{found['activation']}, "
            + ("no views" if views is None else f"views by {views!r}")
            + (f", {chosen}" if chosen else "")
        )

    @classmethod
    def _build_module(
        cls, arguments: Mapping[str, Any], *, genes: GeneVocabulary, setup: DataSetup
    ) -> JointEmbeddingModule:
        options = dict(arguments)
        if options["augmentation"] is not None:
            options["augmentation"] = views_from_config(options["augmentation"])
        if setup.modalities:
            options["modalities"] = {one.kind: one.n_features for one in setup.modalities}
            options["n_idf"] = sum(
                one.n_features for one in setup.modalities if one.normalization == "tfidf"
            )
        batch = setup.batch_key
        assert setup.target_sum is not None
        return cls._module_class(
            len(genes),
            **options,
            input_kind=setup.input_kind,
            target_sum=setup.target_sum,
            batch_key=None if batch is None else category_key(batch),
        )

    @classmethod
    def _encoder_arguments(cls, arguments: Mapping[str, Any]) -> dict[str, Any]:
        return {**arguments, "heads": False, "augmentation": None}

    @torch.inference_mode()
    def get_latent_representation(
        self,
        adata: AnnData | MuData | None = None,
        indices: Sequence[int] | np.ndarray | None = None,
        batch_size: int | None = None,
        *,
        min_overlap: float = 0.5,
        layer: Literal["encoder", "projector"] = "encoder",
        modality: Literal["joint", "rna", "protein", "atac"] = "joint",
    ) -> np.ndarray:
        """Embed cells.

        As :meth:`SSLModel.get_latent_representation`: genes are matched by name, nothing is
        augmented, and the embedding of a cell does not depend on the batch it is in.

        Parameters
        ----------
        adata
            Cells to embed, the model's own by default. It need not be set up. Of a model of several
            modalities a MuData, which may lack some of them, or an AnnData with RNA.
        indices
            Rows, a boolean mask or cell names; all by default.
        batch_size
            Cells to read at a time, 2,048 by default. It makes no difference to the result.
        min_overlap
            Share of the model's genes that `adata` must have; of each modality that it has.
        layer
            Output of the encoder or of the projector, in which the views were compared.
        modality
            Of a model of several modalities, the embedding of all that a cell has, or of one alone; that is
            NaN for cells that lack it.

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
        if modality != "joint":
            self._check_modality(modality)
            if layer != "encoder":
                raise ValueError(
                    f'layer="projector" is of all modalities, found modality={modality!r}.'
                )
            return self._embed_modality(adata, indices, batch_size, min_overlap, modality)
        if layer == "encoder":
            return super().get_latent_representation(
                adata, indices, batch_size, min_overlap=min_overlap
            )
        if layer != "projector":
            raise ValueError(f'`layer` must be "encoder" or "projector", found {layer!r}.')
        data = self._read(adata, min_overlap=min_overlap)
        self._warn_if_untrained()
        width = self.module.projected_width
        return self._apply(data, data.rows(indices), batch_size, self.module.project, width)

    def _warn_if_untrained(self) -> None:
        if not self._has_learnt:
            warn("The model is not trained: embeddings are random projections. Call model.train().")

    @property
    def n_latent(self) -> int:
        """Width of the embedding."""
        return self.module.n_latent

    def _embed_modality(
        self, adata: Any, indices: Any, batch_size: int | None, min_overlap: float, modality: str
    ) -> np.ndarray:
        data = self._read(adata, min_overlap=min_overlap)
        self._warn_if_untrained()
        rows = data.rows(indices)
        have = data.obs[PRESENT][rows, self.modalities.index(modality)]
        if len(rows) and not have.any():
            raise ValueError(f"None of the cells has the modality {modality!r}.")

        def embed(tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
            return self.module.embed_modality(tensors, modality)

        return self._apply(data, rows, batch_size, embed, int(self._arguments["n_latent"]))


def _queue_size(size: int | None, n_cells: int) -> int:
    """A quarter of the cells at most, unless it was given; 2,048 where there are enough."""
    if size is None:
        return min(2048, max(64, n_cells // 4))
    return check_whole("queue_size", size)


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
