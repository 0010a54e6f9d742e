"""How many processes train is what Lightning makes of `devices`."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import lightning.pytorch as lightning
import pytest
import torch
from lightning.pytorch.accelerators import CUDAAccelerator

from scssl.train._devices import (
    check_devices,
    choose_accelerator,
    layout,
    matrix_products,
    n_processes,
)

from ..model.processes import by_srun, by_torchrun


@pytest.mark.parametrize("devices", [1, "1", 2, "2", " 3 "])
def test_processes_on_cpus(devices: int | str):
    trainer = lightning.Trainer(
        accelerator="cpu", devices=devices, strategy="ddp", logger=False,
        enable_checkpointing=False, enable_progress_bar=False,
    )  # fmt: skip
    assert n_processes(devices) == trainer.num_devices
    assert (n_processes(devices) > 1) == (trainer.num_devices > 1)


@pytest.mark.parametrize(
    "devices", [1, "1", 2, "2", -1, "-1", [0], [0, 2], (1, 2), "0,2", "0, 1, 2", "1,"]
)
def test_processes_on_gpus(monkeypatch: pytest.MonkeyPatch, devices: int | str | list[int]):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    expected = len(CUDAAccelerator.parse_devices(devices))
    assert n_processes(devices) == expected
    assert (n_processes(devices) > 1) == (expected > 1)


def test_one_gpu_of_all(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert n_processes(-1) == n_processes("-1") == 1
    assert n_processes(-1) == 1


def test_auto_is_one_process(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert n_processes("auto") == 1


def test_processes_that_were_started(monkeypatch: pytest.MonkeyPatch):
    for told in ({}, by_torchrun(4, 1), by_srun(4, 1)):
        with monkeypatch.context() as patch:
            for name, value in told.items():
                patch.setenv(name, value)
            several = bool(told)
            assert n_processes("auto") == n_processes(1) == (4 if several else 1)
            n_here = 2 if "SLURM_NNODES" in told else 4
            assert layout("auto", 1) == ((n_here, 4 // n_here) if several else (1, 1))
            check_devices("auto", "cpu")
            if several:
                check_devices(n_here, "cpu", 4 // n_here)
                with pytest.raises(ValueError, match=r'found devices=3 .* `devices="auto"`'):
                    check_devices(3, "cpu")
    # A batch script that starts nothing is one process, of however many it may start.
    for name, value in by_srun(4, 0).items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("SLURM_STEP_NUM_TASKS")
    assert n_processes("auto") == 1
    assert n_processes(2, num_nodes=3) == 6


def test_no_gpu(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_accelerator("auto") == choose_accelerator("cpu") == "cpu"
    for asked in ("gpu", "cuda"):
        with pytest.raises(ValueError, match='Pass "cpu" or "auto"'):
            choose_accelerator(asked)


@pytest.mark.parametrize(
    ("accelerator", "precision", "set_before", "expected"),
    [
        ("gpu", None, "highest", "high"),
        ("cuda", None, "highest", "high"),
        ("gpu", "32-true", "highest", "highest"),
        ("gpu", None, "medium", "medium"),
        ("cpu", None, "highest", "highest"),
    ],
)
def test_products_of_a_gpu(accelerator: str, precision: str, set_before: str, expected: str):
    torch.set_float32_matmul_precision(set_before)
    try:
        with pytest.raises(RuntimeError, match="ends"), matrix_products(precision, accelerator):
            assert torch.get_float32_matmul_precision() == expected
            raise RuntimeError("ends")
        assert torch.get_float32_matmul_precision() == set_before
    finally:
        torch.set_float32_matmul_precision("highest")


def test_threads_stay_when_numba_starts():
    """Tests compare bits of trainings, between which scanpy may have called numba."""
    code = """
        import torch
        before = torch.get_num_threads()
        import numba
        numba.get_num_threads()
        assert torch.get_num_threads() == before
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True)
