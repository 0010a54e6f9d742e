r"""Variance, invariance and covariance regularisation: VICReg :cite:p:`Bardes2022`.

.. math::

    L = \frac{\lambda}{BD} \lVert Z^{(1)} - Z^{(2)} \rVert^2
        + \frac{\mu}{2} \sum_{v=1}^{2} \frac1D \sum_{j=1}^{D}
            \max\left(0, 1 - \sqrt{\operatorname{Var}(Z^{(v)}_{\cdot j}) + \epsilon}\right)
        + \nu \sum_{v=1}^{2} \frac1D \sum_{j \ne k} \operatorname{Cov}(Z^{(v)})_{jk}^2

with unbiased variances and covariances over the batch. As in the authors' code the squared distance is
a mean over dimensions too and the variance terms of the two views are averaged; the text of the paper
has sums for both.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import mse_loss, relu

from ._views import check_pairs, full_precision, off_diagonal_squares


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
