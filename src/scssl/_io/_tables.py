"""Tables of names: read as text, for a gene may be called NA."""

from __future__ import annotations

import csv
import hashlib
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd


def read_text_table(path: Path) -> pd.DataFrame:
    """Read a text file whose first line has the names of its columns.

    Parameters
    ----------
    path
        The file, with columns separated by tabs or commas, perhaps compressed.

    Returns
    -------
    Frame of strings; without columns if the file is empty.
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
