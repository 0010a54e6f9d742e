"""Runs that are stopped, resumed, interrupted, or go wrong."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import re
import shutil
import signal
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback

import scssl
from scssl._errors import BundleError, ScsslWarning
from scssl.augment import RandomMask
from scssl.data.matrix import GeneStatistics
from scssl.train import SafeCheckpointIO, _fit
from scssl.train._devices import bfloat16_works, matrix_products

from ..model.conftest import make_counts

ROOT = Path(__file__).parents[2]
# Of a constant learning rate, runs of another length are the beginning of one another.
OPTIONS = {
    "batch_size": 32,
    "progress": False,
    "early_stopping": False,
    "lr_schedule": "constant",
}


def build(**kwargs):
    adata = make_counts()
    model_class = scssl.model.MaskedAutoencoder
    model_class.setup_anndata(adata)
    return model_class(adata, **{"hidden_dims": (32, 16), "n_latent": 8, **kwargs})


class At(Callback):
    """Do something at the end of a training batch."""

    def __init__(self, epoch, batch, action):
        self.at, self.action = (epoch, batch), action

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if (trainer.current_epoch, batch_idx) == self.at:
            self.action()


class Watched(RandomMask):
    """A mask that keeps the state of the generator that it was last drawn from."""

    def draw(self, x, rng, *, indicator=False):
        self.state = rng.get_state().numpy().tobytes()
        return super().draw(x, rng, indicator=indicator)


class Watch(Callback):
    """Of each batch: epoch, cells, loss, learning rate, and what its mask was drawn from."""

    def __init__(self, mask):
        self.mask, self.training, self.validation = mask, [], []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        # After the step it is that of the next.
        self.lr = trainer.optimizers[0].param_groups[0]["lr"]

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        cells, loss = batch["indices"].numpy(), float(outputs["loss"])
        self.training.append((trainer.current_epoch, cells, loss, self.lr, self.mask.state))

    def on_validation_batch_end(self, *_):
        self.validation.append(self.mask.state)

    def cells(self, epoch):
        """Cells of an epoch in their order."""
        return np.concatenate([cells for of, cells, *_ in self.training if of == epoch])


def begun(max_epochs=3, *, killed_at=None, **options):
    """A run that is watched, and that may be killed after a step."""
    watch = Watch(Watched())
    model = build(masking=watch.mask)
    kills = () if killed_at is None else (At(*killed_at, crash),)
    with contextlib.suppress(RuntimeError):
        model.train(max_epochs, **{**OPTIONS, **options}, callbacks=[watch, *kills])
    return model, watch


def watched(*args, **options):
    model, watch = begun(*args, **options)
    assert model.is_trained_
    return model, watch


def same(a, b):
    for name in a.history:
        if name != "cells_per_second":
            np.testing.assert_array_equal(a.history[name], b.history[name], err_msg=name)
    for (name, x), y in zip(
        a.module.state_dict().items(), b.module.state_dict().values(), strict=True
    ):
        assert torch.equal(x, y), name


@pytest.mark.parametrize("n_output_genes", [None, 20])
@pytest.mark.parametrize("schedule", ["constant", "cosine"])
@pytest.mark.parametrize("killed_at", [(1, 3), (3, 0)])
def test_resumed_equals_straight(tmp_path, n_output_genes, schedule, killed_at):
    options = {**OPTIONS, "n_output_genes": n_output_genes, "lr_schedule": schedule}
    straight = build()
    straight.train(5, **options)
    stopped = build()
    with pytest.raises(RuntimeError, match="went down"):
        stopped.train(5, **options, checkpoint_dir=tmp_path, callbacks=[At(*killed_at, crash)])
    resumed = build()
    resumed.train(5, **options, checkpoint_dir=tmp_path, resume_from=tmp_path)
    same(straight, resumed)
    assert resumed.training_["best_epoch"] == straight.training_["best_epoch"]


def crash():
    raise RuntimeError("the machine went down")


@pytest.mark.parametrize("schedule", ["constant", "cosine", "step"])
def test_a_run_goes_on_within_an_epoch(tmp_path, schedule):
    """Also when it was resumed before; no step is made twice but those since the last checkpoint.

    The network has dropout, by default.
    """
    options = {"max_epochs": 4, "lr_schedule": schedule}
    straight, all_of_it = watched(**options)
    options |= {"checkpoint_every": 2}
    # Of five steps of an epoch checkpoints are written at 2, 4, 5, 6, 8, 10, 12 and so on.
    where, seen = {"checkpoint_dir": tmp_path}, []
    for at in ((0, 3), (1, 3), (2, 2), None):
        model, watch = begun(**options, **where, killed_at=at)
        where = {"resume_from": tmp_path}
        seen.append([(epoch, cells.tolist()) for epoch, cells, *_ in watch.training])
    same(straight, model)
    numbers = [(epoch, cells.tolist()) for epoch, cells, *_ in all_of_it.training]
    # In step 4, 9 and 13 of each.
    assert seen == [numbers[:4], numbers[2:9], numbers[8:13], numbers[12:]]
    for name in ("loss", "lr", "state"):
        i = ("epoch", "cells", "loss", "lr", "state").index(name)
        assert [one[i] for one in watch.training] == [one[i] for one in all_of_it.training[12:]]


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="there is no such signal")
def test_sigterm_and_sigusr1_write_a_checkpoint(tmp_path, caplog):
    straight = build()
    straight.train(4, **OPTIONS)
    before = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGUSR1)]
    kept, model = tmp_path / "kept", build()

    def keep():
        shutil.copytree(tmp_path / "run", kept)

    asks = At(1, 0, lambda: signal.raise_signal(signal.SIGUSR1))
    with caplog.at_level("INFO", logger="scssl"):
        model.train(4, **OPTIONS, checkpoint_dir=tmp_path / "run", callbacks=[asks, At(1, 2, keep)])
    same(straight, model)
    (said,) = (text for text in caplog.messages if "asked for it" in text)
    assert "the state after 1 steps of epoch 1, in " in said
    assert f"`resume_from={str(tmp_path / 'run')!r}`" in said
    # The state of then, to go on with or to be interrupted again.
    resumed = build()
    ends = At(1, 3, lambda: signal.raise_signal(signal.SIGTERM))
    with pytest.warns(ScsslWarning, match="after 1 full epochs and 4 steps"):
        with pytest.raises(SystemExit):
            resumed.train(4, **OPTIONS, resume_from=kept, callbacks=[ends])
    resumed = build()
    resumed.train(4, **OPTIONS, resume_from=kept)
    same(straight, resumed)
    assert [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGUSR1)] == before


def test_a_signal_in_the_last_step_of_an_epoch_leaves_it_whole(tmp_path):
    straight = build()
    straight.train(3, **OPTIONS)
    model, resumed = build(), build()
    with pytest.warns(ScsslWarning, match="after 2 full epochs;"):
        ends = At(1, 4, lambda: signal.raise_signal(signal.SIGINT))
        model.train(3, **OPTIONS, checkpoint_dir=tmp_path, callbacks=[ends])
    resumed.train(3, **OPTIONS, resume_from=tmp_path)
    same(straight, resumed)


def test_checkpoints_by_the_clock(tmp_path, monkeypatch):
    now, written = [0.0], []
    monkeypatch.setattr("scssl.train._checkpoints.time.monotonic", lambda: now[0])

    class Clock(Callback):
        def on_train_batch_end(self, trainer, *_):
            now[0] += 40

        def on_save_checkpoint(self, trainer, *_):
            written.append(trainer.global_step)

    build().train(
        2, **OPTIONS, checkpoint_dir=tmp_path, checkpoint_every="1min", callbacks=[Clock()]
    )
    # Steps take 40 seconds: it is time at the third after the last that was written.
    assert written == [3, 5, 8, 10]


def test_max_steps(tmp_path):
    """Of five steps an epoch: a part of one counts as one."""
    straight, (model, watch) = build(), watched(None, max_steps=7, checkpoint_dir=tmp_path)
    assert [epoch for epoch, *_ in watch.training] == [0] * 5 + [1] * 2
    assert len(watch.validation) == 2
    assert model.training_["stopped_by"] == "max_steps"
    assert (model.training_["epochs"], model.training_["steps"]) == (2, 7)
    losses = [loss for _, _, loss, *_ in watch.training[5:]]
    found = model.history["train_loss"]["train_loss"].iloc[1]
    assert found == pytest.approx(np.mean(losses), rel=1e-6)
    again, longer = build(), build()
    again.train(**OPTIONS, max_steps=7, resume_from=tmp_path)
    same(model, again)
    straight.train(3, **OPTIONS)
    longer.train(3, **OPTIONS, resume_from=tmp_path)
    same(straight, longer)


def test_schedules_end_with_the_steps():
    by_step = [
        [lr for *_, lr, _ in watched(*args, lr_schedule="cosine", **kwargs)[1].training]
        for args, kwargs in (((2,), {}), ((None,), {"max_steps": 10}), ((3,), {"max_steps": 10}))
    ]
    assert len(by_step[0]) == 10
    assert by_step[0] == by_step[1] == by_step[2]


def test_what_diverged_within_an_epoch_is_not_written(tmp_path):
    with pytest.raises(FloatingPointError, match="diverged"):
        build().train(1, **OPTIONS, lr=1e20, checkpoint_dir=tmp_path, checkpoint_every=3)
    assert not (tmp_path / "last.ckpt").exists()


_KILLED = """
import os, signal, sys
import scssl
from lightning.pytorch.callbacks import Callback
from tests.train.test_fit import OPTIONS, build

class Kill(Callback):
    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == 9:
            os.kill(os.getpid(), signal.SIGKILL)

build().train(3, **OPTIONS, checkpoint_dir=sys.argv[1], checkpoint_every=1, callbacks=[Kill()])
"""


@pytest.mark.slow
def test_kill_9_loses_the_steps_since_the_last_checkpoint(tmp_path):
    straight = build()
    straight.train(3, **OPTIONS)
    killed = subprocess.run([sys.executable, "-c", _KILLED, str(tmp_path)], cwd=ROOT, check=False)
    assert killed.returncode == -signal.SIGKILL
    resumed, watch = watched(resume_from=tmp_path)
    same(straight, resumed)
    assert len(watch.training) == 15 - 8


def test_longer_run_from_a_finished_one(tmp_path):
    straight, first, longer = build(), build(), build()
    straight.train(4, **OPTIONS)
    first.train(2, **OPTIONS, checkpoint_dir=tmp_path)
    longer.train(4, **OPTIONS, resume_from=tmp_path)
    same(straight, longer)


def test_interrupt_keeps_a_usable_model_and_can_be_resumed(tmp_path):
    straight = build()
    straight.train(5, **OPTIONS)
    before = signal.getsignal(signal.SIGINT)
    model = build()
    with pytest.warns(ScsslWarning, match=r"after 2 full epochs.* of epoch [01]. .*`resume_from="):
        model.train(
            5,
            **OPTIONS,
            checkpoint_dir=tmp_path,
            callbacks=[At(2, 1, lambda: signal.raise_signal(signal.SIGINT))],
        )
    assert signal.getsignal(signal.SIGINT) is before
    assert model.training_["stopped_by"] == "interrupt"
    assert model.is_trained
    assert len(model.history["train_loss"]) == 2
    assert np.isfinite(model.get_latent_representation()).all()
    resumed = build()
    resumed.train(5, **OPTIONS, resume_from=tmp_path)
    same(straight, resumed)


def signals(*numbers):
    return lambda: [signal.raise_signal(number) for number in numbers]


@pytest.mark.parametrize(
    ("numbers", "error", "status"),
    [
        ((signal.SIGINT, signal.SIGINT), KeyboardInterrupt, None),
        ((signal.SIGTERM,), SystemExit, 143),
        ((signal.SIGTERM, signal.SIGTERM), SystemExit, 143),
        ((signal.SIGINT, signal.SIGTERM), SystemExit, 143),
    ],
)
def test_two_interrupts_and_sigterm_keep_the_best_weights_and_are_raised(numbers, error, status):
    expected = build()
    expected.train(2, **OPTIONS)
    model, before = build(), [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    with (
        pytest.warns(ScsslWarning, match="interrupted after 2 full epochs"),
        pytest.raises(error) as raised,
    ):
        model.train(5, **OPTIONS, callbacks=[At(2, 1, signals(*numbers))])
    assert getattr(raised.value, "code", None) == status
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == before
    same(model, expected)
    assert model.is_trained_
    assert not model.module.training
    assert model.training_["stopped_by"] == "interrupt"


def test_sigterm_is_passed_on_to_a_handler_of_the_user():
    received, model = [], build()

    def handler(number, frame):
        received.append((number, model.is_trained_))

    before = signal.signal(signal.SIGTERM, handler)
    try:
        with pytest.warns(ScsslWarning, match="interrupted"):
            model.train(5, **OPTIONS, callbacks=[At(1, 1, signals(signal.SIGTERM))])
        assert signal.getsignal(signal.SIGTERM) is handler
    finally:
        signal.signal(signal.SIGTERM, before)
    assert received == [(signal.SIGTERM, True)]


def test_ignored_signals_stay_ignored():
    model, expected, before = build(), build(), signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        model.train(2, **OPTIONS, callbacks=[At(0, 1, signals(signal.SIGINT, signal.SIGINT))])
    finally:
        signal.signal(signal.SIGINT, before)
    expected.train(2, **OPTIONS)
    same(model, expected)


class Before(Callback):
    """Do something before the first step."""

    def __init__(self, action):
        self.action = action

    def on_fit_start(self, trainer, pl_module):
        self.action()


def press_ctrl_c():
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("action", "error"),
    [
        (signals(signal.SIGINT), KeyboardInterrupt),
        (signals(signal.SIGTERM), SystemExit),
        (press_ctrl_c, KeyboardInterrupt),
        (sys.exit, SystemExit),
    ],
)
def test_what_stops_before_the_first_step_leaves_an_untrained_model(action, error):
    model, expected = build(), build()
    with pytest.raises(error):
        model.train(2, **OPTIONS, callbacks=[Before(action)])
    assert not model.is_trained_
    assert model.encoder_hash == expected.encoder_hash


def test_a_checkpoint_whose_saving_was_killed_is_found(tmp_path):
    build().train(2, **OPTIONS, checkpoint_dir=tmp_path)
    straight, resumed = build(), build()
    straight.train(3, **OPTIONS)

    def kill():
        (tmp_path / "last.ckpt").rename(tmp_path / ".last.ckpt.previous-00")
        (tmp_path / ".last.ckpt.saving-11").mkdir()

    kill()
    with (
        pytest.warns(ScsslWarning, match="what it held before is back"),
        pytest.raises(ValueError, match="holds the checkpoint of another run"),
    ):
        build().train(3, **OPTIONS, checkpoint_dir=tmp_path)
    kill()
    with pytest.warns(ScsslWarning, match="what it held before is back"):
        resumed.train(3, **OPTIONS, resume_from=tmp_path)
    same(straight, resumed)
    assert [entry.name for entry in tmp_path.iterdir()] == ["last.ckpt"]


def test_best_weights_are_restored():
    class States(Callback):
        def __init__(self):
            self.of_epoch = []

        def on_validation_end(self, trainer, pl_module):
            state = pl_module.module.state_dict()
            self.of_epoch.append({name: value.clone() for name, value in state.items()})

    model, states = build(), States()
    model.train(6, **OPTIONS, lr=0.05, callbacks=[states])
    loss = model.history["validation_loss"]["validation_loss"]
    best = int(loss.idxmin())
    # Neither the first weights nor the last are the best ones.
    assert 0 < best < len(loss) - 1
    assert model.training_["best_epoch"] == best
    for name, value in model.module.state_dict().items():
        assert torch.equal(value, states.of_epoch[best][name]), name
    shorter = build()
    shorter.train(best + 1, **OPTIONS, lr=0.05)
    np.testing.assert_array_equal(
        shorter.get_latent_representation(), model.get_latent_representation()
    )


def test_draws_of_training_differ_and_those_of_validation_stay():
    _, watch = watched()
    draws = [state for *_, state in watch.training]
    assert len(draws) == len(set(draws)) == 3 * 5
    assert len(watch.validation) == 3
    assert len(set(watch.validation)) == 1
    assert watch.validation[0] not in draws


def test_every_epoch_has_an_order_of_its_own():
    model, watch = watched()
    orders = [watch.cells(epoch) for epoch in range(3)]
    for order in orders:
        np.testing.assert_array_equal(np.sort(order), model.train_indices_)
    assert len({order.tobytes() for order in orders}) == 3


def test_a_seed_is_that_of_split_order_and_draws():
    (model, watch), (_, again), (other_model, other) = (watched(1, rng=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(watch.cells(0), again.cells(0))
    assert [state for *_, state in watch.training] == [state for *_, state in again.training]
    assert watch.validation == again.validation
    rows, other_rows = model.train_indices_, other_model.train_indices_
    assert not np.array_equal(rows, other_rows)
    # By place among the cells of training, which the split does not move.
    places = np.searchsorted(rows, watch.cells(0))
    assert not np.array_equal(places, np.searchsorted(other_rows, other.cells(0)))
    states = {state for *_, state in watch.training} | set(watch.validation)
    assert not states & ({state for *_, state in other.training} | set(other.validation))


def test_losses_are_means_over_cells():
    model, watch = watched(1, batch_size=12)
    sizes = [len(cells) for _, cells, *_ in watch.training]
    assert sizes == [12] * 11 + [3]
    losses = [loss for _, _, loss, *_ in watch.training]
    found = model.history["train_loss"]["train_loss"].iloc[0]
    assert found == pytest.approx(np.average(losses, weights=sizes), rel=1e-6)
    assert found != pytest.approx(np.mean(losses), rel=1e-5)


def test_early_stopping():
    model = build()
    model.train(200, batch_size=32, progress=False, lr=0.05, patience=2)
    assert model.training_["stopped_by"] == "early_stopping"
    loss = model.history["validation_loss"]["validation_loss"]
    assert len(loss) < 200
    assert len(loss) - 1 - loss.idxmin() == 2


def test_checkpoint_holds_no_pickle(tmp_path):
    build().train(1, **OPTIONS, checkpoint_dir=tmp_path)
    (folder,) = tmp_path.iterdir()
    assert sorted(p.name for p in folder.iterdir()) == [
        "checkpoint.json",
        "checkpoint.safetensors",
    ]
    json.loads((folder / "checkpoint.json").read_text())


def test_no_checkpoint_unless_asked(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    build().train(1, **OPTIONS)
    assert list(tmp_path.iterdir()) == []


def test_resuming_another_run_is_refused(tmp_path):
    build().train(1, **OPTIONS, checkpoint_dir=tmp_path)
    with pytest.raises(ValueError, match="its seed is 0, of this one 7"):
        build().train(2, **OPTIONS, rng=7, resume_from=tmp_path)
    with pytest.raises(ValueError, match="its model is"):
        build(n_latent=4).train(2, **OPTIONS, resume_from=tmp_path)
    with pytest.raises(BundleError, match=r"no last\.ckpt"):
        build().train(2, **OPTIONS, resume_from=tmp_path / "elsewhere")


def test_altered_checkpoint_is_refused(tmp_path):
    build().train(1, **OPTIONS, checkpoint_dir=tmp_path)
    path = tmp_path / "last.ckpt" / "checkpoint.safetensors"
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(BundleError):
        SafeCheckpointIO().load_checkpoint(tmp_path / "last.ckpt")


def test_divergence_is_an_error():
    with pytest.raises(FloatingPointError, match=r"smaller learning rate than "):
        build().train(5, **OPTIONS, lr=1e20)


def test_collapse_is_noticed():
    model = build()
    with torch.no_grad():
        for parameter in model.module.encoder.parameters():
            parameter.zero_()
    with pytest.warns(ScsslWarning, match="collapsed: effective rank 0"):
        model.train(1, **OPTIONS, lr=1e-12)
    assert model.history["effective_rank"]["effective_rank"].iloc[-1] < 1.5


def test_healthy_training_is_not_called_a_collapse(recwarn):
    build().train(3, **OPTIONS)
    assert not [w for w in recwarn if issubclass(w.category, ScsslWarning)]


def test_gradient_clipping_counts_sparse_gradients():
    free, clipped = build(), build()
    free.train(1, **OPTIONS, n_output_genes=20)
    clipped.train(1, **OPTIONS, n_output_genes=20, gradient_clip=1e-9)
    module = build().module
    module.begin_training(GeneStatistics(*np.ones((4, 60))), fresh=True, n_output_genes=None)
    start = module.gene_decoder.weight
    # Adam's steps do not depend on the scale of the gradient until it nears eps.
    moved_free = (free.module.gene_decoder.weight - start).abs().sum()
    moved_clipped = (clipped.module.gene_decoder.weight - start).abs().sum()
    assert moved_clipped < 0.9 * moved_free


def test_cosine_schedule():
    model = build()
    model.train(10, **{**OPTIONS, "lr_schedule": "cosine"}, lr=0.01)
    lr = model.history["lr"]["lr"].to_numpy()
    assert lr.max() <= 0.01
    assert lr[-1] == pytest.approx(1e-4, rel=0.2)
    assert (np.diff(lr[1:]) < 0).all()
    # 5 % of 50 steps are for the warm-up.
    _, watch = watched(10, lr_schedule="cosine", lr=0.01)
    by_step = [lr for *_, lr, _ in watch.training]
    assert by_step[:3] == pytest.approx([0.005, 0.01, 0.01])
    assert (np.diff(by_step[3:]) < 0).all()


def test_bf16():
    model = build()
    if not bfloat16_works():
        # oneDNN offers instructions that some virtual machines then refuse.
        with pytest.raises(ValueError, match="ONEDNN_MAX_CPU_ISA"):
            model.train(2, **OPTIONS, precision="bf16-mixed")
        return
    model.train(2, **OPTIONS, precision="bf16-mixed")
    exact = build()
    exact.train(2, **OPTIONS)
    a, b = (m.history["validation_loss"].to_numpy() for m in (model, exact))
    np.testing.assert_allclose(a, b, rtol=0.02)
    assert model.get_latent_representation().dtype == np.float32


@pytest.mark.parametrize(("precision", "expected"), [(None, "high"), ("32-true", "highest")])
def test_products_while_a_gpu_trains(monkeypatch, precision, expected):
    class Seen(Callback):
        def on_train_batch_end(self, *_):
            found.add(torch.get_float32_matmul_precision())

    found = set()
    monkeypatch.setattr(_fit, "matrix_products", lambda asked, _: matrix_products(asked, "gpu"))
    build().train(1, **OPTIONS, precision=precision, callbacks=[Seen()])
    assert found == {expected}
    assert torch.get_float32_matmul_precision() == "highest"


def test_precision_that_the_cpu_has_not():
    with pytest.raises(ValueError, match="bf16-mixed"):
        build().train(1, **OPTIONS, precision="16-mixed", accelerator="cpu")


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"max_epochs": 0}, "`max_epochs` must be a whole number of at least 1, found 0"),
        ({"batch_size": 0}, "`batch_size` must be a whole number"),
        ({"lr": -1}, "`lr` must be a positive number"),
        ({"lr_schedule": "linear"}, "`lr_schedule` must be 'constant', 'cosine' or 'step'"),
        ({"n_output_genes": 61}, "`n_output_genes` must be"),
        ({"train_size": 1.5}, "train_size"),
        ({"max_steps": 0}, "`max_steps` must be a whole number of at least 1, found 0"),
        ({"checkpoint_every": 5}, "`checkpoint_every` is 5, and there is no folder"),
        ({"checkpoint_every": "500"}, "Pass `checkpoint_every=500`"),
        ({"checkpoint_every": "soon"}, "a time such as .*found 'soon'"),
        ({"checkpoint_every": "-5min"}, "found '-5min'"),
        ({"checkpoint_every": 0}, "`checkpoint_every` must be a whole number"),
    ],
)
def test_bad_arguments(kwargs, message):
    with pytest.raises(ValueError, match=message):
        build().train(**kwargs)


def test_misspelt_argument():
    with pytest.raises(TypeError, match="learning_rate"):
        build().train(learning_rate=0.1)


class Terminal(io.StringIO):
    """What is written to stderr, as if somebody saw it."""

    def isatty(self):
        return True


def test_progress_on_a_terminal_is_a_bar(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    build().train(2, batch_size=32, progress=True)
    shown = terminal.getvalue()
    for part in ("2.0/2 epochs", "loss=", "validation="):
        assert part in shown


def test_progress_in_a_file_is_some_lines(capsys):
    build().train(30, **{**OPTIONS, "progress": True})
    shown = capsys.readouterr().err
    lines = [line for line in shown.splitlines() if line.startswith("Training")]
    assert "\r" not in shown
    assert [line.split(",")[0] for line in lines] == [
        f"Training: epoch {n} of 30" for n in (1, 3, 6, 9, 12, 15, 18, 21, 24, 27, 30)
    ]
    assert all(re.search(r", loss \d.*, validation \d", line) for line in lines)


def test_progress_in_a_notebook_asks_for_no_widgets(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setitem(sys.modules, "ipykernel", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace())
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "ipywidgets" else found(name)
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="IProgress not found")
        build().train(1, **{**OPTIONS, "progress": True})
    assert "1.0/1 epochs" in terminal.getvalue()


@pytest.mark.filterwarnings("ignore:The embeddings have collapsed")
def test_training_ends_with_a_line(caplog):
    def last(epochs, **options):
        model = build()
        caplog.clear()
        with caplog.at_level("INFO", logger="scssl"):
            model.train(epochs, **{**OPTIONS, "progress": True, **options})
        return (caplog.messages or [""])[-1], model

    said, model = last(3)
    assert said.startswith("Trained 3 epochs in ")
    assert "all that were asked for" in said
    best, loss = model.training_["best_epoch"], model.training_["best_loss"]
    assert said.endswith(f"those of the best epoch, {best} (validation loss {loss:.4g}).")
    said, model = last(60, lr=0.1, early_stopping=True, patience=1)
    assert 1 < model.training_["epochs"] < 60
    assert f"Trained {model.training_['epochs']} epochs" in said
    assert "stopped as the validation loss was not lower for 1 epochs running" in said
    said, _ = last(2, train_size=1.0)
    assert "those of the last epoch, 1 (training loss " in said
    assert "Trained" not in last(1, progress=False)[0]
