"""The methods of joint-embedding learning: a head and an objective each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from scssl.module import gather
from scssl.nn import MemoryBank, ProjectionHead
from scssl.objective import (
    barlow_twins,
    dcl,
    dino,
    info_nce,
    negative_cosine,
    nt_xent,
    vicreg,
)

from ._network import JointEmbeddingModule, MomentumModule, widths


class SimCLRModule(JointEmbeddingModule):
    """Two views of a cell against all views of the other cells :cite:p:`Chen2020`."""

    def _add_heads(
        self,
        *,
        projector_dims: Sequence[int] | None,
        temperature: float,
        loss: Literal["nt_xent", "dcl"],
    ) -> None:
        n = self.n_latent
        self._project_to(widths(n, projector_dims, (n, n)), last_batch_norm=True)
        self.temperature, self.objective = temperature, nt_xent if loss == "nt_xent" else dcl

    def compare(self, one: Any, two: Any, *, learn: bool) -> Tensor:
        assert self.projector is not None
        z = [gather(self.projector(h)) for h in self.encode_views(one, two)]
        return self.objective(z[0], z[1], temperature=self.temperature)


class MoCoModule(MomentumModule):
    """A view against that of the same cell by a slow copy, and a queue of earlier ones.

    As :cite:p:`He2020` with the head of :cite:p:`Chen2020MoCo`.
    """

    def _add_heads(
        self,
        *,
        projector_dims: Sequence[int] | None,
        temperature: float,
        queue_size: int,
        momentum: float | None,
    ) -> None:
        sizes = widths(self.n_latent, projector_dims, (self.n_latent, self.n_latent))
        self._project_to(sizes, batch_norm=False)
        self.queue = MemoryBank(queue_size, sizes[-1])
        self.temperature = temperature
        self._add_target(momentum)

    def compare(self, one: Any, two: Any, *, learn: bool) -> Tensor:
        assert self.projector is not None
        query, key = self.projector(self.encoder(one)), self.target(two)
        loss = info_nce(query, key, self.queue.values, temperature=self.temperature)
        if learn:
            self.queue.enqueue(gather(key))
        return loss


class BYOLModule(MomentumModule):
    """Predict what a slow copy makes of the other view :cite:p:`Grill2020`."""

    def _add_heads(
        self,
        *,
        projector_dims: Sequence[int] | None,
        predictor_dims: Sequence[int],
        momentum: float | None,
    ) -> None:
        sizes = widths(self.n_latent, projector_dims, (256, self.n_latent))
        self._project_to(sizes)
        self.predictor = ProjectionHead([sizes[-1], *predictor_dims, sizes[-1]])
        self._add_target(momentum)

    def compare(self, one: Any, two: Any, *, learn: bool) -> Tensor:
        assert self.projector is not None
        embedded = self.encode_views(one, two)
        predicted = [self.predictor(self.projector(h)) for h in embedded]
        targets = [self.target(view) for view in (one, two)]
        return 0.5 * (
            negative_cosine(predicted[0], targets[1]) + negative_cosine(predicted[1], targets[0])
        )


class SimSiamModule(JointEmbeddingModule):
    """Predict the projection of the other view, with no gradient to it :cite:p:`Chen2021`."""

    loss_ranks_epochs = False
    # Batch normalisation without a scale leaves no point: what collapses is on a line. After 60 epochs
    # on pbmc68k_reduced the projections had 3.4 dimensions, without predictor and stopped gradient 1.01.
    # Of three clear-cut types they have two dimensions with and without (1.96 and 1.82).
    least_projected = {
        **JointEmbeddingModule.least_projected,
        "projection_dimensions": 1.05,
    }

    def _add_heads(
        self, *, projector_dims: Sequence[int] | None, predictor_dims: Sequence[int]
    ) -> None:
        sizes = widths(self.n_latent, projector_dims, (256, 256, 256))
        self._project_to(sizes, last_batch_norm=True, last_affine=False)
        self.predictor = ProjectionHead([sizes[-1], *predictor_dims, sizes[-1]])

    def compare(self, one: Any, two: Any, *, learn: bool) -> Tensor:
        assert self.projector is not None
        z = [self.projector(h) for h in self.encode_views(one, two)]
        p = [self.predictor(projected) for projected in z]
        return 0.5 * (negative_cosine(p[0], z[1].detach()) + negative_cosine(p[1], z[0].detach()))


class NNCLRModule(JointEmbeddingModule):
    """As SimCLR, with the nearest earlier embedding in the place of a view :cite:p:`Dwibedi2021`."""

    loss_ranks_epochs = False

    def _add_heads(
        self,
        *,
        projector_dims: Sequence[int] | None,
        predictor_dims: Sequence[int],
        temperature: float,
        queue_size: int,
    ) -> None:
        n = self.n_latent
        sizes = widths(n, projector_dims, (n, n, n))
        self._project_to(sizes, last_batch_norm=True)
        self.predictor = ProjectionHead([sizes[-1], *predictor_dims, sizes[-1]])
        self.queue = MemoryBank(queue_size, sizes[-1])
        self.temperature = temperature

    def compare(self, one: Any, two: Any, *, learn: bool) -> Tensor:
        assert self.projector is not None
        z = [self.projector(h) for h in self.encode_views(one, two)]
        p = [gather(self.predictor(projected)) for projected in z]
        z = [gather(projected.detach()) for projected in z]
        near = [self.queue.nearest(projected) for projected in z]
        # As in lightly, over neighbours and predictions; in the paper over predictions only.
        loss = 0.5 * (
            nt_xent(near[0], p[1], temperature=self.temperature)
            + nt_xent(near[1], p[0], temperature=self.temperature)
        )
        if learn:
            self.queue.enqueue(z[0])
        return loss


class BarlowTwinsModule(JointEmbeddingModule):
    """Make the correlation of two views the identity matrix :cite:p:`Zbontar2021`."""

    def _add_heads(self, *, projector_dims: Sequence[int] | None, redundancy: float) -> None:
        self._project_to(widths(self.n_latent, projector_dims, (256, 256, 256)))
        self.redundancy = redundancy

    def compare(self, one: Any, two: Any, *, learn: bool) -> Tensor:
        assert self.projector is not None
        z = [gather(self.projector(h)) for h in self.encode_views(one, two)]
        return barlow_twins(z[0], z[1], redundancy=self.redundancy)


class VICRegModule(JointEmbeddingModule):
    """Equal views, spread along each dimension, no covariance :cite:p:`Bardes2022`."""

    # The loss asks for 1 and is of projections of any length. On 400 synthetic cells: 0.39 after 60 epochs,
    # 0.08 after the first, 0.011 after 60 without variance and covariance.
    least_projected = {
        **JointEmbeddingModule.least_projected,
        "projection_std": 0.03,
    }

    def _add_heads(
        self,
        *,
        projector_dims: Sequence[int] | None,
        invariance: float,
        variance: float,
        covariance: float,
    ) -> None:
        self._project_to(widths(self.n_latent, projector_dims, (256, 256)))
        self.weights = {
            "invariance": invariance,
            "variance": variance,
            "covariance": covariance,
        }

    def compare(self, one: Any, two: Any, *, learn: bool) -> Tensor:
        assert self.projector is not None
        z = [gather(self.projector(h)) for h in self.encode_views(one, two)]
        return vicreg(z[0], z[1], **self.weights)


class DINOModule(MomentumModule):
    """Assign a view to the prototypes that a slow copy gives the other one :cite:p:`Caron2021`."""

    def _add_heads(
        self,
        *,
        projector_dims: Sequence[int] | None,
        n_prototypes: int,
        student_temperature: float,
        teacher_temperature: float,
        center_momentum: float,
        momentum: float | None,
    ) -> None:
        sizes = widths(self.n_latent, projector_dims, (256, self.n_latent))
        self._project_to(sizes, batch_norm=False)
        assert self.projector is not None
        self.projector = nn.Sequential(self.projector, _Prototypes(sizes[-1], n_prototypes))
        self.projected_width = n_prototypes
        self.register_buffer("center", torch.zeros(n_prototypes))
        self.center: Tensor
        self.temperatures = {
            "student_temperature": student_temperature,
            "teacher_temperature": teacher_temperature,
        }
        self.center_momentum = center_momentum
        self._add_target(momentum)

    def compare(self, one: Any, two: Any, *, learn: bool) -> Tensor:
        assert self.projector is not None
        student = [self.projector(h) for h in self.encode_views(one, two)]
        teacher = [self.target(view) for view in (one, two)]
        loss = 0.5 * (
            dino(student[0], teacher[1], self.center, **self.temperatures)
            + dino(student[1], teacher[0], self.center, **self.temperatures)
        )
        if learn:
            mean = gather(torch.cat(teacher)).mean(0)
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
