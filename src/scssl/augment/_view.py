"""What augmentations share: the batch, what they know of it, and two views of it."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor

from scssl._checks import check_choice
from scssl.nn import SparseRows

from ._view_hash import bernoulli, key_of_names

Batch = SparseRows | Tensor
Walk = tuple[str, ...]
Edges = Literal["across", "within"]


@dataclass(frozen=True)
class ViewContext:
    """What an augmentation may know of a batch besides the expression it is given.

    Parameters
    ----------
    view
        0 or 1: which of the two views of the batch.
    partners
        Expression of other cells, normalised as the batch is, with one row per cell of the batch:
        the ends of walks through neighbour graphs. A walk is a tuple of names of graphs, of each of
        which one random edge is taken in turn; a cell without an edge stays where it is.
    batch
        Code of each cell's experimental batch; int64, shape ``(n_cells,)``.
    input_kind
        ``"counts"`` where the expression was normalised from counts when it was read, else
        ``"lognorm"``.
    library
        Sum of the counts of each cell; float, shape ``(n_cells,)``.
    target_sum
        Sum of each cell after normalisation, before the logarithm.
    shared_seed
        Same in both views, for decisions that the two views share.

    Raises
    ------
    ValueError
        If ``view`` is not 0 or 1.

    Examples
    --------
    >>> from scssl.augment import ViewContext
    >>> ViewContext(view=1).input_kind
    'lognorm'
    """

    view: int = 0
    partners: Mapping[Walk, SparseRows] = field(default_factory=dict)
    batch: Tensor | None = None
    input_kind: Literal["counts", "lognorm"] = "lognorm"
    library: Tensor | None = None
    target_sum: float = 1e4
    shared_seed: int = 0

    def __post_init__(self) -> None:
        check_choice("view", self.view, (0, 1))

    def partner(self, walk: Walk, x: Batch) -> SparseRows:
        """Cells at the ends of a walk, one for each cell of ``x``.

        Parameters
        ----------
        walk
            Names of graphs.
        x
            Batch of cells.

        Raises
        ------
        ValueError
            If there are none for this walk, or not one for each cell.
        """
        if walk not in self.partners:
            found = ", ".join(map(str, self.partners)) or "none"
            raise ValueError(
                f"The partners of the walk {walk} are missing (found: {found}): give "
                f"ViewContext(view={self.view}, partners={{{walk}: SparseRows(...)}})."
            )
        partner = self.partners[walk]
        shape = (partner.n_cells, partner.n_genes)
        if shape != shape_of(x):
            raise ValueError(
                f"The partners of the walk {walk} have {shape[0]:,} cells and {shape[1]:,} genes, the "
                f"batch has {shape_of(x)[0]:,} and {shape_of(x)[1]:,}."
            )
        return partner


class Augmentation(ABC):
    """A random change of cells that leaves what they are: batched, on their device, never in place.

    A subclass says in :meth:`transform` what happens to the cells that were drawn. The arguments
    of its constructor are kept under their own names, which is how :meth:`config` finds them; those of
    this package raise a `ValueError` where an argument is out of its range.
    """

    #: Name in a configuration; `None` for classes that are not of this package.
    name: ClassVar[str | None] = None
    #: Probability to apply, drawn per cell and view.
    p: float = 1.0
    #: Whether values must come from counts.
    needs_counts: bool = False
    #: Whether it needs the experimental batch of each cell.
    needs_batch: bool = False
    #: Whether values still are those of the counts of one cell afterwards, if they were before, so
    #: that counts can be found again. Unknown of what is not of this package.
    keeps_counts: bool = False
    #: Whether the two views draw together which cells it is applied to.
    shared: bool = False

    def __call__(self, x: Batch, rng: torch.Generator, context: ViewContext) -> Batch:
        """A new batch in which each cell was changed with probability ``p``.

        Parameters
        ----------
        x
            Batch of cells, sparse or dense. It is not changed, but storage may be shared with it.
        rng
            Generator on the device of the batch.
        context
            What is known of the batch.

        Raises
        ------
        ValueError
            If it needs what the context does not have.
        """
        if self.needs_counts and context.input_kind != "counts":
            what = type(self).__name__
            raise ValueError(
                f"{what} resamples counts, and the values are log-normalised already. Use the counts, "
                'for instance Model.setup_anndata(adata, layer="counts"), or augmentations that take '
                'logarithms: augmentation="mask".'
            )
        if self.p == 0:
            return x
        return self.transform(x, self._draw_applied(x, rng, context), rng, context)

    def _draw_applied(self, x: Batch, rng: torch.Generator, context: ViewContext) -> Tensor:
        n_cells, device = shape_of(x)[0], device_of(x)
        if self.p == 1:
            return torch.ones(n_cells, dtype=torch.bool, device=device)
        if not self.shared:
            return torch.rand(n_cells, generator=rng, device=device) < self.p
        return self._draw_shared(n_cells, device, context)

    def _draw_shared(self, n_cells: int, device: torch.device, context: ViewContext) -> Tensor:
        """Where both views draw together, which cells it is applied to; the same at every call."""
        # Several that share a seed still draw apart: the key has their names.
        seed = key_of_names(context.shared_seed, type(self).__name__, *map(str, self.walks(1)))
        return bernoulli(torch.arange(n_cells, device=device), seed, self.p)

    @abstractmethod
    def transform(
        self, x: Batch, applied: Tensor, rng: torch.Generator, context: ViewContext
    ) -> Batch:
        """Change some cells; the others come back as they were, bit for bit.

        Parameters
        ----------
        x
            Batch of cells.
        applied
            Which cells to change; boolean, shape ``(n_cells,)``.
        rng
            Generator on the device of the batch.
        context
            What is known of the batch.
        """

    def walks(self, view: int) -> tuple[Walk, ...]:
        """Walks through neighbour graphs whose end cells it needs as partners.

        Parameters
        ----------
        view
            0 or 1.
        """
        return ()

    def stand_ins(
        self, n_cells: int, device: torch.device, context: ViewContext
    ) -> tuple[tuple[Walk, Tensor], ...]:
        """Whole cells that take the place of others in this view.

        What is not in the batch that is augmented, such as another modality, has to follow.

        Parameters
        ----------
        n_cells
            Number of cells of the batch.
        device
            Where the batch is.
        context
            What is known of the batch, as in the call that makes the view.

        Returns
        -------
        tuple
            Walks to the cells that take a place, each with those whose place they take; boolean, shape
            ``(n_cells,)``. Later ones come after, and in the place of, earlier ones.
        """
        return ()

    @property
    def changes(self) -> bool:
        """Whether it can change a cell at all, with the arguments that it has."""
        return self.p > 0

    def graphs(self) -> tuple[str, ...]:
        """Names of the graphs of its walks, in alphabetical order."""
        walks = (*self.walks(0), *self.walks(1))
        return tuple(sorted({name for walk in walks for name in walk}))

    def recipe(self, graph: str, adata: str = "adata") -> str:
        """Line that makes one of the graphs that it draws from, for messages.

        Parameters
        ----------
        graph
            Name of the graph.
        adata
            How the data are called.
        """
        return f"scssl.pp.cross_batch_neighbors({adata}, batch_key=..., key_added={graph!r})"

    def edges(self) -> dict[str, Edges]:
        """Of graphs that cannot have any edges: whether they go across batches or stay within them."""
        return {}

    def config(self) -> dict[str, object]:
        """What to store in a checkpoint to build the same augmentation again, JSON only."""
        # A subclass of an augmentation of this package is not that augmentation.
        name = type(self).__dict__.get("name") or type(self).__qualname__
        return {"name": name, **self._arguments()}

    def _arguments(self) -> dict[str, object]:
        values = {key: getattr(self, key) for key in inspect.signature(type(self)).parameters}
        return {key: list(v) if isinstance(v, tuple) else v for key, v in values.items()}

    def __repr__(self) -> str:
        names = inspect.signature(type(self)).parameters
        arguments = ", ".join(f"{key}={getattr(self, key)!r}" for key in names)
        return f"{type(self).__name__}({arguments})"


def two_views(
    x: SparseRows,
    augmentation: Augmentation,
    rng: torch.Generator,
    contexts: tuple[ViewContext, ViewContext],
) -> tuple[Batch, Batch]:
    """Two views of the same cells, drawn independently.

    Parameters
    ----------
    x
        Batch of cells.
    augmentation
        What to do to it.
    rng
        Generator on the device of the batch.
    contexts
        What is known of the batch, for view 0 and for view 1.

    Raises
    ------
    ValueError
        If the contexts are not those of view 0 and view 1 of one batch.

    Examples
    --------
    >>> import torch
    >>> from scssl.augment import Mask, ViewContext, two_views
    >>> from scssl.nn import SparseRows
    >>> x = SparseRows.from_tensor(torch.ones(4, 100))
    >>> contexts = ViewContext(view=0), ViewContext(view=1)
    >>> first, second = two_views(x, Mask(0.5, p=1), torch.Generator().manual_seed(0), contexts)
    >>> bool((first.to_dense() == second.to_dense()).all())
    False
    """
    views = tuple(context.view for context in contexts)
    if views != (0, 1):
        raise ValueError(f"`contexts` must be those of view 0 and view 1, found views {views}.")
    if contexts[0].shared_seed != contexts[1].shared_seed:
        raise ValueError(
            "`shared_seed` must be the same in both contexts, found "
            f"{contexts[0].shared_seed} and {contexts[1].shared_seed}."
        )
    return augmentation(x, rng, contexts[0]), augmentation(x, rng, contexts[1])


def shape_of(x: Batch) -> tuple[int, int]:
    """Number of cells and of genes."""
    return (x.n_cells, x.n_genes) if isinstance(x, SparseRows) else (x.shape[0], x.shape[1])


def device_of(x: Batch) -> torch.device:
    """Where the batch is."""
    return x.values.device if isinstance(x, SparseRows) else x.device
