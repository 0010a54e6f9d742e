"""The command ``scssl``: each subcommand is a short call of the public Python API."""

from ._main import main

__all__ = ["main"]
