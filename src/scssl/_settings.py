"""Settings of the session: where data live, how much is said."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, get_args

Verbosity = Literal["error", "warning", "info", "debug"]

_LOGGER = logging.getLogger("scssl")


class Settings:
    """Session-wide settings, one instance of which is ``scssl.settings``.

    A setting is only ever the default of an argument that a function leaves open; it never
    overrides what a call says.

    Attributes
    ----------
    verbosity
        Level of the logger ``scssl``: ``"error"``, ``"warning"``, ``"info"`` (default) or
        ``"debug"``.
    progress
        Whether progress is shown where a call does not say. `True` by default.
    data_dir
        Folder with data sets. The environment variable ``SCSSL_DATA_DIR`` where it is set,
        `None` otherwise.

    Examples
    --------
    >>> import scssl
    >>> scssl.settings.verbosity = "warning"
    >>> with scssl.settings.override(progress=False):
    ...     scssl.settings.progress
    False
    >>> scssl.settings.reset()
    """

    _names = ("verbosity", "progress", "data_dir")

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Back to the defaults."""
        self.verbosity = "info"
        self.progress = True
        self._data_dir: Path | None = None

    @property
    def verbosity(self) -> Verbosity:
        """Level of the logger ``scssl``."""
        return self._verbosity

    @verbosity.setter
    def verbosity(self, value: Verbosity) -> None:
        if value not in get_args(Verbosity):
            msg = f"`verbosity` must be one of {', '.join(get_args(Verbosity))}; found {value!r}."
            raise ValueError(msg)
        self._verbosity = value
        _LOGGER.setLevel(value.upper())

    @property
    def progress(self) -> bool:
        """Whether progress is shown where a call does not say."""
        return self._progress

    @progress.setter
    def progress(self, value: bool) -> None:
        if not isinstance(value, bool):
            msg = f"`progress` must be True or False; found {value!r}."
            raise TypeError(msg)
        self._progress = value

    @property
    def data_dir(self) -> Path | None:
        """Folder with data sets: what was set here, else ``SCSSL_DATA_DIR``, else `None`."""
        if self._data_dir is not None:
            return self._data_dir
        # Read at every use, so that a notebook may set the variable after the import.
        from_environment = os.environ.get("SCSSL_DATA_DIR")
        return Path(from_environment).expanduser() if from_environment else None

    @data_dir.setter
    def data_dir(self, value: str | os.PathLike[str] | None) -> None:
        self._data_dir = None if value is None else Path(value).expanduser()

    @contextmanager
    def override(self, **values: Any) -> Iterator[Settings]:
        """Settings for the length of a ``with`` block.

        Parameters
        ----------
        **values
            Settings by name.

        Raises
        ------
        AttributeError
            If there is no setting of that name.
        """
        unknown = [name for name in values if name not in self._names]
        if unknown:
            msg = f"No setting {unknown[0]!r}; there are {', '.join(self._names)}."
            raise AttributeError(msg)
        before = self._verbosity, self._progress, self._data_dir
        try:
            for name, value in values.items():
                setattr(self, name, value)
            yield self
        finally:
            self.verbosity, self.progress, self.data_dir = before

    def __repr__(self) -> str:
        return "Settings(" + ", ".join(f"{n}={getattr(self, n)!r}" for n in self._names) + ")"


def _add_handler() -> None:
    """Messages go to stderr unless the program that imports scssl has set up logging itself."""
    if _LOGGER.handlers or logging.getLogger().handlers:
        return
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    _LOGGER.addHandler(handler)


_add_handler()
settings = Settings()
