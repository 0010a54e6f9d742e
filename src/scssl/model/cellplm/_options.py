"""Hyper-parameters of CellPLM."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, Self

from scssl.augment import CellMask
from scssl.data import ContextOptions
from scssl.model.base import Count, DataSetup, NotNegative, Options, Positive, Rate, option
from scssl.nn import N_GROUPS, Attention, LatentKind
from scssl.objective import SUPCON_TEMPERATURE

Objective = Literal["reconstruction", "kl", "cross_entropy", "supcon"]


@dataclass
class CellPLMOptions(Options):
    """Each with its default and, where it has another, its value in :cite:p:`Wen2024`.

    Published weights leave open what is `free`; what is not `carried` starts anew in a model that starts
    from another one.
    """

    n_hidden: int = option(128, 1024)
    n_layers: int = option(2, 4)
    n_heads: int = option(4, 8)
    n_latent: int = option(64, 512)
    latent: LatentKind = option("vae", "gmvae")
    n_clusters: int = 16
    attention: Attention = "flow"
    dropout: Rate = option(0.0, 0.2, free=True)
    decoder_hidden: int = option(None)
    decoder_width: int = option(None)
    loss: Literal["auto", "nb", "zinb", "mse"] = "auto"
    objective: Objective = option("reconstruction", carried=False)
    mask_cells: float = option(0.75, free=True)
    mask_rate: float = option(0.25, free=True)
    visible_weight: NotNegative = option(1.0, 1.0, free=True)
    kl_weight: NotNegative = option(0.1, 5.0, free=True)
    warmup_steps: Count = option(500, 10_000, free=True, carried=False)
    free_bits: NotNegative = option(0.0, 5.0, free=True)
    temperature: Positive = option(SUPCON_TEMPERATURE, carried=False)
    context: Literal["sample", "tiles", "random"] = option("sample", free=True)
    context_size: int = option(2000, free=True)
    halo: Count = option(200, free=True)
    cell_dropout: Rate = option(0.0, 0.3, free=True, carried=False)
    spatial_share: float | None = option(None, free=True, carried=False)
    position: Literal["auto", "sinusoidal", "off"] = "auto"
    decoder: bool = option(True, carried=False)
    preset: Literal["cellplm"] | None = option(None, carried=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.decoder_width is None:
            self.decoder_width = min(128, self.n_hidden)
        if self.n_hidden % self.n_heads or self.n_hidden % N_GROUPS:
            raise ValueError(
                f"`n_hidden` must be a multiple of {N_GROUPS} and of n_heads={self.n_heads}, found {self.n_hidden}."
            )
        if (self.decoder_hidden or N_GROUPS) % N_GROUPS:
            raise ValueError(
                f"`decoder_hidden` must be a multiple of {N_GROUPS}, found {self.decoder_hidden}."
            )
        if self.objective == "kl" and self.latent == "ae":
            raise ValueError(
                'objective="kl" needs a divergence. Take `latent="vae"` or `latent="gmvae"`.'
            )
        if self.objective == "kl" and not self.kl_weight:
            raise ValueError('objective="kl" learns nothing else: pass a `kl_weight` above 0.')
        # They refuse what they cannot be made of.
        self.cell_mask(), self.contexts()

    def to_dict(self) -> dict[str, Any]:
        # Models that were saved before have no such width, and are saved as they were.
        return {k: v for k, v in super().to_dict().items() if (k, v) != ("decoder_hidden", None)}

    @classmethod
    def chosen(cls, given: Mapping[str, Any]) -> Self:
        if given.get("preset") is not None and given.get("latent") == "vae":
            # Published is what a mixture needs: the divergence of one Gaussian counts once.
            once = {"kl_weight": 1.0, "free_bits": 0.0}
            given = {**given, **{k: v for k, v in once.items() if given.get(k) is None}}
        return super().chosen(given)

    def settle(self, setup: DataSetup, again: Callable[[str], str]) -> None:
        """Decide what follows from the data; refuse what does not go with them.

        `again` gives the line that sets the data up with another argument.
        """
        if self.loss == "auto":
            self.loss = "nb" if setup.input_kind == "counts" else "mse"
        if self.position == "auto":
            self.position = "off" if setup.spatial_key is None else "sinusoidal"
        setup.check_counts(self.loss)
        by_place = {
            'position="sinusoidal" tells cells their place': self.position == "sinusoidal",
            'context="tiles" cuts tissues by place': self.context == "tiles",
            f"spatial_share={self.spatial_share} is a share of cells with a place": self.spatial_share,
        }
        for what, asked in by_place.items():
            if asked and setup.spatial_key is None:
                raise ValueError(
                    f"{what}, but no coordinates were set up. Say where they are: "
                    f"{again('spatial_key')}."
                )
        if self.supervised and setup.labels_key is None:
            raise ValueError(
                f"objective={self.objective!r} learns from labels, and none were set up. Name their "
                f"column: {again('labels_key')}."
            )

    @property
    def supervised(self) -> bool:
        """Whether labels are what is learnt."""
        return self.objective in ("cross_entropy", "supcon")

    def cell_mask(self) -> CellMask:
        """What is hidden in training."""
        return CellMask(self.mask_cells, self.mask_rate)

    def contexts(self) -> ContextOptions:
        """Which cells see each other."""
        return ContextOptions(
            self.context, self.context_size, self.halo, self.cell_dropout, self.spatial_share
        )


#: Names of what published weights leave open.
FREE = tuple(one.name for one in fields(CellPLMOptions) if one.metadata.get("free"))
#: Names of what a model takes over from the one that it starts from.
CARRIED = tuple(one.name for one in fields(CellPLMOptions) if one.metadata.get("carried", True))
