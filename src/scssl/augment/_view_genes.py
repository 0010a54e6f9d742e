"""Augmentations that move values between genes and between the cells of the batch."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from scssl._checks import check_choice, check_number
from scssl.nn import SparseRows

from ._view import (
    Augmentation,
    Batch,
    ViewContext,
    shape_of,
)
from ._view_hash import bernoulli, coins, draw_seed
from ._view_rows import has_kernel, join, position_keys, take


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
        centre = torch.randint(n_genes, (n_cells,), generator=rng, device=device)
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
        key = torch.minimum(place, other).add_(cells, alpha=n_genes)
        moved = bernoulli(key, draw_seed(rng, device), self.rate)
        moved.logical_and_(applied.index_select(0, cells))
        partner = gene_at.index_select(0, other).to(x.columns.dtype)
        return SparseRows(x.pointers, partner.where(moved, x.columns), x.values, n_genes)

    def _exchanged(
        self, x: Tensor, where: Tensor, gene_at: Tensor, centre: Tensor, rng: torch.Generator
    ) -> Tensor:
        """Dense: draw the pairs, and move only what is in them."""
        n_genes = len(gene_at)
        chosen = coins((len(where), (n_genes + 1) // 2), self.rate, rng)
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
        donor = self._donors(x, applied.device, rng, context)
        applied = applied & (donor != torch.arange(len(donor), device=donor.device))
        return exchange(x, x, donor, applied, self.rate, rng)

    def _donors(
        self, x: Batch, device: torch.device, rng: torch.Generator, context: ViewContext
    ) -> Tensor:
        """Another cell for each cell, itself where there is none."""
        n_cells = shape_of(x)[0]
        order = torch.arange(n_cells, device=device)
        first, size, rank = torch.zeros_like(order), torch.full_like(order, n_cells), order
        if self.within == "batch":
            batch = context.batch
            if batch is None or batch.numel() != n_cells:
                what = "none was given" if batch is None else f"found {batch.numel():,} of them"
                raise ValueError(
                    f'CrossOver(within="batch") needs the experimental batch of each of the '
                    f"{n_cells:,} cells, {what}: give `batch_key` to `setup_anndata`, or "
                    "ViewContext(batch=...)."
                )
            codes, order = batch.reshape(-1).sort(stable=True)
            _, group, sizes = codes.unique_consecutive(return_inverse=True, return_counts=True)
            first, size = (sizes.cumsum(0) - sizes)[group], sizes[group]
            rank = torch.arange(n_cells, device=device) - first
        # One of the others, counted from the cell itself around its group.
        draws = torch.rand(n_cells, generator=rng, device=device, dtype=torch.float64)
        ahead = 1 + (draws * (size - 1)).long()
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
    """Entries of a partner in place of the own ones, drawn for each cell and gene.

    Parameters
    ----------
    x
        Batch of cells.
    other
        Batch in which the partners are, sparse if ``x`` is.
    partner
        Number of each cell's partner in ``other``.
    applied
        Which cells to change.
    rate
        Probability that an entry comes from the partner.
    rng
        Generator on the device of the batch.
    """
    if isinstance(x, SparseRows):
        if not isinstance(other, SparseRows):
            raise TypeError("`other` must be sparse where `x` is.")
        theirs, seed = take(other, partner, applied), draw_seed(rng, applied.device)
        kept = ~bernoulli(position_keys(x), seed, rate)
        own = x.keep(kept.logical_or_(~applied.index_select(0, x.rows)))
        return join(own, theirs.keep(bernoulli(position_keys(theirs), seed, rate)))
    if isinstance(other, Tensor) and has_kernel(x, other):
        from scssl.nn.cpu import views

        return views.exchange(x, other, partner, applied, rate, rng)
    where = applied.nonzero().squeeze(1)
    partner = partner.index_select(0, where)
    if isinstance(other, SparseRows):
        donated = take(other, partner).to_dense()
    else:
        donated = other.index_select(0, partner)
    drawn = coins(donated.shape, rate, rng)
    return x.index_copy(0, where, donated.where(drawn, x.index_select(0, where)))
