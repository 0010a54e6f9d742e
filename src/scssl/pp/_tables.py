"""Tables of names as arguments: files or data frames."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scssl._io import file_digest, read_text_table, texts

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class NameTable:
    """A table of names, and where it is from."""

    frame: pd.DataFrame
    """Strings without white space around, empty where there is nothing."""
    source: str
    """Name of the file, or ``"DataFrame"``."""
    sha256: str
    """Digest of the file, empty for a data frame."""


def read_table(table: Any, *, argument: str, how_to_get: str) -> NameTable:
    """Read a table from a file, or take it as it is.

    Parameters
    ----------
    table
        Path of a text file whose first line has the names of its columns, separated by tabs or
        commas, perhaps compressed; or a data frame.
    argument
        Name of the argument, for messages.
    how_to_get
        Where such a table is to be had, for messages.

    Raises
    ------
    TypeError
        If it is neither.
    FileNotFoundError
        If there is no such file.
    ValueError
        If there are no rows.
    """
    import pandas as pd

    digest = ""
    if isinstance(table, pd.DataFrame):
        frame, source = table, "DataFrame"
    elif isinstance(table, (str, Path)):
        path = Path(table).expanduser()
        if not path.is_file():
            raise FileNotFoundError(f"There is no file {path}. {how_to_get}")
        digest = file_digest(path)
        frame, source = read_text_table(path), path.name
    else:
        raise TypeError(
            f"`{argument}` must be a path or a DataFrame, found {type(table).__name__}. {how_to_get}"
        )
    if not len(frame) or not len(frame.columns):
        raise ValueError(f"`{argument}` ({source}) has no rows. {how_to_get}")
    frame = pd.DataFrame({str(name).strip(): texts(frame[name]) for name in frame.columns})
    return NameTable(frame, source, digest)
