"""Augmentations of single values: masks, dropout and noise."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from scssl._checks import check_choice, check_number
from scssl.nn import SparseRows

from ._view import (
    Augmentation,
    Batch,
    ViewContext,
)
from ._view_hash import coins
from ._view_rows import has_kernel, per_value, to_dense, values_of, with_values


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
        hidden = coins(values.shape, self.rate, rng)
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
        draws = torch.rand(values.shape, generator=rng, device=values.device)
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
            return with_values(x, values.where(~chosen, self._noisy(values, rng)))
        if has_kernel(x):
            from scssl.nn.cpu import views

            clip = self.clip_min is not None
            return views.noise(x, applied, self.rate, self.scale, clip, rng)
        # Only the cells to change need as many random numbers as there are genes.
        where = applied.nonzero().squeeze(1)
        dense = to_dense(x)
        noisy = self._noisy(dense.index_select(0, where), rng)
        # A batch that was dense already belongs to someone else.
        return (dense if isinstance(x, SparseRows) else dense.clone()).index_copy_(0, where, noisy)

    def _noisy(self, values: Tensor, rng: torch.Generator) -> Tensor:
        noise = torch.empty_like(values).normal_(0, self.scale, generator=rng)
        if self.rate < 1:
            noise.mul_(coins(values.shape, self.rate, rng))
        noise += values
        return noise if self.clip_min is None else noise.clamp_(min=self.clip_min)
