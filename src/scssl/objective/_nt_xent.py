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

from torch import Tensor
from torch.nn.functional import cross_entropy

from ._views import check_pairs, check_temperature, full_precision, pair_logits


@full_precision
def nt_xent(z1: Tensor, z2: Tensor, *, temperature: float = 0.5) -> Tensor:
    """Normalised temperature-scaled cross-entropy :cite:p:`Chen2020` of two views of a batch.

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

    Returns
    -------
    Scalar, mean over the views.

    Raises
    ------
    ValueError
        If the shapes differ or the temperature is not positive.

    Examples
    --------
    Two cells whose views agree and which are at right angles to each other:

    >>> import torch
    >>> from scssl.objective import nt_xent
    >>> nt_xent(torch.eye(2), torch.eye(2), temperature=1.0)
    tensor(0.5514)
    """
    check_pairs(1, z1=z1, z2=z2)
    check_temperature(temperature=temperature)
    logits, positive = pair_logits(z1, z2, temperature)
    return cross_entropy(logits, positive)
