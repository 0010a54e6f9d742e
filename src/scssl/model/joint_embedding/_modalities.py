"""Views of cells with several modalities, and their contrast."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from itertools import combinations
from typing import Any

import torch
from torch import Tensor, nn

from scssl.augment import Augmentation, ViewContext, Walk, choose_cells, take
from scssl.nn import ModalityRows, MultiEncoder, MultiView, SparseRows, gather, only
from scssl.objective import clip_loss

# Both as in CLIP.
_FIRST_LOG_SCALE = math.log(1 / 0.07)
_LARGEST_LOG_SCALE = math.log(100)


class ModalitySplit:
    """Splits a batch whose columns are those of several modalities, given the number of features of each in order."""

    def __init__(self, n_features: Mapping[str, int]) -> None:
        self.names = tuple(n_features)
        self._span: dict[str, tuple[int, int]] = {}
        start = 0
        for name, n in n_features.items():
            self._span[name] = (start, start + n)
            start += n

    def plain(self, x: SparseRows, present: Tensor) -> MultiView:
        """The batch as it is; `present` says which modalities each cell has."""
        parts = {}
        for i, name in enumerate(self.names):
            cells = present[:, i].nonzero().squeeze(1)
            parts[name] = ModalityRows(self._part(x, name, cells), cells)
        return MultiView(parts, x.n_cells)

    def views(
        self,
        x: SparseRows,
        present: Tensor,
        augmentations: Mapping[str, Augmentation],
        rng: torch.Generator,
        contexts: tuple[ViewContext, ViewContext],
        partners_present: tuple[Mapping[Walk, Tensor], Mapping[Walk, Tensor]] = ({}, {}),
    ) -> tuple[MultiView, MultiView]:
        """Two views of the batch, each modality changed in its own way.

        Where the views of a modality have another cell in the place of a cell, the view has that cell in all
        modalities: those that it lacks are missing there, whether the first cell has them or not. Which the partners
        of the contexts have is in `partners_present`, as in `present`.
        """
        plain = self.plain(x, present)
        parts = (dict(plain.parts), dict(plain.parts))
        leader = self._leader(augmentations)
        for context, known, view in zip(contexts, partners_present, parts, strict=True):
            if leader is not None:
                own = augmentations[leader], plain.parts[leader].cells
                self._follow(view, leader, x, present, *own, context, known)
        for i, name in enumerate(self.names):
            for context, view in zip(contexts, parts, strict=True):
                cells, rows = view[name].cells, view[name].x
                with only(cells) as n_cells:
                    if n_cells:
                        own_context = self._context(context, i, cells)
                        changed = augmentations[name](rows, rng, own_context)
                        view[name] = ModalityRows(changed, cells)
        return MultiView(parts[0], x.n_cells), MultiView(parts[1], x.n_cells)

    def _leader(self, augmentations: Mapping[str, Augmentation]) -> str | None:
        """The modality whose views draw other cells, of which there is one at most."""
        found = [n for n in self.names if augmentations[n].walks(0) or augmentations[n].walks(1)]
        return found[0] if found else None

    def _follow(
        self,
        view: dict[str, ModalityRows],
        leader: str,
        x: SparseRows,
        present: Tensor,
        augmentation: Augmentation,
        leading: Tensor,
        context: ViewContext,
        known: Mapping[Walk, Tensor],
    ) -> None:
        """Put cells that take the place of others in one modality in their place in the others too.

        That modality itself is left to its augmentation.
        """
        with only(leading):
            found = augmentation.stand_ins(len(leading), leading.device, context)
        if not found:
            return
        places = []
        for walk, drawn in found:
            if walk not in known:
                raise ValueError(f"Unknown modalities of the partners of the walk {walk}.")
            replaced = torch.zeros(x.n_cells, dtype=torch.bool, device=leading.device)
            places.append((walk, replaced.index_copy_(0, leading, drawn)))
            present = torch.where(replaced.unsqueeze(1), known[walk], present)
        everything = torch.arange(x.n_cells, device=leading.device)
        for i, name in enumerate(self.names):
            if name == leader:
                continue
            part: Any = self._part(x, name, everything)
            for walk, replaced in places:
                theirs = self._part(context.partners[walk], name, everything)
                part = choose_cells(~replaced, part, theirs)
            cells = present[:, i].nonzero().squeeze(1)
            view[name] = ModalityRows(take(part, cells), cells)

    def _context(self, context: ViewContext, i: int, cells: Tensor) -> ViewContext:
        name = self.names[i]
        return replace(
            context,
            partners={k: self._part(p, name, cells) for k, p in context.partners.items()},
            batch=None if context.batch is None else context.batch[cells],
            # Only RNA is normalised as augmentations of counts expect it.
            input_kind=context.input_kind if name == "rna" else "lognorm",
            library=None if context.library is None else context.library[cells, i],
        )

    def _part(self, x: SparseRows, name: str, cells: Tensor) -> SparseRows:
        start, stop = self._span[name]
        part = x.keep((x.columns >= start) & (x.columns < stop))
        part = SparseRows(part.pointers, part.columns - start, part.values, stop - start)
        return part if len(cells) == x.n_cells else take(part, cells)


class ModalityContrast(nn.Module):
    """Contrast of the modalities of a cell with those of others :cite:p:`Radford2021`.

    Every modality has a linear layer of its own. Only cells that have both modalities of a pair take part; of
    several pairs the mean is taken.
    """

    def __init__(self, names: tuple[str, ...], n_latent: int) -> None:
        super().__init__()
        self.names = names
        self.heads = nn.ModuleDict(
            {name: nn.Linear(n_latent, n_latent, bias=False) for name in names}
        )
        self.log_scale = nn.Parameter(torch.tensor(_FIRST_LOG_SCALE))

    def forward(self, encoder: MultiEncoder, view: MultiView) -> Tensor:
        """Loss of a view; 0 where fewer than two cells have two modalities."""
        if self.training:
            with torch.no_grad():
                self.log_scale.clamp_(max=_LARGEST_LOG_SCALE)
        embedded = view.embedded(encoder)
        losses = []
        for pair in combinations(self.names, 2):
            both = [
                torch.isin(view.parts[a].cells, view.parts[b].cells) for a, b in (pair, pair[::-1])
            ]
            with only(view.parts[pair[0]].cells[both[0]]) as n_cells:
                if n_cells < 2:
                    continue
                z = [
                    gather(self.heads[name](embedded[name][kept]))
                    for name, kept in zip(pair, both, strict=True)
                ]
            losses.append(clip_loss(z[0], z[1], self.log_scale))
        # Also what takes no part here needs a gradient, or other processes would wait for it.
        weights = [weight.sum() for weight in self.parameters()]
        nothing = 0 * torch.stack(weights).sum()
        loss: Tensor = torch.stack(losses).mean() + nothing if losses else nothing
        return loss
