"""A model folder comes back exactly, is replaced as a whole, and is refused when it is not sound."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scssl._errors import BundleError, ScsslWarning
from scssl._io._trees import json_sha256
from scssl.hub import read_bundle, write_bundle

CONFIG = {"class": "MaskedAutoencoder", "arguments": {"hidden_dims": (64, 32), "rate": 0.5}}
GENES = {"names": ["CD3E", "MS4A1"], "hash": "abc"}


def write(path, value=1.0, **kwargs):
    tensors = {"encoder.weight": torch.full((4, 3), value), "step": torch.tensor(7)}
    write_bundle(path, tensors=tensors, config=CONFIG, genes=GENES, **kwargs)


def edit_config(path, *, resign=True, **changes):
    file = path / "config.json"
    document = json.loads(file.read_text()) | changes
    if resign:
        document.pop("config_sha256")
        document["config_sha256"] = json_sha256(document)
    file.write_text(json.dumps(document))


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "model"
    write(path)
    return path


def test_round_trip(folder):
    bundle = read_bundle(str(folder))
    assert bundle.config == CONFIG
    assert bundle.genes == GENES
    assert set(bundle.tensors) == {"encoder.weight", "step"}
    assert torch.equal(bundle.tensors["encoder.weight"], torch.ones(4, 3))
    assert bundle.tensors["step"].dtype == torch.int64
    assert sorted(f.name for f in folder.iterdir()) == [
        "config.json",
        "genes.json",
        "model.safetensors",
    ]


def test_config_is_plain_json_for_other_programs(folder):
    config = json.loads((folder / "config.json").read_text())
    assert config["format"] == "scssl"
    assert config["format_version"] == 1
    assert config["class"] == "MaskedAutoencoder"
    assert set(config["files"]) == {"model.safetensors", "genes.json"}
    assert set(config["files"]["genes.json"]) == {"size", "sha256"}


@given(
    shapes=st.lists(st.lists(st.integers(0, 3), max_size=3), max_size=4),
    config=st.dictionaries(st.sampled_from("abc"), st.floats() | st.text(), max_size=3),
)
@settings(max_examples=25, deadline=None)
def test_any_state_round_trips_bit_for_bit(tmp_path_factory, shapes, config):
    path = tmp_path_factory.mktemp("bundle")
    tensors = {f"layer.{i}": torch.randn(shape) for i, shape in enumerate(shapes)}
    write_bundle(path, tensors=tensors, config=config, genes={})
    bundle = read_bundle(path)
    assert bundle.tensors.keys() == tensors.keys()
    assert all(torch.equal(bundle.tensors[name], tensors[name]) for name in tensors)
    assert repr(sorted(bundle.config.items())) == repr(sorted(config.items()))


def test_files_are_readable_by_others_as_the_umask_says(folder, tmp_path):
    (tmp_path / "plain").write_text("")
    assert (folder / "model.safetensors").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_tied_weights_round_trip(tmp_path):
    weight = torch.randn(3, 3)
    tensors = {"a": weight, "b": weight, "c": weight[1]}
    write_bundle(tmp_path, tensors=tensors, config={}, genes={})
    loaded = read_bundle(tmp_path).tensors
    assert all(torch.equal(loaded[name], tensors[name]) for name in "abc")


# --- writing --------------------------------------------------------------------------------------


def test_existing_model_is_replaced_only_when_asked(folder):
    with pytest.raises(
        ValueError, match=r'already holds a model.*save\(".*model", overwrite=True\)'
    ):
        write(folder, 2.0)
    assert read_bundle(folder).tensors["encoder.weight"][0, 0] == 1
    (folder / "adata.h5ad").write_text("data")
    write(folder, 2.0, overwrite=True)
    assert read_bundle(folder).tensors["encoder.weight"][0, 0] == 2
    assert (folder / "adata.h5ad").read_text() == "data"


def test_folders_of_others_are_never_replaced(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match="holds files and no scssl model"):
        write(tmp_path, overwrite=True)
    assert [f.name for f in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_file_is_never_replaced(tmp_path):
    (tmp_path / "file").write_text("text")
    with pytest.raises(ValueError, match="file is a file: give a folder"):
        write(tmp_path / "file", overwrite=True)


def test_the_working_directory_is_not_replaced(folder, monkeypatch):
    monkeypatch.chdir(folder)
    with pytest.raises(ValueError, match="is the working directory: save into a folder"):
        write(folder, overwrite=True)


def test_only_tensors_are_saved_as_tensors(tmp_path):
    with pytest.raises(TypeError, match="Cannot save 'w' as a tensor: it is a list"):
        write_bundle(tmp_path / "model", tensors={"w": [1.0]}, config={}, genes={})


def test_an_interrupted_save_leaves_the_old_model(folder, monkeypatch):
    def fail(path, content):
        raise OSError("No space left on device")

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(OSError, match="No space left"):
        write(folder, 2.0, overwrite=True)
    assert read_bundle(folder).tensors["encoder.weight"][0, 0] == 1
    assert [f.name for f in folder.parent.iterdir()] == ["model"]


@pytest.mark.parametrize(
    ("config", "error", "message"),
    [
        ({"files": 1, "format": 2}, ValueError, "format itself uses: files, format"),
        ({"a": [{"b": print}]}, TypeError, r"\['a'\]\[0\]\['b'\]: it is a builtins"),
        ({"a": torch.ones(1)}, TypeError, r"\['a'\]: it is a torch.Tensor"),
        ({1: 2}, TypeError, "keys of `config` must be strings"),
    ],
)
def test_config_that_cannot_be_saved_is_refused(tmp_path, config, error, message):
    with pytest.raises(error, match=message):
        write_bundle(tmp_path / "model", tensors={}, config=config, genes={})
    assert not (tmp_path / "model").exists()


# --- reading --------------------------------------------------------------------------------------


def test_missing_folder(tmp_path):
    with pytest.raises(BundleError, match="There is no folder .*absent"):
        read_bundle(tmp_path / "absent")


def test_a_killed_save_leaves_the_model_before(folder):
    expected = read_bundle(folder).config
    folder.rename(folder.with_name(".model.previous-0a1b2c3d"))
    with pytest.warns(ScsslWarning, match="model was interrupted: what it held before is back"):
        assert read_bundle(folder).config == expected
    assert [entry.name for entry in folder.parent.iterdir()] == ["model"]


def test_a_model_that_is_being_replaced_is_said_to_be(folder):
    # Another process holds the lock, so that nothing may be moved.
    descriptor = os.open(folder.parent, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    folder.rename(folder.with_name(".model.previous-0a1b2c3d"))
    with pytest.raises(
        BundleError, match=r"interrupted; the model it held before is in .*previous-0a1b"
    ):
        read_bundle(folder)
    os.close(descriptor)


def test_a_file_instead_of_a_folder(folder):
    with pytest.raises(BundleError, match="is a file: give the folder that `model.save` wrote"):
        read_bundle(folder / "config.json")


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "genes.json"])
def test_missing_file(folder, name):
    (folder / name).unlink()
    with pytest.raises(BundleError, match=f"{name} is missing from .*model"):
        read_bundle(folder)


def test_scvi_folder(tmp_path):
    (tmp_path / "model.pt").write_bytes(b"\x80\x02")
    with pytest.raises(BundleError, match=r"holds a scvi-tools model \(model.pt, a pickle\)"):
        read_bundle(tmp_path)


def test_folder_of_something_else(tmp_path):
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(BundleError, match=r"is not a scssl model folder.*holds notes.txt"):
        read_bundle(tmp_path)


def test_config_of_another_library(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(
        BundleError, match="was not saved by scssl: the format in its config.json is None"
    ):
        read_bundle(tmp_path)


@pytest.mark.parametrize("name", ["model.safetensors", "genes.json"])
def test_truncated_file(folder, name):
    file = folder / name
    file.write_bytes(file.read_bytes()[:-3])
    with pytest.raises(
        BundleError, match=rf"{name} is truncated: it has \d+ bytes, \d+ were saved"
    ):
        read_bundle(folder)


@pytest.mark.parametrize("name", ["model.safetensors", "genes.json"])
def test_tampered_file(folder, name):
    file = folder / name
    content = bytearray(file.read_bytes())
    content[-4] ^= 1
    file.write_bytes(content)
    with pytest.raises(BundleError, match=f"{name} was altered after it was saved"):
        read_bundle(folder)


def test_truncated_config(folder):
    file = folder / "config.json"
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(BundleError, match="config.json is truncated or malformed"):
        read_bundle(folder)


def test_tampered_config(folder):
    edit_config(folder, resign=False, **{"class": "Other"})
    with pytest.raises(BundleError, match="config.json was altered after it was saved"):
        read_bundle(folder)


def test_reformatted_config_is_the_same_config(folder):
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()), indent=8, sort_keys=True))
    assert read_bundle(folder).config == CONFIG


@pytest.mark.parametrize("resign", [True, False])
def test_newer_format(folder, resign):
    edit_config(folder, resign=resign, format_version=2)
    with pytest.raises(
        BundleError,
        match="format version 2; this version of scssl reads up to 1.*pip install --upgrade",
    ):
        read_bundle(folder)


@pytest.mark.parametrize("version", [0, -1, "2", None, True, 1.5])
def test_nonsense_format_version(folder, version):
    edit_config(folder, format_version=version)
    with pytest.raises(BundleError, match="is malformed: its format_version is"):
        read_bundle(folder)


@pytest.mark.parametrize(
    "files", [None, [], {}, {"../../secret": {}, "genes.json": {}}, {"model.safetensors": {}}]
)
def test_config_that_names_other_files(folder, files):
    edit_config(folder, files=files)
    with pytest.raises(BundleError, match="does not list model.safetensors and genes.json"):
        read_bundle(folder)


def test_huge_config(folder, monkeypatch):
    monkeypatch.setattr("scssl.hub._bundle.MAX_JSON_BYTES", 100)
    with pytest.raises(BundleError, match=r"config.json has \d+ bytes; more than 100 are not read"):
        read_bundle(folder)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "genes.json"])
def test_linked_files_are_refused(folder, name, tmp_path):
    target = (folder / name).rename(tmp_path / "elsewhere")
    (folder / name).symlink_to(target)
    with pytest.raises(BundleError, match=f"{name} is a symbolic link"):
        read_bundle(folder)


def test_a_pickle_called_safetensors_is_refused(folder):
    content = b"\x80\x04cos\nsystem\n(S'touch owned'\ntR."
    (folder / "model.safetensors").write_bytes(content)
    files = json.loads((folder / "config.json").read_text())["files"]
    files["model.safetensors"] = {
        "size": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    edit_config(folder, files=files)
    with pytest.raises(BundleError, match="not a readable safetensors file"):
        read_bundle(folder)
