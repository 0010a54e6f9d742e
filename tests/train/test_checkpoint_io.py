"""Trainer checkpoints are data only, replaced as a whole, and resume to the same bits."""

from __future__ import annotations

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from torch.utils.data import DataLoader, TensorDataset

from scssl._errors import BundleError, ScsslWarning
from scssl.train._checkpoint_io import SafeCheckpointIO

pytestmark = pytest.mark.filterwarnings("ignore:.*(does not have many workers|LeafSpec|not empty)")


class Tiny(pl.LightningModule):
    def __init__(self, width: int = 3) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.layer = torch.nn.Linear(4, width)

    def training_step(self, batch, _):
        return self.layer(batch[0]).square().mean()

    def validation_step(self, batch, _):
        self.log("validation_loss", self.layer(batch[0]).square().mean())

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=0.05)
        scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=16)
        return [optimizer], [{"scheduler": scheduler, "interval": "step"}]


def fit(folder, epochs, ckpt_path=None):
    torch.manual_seed(0)
    model = Tiny()
    loader = DataLoader(TensorDataset(torch.randn(32, 4)), batch_size=8)
    trainer = pl.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        plugins=[SafeCheckpointIO()],
        callbacks=[
            ModelCheckpoint(folder, monitor="validation_loss", save_last=True, save_top_k=1),
            EarlyStopping("validation_loss", patience=3),
        ],
    )
    trainer.fit(model, loader, loader, ckpt_path=ckpt_path)
    return model, trainer


def test_stopped_and_resumed_equals_straight(tmp_path):
    straight, whole = fit(tmp_path / "a", 4)
    fit(tmp_path / "b", 2)
    resumed, rest = fit(tmp_path / "b", 4, ckpt_path=str(tmp_path / "b" / "last.ckpt"))
    assert rest.global_step == whole.global_step == 16
    for a, b in zip(straight.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)
    states = [t.optimizers[0].state_dict()["state"][0]["exp_avg_sq"] for t in (whole, rest)]
    assert torch.equal(*states)
    assert whole.callback_metrics == rest.callback_metrics


def test_only_data_is_written_and_old_checkpoints_go(tmp_path):
    fit(tmp_path, 3)
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert {file.name for file in files} == {"checkpoint.json", "checkpoint.safetensors"}
    assert len(list(tmp_path.iterdir())) == 2, "the best and the last"


CHECKPOINT = {
    "epoch": 1,
    "state_dict": {"w": torch.ones(3)},
    "states": [{"betas": (0.9, 0.99), 0: None}],
}


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "last.ckpt"
    SafeCheckpointIO().save_checkpoint(CHECKPOINT, path)
    return path


def test_round_trip_and_overwrite(saved):
    io = SafeCheckpointIO()
    io.save_checkpoint(CHECKPOINT | {"epoch": 2}, str(saved))
    loaded = io.load_checkpoint(
        str(saved), map_location=lambda storage: storage, weights_only=False
    )
    assert loaded["epoch"] == 2
    assert loaded["states"] == CHECKPOINT["states"]
    assert torch.equal(loaded["state_dict"]["w"], torch.ones(3))


def test_what_is_not_data_is_refused_and_keeps_the_last_checkpoint(saved):
    with pytest.raises(TypeError, match=r"\['hyper_parameters'\]\['loss'\]: it is a .*MSELoss"):
        SafeCheckpointIO().save_checkpoint(
            {"hyper_parameters": {"loss": torch.nn.MSELoss()}}, saved
        )
    assert SafeCheckpointIO().load_checkpoint(saved)["epoch"] == 1
    assert [f.name for f in saved.parent.iterdir()] == ["last.ckpt"]


def test_storage_options_are_refused(tmp_path):
    with pytest.raises(TypeError, match="no `storage_options` here"):
        SafeCheckpointIO().save_checkpoint({}, tmp_path / "a", storage_options={"s3": 1})


def test_other_files_are_neither_replaced_nor_removed_nor_read(tmp_path):
    io = SafeCheckpointIO()
    file = tmp_path / "foreign.ckpt"
    file.write_bytes(b"\x80\x02")
    with pytest.raises(
        ValueError, match="is not a checkpoint written by scssl, so it is not replaced"
    ):
        io.save_checkpoint({}, file)
    with pytest.raises(BundleError, match="no pickles are read"):
        io.load_checkpoint(file)
    io.remove_checkpoint(file)
    io.remove_checkpoint(tmp_path)
    assert file.exists()


def test_remove(saved):
    io = SafeCheckpointIO()
    (saved / "notes.txt").write_text("mine")
    io.remove_checkpoint(saved)
    assert [f.name for f in saved.iterdir()] == ["notes.txt"]
    (saved / "notes.txt").unlink()
    io.save_checkpoint(CHECKPOINT, saved)
    io.remove_checkpoint(saved)
    assert not saved.exists()
    io.remove_checkpoint(saved)


def test_missing_and_interrupted(saved):
    with pytest.raises(BundleError, match="There is no checkpoint .*absent"):
        SafeCheckpointIO().load_checkpoint(saved.with_name("absent"))
    expected = SafeCheckpointIO().load_checkpoint(saved)
    saved.rename(saved.with_name(".last.ckpt.previous-00"))
    with pytest.warns(
        ScsslWarning, match=r"last\.ckpt was interrupted: what it held before is back"
    ):
        assert str(SafeCheckpointIO().load_checkpoint(saved)) == str(expected)


def test_truncated(saved):
    file = saved / "checkpoint.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(BundleError, match="is truncated"):
        SafeCheckpointIO().load_checkpoint(saved)
