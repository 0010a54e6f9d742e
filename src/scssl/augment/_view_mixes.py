"""Augmentations that exchange and mix: genes within a cell, and cells with other cells."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from scssl._checks import check_choice, check_number
from scssl.nn import SparseRows, drawn, gather, n_of_all, only, places

from ._view import (
    Augmentation,
    Edges,
    ViewContext,
    Walk,
)
from ._view_rows import (
    Batch,
    bernoulli,
    choose_cells,
    coins,
    coins_for,
    draw_seed,
    gathered,
    has_kernel,
    join,
    match,
    shape_of,
    sparse_with_values,
    take,
)


class GeneSwap(Augmentation):
    r"""Exchange the values of random pairs of genes within each cell.

    .. math:: x'_{cg} = x_{ch}, \quad x'_{ch} = x_{cg} \qquad \text{for } \{g, h\} \in S_c

    where the pairs of :math:`S_c` have no gene in common, so that the values of a cell are permuted:
    none is lost, none is there twice. The genes are put on a ring in random order, each cell pairs
    them by a reflection of the ring of its own, and each pair is exchanged with probability
    :math:`q`; in expectation :math:`q G` genes of a cell are exchanged, one or two genes fewer
    where the reflection leaves them in place. It is the inner swap of :cite:p:`Han2022`, the code of
    which draws pairs with replacement and loses values.

    Parameters
    ----------
    rate
        Share :math:`q` of the genes to exchange, 0.1 in :cite:p:`Han2022`.
    p
        Probability to apply, per cell and view, 0.5 in :cite:p:`Han2022`.

    Examples
    --------
    >>> import torch
    >>> from scssl.augment import GeneSwap, ViewContext
    >>> x = torch.arange(1000.0).expand(2, -1)
    >>> view = GeneSwap(0.2, p=1)(x, torch.Generator().manual_seed(0), ViewContext())
    >>> round((view != x).float().mean().item(), 1), bool((view.sort(1).values == x).all())
    (0.2, True)
    """

    name = "gene_swap"
    keeps_counts = True

    def __init__(self, rate: float = 0.1, *, p: float = 0.5) -> None:
        self.rate = check_number("rate", rate, "(0, 1]")
        self.p = check_number("p", p, "[0, 1]")

    def transform(
        self, x: Batch, applied: Tensor, rng: torch.Generator, context: ViewContext
    ) -> Batch:
        n_cells, n_genes = shape_of(x)
        device = applied.device
        gene_at = torch.randperm(n_genes, generator=rng, device=device)
        centre = drawn(
            lambda n: torch.randint(n_genes, (n,), generator=rng, device=device), n_cells
        )
        if not isinstance(x, SparseRows):
            if has_kernel(x):
                from scssl.nn.cpu import views

                return views.swap(x, applied, gene_at, centre, self.rate, rng)
            return self._exchanged(x, applied.nonzero().squeeze(1), gene_at, centre, rng)
        cells, genes = x.rows, x.columns.long()
        place_of = torch.empty_like(gene_at)
        place_of[gene_at] = torch.arange(n_genes, device=device)
        place = place_of.index_select(0, genes)
        # Reflecting twice leads back, so this pairs the genes.
        other = centre.index_select(0, cells).sub_(place)
        other.add_(other < 0, alpha=n_genes)
        # Both genes of a pair have to come to the same decision.
        among_all = places(n_cells, device).index_select(0, cells)
        key = torch.minimum(place, other).add_(among_all, alpha=n_genes)
        moved = bernoulli(key, draw_seed(rng, device), self.rate)
        moved.logical_and_(applied.index_select(0, cells))
        partner = gene_at.index_select(0, other).to(x.columns.dtype)
        return SparseRows(x.pointers, partner.where(moved, x.columns), x.values, n_genes)

    def _exchanged(
        self, x: Tensor, where: Tensor, gene_at: Tensor, centre: Tensor, rng: torch.Generator
    ) -> Tensor:
        """Dense: draw the pairs, and move only what is in them."""
        n_genes = len(gene_at)
        chosen = _coins_of(where, (n_genes + 1) // 2, self.rate, rng)
        cell, step = chosen.nonzero(as_tuple=True)
        cell = where.index_select(0, cell)
        centre = centre.index_select(0, cell)
        # Outwards from the middle between the two genes of a pair.
        place = (centre + 1).div_(2, rounding_mode="floor").add_(step).remainder_(n_genes)
        other = (centre - place).remainder_(n_genes)
        one, two = (gene_at.index_select(0, at).add_(cell, alpha=n_genes) for at in (place, other))
        flat = x.reshape(-1)
        new = flat.index_copy(0, one, flat.index_select(0, two))
        return new.index_copy_(0, two, flat.index_select(0, one)).view_as(x)


class CrossOver(Augmentation):
    r"""Replace a random share of the genes of each cell by those of another cell of the batch.

    .. math:: x'_{cg} = (1 - M_{cg})\, x_{cg} + M_{cg}\, x_{jg}, \qquad
        M_{cg} \sim \mathrm{Bernoulli}(q), \quad j \sim \mathcal{U}(\text{other cells})

    with one donor :math:`j` for all genes of a cell :cite:p:`Han2022`. The cells of a batch are a
    random sample of the data, so a donor among them is a donor among all. It gives what it has at
    this point of the pipeline. A cell without a possible donor stays as it is.

    Parameters
    ----------
    rate
        Share :math:`q` of the genes that come from the donor, 0.25 in :cite:p:`Han2022`.
    within
        ``"batch"`` takes donors of the same experimental batch only, by default any.
    p
        Probability to apply, per cell and view, 0.5 in :cite:p:`Han2022`.

    Raises
    ------
    ValueError
        If an argument is out of its range; when called, if ``within="batch"`` and the batches of
        the cells are not known.

    Examples
    --------
    >>> import torch
    >>> from scssl.augment import CrossOver, ViewContext
    >>> x = torch.arange(1.0, 9).unsqueeze(1).expand(-1, 5000)
    >>> view = CrossOver(0.25, p=1)(x, torch.Generator().manual_seed(0), ViewContext())
    >>> [len(cell.unique()) for cell in view], round((view != x).float().mean().item(), 2)
    ([2, 2, 2, 2, 2, 2, 2, 2], 0.25)
    """

    name = "cross_over"

    def __init__(
        self, rate: float = 0.25, *, within: Literal["batch"] | None = None, p: float = 0.5
    ) -> None:
        self.rate = check_number("rate", rate, "(0, 1]")
        self.within = check_choice("within", within, (None, "batch"))
        self.needs_batch = within == "batch"
        self.p = check_number("p", p, "[0, 1]")

    def transform(
        self, x: Batch, applied: Tensor, rng: torch.Generator, context: ViewContext
    ) -> Batch:
        cells = places(shape_of(x)[0], applied.device)
        # Donors are among the cells of all processes.
        donor = self._donors(x, applied.device, rng, context).index_select(0, cells)
        applied = applied & (donor != cells)
        return exchange(x, gathered(x), donor, applied, self.rate, rng)

    def _donors(
        self, x: Batch, device: torch.device, rng: torch.Generator, context: ViewContext
    ) -> Tensor:
        """Another cell for each cell of all processes, itself where there is none."""
        n_cells = n_of_all(shape_of(x)[0])
        order = torch.arange(n_cells, device=device)
        first, size, rank = torch.zeros_like(order), torch.full_like(order, n_cells), order
        if self.within == "batch":
            batch = None if context.batch is None else gather(context.batch)
            if batch is None or batch.numel() != n_cells:
                what = "none was given" if batch is None else f"found {batch.numel():,} of them"
                raise ValueError(
                    f'CrossOver(within="batch") needs the experimental batch of each of the '
                    f"{n_cells:,} cells, {what}: give `batch_key` to `setup_anndata`, or "
                    "`batch` to the ViewContext."
                )
            codes, order = batch.reshape(-1).sort(stable=True)
            _, group, sizes = codes.unique_consecutive(return_inverse=True, return_counts=True)
            first, size = (sizes.cumsum(0) - sizes)[group], sizes[group]
            rank = torch.arange(n_cells, device=device) - first
        # One of the others, counted from the cell itself around its group.
        draws = torch.randint(2**62, (n_cells,), generator=rng, device=device)
        ahead = 1 + draws % (size - 1).clamp(min=1)
        donor = torch.empty_like(order)
        donor[order] = order[first + (rank + ahead) % size]
        return donor


def exchange(
    x: Batch,
    other: Batch,
    partner: Tensor,
    applied: Tensor,
    rate: float,
    rng: torch.Generator,
) -> Batch:
    """Entries of each cell's ``partner`` in ``other`` in place of the own ones, drawn by ``rate``.

    Of the ``applied`` cells, for each cell and gene; ``other`` is sparse if ``x`` is.
    """
    if isinstance(x, SparseRows):
        if not isinstance(other, SparseRows):
            raise TypeError("`other` must be sparse where `x` is.")
        theirs, seed = take(other, partner, applied), draw_seed(rng, applied.device)
        kept = ~coins_for(x, seed, rate)
        own = x.keep(kept.logical_or_(~applied.index_select(0, x.rows)))
        return join(own, theirs.keep(coins_for(theirs, seed, rate)))
    if isinstance(other, Tensor) and has_kernel(x, other):
        from scssl.nn.cpu import views

        return views.exchange(x, other, partner, applied, rate, rng)
    where = applied.nonzero().squeeze(1)
    partner = partner.index_select(0, where)
    if isinstance(other, SparseRows):
        donated = take(other, partner).to_dense()
    else:
        donated = other.index_select(0, partner)
    taken = _coins_of(where, donated.shape[1], rate, rng)
    return x.index_copy(0, where, donated.where(taken, x.index_select(0, where)))


def _coins_of(cells: Tensor, n: int, probability: float, rng: torch.Generator) -> Tensor:
    """Independent decisions, `n` for each of some cells."""
    with only(cells):
        return drawn(lambda n_cells: coins((n_cells, n), probability, rng), len(cells))


_MIXES = ("int", "geo", "exc")
Mix = Literal["int", "geo", "exc"]


class _MixAugmentation(Augmentation):
    """What mixing augmentations share: how two cells become one."""

    def _set(
        self, mix: Mix | Sequence[Mix], alpha: float, weight: Literal["fixed", "random"], p: float
    ) -> None:
        kinds: tuple[Mix, ...] = (mix,) if isinstance(mix, str) else tuple(mix)
        if not kinds or len(set(kinds)) < len(kinds) or not set(kinds) <= set(_MIXES):
            raise ValueError(
                f"`mix` must be some of {', '.join(map(repr, _MIXES))}, each once; found {mix!r}."
            )
        self.mix = kinds
        self.weight = check_choice("weight", weight, ("fixed", "random"))
        self.alpha = check_number("alpha", alpha, "(0, 1)")
        self.p = check_number("p", p, "[0, 1]")

    def _mixed(self, x: Batch, partner: SparseRows, applied: Tensor, rng: torch.Generator) -> Batch:
        """Each cell with its partner, by one of the ways to mix, drawn for each cell."""
        n_cells, device = shape_of(x)[0], applied.device
        if self.mix == ("exc",):
            cells = torch.arange(n_cells, device=device)
            return exchange(x, partner, cells, applied, 1 - self.alpha, rng)
        kind = drawn(
            lambda n: torch.randint(len(self.mix), (n,), generator=rng, device=device), n_cells
        )
        kind = torch.tensor([_MIXES.index(name) for name in self.mix], device=device)[kind]
        draws = drawn(lambda n: torch.rand(n, generator=rng, device=device), n_cells)
        between = draws.mul_(1 - self.alpha).add_(self.alpha)
        share = torch.full_like(between, self.alpha) if self.weight == "fixed" else between
        # The geometric mean has a weight of its own in either case.
        share = torch.where(kind == 1, between, share)

        if not isinstance(x, SparseRows):
            where = applied.nonzero().squeeze(1)
            own = x.index_select(0, where)
            dense = take(partner, where).to_dense()
            stays = None
            if "exc" in self.mix:
                stays = _coins_of(where, own.shape[1], self.alpha, rng)
            new = self._mix(own, dense, kind[where, None], share[where, None], stays)
            return x.index_copy(0, where, new)
        theirs = take(partner, torch.arange(n_cells, device=device), applied)
        met, alone = match(x, theirs)
        seed, cells = draw_seed(rng, device), x.rows
        stays = coins_for(x, seed, self.alpha) if "exc" in self.mix else None
        new = self._mix(x.values, met, kind[cells], share[cells], stays)
        new = new.where(applied.index_select(0, cells), x.values)
        theirs = theirs.keep(alone)
        cells, none = theirs.rows, torch.zeros_like(theirs.values)
        if stays is not None:
            stays = coins_for(theirs, seed, self.alpha)
        added = self._mix(none, theirs.values, kind[cells], share[cells], stays)
        return join(sparse_with_values(x, new), sparse_with_values(theirs, added))

    def _mix(
        self, own: Tensor, theirs: Tensor, kind: Tensor, share: Tensor, stays: Tensor | None
    ) -> Tensor:
        """Mix of entries, one of which may be 0 because it is not stored."""
        new = share * own + (1 - share) * theirs
        if "geo" in self.mix:
            # Noise can leave negative values, which have no power.
            geometric = own.clamp(min=0) ** share * theirs.clamp(min=0) ** (1 - share)
            new = torch.where(kind == 1, geometric, new)
        if stays is not None:
            new = torch.where(kind == 2, own.where(stays, theirs), new)
        return new


class NeighborMix(_MixAugmentation):
    r"""Mix each cell with one of its neighbours in a graph, for instance those in other batches.

    :math:`x' = f(x_c, x_j)` with :math:`j` a random neighbour of :math:`c` and, drawn for each cell
    among those in ``mix``,

    .. math::
        \begin{aligned}
        f_\text{int}(x, x')_g &= \lambda x_g + (1 - \lambda) x'_g \\
        f_\text{geo}(x, x')_g &= x_g^{\lambda} {x'_g}^{1 - \lambda}, \qquad
        \lambda \sim \mathcal{U}(\alpha, 1) \\
        f_\text{exc}(x, x')_g &= b_g x_g + (1 - b_g) x'_g, \qquad
        b_g \sim \mathrm{Bernoulli}(\alpha) \text{ for each gene}
        \end{aligned}

    with :math:`\lambda = \alpha` in :math:`f_\text{int}`, or :math:`\lambda \sim
    \mathcal{U}(\alpha, 1)` with ``weight="random"``. With the graph of
    the nearest cells in each batch it is the BBKNN augmentation of :cite:p:`Ovcharenko2025`. A cell
    without neighbours is mixed with itself, which changes nothing.

    Parameters
    ----------
    graph
        Name of the graph in ``adata.obsp``.
    mix
        One or more of ``"int"`` (interpolate), ``"geo"`` (geometric mean) and ``"exc"`` (exchange
        genes); ``"int"`` and ``"exc"`` in :cite:p:`Ovcharenko2025`.
    alpha
        Share :math:`\alpha` of the cell itself, 0.5 in :cite:p:`Ovcharenko2025`.
    weight
        Weight of ``"int"``: ``"fixed"`` as in :cite:p:`Ovcharenko2025` or ``"random"`` as in
        :cite:p:`Yan2023`.
    p
        Probability to apply, per cell and view, 0.5 in :cite:p:`Ovcharenko2025`.

    Raises
    ------
    ValueError
        If an argument is out of its range; when called, if the context has no such partners.

    Examples
    --------
    >>> import torch
    >>> from scssl.augment import NeighborMix, ViewContext
    >>> from scssl.nn import SparseRows
    >>> neighbors = SparseRows.from_tensor(torch.full((2, 5), 3.0))
    >>> context = ViewContext(partners={("bbknn",): neighbors})
    >>> mix = NeighborMix("bbknn", mix="int", p=1)
    >>> mix(torch.ones(2, 5), torch.Generator().manual_seed(0), context)[0]
    tensor([2., 2., 2., 2., 2.])
    """

    name = "neighbor_mix"

    def __init__(
        self,
        graph: str = "cross_batch_neighbors",
        mix: Mix | Sequence[Mix] = ("int", "exc"),
        alpha: float = 0.5,
        *,
        weight: Literal["fixed", "random"] = "fixed",
        p: float = 0.5,
    ) -> None:
        self.graph = _check_graph("graph", graph)
        self._set(mix, alpha, weight, p)

    def transform(
        self, x: Batch, applied: Tensor, rng: torch.Generator, context: ViewContext
    ) -> Batch:
        return self._mixed(x, context.partner((self.graph,), x), applied, rng)

    def walks(self, view: int) -> tuple[Walk, ...]:
        return ((self.graph,),)


class MutualNeighborMix(_MixAugmentation):
    r"""Pair each cell with a mutual nearest neighbour in another batch, each mixed with a neighbour.

    .. math:: \text{view 0: } f(x_c, x_j), \qquad \text{view 1: } f(x_a, x_{j'})

    with :math:`a` a random mutual neighbour of :math:`c` in another batch (or :math:`c`, if it has
    none), :math:`j` and :math:`j'` random neighbours of :math:`c` and of :math:`a` within their own
    batches, and :math:`f` as in :class:`NeighborMix`. To which cells it is applied is drawn once
    for both views :cite:p:`Yan2023`. In view 1 the cell is replaced: give it as the first step. Of
    cells with several modalities it is replaced in all of them.

    Parameters
    ----------
    mutual
        Name of the graph of mutual nearest neighbours across batches in ``adata.obsp``.
    within
        Name of the graph of neighbours within batches in ``adata.obsp``.
    mix
        One or more of ``"int"``, ``"geo"`` and ``"exc"``; ``"int"`` in :cite:p:`Yan2023`.
    alpha
        Share :math:`\alpha` of the cell itself, 0.5 in :cite:p:`Yan2023`.
    weight
        Weight of ``"int"``: ``"fixed"``, :math:`\alpha`, or ``"random"`` between it and 1.
    p
        Probability to apply, per cell, 0.5 in :cite:p:`Ovcharenko2025`.

    Raises
    ------
    ValueError
        If an argument is out of its range or both graphs are the same; when called, if the context has no such partners.

    Examples
    --------
    >>> import torch
    >>> from scssl.augment import MutualNeighborMix, ViewContext, two_views
    >>> from scssl.nn import SparseRows
    >>> cells = lambda value: SparseRows.from_tensor(torch.full((2, 3), value))
    >>> contexts = (
    ...     ViewContext(view=0, partners={("mnn_within",): cells(2.0)}),
    ...     ViewContext(view=1, partners={("mnn",): cells(5.0), ("mnn", "mnn_within"): cells(7.0)}),
    ... )
    >>> rng = torch.Generator().manual_seed(0)
    >>> first, second = two_views(cells(1.0), MutualNeighborMix(p=1), rng, contexts)
    >>> first.to_dense()[0].tolist(), second.to_dense()[0].tolist()
    ([1.5, 1.5, 1.5], [6.0, 6.0, 6.0])
    """

    name = "mutual_neighbor_mix"
    shared = True

    def __init__(
        self,
        mutual: str = "mnn",
        within: str = "mnn_within",
        mix: Mix | Sequence[Mix] = "int",
        alpha: float = 0.5,
        *,
        weight: Literal["fixed", "random"] = "fixed",
        p: float = 0.5,
    ) -> None:
        self.mutual = _check_graph("mutual", mutual)
        self.within = _check_graph("within", within)
        if mutual == within:
            raise ValueError(
                f"`mutual` and `within` must be two graphs, found {mutual!r} for both. What "
                f"belongs to the first is `within={mutual + '_within'!r}`."
            )
        self._set(mix, alpha, weight, p)

    def transform(
        self, x: Batch, applied: Tensor, rng: torch.Generator, context: ViewContext
    ) -> Batch:
        *anchor, neighbor = self.walks(context.view)
        if anchor:
            x = choose_cells(applied, context.partner(anchor[0], x), x)
        return self._mixed(x, context.partner(neighbor, x), applied, rng)

    def walks(self, view: int) -> tuple[Walk, ...]:
        if view == 0:
            return ((self.within,),)
        return ((self.mutual,), (self.mutual, self.within))

    def stand_ins(
        self, n_cells: int, device: torch.device, context: ViewContext
    ) -> tuple[tuple[Walk, Tensor], ...]:
        *anchor, _ = self.walks(context.view)
        if self.p == 0 or not anchor:
            return ()
        return ((anchor[0], self._draw_shared(n_cells, device, context)),)

    def recipe(self, graph: str, adata: str = "adata", batch_key: str = "batch") -> str:
        line = (
            f"`scssl.pp.cross_batch_neighbors({adata}, {batch_key!r}, method='mnn', "
            f"key_added={self.mutual!r})`"
        )
        made = f"{self.mutual}_within"
        if self.within == made:
            return line
        return f"{line}, and name what it makes: MutualNeighborMix({self.mutual!r}, {made!r})"

    def edges(self) -> dict[str, Edges]:
        return {self.mutual: "across", self.within: "within"}


def _check_graph(name: str, value: str) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError(f"`{name}` must be the name of a graph in adata.obsp, found {value!r}.")
    return value
