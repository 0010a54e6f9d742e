"""Embeddings in two dimensions."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from scssl._checks import (
    check_adata,
    check_destination,
    check_names,
    get_column,
    get_embedding,
    some,
)
from scssl._errors import MissingKeyError
from scssl._random import RNG, as_seed, derive_seed

from ._figure import category_colors, figure, finish, legend_beside

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes

_LOGGER = logging.getLogger("scssl")
# More dates than this are drawn as days since the first.
_MOST_DATES = 20
_BLOCK_CELLS = 8192


@figure
def embedding(
    adata: AnnData,
    use_rep: str | Sequence[str] = "X_ssl",
    color: str | Sequence[str] | None = None,
    *,
    n_neighbors: int = 15,
    min_dist: float = 0.5,
    rng: RNG = 0,
    key_added: str | None = None,
    show: bool | None = None,
    save: str | Path | None = None,
    ax: Axes | None = None,
    **kwargs: Any,
) -> Axes | list[Axes] | None:
    """Draw an embedding as a UMAP, or several side by side.

    The UMAP is computed once, with scanpy, and kept. It is computed again when the embedding or a
    parameter has changed. The neighbours and the UMAP that `adata` may have are left alone.

    Parameters
    ----------
    adata
        Cells with an embedding. Changed are ``adata.obsm[key_added]`` (the UMAP, shape
        ``(n_cells, 2)``), ``adata.uns[key_added]`` (what it was computed from) and, as scanpy
        does, ``adata.uns[f"{color}_colors"]``.
    use_rep
        Entry of `adata.obsm` to draw. One with two dimensions is drawn as it is. Several, such as those
        before and after training, are drawn in a column each, with the same colours and one legend. Each
        has its own UMAP: places in one mean nothing in another.
    color
        Columns of `adata.obs` or genes to colour the cells by, one panel each; for several embeddings,
        one row of panels each. Of counts, genes are drawn log-normalised, unless a `layer` or `use_raw`
        is given.
    n_neighbors
        Size of the neighbourhoods; larger shows more of the global structure.
    min_dist
        Least distance between points of the UMAP.
    rng
        Seed or generator of the UMAP. Draws of a generator differ, so that with one the UMAP is
        computed every time.
    key_added
        Name of the UMAP; ``f"{use_rep}_umap"`` by default. For one `use_rep` only.
    {figure}
    **kwargs
        Passed to :func:`scanpy.pl.embedding`. For several embeddings `title` has one title for each.

    {axes}

    Raises
    ------
    KeyError
        If `use_rep` is not in `adata.obsm`.
    ValueError
        If the embedding is not finite, there are fewer than three cells, or there are several
        embeddings for one `ax` or `key_added`.

    Examples
    --------
    >>> import scanpy as sc, scssl
    >>> adata = scssl.datasets.pbmc68k_reduced()
    >>> sc.pp.pca(adata)
    >>> ax = scssl.pl.embedding(adata, "X_pca", color="bulk_labels", show=False)
    >>> adata.obsm["X_pca_umap"].shape
    (700, 2)
    """
    import scanpy as sc

    check_adata(adata)
    if isinstance(use_rep, str):
        basis = _two_dimensions(adata, use_rep, n_neighbors, min_dist, as_seed(rng), key_added)
        kwargs = {"wspace": _legend_width(adata, color), **kwargs}
        cells = _drawable(adata, [basis], color, kwargs)
        drawn = sc.pl.embedding(cells, basis, color=color, ax=ax, show=False, **kwargs)
        axes = drawn if isinstance(drawn, list) else [drawn]
        name = use_rep if basis == use_rep else "UMAP"
        for panel in axes:
            panel.set(xlabel=f"{name} 1", ylabel=f"{name} 2")
        _keep_colors(cells, adata)
    else:
        keys = list(use_rep)
        _check_several(keys, key_added, ax)
        seed = as_seed(rng)
        bases = {
            key: _two_dimensions(adata, key, n_neighbors, min_dist, seed, None) for key in keys
        }
        cells = _drawable(adata, bases.values(), color, kwargs)
        axes = _side_by_side(cells, bases, color, kwargs)
        _keep_colors(cells, adata)
    return finish(axes, ax, show=show, save=save)


def _drawable(adata: AnnData, bases: Iterable[str], color: Any, kwargs: dict[str, Any]) -> AnnData:
    """The cells with what scanpy is to draw of them, in types that it can draw; genes log-normalised."""
    from anndata import AnnData

    asked = {"layer", "use_raw", "gene_symbols"} & {k for k, v in kwargs.items() if v is not None}
    names = [color] if isinstance(color, str) else [one for one in color or () if one is not None]
    of_obs = [name for name in names if name in adata.obs.columns]
    genes = [name for name in names if name not in of_obs]
    columns = {name: drawable_column(get_column(adata, name, "color")) for name in of_obs}
    if asked:
        # What is drawn is the user's choice; only columns that cannot be are replaced.
        changed = {name: one for name, one in columns.items() if one is not adata.obs[name]}
        if changed:
            adata = adata.copy()
            adata.obs = adata.obs.assign(**changed)
        return adata
    values = genes_of(adata, genes)
    obs: Any = adata.obs
    if not isinstance(obs, pd.DataFrame):
        obs = pd.DataFrame(index=adata.obs_names)
    cells = AnnData(
        values,
        obs=obs.assign(**columns),
        var=pd.DataFrame(index=genes),
        uns=dict(adata.uns),
        obsm={basis: adata.obsm[basis] for basis in bases},
    )
    if kwargs.get("edges"):
        cells.obsp.update(adata.obsp)
    return cells


def _keep_colors(cells: AnnData, adata: AnnData) -> None:
    """Leave the colours that were drawn with the data, as scanpy does."""
    colors = {key: value for key, value in cells.uns.items() if key.endswith("_colors")}
    adata.uns.update(colors)


def drawable_column(values: pd.Series[Any]) -> pd.Series[Any]:
    """A column as numbers, or as categories with names; what scanpy can draw stays as it is."""
    if isinstance(values.dtype, pd.CategoricalDtype):
        if all(isinstance(one, str) for one in values.cat.categories):
            return values
        check_names(values)
        return values.cat.rename_categories([str(one) for one in values.cat.categories])
    if values.dtype.kind in "mM":
        days = (values - values.min()) / pd.Timedelta(days=1)
        if values.dtype.kind == "m" or values.nunique() > _MOST_DATES:
            return days
        return values.map(str, na_action="ignore").astype("category")
    if values.dtype.kind in "iuf":
        return pd.Series(values.to_numpy(dtype=np.float64, na_value=np.nan), index=values.index)
    check_names(values)
    return values.map(str, na_action="ignore").astype("category")


def genes_of(adata: AnnData, genes: Sequence[str]) -> np.ndarray:
    """Values of genes to draw, from `raw` if it is there, cells by genes; of counts their logarithm."""
    from scssl.data import open_rows

    known = adata if adata.raw is None else adata.raw
    unknown = [name for name in genes if name not in known.var_names]
    if unknown:
        raise MissingKeyError(
            f"{unknown[0]!r} in `color` is no column of adata.obs ({some(adata.obs.columns, 20)}), and no "
            f"gene ({some(known.var_names, 3)})."
        )
    columns = known.var_names.get_indexer(genes)
    if not genes:
        return np.zeros((known.shape[0], 0), dtype=np.float32)
    source = open_rows(known.X)
    parts, whole = [], True
    sums = np.zeros(known.shape[0])
    for start in range(0, known.shape[0], _BLOCK_CELLS):
        rows = np.arange(start, min(start + _BLOCK_CELLS, known.shape[0]))
        block = source.read(rows)
        whole = whole and bool((block.data >= 0).all() and (block.data == block.data.round()).all())
        sums[rows] = np.ravel(block.sum(axis=1))
        parts.append(block[:, columns].toarray())
    values: np.ndarray = np.concatenate(parts)
    if whole:
        _LOGGER.info(
            "Genes are drawn log-normalised: the values are counts. Those of a layer are drawn as they are."
        )
        values = np.log1p(values * (1e4 / np.maximum(sums, 1))[:, None]).astype(np.float32)
    return values


def _two_dimensions(
    adata: AnnData,
    use_rep: str,
    n_neighbors: int,
    min_dist: float,
    seed: int,
    key_added: str | None,
) -> str:
    """Entry of `obsm` with the embedding in two dimensions, computed unless it is there."""
    others = [key for key in adata.obsm if key != "spatial"]
    there = f"To draw one that is there: `use_rep={others[0]!r}`." if others else None
    values = get_embedding(adata, use_rep, advice=there)
    if values.shape[1] == 2:
        return use_rep
    key_added = f"{use_rep}_umap" if key_added is None else key_added
    check_destination(adata, key_added)
    params = {"n_neighbors": n_neighbors, "min_dist": min_dist, "seed": seed}
    origin = {"use_rep": use_rep, "sha256": _fingerprint(values), "params": params}
    if key_added not in adata.obsm or adata.uns.get(key_added) != origin:
        adata.obsm[key_added] = _umap(values, n_neighbors, min_dist, seed)
        adata.uns[key_added] = origin
    return key_added


def _check_several(keys: list[str], key_added: str | None, ax: Axes | None) -> None:
    if not keys or len(set(keys)) < len(keys):
        raise ValueError(
            f"`use_rep` must name one or more entries of adata.obsm, each once, found {keys}."
        )
    for name, value in (("key_added", key_added), ("ax", ax)):
        if value is not None:
            raise ValueError(
                f"`{name}` is for one embedding: leave it out, or give one of `use_rep`."
            )


def _side_by_side(
    adata: AnnData,
    bases: dict[str, str],
    color: str | Sequence[str] | None,
    kwargs: dict[str, Any],
) -> list[Axes]:
    """A column of panels for each embedding and a row for each colour, with one legend a row."""
    import matplotlib.pyplot as plt
    import scanpy as sc

    colors: list[str | None] = [color] if color is None or isinstance(color, str) else list(color)
    titles = kwargs.pop("title", None)
    titles = list(bases) if titles is None else [titles] if isinstance(titles, str) else titles
    if len(titles) != len(bases):
        raise ValueError(
            f"`title` must have one title for each of the {len(bases)} embeddings, found {titles}."
        )
    size = (
        3.3 * len(bases) + 25 * (_legend_width(adata, [name for name in colors if name]) or 0) / 4,
        3.3 * len(colors),
    )
    _, grid = plt.subplots(
        len(colors), len(bases), figsize=size, squeeze=False, layout="constrained"
    )
    for row, name in zip(grid, colors, strict=True):
        for panel, basis, title in zip(row, bases.values(), titles, strict=True):
            # The legend that scanpy draws would take the axes out of the layout, and its colour bar
            # would make one panel narrower than the others.
            options = {"legend_loc": "none", "colorbar_loc": None, **kwargs}
            text = title if len(colors) == 1 else f"{title}: {name}"
            sc.pl.embedding(adata, basis, color=name, ax=panel, show=False, title=text, **options)
            # Of several embeddings the names are in the titles.
            panel.set(xlabel="", ylabel="")
        if name is not None and name in adata.obs and adata.obs[name].dtype == "category":
            if "legend_loc" not in kwargs:
                _legend(row[-1], adata, name)
        elif name is not None and "colorbar_loc" not in kwargs:
            row[-1].figure.colorbar(
                row[-1].collections[0], cax=row[-1].inset_axes((1.03, 0, 0.04, 1))
            )
    return list(grid.ravel())


def _legend(ax: Axes, adata: AnnData, color: str) -> None:
    """The legend that scanpy would draw beside the last panel."""
    column = adata.obs[color]
    colors = category_colors(adata, color, column.cat.categories)
    if column.isna().any():
        colors["NA"] = "lightgray"
    legend_beside(ax, colors)


def _legend_width(adata: AnnData, color: str | Sequence[str] | None) -> float | None:
    """Space between panels for the longest name in a legend; scanpy's own choice without one."""
    if color is None or isinstance(color, str):
        return None
    columns = [adata.obs[name] for name in color if name in adata.obs]
    names = [
        str(n) for column in columns if column.dtype == "category" for n in column.cat.categories
    ]
    return 0.2 + 0.022 * max(map(len, names)) if names else None


def _fingerprint(values: np.ndarray) -> str:
    content = np.ascontiguousarray(values)
    return hashlib.sha256(
        str((content.shape, content.dtype)).encode() + content.tobytes()
    ).hexdigest()


def _umap(values: np.ndarray, n_neighbors: int, min_dist: float, seed: int) -> np.ndarray:
    """UMAP of ``values``, computed on an AnnData that holds nothing else."""
    import scanpy as sc
    from anndata import AnnData

    if len(values) < 3:
        raise ValueError(f"A UMAP needs three cells or more, found {len(values)}.")
    light = AnnData(shape=(len(values), 0))
    light.obsm["X"] = values
    state = derive_seed(seed, "umap") % 2**32
    sc.pp.neighbors(light, min(n_neighbors, len(values) - 1), use_rep="X", random_state=state)
    sc.tl.umap(light, min_dist=min_dist, random_state=state)
    return np.asarray(light.obsm["X_umap"])
