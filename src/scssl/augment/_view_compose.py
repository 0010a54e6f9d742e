"""Several augmentations in order, and augmentations that are not always applied."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from scssl._checks import check_number

from ._view import (
    Augmentation,
    Batch,
    Edges,
    ViewContext,
    Walk,
)
from ._view_rows import choose_cells


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

    def recipe(self, graph: str, adata: str = "adata") -> str:
        # Of several steps that draw from it, the one that asks for more of it.
        users = [step for step in self.steps if graph in step.graphs()]
        picky = [step for step in users if graph in step.edges()]
        chosen = picky or users
        return chosen[0].recipe(graph, adata) if chosen else super().recipe(graph, adata)

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

    def recipe(self, graph: str, adata: str = "adata") -> str:
        return self.augmentation.recipe(graph, adata)

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
        f" (if {name} leaves the counts of one cell, write in it: keeps_counts = True)"
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
