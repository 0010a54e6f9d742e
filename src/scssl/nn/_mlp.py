"""Multilayer perceptron on dense inputs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ._activation import activation as make_activation
from ._dropout import Dropout


class MLP(nn.Module):
    """Linear layers with activation and dropout in between, as in :cite:p:`Richter2025`.

    Parameters
    ----------
    sizes
        Width of the input and of every layer's output.
    activation
        Name of the activation.
    dropout
        Share of units dropped after each activation in training.
    last_activation
        Whether the last layer too is followed by activation and dropout.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        *,
        activation: str = "selu",
        dropout: float = 0.1,
        last_activation: bool = False,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        n_layers = len(sizes) - 1
        for i in range(n_layers):
            layers.append(nn.Linear(sizes[i], sizes[i + 1]))
            if i < n_layers - 1 or last_activation:
                layers.append(make_activation(activation))
                layers.append(Dropout(dropout))
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layers(x)
        return y


def effective_rank(z: Tensor) -> float:
    r"""Effective rank of embeddings: the exponential of the entropy of the singular values.

    .. math:: \exp\Big(-\sum_i p_i \log p_i\Big), \quad p_i = \sigma_i / \sum_j \sigma_j

    with :math:`\sigma_i` the singular values of the centred embeddings :cite:p:`Roy2007`. It is the
    number of latent dimensions in use: 1 when all cells lie on a line, ``n_latent`` when the cloud
    is round, and 0 when all embeddings are equal.

    Parameters
    ----------
    z
        Embeddings, shape ``(n_cells, n_latent)``.
    """
    centred = z.double() - z.double().mean(0)
    singular = torch.linalg.svdvals(centred)
    total = singular.sum()
    # Equal embeddings leave only rounding errors, whose spectrum is noise and not a rank.
    if total <= 1e-6 * z.double().abs().sum() or not torch.isfinite(total):
        return 0.0
    share = singular[singular > 0] / total
    return float(torch.exp(-(share * share.log()).sum()))
