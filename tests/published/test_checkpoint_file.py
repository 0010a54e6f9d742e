"""No file can run code, and what is refused is refused before it is loaded."""

from __future__ import annotations

import hashlib
import os
import pickle
import zipfile
from pathlib import Path

import pytest
import torch

from scssl._errors import BundleError
from scssl.published._checkpoint import ALLOWED_GLOBALS, Ledger, pickle_globals, read_checkpoint


class Evil:
    """Runs a command when it is unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


class Custom:
    pass


@pytest.fixture
def path(tmp_path):
    return tmp_path / "weights.ckpt"


@pytest.fixture
def marker(tmp_path):
    return tmp_path / "owned"


@pytest.fixture(autouse=True)
def nothing_is_unpickled(monkeypatch):
    """Whatever unpickles in Python runs this instead."""

    def fail(*_, **__):
        pytest.fail("unpickled")

    monkeypatch.setattr(pickle, "load", fail)
    monkeypatch.setattr(pickle, "loads", fail)
    monkeypatch.setattr(pickle, "Unpickler", fail)


def rewrite(source, target, *, content=None, add=(), compression=zipfile.ZIP_STORED):
    """Copy of a checkpoint with another pickle or further entries."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", compression) as new:
        for entry in old.infolist():
            data = old.read(entry)
            if entry.filename.endswith("/data.pkl") and content is not None:
                data = content
            new.writestr(entry.filename, data)
        for name, data in add:
            new.writestr(name, data)
    return target


def test_content_and_digest(path):
    saved = {
        "state_dict": {
            "a": torch.randn(3, 2),
            "b": torch.tensor(4),
            "half": torch.ones(2, dtype=torch.bfloat16),
            "parameter": torch.nn.Parameter(torch.ones(2)),
        },
        "epoch": 3,
        "list": [1.5, None, "x", (1, 2)],
    }
    torch.save(saved, path)
    file = read_checkpoint(str(path), expected_sha256=hashlib.sha256(path.read_bytes()).hexdigest())
    assert (file.name, file.size) == ("weights.ckpt", path.stat().st_size)
    assert file.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert file.content["list"] == saved["list"]
    for key, tensor in saved["state_dict"].items():
        assert torch.equal(file.content["state_dict"][key], tensor)


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("where", ["top", "state_dict", "hyper_parameters"])
def test_a_pickle_that_runs_a_command_is_refused_by_name(path, marker, where, protocol):
    evil = Evil(marker)
    content = evil if where == "top" else {"state_dict": {"a": torch.ones(2)}, where: {"x": evil}}
    torch.save(content, path, pickle_protocol=protocol)
    with pytest.raises(BundleError, match=rf"was not loaded: .*names {os.name}\.system"):
        read_checkpoint(path)
    assert not marker.exists()


def test_the_test_would_notice(path, marker):
    """The command of `Evil` is run by who loads it carelessly."""
    torch.save(Evil(marker), path)
    import _pickle

    with zipfile.ZipFile(path) as archive:
        _pickle.loads(archive.read("weights/data.pkl"))
    assert marker.exists()


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (b"\x80\x02c__builtin__\neval\nX\x01\x00\x00\x001\x85R.", "__builtin__.eval"),
        (b"\x80\x02cbuiltins\ngetattr\n.", "builtins.getattr"),
        (b"(S'echo hi'\niposix\nsystem\n.", "posix.system"),
        (b"\x80\x04\x8c\x05posix\x8c\x06system\x93.", "posix.system (from the stack)"),
        (b"\x80\x04\x93.", "?.? (from the stack)"),
        (b"\x80\x02\x82\x01.", "extension 1 of copyreg"),
        (b"\x80\x02ctorch\nload\n.", "torch.load"),
        (b"\x80\x02ctorch.hub\nload\n.", "torch.hub.load"),
        # A name that only becomes an allowed one when a dot is read as a blank.
        (b"\x80\x02ccollections.OrderedDict\nfromkeys\n.", "collections.OrderedDict.fromkeys"),
    ],
)
def test_every_way_to_name_an_object_is_seen(content, name, path):
    assert pickle_globals(content, path) == {name}
    torch.save({}, path)
    rewrite(path, evil := path.with_name("evil.ckpt"), content=content)
    with pytest.raises(BundleError, match=f"names {name.replace('?', '[?]').split(' (')[0]}"):
        read_checkpoint(evil)


def test_what_torch_allows_is_not_allowed_here(path):
    """Nor what some other code of the process has declared safe."""
    torch.save({"a": {1, 2}}, path)
    with pytest.raises(BundleError, match="names __builtin__.set"):
        read_checkpoint(path)
    torch.save({"a": Custom()}, path)
    with (
        torch.serialization.safe_globals([Custom]),
        pytest.raises(BundleError, match="names .*Custom"),
    ):
        read_checkpoint(path)


def test_the_list_is_short_and_harmless():
    assert len(ALLOWED_GLOBALS) == 13
    assert {name.rpartition(".")[0] for name in ALLOWED_GLOBALS} == {
        *("collections", "torch", "torch._utils")
    }


def test_the_second_lock_holds_without_the_first(path, marker, monkeypatch):
    torch.save({"state_dict": Evil(marker)}, path)
    monkeypatch.setattr("scssl.published._checkpoint._refuse_globals", lambda *_: None)
    with pytest.raises(BundleError, match="torch cannot load it"):
        read_checkpoint(path)
    assert not marker.exists()


# --- archives -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("add", "message"),
    [
        ([("weights/constants.pkl", b"")], "TorchScript program"),
        ([("weights/other.pkl", b"")], "pickles weights/data.pkl, weights/other.pkl"),
        ([("other/data.pkl", b"")], "has the pickles other/data.pkl, weights/data.pkl"),
        ([("other/x", b"")], "has the pickles"),
    ],
)
def test_archives_that_are_no_checkpoints(path, add, message):
    torch.save({}, path)
    rewrite(path, changed := path.with_name("changed.ckpt"), add=add)
    with pytest.raises(
        BundleError, match=f"changed.ckpt is not a checkpoint of torch: .*{message}"
    ):
        read_checkpoint(changed)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_entries_of_one_name(path):
    torch.save({"a": torch.ones(1)}, path)
    rewrite(path, changed := path.with_name("changed.ckpt"), add=[("weights/data/0", b"1234")])
    with pytest.raises(BundleError, match="two entries of one name"):
        read_checkpoint(changed)
    rewrite(path, changed, add=[("weights/data.pkl", b"\x80\x02.")])
    with pytest.raises(BundleError, match="has the pickles weights/data.pkl, weights/data.pkl"):
        read_checkpoint(changed)


def test_compressed_entries(path):
    torch.save({"a": torch.zeros(100_000)}, path)
    rewrite(path, changed := path.with_name("changed.ckpt"), compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(BundleError, match="entries are compressed"):
        read_checkpoint(changed)


def test_files_before_torch_1_6(path):
    torch.save({"a": torch.arange(3)}, path, _use_new_zipfile_serialization=False)
    with pytest.raises(BundleError, match="not a zip archive.*before torch 1.6") as refused:
        read_checkpoint(path)
    line = str(refused.value).split("`")[1]
    new = path.with_name("new.ckpt")
    exec(line, {"torch": torch, "NEW": new})
    assert read_checkpoint(new).content["a"].tolist() == [0, 1, 2]


def test_a_number_that_claims_to_be_millions(path):
    """Without strides of its own, a tensor of any size is a few bytes of file."""
    torch.save({"state_dict": {"a": torch.ones(1).expand(50_000, 20_000)}}, path)
    with pytest.raises(BundleError, match=r"claim to be tensors of 4,000,000,000"):
        Ledger.open(path, "state_dict", n_genes=3)
    shared = torch.ones(10_000)
    torch.save({"state_dict": {"a": shared, "b": shared, "c": shared}}, path)
    assert set(Ledger.open(path, "state_dict", n_genes=3).state) == {"a", "b", "c"}


def test_an_archive_that_claims_to_be_one_of_several(path):
    """zipfile raises on it where it is asked whether it is one at all."""
    torch.save({"a": torch.ones(3)}, path)
    content = path.read_bytes()
    end = content.rindex(b"PK\x05\x06")
    # The record that says of how many files an archive is.
    several = b"PK\x06\x07" + (1).to_bytes(4, "little") + bytes(8) + (2).to_bytes(4, "little")
    path.write_bytes(content[:end] + several + content[end:])
    with pytest.raises(zipfile.BadZipFile):
        zipfile.is_zipfile(path)
    with pytest.raises(BundleError, match="is damaged: .*multiple disks"):
        read_checkpoint(path)


@pytest.mark.parametrize("size", [0, 10, 2000])
def test_truncated(path, size):
    torch.save({"a": torch.ones(1000)}, path)
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(
        BundleError, match="not a checkpoint of torch: not a zip archive, or a trunc"
    ):
        read_checkpoint(path)


def test_a_pickle_that_ends_early(path):
    torch.save({}, path)
    rewrite(path, changed := path.with_name("changed.ckpt"), content=b"\x80\x02}q\x00(X\x05")
    with pytest.raises(BundleError, match="damaged: its pickle cannot be parsed"):
        read_checkpoint(changed)


def test_a_bit_that_is_another(path):
    values = torch.arange(1000, dtype=torch.float32)
    torch.save({"a": values}, path)
    content = bytearray(path.read_bytes())
    start = content.find(values.numpy().tobytes())
    assert start > 0
    content[start + 2002] ^= 1
    path.write_bytes(bytes(content))
    # torch reads it without a word.
    assert not torch.equal(torch.load(path, weights_only=True)["a"], values)
    with pytest.raises(
        BundleError, match="damaged: what it has as .*data/0 is not what was written"
    ):
        read_checkpoint(path)


def test_a_storage_that_is_missing(path):
    torch.save({"a": torch.ones(3)}, path)
    changed = path.with_name("changed.ckpt")
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(changed, "w") as new:
        for entry in old.infolist():
            if not entry.filename.endswith("/data/0"):
                new.writestr(entry.filename, old.read(entry))
    with pytest.raises(BundleError, match="damaged: torch cannot load it"):
        read_checkpoint(changed)


def test_wrong_digest_no_file_and_folder(path):
    with pytest.raises(BundleError, match="There is no file .*weights.ckpt"):
        read_checkpoint(path)
    torch.save({}, path)
    with pytest.raises(BundleError, match="is another file: its sha256 is .*, not 0a0a"):
        read_checkpoint(path, expected_sha256="0a0a")
    with pytest.raises(BundleError, match="cannot be read: Is a directory"):
        read_checkpoint(Path(path).parent)


def test_a_torch_with_the_hole_in_its_reader_is_refused(path, monkeypatch):
    torch.save({"a": torch.ones(2)}, path)
    monkeypatch.setattr(torch, "__version__", type(torch.__version__)("2.9.1"))
    with pytest.raises(ImportError, match=r'with torch 2\.9\.1 .*"torch>=2\.10"'):
        read_checkpoint(path)
    # Versions are compared as such, not as texts.
    monkeypatch.setattr(torch, "__version__", type(torch.__version__)("2.10.0+cpu"))
    assert read_checkpoint(path).content["a"].tolist() == [1, 1]
