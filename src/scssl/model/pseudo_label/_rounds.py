"""Folders of training in rounds: what each starts from, and its checkpoints.

Of several processes the first writes. The others may be started when it has written already.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from scssl._errors import BundleError
from scssl._io import recover
from scssl.train import CHECKPOINT_NAME, SafeCheckpointIO, check_same_run, is_first_process

_START = "start"


@dataclass
class RoundStart:
    """What a round of training starts from."""

    #: Of the round, from 0.
    number: int
    #: Weights of the encoder.
    encoder: Mapping[str, torch.Tensor]
    #: Cluster of each cell in each partition, shape ``(n_cells, n_partitions)``.
    clusters: np.ndarray
    #: Of the clusters with those of the round before.
    agreement: float | None
    #: Whether the encoder had been trained.
    trained: bool
    #: What happened in the rounds before.
    done: list[dict[str, Any]] = field(default_factory=list)
    #: Values per epoch of the rounds before, by name.
    history: Mapping[str, list[float]] = field(default_factory=dict)


class RoundFolder:
    """A folder with one folder for each round.

    Checkpoints are written `to` it, or not where that is `None`; `source` is the folder of the run to go on with,
    `None` for a new run.
    """

    def __init__(self, to: Path | None, source: Path | None) -> None:
        self.source = source
        self.to = source if to is None else to
        if not is_first_process():
            return
        if self.to is not None and self.source is None and _numbers(self.to):
            raise ValueError(
                f"{self.to} holds the rounds of another run. To go on with that run pass "
                f"`resume_from={str(self.to)!r}`; for a new one, another folder: "
                f"`checkpoint_dir={str(self.to) + '_2'!r}`."
            )

    def read(self, run: Mapping[str, Any]) -> RoundStart:
        """The last round that was started, of this run: clusters are by place, so of the same cells."""
        assert self.source is not None
        numbers = _numbers(self.source)
        if not numbers:
            raise BundleError(
                f"There are no rounds in {self.source}. Pass the `checkpoint_dir` of the run to resume."
            )
        path = _folder(self.source, numbers[-1]) / _START
        found = dict(SafeCheckpointIO().load_checkpoint(path))
        check_same_run(found.pop("run", {}), run)
        return RoundStart(**found)

    def write(self, start: RoundStart, run: Mapping[str, Any]) -> None:
        """Keep what a round starts from, so that it can be resumed, and of which run it is."""
        if self.to is not None and is_first_process():
            folder = _folder(self.to, start.number)
            folder.mkdir(parents=True, exist_ok=True)
            SafeCheckpointIO().save_checkpoint({**vars(start), "run": dict(run)}, folder / _START)

    def arguments(self, number: int, *, resumed: bool) -> dict[str, Any]:
        """Where a round is written and, where it had come to an epoch's end, resumed from."""
        resume_from = None
        if resumed:
            assert self.source is not None
            before = _folder(self.source, number)
            recover(before / CHECKPOINT_NAME)
            resume_from = before if (before / CHECKPOINT_NAME).exists() else None
        to = None if self.to is None else _folder(self.to, number)
        return {"checkpoint_dir": to, "resume_from": resume_from}


def _folder(base: Path, number: int) -> Path:
    return base / f"round-{number:02d}"


def _numbers(base: Path) -> list[int]:
    for folder in base.glob("round-*"):
        recover(folder / _START)
    names = (path.parent.name for path in base.glob(f"round-*/{_START}"))
    return sorted(int(name.removeprefix("round-")) for name in names)
