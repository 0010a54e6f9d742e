"""What a method costs, and what it ran on."""

from __future__ import annotations

import os
import platform
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

_PACKAGES = ("scssl", "scvi-tools", "torch", "scanpy", "anndata", "numpy", "scikit-learn")
_STATM = Path("/proc/self/statm")
_EVERY = 0.02


@dataclass
class Cost:
    """Wall and CPU seconds, and memory in GB above what was in use before."""

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    memory_gb: float = float("nan")
    peaks: list[float] = field(default_factory=list)

    @contextmanager
    def measured(self) -> Iterator[None]:
        """Add what the block takes."""
        stop, before = threading.Event(), _resident_gb()
        peak = [before]

        def watch() -> None:
            while not stop.wait(_EVERY):
                peak[0] = max(peak[0], _resident_gb())

        watcher = threading.Thread(target=watch, daemon=True)
        if before:
            watcher.start()
        wall, cpu = time.perf_counter(), time.process_time()
        try:
            yield
        finally:
            self.seconds += time.perf_counter() - wall
            self.cpu_seconds += time.process_time() - cpu
            stop.set()
            if before:
                watcher.join()
                self.peaks.append(max(peak[0], _resident_gb()) - before)
                self.memory_gb = max(self.peaks)


def _resident_gb() -> float:
    """Memory of this process; 0 where the system does not tell."""
    try:
        return int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**30
    except (OSError, ValueError):
        return 0.0


def versions(*more: str) -> dict[str, str]:
    """Versions of the packages that results depend on."""
    found = {"python": platform.python_version()}
    for name in filter(None, (*_PACKAGES, *more)):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def hardware() -> dict[str, Any]:
    """Processor and cores; of a process that has used PyTorch also its threads and accelerator."""
    found = {
        "machine": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": os.cpu_count() or 0,
    }
    torch = sys.modules.get("torch")
    if torch is not None:
        found["threads"] = torch.get_num_threads()
        has_gpu = torch.cuda.is_available()
        found["gpu"] = torch.cuda.get_device_name(0) if has_gpu else "none"
    return found


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if "model name" in line)
    except (OSError, StopIteration):
        return platform.processor() or "unknown"
