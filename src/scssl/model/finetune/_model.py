"""What fine-tuned models and their networks have in common: they start from the encoder of another model."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, get_args

import numpy as np
import torch
from torch import Tensor, nn

from scssl._checks import check_adata, check_choice, check_number, check_whole
from scssl._random import RNG, as_seed, derive_seed
from scssl.data import GeneVocabulary
from scssl.model.base import (
    GRAPH,
    SETUP,
    Backbone,
    CellReader,
    DataSetup,
    SetupArgument,
    SSLModel,
    backbone_of,
    check_like,
    copied,
    get_model_class,
    known_arguments,
    list_models,
    principal_axes,
    record_tissue,
    some_of,
    tell_tissue,
)
from scssl.module import SSLModule, first_layer
from scssl.nn import GeneEncoder, Head
from scssl.train import TrainOptions

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

_LOGGER = logging.getLogger("scssl")
Freeze = Literal["none", "encoder"] | int
HeadKind = Literal["linear", "mlp"]
NewGenes = Literal["ignore", "learn"]
# Units of the hidden layer of an MLP.
_N_HIDDEN = 128


class FineTunedModule(SSLModule):
    """The encoder of another module, and a head on its embeddings.

    What is frozen has no gradient, is in evaluation mode also in training, and is not seen by the
    optimiser: no update and no weight decay reaches it. A number freezes that many layers, counted from the
    genes. Beside the `n_latent` values of an embedding the head sees `n_components` fixed linear combinations
    of the genes; as ``"mlp"`` it has a hidden layer beside the linear part.
    """

    collapse_is_failure = False

    def __init__(
        self,
        backbone: SSLModule,
        n_out: int,
        *,
        n_genes: int,
        n_latent: int,
        n_components: int,
        head: HeadKind,
        freeze: Freeze,
        unit_length: bool = False,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        #: Widths of the parts of what the head sees.
        self.widths = (n_latent, n_components)
        n_hidden = _N_HIDDEN if head == "mlp" else None
        self.head = Head(sum(self.widths), n_out, n_hidden=n_hidden, unit_length=unit_length)
        self.components: GeneEncoder | None = None
        if n_components:
            self.components = GeneEncoder(n_genes, n_components).requires_grad_(False)
        self.context = backbone.context
        #: Learning rate of the backbone in terms of that of the head.
        self.backbone_lr_factor = 1.0
        parts = backbone.encoder_parts()
        n_frozen = _n_frozen(freeze, len(parts))
        self.frozen = list(range(n_frozen))
        self.backbone_is_frozen = n_frozen == len(parts)
        for part in [backbone] if self.backbone_is_frozen else parts[:n_frozen]:
            part.requires_grad_(False)

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        if self.backbone_is_frozen:
            self.backbone.eval()
        else:
            parts = self.backbone.encoder_parts()
            for i in self.frozen:
                parts[i].eval()
        return self

    @property
    def encodes_covariates(self) -> bool:
        return self.backbone.encodes_covariates

    def embeds_by(self) -> str:
        return self.backbone.embeds_by()

    def encoder_parts(self) -> list[nn.Module]:
        """Layers of the backbone's encoder."""
        return self.backbone.encoder_parts()

    def embed(self, tensors: Mapping[str, Tensor]) -> Tensor:
        return self.backbone.embed(tensors)

    def encode(self, tensors: Mapping[str, Tensor]) -> Tensor:
        if self.backbone_is_frozen:
            with torch.no_grad():
                return self.backbone.encode(tensors)
        return self.backbone.encode(tensors)

    def features(self, tensors: Mapping[str, Tensor], *, evaluate: bool) -> Tensor:
        """What the head sees: the embedding and the components."""
        z = self.embed(tensors) if evaluate else self.encode(tensors)
        if self.components is None:
            return z
        return torch.cat([z, first_layer(self.components, self._rows(tensors)).to(z)], dim=1)

    def parameter_groups(self) -> list[dict[str, Any]]:
        groups: list[dict[str, Any]] = [
            {"params": [p for p in self.head.parameters() if p.requires_grad]},
            {
                "params": [p for p in self.backbone.parameters() if p.requires_grad],
                "lr_factor": self.backbone_lr_factor,
            },
        ]
        return [group for group in groups if group["params"]]


def _n_frozen(freeze: Any, n_parts: int) -> int:
    if isinstance(freeze, str) and freeze in ("none", "encoder"):
        return n_parts if freeze == "encoder" else 0
    if isinstance(freeze, bool) or not isinstance(freeze, int) or not 0 <= freeze <= n_parts:
        raise ValueError(
            f"`freeze` must be 'none', 'encoder' or 0 to {n_parts} layers, found {freeze!r}."
        )
    return freeze


class FineTunedModel(SSLModel):
    """Base of models that put a head on the encoder of another model."""

    module: FineTunedModule
    #: Names of the targets: an attribute, and an argument in the folder of a model.
    _targets_are: Literal["classes", "proteins"]
    _learns_all_genes = False
    _learns_embeddings = False
    _setup_takes: ClassVar[Mapping[str, SetupArgument]] = {
        **GRAPH,
        "batch_key": SetupArgument(
            """Column of ``adata.obs`` with the batch, which an encoder is told where its model has that
            option and it is on."""
        ),
        **dict.fromkeys(
            ("categorical_covariate_keys", "continuous_covariate_keys"),
            SetupArgument("Further columns of ``adata.obs``, which an encoder is told likewise."),
        ),
        "target_sum": SetupArgument(
            """Sum of a cell before the logarithm, for counts. ``"auto"``: 1e4 as in :cite:p:`Richter2025`, of a
            panel of up to 1,000 genes the median of the sums of the cells. `None`, for encoders of
            :class:`CellPLM`: counts are not scaled.""",
            float | Literal["auto"] | None,
            "auto",
        ),
    }

    def _start(
        self,
        backbone: str | Backbone,
        backbone_arguments: Mapping[str, Any],
        rng: RNG,
        arguments: dict[str, Any],
        summary: str,
    ) -> None:
        """Take over the encoder that a name or another model gives, and build the module on it."""
        seed = as_seed(rng)
        if not isinstance(backbone, Backbone):
            backbone = Backbone.untrained(backbone, self.registry_, backbone_arguments, seed)
        elif backbone_arguments:
            raise TypeError("The backbone has the arguments of its own model; pass none.")
        if self._adata is not None:
            check_like(self._adata, self.setup, backbone.setup)
        self.genes = backbone.genes
        known = backbone.setup.categories
        categories = {
            key: known.get(key, names) if key in backbone.setup.covariate_keys() else names
            for key, names in self.setup.categories.items()
        }
        # The encoder is told covariates as it was in its own training.
        scale = backbone.setup.continuous_scale
        self.setup = replace(self.setup, categories=categories, continuous_scale=scale)
        self.registry_[SETUP]["setup"] = self.setup.to_dict()
        self._arguments = {
            "backbone": backbone.to_dict(),
            self._targets_are: getattr(self, self._targets_are),
            **arguments,
        }
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(seed, "head"))
            self.module = self._make_module(backbone, self._arguments)
        # The module has the weights now.
        self._source = replace(backbone, weights=None)
        start = "pretrained" if backbone.pretrained else "new"
        freeze = str(arguments["freeze"])
        frozen = {"none": "", "encoder": ", frozen"}
        self._model_summary_string = (
            f"{start} encoder of {backbone.model_class}"
            f"{frozen.get(freeze, f', {freeze} layers of it frozen')}{summary}"
        )

    @classmethod
    def _more_arguments(cls, given: Mapping[str, Any]) -> list[str]:
        backbone = given.get("backbone", "MaskedAutoencoder")
        if backbone not in list_models():
            return []
        return known_arguments(get_model_class(backbone), "__init__", {})

    @classmethod
    def _setup_like(
        cls,
        model: Any,
        adata: AnnData,
        *,
        min_overlap: float,
        new_genes: NewGenes = "ignore",
        **kwargs: Any,
    ) -> Backbone:
        """Set `adata` up to be read like the data of a model; the encoder of that model."""
        check_choice("new_genes", new_genes, get_args(NewGenes))
        source = backbone_of(model)
        check_adata(adata, matrix=True)
        # Before the matrix is read: what is wrong with the genes is wrong with all the rest.
        source.genes.align(adata.var_names, min_overlap=min_overlap, var=adata.var)
        if new_genes == "learn":
            source = source.on_genes(adata.var_names)
        covariates = source.build().encodes_covariates
        cls.setup_anndata(adata, **source.setup_arguments(covariates=covariates), **kwargs)
        return source

    @classmethod
    def _also_recorded(
        cls, data: Any, setup: DataSetup, given: Mapping[str, Any]
    ) -> dict[str, Any]:
        return {"fingerprint": record_tissue(data, setup)}

    def _also_read(self, reader: CellReader, data: Any) -> None:
        if self.module.context is not None:
            tell_tissue(reader, data, self.module.context)

    @classmethod
    def _make_module(cls, backbone: Backbone, arguments: Mapping[str, Any]) -> FineTunedModule:
        raise NotImplementedError

    @classmethod
    def _build_module(
        cls, arguments: Mapping[str, Any], *, genes: GeneVocabulary, setup: DataSetup
    ) -> FineTunedModule:
        return cls._make_module(Backbone.from_dict(arguments["backbone"], genes), arguments)

    @classmethod
    def _from_config(cls, registry: dict[str, Any], config: Mapping[str, Any]) -> Self:
        rest, of = dict(config), cls._targets_are
        genes = registry["field_registries"]["X"]["state_registry"]["column_names"]
        backbone = Backbone.from_dict(rest.pop("backbone"), GeneVocabulary(genes))
        targets = rest.pop(of)
        maker: Any = cls
        model: Self = maker(registry=registry, backbone=backbone, **rest)
        if (found := getattr(model, of)) != targets:
            raise ValueError(f"the {of} are {targets}, those of the setup {found}")
        return model

    def _backbone(self) -> Backbone:
        trained = self.module.backbone.state_dict()
        return replace(
            self._source,
            genes=self.genes,
            weights=copied(trained),
            pretrained=self._source.pretrained or self.is_trained_,
        )

    def untrained(self, rng: RNG = 0) -> Self:
        new = super().untrained(rng)
        new._source = replace(new._source, pretrained=False)
        return new

    @property
    def _has_learnt(self) -> bool:
        return self.is_trained_ or self._source.pretrained

    @property
    def n_latent(self) -> int:
        """Width of the embedding."""
        return self._source.n_latent

    def _read(
        self, adata: AnnData | None, *, min_overlap: float | None = None, indices: Any = None
    ) -> CellReader:
        own: float = self._arguments["min_overlap"]
        if min_overlap is None:
            min_overlap = own
        elif adata is None or adata is self._adata:
            min_overlap = min(min_overlap, own)
        return super()._read(adata, min_overlap=min_overlap, indices=indices)

    def _training_data(self) -> CellReader:
        data = self._read(None)
        # The other cells of a tissue are there when labels are predicted, so they are when it is learnt.
        data.fills_context = True
        return data.with_covariates() if self.module.encodes_covariates else data

    def train(
        self,
        max_epochs: int | None = None,
        *,
        lr: float | None = None,
        backbone_lr: float | None = None,
        train_size: float | None = None,
        **kwargs: Any,
    ) -> None:
        """Train the head and, unless it is frozen, the encoder.

        What training has changed of a pretrained encoder and of the regression that the head starts as is
        kept where the validation set says that it helps, by its loss and its score. Otherwise the encoder
        is what it was, and the head the regression of all cells that have a target; ``training_["head"]``
        says which.

        Parameters
        ----------
        max_epochs
            Passes over the training cells at most; by default from the number of cells. With so few targets
            that there is no validation set, fine-tuning is kept only if this is given.
        lr
            Learning rate of the head.
        backbone_lr
            Learning rate of the encoder; by default lower than `lr` where it was pretrained.
        train_size
            Share of the cells to train on; the others are the validation set. By default 0.9, and 1
            where so few cells have a target that none can be spared.
        **kwargs
            As in :meth:`~scssl.model.SSLModel.train`: ``hold_out``, ``balance_key``, ``balance_weights``, ``separate_key``, ``batch_size``,
            ``weight_decay``, ``lr_schedule``, ``early_stopping``, ``patience``, ``gradient_clip``, ``max_steps``, ``accelerator``, ``devices``,
            ``num_nodes``, ``strategy``, ``precision``, ``compile``, ``rng``, ``checkpoint_dir``, ``checkpoint_every``,
            ``resume_from``, ``logger``, ``progress``, ``callbacks``.

        Raises
        ------
        ValueError
            If an argument is out of range, the data have changed since they were set up, or
            ``resume_from`` belongs to another run.
        FloatingPointError
            If the loss stops being finite.
        """
        self._backbone_lr = check_number("backbone_lr", backbone_lr, "[0, inf)", none=True)
        self._length_is_given = max_epochs is not None or kwargs.get("max_steps") is not None
        super().train(max_epochs, lr=lr, train_size=train_size, **kwargs)

    #: Learning rate of a pretrained encoder in terms of that of the head.
    _pretrained_lr_factor = 0.1
    #: What the head starts as, and what a validation set of the cells is judged by.
    _starts_as: str
    _judged_by: tuple[str, str]
    _weights_at_start: dict[str, torch.Tensor] | None = None
    #: Whether so few cells have a target that none is held out.
    _has_few = False

    @property
    def _is_start_alone(self) -> bool:
        """Whether no cell is held out to tell if fine-tuning helps, and nobody asked for it all the same."""
        return self._has_few and self._source.pretrained and not self._length_is_given

    def _before_training(
        self, data: CellReader, rows: np.ndarray, chosen: TrainOptions, *, resumed: bool
    ) -> dict[str, Any]:
        factor = self._pretrained_lr_factor if self._source.pretrained else 1.0
        if self._backbone_lr is not None:
            factor = self._backbone_lr / chosen.lr
        self.module.backbone_lr_factor = factor
        self._weights_at_start = None
        if not self.is_trained_ and self._start_head(data, rows) and self._source.pretrained:
            self._weights_at_start = copied(self.module.state_dict())
        return {"backbone_lr": factor * chosen.lr}

    def _start_head(self, data: CellReader, rows: np.ndarray) -> bool:
        """Start the head from what it sees of cells with a target; whether it says something of them."""
        raise NotImplementedError

    def _fit_head(self, data: CellReader, rows: np.ndarray) -> None:
        """Make the linear part of the head the regression of these cells' targets on what it sees of them."""
        raise NotImplementedError

    def _judged(self, data: CellReader, held_out: np.ndarray) -> tuple[float, float]:
        """Loss and score of held-out cells, as ``_judged_by`` names them: low and high are good."""
        raise NotImplementedError

    def _after_training(
        self, data: CellReader, rows: np.ndarray, held_out: np.ndarray
    ) -> dict[str, Any]:
        """Go back to the start where held-out cells do not say that fine-tuning helps."""
        start, self._weights_at_start = self._weights_at_start, None
        if start is None or not (len(held_out) or self._is_start_alone):
            return {"head": "fine-tuned"}
        after = copied(self.module.state_dict())
        why = f"So few cells have {self._targets_are} that none was held out"
        if len(held_out):
            end = self._judged(data, held_out)
            self.module.load_state_dict(start)
            begin = self._judged(data, held_out)
            if end[0] < begin[0] and end[1] >= begin[1]:
                self.module.load_state_dict(after)
                return {"head": "fine-tuned"}
            found = (
                f"{name} {new:.3f}, {old:.3f} before"
                for name, new, old in zip(self._judged_by, end, begin, strict=True)
            )
            why = f"Fine-tuning does not help {len(held_out):,} held-out cells ({'; '.join(found)})"
        self.module.load_state_dict(start)
        rows = np.sort(np.concatenate([rows, held_out]))
        self._fit_head(data, rows)
        _LOGGER.info(
            "%s: the encoder stays as it was, and the head is the %s of %s cells.",
            why,
            self._starts_as,
            f"{len(rows):,}",
        )
        return {"head": self._starts_as}

    def _n_components(self, asked: int, n_cells: int | None, backbone: Any) -> int:
        """Components that so many cells allow: a quarter, or a regression has nothing to learn from."""
        n_components = check_whole("n_components", asked, 0)
        there = isinstance(backbone, Backbone) and backbone.arguments.get("n_components")
        if self.setup.use_rep is not None or there:
            # What is read is no expression, or the embedding has them already.
            return 0
        if n_cells is None:
            return n_components
        return min(n_components, n_cells // 4, len(self.genes) - 1)

    def _seen(self, data: CellReader, rows: np.ndarray) -> np.ndarray:
        """What the head sees of cells."""

        def features(tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
            return self.module.features(tensors, evaluate=True)

        with torch.inference_mode():
            return self._apply(data, rows, None, features, self.module.head.n_in)

    def _scaled(self, data: CellReader, rows: np.ndarray) -> np.ndarray:
        """What the linear part of the head sees of cells; float64."""
        head = self.module.head
        seen = torch.from_numpy(self._seen(data, rows)).to(head.shift)
        return head.standardised(seen).cpu().numpy().astype(np.float64)

    def _start_features(self, data: CellReader, rows: np.ndarray) -> None:
        """Take scale and principal components from these cells."""
        rows = some_of(rows)
        self._start_components(data, rows)
        self.module.head.standardise(torch.from_numpy(self._seen(data, rows)), self.module.widths)

    def _start_components(self, data: CellReader, rows: np.ndarray) -> None:
        components = self.module.components
        if components is None:
            return
        weight, mean = principal_axes(data, rows, components.bias.numel())
        with torch.no_grad():
            components.weight.copy_(weight)
            components.bias.copy_(-(mean @ weight))

    def _predicted(
        self,
        function: Callable[[Mapping[str, torch.Tensor]], torch.Tensor],
        adata: Any,
        indices: Sequence[int] | np.ndarray | None,
        batch_size: int | None,
        min_overlap: float,
    ) -> tuple[np.ndarray, pd.Index]:
        """What a function of the module says of cells, a column for each target, and their names."""
        if not self.is_trained_:
            raise ValueError("The head is not trained to predict. Call `model.train()`.")
        data = self._read(adata, min_overlap=min_overlap, indices=indices)
        if self.module.encodes_covariates:
            data = data.with_covariates()
        rows = data.rows(indices)
        n_targets = len(getattr(self, self._targets_are))
        with torch.inference_mode():
            found = self._apply(data, rows, batch_size, function, n_targets)
        return found, data.adata.obs_names[rows]
