"""Cells as tokens, tissues as sequences."""

from __future__ import annotations

from ._model import CellPLM
from ._options import FREE
