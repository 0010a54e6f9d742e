r"""Cross-entropy of several partitions of the same cells :cite:p:`Zhang2022`.

.. math::

    L = \frac{1}{P} \sum_{p=1}^{P} \frac{w_p}{n} \sum_{i=1}^{n}
        -\log \frac{\exp(o_{i, p, y_{ip}})}{\sum_{c=1}^{k_p} \exp(o_{ipc})},
    \qquad w_p = \frac{1}{\log k_p}

of :math:`n` cells, each in one cluster :math:`y_{ip}` of each of :math:`P` partitions, with the logits
:math:`o`. A guess costs :math:`\log k_p`, so with these weights the loss is 1 where nothing is known,
whatever the number of clusters. The published objective is the sum without weights.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional

__all__ = ["partition_cross_entropy"]


def partition_cross_entropy(
    logits: Tensor, labels: Tensor, n_clusters: Sequence[int], *, weighted: bool = True
) -> Tensor:
    """Cross-entropy of cluster labels in several partitions :cite:p:`Zhang2022`.

    Scalar, mean over the cells.

    Parameters
    ----------
    logits
        Raw scores of the clusters of all partitions side by side, shape ``(n_cells,
        sum(n_clusters))``.
    labels
        Cluster of each cell in each partition; int64, shape ``(n_cells, len(n_clusters))``.
    n_clusters
        Number of clusters of each partition, two at least.
    weighted
        Whether to take the mean over the partitions, each divided by the logarithm of its number of
        clusters; else the sum, as published.

    Examples
    --------
    >>> import torch
    >>> from scssl.objective import partition_cross_entropy
    >>> labels = torch.tensor([[0, 2], [1, 3]])
    >>> partition_cross_entropy(torch.zeros(2, 6), labels, [2, 4])
    tensor(1.)
    """
    if not n_clusters or min(n_clusters) < 2:
        raise ValueError(f"Each partition needs at least 2 clusters, found {list(n_clusters)}.")
    wanted = (len(logits), len(n_clusters)), (len(labels), sum(n_clusters))
    if (tuple(labels.shape), tuple(logits.shape)) != wanted:
        raise ValueError(
            f"{len(n_clusters)} partitions of {sum(n_clusters)} clusters do not fit labels of shape "
            f"{tuple(labels.shape)} and logits of shape {tuple(logits.shape)}."
        )
    parts = logits.split(list(n_clusters), dim=1)
    losses = [functional.cross_entropy(part, labels[:, p]) for p, part in enumerate(parts)]
    if not weighted:
        return sum(losses[1:], start=losses[0])
    scaled = [loss / math.log(k) for loss, k in zip(losses, n_clusters, strict=True)]
    return sum(scaled[1:], start=scaled[0]) / len(scaled)
