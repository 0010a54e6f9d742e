"""What holds for every test, those in docstrings of ``src`` included."""

from __future__ import annotations

import sys

import pytest


@pytest.fixture(autouse=True)
def figures_closed():
    """Close what a test has drawn: matplotlib warns at the twenty-first figure of a process."""
    yield
    pyplot = sys.modules.get("matplotlib.pyplot")
    if pyplot is not None:
        pyplot.close("all")
