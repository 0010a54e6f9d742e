"""The folder a trained model is saved in: ``model.safetensors``, ``config.json``, ``genes.json``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scssl._errors import BundleError
from scssl._io import (
    ALTERED,
    MAX_JSON_BYTES,
    as_path,
    check_replaceable,
    check_version,
    decode,
    describe_bytes,
    encode,
    find_previous,
    json_sha256,
    parse_json,
    read_bytes,
    recover,
    replace_folder,
    tensors_from_bytes,
    tensors_to_bytes,
    to_json,
)

if TYPE_CHECKING:
    import torch

FORMAT = "scssl"
FORMAT_VERSION = 1
TENSORS, CONFIG, GENES = "model.safetensors", "config.json", "genes.json"
FILES = (TENSORS, CONFIG, GENES)
_RESERVED = ("format", "format_version", "files", "config_sha256")


@dataclass(frozen=True)
class Bundle:
    """What a model folder holds."""

    tensors: dict[str, torch.Tensor]
    """The state dict of the module, on the CPU."""
    config: dict[str, Any]
    """Class, arguments, setup, versions, training summary: what the model wrote."""
    genes: dict[str, Any]
    """The gene vocabulary of the model."""


def write_bundle(
    path: str | Path,
    *,
    tensors: Mapping[str, torch.Tensor],
    config: Mapping[str, Any],
    genes: Mapping[str, Any],
    overwrite: bool = False,
    write_others: Callable[[Path], None] | None = None,
) -> None:
    """Write a model folder, as a whole or not at all.

    Parameters
    ----------
    path
        Folder to write; parents are created. Files in it that do not belong to the model, such as
        ``adata.h5ad``, are kept.
    tensors
        State dict of the module, on any device.
    config
        Description of the model: nested values without tensors. The keys ``format``,
        ``format_version``, ``files`` and ``config_sha256`` are taken by the format.
    genes
        Gene vocabulary of the model: nested values without tensors.
    overwrite
        Replace the model that ``path`` already holds. A folder that holds anything else is never
        replaced.
    write_others
        Writes further files, such as the data, into the folder that it is called with.

    Raises
    ------
    ValueError
        When ``path`` exists and may not be replaced, or ``config`` has a reserved key.
    TypeError
        When ``config`` or ``genes`` hold something that JSON cannot; the message names its place.

    Examples
    --------
    >>> import tempfile, torch
    >>> from pathlib import Path
    >>> from scssl.hub import read_bundle, write_bundle
    >>> folder = Path(tempfile.mkdtemp()) / "model"
    >>> write_bundle(
    ...     folder, tensors={"weight": torch.ones(2)}, config={"n": 1}, genes={"names": ["A"]}
    ... )
    >>> read_bundle(folder)
    Bundle(tensors={'weight': tensor([1., 1.])}, config={'n': 1}, genes={'names': ['A']})
    """
    path = as_path(path)
    check_target(path, overwrite=overwrite)
    taken = sorted(set(_RESERVED) & set(config))
    if taken:
        raise ValueError(f"`config` has keys that the format itself uses: {', '.join(taken)}.")
    encoded = encode(dict(config))
    if set(encoded) != set(config):
        # They would not stay plain JSON keys.
        raise TypeError(
            "The top-level keys of `config` must be strings that do not start with '$'."
        )
    genes_content = to_json(encode(dict(genes)))
    tensors_content = tensors_to_bytes(tensors)
    document: dict[str, Any] = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        **encoded,
        "files": {TENSORS: describe_bytes(tensors_content), GENES: describe_bytes(genes_content)},
    }
    document["config_sha256"] = json_sha256(document)
    with replace_folder(path) as folder:
        (folder / TENSORS).write_bytes(tensors_content)
        (folder / GENES).write_bytes(genes_content)
        (folder / CONFIG).write_bytes(to_json(document))
        if write_others is not None:
            write_others(folder)


def read_bundle(path: str | Path) -> Bundle:
    """Read a model folder; nothing in it is executed or unpickled.

    The recorded digests reveal damage and edits. They are no signature: whoever can rewrite the
    whole folder can also rewrite the digests, but no content of it can run code.

    Parameters
    ----------
    path
        Folder written by :func:`write_bundle`.

    Returns
    -------
    Tensors, configuration and genes, equal to what was written.

    Raises
    ------
    BundleError
        When the folder is missing, incomplete, truncated, altered, foreign, or of a newer format.
    """
    path = as_path(path)
    document = read_document(path)
    files = document["files"]
    genes_content = read_bytes(path / GENES, expected=files[GENES], max_bytes=MAX_JSON_BYTES)
    tensors_content = read_bytes(path / TENSORS, expected=files[TENSORS])
    return Bundle(
        tensors=tensors_from_bytes(tensors_content, path / TENSORS),
        config=decode({key: value for key, value in document.items() if key not in _RESERVED}),
        genes=decode(parse_json(genes_content, path / GENES)),
    )


def read_document(path: Path) -> dict[str, Any]:
    """Checked content of the ``config.json`` of a model folder, as it is in the file."""
    _check_is_bundle(path)
    document = parse_json(read_bytes(path / CONFIG, max_bytes=MAX_JSON_BYTES), path / CONFIG)
    if document.get("format") != FORMAT:
        found = f"the format in its {CONFIG} is {document.get('format')!r}"
        raise BundleError(f"{path} was not saved by scssl: {found}.")
    check_version(document.get("format_version"), FORMAT_VERSION, path)
    if document.pop("config_sha256", None) != json_sha256(document):
        raise BundleError(f"{path / CONFIG} {ALTERED}.")
    files = document.get("files")
    if not isinstance(files, dict) or set(files) != {TENSORS, GENES}:
        raise BundleError(f"{path / CONFIG} is malformed: it does not list {TENSORS} and {GENES}.")
    return document


def check_target(path: Path, *, overwrite: bool) -> None:
    """Raise unless a model may be saved in ``path``."""
    recover(path)
    if path.exists() and not path.is_dir():
        raise ValueError(f"{path} is a file: give a folder to save the model in.")
    check_replaceable(path)
    if not path.exists() or not any(path.iterdir()):
        return
    if not is_ours(path / CONFIG):
        raise ValueError(f"{path} holds files and no scssl model: give a new folder.")
    if not overwrite:
        replace = f'To replace it: `model.save("{path}", overwrite=True)`'
        raise ValueError(f"{path} already holds a model. {replace}.")


def is_ours(config: Path) -> bool:
    """Whether a ``config.json`` is that of a model of scssl."""
    try:
        content = read_bytes(config, max_bytes=MAX_JSON_BYTES)
        return parse_json(content, config).get("format") == FORMAT
    except BundleError:
        return False


def _check_is_bundle(path: Path) -> None:
    """Raise with the most helpful message when ``path`` is not a folder with a ``config.json``."""
    recover(path)
    if path.is_file():
        raise BundleError(f"{path} is a file: give the folder that `model.save` wrote.")
    if not path.is_dir():
        previous = find_previous(path)
        held = f" Saving was interrupted; the model it held before is in {previous}."
        raise BundleError(f"There is no folder {path}.{'' if previous is None else held}")
    if (path / CONFIG).exists(follow_symlinks=False):
        return
    if (path / "model.pt").exists():
        what = "holds a scvi-tools model (model.pt, a pickle)"
        raise BundleError(f"{path} {what}: load it with the scvi-tools class that saved it.")
    if (path / TENSORS).exists() and (path / GENES).exists():
        raise BundleError(f"{CONFIG} is missing from {path}.")
    found = ", ".join(sorted(entry.name for entry in path.iterdir())[:5]) or "nothing"
    raise BundleError(f"{path} is not a scssl model folder: it has no {CONFIG} (it holds {found}).")
