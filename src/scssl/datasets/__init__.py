"""Data sets to try scssl on."""

from ._pbmc import pbmc68k_reduced
from ._real import (
    baron_pancreas,
    breast_tumours,
    cbmc_cite,
    kang_ifnb,
    merfish_hypothalamus,
    olfactory_bulb,
    osmfish_cortex,
    pbmc3k,
    pbmc_cite,
    scmixology,
    starmap_cortex,
)
from ._simulated import simulated

__all__ = [
    "baron_pancreas",
    "breast_tumours",
    "cbmc_cite",
    "kang_ifnb",
    "merfish_hypothalamus",
    "olfactory_bulb",
    "osmfish_cortex",
    "pbmc3k",
    "pbmc68k_reduced",
    "pbmc_cite",
    "scmixology",
    "simulated",
    "starmap_cortex",
]
