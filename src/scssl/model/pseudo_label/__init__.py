"""Clusters of many data sets as labels."""

from __future__ import annotations

from ._model import PseudoLabel
