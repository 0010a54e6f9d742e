"""The table that says which gene each input of a published checkpoint is."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scssl._checks import some
from scssl._errors import BundleError, GeneMismatchError
from scssl._io import as_path, file_digest, read_text_table, texts
from scssl.data.genes import bare_id, detect_id_type

if TYPE_CHECKING:
    import pandas as pd

ID, SYMBOL = "feature_id", "feature_name"


@dataclass(frozen=True)
class GeneOrder:
    """By what a table of genes is recognised, since the order itself is not shipped."""

    n_genes: int
    """Number of genes."""
    first: tuple[str, ...]
    """Ids of the first genes."""
    last: tuple[str, ...]
    """Ids of the last genes."""
    first_sha256: tuple[int, str] | None = None
    """How many of the first ids, joined by line breaks, have which digest."""
    name: str = "scTab"
    """Of the data set, for messages."""


#: The protein-coding genes of scTab, in the order of the CELLxGENE census, which is not sorted.
SCTAB = GeneOrder(
    19_331,
    tuple(f"ENSG00000{n}" for n in (186092, 284733, 284662, 187634, 188976)),
    tuple(f"ENSG00000{n}" for n in (288702, 288705, 182484, 288622, 285815)),
    (1000, "91bb8d67b7f97c2328235978e5098ad1a7b4846600c4079d0b87e824229c546b"),
)


@dataclass(frozen=True)
class GeneTable:
    """Genes in the order of a network's inputs."""

    ids: tuple[str, ...]
    """Ensembl ids."""
    symbols: tuple[str, ...] | None
    """Symbols, empty where a gene has none; `None` if the table has no such column."""
    source: str
    """Name of the file, or the kind of object."""
    sha256: str | None
    """Digest of the file."""


def read_gene_table(
    table: str | Path | pd.DataFrame | Sequence[str], *, order: GeneOrder = SCTAB
) -> GeneTable:
    """Read a table of genes: a ``.parquet``, ``.csv`` or ``.tsv`` file, a data frame, or the ids alone.

    It has the columns ``feature_id`` and ``feature_name``, and its rows are in the order of the inputs of
    the network. Where it is as long as `order`, it must be that; of others no order is known.
    """
    frame, digest, source = _read_frame(table)
    ids = tuple(texts(frame[ID]))
    _check_ids(ids, order, source)
    symbols = tuple(texts(frame[SYMBOL])) if SYMBOL in frame else None
    return GeneTable(ids, symbols, source, digest)


def read_symbols(
    table: str | Path | pd.DataFrame, genes: Sequence[str]
) -> tuple[list[str], dict[str, Any]]:
    """Symbol of each of these genes, empty where the table has none, and where they are from.

    The genes are ids without versions. The table is as for :func:`read_gene_table`, but in any order, and
    a data frame may have the ids as its index.
    """
    frame, digest, source = _read_frame(table, ids_in_index=True)
    if SYMBOL not in frame:
        raise GeneMismatchError(
            f"The table of symbols ({source}) has no {SYMBOL!r}, but {some(frame.columns, 10)}."
        )
    ids = [bare_id(name) for name in texts(frame[ID])]
    by_id = dict(zip(ids, texts(frame[SYMBOL]), strict=True))
    symbols = [by_id.get(name, "") for name in genes]
    n = sum(map(bool, symbols))
    if not n:
        raise GeneMismatchError(
            f"The table of symbols ({source}) has none of the {len(genes):,} genes, which are like "
            f"{some(genes[:3])}; its ids are like {some(ids[:3])}."
        )
    return symbols, {"source": source, "sha256": digest, "n": n}


def _read_frame(
    table: str | Path | pd.DataFrame | Sequence[str], *, ids_in_index: bool = False
) -> tuple[pd.DataFrame, str | None, str]:
    """A table with a column of ids, the digest of its file, and what to call it."""
    import pandas as pd

    if isinstance(table, (str, Path)):
        path = as_path(table)
        frame, digest, source = _read_file(path), file_digest(path), path.name
    elif isinstance(table, pd.DataFrame):
        frame, digest, source = table, None, "DataFrame"
    else:
        frame, digest, source = pd.DataFrame({ID: list(table)}), None, type(table).__name__
    if ID not in frame and (frame.index.name == ID or (ids_in_index and _are_ids(frame.index))):
        frame = frame.rename_axis(ID).reset_index()
    if ID not in frame:
        raise GeneMismatchError(
            f"The gene table ({source}) has no column {ID!r} with Ensembl ids, but "
            f"{some(frame.columns, 10) or 'none'}."
        )
    return frame, digest, source


def _are_ids(names: pd.Index) -> bool:
    return len(names) > 0 and detect_id_type(names.astype(str).to_numpy()) == "ensembl"


def _check_ids(ids: tuple[str, ...], order: GeneOrder, source: str) -> None:
    if "" in ids:
        raise GeneMismatchError(f"The gene table ({source}) has no id in row {ids.index('')}.")
    if len(set(ids)) != len(ids):
        twice = sorted(name for name, n in Counter(ids).items() if n > 1)
        raise GeneMismatchError(
            f"The gene table ({source}) has {len(twice):,} ids more than once: {some(twice)}."
        )
    if len(ids) != order.n_genes:
        return
    expected = dict(enumerate(order.first))
    expected |= {order.n_genes - len(order.last) + i: name for i, name in enumerate(order.last)}
    wrong = next((row for row, name in expected.items() if ids[row] != name), None)
    if wrong is not None:
        problem = f"row {wrong} is {ids[wrong]!r}, {expected[wrong]!r} is expected"
    else:
        n, digest = order.first_sha256 or (0, None)
        if digest in (None, hashlib.sha256("\n".join(ids[:n]).encode()).hexdigest()):
            return
        problem = f"the first {n:,} rows are not those expected"
    raise GeneMismatchError(
        f"The gene table ({source}) is not in the order of {order.name}: {problem}. Rows must be those "
        f"of the var.parquet beside the checkpoints, in its order, with ids without version in {ID!r}."
    )


def _read_file(path: Path) -> Any:
    import pandas as pd

    if not path.is_file():
        raise BundleError(f"There is no file {path} with the table of genes.")
    suffix = path.suffix.lower()
    if suffix in (".csv", ".tsv", ".txt"):
        return read_text_table(path)
    columns = f"with the columns {ID} and {SYMBOL}"
    if suffix not in (".parquet", ".pq"):
        raise BundleError(f"{path} must be a .parquet, .csv or .tsv file {columns}.")
    try:
        return pd.read_parquet(path)
    except ImportError as error:
        raise ImportError(
            f"Reading {path.name} needs pyarrow: `pip install 'scssl[published]'`. Or pass the same table as "
            f".csv or .tsv, {columns}."
        ) from error
    except (OSError, ValueError) as error:
        raise BundleError(f"{path} cannot be read as parquet: {error}") from error
