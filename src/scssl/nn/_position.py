"""Where in its tissue a cell is."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from scssl._checks import check_integers

BASE = 10_000.0


class SinusoidalPosition2d(nn.Module):
    """Sines and cosines of where a cell is, in two dimensions :cite:p:`Vaswani2017`.

    The unit square is a grid of `n_grid` by `n_grid` places. The first half of the channels are sines
    and cosines of the row of the grid (the first coordinate), with wave lengths from 2π to 20,000π
    places, the second half those of the column. The table of places is a formula: it is not saved.

    Parameters
    ----------
    n_hidden
        Number of channels, a multiple of four.
    n_grid
        Places along each axis.

    Attributes
    ----------
    missing
        What cells without coordinates have instead; learned.

    Raises
    ------
    ValueError
        If `n_hidden` is not a multiple of four or `n_grid` is not positive.

    Examples
    --------
    >>> import torch
    >>> from scssl.nn import SinusoidalPosition2d
    >>> position = SinusoidalPosition2d(64)
    >>> position(torch.tensor([[0.1, 0.7], [torch.nan, torch.nan]])).shape
    torch.Size([2, 64])
    """

    table: Tensor

    def __init__(self, n_hidden: int, n_grid: int = 100) -> None:
        super().__init__()
        if n_hidden < 4 or n_hidden % 4:
            raise ValueError(
                "`n_hidden` must be a multiple of 4, sine and cosine of two axes; "
                f"found {n_hidden}."
            )
        check_integers(n_grid=(n_grid, 1))
        self.n_hidden, self.n_grid = n_hidden, n_grid
        self.missing = nn.Parameter(torch.zeros(n_hidden))
        self.register_buffer("table", _axis_table(n_hidden // 2, n_grid), persistent=False)

    def forward(self, position: Tensor) -> Tensor:
        """Channels of the places of cells. Shape ``(n_cells, n_hidden)``.

        Parameters
        ----------
        position
            Coordinates between 0 and 1, those beyond are moved to the edge; shape ``(n_cells, 2)``.
            A cell with a NaN has no coordinates.

        Raises
        ------
        ValueError
            If `position` has not two columns.
        """
        if position.ndim != 2 or position.shape[1] != 2:
            raise ValueError(
                f"`position` must have the shape (n_cells, 2); found {tuple(position.shape)}."
            )
        absent = position.isnan().any(dim=1, keepdim=True)
        # As published: stretched by a hundredth beyond each edge, and cut there.
        places = (position.float().nan_to_num(0).clamp(0, 1) * 1.02 - 0.01) * self.n_grid
        places = places.floor().clamp(0, self.n_grid - 1).long()
        channels = self.table[places].flatten(1)
        return torch.where(absent, self.missing, channels)

    def extra_repr(self) -> str:
        return f"n_hidden={self.n_hidden}, n_grid={self.n_grid}"


def _axis_table(n_channels: int, n_grid: int) -> Tensor:
    """Sines and cosines in turns, of each place along an axis."""
    rates = BASE ** (-torch.arange(0, n_channels, 2, dtype=torch.float64) / n_channels)
    angles = torch.arange(n_grid, dtype=torch.float64).unsqueeze(1) * rates
    return torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1).float()
