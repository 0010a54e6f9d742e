"""Activations, dropout, and multilayer perceptrons on dense inputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from scssl._checks import check_choice

from ._processes import drawn, is_shared, n_of_all, total_of_all


class _SELU(torch.autograd.Function):
    alpha = 1.6732632423543772848170429916717
    scale = 1.0507009873554804934193349852946

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        negative = x.clamp(max=0).exp_().sub_(1).mul_(_SELU.alpha * _SELU.scale)
        y = negative.add_(x.clamp(min=0), alpha=_SELU.scale)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (y,) = ctx.saved_tensors
        # From the result: the slope is y + alpha * scale where y < 0, and scale elsewhere.
        slope: Tensor = torch.ops.aten.elu_backward(grad, _SELU.alpha, _SELU.scale, 1.0, True, y)
        return slope


class SELU(nn.Module):
    """Scaled exponential linear unit :cite:p:`Klambauer2017`.

    The same function as :class:`torch.nn.SELU`, through ``exp`` instead of ``expm1``: the vectorised
    ``expm1`` of CPU builds can be 20 times slower for minutes at a time on some machines, and near
    zero the difference is a rounding error of 1e-7.
    """

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype in (torch.bfloat16, torch.float16):
            # exp(x) - 1 would lose the digits that half precision has near zero.
            return nn.functional.selu(x)
        y: Tensor = _SELU.apply(x)
        return y


#: Names of activations.
Activation = Literal["selu", "gelu", "relu", "silu", "leaky_relu"]
_LAYERS: tuple[Callable[[], nn.Module], ...] = (SELU, nn.GELU, nn.ReLU, nn.SiLU, nn.LeakyReLU)
_ACTIVATIONS = dict(zip(get_args(Activation), _LAYERS, strict=True))


def activation(name: str) -> nn.Module:
    """New activation layer called ``name``.

    Raises
    ------
    ValueError
        If there is no such activation.
    """
    return _ACTIVATIONS[check_choice("activation", name, _ACTIVATIONS)]()


# Of an activation, where `activation` is its name.
_make = activation


class Dropout(nn.Module):
    """Dropout :cite:p:`Srivastava2014`, as :class:`torch.nn.Dropout`.

    On the CPU a random 64-bit word decides on four units, which takes a third of the time of
    PyTorch's own. The share dropped is `p` to the nearest 1/65536.

    Parameters
    ----------
    p
        Share of units set to zero in training; the others are divided by ``1 - p``.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p
        self._below = round(p * 2**16)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self._below == 0:
            return x
        width = x.shape[1:]
        if x.device.type != "cpu":
            if not is_shared():
                return functional.dropout(x, self.p)
            return x * drawn(lambda n: functional.dropout(x.new_ones(n, *width), self.p), len(x))

        def draw(n_rows: int) -> Tensor:
            n = n_rows * width.numel()
            words = torch.empty((n + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
            return words.view(torch.int16)[:n].view(n_rows, *width)

        kept = (drawn(draw, len(x)) >= self._below - 2**15).to(x.dtype)
        return x * kept.mul_(2**16 / (2**16 - self._below))

    def extra_repr(self) -> str:
        return f"p={self.p}"


class BatchNorm(nn.BatchNorm1d):
    """Batch normalisation as :class:`torch.nn.BatchNorm1d`, in training over the cells of all processes."""

    def forward(self, x: Tensor) -> Tensor:
        if not (self.training and is_shared()):
            return super().forward(x)
        n = n_of_all(len(x))
        # Sums of squares in double precision: means may be far from zero.
        wide = x.double()
        mean, square = total_of_all(torch.stack([wide.sum(0), wide.square().sum(0)])) / n
        variance = square - mean.square()
        mean_before, variance_before, n_steps = (
            self.running_mean,
            self.running_var,
            self.num_batches_tracked,
        )
        assert mean_before is not None
        assert variance_before is not None
        assert n_steps is not None
        assert self.momentum is not None
        with torch.no_grad():
            n_steps.add_(1)
            mean_before.lerp_(mean.to(mean_before), self.momentum)
            # As in one process, the estimate without bias.
            unbiased = variance * (n / max(n - 1, 1))
            variance_before.lerp_(unbiased.to(variance_before), self.momentum)
        scale, shift = (variance + self.eps).rsqrt().float(), mean.float()
        y = (x.float() - shift) * scale
        if self.affine:
            y = y * self.weight + self.bias
        return y.to(x.dtype)


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
                layers.append(_make(activation))
                layers.append(Dropout(dropout))
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layers(x)
        return y


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
    unit_length
        Whether standardised embeddings are divided by their root mean square, cell by cell.
    """

    def __init__(
        self,
        n_in: int,
        n_out: int,
        *,
        n_hidden: int | None = None,
        activation: str = "selu",
        dropout: float = 0.1,
        unit_length: bool = False,
    ) -> None:
        super().__init__()
        self.unit_length = unit_length
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
    def standardise(self, z: Tensor, widths: Sequence[int] | None = None) -> Tensor:
        """Take mean and spread of the input from these embeddings, and return them standardised.

        Dimensions that do not vary are not blown up: no spread is taken for less than 1e-4 of the
        largest.

        Parameters
        ----------
        z
            Shape ``(n_cells, n_in)``.
        widths
            Widths of blocks of dimensions, each of which has one spread: that with which the blocks vary
            alike as a whole, and a dimension by 1 on average. By default each dimension has its own.
        """
        spread = z.std(0, correction=0)
        if widths is not None:
            share = self.n_in / sum(width > 0 for width in widths)
            blocks = spread.square().split(list(widths))
            spread = torch.cat([block.sum().div(share).expand_as(block) for block in blocks]).sqrt()
        spread = spread.clamp(min=max(1e-4 * float(spread.max()), 1e-6))
        self.shift.copy_(z.mean(0))
        self.scale.copy_(1 / spread)
        return self.standardised(z.to(self.shift))

    def standardised(self, z: Tensor) -> Tensor:
        """What the linear part and the MLP see of embeddings."""
        x = (z - self.shift) * self.scale
        if self.unit_length:
            x = x / x.square().mean(1, keepdim=True).sqrt().clamp(min=1e-6)
        return x

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

    @torch.no_grad()
    def divide(self, temperature: float) -> None:
        """Divide the output by a temperature, from now on."""
        last = [] if self.mlp is None else [self.mlp.layers[-1]]
        for layer in (self.linear, *last):
            for parameter in layer.parameters():
                parameter.div_(temperature)

    def forward(self, z: Tensor) -> Tensor:
        x = self.standardised(z)
        if self.padding:
            x = nn.functional.pad(x, (0, self.padding))
        y: Tensor = self.linear(x)
        return y if self.mlp is None else y + self.mlp(x)


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
    # There is no float64 on some devices.
    z = z.cpu().double()
    centred = z - z.mean(0)
    singular = torch.linalg.svdvals(centred)
    total = singular.sum()
    # Equal embeddings leave only rounding errors, whose spectrum is noise and not a rank.
    if total <= 1e-6 * z.abs().sum() or not torch.isfinite(total):
        return 0.0
    share = singular[singular > 0] / total
    return float(torch.exp(-(share * share.log()).sum()))
