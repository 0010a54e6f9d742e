"""A method of your own in one file: W-MSE (Ermolov et al., 2021)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

import scssl
from scssl.model import JointEmbedding, register_model
from scssl.model.joint_embedding import JointEmbeddingModule, Share


def whitened(z: Tensor, eps: float) -> Tensor:
    """Projections of a view without covariance over the batch, by the Cholesky factor of what they have."""
    centred = z - z.mean(0)
    covariance = centred.T @ centred / (len(z) - 1)
    shrunk = torch.lerp(covariance, torch.eye(z.shape[1]).to(z), eps)
    return torch.linalg.solve_triangular(torch.linalg.cholesky(shrunk), centred.T, upper=False).T


def w_mse(z1: Tensor, z2: Tensor, *, eps: float) -> Tensor:
    """Squared distance of the whitened views, each of length 1."""
    return 2 - 2 * cosine_similarity(whitened(z1, eps), whitened(z2, eps)).mean()


@register_model
class WMSE(JointEmbedding):
    r"""Bring two views together after whitening each over the batch.

    .. math:: L = 2 - \frac{2}{B} \sum_b s(w_{1,b}, w_{2,b})

    with :math:`s` the cosine and :math:`w_v` the projections of a view, whitened over the batch.

    Parameters
    ----------
    eps
        Share of the identity in the covariance that is whitened with, 0.01.
    projector_dims
        Widths of the projector's layers; by default one of 256 and one of 16. The last has to be well below
        the number of cells in a batch.
    """

    class _Network(JointEmbeddingModule):
        # Hyper-parameters, their ranges and defaults: they stand here and nowhere else.
        def _add_heads(self, *, eps: Share = 1e-2) -> None:
            self._add_projector(256, 16)
            self.eps = eps

        def compare(self, one: object, two: object, *, learn: bool) -> Tensor:
            z1, z2 = self.projections(one, two)
            return w_mse(z1.float(), z2.float(), eps=self.eps)


if __name__ == "__main__":
    adata = scssl.datasets.pbmc68k_reduced()
    WMSE.setup_anndata(adata)
    model = WMSE(adata, eps=0.05)
    model.train(max_epochs=5, progress=False)
    print(model)
    print(scssl.tl.knn_score(scssl.tl.embed(adata, model, copy=True), "bulk_labels"))
