"""Checkpoints that other programs wrote with ``torch.save``, read without running what is in them."""

from __future__ import annotations

import hashlib
import os
import pickle
import pickletools
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from scssl._errors import BundleError

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
_TEXT = frozenset(
    {"UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "STRING", "BINSTRING"}
    | {"SHORT_BINSTRING"}
)
# What torch raises on pickles and archives that do not fit together.
_DAMAGE = (
    *(pickle.UnpicklingError, RuntimeError, EOFError, LookupError, ValueError, TypeError),
    *(AttributeError, AssertionError),
)


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

    Parameters
    ----------
    path
        The file.
    expected_sha256
        Digest that the file must have.

    Raises
    ------
    BundleError
        If there is no such file, it has another digest, is not a checkpoint, is damaged, or names
        anything but tensors.
    """
    import torch

    path = Path(path)
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


def split_checkpoint(file: CheckpointFile, *names: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """State dict of a checkpoint, and what is said of its other entries.

    Parameters
    ----------
    file
        The checkpoint: a state dict, or a mapping that has one as an entry.
    *names
        What that entry may be called.

    Raises
    ------
    BundleError
        If there is no state dict of tensors.
    """
    from torch import Tensor

    content, entries = file.content, {}
    if isinstance(content, Mapping) and (found := [name for name in names if name in content]):
        entries = {
            str(name): _ENTRIES.get(str(name), "not a weight")
            for name in content
            if name != found[0]
        }
        content = content[found[0]]
    if not isinstance(content, Mapping) or not content:
        raise BundleError(f"{file.name} holds no state dict: a {type(content).__name__}.")
    for key, value in content.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise BundleError(
                f"{file.name} holds no state dict: {key!r} is a {type(value).__name__}, no tensor."
            )
    return {key: value.detach() for key, value in content.items()}, entries


def pickle_globals(content: bytes, path: Path) -> set[str]:
    """Full names of all that a pickle would import, found without running it.

    Parameters
    ----------
    content
        The pickle.
    path
        For the messages.

    Raises
    ------
    BundleError
        If it is not a whole pickle.
    """
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
    except ValueError as error:
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
            f"{path} was not loaded: besides tensors its pickle names {shown}, and loading that can "
            "run code. Ask whoever made the file for one that holds tensors only, such as "
            'torch.save({"state_dict": checkpoint["state_dict"]}, "weights.ckpt")'
        )


def _read_pickle(file: IO[bytes], path: Path, size: int) -> bytes:
    """The pickle in a zip archive of ``torch.save``, if it is that and nothing more."""
    if not zipfile.is_zipfile(file):
        file.seek(0)
        raise BundleError(
            f"{path} is not a checkpoint of torch: not a zip archive, or a truncated one (it begins "
            f"with {file.read(8)!r}). Files from before torch 1.6 have to be written anew: "
            "torch.save(torch.load(FILE, weights_only=True), NEW)"
        )
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
            _check_entries(entries, path, size)
            # Of the tensors, torch does not look at the checksums.
            altered = archive.testzip()
            if altered is not None:
                raise BundleError(
                    f"{path} is damaged: what it has as {altered} is not what was written."
                )
            return archive.read(
                next(e.filename for e in entries if e.filename.endswith("/data.pkl"))
            )
    except (zipfile.BadZipFile, EOFError, NotImplementedError) as error:
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
