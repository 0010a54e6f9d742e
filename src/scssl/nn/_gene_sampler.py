"""Which genes a training step decodes."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from scssl._checks import check_whole


class GeneSampler:
    r"""Draw part of the genes so that a sum over the part estimates the sum over all without bias.

    Gene :math:`g` is drawn with probability :math:`\pi_g = \min(1, c\,q_g)`,
    :math:`q_g = (1-\epsilon)\,\sigma_g / \sum_h \sigma_h + \epsilon / G`, and a drawn gene counts
    :math:`1/\pi_g` (Horvitz-Thompson). :math:`\sigma_g` is the standard deviation of the gene: its
    square is what the gene adds to the loss at the start of training, and sampling in proportion to
    its root keeps both the variance of the loss and the largest weight low. :math:`c` is set so that
    exactly ``n_draw`` genes are drawn each time; the draw is systematic (Madow) over a random order
    of the genes.

    Parameters
    ----------
    spread
        Standard deviation of each gene, shape ``(n_genes,)``.
    n_draw
        Genes per draw.
    floor
        Share :math:`\epsilon` of the draws that is spread evenly over all genes, so that no gene
        is without updates.
    eligible
        Positions of the genes that count at all, ascending; all by default. No other is drawn.

    Raises
    ------
    ValueError
        If ``n_draw`` is not between 1 and the number of genes.
    """

    def __init__(
        self,
        spread: np.ndarray,
        n_draw: int,
        *,
        floor: float = 0.1,
        eligible: np.ndarray | None = None,
    ) -> None:
        self.eligible = None if eligible is None else torch.from_numpy(np.asarray(eligible))
        if eligible is not None:
            spread = np.asarray(spread)[eligible]
            n_draw = min(n_draw, len(spread))
        n_genes = len(spread)
        check_whole("n_output_genes", n_draw, 1, n_genes)
        spread = np.asarray(spread, dtype=np.float64)
        total = spread.sum()
        share = spread / total if total > 0 else np.full(n_genes, 1 / n_genes)
        self.probability = _inclusion(share * (1 - floor) + floor / n_genes, n_draw)
        self._probability = torch.from_numpy(self.probability)
        self.n_draw = n_draw

    def draw(self, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Drawn genes, ascending, and what each counts; int64 and float32."""
        device, n_genes = rng.device, len(self.probability)
        if self.n_draw == n_genes:
            return self._genes(torch.arange(n_genes, device=device)), torch.ones(
                n_genes, device=device
            )
        if self._probability.device != device:
            self._probability = self._probability.to(device)
        probability = self._probability
        order = torch.randperm(n_genes, generator=rng, device=device)
        ends = probability[order].cumsum(0)
        ends *= self.n_draw / ends[-1]
        start = torch.rand(1, generator=rng, device=device, dtype=torch.float64)
        ticks = start + torch.arange(self.n_draw, device=device, dtype=torch.float64)
        # Rounding could put the last tick past the last gene, or two ticks in one gene.
        at = torch.searchsorted(ends, ticks, right=True).clamp_(max=n_genes - 1)
        drawn = order[at].unique()
        return self._genes(drawn), (1 / probability[drawn]).float()

    def _genes(self, drawn: Tensor) -> Tensor:
        if self.eligible is None:
            return drawn
        return self.eligible.to(drawn.device).index_select(0, drawn)


def _inclusion(share: np.ndarray, n_draw: int) -> np.ndarray:
    """``min(1, c * share)`` with the ``c`` that makes the sum ``n_draw``."""
    probability = np.ones_like(share)
    free = np.ones(len(share), dtype=bool)
    left = n_draw
    # Genes whose probability would pass 1 are always in; the others share what is left.
    while left > 0 and free.any():
        scaled = share[free] * (left / share[free].sum())
        if scaled.max() <= 1:
            probability[free] = scaled
            break
        newly = np.flatnonzero(free)[scaled >= 1]
        free[newly] = False
        left -= len(newly)
    return probability
