"""Stores: any number of cells on disk in random order, built once, read in batches."""

from __future__ import annotations

from ._annbatch import CELLS_PER_READ
from ._build import build_store
from ._store import Store
