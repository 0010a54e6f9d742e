r"""Contrast of two modalities, the loss of CLIP :cite:p:`Radford2021`.

.. math::

    L = \frac{1}{2B} \sum_{i=1}^{B} \left[
        -\log \frac{\exp(s\,\hat a_i \cdot \hat b_i)}{\sum_j \exp(s\,\hat a_i \cdot \hat b_j)}
        -\log \frac{\exp(s\,\hat a_i \cdot \hat b_i)}{\sum_j \exp(s\,\hat a_j \cdot \hat b_i)} \right]

with :math:`\hat a` and :math:`\hat b` the projections of the two modalities scaled to unit length and
:math:`s` the exponential of ``log_scale``. Other than in NT-Xent a cell is contrasted with the other
modality only.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from ._views import check_pairs, full_precision


@full_precision
def clip_loss(z1: Tensor, z2: Tensor, log_scale: Tensor) -> Tensor:
    """Symmetric contrastive loss :cite:p:`Radford2021` of two modalities of a batch. Scalar.

    Parameters
    ----------
    z1, z2
        Projections of the two modalities, row by row of the same cells, shape ``(n_cells,
        n_dimensions)``; scaled to unit length here.
    log_scale
        Logarithm of the factor on cosine similarities, a scalar, as a rule a parameter of the model.
        :cite:t:`Radford2021` start from log(1 / 0.07) and clip it to log(100), which is the caller's
        part.

    Examples
    --------
    >>> import torch
    >>> from scssl.objective import clip_loss
    >>> clip_loss(torch.eye(2), torch.eye(2), torch.tensor(0.0))
    tensor(0.3133)
    """
    check_pairs(1, z1=z1, z2=z2)
    logits = log_scale.exp() * (normalize(z1, dim=1) @ normalize(z2, dim=1).T)
    cells = torch.arange(len(z1), device=z1.device)
    return (cross_entropy(logits, cells) + cross_entropy(logits.T, cells)) / 2
