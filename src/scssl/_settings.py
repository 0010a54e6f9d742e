"""Settings of the session: how much is said, where data sets are."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TextIO, get_args

Verbosity = Literal["error", "warning", "info", "debug"]

_LOGGER = logging.getLogger("scssl")


class _Stderr(logging.StreamHandler[TextIO]):
    """Messages on stderr, unless the program that uses scssl has set up logging itself."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)
        self.setFormatter(logging.Formatter("%(message)s"))

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        # Looked up at each message: notebooks and test runners replace it after the import.
        return sys.stderr

    def emit(self, record: logging.LogRecord) -> None:
        if logging.getLogger().handlers:
            return
        # Of processes that train together all find the same; what goes wrong each says itself.
        ranks = (os.environ.get(name) for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"))
        if record.levelno >= logging.WARNING or next(filter(None, ranks), "0") == "0":
            super().emit(record)


class Settings:
    """Session-wide settings, one instance of which is ``scssl.settings``.

    A setting is only ever the default of an argument that a call leaves open; it never overrides
    what a call says.

    Examples
    --------
    >>> import scssl
    >>> with scssl.settings.override(progress=False):
    ...     scssl.settings.progress
    False
    >>> scssl.settings.progress
    True
    """

    _names = ("verbosity", "progress", "data_dir")

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Back to the defaults."""
        self.verbosity = "info"
        self._progress = True
        self._data_dir: Path | None = None

    @property
    def verbosity(self) -> Verbosity:
        """Level of the logger ``scssl``: ``"error"``, ``"warning"``, ``"info"`` or ``"debug"``."""
        return self._verbosity

    @verbosity.setter
    def verbosity(self, value: Verbosity) -> None:
        if value not in get_args(Verbosity):
            raise ValueError(
                f"`verbosity` must be one of {', '.join(get_args(Verbosity))}; found {value!r}."
            )
        self._verbosity: Verbosity = value
        _LOGGER.setLevel(value.upper())

    @property
    def progress(self) -> bool:
        """Whether progress is shown where a call does not say; it is by default."""
        return self._progress

    @progress.setter
    def progress(self, value: bool) -> None:
        if not isinstance(value, bool):
            raise TypeError(f"`progress` must be True or False; found {value!r}.")
        self._progress = value

    @property
    def data_dir(self) -> Path | None:
        """Folder with data sets, by default the environment variable ``SCSSL_DATA_DIR``."""
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
        """Change settings for the length of a ``with`` block.

        Parameters
        ----------
        **values
            Settings by name.

        Yields
        ------
        The settings.

        Raises
        ------
        AttributeError
            If there is no setting of that name.
        """
        unknown = [name for name in values if name not in self._names]
        if unknown:
            raise AttributeError(f"No setting {unknown[0]!r}; there are {', '.join(self._names)}.")
        before = self._verbosity, self._progress, self._data_dir
        try:
            for name, value in values.items():
                setattr(self, name, value)
            yield self
        finally:
            self.verbosity, self._progress, self._data_dir = before

    def __repr__(self) -> str:
        return "Settings(" + ", ".join(f"{n}={getattr(self, n)!r}" for n in self._names) + ")"


_LOGGER.addHandler(_Stderr())
settings = Settings()
