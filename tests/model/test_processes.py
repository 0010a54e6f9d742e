"""One process with the batches of all is two processes, or four: for every model that trains."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import scssl

from .conftest import SETUP, arguments_of, make_counts
from .processes import CASES

HERE = Path(__file__).parent
# Models whose cells see each other, whose batches are not divided.
WHOLE = ("CellPLM", "GraphST", "STAGATE")
QUICK = ["MaskedAutoencoder", "SimCLR"]
REST = [name for name in CASES if name not in (*WHOLE, *QUICK)]


def environment() -> dict[str, str]:
    paths = [str(Path(scssl.__file__).parents[1]), str(HERE.parents[1])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "GLOO_SOCKET_IFNAME": "lo"}


def compare(cases: list[str], sizes: list[int], folder: Path) -> None:
    """Train each in one process and in several, all of which end with the same as the one."""
    wanted = [f"{case}:{n}" for case in cases for n in (1, *sizes)]
    command = [sys.executable, str(HERE / "processes.py"), str(folder), *wanted]
    done = subprocess.run(
        command, env=environment(), capture_output=True, text=True, check=False, timeout=900
    )
    failed = [path.read_text() for path in folder.glob("*.txt")]
    assert not failed, "\n".join(failed)
    assert done.returncode == 0, done.stderr[-3000:]
    for case in cases:
        alone = dict(np.load(folder / f"{case}-1-0.npz"))
        assert "history.validation_loss" in alone
        for n in sizes:
            together = [dict(np.load(folder / f"{case}-{n}-{rank}.npz")) for rank in range(n)]
            for name, one in alone.items():
                for found in together[1:]:
                    np.testing.assert_array_equal(found[name], together[0][name], err_msg=name)
                size = np.abs(one, dtype=float).max(initial=0)
                # A mean of zero, as a batch norm keeps of what is normalised, is rounding alone.
                tolerance = 3e-4 * size + 1e-6
                np.testing.assert_allclose(
                    together[0][name], one, rtol=0, atol=tolerance, err_msg=f"{case} {n} {name}"
                )


def test_two_processes_are_one(tmp_path):
    compare(QUICK, [2], tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("i", range(8))
def test_any_number_of_processes_is_one(i, tmp_path):
    compare(REST[i::8] + QUICK[i : i + 1], [2, 4], tmp_path)


def test_every_model_is_there():
    assert {*scssl.model.list_models()} <= {*QUICK, *REST, *WHOLE}


@pytest.mark.parametrize("name", [*WHOLE, "CellTypeClassifier"])
def test_cells_that_see_each_other_are_of_one_process(name):
    adata = make_counts()
    kind = scssl.model.get_model_class(name)
    kind.setup_anndata(adata, **SETUP.get(name, {}))
    more = {"backbone": "CellPLM"} if name == "CellTypeClassifier" else {}
    small = arguments_of(scssl.model.get_model_class("CellPLM") if more else kind)
    model = kind(adata, **more, **small)
    with pytest.raises(ValueError, match=r"see each other.*: `devices=1`"):
        model.train(1, devices=2, accelerator="cpu", progress=False)
    assert not model.is_trained_


SCRIPT = """
import os, signal, sys, warnings
warnings.simplefilter("ignore")
import numpy as np
from lightning.pytorch.callbacks import Callback
from tests.model.conftest import arguments_of, make_counts
import scssl

folder, dies, *found = sys.argv[1:]

class Die(Callback):
    def on_train_batch_end(self, trainer, *_):
        if trainer.current_epoch == 2 and trainer.global_rank == int(dies):
            os.kill(os.getpid(), signal.SIGKILL)

adata = make_counts()
adata.obs["study"] = np.repeat(["a", "b"], 75)
kind = scssl.model.PseudoLabel
kind.setup_anndata(adata, dataset_key="study")
model = kind(adata, **arguments_of(kind, dropout=0.1))
where = {"resume_from" if os.path.exists(folder) else "checkpoint_dir": folder}
model.train(4, batch_size=32, accelerator="cpu", progress=False, callbacks=[Die()], **where)
for name in found:
    rank = os.environ.get("RANK", "0")
    np.savez(f"{name}-{rank}", z=model.get_latent_representation(), world=os.environ["WORLD_SIZE"],
             loss=model.history["validation_loss"].to_numpy(), clusters=model.clusters_.to_numpy())
"""


def torchrun(folder: Path, *arguments: str, options: tuple[str, ...] = ()):
    script = folder / "train.py"
    script.write_text(SCRIPT)
    options = options or ("--standalone", "--nproc-per-node=2")
    command = [sys.executable, "-m", "torch.distributed.run", *options, str(script), *arguments]
    return subprocess.Popen(
        command, cwd=folder, env=environment(), text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def said_by(processes) -> list[str]:
    """What they wrote; none outlives the test."""
    try:
        return [one.communicate(timeout=400)[0] for one in processes]
    finally:
        for one in processes:
            if one.poll() is None:
                os.killpg(one.pid, signal.SIGKILL)


@pytest.mark.slow
def test_torchrun_and_a_process_that_is_killed(tmp_path):
    straight = torchrun(tmp_path, "straight", "-1", "a")
    (said,) = said_by([straight])
    assert straight.returncode == 0, said[-3000:]
    killed = torchrun(tmp_path, "killed", "1")
    (said,) = said_by([killed])
    assert killed.returncode != 0
    assert "Process 1 of 2 (counted from 0) has ended" in said
    assert "The run is to be resumed from killed." in said
    again = torchrun(tmp_path, "killed", "-1", "b")
    (said,) = said_by([again])
    assert again.returncode == 0, said[-3000:]
    a, *others = (dict(np.load(tmp_path / f"{n}.npz")) for n in ("a-0", "a-1", "b-0", "b-1"))
    assert a["world"] == "2"
    for other in others:
        for name, values in a.items():
            np.testing.assert_array_equal(other[name], values, err_msg=name)


@pytest.mark.slow
def test_several_machines(tmp_path):
    """Of which torchrun has an agent each: here, two on this one."""
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        where = f"127.0.0.1:{probe.getsockname()[1]}"
    options = (
        "--nnodes=2",
        "--nproc-per-node=1",
        "--rdzv-backend=c10d",
        f"--rdzv-endpoint={where}",
    )
    agents = [torchrun(tmp_path, f"run{i}", "-1", "m", options=options) for i in range(2)]
    for agent, said in zip(agents, said_by(agents), strict=True):
        assert agent.returncode == 0, said[-3000:]
    a, b = (dict(np.load(tmp_path / f"m-{rank}.npz")) for rank in (0, 1))
    assert a["world"] == b["world"] == "2"
    np.testing.assert_array_equal(a["z"], b["z"])
