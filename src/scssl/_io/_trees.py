"""Nested Python values as safetensors + JSON: files that hold data and nothing else.

Nothing here can execute code on loading: no pickle, no class lookup. What JSON does not have
(tuples, non-string keys, infinities, tensors, arrays) is written as a tagged object
``{"$": <tag>, ...}``; tensors and arrays are named entries of a safetensors file.

``torch.save`` would not do: it pickles whatever it is given, and the reader that it has for weights
alone could be made to run code before torch 2.10 (CVE-2026-24747).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch

from scssl._errors import MALFORMED, BundleError

from ._files import (
    ALTERED,
    MAX_JSON_BYTES,
    check_version,
    describe_bytes,
    parse_json,
    read_bytes,
)

TREE_FORMAT = "scssl-tree"
TREE_VERSION = 1
MAX_DEPTH = 100
_TAG = "$"
_NUMPY_TYPES = frozenset(
    ["bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]
    + ["float16", "float32", "float64"]
)


class TensorStore:
    """Tensors met while a value is encoded, by a name that follows their path in it.

    A tensor that is met twice is stored once and comes back as one tensor, so that shared weights
    stay shared.
    """

    def __init__(self) -> None:
        self.tensors: dict[str, torch.Tensor] = {}
        self._seen: dict[tuple[Any, ...], str] = {}

    def add_tensor(self, tensor: torch.Tensor, path: Sequence[str | int]) -> str:
        """Name under which ``tensor`` is stored."""
        if tensor.layout != torch.strided or tensor.is_meta or tensor.is_quantized:
            found = f"{tensor.layout} on {tensor.device}"
            raise TypeError(f"Cannot save {where(path)}: only dense tensors, found {found}.")
        # The store keeps every tensor alive, so that an address cannot be given to another one.
        identity = (tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
        if tensor.numel() and identity in self._seen:
            return self._seen[identity]
        name = self._free_name(path)
        self.tensors[name] = tensor.detach()
        self._seen[identity] = name
        return name

    def add_array(self, array: np.ndarray, path: Sequence[str | int]) -> str:
        """Name under which a copy of ``array`` is stored."""
        if array.dtype.name not in _NUMPY_TYPES:
            what = f"an array of dtype {array.dtype} is neither numbers nor booleans"
            raise TypeError(f"Cannot save {where(path)}: {what}.")
        native = np.array(array, dtype=array.dtype.newbyteorder("="), order="C")
        name = self._free_name(path)
        self.tensors[name] = torch.from_numpy(native)
        return name

    def _free_name(self, path: Sequence[str | int]) -> str:
        stem = ".".join(map(str, path)) or "root"
        name, number = stem, 2
        while name in self.tensors or name == "__metadata__":
            name, number = f"{stem}#{number}", number + 1
        return name


def where(path: Sequence[str | int]) -> str:
    """``path`` as Python would index it: ``['optimizer']['state'][0]``."""
    return "".join(f"[{key!r}]" for key in path) or "the value itself"


def encode(value: Any, store: TensorStore | None = None, path: tuple[str | int, ...] = ()) -> Any:
    """JSON form of ``value``; its tensors and arrays go to ``store`` (none are allowed without one)."""
    if len(path) > MAX_DEPTH:
        deep = f"nested more than {MAX_DEPTH} levels deep, or contains itself"
        raise ValueError(f"Cannot save {where(path[:3])}…: {deep}.")
    kind = type(value)
    if value is None or kind in (bool, int, str):
        return value
    if kind is float:
        return value if math.isfinite(value) else {_TAG: "float", "value": repr(value)}
    if isinstance(value, np.generic) and value.dtype.name in _NUMPY_TYPES:
        return {_TAG: "scalar", "dtype": value.dtype.name, "value": encode(value.item())}
    if kind is list:
        return [encode(item, store, (*path, i)) for i, item in enumerate(value)]
    if kind is tuple:
        return {_TAG: "tuple", "items": encode(list(value), store, path)}
    if isinstance(value, dict):
        if all(type(key) is str and not key.startswith(_TAG) for key in value):
            return {key: encode(item, store, (*path, key)) for key, item in value.items()}
        items = [
            [_encode_key(key, path), encode(item, store, (*path, key))]
            for key, item in value.items()
        ]
        return {_TAG: "dict", "items": items}
    if store is not None and isinstance(value, torch.Tensor):
        return {_TAG: "tensor", "name": store.add_tensor(value, path)}
    if store is not None and isinstance(value, np.ndarray):
        return {_TAG: "array", "name": store.add_array(value, path)}
    allowed = "None, bool, int, float, str, list, tuple, dict and NumPy scalars"
    if store is not None:
        allowed += ", tensors and arrays"
    what = f"it is a {kind.__module__}.{kind.__qualname__}; only {allowed} can be saved"
    raise TypeError(f"Cannot save {where(path)}: {what}.")


def _encode_key(key: Any, path: tuple[str | int, ...]) -> Any:
    if isinstance(key, (str, int, float, tuple, np.generic)) or key is None:
        return encode(key, None, path)
    what = f"{key!r} ({type(key).__qualname__}) cannot be saved as a key"
    raise TypeError(f"Cannot save {where(path)}: {what}.")


def decode(value: Any, tensors: Mapping[str, torch.Tensor] | None = None) -> Any:
    """Value whose JSON form is ``value``: the inverse of :func:`encode`, of nothing else."""
    try:
        return _decode(value, tensors or {})
    except BundleError:
        raise
    except MALFORMED as error:
        what = f"{type(error).__name__}: {error}"
        raise BundleError(f"The saved data is malformed ({what}).") from error


def _decode(value: Any, tensors: Mapping[str, torch.Tensor]) -> Any:
    if isinstance(value, list):
        return [_decode(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    if _TAG not in value:
        return {key: _decode(item, tensors) for key, item in value.items()}
    match value[_TAG]:
        case "float" if value["value"] in ("inf", "-inf", "nan"):
            return float(value["value"])
        case "scalar" if value["dtype"] in _NUMPY_TYPES:
            return np.dtype(value["dtype"]).type(_decode(value["value"], tensors))
        case "tuple":
            return tuple(_decode(list(value["items"]), tensors))
        case "dict":
            return {_decode(key, tensors): _decode(item, tensors) for key, item in value["items"]}
        case "tensor":
            return tensors[value["name"]]
        case "array":
            return tensors[value["name"]].numpy()
    raise BundleError(f"The saved data is malformed: unknown entry {str(value)[:80]}.")


def to_json(value: Any) -> bytes:
    """Readable JSON text of an encoded value."""
    return (json.dumps(value, indent=1, allow_nan=False) + "\n").encode()


def json_sha256(value: Any) -> str:
    """Digest of an encoded value, whatever the order of its keys and the layout of the text."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def tensors_to_bytes(tensors: Mapping[str, torch.Tensor]) -> bytes:
    """Content of a safetensors file; tensors on any device, with any strides, sharing memory or not."""
    storages: set[int] = set()
    plain: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        if not isinstance(tensor, torch.Tensor):
            raise TypeError(f"Cannot save {name!r} as a tensor: it is a {type(tensor).__name__}.")
        flat = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()
        address = flat.untyped_storage().data_ptr()
        # safetensors refuses two entries in one storage: they could not be told apart on loading.
        plain[name] = flat.clone() if address in storages else flat
        storages.add(address)
    return safetensors.torch.save(plain, metadata={"format": "pt"})


def tensors_from_bytes(content: bytes, path: Path) -> dict[str, torch.Tensor]:
    """Tensors of a safetensors file, in memory of their own; ``path`` is for the messages."""
    try:
        return safetensors.torch.load(content)
    except (safetensors.SafetensorError, KeyError, ValueError, RuntimeError) as error:
        what = f"not a readable safetensors file ({error})"
        raise BundleError(f"{path} is truncated or malformed: {what}.") from error


def save_tree(tree: Any, tensors_path: str | Path, json_path: str | Path) -> None:
    """Write a nested value: tensors and arrays to one file, everything else to another.

    It may have dicts, lists, tuples, numbers (``inf`` and ``nan`` included), strings, booleans,
    ``None``, NumPy scalars and arrays, and tensors, nested up to 100 levels. Mappings and keys of every
    such kind come back as they were, subclasses of ``dict`` as ``dict``.
    """
    store = TensorStore()
    encoded = encode(tree, store)
    content = tensors_to_bytes(store.tensors)
    document = {
        "format": TREE_FORMAT,
        "format_version": TREE_VERSION,
        "tensors": describe_bytes(content),
        "tree_sha256": json_sha256(encoded),
        "tree": encoded,
    }
    Path(tensors_path).write_bytes(content)
    Path(json_path).write_bytes(to_json(document))


def load_tree(tensors_path: str | Path, json_path: str | Path) -> Any:
    """Value written by :func:`save_tree` to these files; tensors come back on the CPU."""
    tensors_path, json_path = Path(tensors_path), Path(json_path)
    document = parse_json(read_bytes(json_path, max_bytes=MAX_JSON_BYTES), json_path)
    if document.get("format") != TREE_FORMAT:
        found = f"its format is {document.get('format')!r}"
        raise BundleError(f"{json_path} was not written by scssl: {found}.")
    check_version(document.get("format_version"), TREE_VERSION, json_path)
    encoded = document.get("tree")
    if document.get("tree_sha256") != json_sha256(encoded):
        raise BundleError(f"{json_path} {ALTERED}.")
    content = read_bytes(tensors_path, expected=document.get("tensors", {}))
    return decode(encoded, tensors_from_bytes(content, tensors_path))
