"""Warning and error types of the package, and the one way to warn."""

from __future__ import annotations

import sys
import warnings

# What lies between a user's line and the place that warns.
_SKIPPED = ("scssl", "contextlib", "lightning", "scvi", "torch")

#: What code raises that is given something else than it was written for, such as a file of strangers.
MALFORMED = (
    *(ArithmeticError, AssertionError, AttributeError, LookupError, MemoryError, RuntimeError),
    *(TypeError, ValueError),
)


class ScsslWarning(UserWarning):
    """Category of every warning that scssl raises itself."""


class BundleError(ValueError):
    """A model folder is missing, truncated, tampered with, foreign or of a newer format."""


class GeneMismatchError(ValueError):
    """The genes of a data set do not match the genes of a model or vocabulary."""


class MissingKeyError(KeyError):
    """Something is not there under its name; shown as it is written, not in quotes as a key would be."""

    def __str__(self) -> str:
        return Exception.__str__(self)


def warn(message: str) -> None:
    """Warn, at the line of the user that led here."""
    files = [getattr(sys.modules.get(name), "__file__", None) for name in _SKIPPED]
    # Of a package its whole folder, of a module its file.
    places = tuple(str(file).removesuffix("__init__.py") for file in files if file is not None)
    warnings.warn(message, ScsslWarning, skip_file_prefixes=places)
