"""Whether the other processes of a run are alive; which is not, where a run fails for want of it."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

import torch
from lightning.pytorch.callbacks import Callback

# Seconds between two signs of life, between two looks for those of others, and without any of one that is dead.
_BEAT, _LOOK, _SILENT = 0.5, 5.0, 30.0
# What a process says last that has come to its end.
_DONE = "done"
_LOGGER = logging.getLogger("scssl")


class Peers(Callback):
    """Give signs of life to the other processes, and look for theirs.

    They go by the store in which the processes have met. Where one is dead, an operation of all fails at once, or
    waits for it for ever: a process that waits is ended.
    """

    def __init__(self, to_resume: Any) -> None:
        self._to_resume = to_resume
        self._rank, self._size = 0, 1
        self._over = threading.Event()
        self._beats: threading.Thread | None = None
        self._children: list[Any] = []
        self._seen: dict[int, bytes] = {}

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        if trainer.world_size == 1:
            return
        self._rank, self._size = trainer.global_rank, trainer.world_size
        self._children = getattr(trainer.strategy.launcher, "procs", [])
        self._store().set(self._key(self._rank), "0")
        trainer.strategy.barrier()
        self._beats = threading.Thread(target=self._live, daemon=True)
        self._beats.start()

    @contextmanager
    def named(self) -> Iterator[None]:
        """Say which process is dead, where an operation of all fails because one is."""
        try:
            yield
        except Exception as error:
            dead = self._dead(self._store) if self._is_of_all(error) else []
            if not dead:
                raise
            raise RuntimeError(self._message(dead)) from error
        else:
            if self._size > 1:
                # Whoever is done is silent and alive.
                self._over.set()
                if self._beats is not None:
                    self._beats.join()
                with suppress(RuntimeError):
                    self._store().set(self._key(self._rank), _DONE)
        finally:
            self._over.set()

    def _is_of_all(self, error: Exception) -> bool:
        if self._size == 1:
            return False
        return isinstance(error, torch.distributed.DistError) or "gloo" in str(error).lower()

    def _message(self, dead: list[int]) -> str:
        which = f"Process {dead[0]}" if len(dead) == 1 else f"Processes {', '.join(map(str, dead))}"
        verb = "has" if len(dead) == 1 else "have"
        ended = (
            f"{which} of {self._size} (counted from 0) {verb} ended, and without it process {self._rank} cannot "
            "go on."
        )
        if self._to_resume is None:
            return f"{ended} To be able to resume a run, give `train` a `checkpoint_dir`."
        return f"{ended} The run is to be resumed from {self._to_resume}."

    def _live(self) -> None:
        store, beats, silent = self._store(), 0, 0.0
        while not self._over.wait(_BEAT):
            beats += 1
            try:
                store.set(self._key(self._rank), str(beats))
                if beats % round(_LOOK / _BEAT):
                    continue
                silent = silent + _LOOK if self._silent(store) else 0.0
            except RuntimeError:
                # The store is in the first process, or with who has started it.
                silent += _BEAT
            if silent >= _SILENT and not self._over.is_set():
                # Nothing reaches the thread that waits; an error of its own would have come by now.
                _LOGGER.error(self._message(self._dead(lambda: store)))
                os._exit(1)

    def _dead(self, connect: Any) -> list[int]:
        """Numbers of the processes that have died."""
        first = self._rank - self._rank % (len(self._children) + 1)
        for _ in range(5):
            # Soonest known of those that this process has started, before Lightning ends this one too.
            ended = [i for i, one in enumerate(self._children, 1) if one.poll() is not None]
            if ended:
                return [first + i for i in ended]
            time.sleep(0.1)
        try:
            store = connect()
            self._silent(store)
            time.sleep(4 * _BEAT)
            return self._silent(store)
        except RuntimeError:
            return [0]

    def _silent(self, store: Any) -> list[int]:
        """Processes without a sign of life since the last look."""
        peers = [rank for rank in range(self._size) if rank != self._rank]
        found = dict(zip(peers, store.multi_get([self._key(rank) for rank in peers]), strict=True))
        silent = [r for r in peers if self._seen.get(r) == found[r] and found[r] != _DONE.encode()]
        self._seen = found
        return silent

    @staticmethod
    def _key(rank: int) -> str:
        return f"scssl/{rank}"

    @staticmethod
    def _store() -> Any:
        host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        return torch.distributed.TCPStore(host, port, timeout=timedelta(seconds=10))
