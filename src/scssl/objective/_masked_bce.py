r"""Binary cross-entropy of whether a hidden gene is detected.

.. math::

    L = \frac{\sum_{n,g} M_{ng}\,\big[\mathrm{softplus}(o_{ng}) - \mathbb 1(x_{ng} > 0)\,o_{ng}\big]}
        {\sum_{n,g} M_{ng}}

with :math:`o` the logit of the probability that gene :math:`g` is detected in cell :math:`n`.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import softplus

from ._masked_nb import sparse_masked_mean


def sparse_masked_bce(
    logits: Tensor,
    stored: Tensor,
    target: Tensor,
    weight: Tensor,
    zero_weight: Tensor,
    normalizer: Tensor,
) -> Tensor:
    """Weighted mean of the cross-entropy of detection against a sparse target.

    Scalar, differentiable in the logits.

    Parameters
    ----------
    logits
        Shape ``(n_cells, n_genes)``, contiguous.
    stored
        Position of each stored value in the flattened logits, each at most once.
    target, weight
        Each stored value, of which only counts whether it is above zero, and its weight.
    zero_weight
        Weight of the entries that are not stored: a scalar, one per gene, or one per cell and gene.
    normalizer
        Weight of all entries together.

    Examples
    --------
    >>> import torch
    >>> from scssl.objective import sparse_masked_bce
    >>> one = torch.tensor(1.0)
    >>> sparse_masked_bce(torch.zeros(1, 2), torch.tensor([0]), one[None], one[None], one, 2 * one)
    tensor(0.6931)
    """
    logits = logits.float()
    at = logits.reshape(-1).index_select(0, stored)
    detected = torch.where(target > 0, softplus(-at), softplus(at))
    return sparse_masked_mean(softplus(logits), detected, stored, weight, zero_weight, normalizer)
