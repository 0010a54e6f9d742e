"""Hyper-parameters of the models of neighbours in space."""

from __future__ import annotations

from dataclasses import dataclass

from scssl.data import ContextOptions
from scssl.model.base import NotNegative, Options, Positive

# Cells that are embedded at a time with all that they see, and the most that a step is about.
_TILE = 8192
# A cell is embedded with its neighbours, and reconstructed from the embeddings of its neighbours.
_N_HOPS = 2


@dataclass
class SpatialOptions(Options):
    """What the models have in common."""

    n_latent: int = 64
    n_neighbors: int = 6
    radius: Positive | None = None

    def contexts(self) -> ContextOptions:
        """Which cells see each other."""
        return ContextOptions(
            "tiles",
            _TILE,
            halo=0,
            n_hops=_N_HOPS,
            n_neighbors=self.n_neighbors,
            radius=self.radius,
        )


@dataclass
class STAGATEOptions(SpatialOptions):
    """Of :class:`scssl.model.STAGATE`."""

    n_hidden: int = 512
    n_latent: int = 30


@dataclass
class GraphSTOptions(SpatialOptions):
    """Of :class:`scssl.model.GraphST`."""

    n_neighbors: int = 3
    reconstruction_weight: Positive = 10.0
    contrast_weight: NotNegative = 1.0
    decoder: bool = True
