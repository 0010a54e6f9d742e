"""What holds for every test, those in docstrings of ``src`` included."""

from __future__ import annotations

import functools
import sys

import pytest


@pytest.fixture(autouse=True)
def figures_closed():
    """Close what a test has drawn: matplotlib warns at the twenty-first figure of a process."""
    yield
    pyplot = sys.modules.get("matplotlib.pyplot")
    if pyplot is not None:
        pyplot.close("all")


@pytest.fixture(scope="session", autouse=True)
def entry_points_read_once():
    """Lightning asks every installed package for callbacks, a seventh of a small training's time."""
    from lightning.fabric.utilities import registry

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "entry_points", functools.cache(registry.entry_points))
        yield
