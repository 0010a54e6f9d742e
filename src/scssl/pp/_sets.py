"""Sets of genes from files, dicts and tables, and where their genes are in the data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scssl.data.genes import bare_id

if TYPE_CHECKING:
    from anndata import AnnData


@dataclass(frozen=True)
class Sets:
    """Genes of each set by its name, and where they are from."""

    genes: dict[str, list[str]]
    source: str


def read_sets(source: Any, *, factors: bool = False) -> Sets:
    """Sets of genes from a GMT file, a dict or a table.

    Parameters
    ----------
    source
        What the user gave.
    factors
        Whether they are targets of transcription factors: names of sets in a file end at the first
        underscore, sets of one factor are joined, and the column of a table is called ``tf``.
    """
    import pandas as pd

    if isinstance(source, pd.DataFrame):
        return Sets(_of_table(source, "tf" if factors else "program"), "table")
    if isinstance(source, Mapping):
        found: dict[str, list[str]] = {}
        for name, genes in source.items():
            if isinstance(genes, str):
                raise TypeError(
                    f"The genes of {name!r} must be a list, found the string {genes!r}."
                )
            found[str(name)] = _unique(genes)
        return Sets(found, "dict")
    if isinstance(source, (str, Path)):
        path = Path(source)
        if not path.is_file():
            raise FileNotFoundError(f"There is no file {path}.")
        if path.suffix.lower() in (".csv", ".tsv", ".txt"):
            table = pd.read_csv(path, sep="," if path.suffix.lower() == ".csv" else "\t")
            return Sets(_of_table(table, "tf" if factors else "program"), path.name)
        return Sets(_of_gmt(path, factors=factors), path.name)
    raise TypeError(
        f"Gene sets are a GMT file, a dict or a DataFrame, found {type(source).__name__}."
    )


def read_names(source: str | Path | Sequence[str]) -> list[str]:
    """Names from a list, or from a file with one per line."""
    if isinstance(source, (str, Path)):
        path = Path(source)
        if not path.is_file():
            raise FileNotFoundError(
                f"There is no file {path}. For one name pass a list: [{str(source)!r}]."
            )
        source = path.read_text(encoding="utf-8").split("\n")
    return _unique(source)


def gene_index(adata: AnnData, column: str | None) -> dict[str, list[int]]:
    """Positions of the genes of the data by name, without case and Ensembl version."""
    if column is None:
        names: Iterable[Any] = adata.var_names
    elif column in adata.var:
        names = adata.var[column]
    else:
        there = ", ".join(map(repr, adata.var.columns)) or "no columns"
        raise KeyError(f"adata.var has no {column!r}; it has {there}.")
    index: dict[str, list[int]] = {}
    for position, name in enumerate(names):
        if isinstance(name, str) and name:
            index.setdefault(_key(name), []).append(position)
    return index


def matches(genes: Iterable[str], index: Mapping[str, list[int]]) -> np.ndarray:
    """Positions of genes in the data, ascending, each once."""
    found = {position for gene in genes for position in index.get(_key(gene), ())}
    return np.array(sorted(found), dtype=np.int64)


def _key(name: str) -> str:
    return bare_id(name.strip().upper()).casefold()


def _unique(names: Iterable[Any]) -> list[str]:
    return list(dict.fromkeys(str(name).strip() for name in names if str(name).strip()))


def _of_gmt(path: Path, *, factors: bool) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        name, *rest = line.split("\t")
        if len(rest) < 2:
            raise ValueError(
                f"{path}, line {number}, is not of a GMT file: a name, a description and genes are "
                f"needed, separated by tabs; found {line[:60]!r}."
            )
        name = name.strip().split("_")[0] if factors else name.strip()
        if name in found and not factors:
            raise ValueError(f"{path} has the set {name!r} twice, again in line {number}.")
        found[name] = _unique([*found.get(name, ()), *rest[1:]])
    return found


def _of_table(table: Any, name: str) -> dict[str, list[str]]:
    if {name, "gene"} <= set(table.columns):
        return {
            str(one): _unique(genes)
            for one, genes in table.dropna(subset=[name, "gene"]).groupby(name, sort=False)["gene"]
        }
    kinds = {str(kind) for kind in table.dtypes}
    if kinds == {"bool"}:
        return {str(one): _unique(table.index[table[one]]) for one in table}
    raise ValueError(
        f"The table needs the columns {name!r} and 'gene', or only boolean columns with genes as "
        f"index; it has {', '.join(f'{c} ({t})' for c, t in table.dtypes.head(5).items())}."
    )
