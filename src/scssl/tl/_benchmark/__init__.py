"""Methods compared on the same cells, splits, seeds and labels."""

from ._study import benchmark, read_results

__all__ = ["benchmark"]
