"""Embeddings in two dimensions."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scssl._random import RNG, as_seed, derive_seed

if TYPE_CHECKING:
    import numpy as np
    from anndata import AnnData
    from matplotlib.axes import Axes


def embedding(
    adata: AnnData,
    use_rep: str = "X_ssl",
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
    """Draw an embedding as a UMAP.

    The UMAP is computed once, with scanpy, and kept. It is computed again when the embedding or a
    parameter has changed. The neighbours and the UMAP that `adata` may have are left alone.

    Parameters
    ----------
    adata
        Cells with an embedding. Changed are ``adata.obsm[key_added]`` (the UMAP, shape
        ``(n_cells, 2)``), ``adata.uns[key_added]`` (what it was computed from) and, as scanpy
        does, ``adata.uns[f"{color}_colors"]``.
    use_rep
        Entry of `adata.obsm` to draw. One with two dimensions is drawn as it is.
    color
        Columns of `adata.obs` or genes to colour the cells by, one panel each.
    n_neighbors
        Size of the neighbourhoods; larger shows more of the global structure.
    min_dist
        Least distance between points of the UMAP.
    rng
        Seed or generator of the UMAP. Draws of a generator differ, so that with one the UMAP is
        computed every time.
    key_added
        Name of the UMAP; ``f"{use_rep}_umap"`` by default.
    show
        Show the figure. By default shown, unless `save` or `ax` is given or scanpy's ``autoshow``
        is off.
    save
        File to save the figure in; its ending is the format.
    ax
        Axes to draw in; for one `color` only.
    **kwargs
        Passed to :func:`scanpy.pl.embedding`.

    Returns
    -------
    matplotlib.axes.Axes or list of matplotlib.axes.Axes or None
        The axes, a list for several panels; `None` when the figure is shown.

    Raises
    ------
    KeyError
        If `use_rep` is not in `adata.obsm`.
    ValueError
        If the embedding is not finite or there are fewer than three cells.

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

    from scssl.pl._finish import finish
    from scssl.tl._checks import check_adata, check_key, get_embedding

    check_adata(adata)
    values = get_embedding(adata, use_rep)
    if values.shape[1] == 2:
        key_added = use_rep
    else:
        key_added = f"{use_rep}_umap" if key_added is None else key_added
        check_key(key_added, "key_added")
        seed = as_seed(rng)
        params = {"n_neighbors": n_neighbors, "min_dist": min_dist, "seed": seed}
        origin = {"use_rep": use_rep, "sha256": _fingerprint(values), "params": params}
        if key_added not in adata.obsm or adata.uns.get(key_added) != origin:
            adata.obsm[key_added] = _umap(values, n_neighbors, min_dist, seed)
            adata.uns[key_added] = origin
    kwargs = {"wspace": _legend_width(adata, color), **kwargs}
    drawn = sc.pl.embedding(adata, key_added, color=color, ax=ax, show=False, **kwargs)
    axes = drawn if isinstance(drawn, list) else [drawn]
    if ax is not None:
        show = bool(show)
    shown = finish(axes, show=show, save=save)
    return shown[0] if shown is not None and len(shown) == 1 else shown


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
    import numpy as np

    content = np.ascontiguousarray(values)
    return hashlib.sha256(
        str((content.shape, content.dtype)).encode() + content.tobytes()
    ).hexdigest()


def _umap(values: np.ndarray, n_neighbors: int, min_dist: float, seed: int) -> np.ndarray:
    """UMAP of ``values``, computed on an AnnData that holds nothing else."""
    import numpy as np
    import scanpy as sc
    from anndata import AnnData

    if len(values) < 3:
        msg = f"A UMAP needs three cells or more, found {len(values)}."
        raise ValueError(msg)
    light = AnnData(shape=(len(values), 0))
    light.obsm["X"] = values
    state = derive_seed(seed, "umap") % 2**32
    sc.pp.neighbors(light, min(n_neighbors, len(values) - 1), use_rep="X", random_state=state)
    sc.tl.umap(light, min_dist=min_dist, random_state=state)
    return np.asarray(light.obsm["X_umap"])
