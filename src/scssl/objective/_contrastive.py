"""Losses that tell cells apart: the other view of a cell against other cells."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.nn.functional import cross_entropy, normalize

from scssl._checks import check_number

from ._views import apart, check_groups, check_pairs, full_precision, pair_logits

__all__ = ["clip_loss", "dcl", "info_nce", "nt_xent", "supcon"]


@full_precision
def info_nce(query: Tensor, key: Tensor, negatives: Tensor, *, temperature: float) -> Tensor:
    r"""Contrastive loss of queries with one key each and common negatives :cite:p:`He2020`.

    Scalar, mean over the queries.

    .. math::

        L = \frac1B \sum_{i=1}^{B} -\log
            \frac{\exp(\hat q_i \cdot \hat k_i / \tau)}
                 {\exp(\hat q_i \cdot \hat k_i / \tau) + \sum_{n=1}^{K} \exp(\hat q_i \cdot \hat k^-_n / \tau)}

    with :math:`\hat q` the queries of one view, :math:`\hat k` the keys of the other view and
    :math:`\hat k^-` the keys of earlier batches, all scaled to unit length. Cells of the same batch are not
    contrasted with each other.

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


#: Temperature from which on ``exp(-2 / temperature)``, the least term there is, is no zero in single
#: precision.
_LEAST_TEMPERATURE = 0.025


class _NTXent(torch.autograd.Function):
    r"""The loss in few passes over the matrix of similarities.

    No similarity is above :math:`1 / \tau`, so that number can stand for the greatest one of every
    row in the logarithm of the sum of exponentials. Then
    :math:`E_{ij} = \exp((\hat z_i \cdot \hat z_j - 1) / \tau)`, 0 for :math:`i = j`, is symmetric,
    and with :math:`r_i = 1 / \sum_j E_{ij}` the gradient

    .. math:: 2 B \tau \frac{\partial L}{\partial \hat z_i}
        = r_i \sum_j E_{ij} \hat z_j + \sum_j E_{ij} r_j \hat z_j - 2 \hat z_{p(i)}

    needs no other matrix of this size. Nor does it where :math:`E_{ij} = 0` between groups.
    """

    @staticmethod
    def forward(
        ctx: Any, z1: Tensor, z2: Tensor, temperature: float, groups: Tensor | None
    ) -> Tensor:
        z, n = torch.cat([z1, z2]), len(z1)
        length = torch.linalg.vector_norm(z, dim=1, keepdim=True).clamp_(min=1e-12)
        z /= length
        scaled = z / temperature
        terms = torch.addmm(z.new_full((), -1 / temperature), z, scaled.T).exp_().fill_diagonal_(0)
        if groups is not None:
            terms.masked_fill_(apart(groups), 0)
        total = terms.sum(1)
        ctx.save_for_backward(z, length, terms, total)
        ctx.temperature = temperature
        positive = torch.linalg.vecdot(z[:n], scaled[n:])
        loss: Tensor = total.log().mean() + 1 / temperature - positive.mean()
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        z, length, terms, total = ctx.saved_tensors
        n, share = len(z) // 2, total.reciprocal().unsqueeze(1)
        of_z = (terms @ z).mul_(share).addmm_(terms, z * share).sub_(z.roll(n, 0), alpha=2)
        # Length is divided out of a projection, so no gradient goes along it.
        along = torch.linalg.vecdot(of_z, z).unsqueeze(1)
        of_z.addcmul_(along, z, value=-1).mul_(grad / (len(z) * ctx.temperature)).div_(length)
        return of_z[:n], of_z[n:], None, None


@full_precision
def nt_xent(
    z1: Tensor, z2: Tensor, *, temperature: float = 0.5, groups: Tensor | None = None
) -> Tensor:
    r"""Normalised temperature-scaled cross-entropy :cite:p:`Chen2020` of two views of a batch.

    Scalar, mean over the views.

    The loss of SimCLR. NNCLR :cite:p:`Dwibedi2021` evaluates it on the nearest neighbours of one
    view in a memory bank and on the predictions of the other view. The cost is quadratic in the
    batch.

    .. math::

        L = \frac{1}{2B} \sum_{i=1}^{2B} -\log
            \frac{\exp(\hat z_i \cdot \hat z_{p(i)} / \tau)}
                 {\sum_{j \ne i} \exp(\hat z_i \cdot \hat z_j / \tau)}

    over the :math:`2B` views of the :math:`B` cells of a batch, with :math:`\hat z` the projections scaled
    to unit length and :math:`p(i)` the other view of the cell of :math:`i`. The positive is one of the
    :math:`2B - 1` terms of the denominator. With `groups` the sum is over the views of cells of the group of
    :math:`i` only: a cell is not told apart from those of other groups, and one that is alone in its group
    from none.

    Parameters
    ----------
    z1, z2
        Projections of the two views, row by row of the same cells, shape ``(n_cells,
        n_dimensions)``; scaled to unit length here.
    temperature
        Divides the cosine similarities. The default is that of the benchmark of
        :cite:t:`Ovcharenko2025`, one of the values tried in :cite:t:`Chen2020`.
    groups
        Group of each cell, such as its batch, numbers of shape ``(n_cells,)``; by default all are one.

    Examples
    --------
    Two cells whose views agree and which are at right angles to each other:

    >>> import torch
    >>> from scssl.objective import nt_xent
    >>> nt_xent(torch.eye(2), torch.eye(2), temperature=1.0)
    tensor(0.5514)
    """
    check_pairs(1, z1=z1, z2=z2)
    check_number("temperature", temperature, "(0, inf)")
    check_groups(z1, groups)
    if temperature >= _LEAST_TEMPERATURE:
        loss: Tensor = _NTXent.apply(z1, z2, temperature, groups)
        return loss
    logits, positive = pair_logits(z1, z2, temperature, groups)
    return cross_entropy(logits, positive)


@full_precision
def dcl(
    z1: Tensor,
    z2: Tensor,
    *,
    temperature: float = 0.1,
    sigma: float | None = None,
    groups: Tensor | None = None,
) -> Tensor:
    r"""Decoupled contrastive loss :cite:p:`Yeh2022` of two views of a batch.

    Scalar, mean over the views. It has no lower bound of zero.

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
    groups
        Group of each cell, numbers of shape ``(n_cells,)``, as in :func:`nt_xent`. Cells that are alone in
        theirs do not count.

    Examples
    --------
    >>> import torch
    >>> from scssl.objective import dcl
    >>> dcl(torch.eye(2), torch.eye(2), temperature=1.0)
    tensor(-0.3069)
    """
    check_pairs(2, z1=z1, z2=z2)
    check_number("temperature", temperature, "(0, inf)")
    check_groups(z1, groups)
    logits, other = pair_logits(z1, z2, temperature, groups)
    positive = logits.gather(1, other[:, None])
    negatives = logits.scatter(1, other[:, None], -torch.inf)
    positive = positive.squeeze(1)
    if sigma is not None:
        check_number("sigma", sigma, "(0, inf)")
        cosine = positive[: len(z1)].detach() * temperature
        positive = positive * (2 - len(z1) * (cosine / sigma).softmax(0)).repeat(2)
    if groups is not None:
        told_apart = negatives.isfinite().any(1)
        if not bool(told_apart.any()):
            return positive.sum() * 0
        negatives, positive = negatives[told_apart], positive[told_apart]
    return (negatives.logsumexp(1) - positive).mean()


@full_precision
def clip_loss(z1: Tensor, z2: Tensor, log_scale: Tensor) -> Tensor:
    r"""Symmetric contrastive loss :cite:p:`Radford2021` of two modalities of a batch. Scalar.

    .. math::

        L = \frac{1}{2B} \sum_{i=1}^{B} \left[
            -\log \frac{\exp(s\,\hat a_i \cdot \hat b_i)}{\sum_j \exp(s\,\hat a_i \cdot \hat b_j)}
            -\log \frac{\exp(s\,\hat a_i \cdot \hat b_i)}{\sum_j \exp(s\,\hat a_j \cdot \hat b_i)} \right]

    with :math:`\hat a` and :math:`\hat b` the projections of the two modalities scaled to unit length and
    :math:`s` the exponential of ``log_scale``. Other than in NT-Xent a cell is contrasted with the other
    modality only.

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


#: That of Khosla et al. on ImageNet, for all models that learn with this loss.
SUPCON_TEMPERATURE = 0.1


@full_precision
def supcon(z: Tensor, labels: Tensor, *, temperature: float = SUPCON_TEMPERATURE) -> Tensor:
    r"""Supervised contrastive loss of a batch. Scalar; 0 where no cell has a positive.

    Every cell is an anchor once and compared with all others, at a cost quadratic in the batch.
    Cells without another one of their label are no anchors, but others are told apart from them.

    .. math::

        L = \frac{1}{|A|} \sum_{i \in A} \frac{-1}{|P(i)|} \sum_{p \in P(i)}
            \log \frac{\exp(z_i \cdot z_p / \tau)}{\sum_{a \ne i} \exp(z_i \cdot z_a / \tau)}

    with :math:`z` the embeddings scaled to unit length, :math:`P(i)` the other cells of the batch with the
    label of :math:`i`, and :math:`A` the cells that have any. The mean over the positives stands outside
    the logarithm (:math:`L_{out}`).

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
            "label: `z, labels = z[~labels.isnan()], labels[~labels.isnan()]`."
        )
