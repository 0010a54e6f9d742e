"""Counts that augmentations draw."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scssl.augment import Augmentation


class Depth:
    """What resampling of counts does to their sum, which the normalisation after it takes back.

    Parameters
    ----------
    augmentation
        Augmentation to watch, within :meth:`watched`.
    n_cells
        Cells of the batch.
    """

    def __init__(self, augmentation: Augmentation, n_cells: int) -> None:
        import torch

        self.augmentation, self.view = augmentation, 0
        #: Counts that were drawn, relative to those before, of each cell in each view.
        self.ratio = torch.ones(2, n_cells, dtype=torch.float64)

    @contextmanager
    def watched(self) -> Iterator[None]:
        steps = list({id(step): step for step in _steps(self.augmentation)}.values())
        try:
            for step in steps:
                vars(step)["transform"] = partial(self._transform, step.transform)
                if hasattr(step, "_resample"):
                    vars(step)["_resample"] = partial(self._resample, step._resample)
            yield
        finally:
            for step in steps:
                vars(step).pop("transform", None)
                vars(step).pop("_resample", None)

    def _transform(self, transform: Any, x: Any, applied: Any, rng: Any, context: Any) -> Any:
        import torch

        before, self.view = self.ratio[context.view].clone(), context.view
        found = transform(x, applied, rng, context)
        # What is applied to some of the cells is drawn for all, and kept for these.
        self.ratio[context.view] = torch.where(applied, self.ratio[context.view], before)
        return found

    def _resample(self, resample: Any, counts: Any, cells: Any, n_cells: int, rng: Any) -> Any:
        import torch

        new = resample(counts, cells, n_cells, rng)
        before, after = (
            torch.zeros(n_cells, dtype=torch.float64).index_add_(0, cells, c.double())
            for c in (counts, new)
        )
        self.ratio[self.view] *= torch.where(before > 0, after / before, 1)
        return new


def _steps(augmentation: Augmentation) -> Iterator[Augmentation]:
    """An augmentation and all that it is made of."""
    yield augmentation
    inner = getattr(augmentation, "augmentation", None)
    for step in (*getattr(augmentation, "steps", ()), *(() if inner is None else (inner,))):
        yield from _steps(step)
