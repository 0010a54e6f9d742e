r"""Redundancy reduction, the loss of Barlow Twins :cite:p:`Zbontar2021`.

.. math::

    L = \sum_i (1 - C_{ii})^2 + \lambda \sum_i \sum_{j \ne i} C_{ij}^2, \qquad
    C_{ij} = \frac1B \sum_{b=1}^{B} \tilde z^{(1)}_{bi}\,\tilde z^{(2)}_{bj}

with :math:`\tilde z` the projections, each view centred and scaled by its own mean and biased variance
over the batch, as a batch norm without parameters does it. Statistics of both views together would let
a shift between the views pass for correlation.
"""

from __future__ import annotations

from torch import Tensor

from ._views import check_pairs, full_precision, off_diagonal_squares

# As in the published code, whose batch norm has PyTorch's default.
_EPS = 1e-5


def _standardised(z: Tensor) -> Tensor:
    centred = z - z.mean(0)
    return centred * (centred.square().mean(0) + _EPS).rsqrt()


@full_precision
def barlow_twins(z1: Tensor, z2: Tensor, *, redundancy: float = 5e-3) -> Tensor:
    """Barlow Twins loss :cite:p:`Zbontar2021` of two views of a batch.

    Scalar, a sum over dimensions.

    Parameters
    ----------
    z1, z2
        Projections of the two views, row by row of the same cells, shape ``(n_cells,
        n_dimensions)``; each is standardised here. Two cells at least.
    redundancy
        Weight of the correlations between different dimensions. The default is that of
        :cite:t:`Zbontar2021`.

    Examples
    --------
    The views agree, and their two dimensions are the same up to the sign:

    >>> import torch
    >>> from scssl.objective import barlow_twins
    >>> z = torch.tensor([[1.0, -1.0], [-1.0, 1.0]])
    >>> barlow_twins(z, z, redundancy=0.1)
    tensor(0.2000)
    """
    check_pairs(2, z1=z1, z2=z2)
    correlation = _standardised(z1).T @ _standardised(z2) / len(z1)
    invariance = (1 - correlation.diagonal()).square().sum()
    return invariance + redundancy * off_diagonal_squares(correlation)
