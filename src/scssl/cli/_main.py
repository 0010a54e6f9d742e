"""Entry point: parse, run, and turn errors into one message and an exit status."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from typing import Any

from ._parser import build_parser

EXPECTED = (FloatingPointError, ValueError, KeyError, TypeError, OSError)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status.

    Parameters
    ----------
    argv
        Arguments after the name of the program; those of the process by default.

    Returns
    -------
    int
        0 on success, 2 when the input is at fault, 130 when interrupted.

    Examples
    --------
    >>> from scssl.cli import main
    >>> main(["embed", "absent.h5ad", "--model", "model", "--out", "out.h5ad"])
    2
    """
    arguments = vars(build_parser().parse_args(argv))
    command, debug = arguments.pop("run"), arguments.pop("debug")
    with warnings.catch_warnings():
        if not debug:
            warnings.showwarning = _show_warning
        try:
            command(arguments)
        except EXPECTED as error:
            if debug:
                raise
            # str() of a KeyError is the repr of its message.
            message = error.args[0] if isinstance(error, KeyError) and error.args else error
            print(f"scssl: error: {message}", file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            if debug:
                raise
            print("scssl: interrupted", file=sys.stderr)
            return 130
    return 0


def _show_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    """Warnings of scssl as one line; those of libraries say nothing to who runs a command."""
    from scssl._errors import ScsslWarning

    if issubclass(category, ScsslWarning):
        print(f"scssl: warning: {message}", file=sys.stderr)
