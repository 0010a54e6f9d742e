"""Pretraining on clusters in two processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

# Both processes run the whole script: what one writes must not stop the other.
SCRIPT = """
import os, sys, warnings
warnings.simplefilter("ignore")
sys.path.insert(0, sys.argv[1])
import numpy as np
from lightning.pytorch.callbacks import Callback
from conftest import make_counts
from scssl.model import PseudoLabel

class Watch(Callback):
    def __init__(self, stop):
        self.stop, self.rounds, self.mixes, self.first = stop, 0, [], []

    def on_train_start(self, trainer, plan):
        self.rounds += 1
        self.first.append(plan.module.heads[0].weight.detach().clone().numpy())

    def on_train_batch_end(self, trainer, plan, outputs, batch, i):
        self.mixes.append(np.bincount(batch["dataset"].squeeze(-1).numpy(), minlength=3))

    def on_train_epoch_start(self, trainer, plan):
        if self.stop and self.rounds == 2 and trainer.current_epoch == 1:
            raise RuntimeError("the power went off")

folder, mode, devices = sys.argv[2], sys.argv[3], int(sys.argv[4])
adata = make_counts(190)
adata.obs["study"] = np.repeat(["a", "b", "c"], [90, 60, 40])
PseudoLabel.setup_anndata(adata, dataset_key="study", input="counts")
model = PseudoLabel(adata, hidden_dims=(32,), n_latent=8, cells_per_cluster=(30, 15),
                    kmeans="sklearn", n_rounds=3)
watch = Watch(mode == "stopped")
where = {"resume_from" if mode == "resumed" else "checkpoint_dir": folder}
# Each process has a validation set, the best epoch of which is that of both.
model.train(3, batch_size=12, lr=1e-2, accelerator="cpu", devices=devices,
            strategy="ddp" if devices > 1 else "auto", callbacks=[watch], progress=False, **where)
rank = os.environ.get("LOCAL_RANK", "0")
np.savez(f"{mode}-{devices}-{rank}.npz", z=model.get_latent_representation(),
         clusters=model.clusters_.to_numpy(), rounds=model.rounds_.to_numpy(),
         validation=model.history["validation_loss"].to_numpy(),
         training=model.history["train_loss"].to_numpy(),
         mixes=np.array(watch.mixes), heads=np.array(watch.first[-1]))
"""


def start(folder: Path, mode: str, *, checkpoints: str, devices: int = 2):
    script = folder / "train.py"
    script.write_text(SCRIPT)
    here = str(Path(__file__).parents[1])
    command = [sys.executable, str(script), here, str(folder / checkpoints), mode, str(devices)]
    with subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    ) as process:  # fmt: skip
        try:
            out, error = process.communicate(timeout=600)
        except subprocess.TimeoutExpired:
            # With the second process, which would wait for the first for ever.
            os.killpg(process.pid, signal.SIGKILL)
            raise
    return subprocess.CompletedProcess(command, process.returncode, out, error)


def found(folder: Path, mode: str, *, devices: int = 2) -> list[dict[str, np.ndarray]]:
    return [dict(np.load(folder / f"{mode}-{devices}-{rank}.npz")) for rank in range(devices)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, np.ndarray]]]:
    """A run of three rounds in two processes."""
    folder = tmp_path_factory.mktemp("processes")
    done = start(folder, "whole", checkpoints="one")
    assert done.returncode == 0, done.stderr[-3000:]
    return folder, found(folder, "whole")


@pytest.mark.slow
def test_two_processes_learn_as_one_model(whole):
    folder, (a, b) = whole
    for key in ("z", "clusters", "rounds", "validation", "heads"):
        np.testing.assert_array_equal(a[key], b[key], err_msg=key)
    assert len(a["rounds"]) == 3
    assert len(a["validation"]) == 9
    assert np.isfinite(a["validation"]).all()
    assert np.isfinite(a["z"]).all()
    # New heads in each round, so compare within one.
    assert a["training"][2] < a["training"][0]
    # Data sets of 90, 60 and 40 cells count the same in the steps of both processes together.
    both = a["mixes"] + b["mixes"]
    n_steps = len(both) // 9
    assert n_steps * 9 == len(both)
    share = both.sum(0) / both.sum()
    np.testing.assert_allclose(share, 1 / 3, atol=0.02)
    assert (np.ptp(both, axis=1) <= 2).all()
    # And in those of each, or a process would learn from some of them only.
    for mixes in (a["mixes"], b["mixes"]):
        np.testing.assert_allclose(mixes.sum(0) / mixes.sum(), 1 / 3, atol=0.05)
    # The clusters of the first round are those of one process.
    one = start(folder, "whole", checkpoints="single", devices=1)
    assert one.returncode == 0, one.stderr[-3000:]
    from scssl.train import SafeCheckpointIO

    first = [
        SafeCheckpointIO().load_checkpoint(folder / name / "round-00" / "start")
        for name in ("one", "single")
    ]
    np.testing.assert_array_equal(first[0]["clusters"], first[1]["clusters"])


@pytest.mark.slow
def test_two_processes_are_resumed(whole):
    folder, (expected, _) = whole
    stopped = start(folder, "stopped", checkpoints="two")
    assert stopped.returncode != 0
    assert "the power went off" in stopped.stderr
    assert (folder / "two" / "round-01" / "last.ckpt").exists()
    again = start(folder, "resumed", checkpoints="two")
    assert again.returncode == 0, again.stderr[-3000:]
    for resumed in found(folder, "resumed"):
        for key in ("z", "clusters", "rounds", "validation"):
            np.testing.assert_array_equal(resumed[key], expected[key], err_msg=key)


@pytest.mark.slow
def test_the_folder_of_another_run_is_refused(whole):
    folder, _ = whole
    done = start(folder, "whole", checkpoints="one")
    assert done.returncode != 0
    assert "holds the rounds of another run" in done.stderr
