"""Data sets to try scssl on."""

from scssl.datasets._pbmc import pbmc68k_reduced

__all__ = ["pbmc68k_reduced"]
