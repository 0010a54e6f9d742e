"""Hide genes of some cells, of each another share, among cells that are left as they are."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ._mask import Hidden

if TYPE_CHECKING:
    from scssl.nn import SparseRows

_ALPHA, _CAP = 5.0, 0.9


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

    Raises
    ------
    ValueError
        If `cells` is not in (0, 1], or `rate` not in (0, 1).

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
        if not 0 < cells <= 1:
            raise ValueError(f"`mask_cells` must be above 0 and at most 1, found {cells}.")
        if not 0 < rate < 1:
            raise ValueError(f"`mask_rate` must be between 0 and 1, both excluded; found {rate}.")
        self.cells, self.rate = float(cells), float(rate)

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
