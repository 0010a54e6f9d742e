"""Trained models as folders: safetensors and JSON, checked when read, never unpickled."""

from scssl.hub._bundle import Bundle, read_bundle, write_bundle
from scssl.hub._push import push_bundle
from scssl.hub._remote import fetch_bundle, fetch_file, list_models

__all__ = [
    "Bundle",
    "fetch_bundle",
    "fetch_file",
    "list_models",
    "push_bundle",
    "read_bundle",
    "write_bundle",
]
