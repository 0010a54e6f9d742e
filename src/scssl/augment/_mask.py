"""Pretext masks: which entries the encoder does not see, and which ones the loss counts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from scssl._checks import check_number

if TYPE_CHECKING:
    from scssl.nn import SparseRows


# Of the distribution of rates of a mask of cells: its first shape, and the largest rate.
_ALPHA, _CAP = 5.0, 0.9


@dataclass(frozen=True)
class Hidden:
    """One draw of a mask for a batch of sparse cells.

    Zeros that are not stored look the same to an encoder whether they are hidden or not, so a mask
    has to say of them only how much they count in the loss.

    Parameters
    ----------
    visible
        Which stored values the encoder sees; boolean, shape ``(n_stored,)``.
    loss_weight
        Weight of each stored value in the loss; shape ``(n_stored,)``.
    zero_weight
        Weight in the loss of the entries that are not stored: a scalar, one per gene, or shape
        ``(n_cells, n_genes)`` of which the positions of stored values are not read.
    hidden_share
        Share of the entries that are hidden, expected or, with shape ``(n_cells, 1)``, of each cell.
        0 where what is visible is no thinned copy of the cell.
    indicator
        1 where an entry is hidden; shape ``(n_cells, n_genes)``. Only where it was asked for.
    """

    visible: Tensor
    loss_weight: Tensor
    zero_weight: Tensor
    hidden_share: float | Tensor
    indicator: Tensor | None = None

    def normalizer(self, x: SparseRows) -> Tensor:
        """Weight of all entries of the batch together."""
        stored = self.loss_weight.sum()
        if self.zero_weight.ndim == 0:
            zeros = self.zero_weight * (x.n_cells * x.n_genes - x.n_stored)
        elif self.zero_weight.ndim == 1:
            at_stored = self.zero_weight.index_select(0, x.columns.long()).sum(dtype=torch.float32)
            zeros = x.n_cells * self.zero_weight.sum(dtype=torch.float32) - at_stored
        else:
            at_stored = self.zero_weight[x.rows, x.columns.long()].sum(dtype=torch.float32)
            zeros = self.zero_weight.sum(dtype=torch.float32) - at_stored
        # A batch of which nothing is hidden has loss 0 and not 0/0.
        return (stored + zeros).clamp(min=torch.finfo(torch.float32).tiny)


class Masking(ABC):
    """A pretext task by masking: draws what is hidden for each batch.

    A subclass says in :meth:`draw` which stored values the encoder sees and what the loss counts;
    nothing else in the package needs to know the strategy. An object that has these three methods
    is a mask too, without being a subclass.
    """

    @classmethod
    def __subclasshook__(cls, other: type, /) -> bool:
        if cls is not Masking:
            return NotImplemented
        methods = ("draw", "config", "target_genes")
        return all(callable(getattr(other, name, None)) for name in methods) or NotImplemented

    @abstractmethod
    def draw(self, x: SparseRows, rng: torch.Generator, *, indicator: bool = False) -> Hidden:
        """Draw a mask.

        Parameters
        ----------
        x
            Batch of cells.
        rng
            Generator on the device of the batch.
        indicator
            Whether the dense mask itself is needed.
        """

    @abstractmethod
    def config(self) -> dict[str, object]:
        """What to store in a checkpoint to build the same mask again, JSON only."""

    def target_genes(self) -> Tensor | None:
        """Positions of the genes that the loss can ever count, ascending; `None` for all.

        Where these are few, a training step decodes no others.
        """
        return None


class RandomMask(Masking):
    r"""Hide each entry with the same probability, independently per cell and gene.

    :math:`M_{ng} \sim \mathrm{Bernoulli}(r)`, drawn anew at each step :cite:p:`Richter2025`. Every
    entry can be hidden, zeros included. Of the zeros that are not stored the loss takes the
    expectation over :math:`M` instead of a draw, weight :math:`r` each: the encoder's input does not
    depend on that draw, so the expected loss and gradient are those of the draw, with less variance
    and without a random number per zero.

    Parameters
    ----------
    rate
        Probability :math:`r` to hide an entry, 0.5 in :cite:p:`Richter2025`.

    Examples
    --------
    >>> import torch
    >>> from scssl.augment import RandomMask
    >>> from scssl.nn import SparseRows
    >>> x = SparseRows.from_tensor(torch.ones(100, 50))
    >>> hidden = RandomMask(0.2).draw(x, torch.Generator().manual_seed(0))
    >>> round(1 - hidden.visible.float().mean().item(), 1)
    0.2
    """

    def __init__(self, rate: float = 0.5) -> None:
        self.rate = check_number("mask_rate", rate, "(0, 1)")

    def draw(self, x: SparseRows, rng: torch.Generator, *, indicator: bool = False) -> Hidden:
        device = x.values.device
        if indicator:
            dense = torch.rand(x.n_cells, x.n_genes, generator=rng, device=device) < self.rate
            hidden = dense[x.rows, x.columns.long()]
            return Hidden(~hidden, hidden.float(), dense, self.rate, dense)
        hidden = torch.rand(x.n_stored, generator=rng, device=device) < self.rate
        rate = torch.tensor(self.rate, device=device)
        return Hidden(~hidden, hidden.float(), rate, self.rate)

    def config(self) -> dict[str, object]:
        return {"name": "random", "rate": self.rate}

    def __repr__(self) -> str:
        return f"RandomMask(rate={self.rate})"


class CellMask:
    r"""Hide entries of most cells, each with a rate of its own; the other cells are context.

    Of the cells a share is masked. The rate of each is drawn from
    :math:`\mathrm{Beta}(5, 4/r - 3)`, whose mode is :math:`r`, and is 0.9 at most :cite:p:`Wen2024`;
    its entries, zeros included, are hidden independently with that probability. Of zeros the loss takes
    the expectation, as in :class:`RandomMask`.

    Parameters
    ----------
    cells
        Share of the cells that are masked, 0.75 as in :cite:p:`Wen2024`.
    rate
        Most frequent rate :math:`r`, 0.25 as in :cite:p:`Wen2024`.

    Examples
    --------
    >>> import torch
    >>> from scssl.augment import CellMask
    >>> from scssl.nn import SparseRows
    >>> x = SparseRows.from_tensor(torch.ones(100, 50))
    >>> hidden = CellMask(0.75, 0.25).draw(x, torch.Generator().manual_seed(0))
    >>> int((hidden.hidden_share > 0).sum())
    75
    """

    def __init__(self, cells: float = 0.75, rate: float = 0.25) -> None:
        self.cells = check_number("mask_cells", cells, "(0, 1]")
        self.rate = check_number("mask_rate", rate, "(0, 1)")

    def draw(
        self, x: SparseRows, rng: torch.Generator, *, eligible: Tensor | None = None
    ) -> Hidden:
        """Draw a mask.

        Parameters
        ----------
        x
            Batch of cells.
        rng
            Generator on the device of the batch.
        eligible
            Which cells may be masked, of which `cells` are; boolean, all by default.
        """
        device, n = x.values.device, x.n_cells
        order = torch.randperm(n, generator=rng, device=device)
        if eligible is not None:
            order = order[eligible[order]]
        chosen = order[: max(1, int(self.cells * len(order)))]
        shapes = (_ALPHA, (_ALPHA - 1) / self.rate + 2 - _ALPHA)
        one, other = (
            torch._standard_gamma(torch.full((len(chosen),), shape, device=device), generator=rng)
            for shape in shapes
        )
        share = torch.zeros(n, device=device)
        share[chosen] = (one / (one + other)).clamp(max=_CAP)
        drawn = torch.rand(x.n_stored, generator=rng, device=device)
        hidden = drawn < share.index_select(0, x.rows)
        return Hidden(~hidden, hidden.float(), share[:, None], share[:, None])

    def __repr__(self) -> str:
        return f"CellMask(cells={self.cells}, rate={self.rate})"
