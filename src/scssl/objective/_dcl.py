r"""Decoupled contrastive loss :cite:p:`Yeh2022`.

.. math::

    L = \frac{1}{2B} \sum_{i=1}^{2B} \left[ -w_i\,\hat z_i \cdot \hat z_{p(i)} / \tau
        + \log \sum_{j \notin \{i, p(i)\}} \exp(\hat z_i \cdot \hat z_j / \tau) \right]

over the :math:`2B` views of the :math:`B` cells of a batch, with :math:`\hat z` the projections scaled
to unit length and :math:`p(i)` the other view of the cell of :math:`i`. Other than in NT-Xent the
positive is not in the denominator, which makes the loss less dependent on the size of the batch.

The weights :math:`w_i` are 1, or with ``sigma`` (DCLW) larger for cells whose views are far apart,

.. math::

    w_i = 2 - \frac{\exp(\hat z_i \cdot \hat z_{p(i)} / \sigma)}
        {\frac1B \sum_{k=1}^{B} \exp(\hat z_k \cdot \hat z_{p(k)} / \sigma)}

without a gradient. Their mean over the batch is 1.
"""

from __future__ import annotations

import torch
from torch import Tensor

from scssl._checks import check_number

from ._views import check_pairs, full_precision, pair_logits


@full_precision
def dcl(z1: Tensor, z2: Tensor, *, temperature: float = 0.1, sigma: float | None = None) -> Tensor:
    """Decoupled contrastive loss :cite:p:`Yeh2022` of two views of a batch.

    Scalar, mean over the views. It has no lower bound of zero.

    Parameters
    ----------
    z1, z2
        Projections of the two views, row by row of the same cells, shape ``(n_cells,
        n_dimensions)``; scaled to unit length here. Two cells at least.
    temperature
        Divides the cosine similarities. The default is that of the implementation in lightly.
    sigma
        Weigh cells by how far their views are apart, the more the smaller it is; 0.5 in lightly.
        Without it all weigh the same.

    Examples
    --------
    >>> import torch
    >>> from scssl.objective import dcl
    >>> dcl(torch.eye(2), torch.eye(2), temperature=1.0)
    tensor(-0.3069)
    """
    check_pairs(2, z1=z1, z2=z2)
    check_number("temperature", temperature, "(0, inf)")
    logits, other = pair_logits(z1, z2, temperature)
    positive = logits.gather(1, other[:, None])
    negatives = logits.scatter(1, other[:, None], -torch.inf).logsumexp(1)
    positive = positive.squeeze(1)
    if sigma is not None:
        check_number("sigma", sigma, "(0, inf)")
        cosine = positive[: len(z1)].detach() * temperature
        positive = positive * (2 - len(z1) * (cosine / sigma).softmax(0)).repeat(2)
    return (negatives - positive).mean()
