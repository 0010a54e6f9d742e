"""Augmentations of single values: masks, dropout, noise, and other sequencing runs."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from scssl._checks import check_choice, check_number, is_number
from scssl.nn import SparseRows, drawn_from_values, only

from ._view import (
    Augmentation,
    ViewContext,
)
from ._view_rows import (
    Batch,
    coins,
    drawn_for,
    has_kernel,
    per_value,
    shape_of,
    to_dense,
    values_of,
    with_values,
)


class Mask(Augmentation):
    r"""Zero a random share of the genes of each cell.

    .. math:: x'_{cg} = (1 - M_{cg})\, x_{cg}, \qquad M_{cg} \sim \mathrm{Bernoulli}(q)

    drawn for each cell, gene and view. The rate is the share that is *hidden*, as in
    :cite:p:`Han2022`; the code of :cite:p:`Ovcharenko2025` hides the rest instead.

    Parameters
    ----------
    rate
        Share :math:`q` of the genes to zero, 0.2 in :cite:p:`Han2022`.
    p
        Probability to apply, per cell and view, 0.5 in :cite:p:`Han2022`.
    rescale
        Whether to divide what is left by :math:`1 - q`, so that a masked cell weighs as much, in
        expectation, as the whole one that is embedded later.

    Examples
    --------
    >>> import torch
    >>> from scssl.augment import Mask, ViewContext
    >>> rng = torch.Generator().manual_seed(0)
    >>> view = Mask(0.2, p=1)(torch.ones(100, 500), rng, ViewContext())
    >>> round((view == 0).float().mean().item(), 2)
    0.2
    """

    name = "mask"

    def __init__(self, rate: float = 0.2, *, p: float = 0.5, rescale: bool = False) -> None:
        self.rate = check_number("rate", rate, "(0, 1)")
        self.p = check_number("p", p, "[0, 1]")
        self.rescale = bool(rescale)
        self.keeps_counts = not self.rescale

    def transform(
        self, x: Batch, applied: Tensor, rng: torch.Generator, context: ViewContext
    ) -> Batch:
        if isinstance(x, SparseRows) and has_kernel(x):
            from scssl.nn.cpu import views

            divisor = 1 - self.rate if self.rescale else 1.0
            return views.mask(x, applied, self.rate, divisor, rng)
        values = values_of(x)
        hidden = drawn_for(x, lambda shape: coins(shape, self.rate, rng))
        changed = per_value(x, applied)
        visible = ~hidden.logical_and_(changed)
        if self.rescale:
            values = torch.where(changed, values / (1 - self.rate), values)
        return x.keep(visible, values) if isinstance(x, SparseRows) else values * visible


class Dropout(Augmentation):
    r"""Lose values as sequencing does: low ones vanish more readily.

    .. math:: P(x'_{cg} = 0) = r\, e^{-\lambda x_{cg}^2}, \qquad
        x'_{cg} = x_{cg} \text{ otherwise}

    The decay with the square of the log expression is that of :cite:p:`Pierson2015`; the factor
    :math:`r` bounds what is lost.

    Parameters
    ----------
    rate
        Probability :math:`r` to lose a value next to 0. The default was chosen here.
    decay
        Decay :math:`\lambda`. With the default, chosen here, a value of 2 is lost with probability
        0.67 :math:`r` and one of 4 with 0.2 :math:`r`.
    p
        Probability to apply, per cell and view.

    Examples
    --------
    >>> import torch
    >>> from scssl.augment import Dropout, ViewContext
    >>> rng = torch.Generator().manual_seed(0)
    >>> x = torch.tensor([[1.0], [4.0]]).expand(2, 5000)
    >>> low, high = (Dropout(p=1)(x, rng, ViewContext()) == 0).float().mean(1).tolist()
    >>> round(low, 1), round(high, 1)
    (0.5, 0.1)
    """

    name = "dropout"
    keeps_counts = True

    def __init__(self, rate: float = 0.5, *, decay: float = 0.1, p: float = 0.5) -> None:
        self.rate = check_number("rate", rate, "(0, 1]")
        self.decay = check_number("decay", decay, "(0, inf)")
        self.p = check_number("p", p, "[0, 1]")

    def transform(
        self, x: Batch, applied: Tensor, rng: torch.Generator, context: ViewContext
    ) -> Batch:
        values = values_of(x)
        device = values.device
        draws = drawn_for(x, lambda shape: torch.rand(shape, generator=rng, device=device))
        # Negative values, which noise can leave, are the lowest.
        lost = values.clamp(min=0).square_().mul_(-self.decay).exp_().mul_(self.rate)
        kept = (draws >= lost).logical_or_(~per_value(x, applied))
        return x.keep(kept) if isinstance(x, SparseRows) else x * kept


class GaussianNoise(Augmentation):
    r"""Add noise to a random share of the genes of each cell.

    .. math:: x'_{cg} = x_{cg} + M_{cg}\, \varepsilon_{cg}, \qquad
        M_{cg} \sim \mathrm{Bernoulli}(q), \quad \varepsilon_{cg} \sim \mathcal{N}(0, \sigma^2)

    With ``on="all"``, as in :cite:p:`Han2022`, zeros get noise too, and the batch is dense from here
    on, which costs time. With ``on="expressed"`` zeros stay zeros, and the batch sparse.

    Parameters
    ----------
    rate
        Share :math:`q` of the genes to change, 0.8 in :cite:p:`Han2022`.
    scale
        Standard deviation :math:`\sigma`, 0.2 in :cite:p:`Ovcharenko2025` and 0.5, in effect, in
        :cite:p:`Han2022`.
    p
        Probability to apply, per cell and view, 0.5 in :cite:p:`Han2022`.
    on
        ``"all"`` genes, or those that are ``"expressed"``, the share being one of them.
    clip_min
        0 to raise to 0 what falls below it in the cells that are changed. By default nothing is
        clipped, as in :cite:p:`Han2022`.

    Examples
    --------
    >>> import torch
    >>> from scssl.augment import GaussianNoise, ViewContext
    >>> rng = torch.Generator().manual_seed(0)
    >>> noise = GaussianNoise(0.8, 0.2, p=1)
    >>> view = noise(torch.zeros(100, 500), rng, ViewContext())
    >>> round((view != 0).float().mean().item(), 2), round(view[view != 0].std().item(), 2)
    (0.8, 0.2)
    """

    name = "gaussian_noise"

    def __init__(
        self,
        rate: float = 0.8,
        scale: float = 0.2,
        *,
        p: float = 0.5,
        on: Literal["all", "expressed"] = "all",
        clip_min: Literal[0] | None = None,
    ) -> None:
        self.rate = check_number("rate", rate, "(0, 1]")
        self.scale = check_number("scale", scale, "(0, inf)")
        self.p = check_number("p", p, "[0, 1]")
        self.on = check_choice("on", on, ("all", "expressed"))
        if clip_min is not None and (isinstance(clip_min, bool) or clip_min != 0):
            raise ValueError(f"`clip_min` must be 0 or None, found {clip_min!r}.")
        self.clip_min = None if clip_min is None else 0

    def transform(
        self, x: Batch, applied: Tensor, rng: torch.Generator, context: ViewContext
    ) -> Batch:
        if self.on == "expressed":
            values = values_of(x)
            chosen = per_value(x, applied) & (values != 0)
            return with_values(x, values.where(~chosen, self._noisy(x, rng)))
        if has_kernel(x):
            from scssl.nn.cpu import views

            clip = self.clip_min is not None
            return views.noise(x, applied, self.rate, self.scale, clip, rng)
        # Only the cells to change need as many random numbers as there are genes.
        where = applied.nonzero().squeeze(1)
        dense = to_dense(x)
        with only(where):
            noisy = self._noisy(dense.index_select(0, where), rng)
        # A batch that was dense already belongs to someone else.
        return (dense if isinstance(x, SparseRows) else dense.clone()).index_copy_(0, where, noisy)

    def _noisy(self, x: Batch, rng: torch.Generator) -> Tensor:
        values = values_of(x)
        noise = drawn_for(
            x, lambda shape: values.new_empty(shape).normal_(0, self.scale, generator=rng)
        )
        if self.rate < 1:
            noise.mul_(drawn_for(x, lambda shape: coins(shape, self.rate, rng)))
        noise += values
        return noise if self.clip_min is None else noise.clamp_(min=self.clip_min)


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
        new = drawn_from_values(
            lambda of_all, their_cells, n: self._resample(of_all, their_cells, n, rng),
            counts,
            cells,
            n_cells,
        )
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
                f"{what}: give it as `library` to the ViewContext."
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
