"""What several tools check, read and write in the same way."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from scssl._checks import get_matrix
from scssl._errors import MissingKeyError
from scssl.data import find_counts, resolve_input, scan_matrix

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from scssl.data.matrix import InputDecision

# What `tl.embed` writes of a model, and what differs where it differs.
_MODEL = {"vocabulary_hash": "genes", "encoder_hash": "weights"}


def check_same_model(
    reference: AnnData, query: AnnData, use_rep: str, known: np.ndarray, new: np.ndarray
) -> None:
    """Raise if two embeddings, as far as is known of them, are by two models."""
    problem = None
    if known.shape[1] != new.shape[1]:
        problem = f"has {known.shape[1]} dimensions in `reference` and {new.shape[1]} in `query`"
    written = [adata.uns.get(use_rep) for adata in (reference, query)]
    for name, what in _MODEL.items():
        found = [one.get(name) if isinstance(one, Mapping) else None for one in written]
        if None not in found and found[0] != found[1]:
            by = f"is by models of different {what} in `reference` and `query`"
            problem = problem or f"{by} (uns[{use_rep!r}][{name!r}])"
    if problem:
        raise ValueError(
            f"obsm[{use_rep!r}] {problem}: embed both with the same model, "
            f"`scssl.tl.embed(reference, model, key_added={use_rep!r})` and "
            f"`scssl.tl.embed(query, model, key_added={use_rep!r})`."
        )


def values_of(adata: AnnData, layer: str | None, name: str = "adata") -> tuple[Any, InputDecision]:
    """The matrix in ``X`` or a layer and what it holds, or an error that says where there is one to use."""
    matrix, where = get_matrix(adata, layer, name)
    if matrix is None:
        ways = " or ".join(f"`layer={one!r}`" for one in adata.layers if one is not None)
        raise ValueError(f"{where} is empty. Take another matrix: {ways or 'there is none'}.")
    stats = scan_matrix(matrix, where=where)
    decision = resolve_input(
        stats,
        input_name=None,
        raw_hint=find_counts(adata, layer=layer, name=name, logarithms=stats.n_negative > 0),
        obs_names=adata.obs_names,
        var_names=adata.var_names,
        name=name,
    )
    return matrix, decision


def list_of_keys(given: Any, argument: str = "use_rep") -> list[str]:
    """The entries of ``obsm`` that are named, of which one may stand alone."""
    keys = [given] if isinstance(given, str) else list(given)
    if not keys or len(set(keys)) < len(keys):
        raise ValueError(f"`{argument}` must name entries of adata.obsm, each once, found {keys}.")
    return keys


def get_rows(adata: AnnData, cells: Any, where: str) -> np.ndarray:
    """Row numbers of row numbers, a mask or names, each once; `where` is their name in messages."""
    cells, n = np.asarray(cells), adata.n_obs
    rows: np.ndarray = cells
    problem = None
    if cells.ndim != 1 or not cells.size:
        problem = f"must be a list of cells that is not empty, found shape {cells.shape}"
    elif cells.dtype.kind == "b":
        rows = np.flatnonzero(cells)
        if len(cells) != n:
            problem = f"is a mask of {len(cells):,} cells, but `adata` has {n:,}"
        elif not len(rows):
            problem = "is empty"
    elif cells.dtype.kind in "iu":
        rows = cells.astype(np.intp)
        outside = cells[(cells < 0) | (cells >= n)]
        if len(outside):
            worst = outside.max() if outside.max() >= n else outside.min()
            problem = f"has row {worst}, but `adata` has {n:,} cells"
    else:
        if not adata.obs_names.is_unique:
            raise ValueError(
                "Cell names are not unique: give row numbers, or `adata.obs_names_make_unique()`."
            )
        rows = adata.obs_names.get_indexer(cells.astype(str))
        if (rows < 0).any():
            first = str(cells[rows < 0][0])
            raise MissingKeyError(
                f"{where} names cells that are not in `adata`, such as {first!r}."
            )
    if problem is None and len(np.unique(rows)) < len(rows):
        problem = f"has {len(rows) - len(np.unique(rows)):,} cells more than once"
    if problem is not None:
        raise ValueError(f"{where} {problem}.")
    return rows


def check_neighbors(n_neighbors: int, n_cells: int, what: str, hint: str = "") -> None:
    """Raise if there are fewer cells than neighbours are asked for; `what` is what these cells are."""
    if n_neighbors > n_cells:
        raise ValueError(f"n_neighbors={n_neighbors} is more than the {n_cells:,} {what}.{hint}")


def to_be_written(adata: Any, *, copy: bool) -> Any:
    """What results are written to: the object itself, or a copy of it in memory."""
    if not copy:
        return adata
    return adata.to_memory() if adata.isbacked else adata.copy()


def write_scores(
    adata: AnnData,
    key_added: str,
    scores: pd.DataFrame,
    tables: dict[str, pd.DataFrame],
    **more: Any,
) -> pd.DataFrame:
    """Write a frame of scores and the tables they are made from, which it has as attributes as well."""
    adata.uns[key_added] = {"scores": scores.copy(), **tables, **more}
    for name, table in tables.items():
        # A dict of columns: pandas compares attrs when frames are joined, and a frame has no truth.
        scores.attrs[name] = table.to_dict(orient="list")
    return scores


def nearest(reference: np.ndarray, query: np.ndarray, n_neighbors: int) -> np.ndarray:
    """Rows of the cells of a reference that are nearest to each other cell, by exact search."""
    from sklearn.neighbors import NearestNeighbors

    index = NearestNeighbors(n_neighbors=n_neighbors).fit(reference)
    found: np.ndarray = index.kneighbors(query, return_distance=False)
    return found


def votes(labels: np.ndarray, n_labels: int, weights: np.ndarray | None = None) -> np.ndarray:
    """Sum of votes for each label, ``(n_cells, n_labels)``, from the labels of each cell's neighbours.

    The first of the largest wins: ties go to the label that sorts first.
    """
    n_cells = len(labels)
    flat = labels + n_labels * np.arange(n_cells)[:, None]
    tally = np.bincount(
        flat.ravel(), None if weights is None else weights.ravel(), minlength=n_cells * n_labels
    )
    return tally.reshape(n_cells, n_labels)


def absent(package: str, extra: str) -> ImportError:
    """That an optional package is not there, with the line that installs it."""
    return ImportError(f'{package} is not installed: `pip install "scssl[{extra}]"`')


@contextmanager
def own_randomness() -> Iterator[None]:
    """Leave the global generators, which other packages seed, as they were."""
    torch = sys.modules.get("torch")
    before = random.getstate(), np.random.get_state()  # noqa: NPY002 - that of the user
    of_torch = None if torch is None else torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])  # noqa: NPY002
        if torch is not None:
            torch.set_rng_state(of_torch)
