"""What a batch is: which cells, in which order, which of them see each other."""

from __future__ import annotations

from ._balanced import balanced_order
from ._context import CellContext
from ._options import BatchPlan, ContextOptions
from ._split import train_validation_split
