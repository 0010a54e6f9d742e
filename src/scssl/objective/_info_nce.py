r"""Contrast with a queue of negatives, the loss of MoCo :cite:p:`He2020`.

.. math::

    L = \frac1B \sum_{i=1}^{B} -\log
        \frac{\exp(\hat q_i \cdot \hat k_i / \tau)}
             {\exp(\hat q_i \cdot \hat k_i / \tau) + \sum_{n=1}^{K} \exp(\hat q_i \cdot \hat k^-_n / \tau)}

with :math:`\hat q` the queries of one view, :math:`\hat k` the keys of the other view and
:math:`\hat k^-` the keys of earlier batches, all scaled to unit length. Cells of the same batch are not
contrasted with each other.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from scssl._checks import check_number

from ._views import check_pairs, full_precision


@full_precision
def info_nce(query: Tensor, key: Tensor, negatives: Tensor, *, temperature: float) -> Tensor:
    """Contrastive loss of queries with one key each and common negatives :cite:p:`He2020`.

    Scalar, mean over the queries.

    Parameters
    ----------
    query, key
        Projections of the two views, row by row of the same cells, shape ``(n_cells,
        n_dimensions)``; scaled to unit length here. In MoCo the key comes from the EMA target and
        has no gradient.
    negatives
        Shape ``(n_negatives, n_dimensions)``, scaled to unit length here; the values of a
        :class:`scssl.nn.MemoryBank`.
    temperature
        Divides the cosine similarities. :cite:t:`He2020` use 0.07, the benchmark of
        :cite:t:`Ovcharenko2025` 0.5.

    Examples
    --------
    >>> import torch
    >>> from scssl.objective import info_nce
    >>> query = torch.tensor([[1.0, 0.0]])
    >>> info_nce(query, 2 * query, torch.tensor([[0.0, 1.0]]), temperature=1.0)
    tensor(0.3133)
    """
    check_pairs(1, query=query, key=key)
    check_number("temperature", temperature, "(0, inf)")
    if negatives.ndim != 2 or negatives.shape[1] != query.shape[1]:
        raise ValueError(
            f"`negatives` must be of shape (n_negatives, {query.shape[1]}), as wide as `query`; "
            f"found {tuple(negatives.shape)}."
        )
    query, key, negatives = (normalize(x, dim=1) for x in (query, key, negatives))
    positive = (query * key).sum(1) / temperature
    others = query @ negatives.T / temperature
    return (torch.cat([positive[:, None], others], dim=1).logsumexp(1) - positive).mean()
