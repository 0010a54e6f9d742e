r"""Normalised temperature-scaled cross-entropy, the loss of SimCLR :cite:p:`Chen2020`.

.. math::

    L = \frac{1}{2B} \sum_{i=1}^{2B} -\log
        \frac{\exp(\hat z_i \cdot \hat z_{p(i)} / \tau)}
             {\sum_{j \ne i} \exp(\hat z_i \cdot \hat z_j / \tau)}

over the :math:`2B` views of the :math:`B` cells of a batch, with :math:`\hat z` the projections scaled
to unit length and :math:`p(i)` the other view of the cell of :math:`i`. The positive is one of the
:math:`2B - 1` terms of the denominator.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import cross_entropy

from scssl._checks import check_number

from ._views import check_pairs, full_precision, pair_logits

#: Temperature from which on ``exp(-2 / temperature)``, the least term there is, is no zero in single
#: precision.
_LEAST_TEMPERATURE = 0.025


class _NTXent(torch.autograd.Function):
    r"""The loss in few passes over the matrix of similarities.

    No similarity is above :math:`1 / \tau`, so that number can stand for the greatest one of every
    row in the logarithm of the sum of exponentials. Then
    :math:`E_{ij} = \exp((\hat z_i \cdot \hat z_j - 1) / \tau)`, 0 for :math:`i = j`, is symmetric,
    and with :math:`r_i = 1 / \sum_j E_{ij}` the gradient

    .. math:: 2 B \tau \frac{\partial L}{\partial \hat z_i}
        = r_i \sum_j E_{ij} \hat z_j + \sum_j E_{ij} r_j \hat z_j - 2 \hat z_{p(i)}

    needs no other matrix of this size.
    """

    @staticmethod
    def forward(ctx: Any, z1: Tensor, z2: Tensor, temperature: float) -> Tensor:
        z, n = torch.cat([z1, z2]), len(z1)
        length = torch.linalg.vector_norm(z, dim=1, keepdim=True).clamp_(min=1e-12)
        z /= length
        scaled = z / temperature
        terms = torch.addmm(z.new_full((), -1 / temperature), z, scaled.T).exp_().fill_diagonal_(0)
        total = terms.sum(1)
        ctx.save_for_backward(z, length, terms, total)
        ctx.temperature = temperature
        positive = torch.linalg.vecdot(z[:n], scaled[n:])
        loss: Tensor = total.log().mean() + 1 / temperature - positive.mean()
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        z, length, terms, total = ctx.saved_tensors
        n, share = len(z) // 2, total.reciprocal().unsqueeze(1)
        of_z = (terms @ z).mul_(share).addmm_(terms, z * share).sub_(z.roll(n, 0), alpha=2)
        # Length is divided out of a projection, so no gradient goes along it.
        along = torch.linalg.vecdot(of_z, z).unsqueeze(1)
        of_z.addcmul_(along, z, value=-1).mul_(grad / (len(z) * ctx.temperature)).div_(length)
        return of_z[:n], of_z[n:], None


@full_precision
def nt_xent(z1: Tensor, z2: Tensor, *, temperature: float = 0.5) -> Tensor:
    """Normalised temperature-scaled cross-entropy :cite:p:`Chen2020` of two views of a batch.

    Scalar, mean over the views.

    The loss of SimCLR. NNCLR :cite:p:`Dwibedi2021` evaluates it on the nearest neighbours of one
    view in a memory bank and on the predictions of the other view. The cost is quadratic in the
    batch.

    Parameters
    ----------
    z1, z2
        Projections of the two views, row by row of the same cells, shape ``(n_cells,
        n_dimensions)``; scaled to unit length here.
    temperature
        Divides the cosine similarities. The default is that of the benchmark of
        :cite:t:`Ovcharenko2025`, one of the values tried in :cite:t:`Chen2020`.

    Examples
    --------
    Two cells whose views agree and which are at right angles to each other:

    >>> import torch
    >>> from scssl.objective import nt_xent
    >>> nt_xent(torch.eye(2), torch.eye(2), temperature=1.0)
    tensor(0.5514)
    """
    check_pairs(1, z1=z1, z2=z2)
    check_number("temperature", temperature, "(0, inf)")
    if temperature >= _LEAST_TEMPERATURE:
        loss: Tensor = _NTXent.apply(z1, z2, temperature)
        return loss
    logits, positive = pair_logits(z1, z2, temperature)
    return cross_entropy(logits, positive)
