"""What a batch is: which cells, in which order, which of them see each other."""

from __future__ import annotations

from ._chunks import BalancedChunkPlan, ChunkPlan, OneGroupChunkPlan, hold_out
from ._context import CellContext, ContextOptions, GraphContext, RunContext
from ._plan import BalancedPlan, BatchPlan, OneGroupPlan, RowSpans, SequentialPlan, ShuffledPlan
from ._split import train_validation_split
