"""Processes that each have a part of a batch find what one process finds on all of it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional

from scssl.nn import _processes
from scssl.nn._processes import drawn, gather, n_of_all, only, places, sharing, weighed
from scssl.objective import barlow_twins, nt_xent

OBJECTIVES = {"nt_xent": nt_xent, "barlow_twins": barlow_twins}
N_PROCESSES, N_CELLS, N_IN = 2, 13, 9
LENGTHS = torch.arange(N_CELLS) * 7 % 5

# One of the processes. It loads the file by its path: the package around it takes long to import.
WORKER = """
import importlib.util, sys
from datetime import timedelta
import torch
import torch.distributed as dist
from torch.nn.functional import mse_loss
from torch.nn.parallel import DistributedDataParallel
from scssl.objective import barlow_twins, nt_xent

folder, source, rank, n = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
spec = importlib.util.spec_from_file_location("processes", source)
one = importlib.util.module_from_spec(spec)
sys.modules["processes"] = one
spec.loader.exec_module(one)

x1, x2, lengths = torch.load(folder + "/views.pt")
model = torch.nn.Sequential(
    torch.nn.Linear(x1.shape[1], 16), torch.nn.Tanh(), torch.nn.Linear(16, 6)
).double()
model.load_state_dict(torch.load(folder + "/weights.pt"))
dist.init_process_group(
    "gloo", init_method="file://" + folder + "/meet", rank=rank, world_size=n,
    timeout=timedelta(seconds=60),
)
model = DistributedDataParallel(model)
own = torch.arange(rank, len(x1), n)
results = {}
def found(loss, *more):
    model.zero_grad()
    loss.backward()
    return loss.detach(), *more, [p.grad.clone() for p in model.parameters()]

with one.sharing(own[:, None]):
    for name, objective in {"nt_xent": nt_xent, "barlow_twins": barlow_twins}.items():
        z1, z2 = model(torch.cat([x1[own], x2[own]])).chunk(2)
        whole = one.gather(z1)
        results[name] = found(objective(whole, one.gather(z2)), whole.detach())
    z1, z2 = model(torch.cat([x1[own], x2[own]])).chunk(2)
    results["weighed"] = found(one.weighed(mse_loss(z1, z2.square()), len(own)), None)
    # Of the cells from the tenth on the one process has one more, of the last one the other none.
    for first in (10, 12):
        some = (own >= first).nonzero().squeeze(1)
        with one.only(some) as n_all:
            z1, z2 = (model(x[own[some]]) for x in (x1, x2))
            loss = one.weighed(mse_loss(z1, z2.square()), len(some))
            results[first] = found(loss, (n_all, one.places(len(some), own.device)))
    rng = torch.Generator().manual_seed(0)
    pointers = torch.nn.functional.pad(lengths[own].cumsum(0), (1, 0))
    rows = torch.repeat_interleave(lengths[own])
    def binomial(values, cells, n_cells):
        share = torch.rand(n_cells, generator=rng)
        return torch.binomial(values, share[cells], generator=rng)
    results["drawn"] = (
        one.drawn(lambda n: torch.rand(n, 2, generator=rng), len(own)),
        one.drawn_in_rows(lambda n: torch.rand(n, generator=rng), pointers),
        one.drawn_from_values(binomial, rows * 3.0 + 4, rows, len(own)),
        torch.rand(1, generator=rng),
    )
    results["sparse"] = one.gather_sparse(pointers, rows, rows * 2.0)
    results["first"] = one.first_entries(pointers)
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
    torch.save((x1, x2, LENGTHS), folder / "views.pt")
    torch.save(model.state_dict(), folder / "weights.pt")
    source, n = Path(_processes.__file__), str(N_PROCESSES)
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


def expected_of(model, loss):
    model.zero_grad()
    loss.backward()
    return loss.detach(), [p.grad.clone() for p in model.parameters()]


def check(results, key, loss, gradients):
    """The mean over the processes of the losses is that of one process, and all have its gradients."""
    assert all(bool((g != 0).any()) for g in gradients)
    mean = torch.stack([result[key][0] for result in results]).mean()
    torch.testing.assert_close(mean, loss, rtol=1e-10, atol=0)
    for result in results:
        for gradient, one in zip(result[key][-1], gradients, strict=True):
            torch.testing.assert_close(gradient, one, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_two_processes_have_value_and_gradients_of_one(setting, name):
    model, x1, x2, results = setting
    z1, z2 = model(torch.cat([x1, x2])).chunk(2)
    check(results, name, *expected_of(model, OBJECTIVES[name](z1, z2)))
    for result in results:
        torch.testing.assert_close(result[name][1], z1.detach(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_loss_of_a_half_batch_is_another(setting, name):
    """What a run that forgets to gather would train on, so that the test above can fail."""
    model, x1, x2, results = setting
    with torch.no_grad():
        z1, z2 = model(x1[: N_CELLS // 2]), model(x2[: N_CELLS // 2])
        assert not torch.isclose(OBJECTIVES[name](z1, z2), results[0][name][0], rtol=0.02)


def test_means_are_over_the_cells_of_all(setting):
    """Also of parts of a batch of which processes have other numbers, or none."""
    model, x1, x2, results = setting
    for key, first in {"weighed": 0, 10: 10, 12: 12}.items():
        loss = functional.mse_loss(model(x1[first:]), model(x2[first:]).square())
        check(results, key, *expected_of(model, loss))
        if first:
            assert [result[key][1][0] for result in results] == [N_CELLS - first] * 2
            own = torch.cat([result[key][1][1] for result in results])
            assert own.sort().values.tolist() == list(range(N_CELLS - first))
    assert results[1][12][0] == 0


def test_cells_draw_what_they_draw_in_one_process(setting):
    *_, results = setting
    rng = torch.Generator().manual_seed(0)
    of_cells = torch.rand(N_CELLS, 2, generator=rng)
    of_entries = torch.rand(int(LENGTHS.sum()), generator=rng).split(LENGTHS.tolist())
    rows = torch.repeat_interleave(LENGTHS)
    # Values of entries are of their row among the own ones, by which a draw takes other numbers.
    values = (rows // N_PROCESSES) * 3.0 + 4
    share = torch.rand(N_CELLS, generator=rng)
    of_values = torch.binomial(values, share[rows], generator=rng).split(LENGTHS.tolist())
    after = torch.rand(1, generator=rng)
    starts = LENGTHS.cumsum(0) - LENGTHS
    for rank, result in enumerate(results):
        own = slice(rank, None, N_PROCESSES)
        assert torch.equal(result["drawn"][0], of_cells[own])
        assert torch.equal(result["drawn"][1], torch.cat(of_entries[own]))
        assert torch.equal(result["drawn"][2], torch.cat(of_values[own]))
        # Generators go on together.
        assert torch.equal(result["drawn"][3], after)
        pointers, columns, found = result["sparse"]
        assert torch.equal(pointers.diff(), LENGTHS)
        assert torch.equal(columns, rows // N_PROCESSES)
        assert torch.equal(found, columns * 2.0)
        assert torch.equal(result["first"], starts[own])


def test_one_process_has_its_own():
    z, cpu = torch.randn(3, 2, requires_grad=True), torch.device("cpu")
    with sharing(None):
        assert gather(z) is z
        assert weighed(z, 3) is z
        assert n_of_all(3) == 3
        assert places(3, cpu).tolist() == [0, 1, 2]
        assert drawn(torch.ones, 3).tolist() == [1, 1, 1]
        with only(torch.tensor([0, 2])) as n:
            assert n == 2
