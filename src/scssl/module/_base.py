"""What every module of the package can do."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import torch
from scvi.module.base import BaseModuleClass, LossOutput
from torch import Tensor

from scssl.data.keys import TARGET
from scssl.data.matrix import GeneStatistics
from scssl.data.plans import ContextOptions
from scssl.nn import BatchNormEncoder, GeneEncoder, SparseRows

#: Rows that go through a dense layer at a time when embedding. Matrix products of another height
#: may sum in another order, so a fixed height is what makes the bits of a cell's embedding
#: independent of the cells beside it and of the batch size.
BLOCK = 256


def blockwise(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Apply a row-wise function in blocks of a fixed height, the last one filled with zeros."""
    n = len(x)
    if n == 0:
        return function(x.new_zeros(BLOCK, x.shape[1]))[:0]
    parts = []
    for start in range(0, n, BLOCK):
        block = x[start : start + BLOCK]
        short = BLOCK - len(block)
        if short:
            block = torch.nn.functional.pad(block, (0, 0, 0, short))
        parts.append(function(block.contiguous())[: BLOCK - short])
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def first_layer(layer: GeneEncoder, x: SparseRows) -> Tensor:
    """The layer on the genes, the same for a cell in any batch; shape ``(n_cells, n_out)``."""
    if x.values.device.type == "cpu":
        first: Tensor = layer(x)
        return first
    # Elsewhere this layer is a dense product too, so its height has to be fixed as well.
    return blockwise(layer.dense, x.to_dense())


def embedded(encoder: BatchNormEncoder, x: SparseRows | Tensor) -> Tensor:
    """Embeddings in evaluation mode, the same for a cell in any batch."""
    assert isinstance(x, SparseRows)
    return blockwise(encoder.rest, first_layer(encoder.gene_encoder, x)).float()


def undecayed_vectors(module: torch.nn.Module) -> list[dict[str, Any]]:
    """Groups for the optimiser in which biases and scales of normalisation do not decay.

    Decay of these does not regularise, it only shrinks.
    """
    trained = [p for p in module.parameters() if p.requires_grad]
    return [
        {"params": [p for p in trained if p.ndim > 1]},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]


def asked_for(tensors: Mapping[str, Tensor], *values: Tensor) -> tuple[Tensor, ...]:
    """Rows of the cells of a batch that are learnt from, without those that are only seen by others."""
    if TARGET not in tensors:
        return values
    where = tensors[TARGET].squeeze(1).nonzero().squeeze(1)
    return tuple(value.index_select(0, where) for value in values)


class SSLModule(BaseModuleClass):
    """Base of all modules.

    A subclass implements :meth:`embed`, :meth:`loss` and, where it can decode, :meth:`generative`.
    A batch is the dict of tensors of :class:`scssl.data.CellLoader`.
    """

    #: Whether embeddings that use few dimensions are a failure. Not so for supervised ones, which
    #: need no more dimensions than there are classes.
    collapse_is_failure = True
    #: Standard deviation of embeddings below which they are one point.
    least_spread = 1e-4
    #: The same of what the objective compares, by the measures of the history; see :meth:`projected`.
    least_projected: Mapping[str, float] = {}
    #: Whether a lower validation loss means a better epoch. Where the target of the loss moves
    #: along with training, it does not, and the last weights are kept.
    loss_ranks_epochs = True
    #: Whether the loss is about several cells together, so that one alone has none.
    compares_cells = False
    #: Whether :meth:`begin_training` is to be called, which costs a pass over the training cells.
    wants_statistics = False
    #: Which cells see each other in the encoder; `None`: every cell is embedded by itself.
    context: ContextOptions | None = None
    #: Layers on genes of which some can come from a trained model although this one is not trained yet.
    #: Which genes is a buffer, ``warm_`` and the name, that only such modules have.
    warm_layers: tuple[str, ...] = ()

    @abstractmethod
    def embed(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """Embeddings of a batch in evaluation mode.

        Deterministic, and the same for a cell whatever batch it is in.

        Returns
        -------
        Shape ``(n_cells, n_latent)``, float32.
        """

    @abstractmethod
    def encode(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """Embeddings of a batch in the mode that the module is in, nothing hidden.

        What fine-tuning trains: it has a gradient, and dropout where the module is in training.

        Returns
        -------
        Shape ``(n_cells, n_latent)``.
        """

    def learnt(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """What training changes of the embeddings of a batch: all of it, but for fixed parts.

        By this training is watched.
        """
        return self.embed(tensors)

    def projected(self, z: Tensor) -> Tensor | None:
        """What the objective compares of embeddings, in evaluation mode; `None`: the embeddings.

        Parameters
        ----------
        z
            Embeddings, shape ``(n_cells, n_latent)``.
        """
        return None

    @property
    def encodes_covariates(self) -> bool:
        """Whether the encoder is told the covariates."""
        return False

    def embeds_by(self) -> str:
        """What embeddings depend on beside weights and the cell; part of the digest of an encoder."""
        return ""

    def encoder_parts(self) -> list[torch.nn.Module]:
        """Layers of the encoder, from the genes to the embedding; what can be frozen."""
        raise NotImplementedError

    @abstractmethod
    def loss(
        self,
        tensors: Mapping[str, Tensor],
        *,
        rng: torch.Generator | None = None,
        full: bool = True,
    ) -> LossOutput:
        """Loss of a batch.

        Parameters
        ----------
        tensors
            The batch.
        rng
            Randomness of masks and views; a fixed seed where `None`.
        full
            Whether to evaluate the whole loss, or an unbiased estimate where the module has one
            and was told to use it.
        """

    def begin_training(
        self, statistics: GeneStatistics, *, fresh: bool, n_output_genes: int | None
    ) -> None:
        """Take in what the training cells look like, before the first step.

        Parameters
        ----------
        statistics
            Of each gene.
        fresh
            Whether the weights are untrained.
        n_output_genes
            Genes to decode per training step, `None` for all.
        """

    def encoder_taken_over(self) -> None:
        """Get ready to train an encoder that has the weights of another model from now on."""

    def after_step(self, step: int, n_steps: int) -> None:
        """Move on what is not trained by gradients.

        Parameters
        ----------
        step
            Number of the step of the optimiser that is done, from 0.
        n_steps
            Steps in total.
        """

    def parameter_groups(self) -> list[dict[str, Any]]:
        """What the optimiser trains.

        ``"lr_factor"`` of a group multiplies its learning rate, ``"weight_decay"`` replaces the decay.
        """
        return [{"params": [p for p in self.parameters() if p.requires_grad]}]

    def validation_scores(self, tally: Mapping[str, Tensor]) -> dict[str, float]:
        """Scores of the validation cells for the history.

        Parameters
        ----------
        tally
            Sum over the batches, of all processes, of what :meth:`loss` gave in ``extra_metrics``
            with ``full=True``.

        Returns
        -------
        Scores by name. ``"loss"`` is the validation loss where it is not the mean over the cells of
        the losses of their batches.
        """
        return {}

    def __init__(self) -> None:
        super().__init__()
        for layer in self.warm_layers:
            self.register_buffer(f"warm_{layer}", None)

    @property
    def is_warm(self) -> bool:
        """Whether any weights come from a trained model."""
        return any(getattr(self, f"warm_{layer}") is not None for layer in self.warm_layers)

    def _cold(self, layer: str) -> Tensor | None:
        """Genes whose weights are not those of a trained model, boolean; `None`: of all."""
        warm: Tensor | None = getattr(self, f"warm_{layer}")
        return None if warm is None else ~warm

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        for layer in self.warm_layers:
            known = state_dict.get(f"{prefix}warm_{layer}")
            if known is not None:
                setattr(self, f"warm_{layer}", torch.empty_like(known, device=self.device))
        super()._load_from_state_dict(state_dict, prefix, *args)

    @property
    def output_width(self) -> int:
        """Width of the layer before the output of all genes; 0 where there is none."""
        return 0

    def decoded_in_part(self) -> list[str]:
        """Names of the parameters of the genes of which a step decodes some only."""
        return []

    def compilable(self) -> tuple[torch.nn.Module, ...]:
        """Parts that :func:`torch.compile` can take."""
        return ()

    @staticmethod
    def _rows(tensors: Mapping[str, Tensor]) -> SparseRows:
        return SparseRows.from_tensor(tensors["X"])

    def _generator(self, rng: torch.Generator | None) -> torch.Generator:
        return torch.Generator(self.device).manual_seed(0) if rng is None else rng
