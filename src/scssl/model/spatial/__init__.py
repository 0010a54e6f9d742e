"""Cells embedded with their neighbours in space."""

from __future__ import annotations

from ._model import STAGATE, GraphST
