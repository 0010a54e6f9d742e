r"""Mean squared error on hidden entries :cite:p:`Richter2025`.

.. math::

    L = \frac{\sum_{n,g} M_{ng}\,(\hat x_{ng} - x_{ng})^2}{\sum_{n,g} M_{ng}}

with :math:`M_{ng} = 1` where gene :math:`g` of cell :math:`n` was hidden from the encoder. The sum is
divided by the number of hidden entries, not by the size of the batch.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def masked_mse(prediction: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Mean squared error over the entries of a dense mask. Scalar; 0 where nothing counts.

    Parameters
    ----------
    prediction, target
        Shape ``(n_cells, n_genes)``.
    mask
        Weight of each entry, 1 where it counts and 0 where it does not; same shape.

    Examples
    --------
    >>> import torch
    >>> from scssl.objective import masked_mse
    >>> x = torch.tensor([[1.0, 0.0, 2.0], [0.0, 3.0, 0.0]])
    >>> hidden = torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
    >>> masked_mse(torch.zeros(2, 3), x, hidden)
    tensor(4.6667)
    """
    mask = mask.to(prediction.dtype)
    error = ((prediction - target).square() * mask).sum()
    return error / mask.sum().clamp(min=torch.finfo(error.dtype).tiny)


class _SparseMaskedError(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        prediction: Tensor,
        stored: Tensor,
        target: Tensor,
        weight: Tensor,
        zero_weight: Tensor,
        stored_zero_weight: Tensor,
        normalizer: Tensor,
    ) -> Tensor:
        flat = prediction.reshape(-1)
        at = flat.index_select(0, stored).float()
        error = at - target
        if zero_weight.ndim == 2:
            background = (prediction.float().square() * zero_weight).sum()
        else:
            # One pass without a temporary of the size of the prediction.
            per_gene = torch.linalg.vector_norm(prediction, dim=0, dtype=torch.float32).square_()
            background = (per_gene * zero_weight).sum()
        total = background + (weight * error.square() - stored_zero_weight * at.square()).sum()
        ctx.save_for_backward(prediction, stored, weight * error, zero_weight, normalizer)
        return total / normalizer

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        prediction, stored, weighted_error, zero_weight, normalizer = ctx.saved_tensors
        factor = 2 * grad / normalizer
        out = prediction * (zero_weight * factor).to(prediction.dtype)
        out.view(-1).index_copy_(0, stored, (weighted_error * factor).to(out.dtype))
        return out, None, None, None, None, None, None


def sparse_masked_mse(
    prediction: Tensor,
    stored: Tensor,
    target: Tensor,
    weight: Tensor,
    zero_weight: Tensor,
    normalizer: Tensor,
) -> Tensor:
    r"""The masked mean squared error against a sparse target, which is never made dense.

    Scalar in float32. It has a gradient with respect to the prediction only.

    Entries that are not stored in the target are zero there, so that

    .. math::

        L = \frac1N \left[ \sum_{n,g} w^0_{ng}\,\hat x_{ng}^2 + \sum_{(n,g)\ \text{stored}}
            w_{ng} (\hat x_{ng} - x_{ng})^2 - w^0_{ng}\,\hat x_{ng}^2 \right]

    which needs one pass over the prediction and one over the stored values.

    Parameters
    ----------
    prediction
        Shape ``(n_cells, n_genes)``, contiguous.
    stored
        Position of each stored value in the flattened prediction, each at most once.
    target, weight
        Each stored value, and its weight in the sum.
    zero_weight
        Weight :math:`w^0` of the entries that are not stored: a scalar, one per gene, or one per
        cell and gene.
    normalizer
        :math:`N`, the weight of all entries together.
    """
    full = zero_weight.expand(prediction.shape)
    rows, genes = stored // prediction.shape[1], stored % prediction.shape[1]
    stored_zero_weight = full[rows, genes] if zero_weight.ndim else zero_weight
    loss: Tensor = _SparseMaskedError.apply(
        prediction, stored, target, weight, zero_weight, stored_zero_weight, normalizer
    )
    return loss
