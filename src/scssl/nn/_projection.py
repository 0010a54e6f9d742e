"""Projectors and predictors of joint-embedding methods."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn


class ProjectionHead(nn.Module):
    """Linear layers with batch norm and ReLU in between: a projector or a predictor.

    ======================  =========================================================
    method                  head
    ======================  =========================================================
    SimCLR                  ``[d, h, o]``, ``last_batch_norm=True``
    MoCo v2                 ``[d, h, o]``, ``batch_norm=False``
    BYOL                    ``[d, h, o]``
    NNCLR                   ``[d, h, h, o]``, ``last_batch_norm=True``
    SimSiam                 ``[d, h, h, o]``, ``last_batch_norm=True, last_affine=False``
    Barlow Twins            ``[d, h, h, o]``
    VICReg                  ``[d, h, o]`` or deeper
    predictor, all methods  ``[o, h, o]``
    ======================  =========================================================

    Parameters
    ----------
    sizes
        Width of the input and of every layer's output, two at least.
    batch_norm
        Whether batch norm follows every linear layer but the last.
    last_batch_norm
        Whether batch norm follows the last layer.
    last_affine
        Whether the batch norm after the last layer has a scale and a shift.
    bias
        Whether linear layers have a bias; ``"auto"``: those that no batch norm follows, which would
        take it away again.

    Raises
    ------
    ValueError
        If there are fewer than two sizes.

    Examples
    --------
    >>> import torch
    >>> from scssl.nn import ProjectionHead
    >>> ProjectionHead([64, 256, 32])(torch.randn(8, 64)).shape
    torch.Size([8, 32])
    """

    def __init__(
        self,
        sizes: Sequence[int],
        *,
        batch_norm: bool = True,
        last_batch_norm: bool = False,
        last_affine: bool = True,
        bias: bool | Literal["auto"] = "auto",
    ) -> None:
        super().__init__()
        if len(sizes) < 2:
            raise ValueError(
                "`sizes` must have the width of the input and of each layer's output, as in "
                f"[64, 256, 64]; found {list(sizes)}."
            )
        self.n_in, self.n_out = sizes[0], sizes[-1]
        layers: list[nn.Module] = []
        n_layers = len(sizes) - 1
        for i, (n_in, n_out) in enumerate(zip(sizes[:-1], sizes[1:], strict=True)):
            last = i == n_layers - 1
            normalised = last_batch_norm if last else batch_norm
            layers.append(nn.Linear(n_in, n_out, bias=not normalised if bias == "auto" else bias))
            if normalised:
                layers.append(nn.BatchNorm1d(n_out, affine=last_affine or not last))
            if not last:
                layers.append(nn.ReLU())
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Projections of embeddings, or predictions from projections.

        Shape ``(n_cells, sizes[-1])``.

        Parameters
        ----------
        x
            Shape ``(n_cells, sizes[0])``.
        """
        y: Tensor = self.layers(x)
        return y
