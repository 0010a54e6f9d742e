"""Checkpoints of ``torch.save``, read without running what is in them, with an account of each tensor.

Every tensor is used, or set aside for a reason, or is an error.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import pickletools
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Self

from scssl._checks import some
from scssl._errors import MALFORMED, BundleError
from scssl._io import as_path

if TYPE_CHECKING:
    from torch import Tensor

_STORAGES = "Float Double Half BFloat16 Long Int Short Char Byte Bool"
#: All that the pickle of a checkpoint may name: what it takes to put tensors together. Narrower than
#: the list of torch itself, which also grows with whatever else a program has declared safe.
ALLOWED_GLOBALS = frozenset(
    {
        "collections.OrderedDict",
        "torch._utils._rebuild_tensor_v2",
        "torch._utils._rebuild_parameter",
        *(f"torch.{name}Storage" for name in _STORAGES.split()),
    }
)
_ENTRIES = {
    "optimizer_states": "moments of the optimiser; its training is not resumed",
    "optimizer_state_dict": "moments of the optimiser; its training is not resumed",
    "lr_schedulers": "state of the learning rate; its training is not resumed",
    "loops": "state of the trainer",
    "callbacks": "state of the trainer",
}
_TEXT = (
    *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "STRING", "BINSTRING"),
    "SHORT_BINSTRING",
)
# What torch raises on pickles and archives that do not fit together.
_DAMAGE = (pickle.UnpicklingError, EOFError, *MALFORMED)


@dataclass(frozen=True)
class CheckpointFile:
    """A checkpoint and what identifies it."""

    name: str
    """Name of the file."""
    size: int
    """Bytes."""
    sha256: str
    """Digest of the whole file."""
    content: Any
    """What was saved, tensors on the CPU."""


def read_checkpoint(path: str | Path, *, expected_sha256: str | None = None) -> CheckpointFile:
    """Read a file that ``torch.save`` wrote; nothing in it is executed.

    The names that its pickle refers to are listed from the bytes, before anything is loaded, and
    must all be on a short list; then it is loaded by the restricted unpickler of torch.
    """
    import torch

    path = as_path(path)
    # The older one writes where the pickle says (CVE-2026-24747), which no list of names prevents.
    if torch.__version__ < "2.10":
        raise ImportError(
            f"{path.name} was not loaded: with torch {torch.__version__} a file made for it can overwrite "
            'memory. Take a newer one: `pip install --upgrade "torch>=2.10"`'
        )
    try:
        file = path.open("rb")
    except FileNotFoundError:
        raise BundleError(f"There is no file {path}.") from None
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror}.") from error
    # One open file for all steps: what is checked is what is loaded.
    with file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        size = os.fstat(file.fileno()).st_size
        if expected_sha256 is not None and digest != expected_sha256.lower():
            raise BundleError(
                f"{path} is another file: its sha256 is {digest}, not {expected_sha256}."
            )
        _refuse_globals(pickle_globals(_read_pickle(file, path, size), path), path)
        file.seek(0)
        try:
            content = torch.load(file, map_location="cpu", weights_only=True)
        except _DAMAGE as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise BundleError(f"{path} is damaged: torch cannot load it ({reason})") from error
    return CheckpointFile(path.name, size, digest, content)


def pickle_globals(content: bytes, path: Path) -> set[str]:
    """Full names of all that a pickle would import, found without running it."""
    found: set[str] = set()
    texts = ["?", "?"]
    try:
        for opcode, argument, _ in pickletools.genops(content):
            if opcode.name in _TEXT:
                texts.append(str(argument))
            elif opcode.name in ("GLOBAL", "INST"):
                found.add(str(argument).replace(" ", ".", 1))
            elif opcode.name == "STACK_GLOBAL":
                # Module and name lie on the stack: most often they are the last two strings. Where
                # they are not, the name is wrong, and the file is refused all the same.
                found.add(f"{'.'.join(texts[-2:])} (from the stack)")
            elif opcode.name.startswith("EXT"):
                found.add(f"extension {argument} of copyreg")
    except _DAMAGE as error:
        raise BundleError(f"{path} is damaged: its pickle cannot be parsed ({error}).") from error
    return found


def _refuse_globals(found: set[str], path: Path) -> None:
    # Names that would be allowed, but lie on the stack, say the least: they come last.
    foreign = sorted(
        found - ALLOWED_GLOBALS, key=lambda name: (name.split(" ")[0] in ALLOWED_GLOBALS, name)
    )
    if foreign:
        shown = ", ".join(foreign[:5]) + (", …" if len(foreign) > 5 else "")
        raise BundleError(
            f"{path} was not loaded: besides tensors its pickle names {shown}, which can run code. Ask for "
            'tensors only: `torch.save({"state_dict": checkpoint["state_dict"]}, "weights.ckpt")`'
        )


def _read_pickle(file: IO[bytes], path: Path, size: int) -> bytes:
    """The pickle in a zip archive of ``torch.save``, if it is that and nothing more."""
    try:
        # Which raises on its own where an archive ends as one of several files.
        if not zipfile.is_zipfile(file):
            file.seek(0)
            raise BundleError(
                f"{path} is not a checkpoint of torch: not a zip archive, or a truncated one (it begins "
                f"with {file.read(8)!r}). A file from before torch 1.6 has to be written anew: "
                f'`torch.save(torch.load("{path}", weights_only=True), NEW)`'
            )
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
            _check_entries(entries, path, size)
            # Of the tensors, torch does not look at the checksums.
            altered = archive.testzip()
            if altered is not None:
                raise zipfile.BadZipFile(f"what it has as {altered} is not what was written")
            return archive.read(
                next(e.filename for e in entries if e.filename.endswith("/data.pkl"))
            )
    except BundleError:
        raise
    except (zipfile.BadZipFile, OSError, *_DAMAGE) as error:
        raise BundleError(f"{path} is damaged: {error}.") from error


def _check_entries(entries: list[zipfile.ZipInfo], path: Path, size: int) -> None:
    """Refuse archives that two readers could understand in two ways, and what is no checkpoint."""
    names = [entry.filename for entry in entries]
    pickles = sorted(name for name in names if name.endswith(".pkl"))
    folders = {name.split("/")[0] for name in names}
    if any(name.endswith("/constants.pkl") for name in names):
        problem = "it is a TorchScript program, not a checkpoint"
    elif len(folders) != 1 or pickles != [f"{next(iter(folders))}/data.pkl"]:
        problem = f"it has the pickles {', '.join(pickles) or 'none'}; one data.pkl is expected"
    elif len(set(names)) != len(names):
        problem = "it has two entries of one name"
    elif any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        problem = "its entries are compressed, which torch does not write"
    elif sum(entry.file_size for entry in entries) > size:
        problem = "its entries overlap"
    else:
        return
    raise BundleError(f"{path} is not a checkpoint of torch: {problem}.")


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
        """The tensors of a file: a state dict, or a mapping that has one under one of these names."""
        from torch import Tensor

        file = read_checkpoint(path, expected_sha256=expected_sha256)
        content, entries = file.content, {}
        if isinstance(content, Mapping) and (found := [name for name in names if name in content]):
            others = (str(name) for name in content if name != found[0])
            entries = {name: _ENTRIES.get(name, "not a weight") for name in others}
            content = content[found[0]]
        if not isinstance(content, Mapping) or not content:
            raise BundleError(f"{file.name} holds no state dict: a {type(content).__name__}.")
        for key, value in content.items():
            if not isinstance(key, str) or not isinstance(value, Tensor):
                what = f"{key!r} is a {type(value).__name__}, no tensor"
                raise BundleError(f"{file.name} holds no state dict: {what}.")
        state = {key: tensor.detach() for key, tensor in content.items()}
        # Tensors may share memory, under three names at most; one number may claim to be millions.
        claimed = sum(tensor.numel() * tensor.element_size() for tensor in state.values())
        if claimed > 4 * file.size:
            raise BundleError(
                f"{file.name} is no checkpoint: its {file.size:,} bytes claim to be tensors of {claimed:,}."
            )
        return cls(file, state, entries, n_genes)

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
                both = f"{copy} and {key} should be one tensor"
                raise BundleError(f"{self.where}: {both}, but their values differ.")
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
            there = some(sorted(self.state), 8)
            raise BundleError(f"{self.where} has no tensor {key}; it has {there}.")
        integer = key.endswith(("num_batches_tracked", "child_lookup"))
        kind = "torch.int64" if integer else "torch.float32"
        if tuple(tensor.shape) != shape or str(tensor.dtype) != kind:
            raise BundleError(
                f"{self.where}: {key} is {tensor.dtype} of shape {tuple(tensor.shape)}; "
                f"{kind} of shape {shape} is expected."
            )
        return tensor
