"""Models that learn by comparing two views of a cell."""

from __future__ import annotations

from ._contrastive_methods import NNCLR, MoCo, SimCLR
from ._joint_methods import BYOL, DINO, BarlowTwins, SimSiam, VICReg
from ._model import JointEmbedding
