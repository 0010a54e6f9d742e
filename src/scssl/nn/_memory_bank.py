"""Embeddings of earlier batches: the queue of MoCo and the support set of NNCLR."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from scssl._checks import check_integers


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
                f"as wide as what is stored: MemoryBank({len(self.values)}, {z.shape[-1]})."
            )

    def extra_repr(self) -> str:
        """Size and width, for printing."""
        return "size={}, dim={}".format(*self.values.shape)
