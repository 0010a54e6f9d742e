"""Augmentations that mix cells with their neighbours in a graph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from scssl._checks import check_choice, check_number
from scssl.nn import SparseRows

from ._view import (
    Augmentation,
    Batch,
    Edges,
    ViewContext,
    Walk,
    shape_of,
)
from ._view_genes import exchange
from ._view_hash import bernoulli, coins, draw_seed
from ._view_rows import (
    choose_cells,
    join,
    match,
    position_keys,
    sparse_with_values,
    take,
)

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
        kind = torch.randint(len(self.mix), (n_cells,), generator=rng, device=device)
        kind = torch.tensor([_MIXES.index(name) for name in self.mix], device=device)[kind]
        draws = torch.rand(n_cells, generator=rng, device=device)
        between = draws.mul_(1 - self.alpha).add_(self.alpha)
        share = torch.full_like(between, self.alpha) if self.weight == "fixed" else between
        # The geometric mean has a weight of its own in either case.
        share = torch.where(kind == 1, between, share)

        if not isinstance(x, SparseRows):
            where = applied.nonzero().squeeze(1)
            own = x.index_select(0, where)
            dense = take(partner, where).to_dense()
            stays = coins(own.shape, self.alpha, rng) if "exc" in self.mix else None
            new = self._mix(own, dense, kind[where, None], share[where, None], stays)
            return x.index_copy(0, where, new)
        theirs = take(partner, torch.arange(n_cells, device=device), applied)
        met, alone = match(x, theirs)
        seed, cells = draw_seed(rng, device), x.rows
        stays = bernoulli(position_keys(x), seed, self.alpha) if "exc" in self.mix else None
        new = self._mix(x.values, met, kind[cells], share[cells], stays)
        new = new.where(applied.index_select(0, cells), x.values)
        theirs = theirs.keep(alone)
        cells, none = theirs.rows, torch.zeros_like(theirs.values)
        if stays is not None:
            stays = bernoulli(position_keys(theirs), seed, self.alpha)
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
                f"`mutual` and `within` must be two graphs, found {mutual!r} for both: "
                f'MutualNeighborMix("{mutual}", "{mutual}_within").'
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

    def recipe(self, graph: str, adata: str = "adata") -> str:
        line = (
            f"scssl.pp.cross_batch_neighbors({adata}, batch_key=..., method='mnn', "
            f"key_added={self.mutual!r})"
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
