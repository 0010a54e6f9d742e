r"""Negative log-likelihood of hidden counts: negative binomial, with and without zero inflation.

For a count :math:`k` with mean :math:`\mu` and inverse dispersion :math:`\theta`,

.. math::

    -\log \mathrm{NB}(k; \mu, \theta) = \log\Gamma(\theta) + \log\Gamma(k+1) - \log\Gamma(k+\theta)
        + (\theta + k)\,\mathrm{softplus}(a) - k a, \qquad a = \log\mu - \log\theta

which for a zero is :math:`\theta\,\mathrm{softplus}(a)`. With zero inflation of logit :math:`\pi`
:cite:p:`Lopez2018` a zero costs
:math:`\mathrm{softplus}(-\pi) - \mathrm{softplus}(-\pi - \theta\,\mathrm{softplus}(a))` and any other
count :math:`\mathrm{softplus}(\pi)` more than above.

The likelihood is averaged over the hidden entries, as the squared error is. Most of them are zeros,
and a zero needs no gamma function: only stored counts pay for one.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import softplus


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

    Parameters
    ----------
    zero
        Loss of each entry if its target is zero, shape ``(n_cells, n_genes)``.
    at_stored
        Loss of the entries whose target is stored.
    stored
        Their positions in the flattened ``zero``.
    weight, zero_weight, normalizer
        As for :func:`sparse_masked_nb`.
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
