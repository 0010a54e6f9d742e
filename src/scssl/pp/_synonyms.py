"""Other and former names of genes, from the tables of those who name them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from scssl.data.genes import Stage

from ._tables import read_table

HOW_TO_GET = (
    "To get a table of synonyms, save for human "
    "https://storage.googleapis.com/public-download-files/hgnc/tsv/tsv/hgnc_complete_set.txt, for "
    "mouse https://www.informatics.jax.org/downloads/reports/MRK_List2.rpt, or the gene_info file of "
    "a species from https://ftp.ncbi.nlm.nih.gov/gene/DATA/GENE_INFO. A dict of symbols by synonym or "
    "a table with the columns 'synonym' and 'symbol' will do as well."
)

# Columns, in lower case, by what they hold, and what separates several synonyms in a field.
_SYMBOLS = ("symbol", "approved symbol", "marker symbol", "gene name")
_SYNONYMS = {
    "alias_symbol": "|",
    "prev_symbol": "|",
    "alias symbols": ",",
    "previous symbols": ",",
    "alias symbol": None,
    "previous symbol": None,
    "marker synonyms (pipe-separated)": "|",
    "synonyms": "|",
    "gene synonym": None,
    "synonym": None,
    "alias": None,
}


class Synonyms:
    """Symbols by their other names.

    Parameters
    ----------
    table
        A file, a data frame or a dict, as :func:`scssl.pp.match_genes` describes them.

    Raises
    ------
    FileNotFoundError, TypeError, ValueError
        If it is none of these, or has no such columns.
    """

    def __init__(self, table: Any) -> None:
        self._symbols: dict[str, set[str]] = defaultdict(set)
        self.source, self.sha256 = "dict", ""
        if isinstance(table, Mapping):
            for synonym, symbols in table.items():
                self._add(symbols if not isinstance(symbols, str) else [symbols], str(synonym))
            self._approved = {name for names in self._symbols.values() for name in names}
        else:
            self._read(table)

    def _add(self, symbols: Iterable[Any], synonym: str) -> None:
        if synonym.strip():
            self._symbols[synonym.strip()].update(str(symbol).strip() for symbol in symbols)

    def _read(self, table: Any) -> None:
        read = read_table(table, argument="synonyms", how_to_get=HOW_TO_GET)
        columns = {name.casefold().removeprefix("#"): name for name in read.frame}
        symbol = next((columns[name] for name in _SYMBOLS if name in columns), None)
        found = {
            columns[name]: separator for name, separator in _SYNONYMS.items() if name in columns
        }
        if symbol is None or not found:
            there = ", ".join(map(repr, read.frame.columns[:10]))
            raise ValueError(
                f"`synonyms` ({read.source}) needs a column of symbols and one of their synonyms; it has "
                f"{there}. {HOW_TO_GET}"
            )
        self.source, self.sha256 = read.source, read.sha256
        self._approved = set(read.frame[symbol]) - {""}
        for column, separator in found.items():
            for name, field in zip(read.frame[symbol], read.frame[column], strict=True):
                # A hyphen is how NCBI writes that there are none.
                if not name or field in ("", "-"):
                    continue
                for synonym in field.split(separator) if separator else [field]:
                    self._add([name], synonym)

    def symbols_of(self, name: str) -> list[str]:
        """Symbols that a name may stand for, sorted; the name itself if it is a symbol."""
        if name in self._approved:
            return [name]
        return sorted(self._symbols.get(name, ()))

    def stage(self, model: pd.Index, query: pd.Index) -> Stage:
        """Look genes up by the symbol that their name stands for, on both sides."""
        keys, wanted = (
            pd.Index([self._symbol(name) for name in names], dtype=object)
            for names in (model, query)
        )
        return Stage("synonym", keys, np.arange(len(model)), wanted)

    def _symbol(self, name: str) -> str:
        symbols = self.symbols_of(name)
        return symbols[0] if len(symbols) == 1 else name
