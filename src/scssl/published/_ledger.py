"""Accounts of the tensors of a checkpoint: none may be overlooked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from scssl._errors import BundleError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class Ledger:
    """The tensors of a checkpoint, and what became of each."""

    where: str
    state: Mapping[str, Tensor]
    n_genes: int
    used: dict[str, str] = field(default_factory=dict)
    unused: dict[str, str] = field(default_factory=dict)

    def take(self, key: str, shape: tuple[int, ...], name: str) -> Tensor:
        """Weight ``key``, to be used as ``name``."""
        tensor = self._checked(key, shape)
        if not tensor.isfinite().all():
            raise BundleError(f"{self.where}: {key} has values that are not finite.")
        self.used[key] = name
        return tensor

    def drop(self, key: str, shape: tuple[int, ...], reason: str) -> None:
        """Leave a tensor of the layout out."""
        self._checked(key, shape)
        self.unused[key] = reason

    def drop_copies(self, prefix: str, original: str, *, required: bool = False) -> None:
        """Leave out tensors that are other names of the tensors under ``original``."""
        if not required and not self.has(prefix):
            return
        for key in [k for k in self.state if k.startswith(original)]:
            copy = prefix + key.removeprefix(original)
            tensor = self._checked(copy, tuple(self.state[key].shape))
            if not tensor.equal(self.state[key]):
                raise BundleError(
                    f"{self.where}: {copy} and {key} should be one tensor, but their values differ."
                )
            self.unused[copy] = f"the same tensor as {key}"

    def has(self, prefix: str) -> bool:
        """Whether there are tensors whose names begin like this."""
        return any(key.startswith(prefix) for key in self.state)

    def finish(self) -> None:
        """Refuse tensors that nobody asked for."""
        left = sorted(set(self.state) - set(self.used) - set(self.unused))
        if left:
            raise BundleError(
                f"{self.where} has {len(left)} tensors that do not belong to this layout: "
                f"{some(left)}. Nothing was converted."
            )

    def _checked(self, key: str, shape: tuple[int, ...]) -> Tensor:
        tensor = self.state.get(key)
        if tensor is None:
            raise BundleError(
                f"{self.where} has no tensor {key}; it has {some(sorted(self.state), 8)}."
            )
        integer = key.endswith(("num_batches_tracked", "child_lookup"))
        kind = "torch.int64" if integer else "torch.float32"
        if tuple(tensor.shape) != shape or str(tensor.dtype) != kind:
            raise BundleError(
                f"{self.where}: {key} is {tensor.dtype} of shape {tuple(tensor.shape)}; "
                f"{kind} of shape {shape} is expected."
            )
        return tensor


def some(names: Sequence[str], limit: int = 5) -> str:
    """The first of these names, for a message."""
    return ", ".join(names[:limit]) + (", …" if len(names) > limit else "")
