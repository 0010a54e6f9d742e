"""Pretext masks: which entries the encoder does not see, and which ones the loss counts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from scssl._checks import check_choice, check_number
from scssl.nn import drawn, drawn_in_rows

from ._programs import GenePrograms

if TYPE_CHECKING:
    from scssl.nn import SparseRows

# Of the distribution of rates of a mask of cells: its first shape, and the largest rate.
_ALPHA, _CAP = 5.0, 0.9


@dataclass(frozen=True)
class Hidden:
    """One draw of a mask for a batch of sparse cells.

    Zeros that are not stored look the same to an encoder whether they are hidden or not, so a mask
    has to say of them only how much they count in the loss.

    Parameters
    ----------
    visible
        Which stored values the encoder sees; boolean, shape ``(n_stored,)``.
    loss_weight
        Weight of each stored value in the loss; shape ``(n_stored,)``.
    zero_weight
        Weight in the loss of the entries that are not stored: a scalar, one per gene, or shape
        ``(n_cells, n_genes)`` of which the positions of stored values are not read.
    hidden_share
        Share of the entries that are hidden, expected or, with shape ``(n_cells, 1)``, of each cell.
        0 where what is visible is no thinned copy of the cell.
    indicator
        1 where an entry is hidden; shape ``(n_cells, n_genes)``. Only where it was asked for.
    panel
        Cells of which the encoder sees what is visible as if no other gene had been measured, normalised over
        that alone; boolean, shape ``(n_cells,)``.
    """

    visible: Tensor
    loss_weight: Tensor
    zero_weight: Tensor
    hidden_share: float | Tensor
    indicator: Tensor | None = None
    panel: Tensor | None = None

    def normalizer(self, x: SparseRows) -> Tensor:
        """Weight of all entries of the batch together."""
        stored = self.loss_weight.sum()
        if self.zero_weight.ndim == 0:
            zeros = self.zero_weight * (x.n_cells * x.n_genes - x.n_stored)
        elif self.zero_weight.ndim == 1:
            at_stored = self.zero_weight.index_select(0, x.columns.long()).sum(dtype=torch.float32)
            zeros = x.n_cells * self.zero_weight.sum(dtype=torch.float32) - at_stored
        else:
            at_stored = self.zero_weight[x.rows, x.columns.long()].sum(dtype=torch.float32)
            zeros = self.zero_weight.sum(dtype=torch.float32) - at_stored
        # A batch of which nothing is hidden has loss 0 and not 0/0.
        return (stored + zeros).clamp(min=torch.finfo(torch.float32).tiny)


class Masking(ABC):
    """A pretext task by masking: draws what is hidden for each batch.

    A subclass says in :meth:`draw` which stored values the encoder sees and what the loss counts;
    nothing else in the package needs to know the strategy. An object that has these three methods
    is a mask too, without being a subclass.
    """

    @classmethod
    def __subclasshook__(cls, other: type, /) -> bool:
        if cls is not Masking:
            return NotImplemented
        methods = ("draw", "config", "target_genes")
        return all(callable(getattr(other, name, None)) for name in methods) or NotImplemented

    @abstractmethod
    def draw(self, x: SparseRows, rng: torch.Generator, *, indicator: bool = False) -> Hidden:
        """Draw a mask.

        Parameters
        ----------
        x
            Batch of cells.
        rng
            Generator on the device of the batch.
        indicator
            Whether the dense mask itself is needed.
        """

    @abstractmethod
    def config(self) -> dict[str, object]:
        """What to store in a checkpoint to build the same mask again, JSON only."""

    def target_genes(self) -> Tensor | None:
        """Positions of the genes that the loss can ever count, ascending; `None` for all.

        Where these are few, a training step decodes no others.
        """
        return None


class RandomMask(Masking):
    r"""Hide each entry with the same probability, independently per cell and gene.

    :math:`M_{ng} \sim \mathrm{Bernoulli}(r)`, drawn anew at each step :cite:p:`Richter2025`. Every
    entry can be hidden, zeros included. Of the zeros that are not stored the loss takes the
    expectation over :math:`M` instead of a draw, weight :math:`r` each: the encoder's input does not
    depend on that draw, so the expected loss and gradient are those of the draw, with less variance
    and without a random number per zero.

    Parameters
    ----------
    rate
        Probability :math:`r` to hide an entry, 0.5 in :cite:p:`Richter2025`.

    Examples
    --------
    >>> import torch
    >>> from scssl.augment import RandomMask
    >>> from scssl.nn import SparseRows
    >>> x = SparseRows.from_tensor(torch.ones(100, 50))
    >>> hidden = RandomMask(0.2).draw(x, torch.Generator().manual_seed(0))
    >>> round(1 - hidden.visible.float().mean().item(), 1)
    0.2
    """

    def __init__(self, rate: float = 0.5) -> None:
        self.rate = check_number("mask_rate", rate, "(0, 1)")

    def draw(self, x: SparseRows, rng: torch.Generator, *, indicator: bool = False) -> Hidden:
        device = x.values.device
        if indicator:
            dense = _uniform(x.n_cells, x.n_genes, rng=rng) < self.rate
            hidden = dense[x.rows, x.columns.long()]
            return Hidden(~hidden, hidden.float(), dense, self.rate, dense)
        hidden = _uniform_in(x, rng) < self.rate
        rate = torch.tensor(self.rate, device=device)
        return Hidden(~hidden, hidden.float(), rate, self.rate)

    def config(self) -> dict[str, object]:
        return {"name": "random", "rate": self.rate}

    def __repr__(self) -> str:
        return f"RandomMask(rate={self.rate})"


class PanelMask(Masking):
    r"""Show some cells through a panel of genes, and hide entries of the others at random.

    What is not in the panel of a cell is hidden as a block, and is the target. What is in it is normalised over
    the panel alone, as it is when a panel is embedded. Panels are those that are given and random ones: each
    gene with a probability that is drawn for the cell, log-uniform between two shares. The other cells are
    hidden as by :class:`RandomMask`, for cells with all genes are embedded too.

    Parameters
    ----------
    programs
        Panels that are known. Of the cells that are seen through a panel half are given one of these at
        random; by default all panels are random.
    rate
        Probability to hide an entry of the other cells, 0.5 by default.
    cells
        Share of the cells that are seen through a panel.
    smallest, largest
        Between which shares of the genes random panels are.

    Examples
    --------
    >>> import torch
    >>> from scssl.augment import GenePrograms, PanelMask
    >>> from scssl.nn import SparseRows
    >>> x = SparseRows.from_tensor(torch.ones(400, 50))
    >>> hidden = PanelMask(cells=1.0, smallest=0.1, largest=0.1).draw(
    ...     x, torch.Generator().manual_seed(0)
    ... )
    >>> round(hidden.visible.float().mean().item(), 1), bool(hidden.panel.all())
    (0.1, True)
    """

    def __init__(
        self,
        programs: GenePrograms | None = None,
        rate: float = 0.5,
        *,
        cells: float = 0.5,
        smallest: float = 0.02,
        largest: float = 0.5,
    ) -> None:
        self.programs, self.rate = programs, check_number("mask_rate", rate, "(0, 1)")
        self.cells = check_number("cells", cells, "(0, 1]")
        self.largest = check_number("largest", largest, "(0, 1)")
        self.smallest = check_number("smallest", smallest, f"(0, {self.largest}]")

    def draw(self, x: SparseRows, rng: torch.Generator, *, indicator: bool = False) -> Hidden:
        device, n = x.values.device, x.n_cells
        panel = _uniform(n, rng=rng) < self.cells
        shown = self.smallest * (self.largest / self.smallest) ** _uniform(n, rng=rng)
        rate = torch.where(panel, 1 - shown, self.rate)
        weight, dense = rate[:, None].expand(n, x.n_genes), None
        if indicator:
            dense = _uniform(n, x.n_genes, rng=rng) < weight
            hidden, weight = dense[x.rows, x.columns.long()], dense.float()
        else:
            hidden = _uniform_in(x, rng) < rate.index_select(0, x.rows)
        if self.programs is not None:
            given = panel & (_uniform(n, rng=rng) < 0.5)
            n_programs = len(self.programs)
            which = drawn(
                lambda n: torch.randint(n_programs, (n,), generator=rng, device=device), n
            )
            unseen = ~self.programs.of(which)
            at = unseen[x.rows, x.columns.long()]
            hidden = torch.where(given.index_select(0, x.rows), at, hidden)
            weight = torch.where(given[:, None], unseen.float(), weight)
            dense = None if dense is None else torch.where(given[:, None], unseen, dense)
        share = torch.where(panel, 0.0, rate)[:, None]
        return Hidden(~hidden, hidden.float(), weight, share, dense, panel)

    def config(self) -> dict[str, object]:
        known = {} if self.programs is None else {"programs": self.programs.to_dict()}
        sizes = {"cells": self.cells, "smallest": self.smallest, "largest": self.largest}
        return {"name": "panel", "rate": self.rate, **sizes, **known}

    def __repr__(self) -> str:
        panels = "" if self.programs is None else f"{self.programs}, "
        return f"PanelMask({panels}rate={self.rate}, cells={self.cells})"


class CellMask:
    r"""Hide entries of most cells, each with a rate of its own; the other cells are context.

    Of the cells a share is masked. The rate of each is drawn from
    :math:`\mathrm{Beta}(5, 4/r - 3)`, whose mode is :math:`r`, and is 0.9 at most :cite:p:`Wen2024`;
    its entries, zeros included, are hidden independently with that probability. Of zeros the loss takes
    the expectation, as in :class:`RandomMask`.

    Parameters
    ----------
    cells
        Share of the cells that are masked, 0.75 as in :cite:p:`Wen2024`.
    rate
        Most frequent rate :math:`r`, 0.25 as in :cite:p:`Wen2024`.

    Examples
    --------
    >>> import torch
    >>> from scssl.augment import CellMask
    >>> from scssl.nn import SparseRows
    >>> x = SparseRows.from_tensor(torch.ones(100, 50))
    >>> hidden = CellMask(0.75, 0.25).draw(x, torch.Generator().manual_seed(0))
    >>> int((hidden.hidden_share > 0).sum())
    75
    """

    def __init__(self, cells: float = 0.75, rate: float = 0.25) -> None:
        self.cells = check_number("mask_cells", cells, "(0, 1]")
        self.rate = check_number("mask_rate", rate, "(0, 1)")

    def draw(
        self, x: SparseRows, rng: torch.Generator, *, eligible: Tensor | None = None
    ) -> Hidden:
        """Draw a mask.

        Parameters
        ----------
        x
            Batch of cells.
        rng
            Generator on the device of the batch.
        eligible
            Which cells may be masked, of which `cells` are; boolean, all by default.
        """
        device, n = x.values.device, x.n_cells
        order = torch.randperm(n, generator=rng, device=device)
        if eligible is not None:
            order = order[eligible[order]]
        chosen = order[: max(1, int(self.cells * len(order)))]
        shapes = (_ALPHA, (_ALPHA - 1) / self.rate + 2 - _ALPHA)
        one, other = (
            torch._standard_gamma(torch.full((len(chosen),), shape, device=device), generator=rng)
            for shape in shapes
        )
        share = torch.zeros(n, device=device)
        share[chosen] = (one / (one + other)).clamp(max=_CAP)
        drawn = torch.rand(x.n_stored, generator=rng, device=device)
        hidden = drawn < share.index_select(0, x.rows)
        return Hidden(~hidden, hidden.float(), share[:, None], share[:, None])

    def __repr__(self) -> str:
        return f"CellMask(cells={self.cells}, rate={self.rate})"


def _uniform(n_cells: int, *per_cell: int, rng: torch.Generator) -> Tensor:
    """Uniform within 0 and 1, so many for each cell."""
    return drawn(lambda n: torch.rand(n, *per_cell, generator=rng, device=rng.device), n_cells)


def _uniform_in(x: SparseRows, rng: torch.Generator) -> Tensor:
    """Uniform within 0 and 1, one for each stored value."""
    return drawn_in_rows(lambda n: torch.rand(n, generator=rng, device=rng.device), x.pointers)


Per = Literal["cell", "batch"]


class _ProgramMasking(Masking):
    """What masks by programmes share: the programmes, and draws per cell or per batch."""

    needs_targets = False

    def __init__(self, programs: GenePrograms, *, per: Per) -> None:
        if not isinstance(programs, GenePrograms):
            raise TypeError(
                f"`programs` must be scssl.augment.GenePrograms, found {type(programs).__name__}."
            )
        self.programs, self.per = programs, check_choice("per", per, ("cell", "batch"))

    def target_genes(self) -> Tensor:
        return self.programs.genes.unique()

    def _drawn(self, x: SparseRows, draw: Callable[[int], Tensor]) -> Tensor:
        """Of each cell, or one for all; `draw` takes how many."""
        if x.n_genes != self.programs.n_genes:
            raise ValueError(
                f"The programmes are positions among {self.programs.n_genes:,} genes, the batch has "
                f"{x.n_genes:,}."
            )
        return drawn(draw, x.n_cells) if self.per == "cell" else draw(1)

    def _one(self, x: SparseRows, rng: torch.Generator) -> Tensor:
        """A programme of each cell, or one for all."""
        n_programs = len(self.programs)
        return self._drawn(
            x, lambda n: torch.randint(n_programs, (n,), generator=rng, device=rng.device)
        )

    def _hidden(
        self, x: SparseRows, unseen: Tensor, counted: Tensor, share: Any, *, indicator: bool
    ) -> Hidden:
        """Draw of what is not seen and what counts: a row per cell, or one for all."""
        genes = x.columns.long()
        if self.per == "cell":
            at = x.rows * x.n_genes + genes
            unseen_at = unseen.reshape(-1).index_select(0, at)
            counted_at = counted.reshape(-1).index_select(0, at)
            zero_weight = counted.float()
        else:
            unseen_at, counted_at = unseen[0].index_select(0, genes), counted[0][genes]
            zero_weight = counted[0].float()
        dense = unseen.expand(x.n_cells, -1) if indicator else None
        return Hidden(~unseen_at, counted_at.float(), zero_weight, share, dense)

    def _config(self, name: str, **arguments: Any) -> dict[str, object]:
        return {"name": name, "programs": self.programs.to_dict(), "per": self.per, **arguments}


class GeneProgramMask(_ProgramMasking):
    r"""Hide whole gene programmes.

    For each cell a set :math:`S` of programmes is drawn without replacement, and

    .. math:: M_{ng} = 1 \text{ if } \sum_{i \in S_n} E_{ig} > 0

    with :math:`E` the membership of genes in programmes :cite:p:`Richter2025`. Genes in no programme
    are always visible and never counted.

    Parameters
    ----------
    programs
        The programmes.
    rate
        With ``rate_of="programs"``: :math:`|S| = \max(1, \mathrm{round}(r P))`, 0.25 in
        :cite:p:`Richter2025`. With ``rate_of="genes"``: programmes are added in random order until
        at least this share of all genes is hidden (or all programmes are).
    rate_of
        What the rate is a share of. The share of genes that are hidden follows from the overlap of
        the programmes where it is a share of programmes.
    per
        ``"cell"``: each cell has a draw of its own. ``"batch"``: one draw for all cells of a step,
        as in the published code.

    Examples
    --------
    >>> import torch
    >>> from scssl.augment import GeneProgramMask, GenePrograms
    >>> from scssl.nn import SparseRows
    >>> programs = GenePrograms(["first", "second"], [[0, 1], [2, 3]], n_genes=5)
    >>> x = SparseRows.from_tensor(torch.ones(1, 5))
    >>> hidden = GeneProgramMask(programs, 0.5).draw(x, torch.Generator().manual_seed(0))
    >>> int((~hidden.visible).sum())
    2
    """

    def __init__(
        self,
        programs: GenePrograms,
        rate: float = 0.25,
        *,
        rate_of: Literal["programs", "genes"] = "programs",
        per: Per = "cell",
    ) -> None:
        super().__init__(programs, per=per)
        self.rate = check_number("mask_rate", rate, "(0, 1)")
        self.rate_of = check_choice("rate_of", rate_of, ("programs", "genes"))

    def draw(self, x: SparseRows, rng: torch.Generator, *, indicator: bool = False) -> Hidden:
        n_programs = len(self.programs)
        order = self._drawn(
            x, lambda n: torch.rand(n, n_programs, generator=rng, device=rng.device)
        )
        rank = order.argsort(1).argsort(1)
        if self.rate_of == "programs":
            hidden = self.programs.cover(rank < max(1, round(self.rate * len(self.programs))))
        else:
            hidden = self._until_rate(rank)
        share = hidden.float().mean(1, keepdim=True).expand(x.n_cells, 1)
        return self._hidden(x, hidden, hidden, share, indicator=indicator)

    def _until_rate(self, rank: Tensor) -> Tensor:
        # The covered share grows with the number of programmes: bisect it, all rows at once.
        low = torch.zeros(len(rank), 1, dtype=torch.int64, device=rank.device)
        high = torch.full_like(low, len(self.programs))
        while bool((high - low > 1).any()):
            middle = (low + high) // 2
            enough = self.programs.cover(rank < middle).float().mean(1, keepdim=True) >= self.rate
            high = torch.where(enough, middle, high)
            low = torch.where(enough, low, middle)
        return self.programs.cover(rank < high)

    def config(self) -> dict[str, object]:
        return self._config("gene_program", rate=self.rate, rate_of=self.rate_of)

    def __repr__(self) -> str:
        return f"GeneProgramMask({self.programs}, rate={self.rate}, per={self.per})"


class GPToGPMask(_ProgramMasking):
    r"""Isolated masking, gene programme to gene programme.

    For each cell one programme :math:`i` is drawn. With ``mode="isolated"`` everything outside of it
    is taken out of the input and of the target :cite:p:`Richter2025`: input
    :math:`x \odot E_i \odot (1 - H)`, loss over the genes of :math:`i` (where :math:`H` is drawn,
    over the hidden ones). With ``mode="complement"`` the programme is hidden and predicted from all
    other genes: input :math:`x \odot (1 - E_i)`, loss over the genes of :math:`i`.

    Parameters
    ----------
    programs
        The programmes.
    hide_fraction
        Probability with which :math:`H` hides a gene of the programme, in isolated mode. With 0, as
        published, input and target are the same genes, and the task is that of a plain autoencoder
        on one programme.
    mode
        ``"isolated"`` or ``"complement"``.
    per
        ``"cell"``: each cell has a programme of its own. ``"batch"``: one for all cells of a step.

    Raises
    ------
    ValueError
        If ``hide_fraction`` is not in [0, 1), or given in complement mode.

    Examples
    --------
    >>> import torch
    >>> from scssl.augment import GenePrograms, GPToGPMask
    >>> from scssl.nn import SparseRows
    >>> programs = GenePrograms(["only"], [[0, 1]], n_genes=5)
    >>> x = SparseRows.from_tensor(torch.ones(1, 5))
    >>> GPToGPMask(programs).draw(x, torch.Generator().manual_seed(0)).visible.tolist()
    [True, True, False, False, False]
    """

    def __init__(
        self,
        programs: GenePrograms,
        *,
        hide_fraction: float = 0.0,
        mode: Literal["isolated", "complement"] = "isolated",
        per: Per = "cell",
    ) -> None:
        super().__init__(programs, per=per)
        self.mode = check_choice("mode", mode, ("isolated", "complement"))
        self.hide_fraction = check_number("hide_fraction", hide_fraction, "[0, 1)")
        if hide_fraction and mode == "complement":
            raise ValueError(
                "`hide_fraction` must be 0 in complement mode, which hides the whole programme; found "
                f"{hide_fraction}."
            )

    def draw(self, x: SparseRows, rng: torch.Generator, *, indicator: bool = False) -> Hidden:
        inside = self.programs.of(self._one(x, rng))
        if self.mode == "complement":
            unseen = counted = inside
        elif self.hide_fraction:
            shape = inside.shape[1:]
            coin = self._drawn(x, lambda n: torch.rand(n, *shape, generator=rng, device=rng.device))
            coin = coin < self.hide_fraction
            counted = inside & coin
            unseen = ~inside | coin
        else:
            counted, unseen = inside, ~inside
        # What is visible is no thinned copy of the cell, so there is nothing to scale up.
        return self._hidden(x, unseen, counted, 0.0, indicator=indicator)

    def config(self) -> dict[str, object]:
        return self._config("gp_to_gp", hide_fraction=self.hide_fraction, mode=self.mode)

    def __repr__(self) -> str:
        return f"GPToGPMask({self.programs}, mode={self.mode}, per={self.per})"


class GPToTFMask(_ProgramMasking):
    r"""Isolated masking, gene programme to transcription factor.

    For each cell one factor :math:`t` is drawn. The input is the cell restricted to the targets of
    :math:`t`, :math:`t` itself taken out, and the loss is on gene :math:`t` alone
    :cite:p:`Richter2025`: input :math:`x \odot E_t \odot (1 - e_t)`, loss on :math:`e_t`.

    Parameters
    ----------
    programs
        Targets of each factor, with the factors as ``targets``.
    per
        ``"cell"``: each cell has a factor of its own. ``"batch"``: one for all cells of a step.

    Raises
    ------
    ValueError
        If the programmes have no factors.

    Examples
    --------
    >>> import torch
    >>> from scssl.augment import GenePrograms, GPToTFMask
    >>> from scssl.nn import SparseRows
    >>> programs = GenePrograms(["TF"], [[0, 1, 2]], n_genes=5, targets=[2])
    >>> x = SparseRows.from_tensor(torch.ones(1, 5))
    >>> hidden = GPToTFMask(programs).draw(x, torch.Generator().manual_seed(0))
    >>> hidden.visible.tolist(), hidden.loss_weight.tolist()
    ([True, True, False, False, False], [0.0, 0.0, 1.0, 0.0, 0.0])
    """

    needs_targets = True

    def __init__(self, programs: GenePrograms, *, per: Per = "cell") -> None:
        super().__init__(programs, per=per)
        if programs.targets is None:
            raise ValueError(
                "These programmes name no transcription factors. Make them with scssl.pp.tf_targets, or "
                "name them as `targets` of GenePrograms."
            )
        self._factors = programs.targets

    def draw(self, x: SparseRows, rng: torch.Generator, *, indicator: bool = False) -> Hidden:
        factors = self._one(x, rng)
        factor = self._factors.to(factors.device).index_select(0, factors).unsqueeze(1)
        unseen = self.programs.of(factors).logical_not_()
        unseen.scatter_(1, factor, value=True)
        counted = torch.zeros_like(unseen).scatter_(1, factor, value=True)
        return self._hidden(x, unseen, counted, 0.0, indicator=indicator)

    def target_genes(self) -> Tensor:
        return self._factors.unique()

    def config(self) -> dict[str, object]:
        return self._config("gp_to_tf")

    def __repr__(self) -> str:
        return f"GPToTFMask({self.programs}, per={self.per})"
