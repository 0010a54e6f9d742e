"""Losses without negatives: views that agree, in dimensions that are not correlated."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import mse_loss, relu

from ._views import check_pairs, full_precision, off_diagonal_squares

__all__ = ["barlow_twins", "vicreg"]

# As in the published code, whose batch norm has PyTorch's default.
_EPS = 1e-5


def _standardised(z: Tensor) -> Tensor:
    centred = z - z.mean(0)
    return centred * (centred.square().mean(0) + _EPS).rsqrt()


@full_precision
def barlow_twins(z1: Tensor, z2: Tensor, *, redundancy: float = 5e-3) -> Tensor:
    r"""Barlow Twins loss :cite:p:`Zbontar2021` of two views of a batch.

    Scalar, a sum over dimensions.

    .. math::

        L = \sum_i (1 - C_{ii})^2 + \lambda \sum_i \sum_{j \ne i} C_{ij}^2, \qquad
        C_{ij} = \frac1B \sum_{b=1}^{B} \tilde z^{(1)}_{bi}\,\tilde z^{(2)}_{bj}

    with :math:`\tilde z` the projections, each view centred and scaled by its own mean and biased variance
    over the batch, as a batch norm without parameters does it. Statistics of both views together would let
    a shift between the views pass for correlation.

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


def _spread_and_redundancy(z: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    centred = z - z.mean(0)
    covariance = centred.T @ centred / (len(z) - 1)
    shortfall = relu(1 - (covariance.diagonal() + eps).sqrt()).mean()
    return shortfall, off_diagonal_squares(covariance) / z.shape[1]


@full_precision
def vicreg(
    z1: Tensor,
    z2: Tensor,
    *,
    invariance: float = 25.0,
    variance: float = 25.0,
    covariance: float = 1.0,
    eps: float = 1e-4,
) -> Tensor:
    r"""VICReg loss :cite:p:`Bardes2022` of two views of a batch. Scalar.

    .. math::

        L = \frac{\lambda}{BD} \lVert Z^{(1)} - Z^{(2)} \rVert^2
            + \frac{\mu}{2} \sum_{v=1}^{2} \frac1D \sum_{j=1}^{D}
                \max\left(0, 1 - \sqrt{\operatorname{Var}(Z^{(v)}_{\cdot j}) + \epsilon}\right)
            + \nu \sum_{v=1}^{2} \frac1D \sum_{j \ne k} \operatorname{Cov}(Z^{(v)})_{jk}^2

    with unbiased variances and covariances over the batch. As in the authors' code the squared distance is
    a mean over dimensions too and the variance terms of the two views are averaged; the text of the paper
    has sums for both.

    Parameters
    ----------
    z1, z2
        Projections of the two views, row by row of the same cells, shape ``(n_cells,
        n_dimensions)``; not scaled here. Two cells at least.
    invariance
        Weight :math:`\lambda` of the squared distance of the views. This default and the next three
        are those of :cite:t:`Bardes2022`.
    variance
        Weight :math:`\mu` of what the standard deviation of a dimension lacks to 1.
    covariance
        Weight :math:`\nu` of the squared covariances between dimensions.
    eps
        Added to the variances, whose square root has no slope at zero otherwise.

    Examples
    --------
    All cells at one point: only the variance is wrong, and by almost 1.

    >>> import torch
    >>> from scssl.objective import vicreg
    >>> vicreg(torch.ones(4, 3), torch.ones(4, 3))
    tensor(24.7500)
    """
    check_pairs(2, z1=z1, z2=z2)
    spread1, redundancy1 = _spread_and_redundancy(z1, eps)
    spread2, redundancy2 = _spread_and_redundancy(z2, eps)
    return (
        invariance * mse_loss(z1, z2)
        + variance * (spread1 + spread2) / 2
        + covariance * (redundancy1 + redundancy2)
    )
