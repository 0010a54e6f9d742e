from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from scssl.module._gather import gather
from torch import nn

from scssl.module import _gather
from scssl.objective import barlow_twins, nt_xent

OBJECTIVES = {"nt_xent": nt_xent, "barlow_twins": barlow_twins}
N_PROCESSES, N_CELLS, N_IN = 2, 14, 9

# One of the processes. It loads the file by its path: the package around it takes long to import.
WORKER = """
import importlib.util, sys
from datetime import timedelta
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from scssl.objective import barlow_twins, nt_xent

folder, source, rank, n = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
spec = importlib.util.spec_from_file_location("gather", source)
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)

x1, x2 = torch.load(folder + "/views.pt")
model = torch.nn.Sequential(
    torch.nn.Linear(x1.shape[1], 16), torch.nn.Tanh(), torch.nn.Linear(16, 6)
).double()
model.load_state_dict(torch.load(folder + "/weights.pt"))
dist.init_process_group(
    "gloo", init_method="file://" + folder + "/meet", rank=rank, world_size=n,
    timeout=timedelta(seconds=60),
)
model = DistributedDataParallel(model)
own = slice(rank * len(x1) // n, (rank + 1) * len(x1) // n)
results = {}
for name, objective in {"nt_xent": nt_xent, "barlow_twins": barlow_twins}.items():
    model.zero_grad()
    z1, z2 = model(torch.cat([x1[own], x2[own]])).chunk(2)
    whole = module.gather(z1)
    loss = objective(whole, module.gather(z2))
    loss.backward()
    results[name] = (loss.detach(), whole.detach(), [p.grad.clone() for p in model.parameters()])
torch.save(results, folder + f"/result{rank}.pt")
dist.destroy_process_group()
"""


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    """Model and views, and the folder in which two processes have left their results."""
    folder = tmp_path_factory.mktemp("gather")
    torch.manual_seed(0)
    x1 = torch.randn(N_CELLS, N_IN, dtype=torch.float64)
    x2 = x1 + 0.5 * torch.randn_like(x1)
    model = nn.Sequential(nn.Linear(N_IN, 16), nn.Tanh(), nn.Linear(16, 6)).double()
    torch.save((x1, x2), folder / "views.pt")
    torch.save(model.state_dict(), folder / "weights.pt")
    source, n = Path(_gather.__file__), str(N_PROCESSES)
    loopback = "lo" if sys.platform == "linux" else "lo0"
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": loopback, "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, str(folder), str(source), str(rank), n],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(N_PROCESSES)
    ]
    try:
        said = [process.communicate(timeout=120)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, text in zip(processes, said, strict=True):
        assert process.returncode == 0, text
    return model, x1, x2, [torch.load(folder / f"result{r}.pt") for r in range(N_PROCESSES)]


@pytest.mark.parametrize("name", OBJECTIVES)
def test_two_processes_have_value_and_gradients_of_one(setting, name):
    model, x1, x2, results = setting
    model.zero_grad()
    z1, z2 = model(torch.cat([x1, x2])).chunk(2)
    loss = OBJECTIVES[name](z1, z2)
    loss.backward()
    expected = [p.grad for p in model.parameters()]
    assert all(bool((g != 0).any()) for g in expected)
    for result in results:
        value, whole, gradients = result[name]
        torch.testing.assert_close(whole, z1.detach(), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(value, loss.detach(), rtol=1e-10, atol=0)
        for gradient, one in zip(gradients, expected, strict=True):
            torch.testing.assert_close(gradient, one, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_loss_of_a_half_batch_is_another(setting, name):
    """What a run that forgets to gather would train on, so that the test above can fail."""
    model, x1, x2, results = setting
    with torch.no_grad():
        z1, z2 = model(x1[: N_CELLS // 2]), model(x2[: N_CELLS // 2])
        assert not torch.isclose(OBJECTIVES[name](z1, z2), results[0][name][0], rtol=0.02)


def test_one_process_gathers_its_own():
    z = torch.randn(3, 2, requires_grad=True)
    assert gather(z) is z
