"""The methods of joint-embedding learning: each a class with its network, objective and options.

A method says what its network has beside the encoder (``_add_heads``) and what it makes of two views
(``compare``). The arguments of ``_add_heads`` are the method's own hyper-parameters: constructor, checks, saved
configuration, command line and documentation have them from there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from scssl.model.base import Positive, Share, Widths, register_model
from scssl.nn import MemoryBank, gather
from scssl.objective import barlow_twins, dcl, dino, info_nce, negative_cosine, nt_xent, vicreg

from ._model import JointEmbedding
from ._network import JointEmbeddingModule, MomentumModule

__all__ = ["BYOL", "DINO", "NNCLR", "BarlowTwins", "MoCo", "SimCLR", "SimSiam", "VICReg"]


def _crossed(
    objective: Callable[[Tensor, Tensor], Tensor], one: Sequence[Tensor], two: Sequence[Tensor]
) -> Tensor:
    """Mean of an objective of the first of one with the second of the other, and the other way round."""
    return 0.5 * (objective(one[0], two[1]) + objective(one[1], two[0]))


@register_model
class SimCLR(JointEmbedding):
    r"""Contrast the views of a cell with those of the other cells of a batch :cite:p:`Chen2020`.

    .. math:: L = -\log \frac{e^{s(z_i, z_{p(i)}) / \tau}}{\sum_{j \ne i} e^{s(z_i, z_j) / \tau}}

    over all :math:`2B` views of a batch, :math:`s` the cosine and :math:`p(i)` the other view of the
    cell.

    Parameters
    ----------
    temperature
        :math:`\tau`. The default was measured here; :cite:t:`Ovcharenko2025` took 0.5.
    loss
        ``"nt_xent"``, the loss above, or ``"dcl"``, without the positive pair in the denominator
        :cite:p:`Yeh2022`, which suffers less from small batches.
    negatives
        Which cells a cell is told apart from: ``"all"`` of a step, or those of its ``"own_batch"``, so that
        the batch is no way to tell cells apart. By default `None`: the own batch where views come from other
        batches (:class:`scssl.augment.MutualNeighborMix`, as in ``"integration"``) and `batch_key` was set
        up, else all. Total of scib-metrics with those views, own batch and all: .793 and .757 on kang_ifnb,
        .731 and .727 in the mean of five data sets.
    projector_dims
        Widths of the projector's layers; by default two, as wide as the embedding.
    """

    class _Network(JointEmbeddingModule):
        def _add_heads(
            self,
            *,
            temperature: Positive = 0.2,
            loss: Literal["nt_xent", "dcl"] = "nt_xent",
            negatives: Literal["all", "own_batch"] | None = None,
        ) -> None:
            self._add_projector(self.n_latent, self.n_latent, last_batch_norm=True)
            self.temperature, self.objective = temperature, nt_xent if loss == "nt_xent" else dcl
            self.negatives = negatives

        def compare(self, one: Any, two: Any, *, learn: bool) -> Tensor:
            groups = None if self.groups is None else gather(self.groups)
            return self.objective(
                *self.projections(one, two), temperature=self.temperature, groups=groups
            )


@register_model
class MoCo(JointEmbedding):
    r"""Contrast a view with a queue of embeddings by a slow copy of the network :cite:p:`He2020`.

    .. math:: L = -\log \frac{e^{q \cdot k_+ / \tau}}{e^{q \cdot k_+ / \tau} + \sum_{k \in Q} e^{q \cdot k / \tau}}

    with :math:`q` the one view, :math:`k_+` the other as the copy sees it, both of length 1, and
    :math:`Q` the queue of what the copy made of earlier cells, with an MLP as projector
    :cite:p:`Chen2020MoCo`.

    Parameters
    ----------
    temperature
        :math:`\tau`. The default was measured here; :cite:t:`Ovcharenko2025` took 0.5.
    queue_size
        Embeddings in the queue, saved with the model. `None`: 2,048 as in :cite:p:`Ovcharenko2025`, but
        no more than a quarter of the cells, or the queue would hold the cell itself.
    momentum
        Share of the copy's weights that it keeps in a step; rises along half a cosine to 1. `None`:
        1 - 80 / steps, within 0.9 and 0.996, the latter as in :cite:p:`Ovcharenko2025`.
    projector_dims
        Widths of the projector's layers, which have no batch normalisation; by default two, as wide as the
        embedding.
    """

    class _Network(MomentumModule):
        def _add_heads(
            self,
            *,
            temperature: Positive = 0.2,
            queue_size: int | None = None,
            momentum: Share | None = None,
        ) -> None:
            self._add_projector(self.n_latent, self.n_latent, batch_norm=False)
            assert queue_size is not None
            self.queue = MemoryBank(queue_size, self.projected_width)
            self.temperature = temperature
            self._add_target(momentum)

        def compare(self, one: Any, two: Any, *, learn: bool) -> Tensor:
            assert self.projector is not None
            query, key = gather(self.projector(self.encoder(one))), gather(self.target(two))
            loss = info_nce(query, key, self.queue.values, temperature=self.temperature)
            if learn:
                self.queue.enqueue(key)
            return loss


@register_model
class BYOL(JointEmbedding):
    r"""Predict what a slow copy of the network makes of the other view :cite:p:`Grill2020`.

    .. math:: L = -\tfrac12 \left(s(p(z_1), z'_2) + s(p(z_2), z'_1)\right)

    with :math:`s` the cosine, :math:`p` the predictor and :math:`z'` the projections by the copy. No
    other cell takes part.

    Parameters
    ----------
    predictor_dims
        Widths of the predictor's hidden layers, (256,) as in :cite:p:`Ovcharenko2025`.
    momentum
        Share of the copy's weights that it keeps in a step; rises along half a cosine to 1. `None`:
        1 - 80 / steps, within 0.9 and 0.996, the latter as in :cite:p:`Grill2020`.
    projector_dims
        Widths of the projector's layers; by default one of 256 and one as wide as the embedding.
    """

    _few_cells_batch = 64

    class _Network(MomentumModule):
        def _add_heads(
            self, *, predictor_dims: Widths = (256,), momentum: Share | None = None
        ) -> None:
            self._add_projector(256, self.n_latent)
            self._add_predictor(predictor_dims)
            self._add_target(momentum)

        def compare(self, one: Any, two: Any, *, learn: bool) -> Tensor:
            z = self.projections(one, two, gathered=False)
            predicted = [gather(self.predictor(projected)) for projected in z]
            targets = [gather(self.target(view)) for view in (one, two)]
            return _crossed(negative_cosine, predicted, targets)


@register_model
class SimSiam(JointEmbedding):
    r"""Predict the projection of the other view, with no gradient to it :cite:p:`Chen2021`.

    .. math:: L = -\tfrac12 \left(s(p(z_1), \bar z_2) + s(p(z_2), \bar z_1)\right)

    with :math:`s` the cosine, :math:`p` the predictor and :math:`\bar z` a projection that is taken as
    given.

    Parameters
    ----------
    predictor_dims
        Widths of the predictor's hidden layers. The default was measured here;
        :cite:t:`Ovcharenko2025` took (16,).
    projector_dims
        Widths of the projector's layers; by default three of 256.
    """

    _few_cells_batch = 64

    class _Network(JointEmbeddingModule):
        loss_ranks_epochs = False
        # Batch normalisation without a scale leaves no point: what collapses is on a line. After 60 epochs
        # on pbmc68k_reduced the projections had 3.4 dimensions, without predictor and stopped gradient 1.01.
        # Of three clear-cut types they have two dimensions with and without (1.96 and 1.82).
        least_projected = {
            **JointEmbeddingModule.least_projected,
            "projection_dimensions": 1.05,
        }

        def _add_heads(self, *, predictor_dims: Widths = (64,)) -> None:
            self._add_projector(256, 256, 256, last_batch_norm=True, last_affine=False)
            self._add_predictor(predictor_dims)

        def compare(self, one: Any, two: Any, *, learn: bool) -> Tensor:
            z = self.projections(one, two, gathered=False)
            predicted = [gather(self.predictor(projected)) for projected in z]
            fixed = [gather(projected.detach()) for projected in z]
            return _crossed(negative_cosine, predicted, fixed)


@register_model
class NNCLR(JointEmbedding):
    r"""Contrast the nearest earlier embedding of a view with the other view :cite:p:`Dwibedi2021`.

    .. math::

        L = \tfrac12 \left(\ell(\mathrm{NN}(z_1), p(z_2)) + \ell(\mathrm{NN}(z_2), p(z_1))\right), \quad
        \ell(n, p) = \frac{1}{2B} \sum_{i=1}^{2B}
            -\log \frac{e^{s(u_i, u_{i'}) / \tau}}{\sum_{j \ne i} e^{s(u_i, u_j) / \tau}}

    with :math:`p` a predictor, :math:`\mathrm{NN}` the most similar of the embeddings of earlier cells, which
    has no gradient, :math:`u` the :math:`B` neighbours and the :math:`B` predictions together, :math:`s` the
    cosine and :math:`i'` the neighbour or prediction that belongs to :math:`i`. This :math:`\ell` is the
    loss of :class:`SimCLR`, as in lightly and :cite:t:`Ovcharenko2025`. The equation of
    :cite:t:`Dwibedi2021` has less: there a neighbour is contrasted with the :math:`B` predictions only,
    :math:`-\log (e^{s(n_i, p_i) / \tau} / \sum_k e^{s(n_i, p_k) / \tau})`. Here it is with the other
    neighbours of the batch too, and each prediction with all neighbours and the other predictions, which
    pushes predictions apart.

    Parameters
    ----------
    predictor_dims
        Widths of the predictor's hidden layers, (64,) as in :cite:p:`Ovcharenko2025`.
    temperature
        Divides the cosines. The default was measured here; :cite:t:`Ovcharenko2025` took 0.5.
    queue_size
        Earlier embeddings to look among, saved with the model. `None`: 2,048 as in
        :cite:p:`Ovcharenko2025`, but no more than a quarter of the cells, or the nearest would be an
        older view of the cell itself.
    projector_dims
        Widths of the projector's layers; by default three, as wide as the embedding.
    """

    class _Network(JointEmbeddingModule):
        loss_ranks_epochs = False

        def _add_heads(
            self,
            *,
            predictor_dims: Widths = (64,),
            temperature: Positive = 0.2,
            queue_size: int | None = None,
        ) -> None:
            self._add_projector(self.n_latent, self.n_latent, self.n_latent, last_batch_norm=True)
            self._add_predictor(predictor_dims)
            assert queue_size is not None
            self.queue = MemoryBank(queue_size, self.projected_width)
            self.temperature = temperature

        def compare(self, one: Any, two: Any, *, learn: bool) -> Tensor:
            z = self.projections(one, two, gathered=False)
            predicted = [gather(self.predictor(projected)) for projected in z]
            z = [gather(projected.detach()) for projected in z]
            near = [self.queue.nearest(projected) for projected in z]

            def contrast(n: Tensor, p: Tensor) -> Tensor:
                # As in lightly, over neighbours and predictions; in the paper over predictions only.
                return nt_xent(n, p, temperature=self.temperature)

            loss = _crossed(contrast, near, predicted)
            if learn:
                self.queue.enqueue(z[0])
            return loss


@register_model
class BarlowTwins(JointEmbedding):
    r"""Make the cross-correlation of two views the identity matrix :cite:p:`Zbontar2021`.

    .. math:: L = \sum_i (1 - C_{ii})^2 + \lambda \sum_{i \ne j} C_{ij}^2

    with :math:`C` the correlation, over the cells of a batch, of the dimensions of one view with those
    of the other.

    Parameters
    ----------
    redundancy
        :math:`\lambda`, 5e-3 as in :cite:p:`Zbontar2021`.
    projector_dims
        Widths of the projector's layers; by default three of 256.
    """

    class _Network(JointEmbeddingModule):
        def _add_heads(self, *, redundancy: Positive = 5e-3) -> None:
            self._add_projector(256, 256, 256)
            self._fix_shift()
            self.redundancy = redundancy

        def compare(self, one: Any, two: Any, *, learn: bool) -> Tensor:
            return barlow_twins(*self.projections(one, two), redundancy=self.redundancy)


@register_model
class VICReg(JointEmbedding):
    r"""Bring two views together, with variance in each dimension and no covariance :cite:p:`Bardes2022`.

    .. math::

        L = \lambda \frac{1}{BD} \lVert Z_1 - Z_2 \rVert^2
            + \mu \tfrac12 \sum_v \frac{1}{D} \sum_j \max\left(0, 1 - \sqrt{\mathrm{Var}(Z_{v,j}) + \epsilon}\right)
            + \nu \sum_v \frac{1}{D} \sum_{i \ne j} \mathrm{Cov}(Z_v)_{ij}^2

    Parameters
    ----------
    invariance, variance, covariance
        :math:`\lambda`, :math:`\mu` and :math:`\nu`; 25, 25 and 1 as in :cite:p:`Bardes2022`.
    projector_dims
        Widths of the projector's layers; by default two of 256.
    """

    class _Network(JointEmbeddingModule):
        # The loss asks for 1 and is of projections of any length. On 400 synthetic cells: 0.39 after 60 epochs,
        # 0.08 after the first, 0.011 after 60 without variance and covariance.
        least_projected = {**JointEmbeddingModule.least_projected, "projection_std": 0.03}

        def _add_heads(
            self,
            *,
            invariance: Positive = 25.0,
            variance: Positive = 25.0,
            covariance: Positive = 1.0,
        ) -> None:
            self._add_projector(256, 256)
            self._fix_shift()
            self.weights = {
                "invariance": invariance,
                "variance": variance,
                "covariance": covariance,
            }

        def compare(self, one: Any, two: Any, *, learn: bool) -> Tensor:
            z1, z2 = self.projections(one, two)
            return vicreg(z1, z2, **self.weights)


@register_model
class DINO(JointEmbedding):
    r"""Assign a view to the prototypes that a slow copy of the network gives the other :cite:p:`Caron2021`.

    .. math:: L = -\sum_k P'_k \log P_k

    with :math:`P = \mathrm{softmax}(s / \tau_s)` of the scores :math:`s` of the prototypes for the one view
    and :math:`P' = \mathrm{softmax}((s' - c) / \tau_t)` for the other by the copy; :math:`c` is the running mean
    of the scores, which keeps one prototype from taking all cells.

    Parameters
    ----------
    n_prototypes
        Number of prototypes, 1,024.
    student_temperature, teacher_temperature
        :math:`\tau_s` and :math:`\tau_t`, 0.1 and 0.04 as in :cite:p:`Caron2021`.
    center_momentum
        Share of the running mean that is kept in a step, 0.9 as in :cite:p:`Caron2021`.
    momentum
        Share of the copy's weights that it keeps in a step; rises along half a cosine to 1. `None`:
        1 - 80 / steps, within 0.9 and 0.996, the latter as in :cite:p:`Caron2021`.
    projector_dims
        Widths of the projector's layers before the prototypes, which have no batch normalisation; by default
        one of 256 and one as wide as the embedding.
    """

    class _Network(MomentumModule):
        center: Tensor

        def _add_heads(
            self,
            *,
            n_prototypes: int = 1024,
            student_temperature: Positive = 0.1,
            teacher_temperature: Positive = 0.04,
            center_momentum: Share = 0.9,
            momentum: Share | None = None,
        ) -> None:
            self._add_projector(256, self.n_latent, batch_norm=False)
            assert self.projector is not None
            prototypes = _Prototypes(self.projected_width, n_prototypes)
            self.projector = nn.Sequential(self.projector, prototypes)
            self.projected_width = n_prototypes
            self.register_buffer("center", torch.zeros(n_prototypes))
            self.temperatures = {
                "student_temperature": student_temperature,
                "teacher_temperature": teacher_temperature,
            }
            self.center_momentum = center_momentum
            self._add_target(momentum)

        def compare(self, one: Any, two: Any, *, learn: bool) -> Tensor:
            student = self.projections(one, two)
            teacher = [gather(self.target(view)) for view in (one, two)]

            def assign(s: Tensor, t: Tensor) -> Tensor:
                return dino(s, t, self.center, **self.temperatures)

            loss = _crossed(assign, student, teacher)
            if learn:
                mean = torch.cat(teacher).mean(0)
                # In mixed precision scores are of another type than what is remembered.
                self.center.lerp_(mean.to(self.center), 1 - self.center_momentum)
            return loss


class _Prototypes(nn.Module):
    """Cosine of an embedding with each prototype."""

    def __init__(self, n_in: int, n_prototypes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(n_prototypes, n_in))

    def forward(self, z: Tensor) -> Tensor:
        return nn.functional.normalize(z, dim=1) @ nn.functional.normalize(self.weight, dim=1).T
