"""Training that is stopped."""

from __future__ import annotations

import signal
import tempfile
from unittest.mock import patch

from lightning.pytorch.callbacks import Callback

import scssl

from . import case
from ._data import cells

CHAPTER = "Training"


class _Once(Callback):
    """Ctrl-C in the second epoch, pressed once."""

    pressed = False

    def on_train_batch_end(self, trainer, *_):
        if trainer.current_epoch == 1 and not self.pressed:
            self.pressed = True
            signal.raise_signal(signal.SIGINT)


@case(CHAPTER, "Training was interrupted")
def training_interrupted():
    adata = cells()
    scssl.model.MaskedAutoencoder.setup_anndata(adata)
    model = scssl.model.MaskedAutoencoder(adata, hidden_dims=(8,), n_latent=4)
    folder = tempfile.mkdtemp() + "/run"
    names = {"model": model, "ctrl_c": _Once(), "folder": folder}
    return names, "model.train(3, progress=False, checkpoint_dir=folder, callbacks=[ctrl_c])"


def _run():
    adata = cells()
    scssl.model.MaskedAutoencoder.setup_anndata(adata)
    model = scssl.model.MaskedAutoencoder(adata, hidden_dims=(8,), n_latent=4)
    return {"model": model, "folder": tempfile.mkdtemp() + "/run"}


@case(CHAPTER, "Checkpoints are to be written, and there is no folder")
def checkpoints_without_a_folder():
    return _run(), "model.train(2, progress=False, checkpoint_every=5)"


@case(CHAPTER, "The number of steps between checkpoints is a text")
def steps_as_text():
    code = 'model.train(2, progress=False, checkpoint_dir=folder, checkpoint_every="5")'
    return _run(), code


@case(CHAPTER, "It is not said after which time a checkpoint is written")
def no_time():
    code = 'model.train(2, progress=False, checkpoint_dir=folder, checkpoint_every="often")'
    return _run(), code


class _Ask(Callback):
    """A wish for a checkpoint in the second epoch, once."""

    asked = False

    def on_train_batch_start(self, trainer, *_):
        if trainer.current_epoch == 1 and not self.asked:
            self.asked = True
            signal.raise_signal(signal.SIGUSR1)


@case(CHAPTER, "A signal asked for a checkpoint")
def checkpoint_asked_for():
    code = "model.train(3, progress=False, checkpoint_dir=folder, callbacks=[ask])"
    return {**_run(), "ask": _Ask()}, code


@case(CHAPTER, "The package of a logger is not installed", ways="instead")
def logger_not_installed():
    def train():
        with patch("scssl.train._loggers.find_spec", return_value=None):
            _run()["model"].train(1, progress=False, logger="wandb")

    return {"train": train}, "train()"


@case(CHAPTER, "There is no such logger")
def no_such_logger():
    return _run(), 'model.train(1, progress=False, checkpoint_dir=folder, logger="visdom")'


@case(CHAPTER, "A category to weigh is not there")
def no_such_category_to_weigh():
    return (
        _run(),
        'model.train(1, progress=False, balance_key="batch", balance_weights={"none": 2})',
    )


@case(CHAPTER, "A category to validate on is not there")
def no_such_category():
    return _run(), 'model.train(1, progress=False, hold_out={"batch": ["none"]})'


@case(CHAPTER, "It is said twice which cells are validated on")
def validated_on_twice():
    code = 'model.train(1, progress=False, hold_out={"batch": ["one"]}, train_size=0.8)'
    return _run(), code
