"""Checks of numbers that must be in a range."""

from __future__ import annotations


def positive(**values: float) -> None:
    """Refuse what is not above 0."""
    for name, value in values.items():
        if not value > 0:
            raise ValueError(f"`{name}` must be positive, found {value}.")


def share(**values: float | None) -> None:
    """Refuse what is not between 0 and 1, nor `None`."""
    for name, value in values.items():
        if value is not None and not 0 <= value <= 1:
            raise ValueError(f"`{name}` must be between 0 and 1, found {value}.")


def rate(**values: float) -> None:
    """Refuse what is not a share that leaves something over."""
    for name, value in values.items():
        if not 0 <= value < 1:
            raise ValueError(f"`{name}` must be in [0, 1), found {value}.")


def check_target_sum(target_sum: float | None, *, may_be_none: bool = False) -> None:
    """Refuse a sum that counts cannot be scaled to; `None` where they need not be."""
    if target_sum is None and may_be_none:
        return
    if target_sum is None or not 0 < target_sum < float("inf"):
        raise ValueError(f"`target_sum` must be a positive number, found {target_sum!r}.")
