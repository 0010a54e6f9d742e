"""What augmentations do to cells."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scssl._checks import (
    BATCHES,
    check_adata,
    check_whole,
    either,
    get_labels,
    get_matrix,
    likely_column,
)
from scssl._random import RNG, as_seed, derive_generator, derive_seed

from ._figure import PALETTE, figure, finish, make_panels

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes

    from scssl.augment import Augmentation

_PANELS = ("cells", "library", "genes")
# Ratio of the largest to the smallest value from which an axis is logarithmic.
_WIDE = 20
_COLORS = dict(zip(("view 0", "view 1"), PALETTE, strict=False))


@figure
def augmentations(
    adata: AnnData,
    augmentation: str | Augmentation | Sequence[str | Augmentation] = "default",
    n_cells: int = 3,
    *,
    panels: str | Sequence[str] = _PANELS,
    layer: str | None = None,
    batch_key: str | None = None,
    input: str = "auto",
    target_sum: float = 1e4,
    batch_size: int = 256,
    rng: RNG = 0,
    show: bool | None = None,
    save: str | Path | None = None,
    ax: Axes | None = None,
) -> Axes | list[Axes] | None:
    """Draw cells before and after an augmentation.

    A batch of cells is drawn as in training, and two views of it. Shown are the expression of some
    of its cells, original against view, without the genes that are zero in both, and what the
    batch has of expression and of expressed genes. Use it to see whether an augmentation does what
    you meant, and how far it takes cells from what they are.

    Parameters
    ----------
    adata
        Cells with counts or log-normalised expression. Not changed.
    augmentation
        As in :func:`scssl.augment.augmentation`. Those that mix cells with neighbours need their
        graphs in `adata.obsp`.
    n_cells
        Number of cells to show.
    panels
        What to draw: ``"cells"``, one panel each; ``"library"``, the sum of a cell (of its counts
        where these are given, else of its normalised expression); ``"genes"``, the number of genes
        above zero. Where an augmentation draws new counts, the sum is of these: the view itself is
        normalised to `target_sum` again, however few they are.
    layer
        Layer with the expression, by default `adata.X`.
    batch_key
        Column of `adata.obs` with the experimental batch, for crossovers within batches, and to check
        graphs that must be across batches or within them.
    input
        ``"counts"`` or ``"lognorm"``; by default found out.
    target_sum
        Sum of a cell to which counts are normalised.
    batch_size
        Number of cells to augment.
    rng
        Seed or generator of the cells and views.
    {figure}

    {axes}

    Raises
    ------
    KeyError
        If a graph, a layer or `batch_key` is not in `adata`.
    ValueError
        If the augmentation needs counts and there are none, a graph has edges that it cannot have,
        there are more panels than one for `ax`, or an argument is out of its range.

    Examples
    --------
    >>> import scssl
    >>> adata = scssl.datasets.pbmc68k_reduced()
    >>> axes = scssl.pl.augmentations(adata, "clear", n_cells=2, show=False)
    >>> [ax.get_xlabel() for ax in axes[1:]]
    ['original expression', 'expression of a cell', 'genes above zero']
    """
    from scssl.augment import augmentation as make_augmentation

    check_adata(adata)
    batch_size = check_whole("batch_size", batch_size, 2)
    n_cells = min(check_whole("n_cells", n_cells), adata.n_obs, batch_size)
    names = _check_panels(panels)
    steps = make_augmentation(augmentation)
    shown = [(name, i) for name in names for i in range(n_cells if name == "cells" else 1)]
    advice = f"give `panels={names[0]!r}{', n_cells=1' if names[0] == 'cells' else ''}`"
    drawn = _views(
        adata,
        steps,
        layer=layer,
        batch_key=batch_key,
        input=input,
        target_sum=target_sum,
        batch_size=batch_size,
        seed=as_seed(rng),
    )
    axes = make_panels(len(shown), ax, (3.4 * len(shown), 3.3), advice)
    for panel, (name, i) in zip(axes, shown, strict=True):
        if name == "cells":
            _draw_cell(panel, drawn, i)
        else:
            _draw_distribution(panel, drawn, name)
        panel.spines[["top", "right"]].set_visible(False)
    if ax is not None:
        ax.legend(handles=_legend(names), frameon=False, fontsize="small")
    elif (whole := axes[0].get_figure(root=True)) is not None:
        whole.suptitle(_title(steps, len(shown)), fontsize="medium")
        whole.legend(handles=_legend(names), loc="outside lower center", ncols=3, frameon=False)
    return finish(axes, ax, show=show, save=save)


@dataclass(frozen=True)
class _Drawn:
    """Log-normalised expression of a batch and of its views, all dense."""

    names: list[str]
    original: np.ndarray
    views: dict[str, np.ndarray]
    #: Counts per unit of normalised expression: of the cells, and of what was drawn of them.
    scale: dict[str, np.ndarray] | None

    def measures(self, name: str) -> dict[str, np.ndarray]:
        """A number of each cell, of the original and of each view."""
        every = {"original": self.original, **self.views}
        if name == "genes":
            return {which: (x > 0).sum(1) for which, x in every.items()}
        sums = {which: np.expm1(x).sum(1) for which, x in every.items()}
        if self.scale is None:
            return sums
        return {which: total * self.scale[which] for which, total in sums.items()}


def _check_panels(panels: str | Sequence[str]) -> list[str]:
    names = [panels] if isinstance(panels, str) else list(panels)
    if not names or not set(names) <= set(_PANELS) or len(set(names)) < len(names):
        raise ValueError(
            f"`panels` must be {either(_PANELS)}, or a list of these, found {panels!r}."
        )
    return names


def _views(
    adata: AnnData,
    augmentation: Augmentation,
    *,
    layer: str | None,
    batch_key: str | None,
    input: str,
    target_sum: float,
    batch_size: int,
    seed: int,
) -> _Drawn:
    """Draw a batch and two views of it."""
    import torch

    from scssl.augment import ViewContext, two_views
    from scssl.data import (
        NeighborTable,
        PartnerWalks,
        normalize_rows,
        open_rows,
        resolve_input,
        scan_matrix,
    )
    from scssl.data.graphs import batch_codes, batch_keys, check_edges, check_graph_cells
    from scssl.nn import SparseRows

    matrix, where = get_matrix(adata, layer)
    kind = resolve_input(scan_matrix(matrix, where=where), input).kind
    source = open_rows(matrix, where=where)

    walks = (augmentation.walks(0), augmentation.walks(1))
    tables = {}
    for graph in augmentation.graphs():
        batches = batch_key or likely_column(adata.obs, *BATCHES) or "batch"
        how = augmentation.recipe(graph, batch_key=batches)
        table = NeighborTable.from_graph(
            adata.obsp.get(graph), graph, adata.n_obs, how=f" Make it: {how}."
        )
        check_graph_cells(adata, graph)
        wanted = augmentation.edges().get(graph)
        given = [] if batch_key is None else [batch_key]
        written = batch_keys(adata.uns, graph, augmentation.graphs())
        known = [key for key in (*written, *given) if key in adata.obs]
        if wanted is not None and known:
            check_edges(
                table,
                batch_codes(adata.obs[known[0]]),
                wanted,
                who=f"The augmentation {augmentation!r}",
                where=f"adata.obsp[{graph!r}]",
                batch_key=known[0],
                how=how,
            )
        tables[graph] = table
    generator = derive_generator(seed, "cells")
    cells = generator.permutation(adata.n_obs)[:batch_size]
    ends = PartnerWalks(tables, walks).draw(cells, generator)

    def read(rows: np.ndarray) -> tuple[SparseRows, Any]:
        csr, library = normalize_rows(source.read(rows), input_kind=kind, target_sum=target_sum)
        pointers, columns, values = map(torch.from_numpy, (csr.indptr, csr.indices, csr.data))
        return SparseRows(pointers, columns, values, csr.shape[1]), library.ravel()

    x, library = read(cells)
    batch = None
    if batch_key is not None:
        codes = get_labels(adata, batch_key, "batch_key").astype("category").cat.codes
        batch = torch.from_numpy(codes.to_numpy().astype(np.int64)[cells])
    contexts = tuple(
        ViewContext(
            view=view,
            partners={walk: read(ends[view, walk])[0] for walk in walks[view]},
            batch=batch,
            input_kind=kind,
            library=torch.from_numpy(library.copy()),
            target_sum=target_sum,
            shared_seed=derive_seed(seed, "shared"),
        )
        for view in (0, 1)
    )
    rng = torch.Generator().manual_seed(derive_seed(seed, "views"))
    depth = _Depth(augmentation, len(cells))
    with depth.watched():
        views = two_views(x, augmentation, rng, (contexts[0], contexts[1]))
    dense = [v.to_dense() if isinstance(v, SparseRows) else v for v in (x, *views)]
    original, *after = (v.double().numpy() for v in dense)
    scale = None
    if kind == "counts":
        per_unit = library / target_sum
        drawn = zip(_COLORS, depth.ratio.numpy(), strict=True)
        scale = {"original": per_unit, **{name: per_unit * ratio for name, ratio in drawn}}
    return _Drawn(
        list(adata.obs_names[cells]), original, dict(zip(_COLORS, after, strict=True)), scale
    )


class _Depth:
    """What resampling of counts does to their sum, which the normalisation after it takes back.

    The augmentation is watched within :meth:`watched`.
    """

    def __init__(self, augmentation: Augmentation, n_cells: int) -> None:
        import torch

        self.augmentation, self.view = augmentation, 0
        #: Counts that were drawn, relative to those before, of each cell in each view.
        self.ratio = torch.ones(2, n_cells, dtype=torch.float64)

    @contextmanager
    def watched(self) -> Iterator[None]:
        steps = list({id(step): step for step in _steps(self.augmentation)}.values())
        try:
            for step in steps:
                vars(step)["transform"] = partial(self._transform, step.transform)
                if hasattr(step, "_resample"):
                    vars(step)["_resample"] = partial(self._resample, step._resample)
            yield
        finally:
            for step in steps:
                vars(step).pop("transform", None)
                vars(step).pop("_resample", None)

    def _transform(self, transform: Any, x: Any, applied: Any, rng: Any, context: Any) -> Any:
        import torch

        before, self.view = self.ratio[context.view].clone(), context.view
        found = transform(x, applied, rng, context)
        # What is applied to some of the cells is drawn for all, and kept for these.
        self.ratio[context.view] = torch.where(applied, self.ratio[context.view], before)
        return found

    def _resample(self, resample: Any, counts: Any, cells: Any, n_cells: int, rng: Any) -> Any:
        import torch

        new = resample(counts, cells, n_cells, rng)
        before, after = (
            torch.zeros(n_cells, dtype=torch.float64).index_add_(0, cells, c.double())
            for c in (counts, new)
        )
        self.ratio[self.view] *= torch.where(before > 0, after / before, 1)
        return new


def _steps(augmentation: Augmentation) -> Iterator[Augmentation]:
    """An augmentation and all that it is made of."""
    yield augmentation
    inner = getattr(augmentation, "augmentation", None)
    for step in (*getattr(augmentation, "steps", ()), *(() if inner is None else (inner,))):
        yield from _steps(step)


def _title(augmentation: Augmentation, n_panels: int) -> str:
    """Name of the augmentation, in lines that fit the figure."""
    import textwrap

    return textwrap.fill(repr(augmentation), 40 * n_panels, max_lines=3, placeholder=" ...")


def _legend(names: list[str]) -> list[Any]:
    """One mark for each colour."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    marks: list[Any] = [] if names == ["cells"] else [Patch(color="0.8", label="original")]
    return [
        *marks,
        *(Line2D([], [], color=color, label=name, lw=2) for name, color in _COLORS.items()),
    ]


def _draw_cell(ax: Axes, drawn: _Drawn, cell: int) -> None:
    original = drawn.original[cell]
    # Many genes have the same few values: the views stand side by side, and not on each other.
    step = 0.012 * max(float(original.max()), 1.0)
    for (name, view), aside in zip(drawn.views.items(), (-step, step), strict=True):
        after = view[cell]
        seen = (original != 0) | (after != 0)
        ax.plot(
            original[seen] + aside,
            after[seen],
            ".",
            markersize=3,
            alpha=0.6,
            color=_COLORS[name],
            label=name,
            rasterized=True,
        )
    low, high = ax.get_ylim()
    limits = (min(low, -0.3), max(high, original.max() + 0.3))
    ax.plot(limits, limits, color="0.6", linewidth=1, linestyle=":", zorder=0)
    ax.set(xlim=(-0.3, limits[1]), ylim=limits)
    ax.set(xlabel="original expression", ylabel="expression in the view")
    ax.set_title(drawn.names[cell], fontsize="small")


def _draw_distribution(ax: Axes, drawn: _Drawn, name: str) -> None:
    measures = drawn.measures(name)
    together = np.concatenate(list(measures.values()))
    low, high = together.min(), together.max()
    # Views with noise sum to many times what the cells do: in even bins all of these would be one bar.
    if low > 0 and high > _WIDE * low:
        bins = np.geomspace(low / 1.05, high * 1.05, 31).tolist()
        ax.set_xscale("log")
    else:
        # Bins that are not wide at all where all cells are the same.
        margin = max(0.02 * (high - low), 0.005 * abs(high), 0.5)
        bins = np.linspace(low - margin, high + margin, 31).tolist()
    ax.hist(measures["original"], bins, color="0.8", label="original")
    for which in drawn.views:
        ax.hist(
            measures[which],
            bins,
            histtype="step",
            linewidth=1.5,
            color=_COLORS[which],
            label=which,
        )
    counts = "counts" if drawn.scale is not None else "expression"
    ax.set_xlabel("genes above zero" if name == "genes" else f"{counts} of a cell")
    ax.set_ylabel("cells")
