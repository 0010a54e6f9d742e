"""Cells of any number of inputs, put on disk in random order: in two passes, in little memory, resumable.

The first pass reads the inputs in order and appends every cell to a bucket that is drawn for it; the second
puts the cells of each bucket into an order that is drawn too, and writes it as a shard. All that is drawn is
a function of the seed and of the place of a cell in the inputs. Where cells of a group are to be next to one
another, a bucket is drawn among those of its group.
"""

from __future__ import annotations

import ctypes
import errno
import logging
import re
import shutil
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from anndata import AnnData

from scssl._checks import check_key, number, some
from scssl._errors import GeneMismatchError, MissingKeyError, warn
from scssl._io import check_place, parse_json
from scssl._random import RNG, as_seed, derive_generator
from scssl.data.genes import GeneAlignment, GeneVocabulary
from scssl.data.matrix import (
    csr_from_parts,
    even_ranges,
    find_counts,
    resolve_input,
    row_sums,
    rows_of,
    scan_matrix,
)

from ._annbatch import finish_collection, need_annbatch, read_codes, write_shard
from ._inputs import Input, as_inputs
from ._manifest import (
    CELLS,
    COLUMNS,
    FORMAT_VERSION,
    JOURNAL,
    MANIFEST,
    WORK,
    describe_files,
    partial_of,
    read_manifest,
    write_json,
)
from ._store import Store

if TYPE_CHECKING:
    from scipy import sparse

_LOGGER = logging.getLogger("scssl")
_UNITS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}
# Parts of the memory: a shard is in it in four forms at once, and compressed; a block of the first pass in
# three with larger types, and is small enough that memory is used again without being mapped anew.
_SHARD_SHARE, _BLOCK_SHARE = 12, 192
_SAMPLE = 256
_COUNTED = 2**18
# Above, float32 is not exact, nor would models be.
_LARGEST = 2**24
_OWN = ("dataset", "input", "row")
_FEW_GENES = 0.1


def build_store(
    inputs: Mapping[str, Any] | Sequence[Any] | str | Path | AnnData,
    out: str | Path,
    *,
    genes: Literal["union", "intersection"] | GeneVocabulary | Sequence[str] = "union",
    layer: str | None = None,
    obs_keys: Sequence[str] = (),
    dataset_key: str | None = None,
    group_key: str | None = None,
    memory: str | int = "1GB",
    append: bool = False,
    rng: RNG = 0,
) -> Store:
    """Put the counts of many cells on disk in random order, to train on any number of them.

    Genes are matched by name, every value is checked as :meth:`~scssl.model.MaskedAutoencoder.setup_anndata` does, and counts are
    kept in the smallest type that holds all. The store is built beside its place, in ``<out>.partial``, and
    is moved there when it is whole. A build that was interrupted, in whatever way, goes on where it was when
    it is called again, and ends with the same store.

    Parameters
    ----------
    inputs
        Files (``.h5ad``, Zarr, ``.h5`` of 10x Genomics with Ensembl ids as names) or AnnData, also such as
        are read lazily; in a list, or by name in a dict. Files are called as without their ending. Those in
        column-compressed form are read as a whole for every block of cells.
    out
        Folder to write, such as ``"atlas"``.
    genes
        ``"union"``: genes of all inputs, those that an input lacks are zero in its cells; ``"intersection"``;
        or the genes to keep.
    layer
        Layer of the inputs with the counts, ``X`` by default.
    obs_keys
        Columns of ``obs`` to keep: numbers as such, all else as categories. They are missing in cells of
        inputs that do not have them.
    dataset_key
        Column of ``obs`` with the data set of a cell, where an input holds several; by default each input
        is one.
    group_key
        One of `obs_keys`, or ``"dataset"`` or ``"input"``, of whose categories the cells are to be next to one
        another, each in random order: the samples of models whose cells see those of their sample, such as
        :class:`~scssl.model.CellPLM`. Other models need cells that are all in random order, the default.
    memory
        How much memory to use, in bytes or as a text with a unit. It decides how large shards are.
    append
        Add inputs that are not in the store `out` yet to it, with its genes. What it has stays as it is.
    rng
        Seed of the order of the cells.

    Returns
    -------
    Store
        The store, opened.

    Raises
    ------
    FileNotFoundError
        If an input is not there.
    GeneMismatchError
        If inputs share no genes, or an input has none of those to keep.
    KeyError
        If a layer or column does not exist.
    OSError
        If there is no room left; what was built stays, to go on.
    ValueError
        If values are no counts; if `out` is there already; or if a build that was interrupted was of other
        inputs or arguments, or an input has changed since.
    ImportError
        If annbatch is not installed.

    Examples
    --------
    >>> import scssl
    >>> store = scssl.data.build_store(
    ...     ["blood.h5ad", "lung.h5ad"], "atlas", obs_keys=["cell_type", "donor"]
    ... )  # doctest: +SKIP
    """
    need_annbatch()
    out = check_place(out, "out", folder=True)
    given = {
        "layer": layer,
        "obs_keys": list(dict.fromkeys([obs_keys] if isinstance(obs_keys, str) else obs_keys)),
        "dataset_key": dataset_key,
        "group_key": group_key,
        "memory": memory,
        "append": append,
        "rng": as_seed(rng),
    }
    base = None
    if append:
        base = read_manifest(out)
    elif out.exists() and any(out.iterdir()):
        raise ValueError(
            f"{out} exists already. Give another `out`, or add to the store that it is: `append=True`"
        )
    found = as_inputs(inputs, layer)
    try:
        with _room(out):
            build = _Build(found, out, genes, given, base)
            build.run()
    finally:
        for one in found:
            one.close()
    return Store(out)


@contextmanager
def _room(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise OSError(
            errno.ENOSPC,
            f"There is no room left to build {out}. What was done is in {partial_of(out)}; make room "
            "and call it again to go on from there",
        ) from error


def _return_free_memory() -> None:
    """Give the system what is free of the heap.

    The arrays of a shard are of a size that glibc takes from the heap, and gaps between what outlives them are too
    short for those of the next: without this the heap grows with the number of shards.
    """
    if sys.platform == "linux":
        # Other C libraries have no such function, and no such heap.
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)


def _n_bytes(memory: str | int) -> int:
    """Bytes that a text such as "1GB" stands for."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)i?B?\s*", str(memory), re.IGNORECASE)
    found = 0 if match is None else int(float(match[1]) * 1024 ** _UNITS[match[2].upper()])
    if found < 2**20:
        raise ValueError(
            f'`memory` must be at least a megabyte, such as "1GB", found {memory!r}. Pass '
            '`memory="1GB"`.'
        )
    return found


@dataclass(frozen=True)
class _Kept:
    """A column of the store: categories or numbers."""

    name: str
    categories: list[str] | None

    @property
    def dtype(self) -> np.dtype:
        """Of its numbers, or of the codes of its categories."""
        if self.categories is None:
            return np.dtype(np.int64 if self.name == "row" else np.float64)
        return np.min_scalar_type(-len(self.categories) - 1)

    def of(self, one: Input, dataset_key: str | None) -> np.ndarray:
        """Numbers or codes of the cells of an input."""
        n_cells = one.rows.shape[0]
        if self.name == "row":
            return np.arange(n_cells)
        key = {"dataset": dataset_key, "input": None}.get(self.name, self.name)
        values = None if key is None else one.column(key)
        if self.categories is None:
            return np.full(n_cells, np.nan) if values is None else values.to_numpy(float)
        if values is not None:
            # As text once for each that there is, and not for each cell.
            number, there = pd.factorize(values)
            codes = pd.Index(self.categories).get_indexer(there.astype("string"))
            return np.append(codes, -1)[number].astype(self.dtype)
        code = self.categories.index(one.name) if self.name in _OWN else -1
        return np.full(n_cells, code, self.dtype)


@dataclass(frozen=True)
class _Groups:
    """Groups whose cells are to be next to one another in the store."""

    key: str
    #: Number of the column.
    column: int
    #: Share of the cells up to the end of each group; the first is of cells without one.
    ends: np.ndarray

    def buckets(self, codes: np.ndarray, n_buckets: int, rng: np.random.Generator) -> np.ndarray:
        """A bucket for each cell: one group after another, in as many as it fills."""
        code = codes.astype(np.int64) + 1
        starts = np.concatenate(([0.0], self.ends[:-1]))[code]
        place = starts + (self.ends[code] - starts) * rng.random(len(code))
        return np.minimum(place * n_buckets, n_buckets - 1).astype(np.int64)


class _Part:
    """Some cells on their way through a bucket."""

    def __init__(
        self, csr: sparse.csr_matrix, columns: list[np.ndarray], cells: np.ndarray
    ) -> None:
        self.csr, self.columns, self.cells = csr, columns, cells

    def append(self, path: Path, size: int, index_type: np.dtype) -> int:
        """Write them behind the first `size` bytes of a file, and give its new size."""
        names = "\0".join(self.cells).encode()
        csr = self.csr
        header = [csr.shape[0], csr.nnz, csr.data.dtype.itemsize, len(names)]
        with path.open("r+b" if path.exists() else "w+b") as file:
            # What a build wrote and did not note before it was killed.
            file.truncate(size)
            file.seek(size)
            for values in (
                np.array(header, dtype=np.int64),
                np.diff(csr.indptr).astype(np.int32),
                *self.columns,
                csr.data,
                csr.indices.astype(index_type),
            ):
                file.write(np.ascontiguousarray(values).data)
            file.write(names)
            return file.tell()

    @classmethod
    def read(
        cls,
        path: Path,
        size: int,
        columns: Sequence[np.dtype],
        *,
        index_type: np.dtype,
        count_type: np.dtype,
        n_genes: int,
    ) -> _Part:
        """All cells in the first `size` bytes of a file."""
        content = path.read_bytes()[:size]
        place = 0

        def take(dtype: Any, n: int) -> np.ndarray:
            nonlocal place
            found = np.frombuffer(content, dtype, n, place)
            place += found.nbytes
            return found

        found: list[tuple[np.ndarray, ...]] = []
        names: list[str] = []
        while place < size:
            n_cells, n_values, width, n_bytes = take(np.int64, 4).tolist()
            lengths = take(np.int32, n_cells)
            values = [take(dtype, n_cells) for dtype in columns]
            data, indices = take(f"u{width}", n_values), take(index_type, n_values)
            names += content[place : place + n_bytes].decode().split("\0")
            place += n_bytes
            found.append((lengths, *values, data, indices))
        dtypes: list[Any] = [np.int64, *columns, count_type, np.int32]
        lengths, *values, data, indices = (
            np.concatenate(one, dtype=dtype, casting="unsafe")
            for one, dtype in zip(zip(*found, strict=True), dtypes, strict=True)
        )
        indptr = np.concatenate(([0], np.cumsum(lengths)))
        if indptr[-1] <= np.iinfo(np.int32).max:
            indptr = indptr.astype(np.int32)
        csr = csr_from_parts(data, indices, indptr, (len(lengths), n_genes))
        return cls(csr, values, np.array(names, dtype=object))

    def in_order(self, order: np.ndarray) -> _Part:
        """The same cells in another order; those here are gone."""
        csr, self.csr = self.csr[order], None
        return _Part(csr, [values[order] for values in self.columns], self.cells[order])


def _statistics(csr: sparse.csr_matrix) -> dict[str, float]:
    sums = row_sums(csr, np.float64)
    filled = sums[sums > 0]
    return {
        "stored values": int(csr.nnz),
        "empty cells": int(len(sums) - len(filled)),
        "largest value": int(csr.data.max(initial=0)),
        "sum of all": float(sums.sum()),
        "largest sum of a cell": float(sums.max(initial=0)),
    }


def _of_genes(csr: sparse.csr_matrix) -> np.ndarray:
    """Sum of the counts of each gene, and number of the cells that have it."""
    found = np.zeros((2, csr.shape[1]))
    # In pieces: they are counted as 64-bit numbers, eight times what is stored.
    for start, stop in even_ranges(csr.nnz, _COUNTED):
        genes, counts = csr.indices[start:stop], csr.data[start:stop]
        for total, weights in zip(found, (counts, None), strict=True):
            total += np.bincount(genes, weights, csr.shape[1])
    return found


class _Build:
    """One call of :func:`build_store`, from its plan to the store."""

    def __init__(
        self,
        inputs: list[Input],
        out: Path,
        genes: Any,
        given: dict[str, Any],
        base: dict[str, Any] | None,
    ) -> None:
        self.out, self.given, self.base = out, given, base
        self.folder, self.seed = partial_of(out), given["rng"]
        known = [] if base is None else [one["identity"] for one in base["inputs"]]
        self.inputs = [one for one in inputs if one.identity not in known]
        taken = set() if base is None else {one["name"] for one in base["inputs"]}
        for one in self.inputs:
            if one.name in taken:
                raise ValueError(
                    f"{one.called} is not the one that the store has under this name. Give it another name, in "
                    "a dict of inputs."
                )
        self.genes = self._vocabulary(genes)
        self.columns = self._columns()
        self.group = self._group()
        self.alignments = [self._align(one) for one in self.inputs]
        self.plan = self._plan()
        self.journal = self._open_journal() if self.inputs else {}

    # --- what is to be done --------------------------------------------------------------------

    def _vocabulary(self, genes: Any) -> GeneVocabulary:
        if self.base is not None:
            return GeneVocabulary.from_dict(self.base["genes"])
        if isinstance(genes, GeneVocabulary):
            return genes
        if not isinstance(genes, str):
            return GeneVocabulary(genes)
        if genes not in ("union", "intersection"):
            raise ValueError(
                f'`genes` must be "union", "intersection" or a list of genes, found {genes!r}.'
            )
        combine = getattr(GeneVocabulary, genes)
        combined: GeneVocabulary = combine({one.name: one.genes for one in self.inputs})
        return combined

    def _align(self, one: Input) -> GeneAlignment:
        found = self.genes.align(one.genes, min_overlap=0)
        if not found.n_matched:
            raise GeneMismatchError(
                f"{one.called} has none of the {len(self.genes):,} genes of the store "
                f"({some(self.genes.names)}); its own are {some(one.genes)}. If its names are of another "
                "kind or species, rename them first: scssl.pp.match_genes says what fits. Or leave it out."
            )
        if found.overlap < _FEW_GENES:
            warn(
                f"{one.called} has {found.n_matched:,} of the {len(self.genes):,} genes of the store; the others "
                "are zero in its cells."
            )
        return found

    def _columns(self) -> list[_Kept]:
        """The columns to keep, with the categories of all inputs."""
        keys, dataset_key = self.given["obs_keys"], self.given["dataset_key"]
        before = {} if self.base is None else self.base["columns"]
        if self.base is not None:
            keys = [key for key in before if key not in _OWN]
        for key in keys:
            check_key(key, "obs_keys")
            if key in _OWN:
                raise ValueError(f"Every store has a column {key!r}. Leave it out of `obs_keys`.")
        kept, names = [], [one.name for one in self.inputs]
        for key in keys:
            kept.append(self._column(key, before.get(key)))
        datasets = names
        if dataset_key is not None:
            datasets = self._column(dataset_key, None).categories or []
            datasets += names if any(one.column(dataset_key) is None for one in self.inputs) else []
        for own, new in (("dataset", datasets), ("input", names)):
            old = before[own]["categories"] if before else []
            kept.append(_Kept(own, list(dict.fromkeys([*old, *new]))))
        return [*kept, _Kept("row", None)]

    def _column(self, key: str, before: Mapping[str, Any] | None) -> _Kept:
        found = {one.name: values for one in self.inputs if (values := one.column(key)) is not None}
        if not found and before is None:
            raise MissingKeyError(f"No input has a column {key!r} in obs.")
        numeric = {name: values.dtype.kind in "iuf" for name, values in found.items()}
        if before is not None:
            numeric["the store"] = before["categories"] is None
        if len(set(numeric.values())) > 1:
            numbers = [name for name, is_numeric in numeric.items() if is_numeric]
            raise ValueError(
                f'adata.obs["{key}"] holds numbers in {some(numbers)} and names in others. Make it names '
                f'there: `adata.obs["{key}"] = adata.obs["{key}"].astype(str)`'
            )
        if any(numeric.values()):
            return _Kept(key, None)
        names = {name for values in found.values() for name in values.dropna().unique().astype(str)}
        old = [] if before is None else before["categories"]
        # Codes that are there already keep their meaning.
        return _Kept(key, [*old, *sorted(names - set(old))])

    def _group(self) -> _Groups | None:
        """The groups whose cells are to be next to one another, and their sizes."""
        key = self.given["group_key"]
        if self.base is not None:
            key, asked = self.base.get("group_key"), key
            if asked not in (None, key):
                raise ValueError(
                    f"The store is laid out by {key!r}, and cells are added to it in the same way; found "
                    f"{asked!r}. Leave it out: `group_key=None`"
                )
        if key is None:
            return None
        columns = {column.name: column for column in self.columns if column.categories is not None}
        if key not in columns:
            raise ValueError(
                f"`group_key` must be a column of categories that the store has, one of {some(columns, 20)}; "
                f"found {key!r}. Add it to `obs_keys`, as text."
            )
        column, sizes = columns[key], np.zeros(len(columns[key].categories or ()) + 1)
        for one in self.inputs:
            codes = column.of(one, self.given["dataset_key"])
            sizes += np.bincount(codes.astype(np.int64) + 1, minlength=len(sizes))
        return _Groups(key, self.columns.index(column), np.cumsum(sizes / max(sizes.sum(), 1)))

    def _plan(self) -> dict[str, Any]:
        """All that the result depends on; of the same plan comes the same store."""
        memory = _n_bytes(self.given["memory"])
        cells, values, blocks = 0, 0.0, []
        for one, alignment in zip(self.inputs, self.alignments, strict=True):
            n_cells = one.rows.shape[0]
            # Evenly spaced: the first cells of a sorted file may be the deepest.
            some_rows = np.unique(np.linspace(0, max(n_cells - 1, 0), _SAMPLE).astype(np.int64))
            sample = one.rows.read(some_rows[:n_cells])
            per_cell = max(1.0, sample.nnz / max(1, sample.shape[0]))
            kept = alignment.apply(sample).nnz / max(1, sample.shape[0])
            blocks.append(int(np.clip(memory / _BLOCK_SHARE / per_cell, 64, 2**16)))
            cells, values = cells + n_cells, values + n_cells * kept
            one.close()
        width = 2 + self._index_type.itemsize
        return {
            "out": str(self.out.resolve()),
            **{name: value for name, value in self.given.items() if name != "memory"},
            "genes": self.genes.hash,
            "inputs": [
                {"name": one.name, "n_cells": one.rows.shape[0], "identity": one.identity}
                for one in self.inputs
            ],
            "cells": cells,
            "blocks": blocks,
            "shards": max(1, int(np.ceil(values * width * _SHARD_SHARE / memory))),
            "store": None if self.base is None else self.base["shards"],
        }

    @property
    def _index_type(self) -> np.dtype:
        return np.min_scalar_type(max(0, len(self.genes) - 1) or 255)

    # --- the journal ---------------------------------------------------------------------------

    def _open_journal(self) -> dict[str, Any]:
        path = self.folder / JOURNAL
        if path.is_file():
            found = parse_json(path.read_bytes(), path)
            self._check_same(found["plan"])
            return found
        return {
            "plan": self.plan,
            "call": self._call(),
            "input": 0,
            "row": 0,
            "largest": 0,
            "sizes": [0] * self.plan["shards"],
            "shards": {},
        }

    def _check_same(self, before: Mapping[str, Any]) -> None:
        """Refuse to go on with another build."""
        again = f"`import shutil; shutil.rmtree({str(self.folder)!r})`"
        then = {one["name"]: one for one in before["inputs"]}
        for one in self.plan["inputs"]:
            now, was = one["identity"], then.get(one["name"], one)["identity"]
            changed = [key for key in now if was.get(key) != now[key]]
            if changed:
                raise ValueError(
                    f"Input {one['name']!r} has changed since a part of it was read for {self.folder}: its "
                    f"{changed[-1]} is another one. To start anew: {again}"
                )
        other = [name for name in self.plan if before.get(name) != self.plan[name]]
        if other:
            raise ValueError(
                f"{self.folder} is a part of another build: its {other[0]} is {_short(before.get(other[0]))}, of "
                f"this one {_short(self.plan[other[0]])}. Call it as then, or start anew: {again}"
            )

    def _call(self) -> str:
        """What to type to go on; empty where an input is in memory."""
        if not all(isinstance(one.of, Path) for one in self.inputs):
            return ""
        usual: dict[str, Any]
        usual = {"layer": None, "obs_keys": [], "dataset_key": None, "group_key": None}
        usual |= {"memory": "1GB", "append": False, "rng": 0}
        more = "".join(f", {k}={v!r}" for k, v in self.given.items() if v != usual[k])
        inputs = {one.name: str(one.of) for one in self.inputs}
        return f"scssl.data.build_store({inputs!r}, {str(self.out)!r}{more})"

    def _note(self, **changes: Any) -> None:
        self.journal |= changes
        write_json(self.folder / JOURNAL, self.journal)

    # --- both passes ---------------------------------------------------------------------------

    def run(self) -> None:
        """Do what is left to do."""
        if not self.inputs:
            _LOGGER.info("All inputs are in the store already.")
            shutil.rmtree(self.folder, ignore_errors=True)
            return
        if not (self.folder / JOURNAL).is_file():
            # Nothing is known of what is there.
            shutil.rmtree(self.folder, ignore_errors=True)
            (self.folder / WORK).mkdir(parents=True)
            self._note()
        self._scatter()
        for number_of in range(self.plan["shards"]):
            if self.journal["sizes"][number_of] and str(number_of) not in self.journal["shards"]:
                self._write_shard(number_of)
                _return_free_memory()
        self._finish()

    def _bucket(self, number_of: int) -> Path:
        return self.folder / WORK / f"bucket_{number_of}"

    def _scatter(self) -> None:
        """First pass: append every cell to a bucket."""
        n_buckets = self.plan["shards"]
        for i in range(self.journal["input"], len(self.inputs)):
            one, alignment = self.inputs[i], self.alignments[i]
            columns = [column.of(one, self.given["dataset_key"]) for column in self.columns]
            for start, stop in even_ranges(one.rows.shape[0], self.plan["blocks"][i]):
                if start < self.journal["row"]:
                    continue
                csr = one.rows.read(np.arange(start, stop))
                self._check(one, csr, start)
                largest = int(csr.data.max(initial=0))
                csr = alignment.apply(csr)
                csr.data = csr.data.astype(np.min_scalar_type(largest))
                rng = derive_generator(self.seed, "bucket", i, start)
                if self.group is None:
                    bucket = rng.integers(n_buckets, size=stop - start)
                else:
                    codes = columns[self.group.column][start:stop]
                    bucket = self.group.buckets(codes, n_buckets, rng)
                order = np.argsort(bucket, kind="stable")
                csr = csr[order]
                cells = one.cells(start, stop)
                ends = np.searchsorted(bucket[order], np.arange(n_buckets + 1))
                sizes = list(self.journal["sizes"])
                for k, (first, last) in enumerate(zip(ends[:-1], ends[1:], strict=True)):
                    if first == last:
                        continue
                    part = _Part(
                        rows_of(csr, first, last),
                        [values[start:stop][order[first:last]] for values in columns],
                        cells[order[first:last]],
                    )
                    sizes[k] = part.append(self._bucket(k), sizes[k], self._index_type)
                self._note(row=stop, sizes=sizes, largest=max(largest, self.journal["largest"]))
            one.close()
            if one.identity != self.plan["inputs"][i]["identity"]:
                raise ValueError(f"{one.called} was written to while it was read. Build it again.")
            self._note(input=i + 1, row=0)

    def _check(self, one: Input, csr: sparse.csr_matrix, start: int) -> None:
        """Refuse what are no counts, in the words of a setup; with the input and the row."""
        values = csr.data
        low, high = values.min(initial=0), values.max(initial=0)
        usable = low >= 0 and high <= _LARGEST
        if usable and (np.rint(values) == values).all():
            return
        stats = scan_matrix(csr, where=one.where)
        cells = enumerate(one.cells(start, start + csr.shape[0]), start)
        names = [f"{cell} (row {row:,})" for row, cell in cells]
        try:
            if low < 0 or not np.isfinite(high):
                resolve_input(stats, "counts", obs_names=names, var_names=one.genes.tolist())
            if stats.first_fraction is None:
                raise ValueError(
                    f"{one.where} has a value of {number(high)}: above {_LARGEST:,} counts are not exact."
                )
            entry = stats.first_fraction
            hint = ""
            if isinstance(one.of, AnnData):
                hint = find_counts(one.of, layer=one.layer)
            raise ValueError(
                f"{one.where} holds fractions ({number(entry.value)} in cell {names[entry.row]!r}, gene "
                f"{str(one.genes[entry.column])!r}), and a store is of counts. "
                f"{hint or 'If they are in a layer, name it.'}"
            )
        except ValueError as error:
            raise ValueError(f"{one.called}: {error}") from None

    def _write_shard(self, number_of: int) -> None:
        """Second pass, for one bucket: its cells in random order, as a shard."""
        name = self._shard_name(number_of)
        part = _Part.read(
            self._bucket(number_of),
            self.journal["sizes"][number_of],
            [column.dtype for column in self.columns],
            index_type=self._index_type,
            count_type=np.min_scalar_type(self.journal["largest"]),
            n_genes=len(self.genes),
        )
        rng = derive_generator(self.seed, "shard", number_of)
        order = rng.permutation(len(part.cells))
        if self.group is not None:
            order = order[np.argsort(part.columns[self.group.column][order], kind="stable")]
        part = part.in_order(order)
        obs = {
            column.name: values
            if column.categories is None
            else pd.Categorical.from_codes(values, column.categories)
            for column, values in zip(self.columns, part.columns, strict=True)
        }
        cells = self.folder / CELLS
        shutil.rmtree(cells / name, ignore_errors=True)
        with warnings.catch_warnings():
            # Inputs may have cells of the same names.
            warnings.filterwarnings("ignore", "Observation names are not unique")
            adata = AnnData(
                part.csr,
                obs=pd.DataFrame(obs, index=part.cells),
                var=pd.DataFrame(index=self.genes.names),
            )
            write_shard(cells, name, adata)
        np.save(self.folder / WORK / f"genes_{number_of}.npy", _of_genes(part.csr))
        shard = {
            "name": name,
            "n_cells": len(part.cells),
            "files": describe_files(cells / name, self.folder),
            "statistics": _statistics(part.csr),
        }
        self._note(shards={**self.journal["shards"], str(number_of): shard})
        self._bucket(number_of).unlink()

    def _shard_name(self, number_of: int) -> str:
        before = 0 if self.base is None else len(self.base["shards"])
        return f"dataset_{before + number_of}"

    # --- the end -------------------------------------------------------------------------------

    def _finish(self) -> None:
        """Put the shards into place, and what is known of all of them beside; the manifest comes last."""
        base = {"shards": [], "inputs": [], "columns": {}} if self.base is None else self.base
        numbers = sorted(map(int, self.journal["shards"]))
        new = [self.journal["shards"][str(one)] for one in numbers]
        into = self.folder if self.base is None else self.out
        for shard in new if self.base is not None else ():
            made, place = (folder / CELLS / shard["name"] for folder in (self.folder, into))
            if made.exists():
                shutil.rmtree(place, ignore_errors=True)
                made.rename(place)
        shards = [*base["shards"], *new]
        # Of a name of their own: until the manifest is there, the store is what it was.
        place = into / COLUMNS / str(len(shards))
        place.mkdir(parents=True, exist_ok=True)
        columns = {
            column.name: {
                "categories": column.categories,
                "files": self._write_column(column, place / f"{i}.npy", into, new),
            }
            for i, column in enumerate(self.columns)
        }
        genes = sum(np.load(self.folder / WORK / f"genes_{one}.npy") for one in numbers)
        if self.base is not None:
            genes = genes + np.load(into / next(iter(base["genes_of_all"]["files"])))
        np.save(place / "genes.npy", genes)
        inputs = [
            {
                **one,
                "n_genes": len(alignment.query_names),
                "n_matched": alignment.n_matched,
            }
            for one, alignment in zip(self.plan["inputs"], self.alignments, strict=True)
        ]
        manifest = {
            "format_version": FORMAT_VERSION,
            "genes": self.genes.to_dict(),
            "columns": columns,
            "genes_of_all": {"files": describe_files(place / "genes.npy", into)},
            "inputs": [*base["inputs"], *inputs],
            "shards": shards,
            "group_key": None if self.group is None else self.group.key,
        }
        finish_collection(into / CELLS)
        write_json(into / MANIFEST, manifest)
        if self.base is None:
            if self.out.exists():
                self.out.rmdir()
            self.folder.rename(self.out)
            shutil.rmtree(self.out / WORK)
        else:
            for old in (into / COLUMNS).iterdir():
                if old != place:
                    shutil.rmtree(old)
            shutil.rmtree(self.folder)

    def _write_column(
        self, column: _Kept, path: Path, into: Path, shards: Sequence[Mapping[str, Any]]
    ) -> dict[str, Any]:
        """A column of all cells, as one array that can be mapped into memory."""
        before = None if self.base is None else self.base["columns"][column.name]["files"]
        old = [] if before is None else [np.load(into / next(iter(before)), mmap_mode="r")]
        n_cells = sum(map(len, old)) + sum(shard["n_cells"] for shard in shards)
        values = np.lib.format.open_memmap(path, "w+", column.dtype, (n_cells,))
        start = 0
        for part in (
            *old,
            *(read_codes(into / CELLS / one["name"], column.name) for one in shards),
        ):
            values[start : start + len(part)] = part
            start += len(part)
        values.flush()
        return describe_files(path, into)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 80 else f"{text[:77]}..."
