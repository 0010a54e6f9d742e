"""Data sets to try scssl on."""

from ._pbmc import pbmc68k_reduced

__all__ = ["pbmc68k_reduced"]
