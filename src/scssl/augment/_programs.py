"""Gene programmes, and which genes those of a draw cover."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor


class GenePrograms:
    """Sets of genes, by their positions among the genes of a model.

    Parameters
    ----------
    names
        Name of each programme.
    members
        Positions of the genes of each programme.
    n_genes
        Number of genes of the model.
    targets
        For transcription factors: position of the factor itself, one per programme.

    Raises
    ------
    ValueError
        If there is no programme, one is empty, or a position is not that of a gene.

    Examples
    --------
    >>> from scssl.augment import GenePrograms
    >>> programs = GenePrograms(["first", "second"], [[0, 1], [1, 3]], n_genes=5)
    >>> programs
    GenePrograms(2 programmes, 3 of 5 genes)
    """

    def __init__(
        self,
        names: Sequence[str],
        members: Sequence[Sequence[int]],
        n_genes: int,
        *,
        targets: Sequence[int] | None = None,
    ) -> None:
        self.names = tuple(str(name) for name in names)
        self.n_genes = int(n_genes)
        if not self.names or len(self.names) != len(members):
            raise ValueError(
                f"{len(self.names)} names for {len(members)} programmes; at least one is needed."
            )
        genes = [sorted({int(gene) for gene in one}) for one in members]
        self.targets = None if targets is None else torch.tensor([int(t) for t in targets])
        if self.targets is not None and len(self.targets) != len(genes):
            raise ValueError(f"{len(self.targets)} targets for {len(genes)} programmes.")
        everything = [gene for one in genes for gene in one]
        everything += [] if self.targets is None else self.targets.tolist()
        if any(not one for one in genes):
            empty = next(name for name, one in zip(self.names, genes, strict=True) if not one)
            raise ValueError(f"The programme {empty!r} has no gene.")
        if min(everything) < 0 or max(everything) >= self.n_genes:
            raise ValueError(
                f"Positions of genes must be 0 to {self.n_genes - 1}, found "
                f"{min(everything)} to {max(everything)}."
            )
        self.sizes = torch.tensor([len(one) for one in genes])
        self.genes = torch.tensor([gene for one in genes for gene in one])
        self._indicator: Tensor | None = None

    def __len__(self) -> int:
        return len(self.names)

    def __repr__(self) -> str:
        covered = len(self.genes.unique())
        return f"GenePrograms({len(self)} programmes, {covered:,} of {self.n_genes:,} genes)"

    def members(self) -> list[list[int]]:
        """Positions of the genes of each programme."""
        return [one.tolist() for one in self.genes.split(self.sizes.tolist())]

    def cover(self, drawn: Tensor) -> Tensor:
        """Which genes are in at least one of the drawn programmes.

        Boolean, shape ``(n_rows, n_genes)``.

        Parameters
        ----------
        drawn
            Boolean, shape ``(n_rows, n_programs)``.
        """
        # A product with the sparse membership: the cost is that of the members, not of all genes.
        counts = torch.sparse.mm(self._membership(drawn.device), drawn.t().float())
        return counts.t() > 0

    def of(self, program: Tensor) -> Tensor:
        """Genes of one programme per row; boolean, shape ``(n_rows, n_genes)``."""
        sizes, genes = self.sizes.to(program.device), self.genes.to(program.device)
        count = sizes.index_select(0, program)
        total = int(count.sum())
        rows = torch.arange(len(program), device=program.device).repeat_interleave(
            count, output_size=total
        )
        starts = (sizes.cumsum(0) - sizes).index_select(0, program)
        first = (count.cumsum(0) - count).repeat_interleave(count, output_size=total)
        within = torch.arange(total, device=program.device) - first
        at = genes.index_select(0, starts.repeat_interleave(count, output_size=total) + within)
        covered = torch.zeros(len(program), self.n_genes, dtype=torch.bool, device=program.device)
        covered[rows, at] = True
        return covered

    def _membership(self, device: torch.device) -> Tensor:
        """Sparse matrix of genes by programmes."""
        if self._indicator is None or self._indicator.device != device:
            programs = torch.arange(len(self)).repeat_interleave(self.sizes)
            order = torch.argsort(self.genes, stable=True)
            counts = torch.bincount(self.genes, minlength=self.n_genes)
            self._indicator = torch.sparse_csr_tensor(
                torch.nn.functional.pad(counts.cumsum(0), (1, 0)),
                programs[order],
                torch.ones(len(self.genes)),
                size=(self.n_genes, len(self)),
                check_invariants=False,
            ).to(device)
        return self._indicator

    def mapped(self, position: Mapping[int, int], n_genes: int) -> GenePrograms | None:
        """The programmes among other genes.

        Programmes of which no gene is left, or whose factor is not, are left out; `None` if that is
        true of all.

        Parameters
        ----------
        position
            New position of each gene that is still there, by the old one.
        n_genes
            Number of genes.
        """
        members = [[position[gene] for gene in one if gene in position] for one in self.members()]
        factors = None if self.targets is None else self.targets.tolist()
        kept = [
            i
            for i, one in enumerate(members)
            if one and (factors is None or factors[i] in position)
        ]
        if not kept:
            return None
        return GenePrograms(
            [self.names[i] for i in kept],
            [members[i] for i in kept],
            n_genes,
            targets=None if factors is None else [position[factors[i]] for i in kept],
        )

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        content = {"names": list(self.names), "members": self.members(), "n_genes": self.n_genes}
        if self.targets is not None:
            content["targets"] = self.targets.tolist()
        return content

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Self:
        """Inverse of :meth:`to_dict`."""
        # They are looked at, also where a network is built without memory.
        with torch.device("cpu"):
            return cls(
                content["names"],
                content["members"],
                content["n_genes"],
                targets=content.get("targets"),
            )
