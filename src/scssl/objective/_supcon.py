r"""Supervised contrastive loss :cite:p:`Khosla2020`.

.. math::

    L = \frac{1}{|A|} \sum_{i \in A} \frac{-1}{|P(i)|} \sum_{p \in P(i)}
        \log \frac{\exp(z_i \cdot z_p / \tau)}{\sum_{a \ne i} \exp(z_i \cdot z_a / \tau)}

with :math:`z` the embeddings scaled to unit length, :math:`P(i)` the other cells of the batch with the
label of :math:`i`, and :math:`A` the cells that have any. The mean over the positives stands outside
the logarithm (:math:`L_{out}`).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from scssl._checks import check_number

from ._views import full_precision

#: That of Khosla et al. on ImageNet, for all models that learn with this loss.
SUPCON_TEMPERATURE = 0.1


@full_precision
def supcon(z: Tensor, labels: Tensor, *, temperature: float = SUPCON_TEMPERATURE) -> Tensor:
    """Supervised contrastive loss of a batch. Scalar; 0 where no cell has a positive.

    Every cell is an anchor once and compared with all others, at a cost quadratic in the batch.
    Cells without another one of their label are no anchors, but others are told apart from them.

    Parameters
    ----------
    z
        Embeddings, shape ``(n_cells, n_latent)``; scaled to unit length here.
    labels
        Label of each cell, numbers, shape ``(n_cells,)``.
    temperature
        Divides the cosine similarities. The default is that of :cite:t:`Khosla2020` on ImageNet.

    Examples
    --------
    >>> import torch
    >>> from scssl.objective import supcon
    >>> z = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    >>> supcon(z, torch.tensor([0, 0, 1]), temperature=1.0)
    tensor(0.3133)
    """
    check_number("temperature", temperature, "(0, inf)")
    _check_labels(z, labels)
    z = functional.normalize(z, dim=1)
    positive = labels[:, None] == labels[None, :]
    positive.fill_diagonal_(False)
    count = positive.sum(1)
    anchors = count > 0
    if not bool(anchors.any()):
        return z.sum() * 0
    similarity = z @ z.T / temperature
    itself = torch.eye(len(z), dtype=torch.bool, device=z.device)
    others = similarity.masked_fill(itself, float("-inf")).logsumexp(1)
    attracted = (similarity * positive).sum(1)[anchors] / count[anchors]
    return (others[anchors] - attracted).mean()


def _check_labels(z: Tensor, labels: Tensor) -> None:
    if z.ndim != 2 or labels.shape != z.shape[:1]:
        raise ValueError(
            "`z` must be of shape (n_cells, n_latent) and `labels` of shape (n_cells,); found "
            f"{tuple(z.shape)} and {tuple(labels.shape)}."
        )
    # NaN equals nothing, so a cell without a label would be pushed away from its own kind.
    if labels.is_floating_point() and bool((absent := labels.isnan()).any()):
        raise ValueError(
            f"`labels` has {int(absent.sum())} NaN of {len(labels)}. Leave out the cells without a "
            "label: supcon(z[~labels.isnan()], labels[~labels.isnan()])"
        )
