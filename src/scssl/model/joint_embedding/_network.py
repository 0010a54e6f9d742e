"""Joint-embedding learning: what all of its methods have in common."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any, Literal

import torch
from scvi.module.base import LossOutput
from torch import Tensor, nn

from scssl.augment import Augmentation, ViewContext, two_views
from scssl.data.keys import PRESENT, partner_key, partner_obs_key, walk_of_key
from scssl.module import SSLModule, blockwise, embedded, undecayed_vectors
from scssl.nn import (
    BatchNormEncoder,
    Fusion,
    MultiEncoder,
    ProjectionHead,
    SparseRows,
    gather,
    momentum_schedule,
    n_of_all,
    update_ema,
)

from ._modalities import ModalityContrast, ModalitySplit


class JointEmbeddingModule(SSLModule):
    """An encoder that maps two views of a cell to the same place, and a head for its objective.

    A subclass adds its head in :meth:`_add_heads` and its objective in :meth:`compare`.

    Parameters
    ----------
    n_genes
        Number of genes.
    hidden_dims, n_latent, dropout, activation, batch_norm, fusion, projector_dims
        As in :class:`scssl.model.joint_embedding.JointEmbedding`. Of several modalities `n_latent` is the width
        of the embedding of one; heads are as wide as the fused embedding asks for.
    augmentation
        Draws the views; of several modalities, those of each.
    input_kind, target_sum
        How expression was normalised, for augmentations that work on counts.
    batch_key
        Key in a batch of the experimental batch, for augmentations within it; `None` where cells have none.
    modalities
        Number of features of each modality in the order of the columns, where cells have several.
    n_idf
        Number of features whose inverse document frequency is kept in the buffer ``idf``.
    heads
        Whether there is a head. Without one the module embeds and can be fine-tuned.
    **options
        Arguments of :meth:`_add_heads`.
    """

    #: Whether a lower validation loss means a better epoch. Not so where the target of the loss
    #: moves along: the loss of a copy that lags behind, or of a queue, says little about the encoder.
    loss_ranks_epochs = True
    compares_cells = True
    #: Which cells a cell is told apart from, for methods that ask: those of its batch where views come from
    #: other batches, unless it says ``"all"`` or ``"own_batch"``.
    negatives: Literal["all", "own_batch"] | None = None
    #: Groups of the cells of a step that are told apart; `None`: all are one.
    groups: Tensor | None = None
    warm_layers = ("gene_encoder",)
    # Of length 1 the projections of eight methods, run as they should be, on 400 synthetic cells and on
    # pbmc68k_reduced, 2 to 60 epochs, ended at 0.18 (DINO, 8 dimensions) or more; a point has 0.
    least_projected: Mapping[str, float] = {"projection_spread": 0.05}

    def __init__(
        self,
        n_genes: int,
        *,
        hidden_dims: Sequence[int],
        n_latent: int,
        dropout: float,
        activation: str,
        batch_norm: bool,
        augmentation: Augmentation | Mapping[str, Augmentation] | None,
        input_kind: str,
        target_sum: float,
        batch_key: str | None = None,
        modalities: Mapping[str, int] | None = None,
        fusion: Fusion = "concat",
        n_idf: int = 0,
        projector_dims: Sequence[int] | None = None,
        heads: bool = True,
        **options: Any,
    ) -> None:
        super().__init__()
        self.n_genes, self.n_latent = n_genes, n_latent
        self.augmentation = augmentation
        self.input_kind, self.target_sum = input_kind, target_sum
        self.batch_key = batch_key
        shape: dict[str, Any] = {
            "hidden_dims": hidden_dims,
            "n_latent": n_latent,
            "activation": activation,
            "dropout": dropout,
            "batch_norm": batch_norm,
        }
        self.encoder: Any
        self.split: ModalitySplit | None = None
        self.contrast: ModalityContrast | None = None
        if modalities is None:
            self.encoder = BatchNormEncoder(n_genes, **shape)
        else:
            self.split = ModalitySplit(modalities)
            self.encoder = MultiEncoder(modalities, fusion=fusion, **shape)
            self.n_latent = self.encoder.n_out
            if fusion == "clip" and heads:
                self.contrast = ModalityContrast(tuple(modalities), n_latent)
        if n_idf:
            self.register_buffer("idf", torch.ones(n_idf))
        self.projector: nn.Module | None = None
        self.projector_dims, self.projected_width = projector_dims, 0
        if heads:
            self._add_heads(**options)

    @abstractmethod
    def _add_heads(self, *args: Any, **options: Any) -> None:
        """Add projector, predictor, target and queue, as the method has them.

        A method gives it the hyper-parameters that are its own, by name only, with their types and defaults.
        """

    def _add_projector(self, *default: int, **options: Any) -> None:
        """Add a projector with layers of these widths, or of those that the user wants."""
        dims = default if self.projector_dims is None else self.projector_dims
        self.projector = ProjectionHead([self.n_latent, *dims], **options)
        self.projected_width = dims[-1]

    def _add_predictor(self, hidden_dims: Sequence[int]) -> None:
        """Add what predicts a projection from another, with hidden layers of these widths."""
        self.predictor = ProjectionHead([self.projected_width, *hidden_dims, self.projected_width])
        if hidden_dims:
            # The batch norm of the predictor takes it away.
            self._fix_shift()

    def _fix_shift(self) -> None:
        """Leave the shift of the projections at zero, where the objective is the same for any.

        What is left of its gradient is rounding noise, which Adam would blow up to full steps: they would be
        others with another number of threads or processes.
        """
        assert isinstance(self.projector, ProjectionHead)
        shift = self.projector.layers[-1].bias
        if isinstance(shift, nn.Parameter):
            nn.init.zeros_(shift)
            shift.requires_grad_(False)

    @abstractmethod
    def compare(self, one: Any, two: Any, *, learn: bool) -> Tensor:
        """Objective of two views.

        Parameters
        ----------
        one, two
            The views, what the encoder takes.
        learn
            Whether this is a training step, after which queues move on.
        """

    def _groups(self, batch: Tensor | None) -> Tensor | None:
        """Batch of each cell, if cells are to be told apart within batches only."""
        if self.negatives is None:
            views = self.augmentation
            parts = views.values() if isinstance(views, Mapping) else (views,)
            within = any("across" in part.edges().values() for part in parts if part is not None)
        else:
            within = self.negatives == "own_batch"
        return batch if within else None

    def loss(
        self,
        tensors: Mapping[str, Tensor],
        *,
        rng: torch.Generator | None = None,
        full: bool = True,
    ) -> LossOutput:
        if self.projector is None:
            raise ValueError(
                "This model has no projector, so it cannot be trained to compare views. Fine-tune it, with "
                "scssl.model.CellTypeClassifier.from_ssl_model."
            )
        x, rng = self._rows(tensors), self._generator(rng)
        if n_of_all(x.n_cells) < 2:
            # One cell has nothing to be told apart from, so it does not count. Training drops such
            # a batch; where it does not, processes wait for a gradient of every weight.
            trained = [p.sum() for p in self.parameters() if p.requires_grad]
            return LossOutput(loss=0 * torch.stack(trained).sum(), n_obs_minibatch=0)
        contexts = self._contexts(tensors, rng)
        one: Any
        two: Any
        if self.split is not None:
            assert isinstance(self.augmentation, Mapping)
            known = self._partners_present(tensors, contexts)
            one, two = self.split.views(
                x, tensors[PRESENT], self.augmentation, rng, contexts, known
            )
        else:
            assert isinstance(self.augmentation, Augmentation)
            one, two = two_views(x, self.augmentation, rng, contexts)
        self.groups = self._groups(contexts[0].batch)
        loss = self.compare(one, two, learn=not full and self.training)
        if self.contrast is not None:
            loss = loss + self.contrast(self.encoder, one) + self.contrast(self.encoder, two)
        return LossOutput(loss=loss, n_obs_minibatch=x.n_cells)

    def encode_views(self, one: Any, two: Any) -> list[Tensor]:
        """Embeddings of both views, each with the batch statistics of its own."""
        encoder = self.encoder
        sparse = isinstance(one, SparseRows) and isinstance(two, SparseRows)
        if not sparse or not isinstance(encoder, BatchNormEncoder):
            return [encoder(one), encoder(two)]
        # The layer on the genes has no statistics: one product, and one gradient, for both.
        first = encoder.gene_encoder(SparseRows.stack([one, two]))
        return [encoder.rest(part) for part in first.split([one.n_cells, two.n_cells])]

    def projections(self, one: Any, two: Any, *, gathered: bool = True) -> list[Tensor]:
        """Projections of both views; `gathered`: of the cells of all processes."""
        assert self.projector is not None
        z = [self.projector(h) for h in self.encode_views(one, two)]
        return [gather(part) for part in z] if gathered else z

    def _contexts(
        self, tensors: Mapping[str, Tensor], rng: torch.Generator
    ) -> tuple[ViewContext, ViewContext]:
        """What the augmentations of each view may know of the batch."""
        partners: tuple[dict[tuple[str, ...], SparseRows], ...] = ({}, {})
        for name, value in tensors.items():
            found = walk_of_key(name)
            if found is not None:
                view, walk = found
                partners[view][walk] = SparseRows.from_tensor(value)
        batch = tensors.get(self.batch_key) if self.batch_key else None
        shared = torch.randint(2**31, (), generator=rng, device=rng.device)
        one, two = (
            ViewContext(
                view=view,
                partners=partners[view],
                batch=None if batch is None else batch.squeeze(-1),
                input_kind=self.input_kind,  # type: ignore[arg-type]
                library=tensors["library"].squeeze(-1),
                target_sum=self.target_sum,
                shared_seed=int(shared),
            )
            for view in (0, 1)
        )
        return one, two

    @staticmethod
    def _partners_present(tensors: Mapping[str, Tensor], contexts: Any) -> Any:
        """Which modalities the partners of each view have, by walk."""
        return tuple(
            {
                walk: tensors[key]
                for walk in context.partners
                if (key := partner_obs_key(PRESENT, partner_key(context.view, walk))) in tensors
            }
            for context in contexts
        )

    def encode(self, tensors: Mapping[str, Tensor]) -> Tensor:
        x = self._rows(tensors)
        z: Tensor = self.encoder(x if self.split is None else self.split.plain(x, tensors[PRESENT]))
        return z

    def embed(self, tensors: Mapping[str, Tensor]) -> Tensor:
        x = self._rows(tensors)
        if self.split is None:
            return embedded(self.encoder, x)
        view = self.split.plain(x, tensors[PRESENT])
        found = {
            name: embedded(self.encoder.encoder_of(name), part.x)
            for name, part in view.parts.items()
        }
        fused: Tensor = self.encoder.fuse(found, view)
        return fused

    def embed_modality(self, tensors: Mapping[str, Tensor], name: str) -> Tensor:
        """As :meth:`embed`, of one modality; NaN for cells that lack it."""
        assert self.split is not None
        part = self.split.plain(self._rows(tensors), tensors[PRESENT]).parts[name]
        z = embedded(self.encoder.encoder_of(name), part.x)
        return z.new_full((len(tensors[PRESENT]), z.shape[1]), torch.nan).index_copy(
            0, part.cells, z
        )

    def project(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """Output of the projector in evaluation mode, the same for a cell in any batch."""
        if self.projector is None:
            raise ValueError("This model has no projector, only an encoder.")
        return blockwise(self.projector, self.embed(tensors)).float()

    def projected(self, z: Tensor) -> Tensor | None:
        return None if self.projector is None else blockwise(self.projector, z).float()

    def encoder_parts(self) -> list[nn.Module]:
        """Layers of the encoder, each with its normalisation, the one on the genes first."""
        if self.split is not None:
            return [
                part for name in self.split.names for part in self.encoder.encoder_of(name).parts()
            ]
        return list(self.encoder.parts())

    def compilable(self) -> tuple[nn.Module, ...]:
        if self.split is not None:
            return tuple(self.encoder.encoder_of(name).rest for name in self.split.names)
        return (self.encoder.rest,)

    def parameter_groups(self) -> list[dict[str, Any]]:
        return undecayed_vectors(self)


class MomentumModule(JointEmbeddingModule):
    r"""A joint embedding whose target is a copy of the network that follows it slowly.

    After each step of the optimiser, every weight of the copy moves by

    .. math:: \theta' \leftarrow m \theta' + (1 - m) \theta

    and :math:`m` rises from `momentum` to 1 along half a cosine over all steps. Where it is left open
    it follows from the number of steps, see :func:`momentum_for`.
    """

    loss_ranks_epochs = False

    def _add_target(self, momentum: float | None) -> None:
        """Copy encoder and projector as they are."""
        assert self.projector is not None
        self.momentum = momentum
        self.target_encoder = deepcopy(self.encoder).requires_grad_(False)
        self.target_projector = deepcopy(self.projector).requires_grad_(False)

    def encoder_taken_over(self) -> None:
        self.target_encoder.load_state_dict(self.encoder.state_dict())

    def after_step(self, step: int, n_steps: int) -> None:
        assert self.projector is not None
        start = momentum_for(n_steps) if self.momentum is None else self.momentum
        momentum = momentum_schedule(step, n_steps, start)
        update_ema(self.target_encoder, self.encoder, momentum)
        update_ema(self.target_projector, self.projector, momentum)

    @torch.no_grad()
    def target(self, view: Any) -> Tensor:
        """Projection of a view by the copy."""
        z: Tensor = self.target_projector(self.target_encoder(view))
        return z


def momentum_for(n_steps: int) -> float:
    """Momentum to start from: the copy remembers about an eightieth of the run.

    Within 0.9 and the 0.996 of :cite:p:`Grill2020`, which is for a hundred thousand steps. A copy that
    remembers hundreds of steps hardly moves in a run of hundreds.
    """
    return min(max(1 - 80 / max(n_steps, 1), 0.9), 0.996)
