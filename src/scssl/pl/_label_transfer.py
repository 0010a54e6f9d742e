"""What a transfer of labels found, on the embedding it was made in."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scssl._checks import check_adata, check_choice, check_key, get_column
from scssl._errors import MissingKeyError
from scssl._random import RNG

from ._embedding import embedding
from ._figure import category_colors, figure, finish, legend_width, make_panels

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes

# Light where a cell is as usual or sure as can be, so that what is to be looked at stands out.
_SCALES = {"confidence": "viridis", "novelty": "magma_r"}
# Light grey, as scanpy has cells without a value.
_UNKNOWN = "#d3d3d3"


@figure
def label_transfer(
    adata: AnnData,
    pred_key: str = "ssl_label",
    *,
    use_rep: str | None = None,
    panels: str | Sequence[str] = ("call", "confidence", "novelty"),
    rng: RNG = 0,
    key_added: str | None = None,
    show: bool | None = None,
    save: str | Path | None = None,
    ax: Axes | None = None,
    **kwargs: Any,
) -> Axes | list[Axes] | None:
    """Draw labels that were transferred, how sure each is and how unusual its cell.

    Three panels on the embedding that the labels were transferred in: the labels, with the cells that
    were called unknown in grey; the confidence that the label is right; and the novelty, the share of the
    reference that is less unusual than the cell.

    Parameters
    ----------
    adata
        Cells that :func:`scssl.tl.annotate` or :func:`scssl.tl.label_transfer` labelled. Changed is what
        :func:`embedding` changes.
    pred_key
        The `key_added` of the transfer.
    use_rep
        Entry of `adata.obsm` to draw, by default that of the transfer.
    panels
        What to draw, of the three.
    rng
        Seed or generator of the UMAP.
    key_added
        Where the UMAP goes in `adata.obsm` and `adata.uns`; ``f"{use_rep}_umap"`` by default, as in
        :func:`embedding`.
    {figure}
    **kwargs
        Passed to :func:`embedding`.

    {axes}

    Raises
    ------
    KeyError
        If there is no label transfer under `pred_key`, or no such embedding.

    Examples
    --------
    >>> import scanpy as sc, scssl
    >>> adata = scssl.datasets.pbmc68k_reduced()
    >>> sc.pp.pca(adata)
    >>> reference, query = adata[:500].copy(), adata[500:].copy()
    >>> scssl.tl.label_transfer(reference, query, "bulk_labels", use_rep="X_pca")
    >>> axes = scssl.pl.label_transfer(query, show=False)
    >>> [ax.get_title() for ax in axes]
    ['ssl_label_call', 'ssl_label_confidence', 'ssl_label_novelty']
    """
    check_adata(adata)
    check_key(pred_key, "pred_key")
    written = adata.uns.get(pred_key)
    if not isinstance(written, dict) or "novelty" not in written:
        raise MissingKeyError(
            f"adata.uns[{pred_key!r}] has no transfer of labels. Make it: `scssl.tl.label_transfer("
            f"reference, adata, label_key, key_added={pred_key!r})`."
        )
    rep = written["params"]["use_rep"] if use_rep is None else use_rep
    call = get_column(adata, f"{pred_key}_call", "pred_key")
    if f"{pred_key}_call_colors" not in adata.uns:
        names = list(call.astype("category").cat.categories)
        known = category_colors(adata, f"{pred_key}_call", names) | dict.fromkeys(
            set(names) - set(written["labels"]), _UNKNOWN
        )
        adata.uns[f"{pred_key}_call_colors"] = [known[name] for name in names]
    ends = [panels] if isinstance(panels, str) else list(panels)
    for end in ends:
        check_choice("panels", end, ("call", *_SCALES))
    width = 3.8 * len(ends) + (legend_width(call) if "call" in ends else 0)
    axes = make_panels(len(ends), ax, (width, 3.5), "draw one of `panels`")
    for panel, end in zip(axes, ends, strict=True):
        options = {"color_map": _SCALES[end], "vmin": 0, "vmax": 1} if end in _SCALES else {}
        embedding(
            adata,
            rep,
            f"{pred_key}_{end}",
            rng=rng,
            key_added=key_added,
            ax=panel,
            show=False,
            **{"frameon": False, **options, **kwargs},
        )
    return finish(axes, ax, show=show, save=save)
