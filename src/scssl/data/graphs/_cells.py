"""Of which cells a graph is, so that one of others is noticed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from scssl._errors import warn

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from ._partners import NeighborTable

_CELLS = "cells"


def describe_cells(obs_names: Iterable[str], graphs: Mapping[str, Any]) -> dict[str, Any]:
    """Digests of the names of cells and of graphs of them, to be written to `uns`.

    Parameters
    ----------
    obs_names
        Names of the cells, in order.
    graphs
        Graphs by their key in ``adata.obsp``.
    """
    names = [str(name) for name in obs_names]
    return {
        "in_order": _of_names(names),
        "any_order": _of_names(sorted(names)),
        "graphs": {key: _of_graph(graph) for key, graph in graphs.items()},
    }


def check_graph_cells(adata: AnnData, key: str, where: str = "adata") -> None:
    """Warn if a graph was made of other cells, or of these in another order.

    Known for graphs of :func:`scssl.pp.cross_batch_neighbors`. Where AnnData selects or sorts cells, it
    does the same to the graph, which is another one then: only a graph that is what it was, beside
    names that are not, is one of other cells.

    Parameters
    ----------
    adata
        Cells, or a modality of a MuData.
    key
        Key of the graph in ``adata.obsp``.
    where
        How messages call `adata`.
    """
    written = [
        value
        for value in (adata.uns.get(key), adata.uns.get(key.removesuffix("_within")))
        if isinstance(value, Mapping) and isinstance(value.get(_CELLS), Mapping)
    ]
    found = next((one for one in written if key in one[_CELLS].get("graphs", {})), None)
    graph = adata.obsp.get(key)
    if found is None or graph is None:
        return
    names = [str(name) for name in adata.obs_names]
    cells = found[_CELLS]
    if _of_names(names) == cells["in_order"] or _of_graph(graph) != cells["graphs"][key]:
        return
    same = _of_names(sorted(names)) == cells["any_order"]
    what = (
        "of these cells in another order"
        if same
        else "of cells with other names; unless cells were only renamed, it is not of these"
    )
    params = found.get("params", {})
    main = key if key in adata.uns else key.removesuffix("_within")
    source = str(params.get("embedding", ""))
    # Components, and the leading ones of X_pca, are what is taken without being told.
    given = source.startswith("adata.obsm[") and source != "adata.obsm['X_pca']"
    use_rep = f", use_rep={source.removeprefix('adata.obsm[').removesuffix(']')}" if given else ""
    warn(
        f"{where}.obsp[{key!r}] was made {what}: neighbours are then any cells. Make it again: "
        f"scssl.pp.cross_batch_neighbors({where}, {params.get('batch_key', 'batch')!r}{use_rep}, "
        f"method={params.get('method', 'bbknn')!r}, key_added={main!r})"
    )


def batch_keys(uns: Mapping[str, Any], key: str, beside: Iterable[str] = ()) -> list[str]:
    """Columns of `obs` with the batches that a graph was made with, as far as that is written down.

    Parameters
    ----------
    uns
        Where it is written.
    key
        Key of the graph in ``adata.obsp``.
    beside
        Other graphs: what was made together is described once, under the name of the first.
    """
    keys = []
    for name in (key, *(one for one in beside if f"{one}_within" == key)):
        try:
            found = uns[name]["params"]["batch_key"]
        except (KeyError, TypeError, IndexError):
            continue
        if isinstance(found, str):
            keys.append(found)
    return keys


def batch_codes(column: pd.Series[Any]) -> np.ndarray:
    """Code of the batch of each cell, -1 where it is missing."""
    import pandas as pd

    codes: np.ndarray = pd.factorize(column.astype(str).where(column.notna()))[0]
    return codes


def check_edges(
    table: NeighborTable,
    codes: np.ndarray,
    wanted: str,
    *,
    who: str,
    where: str,
    batch_key: str,
    how: str,
) -> None:
    """Refuse edges within batches, or across them, where a graph of the other kind is needed.

    Parameters
    ----------
    table
        The graph.
    codes
        Batch of each cell, -1 where it is not known.
    wanted
        ``"across"`` or ``"within"``: the edges that there may be.
    who, where, batch_key, how
        For the message: what needs it, where it is, the column of the batches, and how to make it.

    Raises
    ------
    ValueError
        If there are others.
    """
    ends = np.repeat(codes, table.counts), codes[table.indices]
    known = (ends[0] >= 0) & (ends[1] >= 0)
    same = (ends[0] == ends[1])[known]
    wrong = same if wanted == "across" else ~same
    if not wrong.any():
        return
    what, other = (
        ("between batches", "within one")
        if wanted == "across"
        else ("within batches", "between two")
    )
    raise ValueError(
        f"{who} needs a graph with edges {what} only, but {100 * wrong.mean():.2g} % of those of {where} "
        f"are {other} (obs[{batch_key!r}]). Make it: {how}."
    )


def _of_names(names: list[str]) -> str:
    digest = hashlib.sha256()
    for name in names:
        # With its length, or two names could be taken for one.
        digest.update(f"{len(name)}:{name}".encode())
    return digest.hexdigest()[:32]


def _of_graph(graph: Any) -> str:
    """Digest of which entries there are; the same in any format and type."""
    if not sparse.issparse(graph):
        return ""
    csr = graph.tocsr()
    if not csr.has_sorted_indices:
        csr = csr.sorted_indices()
    digest = hashlib.sha256(str(csr.shape).encode())
    for part in (csr.indptr, csr.indices):
        for start in range(0, len(part), 1 << 20):
            digest.update(part[start : start + (1 << 20)].astype(np.int64).data)
    return digest.hexdigest()[:32]
