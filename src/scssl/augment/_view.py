"""What augmentations share: what they know of a batch, two views of it, several in order."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor

from scssl._checks import check_choice, check_number
from scssl.nn import SparseRows, drawn, places

from ._view_rows import Batch, bernoulli, choose_cells, device_of, key_of_names, shape_of

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
                f"The partners of the walk {walk} are missing (found: {found}): give them as `partners` of "
                "the ViewContext, SparseRows by walk."
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
                "a `layer` of them, or augmentations that take logarithms, such as 'mask'."
            )
        if self.p == 0:
            return x
        return self.transform(x, self._draw_applied(x, rng, context), rng, context)

    def _draw_applied(self, x: Batch, rng: torch.Generator, context: ViewContext) -> Tensor:
        n_cells, device = shape_of(x)[0], device_of(x)
        if self.p == 1:
            return torch.ones(n_cells, dtype=torch.bool, device=device)
        if not self.shared:
            draws = drawn(lambda n: torch.rand(n, generator=rng, device=device), n_cells)
            return draws < self.p
        return self._draw_shared(n_cells, device, context)

    def _draw_shared(self, n_cells: int, device: torch.device, context: ViewContext) -> Tensor:
        """Where both views draw together, which cells it is applied to; the same at every call."""
        # Several that share a seed still draw apart: the key has their names.
        seed = key_of_names(context.shared_seed, type(self).__name__, *map(str, self.walks(1)))
        return bernoulli(places(n_cells, device), seed, self.p)

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

    def recipe(self, graph: str, adata: str = "adata", batch_key: str = "batch") -> str:
        """Line that makes one of the graphs that it draws from, for messages; in backticks.

        Parameters
        ----------
        graph
            Name of the graph.
        adata
            How the data are called.
        batch_key
            Column of batches.
        """
        return f"`scssl.pp.cross_batch_neighbors({adata}, {batch_key!r}, key_added={graph!r})`"

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


class Compose(Augmentation):
    """Several augmentations, one after the other.

    Each draws by its own ``p`` which cells it changes. What combines cells should come before what
    only hides or disturbs values. What resamples counts finds them again from the values and the sum of
    the cell, so that it has to come before what mixes, scales or disturbs values or makes the sum
    another; only masks without ``rescale``, :class:`Dropout`, :class:`GeneSwap`,
    :class:`PoissonResample` and :class:`NegativeBinomialNoise` may precede it.

    Parameters
    ----------
    steps
        Augmentations, in order.

    Raises
    ------
    TypeError
        If a step is not an augmentation.
    ValueError
        If there are none, or one that needs counts comes after one that leaves other values.

    Examples
    --------
    >>> from scssl.augment import Compose, GaussianNoise, Mask
    >>> Compose([Mask(0.2), GaussianNoise(0.8, 0.2, on="expressed")]).needs_counts
    False
    """

    name = "compose"

    def __init__(self, steps: Sequence[Augmentation]) -> None:
        steps = tuple(steps)
        if not steps:
            raise ValueError(
                "`steps` is empty: give at least one augmentation, for instance [Mask(0.5)]."
            )
        for step in steps:
            _check_augmentation("steps", step)
        _check_counts(steps)
        self.steps = steps
        self.needs_batch = any(step.needs_batch for step in steps)
        self.keeps_counts = all(step.keeps_counts for step in steps)
        self.needs_counts = any(step.needs_counts for step in steps)
        self.shared = any(step.shared for step in steps)

    def __call__(self, x: Batch, rng: torch.Generator, context: ViewContext) -> Batch:
        for step in self.steps:
            x = step(x, rng, context)
        return x

    def transform(
        self, x: Batch, applied: Tensor, rng: torch.Generator, context: ViewContext
    ) -> Batch:
        return choose_cells(applied, self(x, rng, context), x)

    @property
    def changes(self) -> bool:
        return any(step.changes for step in self.steps)

    def stand_ins(
        self, n_cells: int, device: torch.device, context: ViewContext
    ) -> tuple[tuple[Walk, Tensor], ...]:
        return tuple(
            found for step in self.steps for found in step.stand_ins(n_cells, device, context)
        )

    def walks(self, view: int) -> tuple[Walk, ...]:
        # Each once, in order.
        return tuple(dict.fromkeys(walk for step in self.steps for walk in step.walks(view)))

    def recipe(self, graph: str, adata: str = "adata", batch_key: str = "batch") -> str:
        # Of several steps that draw from it, the one that asks for more of it.
        users = [step for step in self.steps if graph in step.graphs()]
        picky = [step for step in users if graph in step.edges()]
        chosen = picky or users
        made = chosen[0].recipe if chosen else super().recipe
        return made(graph, adata, batch_key)

    def edges(self) -> dict[str, Edges]:
        return {name: kind for step in self.steps for name, kind in step.edges().items()}

    def config(self) -> dict[str, object]:
        return {**super().config(), "steps": [step.config() for step in self.steps]}

    def __repr__(self) -> str:
        return f"Compose([{', '.join(map(repr, self.steps))}])"


class RandomApply(Augmentation):
    """Apply an augmentation, or several together, with a probability.

    Drawn per cell and view; where a step draws its cells for both views together, as
    :class:`MutualNeighborMix` does, this draw is shared too.

    Parameters
    ----------
    augmentation
        What to apply. Its own ``p`` counts as well.
    p
        Probability, per cell and view.

    Raises
    ------
    TypeError
        If `augmentation` is not an augmentation.
    ValueError
        If ``p`` is not between 0 and 1.

    Examples
    --------
    >>> import torch
    >>> from scssl.augment import Mask, RandomApply, ViewContext
    >>> rng = torch.Generator().manual_seed(0)
    >>> view = RandomApply(Mask(0.5, p=1), 0.3)(torch.ones(2000, 50), rng, ViewContext())
    >>> round((view == 0).any(1).float().mean().item(), 1)
    0.3
    """

    name = "random_apply"

    def __init__(self, augmentation: Augmentation, p: float = 0.5) -> None:
        _check_augmentation("augmentation", augmentation)
        self.augmentation = augmentation
        self.p = check_number("p", p, "[0, 1]")
        self.needs_counts, self.shared = augmentation.needs_counts, augmentation.shared
        self.keeps_counts, self.needs_batch = augmentation.keeps_counts, augmentation.needs_batch

    def transform(
        self, x: Batch, applied: Tensor, rng: torch.Generator, context: ViewContext
    ) -> Batch:
        return choose_cells(applied, self.augmentation(x, rng, context), x)

    @property
    def changes(self) -> bool:
        return self.p > 0 and self.augmentation.changes

    def stand_ins(
        self, n_cells: int, device: torch.device, context: ViewContext
    ) -> tuple[tuple[Walk, Tensor], ...]:
        found = self.augmentation.stand_ins(n_cells, device, context)
        if self.p == 0 or not found:
            return ()
        here = self._draw_shared(n_cells, device, context)
        return tuple((walk, drawn & here) for walk, drawn in found)

    def walks(self, view: int) -> tuple[Walk, ...]:
        return self.augmentation.walks(view)

    def recipe(self, graph: str, adata: str = "adata", batch_key: str = "batch") -> str:
        return self.augmentation.recipe(graph, adata, batch_key)

    def edges(self) -> dict[str, Edges]:
        return self.augmentation.edges()

    def config(self) -> dict[str, object]:
        return {**super().config(), "augmentation": self.augmentation.config()}


def _check_augmentation(name: str, found: object) -> None:
    if not isinstance(found, Augmentation):
        raise TypeError(
            f"`{name}` must be of scssl.augment.Augmentation, found {type(found).__name__}."
        )


def _check_counts(steps: Sequence[Augmentation]) -> None:
    """Refuse what would take values for counts that are none any more."""
    found = _misplaced(steps)
    if found is None:
        return
    before, step = found
    # Those of counts first, and of these last the one after which there are none.
    order = sorted(
        steps, key=lambda one: (not one.needs_counts, one.needs_counts and not one.keeps_counts)
    )
    how = f"Put it before: [{', '.join(map(repr, order))}]"
    if _misplaced(order) is not None:
        how = "No order of these is right: leave one out"
    name = type(before).__name__
    own = not type(before).__module__.startswith("scssl.")
    why = (
        f" (if {name} leaves the counts of one cell, set `keeps_counts` to True in it)"
        if own
        else ""
    )
    raise ValueError(
        f"{step!r} needs the counts of a cell, which cannot be found again after {before!r}. "
        f"{how}{why}."
    )


def _misplaced(steps: Sequence[Augmentation]) -> tuple[Augmentation, Augmentation] | None:
    """The first step that needs counts where there are none any more, after the one that took them."""
    taken = None
    for step in steps:
        if step.needs_counts and taken is not None:
            return taken, step
        if not step.keeps_counts and taken is None:
            taken = step
    return None
