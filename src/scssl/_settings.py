"""Settings of the session: whether progress is shown, where data sets are."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


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

    _names = ("progress", "data_dir")

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Back to the defaults."""
        self._progress = True
        self._data_dir: Path | None = None

    @property
    def progress(self) -> bool:
        """Whether progress is shown where a call does not say; it is by default."""
        return self._progress

    @progress.setter
    def progress(self, value: bool) -> None:
        if not isinstance(value, bool):
            msg = f"`progress` must be True or False; found {value!r}."
            raise TypeError(msg)
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
            msg = f"No setting {unknown[0]!r}; there are {', '.join(self._names)}."
            raise AttributeError(msg)
        before = self._progress, self._data_dir
        try:
            for name, value in values.items():
                setattr(self, name, value)
            yield self
        finally:
            self._progress, self._data_dir = before

    def __repr__(self) -> str:
        return "Settings(" + ", ".join(f"{n}={getattr(self, n)!r}" for n in self._names) + ")"


settings = Settings()
