"""What is written of a store beside its cells, and what of it is checked when it is opened."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from scssl._errors import BundleError
from scssl._io import (
    MAX_JSON_BYTES,
    check_version,
    file_digest,
    parse_json,
    read_bytes,
    replace_file,
)

#: In the folder of a store: the collection that annbatch reads, columns of all cells, and what is known of
#: both.
CELLS, COLUMNS, MANIFEST = "cells.zarr", "columns", "store.json"
#: While it is built, also a folder with what is on its way, and in it what has been done.
WORK, JOURNAL = "building", "building/journal.json"
FORMAT_VERSION = 1


def partial_of(path: Path) -> Path:
    """Where a store is while it is built, or what is added to one."""
    return path.with_name(f"{path.name}.partial")


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Put a JSON object in the place of another, as a whole."""
    with replace_file(path) as file:
        file.write_text(json.dumps(content))


def describe_files(folder: Path, base: Path) -> dict[str, dict[str, Any]]:
    """Size and digest of a file, or of every file in a folder, by its path from `base`."""
    files = sorted(path for path in (folder, *folder.rglob("*")) if path.is_file())
    return {
        path.relative_to(base).as_posix(): {
            "size": path.stat().st_size,
            "sha256": file_digest(path),
        }
        for path in files
    }


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of a store of which all files are there, in the sizes that they had."""
    file = path / MANIFEST
    if not file.is_file():
        raise BundleError(_no_store(path))
    content = parse_json(read_bytes(file, max_bytes=MAX_JSON_BYTES), file)
    check_version(content.get("format_version"), FORMAT_VERSION, file)
    for name, expected in files_of(content):
        # There are thousands.
        try:
            size = os.stat(f"{path}/{name}").st_size
        except OSError:
            size = None
        if size != expected["size"]:
            found = "is missing" if size is None else f"has {size:,} bytes"
            raise BundleError(
                f"{path} is damaged: {name} {found}, and had {expected['size']:,} bytes when it was built. "
                "Build the store again, or bring back a copy."
            )
    return content


def files_of(content: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Path and description of every file that belongs to a store."""
    for part in (*content["shards"], *content["columns"].values(), content["genes_of_all"]):
        yield from part["files"].items()


def _no_store(path: Path) -> str:
    partial = path if path.suffix == ".partial" else partial_of(path)
    if (partial / JOURNAL).is_file():
        call = parse_json((partial / JOURNAL).read_bytes(), partial / JOURNAL)["call"]
        again = f"`{call}`" if call else "call scssl.data.build_store as before"
        return (
            f"{path} is no store yet: building it was interrupted, and what there is of it is in {partial}. "
            f"To go on where it was: {again}"
        )
    what = "holds no store of scssl" if path.is_dir() else "is not there"
    return f"{path} {what}. Build one: `scssl.data.build_store(inputs, {str(path)!r})`"
