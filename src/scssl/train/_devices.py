"""On what is trained: kind of device, number of processes, precision of products."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from lightning.fabric.plugins.environments import (
    ClusterEnvironment,
    SLURMEnvironment,
    TorchElasticEnvironment,
)
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from scssl._checks import check_whole


def _parsed(devices: Any) -> Any:
    """`devices` of Lightning's trainer, with what is a text as the number or the list that it stands for."""
    if not isinstance(devices, str):
        return devices
    parts = [part.strip() for part in devices.split(",")]
    if not all(part.removeprefix("-").isdecimal() for part in parts if part):
        return devices
    numbers = [int(part) for part in parts if part]
    return numbers if len(parts) > 1 else numbers[0] if numbers else devices


def launched() -> ClusterEnvironment | None:
    """Where torchrun or srun has started the processes, what they know of each other; else `None`."""
    if TorchElasticEnvironment.detect():
        return TorchElasticEnvironment()
    # Of each of its processes srun says of how many it is one; a batch script knows how many it may start.
    if "SLURM_STEP_NUM_TASKS" in os.environ and int(os.environ["SLURM_STEP_NUM_TASKS"]) > 1:
        return SLURMEnvironment(auto_requeue=False)
    return None


def layout(devices: Any, num_nodes: int) -> tuple[Any, int]:
    """`devices` and `num_nodes` of Lightning's trainer, by who has started the processes."""
    environment = launched()
    if environment is None:
        return 1 if _parsed(devices) == "auto" else devices, num_nodes
    n = environment.world_size()
    if isinstance(environment, TorchElasticEnvironment):
        here = int(os.environ["LOCAL_WORLD_SIZE"])
    else:
        here = n // int(os.environ["SLURM_NNODES"])
    return here, n // here


def check_devices(devices: Any, accelerator: str, num_nodes: int = 1) -> None:
    """Refuse devices that are not there; `accelerator` is ``"cpu"`` or a kind of GPU."""
    found, on_cpu = _parsed(devices), accelerator == "cpu"
    check_whole("num_nodes", num_nodes)
    if launched() is not None:
        here, n_nodes = layout(devices, num_nodes)
        own = here if found == "auto" else len(found) if isinstance(found, (list, tuple)) else found
        if own not in (here, -1) or num_nodes not in (1, n_nodes):
            nodes = "" if num_nodes in (1, n_nodes) else ", num_nodes=1"
            raise ValueError(
                f"Started were {here} processes on each of {n_nodes} machines, found devices={devices!r} and "
                f'num_nodes={num_nodes}. To train with those: `devices="auto"{nodes}`.'
            )
        return
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


def n_processes(devices: Any, num_nodes: int = 1) -> int:
    """Number of processes of all machines, those that were started or that `devices` stand for.

    They are a number or, as a text, ``"2"``; -1 for all GPUs; a list of their numbers or, as a text, ``"0,1"``;
    ``"auto"``, which is one where nobody has started several.
    """
    environment = launched()
    if environment is not None:
        return environment.world_size()
    devices = _parsed(devices)
    if isinstance(devices, (list, tuple)):
        return len(devices) * num_nodes
    if not isinstance(devices, int):
        return num_nodes  # "auto"; the trainer refuses what it does not know.
    return num_nodes * max(1, torch.cuda.device_count() if devices == -1 else devices)


def strategy_for(name: str, n: int, environment: ClusterEnvironment) -> Any:
    """Strategy of Lightning's trainer for `n` processes."""
    if n < 2:
        return name
    # Buffers are the same in all processes: nothing in them is of the own cells alone.
    return DDPStrategy(
        cluster_environment=environment,
        broadcast_buffers=False,
        find_unused_parameters=name == "ddp_find_unused_parameters_true",
    )


def is_first_process() -> bool:
    """Whether this is the process that writes, of those that train together; a lone one is."""
    return getattr(rank_zero_only, "rank", 0) == 0


def first_process_has[T](make: Callable[[], T]) -> T:
    """What the first process makes, in all of them; it alone makes it where the others are there already."""
    environment = launched()
    distributed = torch.distributed
    if not (distributed.is_available() and distributed.is_initialized()):
        if environment is None or environment.world_size() == 1:
            return make()
        # As it will be for training: earlier than Lightning does it.
        os.environ["MASTER_ADDR"] = environment.main_address
        os.environ["MASTER_PORT"] = str(environment.main_port)
        distributed.init_process_group(
            rank=environment.global_rank(), world_size=environment.world_size()
        )
    made = [make() if distributed.get_rank() == 0 else None]
    distributed.broadcast_object_list(made, src=0)
    return cast("T", made[0])


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


@contextmanager
def matrix_products(precision: Any, accelerator: str) -> Iterator[None]:
    """Let a GPU round factors of float32 matrix products to TF32, unless a precision was asked for.

    The switch is one of the process, and is afterwards as it was; what a user has set is left alone.
    """
    before = torch.get_float32_matmul_precision()
    faster = accelerator in ("gpu", "cuda") and precision is None and before == "highest"
    if faster:
        torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        if faster:
            torch.set_float32_matmul_precision(before)


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
