"""Training that is stopped."""

from __future__ import annotations

import signal
import tempfile

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
