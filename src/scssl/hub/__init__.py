"""Trained models as folders: safetensors and JSON, checked when read, never unpickled."""

from ._bundle import CONFIG, Bundle, check_target, read_bundle, write_bundle
from ._card import CardFacts, has_tag, make_card
from ._remote import (
    collect,
    commit_of,
    fetch_bundle,
    fetch_file,
    is_repo_id,
    list_models,
    push_bundle,
    renamed,
)

__all__ = [
    "Bundle",
    "fetch_bundle",
    "fetch_file",
    "list_models",
    "push_bundle",
    "read_bundle",
    "write_bundle",
]
