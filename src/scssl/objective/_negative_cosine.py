r"""Negative cosine similarity, the loss of BYOL :cite:p:`Grill2020` and SimSiam :cite:p:`Chen2021`.

.. math::

    L = -\frac1B \sum_{i=1}^{B} \frac{p_i \cdot z_i}{\lVert p_i \rVert\,\lVert z_i \rVert}

with :math:`p` the prediction from one view and :math:`z` the projection of the other. BYOL's squared
distance of vectors of unit length is :math:`2 + 2L`.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import cosine_similarity

from ._views import check_pairs, full_precision


@full_precision
def negative_cosine(p: Tensor, z: Tensor) -> Tensor:
    """Negative cosine similarity :cite:p:`Grill2020,Chen2021` of predictions and what they predict.

    Scalar from -1 to 1, mean over the cells.

    Both methods stop the gradient at the projection, which is the caller's part: hand over
    ``z.detach()``. Without it embeddings collapse to a point.

    Parameters
    ----------
    p
        Predictions from one view, shape ``(n_cells, n_dimensions)``.
    z
        Projections of the other view, same shape.

    Examples
    --------
    >>> import torch
    >>> from scssl.objective import negative_cosine
    >>> negative_cosine(torch.tensor([[3.0, 4.0]]), torch.tensor([[2.0, 0.0]]))
    tensor(-0.6000)
    """
    check_pairs(1, p=p, z=z)
    return -cosine_similarity(p, z, dim=1).mean()
