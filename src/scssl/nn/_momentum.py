"""What momentum methods keep: targets that follow an online network, embeddings of earlier batches."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from scssl._checks import check_integers, check_number, check_whole


@torch.no_grad()
def update_ema(target: nn.Module, online: nn.Module, momentum: float) -> None:
    r"""Move the parameters of a target towards those of the online network :cite:p:`Grill2020`.

    .. math:: \xi \leftarrow m\,\xi + (1 - m)\,\theta

    for the parameters :math:`\xi` of the target and :math:`\theta` of the online network. After :math:`k` updates towards the same :math:`\theta` the target is
    :math:`\theta + m^k (\xi_0 - \theta)`. Buffers, such as the statistics of batch norm, are copied.

    Parameters
    ----------
    target
        What is updated, in place; of the same layers as the online network.
    online
        What is trained.
    momentum
        Share :math:`m` of the old value.

    Raises
    ------
    ValueError
        If `momentum` is not within 0 and 1 or the two networks are not made alike.

    Examples
    --------
    >>> import copy, torch
    >>> from scssl.nn import update_ema
    >>> online = torch.nn.Linear(1, 1, bias=False)
    >>> target = copy.deepcopy(online).requires_grad_(False)
    >>> _ = torch.nn.init.ones_(online.weight), torch.nn.init.zeros_(target.weight)
    >>> update_ema(target, online, 0.9)
    >>> target.weight
    Parameter containing:
    tensor([[0.1000]])
    """
    check_number("momentum", momentum, "[0, 1]")
    _check_alike(dict(target.named_parameters()), dict(online.named_parameters()), "parameters")
    _check_alike(dict(target.named_buffers()), dict(online.named_buffers()), "buffers")
    slow: list[Tensor] = list(target.parameters())
    fast: list[Tensor] = list(online.parameters())
    if slow:
        torch._foreach_lerp_(slow, fast, 1 - momentum)
    for mine, its in zip(target.buffers(), online.buffers(), strict=True):
        mine.copy_(its)


def _check_alike(target: dict[str, Tensor], online: dict[str, Tensor], what: str) -> None:
    ours = {name: tuple(value.shape) for name, value in target.items()}
    theirs = {name: tuple(value.shape) for name, value in online.items()}
    if ours == theirs:
        return
    names = [*ours, *(name for name in theirs if name not in ours)]
    name = next(n for n in names if ours.get(n) != theirs.get(n))
    raise ValueError(
        f"The {what} of target and online network differ: {name!r} is {ours.get(name, 'missing')} in "
        f"the target and {theirs.get(name, 'missing')} in the online network. Make the target a "
        "deep copy of the online network."
    )


def momentum_schedule(step: int, n_steps: int, start: float, end: float = 1.0) -> float:
    r"""Momentum of an EMA target at a step of training :cite:p:`Grill2020`.

    .. math:: m_k = m_{end} - (m_{end} - m_{start})\,\frac{\cos(\pi k / (n - 1)) + 1}{2}

    Parameters
    ----------
    step
        Number :math:`k` of the optimiser step, from 0.
    n_steps
        Number :math:`n` of steps in all. The last one has, and any later one keeps, the value
        `end`.
    start, end
        Values at the first and at the last step; 0.996 and 1 in :cite:t:`Grill2020`.

    Raises
    ------
    ValueError
        If `step` or `n_steps` is negative.

    Examples
    --------
    >>> from scssl.nn import momentum_schedule
    >>> [round(momentum_schedule(step, 5, 0.9), 3) for step in range(6)]
    [0.9, 0.915, 0.95, 0.985, 1.0, 1.0]
    """
    check_whole("step", step, 0)
    check_whole("n_steps", n_steps, 0)
    if step >= n_steps - 1:
        return end
    return end - (end - start) * (math.cos(math.pi * step / (n_steps - 1)) + 1) / 2


class MemoryBank(nn.Module):
    """Ring of the latest embeddings, scaled to unit length :cite:p:`He2020,Dwibedi2021`.

    The ring and its position are part of the saved state, so that a run that is resumed goes on
    with the same negatives. It starts with random directions. What it holds is of one kind: of a
    model of several modalities the projections of their fused embedding, in one bank.

    Parameters
    ----------
    size
        Number of embeddings.
    dim
        Their width: that of the tensor which is stored, after fusion where there is one.
    rng
        Seed or generator of the first values.

    Attributes
    ----------
    values
        The embeddings, shape ``(size, dim)``, in no particular order.
    pointer
        Where the next one goes.

    Raises
    ------
    ValueError
        If `size` or `dim` is not positive.

    Examples
    --------
    >>> import torch
    >>> from scssl.nn import MemoryBank
    >>> bank = MemoryBank(2, 2)
    >>> bank.enqueue(torch.tensor([[1.0, 0.0], [0.0, 3.0]]))
    >>> bank.nearest(torch.tensor([[1.0, 5.0]]))
    tensor([[0., 1.]])
    """

    values: Tensor
    pointer: Tensor

    def __init__(self, size: int, dim: int, *, rng: int | torch.Generator = 0) -> None:
        super().__init__()
        check_integers(size=(size, 1), dim=(dim, 1))
        generator = torch.Generator().manual_seed(rng) if isinstance(rng, int) else rng
        start = torch.randn(size, dim, generator=generator, device=generator.device)
        self.register_buffer("values", normalize(start, dim=1))
        self.register_buffer("pointer", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def enqueue(self, z: Tensor) -> None:
        """Put embeddings in the place of the oldest ones.

        Of more than `size` only the last ones stay.

        Parameters
        ----------
        z
            Shape ``(n_cells, dim)``; scaled to unit length here, without a gradient.

        Raises
        ------
        ValueError
            If the width is not that of the bank.
        """
        self._check(z)
        size, n = len(self.values), len(z)
        kept = z[-size:] if n > size else z
        # On the device of the bank, so that no step waits for the position to reach the CPU.
        at = (self.pointer + torch.arange(n - len(kept), n, device=self.pointer.device)) % size
        self.values.index_copy_(0, at, normalize(kept.to(self.values), dim=1))
        self.pointer.add_(n).remainder_(size)

    @torch.no_grad()
    def nearest(self, z: Tensor) -> Tensor:
        """Of each embedding the entry of the highest cosine similarity, without a gradient.

        A copy, shape ``(n_cells, dim)``.

        Parameters
        ----------
        z
            Shape ``(n_cells, dim)``.

        Raises
        ------
        ValueError
            If the width is not that of the bank.
        """
        self._check(z)
        # The length of an embedding does not change which entry is nearest.
        with torch.autocast(z.device.type, enabled=False):
            closest = (z.to(self.values) @ self.values.T).argmax(1)
        return self.values.index_select(0, closest)

    def _check(self, z: Tensor) -> None:
        dim = self.values.shape[1]
        if z.ndim != 2 or z.shape[1] != dim:
            raise ValueError(
                f"This memory bank holds embeddings of width {dim}; found {tuple(z.shape)}. Make it "
                f"as wide as what is stored, {z.shape[-1]}."
            )

    def extra_repr(self) -> str:
        """Size and width, for printing."""
        return "size={}, dim={}".format(*self.values.shape)
