"""What loggers are told of a run."""

from __future__ import annotations

import csv

import pytest
import yaml
from lightning.pytorch.loggers import Logger

from .test_fit import OPTIONS, build


class Told(Logger):
    """A logger that keeps what it is told."""

    name, version = "told", 0

    def __init__(self):
        self.parameters, self.values, self.status = {}, [], None

    def log_hyperparams(self, params):
        self.parameters |= params

    def log_metrics(self, metrics, step=None):
        self.values.append((step, metrics))

    def finalize(self, status):
        self.status = status


def test_loggers_are_told_of_the_history_of_steps_and_of_parameters():
    model, logger = build(), Told()
    model.train(2, **{**OPTIONS, "batch_size": 3}, logger=logger)
    of_steps = [step for step, values in logger.values if "train_loss_step" in values]
    # Of 45 steps an epoch, every 50th.
    assert of_steps == [50]
    told = [(step, values) for step, values in logger.values if "train_loss" in values]
    assert [step for step, _ in told] == [45, 90]
    for epoch, (_, values) in enumerate(told):
        assert values.pop("epoch") == epoch
        assert values == {name: one[name].iloc[epoch] for name, one in model.history.items()}
    asked = {"model": "MaskedAutoencoder", "n_latent": 8, "max_epochs": 2, "seed": 0}
    assert asked.items() <= logger.parameters.items()
    assert logger.parameters["n_cells"] == 150
    assert logger.status == "success"


def test_a_table(tmp_path):
    model = build()
    model.train(2, **OPTIONS, logger="csv", checkpoint_dir=tmp_path)
    (folder,) = (tmp_path / "scssl_logs").iterdir()
    rows = list(csv.DictReader((folder / "metrics.csv").read_text().splitlines()))
    assert [float(row["train_loss"]) for row in rows] == model.history["train_loss"][
        "train_loss"
    ].tolist()
    assert [row["step"] for row in rows] == ["5", "10"]
    parameters = yaml.safe_load((folder / "hparams.yaml").read_text())
    assert (parameters["hidden_dims"], parameters["lr_schedule"]) == ([32, 16], "constant")


def test_tensorboard(tmp_path, monkeypatch):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.chdir(tmp_path)
    model = build()
    model.train(2, **OPTIONS, logger="tensorboard")
    (folder,) = (tmp_path / "scssl_logs").iterdir()
    events = EventAccumulator(str(folder))
    events.Reload()
    found = events.Scalars("validation_loss")
    assert [one.step for one in found] == [5, 10]
    expected = model.history["validation_loss"]["validation_loss"].tolist()
    assert [one.value for one in found] == pytest.approx(expected, rel=1e-6)


def test_none_unless_asked(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    build().train(1, **OPTIONS)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("given", ["visdom", True, 3])
def test_what_is_no_logger(given):
    with pytest.raises(ValueError, match="`logger` must be 'csv', .*found"):
        build().train(1, **OPTIONS, logger=given)
