"""Files and folders that are checked when they are read and replaced as a whole when written."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import stat
import sys
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from scssl._errors import BundleError, warn

if sys.platform != "win32":
    import fcntl

MAX_JSON_BYTES = 64 * 2**20
ALTERED = "was altered after it was saved: its sha256 is not the recorded one"
_SAVING, _PREVIOUS = ".saving-", ".previous-"


def as_path(path: Any, name: str = "path") -> Path:
    """A path that a user gave as argument `name`; a leading ~ is their home."""
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"`{name}` must be a path, found {path!r}. Pass one: `{name}=FILE`.")
    return Path(path).expanduser()


def check_place(path: Any, name: str, *, folder: bool = False, n_bytes: int = 0) -> Path:
    """The path given as `name`, before the work, or an error unless it can be written then.

    It is that of a file, or of a `folder` to write into; so much room is needed at least.
    """
    path = as_path(path, name)
    whole = path.absolute()
    there = next(one for one in (whole, *whole.parents) if one.exists())
    problem = None
    if there == whole and folder != there.is_dir():
        problem = "is a file, and should be a folder" if folder else "is a folder, and no file"
    elif there != whole and not there.is_dir():
        problem = f"cannot be made: {there} is a file"
    elif not os.access(there, os.W_OK):
        problem = f"cannot be written: you may not write to {there}"
    elif (free := shutil.disk_usage(there).free) < n_bytes:
        problem = f"has no room: at least {n_bytes:,} bytes are needed, {free:,} are free"
    if problem is not None:
        raise OSError(f"`{name}` {path} {problem}. Give another.")
    return path


def describe_bytes(content: bytes) -> dict[str, Any]:
    """Size and digest by which :func:`read_bytes` recognises ``content`` again."""
    return {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def read_bytes(path: Path, *, expected: Any = None, max_bytes: int | None = None) -> bytes:
    """Content of the regular file ``path``, checked against :func:`describe_bytes` of what was saved.

    Refuses links, devices, what is larger than ``max_bytes``, and what is not what was saved.
    """
    try:
        info = path.lstat()
    except FileNotFoundError:
        raise BundleError(f"{path.name} is missing from {path.parent}.") from None
    if stat.S_ISLNK(info.st_mode):
        copy = f"Copy the folder with its content: `cp -rL {path.parent} COPY`"
        raise BundleError(f"{path} is a symbolic link, which is not read. {copy}.")
    if not stat.S_ISREG(info.st_mode):
        raise BundleError(f"{path} is not a regular file.")
    if max_bytes is not None and info.st_size > max_bytes:
        raise BundleError(
            f"{path} has {info.st_size:,} bytes; more than {max_bytes:,} are not read."
        )
    if expected is None:
        return path.read_bytes()
    if (
        not isinstance(expected, dict)
        or set(expected) != {"size", "sha256"}
        or type(expected["size"]) is not int
    ):
        raise BundleError(f"No size and sha256 are recorded for {path}.")
    if info.st_size != expected["size"]:
        state = "truncated" if info.st_size < expected["size"] else "altered"
        sizes = f"it has {info.st_size:,} bytes, {expected['size']:,} were saved"
        raise BundleError(f"{path} is {state}: {sizes}.")
    content = path.read_bytes()
    if describe_bytes(content) != expected:
        raise BundleError(f"{path} {ALTERED}.")
    return content


def parse_json(content: bytes, path: Path) -> dict[str, Any]:
    """JSON object in ``content``; ``path`` is for the messages."""

    def number(text: str) -> float:
        if not math.isfinite(value := float(text)):
            raise ValueError(f"{text} is no number in JSON")
        return value

    try:
        value = json.loads(content.decode("utf-8"), parse_constant=number, parse_float=number)
    except (ValueError, RecursionError) as error:
        raise BundleError(
            f"{path} is truncated or malformed: not readable JSON ({error})."
        ) from error
    if not isinstance(value, dict):
        raise BundleError(
            f"{path} is malformed: it holds a JSON {type(value).__name__}, no object."
        )
    return value


def check_version(found: Any, known: int, path: Path) -> None:
    """Raise unless format version ``found`` of ``path`` can be read by this version of scssl."""
    if type(found) is not int or found < 1:
        raise BundleError(f"{path} is malformed: its format_version is {found!r}.")
    if found > known:
        raise BundleError(
            f"{path} has format version {found}; this version of scssl reads up to {known}. Upgrade it: "
            "`pip install --upgrade scssl`"
        )


def check_replaceable(path: Path) -> None:
    """Raise when :func:`replace_folder` would take the working directory away."""
    path = path.resolve()
    if path.is_dir() and Path.cwd().is_relative_to(path):
        raise ValueError(f"{path} is the working directory: save into a folder inside it.")


@contextmanager
def replace_folder(path: Path) -> Iterator[Path]:
    """Fill a new folder that takes the place of ``path`` once the block ends without an error.

    Until then ``path`` stays as it is. What it holds under names that the new folder does not have is
    kept, unless it is a Zarr store. What a process killed on the way leaves behind, :func:`recover` puts
    right.
    """
    path = path.resolve()
    check_replaceable(path)
    with _staging(path) as staging:
        yield staging
        _to_disk(staging)
        previous = path.with_name(staging.name.replace(_SAVING, _PREVIOUS))
        try:
            if path.exists():
                path.rename(previous)
            staging.rename(path)
        except BaseException:
            if previous.exists() and not path.exists():
                previous.rename(path)
            raise
        if previous.exists():
            _keep_others(previous, path)


@contextmanager
def replace_file(path: Path) -> Iterator[Path]:
    """Write a new file that takes the place of ``path`` once the block ends without an error."""
    path = path.resolve()
    with _staging(path) as staging:
        yield staging / path.name
        _to_disk(staging)
        (staging / path.name).replace(path)


def recover(path: Path) -> None:
    """Put right what a killed :func:`replace_folder` or :func:`replace_file` of ``path`` left beside it.

    A folder that was out of its place comes back, and what was not complete is removed. Nothing is
    done where it may not be, or where another process is writing.
    """
    path = path.resolve()
    with suppress(OSError):
        left = sorted(entry for entry in path.parent.iterdir() if _is_left(entry, path))
        if not left:
            return
        with _held(path.parent, alone=True) as alone:
            for entry in left if alone else ():
                if not entry.name.startswith(f".{path.name}{_PREVIOUS}"):
                    shutil.rmtree(entry)
                elif path.exists():
                    _keep_others(entry, path)
                else:
                    entry.rename(path)
                    warn(
                        f"Saving {path} was interrupted: what it held before is back in its place."
                    )


def find_previous(path: Path) -> Path | None:
    """What an interrupted :func:`replace_folder` left of ``path``, where :func:`recover` could not."""
    path = path.resolve()
    if not path.parent.is_dir():
        return None
    start = f".{path.name}{_PREVIOUS}"
    return next((entry for entry in path.parent.iterdir() if entry.name.startswith(start)), None)


def _is_left(entry: Path, path: Path) -> bool:
    return entry.name.startswith((f".{path.name}{_SAVING}", f".{path.name}{_PREVIOUS}"))


def _keep_others(previous: Path, path: Path) -> None:
    """Move to a new folder what only the previous one has, which is then removed.

    What another Zarr store had, such as ``raw``, would be taken for a part of this one.
    """
    for entry in previous.iterdir() if path.suffix != ".zarr" else ():
        if not (path / entry.name).exists(follow_symlinks=False):
            entry.rename(path / entry.name)
    shutil.rmtree(previous)


@contextmanager
def _staging(path: Path) -> Iterator[Path]:
    """An empty folder beside ``path`` to write in, gone afterwards."""
    recover(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with _held(path.parent, alone=False):
        staging = path.with_name(f".{path.name}{_SAVING}{uuid.uuid4().hex[:8]}")
        staging.mkdir()
        try:
            yield staging
        finally:
            shutil.rmtree(staging, ignore_errors=True)


@contextmanager
def _held(folder: Path, *, alone: bool) -> Iterator[bool]:
    """Whether a lock on a folder was had: one that many hold at once, or `alone`, without waiting.

    The system lets go of it when the process ends, in whatever way.
    """
    held = False
    with ExitStack() as stack:
        if sys.platform != "win32":
            # There are file systems without locks, and folders that may not be listed.
            with suppress(OSError):
                descriptor = os.open(folder, os.O_RDONLY)
                stack.callback(os.close, descriptor)
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB if alone else fcntl.LOCK_SH)
                held = True
        yield held


def _to_disk(folder: Path) -> None:
    """Wait until all that is in a folder is on the disk."""
    for entry in (*folder.rglob("*"), folder):
        if not entry.is_dir():
            with entry.open("r+b") as file:
                os.fsync(file.fileno())
        elif sys.platform != "win32":
            descriptor = os.open(entry, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
