"""What reads a target from an embedding."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ._mlp import MLP


class Head(nn.Module):
    """Linear layer on standardised embeddings and, if wanted, an MLP whose output is added.

    The last layer of the MLP starts at zero, so that a head starts as its linear part, which can be
    given by :meth:`start_from`.

    Parameters
    ----------
    n_in, n_out
        Width of the embedding and of the output.
    n_hidden
        Width of the MLP's hidden layer; without one there is no MLP.
    activation
        Of the MLP.
    dropout
        Share of its hidden units dropped in training.
    """

    def __init__(
        self,
        n_in: int,
        n_out: int,
        *,
        n_hidden: int | None = None,
        activation: str = "selu",
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        # Fixed, so that the output is the same function of an embedding whatever cells are beside it.
        self.register_buffer("shift", torch.zeros(n_in))
        self.register_buffer("scale", torch.ones(n_in))
        self.shift: Tensor
        self.scale: Tensor
        # With fewer than 16 outputs and a width that is no multiple of 4, products on the CPU depend
        # on the place of a row in its block, and with it the last bits of a cell on its batch.
        self.n_in, self.padding = n_in, -n_in % 4
        self.linear = nn.Linear(n_in + self.padding, n_out)
        self.mlp: MLP | None = None
        if n_hidden is not None:
            width = n_in + self.padding
            self.mlp = MLP([width, n_hidden, n_out], activation=activation, dropout=dropout)
            last = self.mlp.layers[-1]
            assert isinstance(last, nn.Linear)
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    @torch.no_grad()
    def standardise(self, z: Tensor) -> Tensor:
        """Take mean and spread of the input from these embeddings, and return them standardised.

        Dimensions that do not vary are not blown up: no spread is taken for less than 1e-4 of the
        largest.
        """
        spread = z.std(0, correction=0)
        spread = spread.clamp(min=max(1e-4 * float(spread.max()), 1e-6))
        self.shift.copy_(z.mean(0))
        self.scale.copy_(1 / spread)
        return (z - self.shift.to(z)) * self.scale.to(z)

    @torch.no_grad()
    def start_from(self, weight: Tensor, bias: Tensor) -> None:
        """Set the linear part, for standardised input.

        Parameters
        ----------
        weight
            Shape ``(n_out, n_in)``.
        bias
            Shape ``(n_out,)``.
        """
        self.linear.weight[:, : self.n_in] = weight.to(self.linear.weight)
        self.linear.bias.copy_(bias)

    def forward(self, z: Tensor) -> Tensor:
        x = (z - self.shift) * self.scale
        if self.padding:
            x = nn.functional.pad(x, (0, self.padding))
        y: Tensor = self.linear(x)
        return y if self.mlp is None else y + self.mlp(x)
