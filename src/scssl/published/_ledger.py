"""What becomes of a checkpoint: every tensor is used, or set aside for a reason, or is an error."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from scssl._checks import some
from scssl._errors import BundleError

from ._checkpoint_file import CheckpointFile, read_checkpoint, split_checkpoint

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class Published:
    """A published checkpoint, read and understood."""

    family: str
    """``"autoencoder"``, ``"nb_autoencoder"``, ``"byol"``, ``"simsiam"``, ``"barlow_twins"``,
    ``"classifier"`` or ``"cellplm"``."""
    title: str
    """What it is, for a message."""
    arguments: dict[str, Any]
    """Of the model that its weights are for."""
    tensors: dict[str, Tensor]
    """State dict of the module of that model."""
    notes: list[str]
    """What to know about it."""
    head: dict[str, Tensor] | None = None
    """``weight`` and ``bias`` of the last layer of a classifier."""
    genes: tuple[str, ...] = ()
    """Ensembl ids in the order of the first layer, where the files name them."""
    report: dict[str, Any] = field(default_factory=dict)
    """What became of every tensor, where the file came from, and what to know about it."""

    @property
    def n_classes(self) -> int | None:
        """Number of classes of a classifier."""
        return None if self.head is None else len(self.head["bias"])


@dataclass
class Ledger:
    """The tensors of a checkpoint, and what became of each."""

    file: CheckpointFile
    state: Mapping[str, Tensor]
    entries: Mapping[str, str]
    """What is in the file besides them."""
    n_genes: int
    """Number of genes that the network must have."""
    used: dict[str, str] = field(default_factory=dict)
    """Our name of each tensor that is used."""
    unused: dict[str, str] = field(default_factory=dict)
    """Why a tensor is set aside."""

    @classmethod
    def open(
        cls, path: str | Path, *names: str, n_genes: int, expected_sha256: str | None = None
    ) -> Self:
        """The tensors of a file, read by :func:`read_checkpoint` and :func:`split_checkpoint`."""
        file = read_checkpoint(path, expected_sha256=expected_sha256)
        return cls(file, *split_checkpoint(file, *names), n_genes)

    @property
    def where(self) -> str:
        """Name of the file, for messages."""
        return self.file.name

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

    def take_layer(self, key: str, shape: tuple[int, ...], name: str) -> dict[str, Tensor]:
        """Weight of this shape and bias of a layer, to be used as those of layer ``name``."""
        return {
            f"{name}.{part}": self.take(f"{key}.{part}", size, f"{name}.{part}")
            for part, size in (("weight", shape), ("bias", shape[:1]))
        }

    def drop_layer(self, key: str, shape: tuple[int, ...], reason: str) -> None:
        """Leave weight and bias of a layer out."""
        self.drop(f"{key}.weight", shape, reason)
        self.drop(f"{key}.bias", shape[:1], reason)

    def n_rows(self, key: str) -> int:
        """Length of a tensor, 0 where there is none or it is a single number."""
        tensor = self.state.get(key)
        return len(tensor) if tensor is not None and tensor.ndim else 0

    def tensors(self) -> str:
        """The first tensors and their shapes, for a message."""
        return some([f"{key} {tuple(value.shape)}" for key, value in self.state.items()], 8)

    def drop_copies(self, prefix: str, original: str) -> None:
        """Leave out tensors that are other names of the tensors under ``original``."""
        if not self.has(prefix):
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

    def report(self, published: Published, **facts: Any) -> dict[str, Any]:
        """What is recorded of a checkpoint; refuses tensors that nobody asked for."""
        left = sorted(set(self.state) - set(self.used) - set(self.unused))
        if left:
            raise BundleError(
                f"{self.where} has {len(left)} tensors that do not belong to this layout: "
                f"{some(left)}. Nothing was converted."
            )
        return {
            "file": self.file.name,
            "size": self.file.size,
            "sha256": self.file.sha256,
            "family": published.family,
            "is": published.title,
            "notes": published.notes,
            "used": self.used,
            "unused": self.unused,
            "other_entries": dict(self.entries),
            **facts,
        }

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
