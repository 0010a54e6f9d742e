"""Stores: any number of cells on disk in random order, built once, read in batches."""

from __future__ import annotations

from ._build import build_store
from ._embedding import EmbeddingFolder, read_embedding
from ._store import HANDLE, Store
