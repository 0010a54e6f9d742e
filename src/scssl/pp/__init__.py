"""Preparation of data beyond what the models do themselves: nothing is needed so far.

Models normalise and align genes on their own; hand them counts or log-normalised values.
"""

__all__: list[str] = []
