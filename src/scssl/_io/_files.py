"""Files and folders that are checked when they are read and replaced as a whole when written."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import stat
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from scssl._errors import BundleError

MAX_JSON_BYTES = 64 * 2**20
ALTERED = "was altered after it was saved: its sha256 is not the recorded one"


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


def write_durably(path: Path, content: bytes) -> None:
    """Write ``content`` and wait until it is on the disk."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


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
def replace_folder(path: Path, *, owned: Sequence[str]) -> Iterator[Path]:
    """Fill a new folder that takes the place of ``path`` once the block ends without an error.

    Until then ``path`` stays as it is. What it holds besides the files named in ``owned`` is kept.
    Only a process killed between two renames leaves ``path`` absent; the previous folder is then
    its sibling ``.<name>.previous-…`` (see :func:`find_previous`).
    """
    path = path.resolve()
    check_replaceable(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    suffix = uuid.uuid4().hex[:8]
    staging = path.with_name(f".{path.name}.saving-{suffix}")
    previous = path.with_name(f".{path.name}.previous-{suffix}")
    staging.mkdir()
    try:
        yield staging
        if path.exists():
            path.rename(previous)
        try:
            staging.rename(path)
        except BaseException:
            if previous.exists():
                previous.rename(path)
            raise
        if previous.exists():
            for entry in previous.iterdir():
                if entry.name not in owned:
                    entry.rename(path / entry.name)
            shutil.rmtree(previous)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def find_previous(path: Path) -> Path | None:
    """What an interrupted :func:`replace_folder` left of the previous content of ``path``."""
    path = path.resolve()
    if not path.parent.is_dir():
        return None
    start = f".{path.name}.previous-"
    return next((entry for entry in path.parent.iterdir() if entry.name.startswith(start)), None)
