"""Trained models as folders: safetensors and JSON, checked when read, never unpickled."""

from scssl.hub._bundle import Bundle, read_bundle, write_bundle

__all__ = ["Bundle", "read_bundle", "write_bundle"]
