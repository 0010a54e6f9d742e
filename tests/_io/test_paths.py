"""Paths of users: where they are, and whether they can be written, before the work."""

from __future__ import annotations

import shutil

import pytest

import scssl
from scssl._io import as_path, check_place


def test_a_tilde_is_the_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert as_path("~/a") == tmp_path / "a"
    with pytest.raises(TypeError, match="`source` must be a path, found 3"):
        as_path(3, "source")


def test_every_place_that_writes_knows_the_home(tmp_path, monkeypatch):
    from tests.messages._data import cells

    (tmp_path / "work").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path / "work")
    adata = cells()
    scssl.model.MaskedAutoencoder.setup_anndata(adata)
    model = scssl.model.MaskedAutoencoder(adata, hidden_dims=(8,), n_latent=4)
    options = {"lr_schedule": "constant", "progress": False}
    model.train(max_epochs=1, checkpoint_dir="~/run", **options)
    model.train(max_epochs=2, resume_from="~/run", **options)
    model.save("~/model", save_anndata=True)
    scssl.model.MaskedAutoencoder.from_pretrained("~/model", adata=adata)
    scssl.tl.embed(adata, "~/model")
    scssl.pl.history(model, save="~/figures/history.png", show=False)
    found = {str(path.relative_to(tmp_path)) for path in tmp_path.glob("*/*")}
    assert {"run/last.ckpt", "model/adata.h5ad", "figures/history.png"} <= found
    assert not list((tmp_path / "work").iterdir())


def test_places_that_cannot_be_written(tmp_path, monkeypatch):
    file = tmp_path / "file"
    file.write_text("")
    for path, folder, message in (
        (tmp_path, False, "is a folder, and no file"),
        (file, True, "is a file, and should be a folder"),
        (file / "in" / "it", True, "cannot be made: .*file is a file"),
    ):
        with pytest.raises(OSError, match=f"`out` .*{message}"):
            check_place(path, "out", folder=folder)
    assert check_place(tmp_path / "new" / "a.h5ad", "out", n_bytes=1).name == "a.h5ad"
    room = shutil.disk_usage(tmp_path)._replace(free=9)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: room)
    with pytest.raises(OSError, match="at least 1,000 bytes are needed, 9 are free"):
        check_place(tmp_path / "a", "out", n_bytes=1000)
