r"""Losses on entries hidden from the encoder; most targets are zeros, which are not stored.

The mean squared error :cite:p:`Richter2025` is

.. math::

    L = \frac{\sum_{n,g} M_{ng}\,(\hat x_{ng} - x_{ng})^2}{\sum_{n,g} M_{ng}}

with :math:`M_{ng} = 1` where gene :math:`g` of cell :math:`n` was hidden. The sum is divided by the number
of hidden entries, not by the size of the batch, and so are the two that follow.

The negative log-likelihood of a count :math:`k` with mean :math:`\mu` and inverse dispersion
:math:`\theta` is

.. math::

    -\log \mathrm{NB}(k; \mu, \theta) = \log\Gamma(\theta) + \log\Gamma(k+1) - \log\Gamma(k+\theta)
        + (\theta + k)\,\mathrm{softplus}(a) - k a, \qquad a = \log\mu - \log\theta

which for a zero is :math:`\theta\,\mathrm{softplus}(a)`. With zero inflation of logit :math:`\pi`
:cite:p:`Lopez2018` a zero costs
:math:`\mathrm{softplus}(-\pi) - \mathrm{softplus}(-\pi - \theta\,\mathrm{softplus}(a))` and any other
count :math:`\mathrm{softplus}(\pi)` more than above. Most hidden entries are zeros, and a zero needs no
gamma function: only stored counts pay for one.

The cross-entropy of whether a gene is detected, with the logit :math:`o_{ng}` of its probability, is
:math:`\mathrm{softplus}(o_{ng}) - \mathbb 1(x_{ng} > 0)\,o_{ng}`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import softplus

__all__ = ["masked_mse", "nb_nll", "sparse_masked_bce", "sparse_masked_mse", "sparse_masked_nb"]


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


def nb_nll(
    log_mean: Tensor, log_dispersion: Tensor, counts: Tensor, logits: Tensor | None = None
) -> Tensor:
    """Negative log-likelihood of each count; negative binomial, zero-inflated with `logits`.

    Of the common shape of the arguments.

    Parameters
    ----------
    log_mean
        Logarithm of the mean.
    log_dispersion
        Logarithm of the inverse dispersion.
    counts
        Counts.
    logits
        Logit of the probability of an additional zero.

    Examples
    --------
    >>> import torch
    >>> from scssl.objective import nb_nll
    >>> nb_nll(torch.tensor(0.0), torch.tensor(0.0), torch.tensor(0.0))
    tensor(0.6931)
    """
    theta, ratio = log_dispersion.exp(), log_mean - log_dispersion
    spread = softplus(ratio)
    nll = (
        torch.lgamma(theta)
        + torch.lgamma(counts + 1)
        - torch.lgamma(counts + theta)
        + (theta + counts) * spread
        - counts * ratio
    )
    if logits is None:
        return nll
    zero = softplus(-logits) - softplus(-logits - theta * spread)
    return torch.where(counts > 0, nll + softplus(logits), zero)


def sparse_masked_nb(
    log_mean: Tensor,
    log_dispersion: Tensor,
    stored: Tensor,
    counts: Tensor,
    weight: Tensor,
    zero_weight: Tensor,
    normalizer: Tensor,
    *,
    logits: Tensor | None = None,
) -> Tensor:
    r"""Weighted mean of the negative log-likelihood against counts that are stored sparsely.

    Scalar, differentiable in the mean, the dispersion and the logits.

    Parameters
    ----------
    log_mean
        Logarithm of the mean, shape ``(n_cells, n_genes)``, contiguous.
    log_dispersion
        Logarithm of the inverse dispersion, shape ``(n_genes,)``.
    stored
        Position of each stored count in the flattened prediction, each at most once.
    counts, weight
        Each stored count, and its weight in the sum.
    zero_weight
        Weight of the entries that are not stored: a scalar, one per gene, or one per cell and gene.
    normalizer
        Weight of all entries together.
    logits
        Logit of the probability of an additional zero, shape ``(n_cells, n_genes)``.
    """
    # Autocast would evaluate gamma functions in half precision.
    log_mean, log_dispersion = log_mean.float(), log_dispersion.float()
    logits = None if logits is None else logits.float()
    zero = log_dispersion.exp() * softplus(log_mean - log_dispersion)
    if logits is not None:
        zero = softplus(-logits) - softplus(-logits - zero)
    genes = stored % log_mean.shape[1]
    nll = nb_nll(
        log_mean.reshape(-1).index_select(0, stored),
        log_dispersion.index_select(0, genes),
        counts,
        None if logits is None else logits.reshape(-1).index_select(0, stored),
    )
    return sparse_masked_mean(zero, nll, stored, weight, zero_weight, normalizer)


def sparse_masked_mean(
    zero: Tensor,
    at_stored: Tensor,
    stored: Tensor,
    weight: Tensor,
    zero_weight: Tensor,
    normalizer: Tensor,
) -> Tensor:
    """Weighted mean of a loss of which all entries have the value of a zero, and some another one.

    ``zero``: loss of each entry if its target is zero; the rest is as for :func:`sparse_masked_nb`.
    """
    if zero_weight.ndim == 0:
        background = zero.sum() * zero_weight
        correction = zero_weight
    else:
        zero_weight = zero_weight.to(zero.dtype)
        full = zero_weight.expand(zero.shape)
        background = (zero * full).sum()
        correction = full[stored // zero.shape[1], stored % zero.shape[1]]
    zero_at_stored = zero.reshape(-1).index_select(0, stored)
    total = background + (weight * at_stored - correction * zero_at_stored).sum()
    return total / normalizer


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
