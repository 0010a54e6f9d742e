"""Tables of names: read as text, for a gene may be called NA."""

from __future__ import annotations

import csv
import hashlib
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ._files import as_path

if TYPE_CHECKING:
    import pandas as pd


def read_text_table(path: Path) -> pd.DataFrame:
    """Frame of strings from a text file whose first line has the names of its columns.

    They are separated by tabs or commas, and the file may be compressed. An empty file has no columns.
    """
    import pandas as pd

    options: dict[str, Any] = {
        "dtype": str,
        "keep_default_na": False,
        "index_col": False,
        "encoding": "utf-8-sig",
        "encoding_errors": "replace",
    }
    # A quotation mark in a table with tabs may be part of a name; those around a field are not.
    tabs = {"sep": "\t", "quoting": csv.QUOTE_NONE}
    with warnings.catch_warnings():
        # Some reports end every row, but not the first line, with a separator.
        warnings.filterwarnings("ignore", "Length of header", pd.errors.ParserWarning)
        try:
            if len(pd.read_csv(path, nrows=0, **tabs, **options).columns) > 1:
                frame = pd.read_csv(path, **tabs, **options)
            else:
                frame = pd.read_csv(path, **options)
        except pd.errors.EmptyDataError:
            return pd.DataFrame()
    return frame.rename(columns=lambda name: _unquoted(name.strip()))


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
    """Table that is given as `argument`: a data frame, or the path for :func:`read_text_table`.

    Raises, with where such a table is to be had (`how_to_get`), if it is neither, there is no such
    file, or there are no rows.
    """
    import pandas as pd

    digest = ""
    if isinstance(table, pd.DataFrame):
        frame, source = table, "DataFrame"
    elif isinstance(table, (str, Path)):
        path = as_path(table)
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


def texts(column: Any) -> list[str]:
    """Values of a column as strings without quotation marks and white space around; empty if missing."""
    return [
        "" if missing else _unquoted(str(value).strip())
        for value, missing in zip(column, column.isna(), strict=True)
    ]


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _unquoted(text: str) -> str:
    if len(text) > 1 and text[0] == text[-1] == '"':
        return text[1:-1].strip()
    return text
