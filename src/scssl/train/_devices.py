"""On what is trained: kind of device, number of processes, precision of products."""

from __future__ import annotations

import functools
import subprocess
import sys
from typing import Any

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_only


def _parsed(devices: Any) -> Any:
    """`devices` of Lightning's trainer, with what is a text as the number or the list that it stands for."""
    if not isinstance(devices, str):
        return devices
    parts = [part.strip() for part in devices.split(",")]
    if not all(part.removeprefix("-").isdecimal() for part in parts if part):
        return devices
    numbers = [int(part) for part in parts if part]
    return numbers if len(parts) > 1 else numbers[0] if numbers else devices


def check_devices(devices: Any, accelerator: str) -> None:
    """Refuse devices that are not there; `accelerator` is ``"cpu"`` or a kind of GPU."""
    found, on_cpu = _parsed(devices), accelerator == "cpu"
    if found == "auto":
        return
    several = isinstance(found, (list, tuple))
    numbers = list(found) if several else [found]
    there = torch.cuda.device_count() if accelerator in ("gpu", "cuda") else 1
    if all(type(one) is int for one in numbers) and numbers:
        if several and not on_cpu and all(0 <= one < there for one in numbers):
            return
        if not several and (found > 0 if on_cpu else found == -1 or 0 < found <= there):
            return
    can = "a number of processes" if on_cpu else f"1 to {there}, or a list of numbers of GPUs"
    raise ValueError(
        f"`devices` on {accelerator!r} must be {can}, found {devices!r}. To train on one: `devices=1`."
    )


def n_processes(devices: Any) -> int:
    """Number of processes that `devices` of Lightning's trainer stand for.

    They are a number or, as a text, ``"2"``; -1 for all GPUs; a list of their numbers or, as a text, ``"0,1"``;
    ``"auto"``, which is one here.
    """
    devices = _parsed(devices)
    if isinstance(devices, (list, tuple)):
        return len(devices)
    if not isinstance(devices, int):
        return 1  # "auto"; the trainer refuses what it does not know.
    return max(1, torch.cuda.device_count() if devices == -1 else devices)


def is_first_process() -> bool:
    """Whether this is the process that writes, of those that train together; a lone one is."""
    return getattr(rank_zero_only, "rank", 0) == 0


def first_process_has[T](mine: T) -> T:
    """What the first process has, in all of them."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return mine
    both = [mine]
    torch.distributed.broadcast_object_list(both, src=0)
    return both[0]


def choose_accelerator(asked: str) -> str:
    """The accelerator to train on; a GPU is refused where there is none."""
    if asked not in ("auto", "cpu", "gpu", "cuda", "mps"):
        raise ValueError(
            f"`accelerator` must be 'auto', 'cpu' or 'gpu', found {asked!r}. To take a GPU where there is "
            'one: `accelerator="auto"`.'
        )
    if asked in ("gpu", "cuda") and not torch.cuda.is_available():
        raise ValueError(
            f'accelerator="{asked}" was given, but PyTorch finds no GPU. Pass "cpu" or "auto".'
        )
    if asked == "auto":
        # Not "mps", which has no sparse tensors.
        return "gpu" if torch.cuda.is_available() else "cpu"
    return asked


def check_precision(precision: Any, accelerator: str) -> None:
    """Refuse what the CPU cannot do."""
    if accelerator != "cpu" or str(precision) in {"32", "32-true"}:
        return
    if precision not in ("bf16", "bf16-mixed"):
        raise ValueError(
            f'`precision` on the CPU can be "32-true" or "bf16-mixed"; found {precision!r}.'
        )
    if not bfloat16_works():
        raise ValueError(
            "This machine does not let programs use the bfloat16 instructions of its processor. Leave "
            "`precision` out, or set ONEDNN_MAX_CPU_ISA to AVX512_CORE before Python starts."
        )


@functools.cache
def bfloat16_works() -> bool:
    """Whether bfloat16 matrix products run on this CPU.

    Tried in a process of its own, because some virtual machines announce instructions (AMX) on
    which a program then dies.
    """
    code = (
        "import torch; x = torch.ones(256, 256, dtype=torch.bfloat16); print((x @ x)[0, 0].item())"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, check=False
    )
    return done.returncode == 0 and done.stdout.strip() == "256.0"
