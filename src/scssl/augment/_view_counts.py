"""Augmentations of counts: what another sequencing run of the same cell could have given."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from scssl._checks import check_number, is_number
from scssl.nn import SparseRows

from ._view import (
    Augmentation,
    Batch,
    ViewContext,
    shape_of,
)
from ._view_rows import values_of, with_values


class _CountAugmentation(Augmentation):
    """What augmentations of counts share: back to counts, and normalisation afterwards."""

    needs_counts = True
    # The sum stays near that of the cell, by which counts are found again.
    keeps_counts = True

    def transform(
        self, x: Batch, applied: Tensor, rng: torch.Generator, context: ViewContext
    ) -> Batch:
        library = self._library(x, context)
        n_cells, n_genes = shape_of(x)
        values = values_of(x)
        flat = values.reshape(-1)
        if isinstance(x, SparseRows):
            where = (applied.index_select(0, x.rows) & (flat > 0)).nonzero().squeeze(1)
            cells = x.rows.index_select(0, where)
        else:
            where = (applied.unsqueeze(1) & (x > 0)).view(-1).nonzero().squeeze(1)
            cells = where.div(n_genes, rounding_mode="floor")
        scale = library / context.target_sum
        counts = flat.index_select(0, where).expm1_().mul_(scale.index_select(0, cells)).round_()
        new = self._resample(counts, cells, n_cells, rng)
        before, after = (library.new_zeros(n_cells).index_add_(0, cells, c) for c in (counts, new))
        # The sum of all counts changes as that of the genes that are left here does, be these all
        # genes or, after a mask, some of them. Without counts there is nothing to divide.
        factor = torch.where(after > 0, before / (after * scale), 0)
        new.mul_(factor.index_select(0, cells)).log1p_()
        return with_values(x, flat.index_copy(0, where, new).view_as(values))

    def _library(self, x: Batch, context: ViewContext) -> Tensor:
        n_cells = shape_of(x)[0]
        found = context.library
        if found is None or found.numel() != n_cells:
            what = "none was given" if found is None else f"found {found.numel():,} of them"
            raise ValueError(
                f"{type(self).__name__} needs the sum of the counts of each of the {n_cells:,} cells, "
                f'{what}: ViewContext(input_kind="counts", library=...).'
            )
        return found.reshape(-1).to(values_of(x).dtype)

    @abstractmethod
    def _resample(
        self, counts: Tensor, cells: Tensor, n_cells: int, rng: torch.Generator
    ) -> Tensor:
        """New counts, a tensor of its own, from counts and the cells they are of."""


class BinomialThinning(_CountAugmentation):
    r"""Keep a random share of the molecules of each cell, as shallower sequencing would.

    .. math:: c'_{cg} \sim \mathrm{Binomial}(c_{cg}, k_c), \qquad
        k_c \sim \mathcal{U}(k_\text{low}, k_\text{high}), \qquad
        x'_{cg} = \log\!\left(1 + T c'_{cg} / \sum_h c'_{ch}\right)

    with :math:`c` the counts, found again from the normalised values and the sum of the cell, and
    :math:`T` the sum of the normalisation. Zeros stay zeros.

    Parameters
    ----------
    keep
        Bounds of the share of molecules that is kept, or one number to fix it. The default was
        chosen here: up to twice shallower.
    p
        Probability to apply, per cell and view.

    Raises
    ------
    ValueError
        If the bounds are not ascending in (0, 1] or ``p`` is not between 0 and 1; when called, if
        the input is log-normalised.

    Examples
    --------
    >>> import torch
    >>> from scssl.augment import BinomialThinning, ViewContext
    >>> counts = torch.full((1, 1000), 8.0)
    >>> x = torch.log1p(counts * 1e4 / 8000)
    >>> context = ViewContext(input_kind="counts", library=torch.tensor([8000.0]))
    >>> view = BinomialThinning(0.5, p=1)(x, torch.Generator().manual_seed(0), context)
    >>> round(view.expm1().sum().item())
    10000
    """

    name = "binomial_thinning"
    # There are fewer of them, and what comes next knows the sum of all only.
    keeps_counts = False

    def __init__(self, keep: float | Sequence[float] = (0.5, 1.0), *, p: float = 0.5) -> None:
        bounds: tuple[Any, ...]
        bounds = tuple(keep) if isinstance(keep, Iterable) else (keep, keep)
        if (
            len(bounds) != 2
            or not all(map(is_number, bounds))
            or not 0 < bounds[0] <= bounds[1] <= 1
        ):
            raise ValueError(
                f"`keep` must be two ascending numbers in (0, 1], or one; found {keep!r}."
            )
        self.keep = (float(bounds[0]), float(bounds[1]))
        self.p = check_number("p", p, "[0, 1]")

    @property
    def changes(self) -> bool:
        return self.p > 0 and self.keep[0] < 1

    def _resample(
        self, counts: Tensor, cells: Tensor, n_cells: int, rng: torch.Generator
    ) -> Tensor:
        low, high = self.keep
        share = torch.rand(n_cells, generator=rng, device=counts.device, dtype=counts.dtype)
        share = share.mul_(high - low).add_(low).index_select(0, cells)
        # Most counts are 1, for which a coin is enough; binomial draws are ten times as dear.
        draws = torch.rand(counts.shape, generator=rng, device=counts.device)
        new = (draws < share).to(counts.dtype).mul_(counts > 0)
        several = (counts > 1).nonzero().squeeze(1)
        drawn = torch.binomial(
            counts.index_select(0, several), share.index_select(0, several), generator=rng
        )
        return new.index_copy_(0, several, drawn)


class PoissonResample(_CountAugmentation):
    r"""Draw each count again, as a second sequencing run of the same molecules' rates would.

    .. math:: c'_{cg} \sim \mathrm{Poisson}(c_{cg}), \qquad
        x'_{cg} = \log\!\left(1 + T c'_{cg} / \sum_h c'_{ch}\right)

    with :math:`c` the counts, found again from the normalised values and the sum of the cell, and
    :math:`T` the sum of the normalisation. Zeros stay zeros.

    Parameters
    ----------
    p
        Probability to apply, per cell and view.

    Raises
    ------
    ValueError
        If ``p`` is not between 0 and 1; when called, if the input is log-normalised.

    Examples
    --------
    >>> import torch
    >>> from scssl.augment import PoissonResample, ViewContext
    >>> x = torch.log1p(torch.full((1, 1000), 10.0))
    >>> context = ViewContext(input_kind="counts", library=torch.tensor([1e4]))
    >>> view = PoissonResample(p=1)(x, torch.Generator().manual_seed(0), context)
    >>> round(view.expm1().var().item())
    10
    """

    name = "poisson_resample"

    def __init__(self, *, p: float = 0.5) -> None:
        self.p = check_number("p", p, "[0, 1]")

    def _resample(
        self, counts: Tensor, cells: Tensor, n_cells: int, rng: torch.Generator
    ) -> Tensor:
        return torch.poisson(counts, generator=rng)


class NegativeBinomialNoise(_CountAugmentation):
    r"""Draw each count again with more spread than Poisson, as another cell of the same kind.

    .. math:: c'_{cg} \sim \mathrm{Poisson}(\lambda_{cg}), \qquad
        \lambda_{cg} \sim \mathrm{Gamma}(\text{mean } c_{cg}, \text{variance } \phi\, c_{cg}^2),
        \qquad x'_{cg} = \log\!\left(1 + T c'_{cg} / \sum_h c'_{ch}\right)

    so that :math:`c'` is negative binomial with mean :math:`c` and variance :math:`c + \phi c^2`,
    with :math:`c` the counts, found again from the normalised values and the sum of the cell, and
    :math:`T` the sum of the normalisation. Zeros stay zeros.

    Parameters
    ----------
    dispersion
        Dispersion :math:`\phi`; its square root is the coefficient of variation of the rate. The
        default, chosen here, is a coefficient of about 0.3.
    p
        Probability to apply, per cell and view.

    Raises
    ------
    ValueError
        If ``dispersion`` is not positive or ``p`` not between 0 and 1; when called, if the input is
        log-normalised.

    Examples
    --------
    >>> import torch
    >>> from scssl.augment import NegativeBinomialNoise, ViewContext
    >>> x = torch.log1p(torch.full((1, 5000), 10.0))
    >>> context = ViewContext(input_kind="counts", library=torch.tensor([5e4]), target_sum=5e4)
    >>> noise = NegativeBinomialNoise(0.2, p=1)
    >>> view = noise(x, torch.Generator().manual_seed(0), context)
    >>> round(view.expm1().var().item() / 10)
    3
    """

    name = "negative_binomial_noise"

    def __init__(self, dispersion: float = 0.1, *, p: float = 0.5) -> None:
        self.dispersion = check_number("dispersion", dispersion, "(0, inf)")
        self.p = check_number("p", p, "[0, 1]")

    def _resample(
        self, counts: Tensor, cells: Tensor, n_cells: int, rng: torch.Generator
    ) -> Tensor:
        # `torch.distributions.Gamma` takes no generator; this is what it calls.
        shape = torch.full_like(counts, 1 / self.dispersion)
        rate = torch._standard_gamma(shape, generator=rng).mul_(self.dispersion).mul_(counts)
        return torch.poisson(rate, generator=rng)
