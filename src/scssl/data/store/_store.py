"""A store on disk: cells in random order, their columns, and what is known of all of them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scssl._checks import some
from scssl._errors import BundleError, MissingKeyError
from scssl._io import ALTERED, as_path, file_digest, json_sha256
from scssl.data.genes import GeneVocabulary

from ._annbatch import ShardRows
from ._manifest import CELLS, files_of, read_manifest

if TYPE_CHECKING:
    import pandas as pd


#: Entry of ``uns`` by which the handle of a store is told from data.
HANDLE = "scssl_store"


class Store:
    """Cells that :func:`build_store` put on disk, in random order.

    Opening it reads no cell: columns are memory-mapped, and rows are read when they are asked for. The same
    folder is a collection of annbatch, for programs that read these.

    Parameters
    ----------
    path
        Folder of the store.

    Attributes
    ----------
    genes
        The :class:`GeneVocabulary` of the columns.
    shards
        First and last row of each part, int64 of shape ``(n_shards, 2)``; the last is not included.
    handle
        AnnData without cells, with the genes as ``var_names``.

    Raises
    ------
    BundleError
        If there is no store, its building was not finished, a file of it is missing or has another size, or it
        is of a newer version.
    ImportError
        If annbatch is not installed.

    Examples
    --------
    >>> import scssl
    >>> store = scssl.data.Store("atlas")  # doctest: +SKIP
    """

    def __init__(self, path: str | Path) -> None:
        from anndata import AnnData

        self.path = as_path(path)
        self._manifest = read_manifest(self.path)
        self.genes = GeneVocabulary.from_dict(self._manifest["genes"])
        ends = np.cumsum([shard["n_cells"] for shard in self._manifest["shards"]])
        self.shards = np.column_stack([np.concatenate(([0], ends[:-1])), ends]).astype(np.int64)
        self.handle = AnnData(shape=(0, len(self.genes)), uns={HANDLE: str(self.path)})
        self.handle.var_names = self.genes.names

    @property
    def n_cells(self) -> int:
        """Number of cells."""
        return int(self.shards[-1, 1])

    @property
    def columns(self) -> list[str]:
        """The columns by name, of those asked for and ``"dataset"``, ``"input"`` and ``"row"``, the row in it."""
        return list(self._manifest["columns"])

    @property
    def group_key(self) -> str | None:
        """The column of whose categories cells are next to one another, `None` where all are in random order."""
        found: str | None = self._manifest.get("group_key")
        return found

    @property
    def inputs(self) -> pd.DataFrame:
        """Cells and genes of each input, and how many of the genes of the store it has."""
        import pandas as pd

        names = ["name", "n_cells", "n_genes", "n_matched"]
        return pd.DataFrame(self._manifest["inputs"])[names].set_index("name")

    @property
    def statistics(self) -> dict[str, float]:
        """What was found in the values of all cells when they were read."""
        found = [shard["statistics"] for shard in self._manifest["shards"]]
        return {
            name: (max if name.startswith("largest") else sum)(one[name] for one in found)
            for name in found[0]
        }

    @property
    def gene_statistics(self) -> pd.DataFrame:
        """Sum of the counts of each gene, and number of the cells that have it."""
        import pandas as pd

        (file,) = self._manifest["genes_of_all"]["files"]
        total, n_cells = np.load(self.path / file)
        return pd.DataFrame(
            {"total": total, "n_cells": n_cells.astype(np.int64)}, index=self.genes.names
        )

    @cached_property
    def rows(self) -> ShardRows:
        """The counts, as a :class:`RowSource`."""
        sizes = {shard["name"]: shard["n_cells"] for shard in self._manifest["shards"]}
        return ShardRows(self.path / CELLS, sizes, len(self.genes))

    @cached_property
    def digest(self) -> str:
        """Digest of all that is recorded of the store, and with it of its content."""
        return json_sha256(self._manifest)

    def _column(self, key: str) -> dict[str, Any]:
        if key not in self._manifest["columns"]:
            raise MissingKeyError(
                f"The store has no column {key!r}; it has {some(self.columns, 20)}. Columns are chosen when a "
                "store is built, as its `obs_keys`."
            )
        found: dict[str, Any] = self._manifest["columns"][key]
        return found

    def categories(self, key: str) -> list[str]:
        """Categories of a column, in the order of their codes.

        Parameters
        ----------
        key
            Name of the column.

        Raises
        ------
        KeyError
            If there is no such column.
        ValueError
            If it holds numbers.
        """
        found = self._column(key)["categories"]
        if found is None:
            raise ValueError(
                f"Column {key!r} of the store holds numbers, and no categories. Write them as text into "
                f'the inputs, adata.obs["{key}"].astype(str), and build the store again.'
            )
        return list(found)

    def column(self, key: str) -> np.ndarray:
        """A column as it is stored, memory-mapped.

        Parameters
        ----------
        key
            Name of the column.

        Returns
        -------
        Codes of categories, negative where a value is missing, or numbers; shape ``(n_cells,)``.

        Raises
        ------
        KeyError
            If there is no such column.
        """
        (file,) = self._column(key)["files"]
        values: np.ndarray = np.load(self.path / file, mmap_mode="r")
        return values

    def obs(self, rows: Any = None, keys: Sequence[str] | None = None) -> pd.DataFrame:
        """Columns of some cells, in memory.

        Parameters
        ----------
        rows
            Row numbers or a slice; all cells by default.
        keys
            Names of the columns; all by default.
        """
        import pandas as pd

        rows = slice(None) if rows is None else rows
        found = {}
        for key in self.columns if keys is None else keys:
            values, categories = self.column(key)[rows], self._column(key)["categories"]
            found[key] = (
                np.array(values)
                if categories is None
                else pd.Categorical.from_codes(np.asarray(values), categories)
            )
        return pd.DataFrame(found)

    def cells(self, shard: int) -> pd.DataFrame:
        """Names and columns of the cells of a part.

        Parameters
        ----------
        shard
            Its number.
        """
        import zarr
        from anndata.io import read_elem

        name = self._manifest["shards"][shard]["name"]
        found: pd.DataFrame = read_elem(zarr.open_group(self.path / CELLS / name / "obs", mode="r"))
        return found

    def check(self) -> None:
        """Read every file of the store and compare its digest with that of when it was built.

        Raises
        ------
        BundleError
            If a file is missing or was altered.
        """
        self._manifest = read_manifest(self.path)
        for name, expected in files_of(self._manifest):
            if file_digest(self.path / name) != expected["sha256"]:
                raise BundleError(
                    f"{self.path / name} {ALTERED}. Build the store again, or bring back a copy."
                )

    def __repr__(self) -> str:
        return (
            f"Store({self.n_cells:,} cells × {len(self.genes):,} genes from {len(self.inputs)} inputs, "
            f"{len(self.shards)} shards, columns {some(self.columns, 20)}"
            f"{'' if self.group_key is None else f', by {self.group_key!r}'})"
        )
